# SPDX-License-Identifier: Apache-2.0
"""The micro-VM as a caller meets it: it answers, or it fails in time, and it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from controller.errors import CouldNotTell, GuestError, InputError, Interrupted, KernelError, ToolMissing
from controller.kernel import initramfs, microvm, qemu
from controller.kernel.console import Console
from controller.kernel.guest_protocol import MAX_LINE
from controller.kernel.microvm import EmulatorFault, Guest, GuestHung, VmShape, boot
from controller.paths import cache_dir

HELLO = {
    "release": "6.18.0", "btf_digest": "00", "topology_class": "cpus2.pkg1.smt1.llc1.numa1", "cpus": 2,
    "memory_mib": 460, "sched_ext": True, "libbpf": "1.4",
}  # fmt: skip


def gone(pid: int, within_s: float = 10.0) -> bool:
    """Whether process `pid` ends within the time allowed (a zombie has ended)."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


# ---- a real guest -------------------------------------------------------------------------------------------------


@pytest.mark.kernel
class TestGuest:
    def test_it_says_what_it_is(self, guest: Guest):
        assert guest.facts.sched_ext
        assert guest.facts.cpus == 2
        assert guest.facts.topology_class == "cpus2.pkg1.smt1.llc1.numa1"
        assert len(guest.facts.btf_digest) == 64
        assert guest.run(["nproc"], timeout_s=20).stdout == "2\n"

    def test_it_is_sealed(self, guest: Guest):
        assert (
            guest.run(["sh", "-c", "cd /sys/class/net; echo *; cd /sys/block; echo *"], timeout_s=20).stdout
            == "lo\n*\n"
        )

    def test_commands_end_with_code_and_output(self, guest: Guest):
        done = guest.run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout_s=20)
        assert (done.rc, done.stdout, done.stderr, done.timed_out) == (3, "out\n", "err\n", False)
        assert guest.run(["no-such-program"], timeout_s=20).rc == 127

    def test_a_command_that_does_not_end_is_killed(self, guest: Guest):
        assert guest.run(["sleep", "1000"], timeout_s=0.3).timed_out
        number = guest.spawn(["sh", "-c", "sleep 1000 & wait"])
        assert guest.wait(number, timeout_s=0.1).timed_out
        guest.kill(number)
        assert guest.wait(number, timeout_s=20).rc == -signal.SIGKILL
        with pytest.raises(InputError, match=f"no command {number}"):
            guest.kill(number)
        assert "sleep" not in guest.run(["ps"], timeout_s=20).stdout

    def test_commands_are_not_under_the_agents_real_time_class(self, guest: Guest):
        stat = guest.run(["cat", "/proc/self/stat"], timeout_s=20).stdout.rpartition(")")[2].split()
        assert stat[38] == "0"  # policy: SCHED_OTHER

    def test_cgroups_and_their_weights(self, guest: Guest):
        guest.run(["schedload", "--cgroup", "/sys/fs/cgroup/heavy", "spin", "1", "0.05"], timeout_s=20)
        guest.write_file("/sys/fs/cgroup/heavy/cpu.weight", "300")
        assert guest.read_file("/sys/fs/cgroup/heavy/cpu.weight") == "300\n"
        with pytest.raises(KernelError, match=r"cannot write .*cpu\.weight"):
            guest.write_file("/sys/fs/cgroup/heavy/cpu.weight", "lots")

    @pytest.mark.parametrize(
        ("argv", "expected"),
        [
            (["wakers", "2", "2000", "0.3"], {"load", "threads", "count", "expected", "p50_us", "p99_us", "max_us"}),
            (["spin", "2", "0.2"], {"load", "cpu_ns", "units", "gap_us", "total_units"}),
            (["--policy", "batch", "spin", "1", "0.1"], {"load", "cpu_ns", "units", "gap_us", "total_units"}),
            (["execstorm", "2", "0.2"], {"load", "execs", "max_us"}),
            (["yieldstorm", "2", "0.2"], {"load", "yields", "cpu_ns"}),
            (["pingpong", "2", "0.2"], {"load", "rounds", "cpu_ns"}),
            (["crowd", "100", "2"], {"load", "tasks", "made_ms", "first_ms", "last_ms"}),
            (["rthog", "1", "0.1"], {"load", "cpu_ns"}),
            (["kworker", "0.2"], {"load", "count", "p50_us", "max_us"}),
            (["batch", "3", "2", "2000"], {"load", "long_ms", "short_ms", "makespan_ms"}),
            (["calibrate"], {"load", "units_per_ms"}),
            (["forkstorm", "0.2"], {"load", "forks", "mean_us", "max_us"}),
            (["affinity", "3", "0.2"], {"load", "threads", "moves", "least_moves", "refused", "units"}),
        ],
        ids=lambda value: value[0] if isinstance(value, list) else "",
    )
    def test_each_load_prints_its_figures(self, guest: Guest, argv, expected):
        done = guest.run(["schedload", "--comm", "probe", "--nice", "1", *argv], timeout_s=60)
        assert (done.rc, done.stderr) == (0, "")
        figures = json.loads(done.stdout)
        assert set(figures) == expected
        assert all(value > 0 for key, value in figures.items() if key in ("count", "total_units", "forks", "moves"))

    def test_a_load_with_bad_arguments_says_so(self, guest: Guest):
        assert guest.run(["schedload", "spin", "0", "1"], timeout_s=20).rc == 2
        assert "usage:" in guest.run(["schedload", "dance", "1"], timeout_s=20).stderr


