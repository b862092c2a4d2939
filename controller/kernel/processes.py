# SPDX-License-Identifier: Apache-2.0
"""Processes that outlive the command that started them, and are ended by a later one.

A pid alone is no identity: once its process has ended the kernel gives it to another. With its start time it is, so
that is what gets written down, and nothing is signalled whose start time is another.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_PATIENCE_S = 3.0


@dataclass(frozen=True, slots=True)
class Process:
    """`started` is the process's start time in clock ticks since boot."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has this pid now, or None."""
        started = _start_time(pid)
        return None if started is None else cls(pid, started)

    def alive(self) -> bool:
        """Whether it still runs."""
        return _start_time(self.pid) == self.started

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def end(processes: Sequence[Process]) -> None:
    """End them all: SIGTERM, and SIGKILL for what still runs after 3 s."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            process.signal(number)
        if _gone(processes):
            return


def _gone(processes: Sequence[Process]) -> bool:
    """Wait until none runs; False when one still does after a while."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        for process in processes:
            if process.alive():
                continue
            with contextlib.suppress(ChildProcessError):  # collects it if it was a child of ours
                os.waitpid(process.pid, os.WNOHANG)
        if not any(process.alive() for process in processes):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)


def _start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat, or None when there is no such process or only its zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
