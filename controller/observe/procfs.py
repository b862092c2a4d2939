# SPDX-License-Identifier: Apache-2.0
"""The observer of last resort: /proc read at both ends of the window, and the look-ups the tracer needs from /proc.

CPU time comes from each thread's schedstat, switches from its status. There are no histograms, no wakeups and no
forks by workload, and a thread that began and ended inside the window, or ended in it, is not seen: the profile says
so in `degraded`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from controller.observe import cgroups
from controller.observe.sample import Observation, Sample, Who
from controller.observe.selectors import real_uid

PROC = Path("/proc")
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class _Thread:
    """One thread at one moment; `born` (clock ticks since boot) tells a reused id from the thread that had it."""

    born: int
    comm: bytes
    cpu_ns: int
    voluntary: int
    involuntary: int


def observe(seconds: float, ready: Callable[[], None] = lambda: None) -> Observation:
    """What every thread of this host did in `seconds`."""
    start, first, created = time.monotonic_ns(), _threads(), _created()
    ready()
    time.sleep(max(seconds - (time.monotonic_ns() - start) / 1e9, 0))
    # Both walks take time: the window runs from the start of one to the start of the other, so that a thread's
    # figures span about as long as the window.
    window = time.monotonic_ns() - start
    last = _threads()
    samples: dict[Who, Sample] = {}
    places: dict[int, tuple[bytes | None, int | None]] = {}
    for (pid, tid), now in last.items():
        then = first.get((pid, tid))
        if then is None or then.born != now.born:
            then = _Thread(now.born, now.comm, 0, 0, 0)
        if pid == os.getpid() or (now.cpu_ns, now.voluntary, now.involuntary) == (
            then.cpu_ns,
            then.voluntary,
            then.involuntary,
        ):
            continue
        if pid not in places:
            places[pid] = cgroups.of_process(PROC / str(pid)), real_uid(PROC / str(pid))
        samples.setdefault(Who(now.comm, *places[pid]), Sample(voluntary=0, involuntary=0)).add(
            Sample(
                tasks=1,
                cpu_ns=max(now.cpu_ns - then.cpu_ns, 0),
                voluntary=max(now.voluntary - then.voluntary, 0),
                involuntary=max(now.involuntary - then.involuntary, 0),
            )
        )
    return Observation(window, samples, created=max(_created() - created, 0))


def who(pid: int) -> Who | None:
    """Whose the thread is, None when it is gone."""
    folder = PROC / str(pid)
    try:
        comm = (folder / "comm").read_bytes().removesuffix(b"\n")
    except OSError:
        return None
    return Who(comm, cgroups.of_process(folder), real_uid(folder))


def running_on(cpu: int) -> int | None:
    """The thread in state R that was last put on `cpu`, None when there is none."""
    for _pid, tid, folder in _folders():
        fields = _stat(folder)
        if fields is not None and fields[1] == b"R" and int(fields[37]) == cpu:
            return tid
    return None


def cpu_busy_ns() -> dict[int, int]:
    """CPU → nanoseconds it has spent on tasks since boot (user, nice, system), in clock ticks."""
    busy = {}
    for line in (PROC / "stat").read_bytes().splitlines():
        fields = line.split()
        if fields and fields[0].startswith(b"cpu") and fields[0] != b"cpu":
            busy[int(fields[0][3:])] = sum(int(ticks) for ticks in fields[1:4]) * _TICK_NS
    return busy


def _created() -> int:
    for line in (PROC / "stat").read_bytes().splitlines():
        if line.startswith(b"processes "):
            return int(line.split()[1])
    return 0


def _threads() -> dict[tuple[int, int], _Thread]:
    found = {}
    for pid, tid, folder in _folders():
        thread = _thread(folder)
        if thread is not None:
            found[pid, tid] = thread
    return found


def _folders() -> Iterator[tuple[int, int, Path]]:
    for process in PROC.iterdir():
        if not process.name.isdecimal():
            continue
        try:
            threads = list((process / "task").iterdir())
        except OSError:
            continue
        for thread in threads:
            yield int(process.name), int(thread.name), thread


def _stat(folder: Path) -> list[bytes] | None:
    """The fields of `stat`: [comm, state, ppid, …], so field N of proc(5) is [N - 2]; the name may hold anything."""
    try:
        text = (folder / "stat").read_bytes()
    except OSError:
        return None
    left, right = text.find(b"("), text.rfind(b")")
    return [text[left + 1 : right], *text[right + 1 :].split()]


def _thread(folder: Path) -> _Thread | None:
    fields = _stat(folder)
    if fields is None:
        return None
    try:
        status = (folder / "status").read_bytes()
    except OSError:
        return None
    switches = {
        name: int(value)
        for name, _, value in (line.partition(b":") for line in status.splitlines())
        if name.endswith(b"_ctxt_switches")
    }
    return _Thread(
        born=int(fields[20]),
        comm=fields[0],
        cpu_ns=_cpu_ns(folder, fields),
        voluntary=switches.get(b"voluntary_ctxt_switches", 0),
        involuntary=switches.get(b"nonvoluntary_ctxt_switches", 0),
    )


def _cpu_ns(folder: Path, fields: list[bytes]) -> int:
    """From schedstat in nanoseconds; a kernel without CONFIG_SCHED_INFO has only clock ticks."""
    try:
        return int((folder / "schedstat").read_bytes().split()[0])
    except (OSError, IndexError):
        return (int(fields[12]) + int(fields[13])) * _TICK_NS
