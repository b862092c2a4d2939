# SPDX-License-Identifier: Apache-2.0
"""`schedctl verify` on a machine that lacks something, fills up, or asks it to stop: `error`, exit 2, nothing left.

The real command as a process of its own, in an environment that a test spoils in one way. It never says that a
candidate passed, it says in a sentence what to do, and neither a process nor a file of it stays.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from controller.paths import cache_dir
from tests.conftest import missing
from tests.kernel.conftest import kernel_image
from tests.verify import sources

ROOT = Path(__file__).parents[2]
STATIC = ("--stages", "lint,build,audit")
WHOLE = ("--stages", "lint,build,audit,load,liveness", "--kernel", "newest")
LOAD = ("--stages", "build,audit,load", "--kernel", "newest")
DEADLINE_S = 200


@dataclass
class Bench:
    """A folder to run the command in, with a candidate, a cache of its own and room for temporary files."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    def start(self, *argv: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        command = [*before, sys.executable, "-m", "controller.cli.main", "verify", "x.bpf.c", *argv]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *argv: str, before: tuple[str, ...] = ()) -> tuple[int, str]:
        """Exit code, and stdout and stderr in one."""
        process = self.start(*argv, before=before)
        out, err = process.communicate(timeout=DEADLINE_S)
        return process.returncode, out + err

    def processes(self) -> list[str]:
        """Command lines of what runs with this bench's mark in its environment."""
        mark = f"SCHEDCTL_TEST_MARK={self.folder}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        return found

    def take_passport(self) -> bool:
        """Remove what was asked for, the passport and its evidence; whether there was one."""
        passport = self.folder / "passport.json"
        there = passport.exists()
        passport.unlink(missing_ok=True)
        shutil.rmtree(passport.with_name("passport.json.evidence"), ignore_errors=True)
        return there

    def files(self) -> list[str]:
        """What it left: temporary files, files in the making."""
        made = [path for path in (self.folder / "cache").rglob("*") if path.name.startswith(".")]
        return sorted(map(str, [*made, *(self.folder / "tmp").iterdir(), *self.folder.glob("*.json*")]))


@pytest.fixture
def bench(tmp_path) -> Bench:
    """Everything is there."""
    (tmp_path / "x.bpf.c").write_text(sources.GOOD)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "kernels").symlink_to(cache_dir() / "kernels")
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SCHEDCTL_")},
        "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(tmp_path / "tmp"),
        "SCHEDCTL_CACHE": str(tmp_path / "cache"), "SCHEDCTL_CONFIG": str(tmp_path / "config"),
        "SCHEDCTL_TEST_MARK": str(tmp_path),
    }  # fmt: skip
    return Bench(tmp_path, env)


def assert_error(bench: Bench, code: int, said: str, *expected: str) -> None:
    assert code == 2, said
    for words in expected:
        assert words in said
    assert "passed" not in said
    assert "Traceback" not in said
    assert "bug in schedctl" not in said
    assert gone(bench), bench.processes()
    assert bench.files() == []


def gone(bench: Bench, within_s: float = 10.0) -> bool:
    end = time.monotonic() + within_s
    while bench.processes():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_no_qemu(bench):
    kernel_image("newest")
    bench.env["SCHEDCTL_QEMU"] = "/nowhere/qemu-system-x86_64"
    assert_error(bench, *bench.run(*LOAD), "no /nowhere/qemu-system-x86_64 on this machine", "make setup")


def test_a_qemu_that_does_not_start(bench):
    kernel_image("newest")
    program = bench.folder / "qemu"
    program.write_text(
        "#!/bin/sh\n[ \"$1\" = --version ] && echo 'QEMU emulator version 10.0.2' && exit\n"
        "echo 'qemu: cannot set up guest memory' >&2\nexit 1\n"
    )
    program.chmod(0o755)
    bench.env["SCHEDCTL_QEMU"] = str(program)
    assert_error(bench, *bench.run(*LOAD), "has no verdict: load: ", "qemu: cannot set up guest memory")


def test_no_kernel(bench):
    (bench.folder / "cache" / "kernels").unlink()
    assert_error(bench, *bench.run(*LOAD), "no kernel image has been pulled", "schedctl kernel pull newest")


def test_a_file_that_is_no_kernel(bench):
    code, said = bench.run("--stages", "load", "--kernel", "./x.bpf.c")
    assert_error(bench, code, said, "is not an x86 Linux boot image", "schedctl kernel list")


def test_a_kernel_without_sched_ext(bench):
    image = bytearray(0x10000)
    image[0x1FE:0x200], image[0x202:0x206] = b"\x55\xaa", b"HdrS"
    image[0x20E:0x210] = (0x400).to_bytes(2, "little")
    image[0x600:0x620] = b"6.12.0-plain (x) #1 SMP".ljust(32, b"\0")
    (bench.folder / "vmlinuz").write_bytes(image)
    (bench.folder / "config").write_text("CONFIG_SMP=y\n# CONFIG_SCHED_CLASS_EXT is not set\n")
    code, said = bench.run("--stages", "load", "--kernel", "./vmlinuz")
    assert_error(bench, code, said, "built without sched_ext (CONFIG_SCHED_CLASS_EXT)", "schedctl kernel pull newest")


