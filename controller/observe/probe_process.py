# SPDX-License-Identifier: Apache-2.0
"""The process that holds bcc: reads requests on stdin, traces a window for each, prints what it counted as JSON.

A process of its own, run by path with the standard library and bcc alone, for three reasons: LLVM's 130 MB go back to
the machine with it, the noise bcc makes on stderr is caught, and the probes die with it. It watches stdin for its end,
so that a parent that was killed leaves no probe. The probes are compiled once and attached only while a window is open.

First line: {"text": the C, "defines": {"PID_OFFSET": int, …}, "sizes": {"tasks": int, …}, "places": [[last-level cache,
node], …] by CPU number}. A line {"seconds": float} is answered by the lines `ready` when the window opens, `closed`
when it is over, and one line of JSON: see `Maps.answer`; names travel as Latin-1.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import select
import sys
import time
from pathlib import Path
from typing import Any

_MADV_DONTNEED = 4
_INIT_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO
_FIRST_GROUP = 2
_MAPPED = ("window", "tasks", "names", "counters", "cells", "stays", "places", "queues")
_CLEARED = ("tasks", "names", "counters", "cells", "stays", "queues")
_TASK = ("self", "pid", "group", "seen", "ready", "waker", "woke", "waited", "rested", "slept", "moved")
_SWITCH = ("cpu_ns", "latency_ns", "sleep_ns", "voluntary", "wakeups", "first_ns", "preempted_ns", "involuntary")
_GROUP = (*_SWITCH, "tasks", "migrations", "llc_migrations", "numa_migrations", "forks", "execs", "exits")
_CHUNK = 4096


def main() -> None:
    """Trace windows until stdin ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever bcc prints joins stderr: stdout carries the answers alone
    setup = json.loads(sys.stdin.readline())
    from bcc import BPF

    sizes = [f"-DMAX_{name.upper()}={value}" for name, value in setup["sizes"].items()]
    sizes += [f"-D{name}={value}" for name, value in setup["defines"].items()]
    bpf = BPF(text=setup["text"].encode(), cflags=["-w", *sizes])
    give_back()
    points = sorted(bpf.raw_tracepoint_fds)  # the loader has attached them all
    maps = Maps(bpf, setup["sizes"], setup["places"])
    attached = True
    while line := sys.stdin.readline():
        if not attached:
            for point in points:
                bpf.attach_raw_tracepoint(tp=point, fn_name=b"raw_tracepoint__" + point)
        length = round(json.loads(line)["seconds"] * 1e9)
        start = maps.open(length)
        print("ready", file=out, flush=True)
        while (left := start + length - time.clock_gettime_ns(time.CLOCK_MONOTONIC)) > 0:
            if select.select([sys.stdin], [], [], left / 1e9)[0]:
                return
        print("closed", file=out, flush=True)
        for point in points:
            bpf.detach_raw_tracepoint(tp=point)
        attached = False
        print(json.dumps(maps.answer(start, start + length)), file=out, flush=True)


def give_back() -> None:
    """Return what compiling took, some 100 MB. LLVM's own pages come back from its file if need be."""
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    with contextlib.suppress(AttributeError):  # a C library that is not glibc
        libc.malloc_trim(0)
    mapping: list[str] = []
    for line in Path("/proc/self/smaps").read_text(errors="replace").splitlines():
        fields = line.split()
        if not fields[0].endswith(":"):
            mapping = fields
        # A private mapping of a file without a page of its own is the file's bytes, and nothing else.
        elif line.startswith("Anonymous:") and int(fields[1]) == 0 and len(mapping) > 5 and mapping[5].startswith("/"):
            start, end = (int(address, 16) for address in mapping[0].split("-"))
            if mapping[1].endswith("p"):
                libc.madvise(start, end - start, _MADV_DONTNEED)