@pytest.mark.kernel
class TestEnds:
    def test_killed_from_outside(self, newest_kernel: Path):
        with boot(newest_kernel) as guest:
            os.kill(guest.pid, signal.SIGKILL)
            with pytest.raises(GuestError, match="ended"):
                guest.run(["sleep", "100"], timeout_s=200)
            with pytest.raises(GuestError, match="ended"):
                guest.status()
        assert gone(guest.pid)

    def test_a_panic_is_named_with_the_console(self, newest_kernel: Path):
        klass = "cpus4.pkg2.smt2.llc2.numa2"
        with boot(newest_kernel, VmShape.of_class(klass, memory_mib=400)) as guest:
            assert guest.facts.topology_class == klass
            with pytest.raises(GuestError, match="Kernel panic") as raised:
                guest.write_file("/proc/sysrq-trigger", "c")
        assert "sysrq" in raised.value.console
        assert not isinstance(raised.value, EmulatorFault)

    def test_the_second_start_resumes_the_first_and_a_bad_snapshot_costs_a_boot(self, newest_kernel: Path):
        told: list[str] = []
        shape = VmShape(cores=2, memory_mib=384)
        with boot(newest_kernel, shape, reporter=told.append) as first:
            facts = first.facts
            first.write_file("/tmp/mark", "of the first")
        if qemu.is_kvm(qemu.accelerator(qemu.find(), newest_kernel)):
            pytest.skip("with KVM every start is a boot")
        told.clear()
        with boot(newest_kernel, shape, reporter=told.append) as second:
            assert second.facts == facts
            assert second.run(["nproc"], timeout_s=20).stdout == "2\n"
            with pytest.raises(KernelError, match="No such file"):
                second.read_file("/tmp/mark")  # the snapshot is from before anyone used it
        assert told[0].startswith("resuming ")
        (newest,) = sorted((cache_dir() / "guest" / "snapshots").glob("*.vm"), key=lambda file: file.stat().st_mtime)[
            -1:
        ]
        newest.write_bytes(b"not a snapshot")
        told.clear()
        with boot(newest_kernel, shape, reporter=told.append) as third:
            assert third.facts == facts
        assert "the snapshot did not come up" in told

    def test_it_dies_with_a_killed_parent(self, newest_kernel: Path):
        program = (
            "import sys, time; from pathlib import Path; from controller.kernel.microvm import boot\n"
            "guest = boot(Path(sys.argv[1])); print(guest.pid, flush=True); time.sleep(100)"
        )
        command = [sys.executable, "-c", program, str(newest_kernel)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as parent:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            assert not gone(pid, within_s=0.1)
            parent.kill()
        assert gone(pid)

    def test_too_late_is_an_error_and_leaves_nothing(self, newest_kernel: Path, monkeypatch, tmp_path):
        monkeypatch.setenv("SCHEDCTL_CACHE", str(tmp_path))  # no snapshot there: a real boot
        before = _children()
        with pytest.raises(GuestError, match=r"did not come up within 0 s"):
            boot(newest_kernel, deadline_s=0.2)
        assert _children() == before


def _children() -> list[str]:
    pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [Path(f"/proc/{pid}/cmdline").read_text() for pid in pids]


@pytest.mark.parametrize(
    ("klass", "shape"),
    [
        ("cpus2.pkg1.smt1.llc1.numa1", VmShape()),
        ("cpus16+.pkg2.smt2.llc2.numa2", VmShape(2, 4, 2, 1024, numa_nodes=2)),
        ("cpus1.pkg1.smt1.llc1.numa1", VmShape(1, 1, 1)),
    ],
)
def test_shapes_for_topology_classes(klass, shape):
    assert VmShape.of_class(klass) == shape


@pytest.mark.parametrize("klass", ["", "cpus2", "cpus2.pkg0.smt1.llc1.numa1"])
def test_what_is_no_topology_class(klass):
    with pytest.raises(InputError, match="not a topology class"):
        VmShape.of_class(klass)


@pytest.mark.parametrize("klass", ["cpus4.pkg3.smt1.llc3.numa1", "cpus8.pkg1.smt2.llc2.numa1"])
def test_classes_no_guest_can_present(klass):
    with pytest.raises(CouldNotTell, match="cannot present"):
        VmShape.of_class(klass)


# ---- what is no kernel, no QEMU -----------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"not a kernel", b"\x7fELF" + bytes(4096)], ids=["empty", "text", "elf"])
def test_a_file_that_is_no_kernel(tmp_path, content):
    (tmp_path / "vmlinuz").write_bytes(content)
    with pytest.raises(InputError, match="not a bootable Linux kernel image"):
        boot(tmp_path / "vmlinuz")


def test_a_kernel_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        boot(tmp_path / "none")


@pytest.mark.kernel
def test_a_broken_kernel_image_ends_in_time(tmp_path, newest_kernel):
    whole = newest_kernel.read_bytes()
    (tmp_path / "vmlinuz").write_bytes(whole[: len(whole) // 2] + bytes(len(whole) // 2))
    with pytest.raises(GuestError):
        boot(tmp_path / "vmlinuz", deadline_s=15)


def test_no_qemu_names_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("SCHEDCTL_QEMU", str(tmp_path / "qemu-system-x86_64"))
    with pytest.raises(ToolMissing, match=r"SCHEDCTL_QEMU.*make setup"):
        boot(tmp_path / "vmlinuz")
    monkeypatch.delenv("SCHEDCTL_QEMU")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match=r"no qemu-system-x86_64 on this machine \(make setup\)"):
        boot(tmp_path / "vmlinuz")


@pytest.mark.parametrize(
    ("prints", "says"),
    [
        ("QEMU emulator version 7.2.18 (Debian)", "QEMU 7.2, and older than 10.0"),
        ("hello", "does not call itself QEMU"),
    ],
)
def test_an_unfit_qemu_is_refused(monkeypatch, tmp_path, prints, says):
    program = tmp_path / "qemu"
    program.write_text(f"#!/bin/sh\necho '{prints}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("SCHEDCTL_QEMU", str(program))
    with pytest.raises(ToolMissing, match=says):
        qemu.find()


# ---- a guest that misbehaves --------------------------------------------------------------------------------------


class Impostor:
    """The host's end of a guest whose answers a test writes itself."""

    pid = 0

    def __init__(self) -> None:
        self.port, self.far = socket.socketpair()
        console, self.far_console = socket.socketpair()
        self.console = Console(console)
        self.killed = False

    def kill(self) -> None:
        self.killed = True
        self.port.close()
        self.console.close()

    def says(self, *documents: object) -> Guest:
        guest = Guest(self, Path("vmlinuz"))
        self.far.sendall(b"".join(json.dumps(each).encode() + b"\n" for each in documents))
        guest._await_hello(time.monotonic() + 5, 5)
        return guest


@pytest.fixture
def impostor():
    made = Impostor()
    yield made
    made.kill()
    made.far.close()
    made.far_console.close()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"garbage\n", "not JSON"),
        (b"\xff\xfe\n", "not JSON"),
        (b"[" * 100_000 + b"\n", "not JSON"),
        (b"[]\n", "not an answer"),
        (b'{"id": 7, "result": 1}\n', "something else"),
        (b'{"id": 1}\n', "something else"),
        (b'{"id": 1, "result": {"state": 5, "ops": "", "exit": null}}\n', "makes no sense"),
        (b'{"id": 1, "result": {"state": "disabled"}}\n', "makes no sense"),
        (b'{"id": 1, "error": {"kind": "SystemExit", "message": "x"}}\n', "makes no sense"),
        (b'{"id": 1, "error": []}\n', "makes no sense"),
    ],
)
def test_nonsense_is_a_guest_error_and_the_end_of_the_guest(impostor, answer, says):
    guest = impostor.says({"hello": HELLO})
    impostor.far.sendall(answer)
    with pytest.raises(GuestError, match=says):
        guest.status()
    assert impostor.killed