def test_no_clang(bench):
    bench.env["SCHEDCTL_CLANG"] = "/nowhere/clang"
    assert_error(bench, *bench.run(*STATIC), "no /nowhere/clang on this machine", "make setup")


def test_no_bubblewrap(bench):
    programs = bench.folder / "bin"
    programs.mkdir()
    for folder in ("/usr/bin", "/bin"):
        for program in Path(folder).iterdir():
            if program.name != "bwrap" and not (programs / program.name).exists():
                (programs / program.name).symlink_to(program)
    bench.env["PATH"] = str(programs)
    assert_error(bench, *bench.run(*STATIC), "no bwrap (bubblewrap) on this machine", "make setup")


@pytest.fixture
def tiny_disk(bench) -> tuple[str, ...]:
    """What to put before a command so that its cache and temporary files are on a disk of 64 KiB."""
    if os.geteuid() != 0:
        missing("root, to mount a small file system in a namespace of its own")
    mounts = "".join(f"mount -t tmpfs -o size=64k tiny {bench.folder}/{name} && " for name in ("cache", "tmp"))
    kernels = f"ln -s {cache_dir() / 'kernels'} {bench.folder}/cache/kernels && "
    return ("unshare", "-m", "sh", "-c", f'{mounts}{kernels}exec "$@"', "sh")


def test_a_full_disk_under_the_cache(bench, tiny_disk):
    kernel_image("newest")
    code, said = bench.run(*LOAD, before=tiny_disk)
    assert_error(bench, code, said, "No space left on device", "SCHEDCTL_CACHE")


def test_a_full_disk_under_the_compiler(bench, tiny_disk):
    (bench.folder / "x.bpf.c").write_text(sources.GOOD + "// a long comment\n" * 8000)
    code, said = bench.run("--stages", "build", before=tiny_disk)
    assert_error(bench, code, said, "No space left on device", "TMPDIR")


def test_a_full_disk_under_the_passport(bench, tiny_disk):
    fill = (*tiny_disk[:-2], tiny_disk[-2].replace("exec", f"head -c 1000000 /dev/zero > {bench.folder}/cache/x; exec"))
    code, said = bench.run("--stages", "lint,build", "--passport", "cache/passport.json", before=(*fill, "sh"))
    assert code == 2
    assert 'cannot write "cache/passport.json": No space left on device' in said


def qemu_of(bench: Bench, within_s: float = 60.0) -> int:
    """The pid of the guest once it runs."""
    end = time.monotonic() + within_s
    mark = f"SCHEDCTL_TEST_MARK={bench.folder}".encode()
    while time.monotonic() < end:
        for entry in Path("/proc").iterdir():
            try:
                # A guest, and not the question which version this is; `setpriv` has become it.
                is_guest = entry.name.isdigit() and b"-kernel" in (entry / "cmdline").read_bytes().split(b"\0")
                if is_guest and mark in (entry / "environ").read_bytes().split(b"\0"):
                    return int(entry.name)
            except OSError:
                continue
        time.sleep(0.05)
    raise AssertionError("no guest was started")


@pytest.mark.kernel
@pytest.mark.parametrize("after_s", [0.5, 12.0])
def test_a_guest_that_is_killed_from_outside(bench, after_s):
    """In its first moments, and amid liveness: with baselines that are there, this is where it is by then."""
    kernel_image("newest")
    if after_s > 1:
        bench.env["SCHEDCTL_CACHE"] = str(cache_dir())
    process = bench.start(*WHOLE, "--passport", "passport.json")
    pid = qemu_of(bench)
    time.sleep(after_s)
    os.kill(pid, signal.SIGKILL)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert bench.take_passport()
    assert_error(bench, process.returncode, out + err, "has no verdict: ", "ended")


def caught_signals(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^SigCgt:\t([0-9a-f]+)$", status, re.MULTILINE)
    return int(found[1], 16) if found else 0


@pytest.mark.kernel
def test_stopped_at_any_moment(bench):
    """Twelve moments between the first step and liveness, the guest's image and snapshot being made among them."""
    kernel_image("newest")
    moments = random.Random(3)
    for number in range(12):
        which = (signal.SIGINT, signal.SIGTERM)[number % 2]
        process = bench.start(*WHOLE, "--passport", "passport.json")
        while not caught_signals(process.pid) >> (signal.SIGTERM - 1) & 1:  # until then Python itself starts
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 8) * (number + 1) / 12)
        process.send_signal(which)
        out, err = process.communicate(timeout=60)
        bench.take_passport()
        assert_error(bench, process.returncode, out + err, f"stopped by {which.name}", "run it again")
