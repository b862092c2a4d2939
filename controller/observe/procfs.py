# SPDX-License-Identifier: Apache-2.0
"""The observer of last resort: /proc read at both ends of the window, and the look-ups the tracer needs from /proc.

CPU time and waits in a run queue come from each thread's schedstat, switches from its status, migrations from its
`sched` (kernels with CONFIG_SCHED_DEBUG). There are no histograms, no wakeups and nothing about forks by workload, and
a thread that began and ended inside the window, or ended in it, is not seen: the profile says so in `degraded`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from controller.observe import cgroups, meters
from controller.observe.sample import Observation, Sample, Who
from controller.observe.selectors import real_uid

PROC = Path("/proc")
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_MIGRATIONS = b"nr_migrations"  # "se.nr_migrations" to 6.x


@dataclass(frozen=True)
class _Counts:
    """What one thread did since it began; None is not told here."""

    cpu_ns: int = 0
    voluntary: int = 0
    involuntary: int = 0
    wait_ns: int | None = 0
    migrations: int | None = 0


@dataclass(frozen=True)
class _Thread:
    """One thread at one moment; `born` (clock ticks since boot) tells a reused id from the thread that had it."""

    born: int
    comm: bytes
    counts: _Counts


def observe(seconds: float, ready: Callable[[], None] = lambda: None) -> Observation:
    """What every thread of this host did in `seconds`."""
    start, first, created = time.monotonic_ns(), _threads(), _created()
    opened = meters.read()
    ready()
    time.sleep(max(seconds - (time.monotonic_ns() - start) / 1e9, 0))
    # Both walks take time: the window runs from the start of one to the start of the other, so that a thread's
    # figures span about as long as the window.
    window = time.monotonic_ns() - start
    last, closed = _threads(), meters.read()
    samples: dict[Who, Sample] = {}
    places: dict[int, tuple[bytes | None, int | None]] = {}
    for (pid, tid), now in last.items():
        then = first.get((pid, tid))
        before = then.counts if then is not None and then.born == now.born else _Counts()
        if pid == os.getpid() or now.counts == before:
            continue
        if pid not in places:
            places[pid] = cgroups.of_process(PROC / str(pid)), real_uid(PROC / str(pid))
        sample = _grown(before, now.counts)
        who = Who(now.comm, *places[pid])
        if who in samples:
            samples[who].add(sample)
        else:
            samples[who] = sample
    return Observation(window, samples, opened, closed, start_ns=start, created=max(_created() - created, 0))


def _grown(before: _Counts, now: _Counts) -> Sample:
    sample = Sample(tasks=1)
    for name in _Counts.__dataclass_fields__:
        then, value = getattr(before, name), getattr(now, name)
        setattr(sample, name, None if then is None or value is None else max(value - then, 0))
    return sample


def who(pid: int) -> Who | None:
    """Whose the thread is, None when it is gone."""
    folder = PROC / str(pid)
    name = comm(folder)
    return None if name is None else Who(name, cgroups.of_process(folder), real_uid(folder))


def comm(folder: Path) -> bytes | None:
    """The name of the thread whose /proc folder is given, None when it is gone."""
    try:
        return (folder / "comm").read_bytes().removesuffix(b"\n")
    except OSError:
        return None


def running_on(cpu: int) -> int | None:
    """The thread in state R that was last put on `cpu`, None when there is none."""
    for _pid, tid, folder in folders():
        fields = _stat(folder)
        if fields is not None and fields[1] == b"R" and int(fields[37]) == cpu:
            return tid
    return None


def _created() -> int:
    for line in (PROC / "stat").read_bytes().splitlines():
        if line.startswith(b"processes "):
            return int(line.split()[1])
    return 0


def _threads() -> dict[tuple[int, int], _Thread]:
    found = {}
    for pid, tid, folder in folders():
        thread = _thread(folder)
        if thread is not None:
            found[pid, tid] = thread
    return found


def folders() -> Iterator[tuple[int, int, Path]]:
    """Process id, thread id and /proc folder of every thread of this host."""
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
    cpu_ns, wait_ns = _clocks(folder, fields)
    return _Thread(
        born=int(fields[20]),
        comm=fields[0],
        counts=_Counts(
            cpu_ns=cpu_ns,
            voluntary=switches.get(b"voluntary_ctxt_switches", 0),
            involuntary=switches.get(b"nonvoluntary_ctxt_switches", 0),
            wait_ns=wait_ns,
            migrations=_migrations(folder),
        ),
    )


def _clocks(folder: Path, fields: list[bytes]) -> tuple[int, int | None]:
    """CPU time and waits, nanoseconds, from schedstat; a kernel without CONFIG_SCHED_INFO has clock ticks and None."""
    try:
        cpu_ns, wait_ns, *_ = (folder / "schedstat").read_bytes().split()
        return int(cpu_ns), int(wait_ns)
    except (OSError, ValueError):
        return (int(fields[12]) + int(fields[13])) * _TICK_NS, None


def _migrations(folder: Path) -> int | None:
    try:
        text = (folder / "sched").read_bytes()
    except OSError:
        return None
    line = text[text.find(_MIGRATIONS) :].split(b"\n", 1)[0] if _MIGRATIONS in text else b""
    value = line.rpartition(b":")[2].strip()
    return int(value) if value.isdigit() else None