def test_silence_ends_in_time_and_tells_whether_a_candidate_was_in_charge(impostor, monkeypatch):
    monkeypatch.setattr(microvm, "_ANSWER_S", 0.2)
    guest = impostor.says({"hello": HELLO})
    answers = b"".join(json.dumps({"id": number, "result": None}).encode() + b"\n" for number in (1, 2, 3))
    impostor.far.sendall(answers)
    guest.attach(settle_s=0.1)
    guest.detach()
    guest.attach(settle_s=0.1)
    with pytest.raises(GuestHung, match="did not answer `status` within 0 s") as raised:
        guest.status()
    assert raised.value.in_charge
    assert impostor.killed


def test_a_guest_that_was_left_in_the_middle_of_a_request_is_not_asked_again(impostor, monkeypatch):
    guest = impostor.says({"hello": HELLO})

    def interrupted(*_arguments):
        raise Interrupted("SIGINT")

    monkeypatch.setattr(guest, "_receive", interrupted)
    with pytest.raises(Interrupted):
        guest.status()
    with pytest.raises(GuestError, match="was left while it did `status`"):
        guest.kmsg()


def test_an_endless_line_is_cut_off(impostor):
    guest = impostor.says({"hello": HELLO})
    writer = subprocess.Popen(
        ["sh", "-c", "exec head -c 100000000 /dev/zero"], stdout=impostor.far.fileno(), stderr=subprocess.DEVNULL
    )
    with pytest.raises(GuestError, match=f"line of more than {MAX_LINE} bytes"):
        guest.status()
    writer.kill()
    writer.wait()


