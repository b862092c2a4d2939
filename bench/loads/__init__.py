# SPDX-License-Identifier: Apache-2.0
"""Real programs to observe, each in a cgroup of its own so that all its processes are one workload.

The v2 hierarchy alone counts (see controller/observe/cgroups.py); folders are made under its root and removed again,
and what still runs in them is killed with the folder. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from controller.observe import cgroups

PREFIX = "schedctl-bench-"


@dataclass(frozen=True)
class Program:
    """A shell command that goes on until it is killed, run in a scratch folder; `peer` runs in another cgroup."""

    name: str
    command: str
    needs: Sequence[str] = ()
    prepare: str = ""
    peer: str = ""
    settle_s: float = 1.0

    def missing(self) -> list[str]:
        """The programs that are not on this machine."""
        return [tool for tool in self.needs if shutil.which(tool) is None]


def other_load(seconds: float = 2.0) -> str:
    """What the CPUs do when no load of ours runs, in words: the condition under which a bench measures."""
    before = _cpu_times()
    time.sleep(seconds)
    spent = [now - then for now, then in zip(_cpu_times(), before, strict=True)]
    idle, stolen = spent[3] + spent[4], spent[7]
    whole = max(sum(spent), 1)
    return f"{(whole - idle - stolen) / whole:.0%} (hypervisor: {stolen / whole:.0%})"


def conditions(before: str, after: str) -> str:
    """A sentence of what `other_load` said before a bench began and after its end."""
    return f"other programs used {before} of the CPUs before it began, and {after} after its end"


def _cpu_times() -> list[int]:
    """user, nice, system, idle, iowait, irq, softirq and steal of all CPUs, in ticks."""
    return [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]


def root() -> Path:
    """Where cgroup v2 is mounted. SystemExit with the remedy where it is not."""
    mounted = cgroups.mount()
    if mounted is None:
        raise SystemExit("no cgroup v2 hierarchy is mounted here; mount -t cgroup2 none /mnt and run again")
    return mounted


@contextlib.contextmanager
def group(name: str) -> Iterator[str]:
    """A new cgroup; yields its path as a profile names it. Everything in it is killed at the end."""
    folder = root() / f"{PREFIX}{name}-{os.getpid()}"
    folder.mkdir()
    try:
        yield f"/{folder.name}"
    finally:
        (folder / "cgroup.kill").write_text("1")
        for _ in range(200):
            with contextlib.suppress(OSError):
                folder.rmdir()
                break
            time.sleep(0.02)


def start(command: str, where: str, folder: Path) -> subprocess.Popen[bytes]:
    """The command in cgroup `where`, quiet, in `folder`."""
    enter = f'echo $$ > {root()}{where}/cgroup.procs && exec sh -c "$0"'
    return subprocess.Popen(
        ["sh", "-c", enter, command], cwd=folder, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


@contextlib.contextmanager
def running(program: Program, folder: Path) -> Iterator[str]:
    """The program, settled, while this is open; yields the name of its workload."""
    if program.prepare:
        subprocess.run(["sh", "-ec", program.prepare], cwd=folder, check=True, capture_output=True, timeout=120)
    with contextlib.ExitStack() as stack:
        where = stack.enter_context(group(program.name))
        processes = [start(program.command, where, folder)]
        if program.peer:
            beside = stack.enter_context(group(f"{program.name}-peer"))
            time.sleep(0.5)
            processes.append(start(program.peer, beside, folder))
        time.sleep(program.settle_s)
        yield where
    for process in processes:
        process.wait(10)
