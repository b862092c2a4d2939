# SPDX-License-Identifier: Apache-2.0
"""The process that holds bcc: reads requests on stdin, traces a window for each, prints what it counted as JSON.

A process of its own, run by path with the standard library and bcc alone, for three reasons: LLVM's 130 MB go back to
the machine with it, the noise bcc makes on stderr is caught, and the probes die with it. It watches stdin for its end,
so that a parent that was killed leaves no probe. The probes are compiled once and attached only while a window is open.

First line: {"text": path of the C, "tasks": int, "groups": int, "buckets": int}. A line {"seconds": float} is answered
by `ready` when the window opens and by one line of JSON when it is over: see `answer`; names travel as Latin-1.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from pathlib import Path
from typing import Any

_GROUP = ("tasks", "cpu_ns", "wakeups", "voluntary", "involuntary", "migrations", "forks", "latency_ns", "burst_ns")
_INIT_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO
_STAY = ("since", "latency", "pid", "wakeups", "migrations", "forks")


def main() -> None:
    """Trace windows until stdin ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever bcc prints joins stderr: stdout carries the answers alone
    setup = json.loads(sys.stdin.readline())
    from bcc import BPF

    bpf = BPF(
        text=Path(setup["text"]).read_bytes(),
        cflags=["-w"] + [f"-DMAX_{name.upper()}={setup[name]}" for name in ("tasks", "groups", "buckets")],
    )
    points = sorted(bpf.tracepoint_fds)  # the loader has attached them all
    attached = True
    while line := sys.stdin.readline():
        if not attached:
            for point in points:
                bpf.attach_tracepoint(tp=point, fn_name=b"tracepoint__" + point.replace(b":", b"__"))
        length = round(json.loads(line)["seconds"] * 1e9)
        for name in ("tasks", "groups", "buckets", "cpus", "dropped"):
            bpf[name].clear()
        window = bpf["window"]
        start = time.clock_gettime_ns(time.CLOCK_MONOTONIC)  # the clock of bpf_ktime_get_ns()
        window[window.Key(0)] = window.Leaf(start, length, own_process(), 0)
        print("ready", file=out, flush=True)
        while (left := start + length - time.clock_gettime_ns(time.CLOCK_MONOTONIC)) > 0:
            if select.select([sys.stdin], [], [], left / 1e9)[0]:
                return
        for point in points:
            bpf.detach_tracepoint(tp=point)
        attached = False
        print(json.dumps(answer(bpf, start, start + length)), file=out, flush=True)


def answer(bpf: Any, start: int, stop: int) -> dict[str, Any]:
    """What the maps hold once the window is closed: the probes change nothing any more."""
    return {
        "start": start,
        "stop": stop,
        "own": own_process(),
        "groups": [
            [*_who(key), {name: sum(getattr(cpu, name) for cpu in values) for name in _GROUP}]
            for key, values in bpf["groups"].items()
        ],
        "buckets": [[*_who(key), key.slot, count.value] for key, count in bpf["buckets"].items()],
        "tasks": [
            [pid.value, *_who(task.who), bool(task.known), task.woken, task.wakeups]
            for pid, task in bpf["tasks"].items()
        ],
        "stays": [{name: getattr(stay, name) for name in _STAY} for stay in bpf["cpus"].values()[0]],
        "dropped": sum(bpf["dropped"].values()[0]),
    }


def own_process() -> int:
    """This process's id as the kernel knows it; 0 inside a pid namespace, where only another number is seen."""
    return os.getpid() if Path("/proc/self/ns/pid").stat().st_ino == _INIT_PID_NAMESPACE else 0


def _who(key: Any) -> tuple[str, int, int]:
    return key.comm.decode("latin-1"), key.cgroup, key.uid


if __name__ == "__main__":
    main()