@pytest.mark.parametrize("hello", [{"hello": {}}, {"hello": {**HELLO, "cpus": "two"}}, {"good": "day"}])
def test_a_wrong_greeting(impostor, hello):
    with pytest.raises(GuestError, match="makes no sense"):
        impostor.says(hello)


def test_the_emulators_own_fault_is_told_apart(impostor):
    guest = impostor.says({"hello": HELLO})
    impostor.far_console.sendall(
        b"[    4.2] Oops: int3: 0000 [#1] SMP\n[    4.2] Kernel panic - not syncing: Fatal exception\n"
    )
    impostor.far.close()
    impostor.far_console.close()
    with pytest.raises(EmulatorFault, match="run it again") as raised:
        guest.status()
    assert "Oops: int3" in raised.value.console


def test_a_guest_that_floods_its_console_is_ended(impostor):
    guest = impostor.says({"hello": HELLO})
    for _ in range(65):
        impostor.far_console.sendall(b"x" * (1 << 20))
    with pytest.raises(GuestError, match="flooded its console"):
        guest.status()
    assert impostor.killed


def test_a_flooded_console_keeps_its_ends_and_costs_no_memory():
    stream, far = socket.socketpair()
    console = Console(stream)
    far.sendall(b"first words\n")
    for _ in range(80):
        far.sendall(b"x" * (1 << 20))
    far.sendall(b"\nlast words\n")
    far.close()
    console.finish(30)
    text = console.text()
    assert text.startswith("first words\n")
    assert text.endswith("last words\n")
    assert "bytes left out" in text
    assert len(text) < 2_000_000
    assert console.flooded
    console.close()


# ---- the image ----------------------------------------------------------------------------------------------------


def test_the_image_is_the_same_for_the_same_inputs(monkeypatch, tmp_path):
    digests = []
    for name in ("one", "two"):
        monkeypatch.setenv("SCHEDCTL_CACHE", str(tmp_path / name))
        image = initramfs.build()
        digests.append((image.name, image.read_bytes()))
        assert initramfs.build() == image
    assert digests[0][1] == digests[1][1]
    assert [path.suffix for path in (tmp_path / "one" / "guest").iterdir() if path.name[0] == "."] == []