class Maps:
    """The probes' maps, the arrays among them mapped into this process."""

    def __init__(self, bpf: Any, sizes: dict[str, int], places: list[list[int]]) -> None:
        self._bpf = bpf
        self._sizes = sizes
        self._memory = {name: _mapped(bpf[name]) for name in _MAPPED}
        self._leaves = {
            name: (bpf[name].Leaf * len(bpf[name])).from_buffer(self._memory[name])
            for name in _MAPPED
            if name != "cells"
        }
        self._missed = 0
        for cpu, (llc, node) in enumerate(places):
            self._leaves["places"][cpu].llc, self._leaves["places"][cpu].node = llc, node

    def open(self, length: int) -> int:
        """Forget the last window and open one of `length` nanoseconds; the clock when it opened."""
        for name in _CLEARED:
            memory = self._memory[name]
            memory[:] = bytes(len(memory))
        for name in ("ids", "spilled"):
            self._bpf[name].clear()
        self._missed = self._misses()
        window = self._leaves["window"][0]
        window.own, window.groups = own_process(), _FIRST_GROUP
        window.start = time.clock_gettime_ns(time.CLOCK_MONOTONIC)  # the clock of bpf_ktime_get_ns()
        window.length = length  # the last: it opens the window
        return int(window.start)

    def answer(self, start: int, stop: int) -> dict[str, Any]:
        """What the maps hold once the window is closed: the probes change nothing any more.

        Groups go by number; a cell is [key, count], a task has the fields `_TASK`, of those that ran or waited.
        """
        window, stays = self._leaves["window"][0], self._leaves["stays"]
        window.length = 0
        on_cpu = {stay.task for stay in stays if stay.task}
        tasks = [task for task in self._leaves["tasks"] if task.ready or task.self in on_cpu]
        tasks += [task for task in self._bpf["spilled"].values() if task.ready or task.self in on_cpu]
        return {
            "start": start,
            "stop": stop,
            "own": window.own,
            "groups": [
                self._group(number) for number in range(_FIRST_GROUP, min(window.groups, self._sizes["groups"]))
            ],
            "cells": self._cells(),
            "tasks": [[getattr(task, name) for name in _TASK] for task in tasks],
            "stays": [[stay.since, stay.task] for stay in stays],
            "queues": [
                [queue.state >> 8, queue.state & 0xFF, list(map(sum, zip(queue.ns, queue.own_ns, strict=True)))]
                for queue in self._leaves["queues"]
            ],
            "dropped": sum(stay.dropped for stay in stays) + self._misses() - self._missed,
        }

    def _group(self, number: int) -> list[Any]:
        who, counters = self._leaves["names"][number], self._leaves["counters"]
        cpus = [counters[cpu * self._sizes["groups"] + number] for cpu in range(self._sizes["cpus"])]
        counts = {name: sum(getattr(each, name) for each in cpus) for name in _GROUP}
        counts["burst_ns"] = counts["cpu_ns"] - counts.pop("first_ns")
        counts["wait_ns"] = counts["latency_ns"] + counts.pop("preempted_ns")
        return [number, who.comm.decode("latin-1"), who.cgroup, who.uid, counts]

    def _cells(self) -> list[list[int]]:
        """Key and count of each cell in use, added up over the CPUs; most of the memory is empty and skipped."""
        memory, counts = self._memory["cells"], dict[int, int]()
        empty = bytes(_CHUNK)
        for at in range(0, len(memory), _CHUNK):
            chunk = memory[at : at + _CHUNK]
            if chunk != empty:
                for cell in memoryview(chunk).cast("Q"):
                    if cell:
                        key = cell & 0xFFFFFFFF
                        counts[key] = counts.get(key, 0) + (cell >> 32)
        return [[key, count] for key, count in counts.items()]

    def _misses(self) -> int:
        """Events the kernel skipped because another probe was running on that CPU (told since 5.12)."""
        missed = 0
        for function in self._bpf.funcs.values():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/self/fdinfo/{function.fd}").read_text().splitlines():
                    if line.startswith("recursion_misses:"):
                        missed += int(line.split()[1])
        return missed


def own_process() -> int:
    """This process's id as the kernel knows it; 0 inside a pid namespace, where only another number is seen."""
    return os.getpid() if Path("/proc/self/ns/pid").stat().st_ino == _INIT_PID_NAMESPACE else 0


def _mapped(table: Any) -> mmap.mmap:
    size = ctypes.sizeof(table.Leaf) * len(table)
    return mmap.mmap(table.map_fd, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE, mmap.MAP_SHARED)


if __name__ == "__main__":
    main()
