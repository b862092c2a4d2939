# SPDX-License-Identifier: Apache-2.0
"""Many tasks, and many kinds of tasks: two thousand at once, and a mixed load for longer than the watchdog sleeps."""

from __future__ import annotations

import re

from controller.verify.scenarios.arena import Arena, Numbers, number, numbers
from controller.verify.scenarios.registry import STARVED, Limit, scenario
from controller.verify.scenarios.shares import TOGETHER

CROWD = 2000
_UNITS = "8"  # a tenth of a second in all: on a busy machine too, nobody may wait as long as the watchdog allows
_CYCLIC_MAX = re.compile(r"Max:\s*(\d+)")


@scenario(
    "many-tasks",
    asks=f"do {CROWD} tasks that become runnable at once all run to their end",
    load=f"{CROWD} threads wake together, compute a little and end",
    limits=(
        Limit("last_ms", "above", 5, 3_000, of=f"the time until the last of {CROWD} tasks was done"),
        Limit("made_ms", "above", 10, 3_000, of=f"the time to create {CROWD} tasks"),
    ),
)
def many_tasks(arena: Arena) -> Numbers:
    """Queues and maps of a fixed size overflow here, and walks over all tasks become long."""
    found = arena.load("schedload", "crowd", str(CROWD), _UNITS)
    return {name: number(found, name) for name in ("made_ms", "first_ms", "last_ms")}


@scenario(
    "soak",
    asks="is anybody forgotten in twice the time that the watchdog allows",
    load="for twice the watchdog's timeout: one computing task a CPU, one of nice 5, one SCHED_BATCH, one bound to "
    "the last CPU, tasks that sleep shortly and long, cyclictest, and stress-ng and hackbench passing messages",
    limits=(
        Limit("gap_us", "above", 5, 1_500_000, of="the longest time that a computing task did not run"),
        Limit("least_share", "below", STARVED, of="the least share of a computing task", means="it starves"),
        Limit("waker_max_us", "above", 5, 1_500_000, of="the longest wait of a task that sleeps often"),
        Limit("sleeper_max_us", "above", 5, 1_500_000, of="the longest wait of a task that sleeps long"),
        Limit("cyclictest_max_us", "above", 5, 1_500_000, of="the longest wait of cyclictest"),
        TOGETHER,
    ),
)  # fmt: skip
def soak(arena: Arena) -> Numbers:
    """The watchdog looks at tasks that wait; here are tasks of every kind that could be left waiting."""
    length = 2 * arena.watchdog_s
    seconds = f"{length:g}"
    spin = ("spin", "1", seconds)
    loads = [
        ("schedload", "spin", str(arena.cpus), seconds),
        ("schedload", "--nice", "5", *spin),
        ("schedload", "--policy", "batch", *spin),
        ("taskset", f"{1 << (arena.cpus - 1):x}", "schedload", *spin),
        ("schedload", "wakers", "2", "20000", seconds),
        ("schedload", "wakers", "2", "1500000", seconds),
    ]
    cyclic = ("cyclictest", "--policy=other", "-q", "-t", "1", "-i", "20000", "-D", str(int(length - 1)))
    messages = [
        ("stress-ng", "--quiet", "--pipe", "1", "--timeout", "60"),
        ("hackbench", "-g", "1", "-f", "2", "-l", "10000000"),
    ]
    with arena.beside(messages), arena.running([*loads, cyclic]) as started:
        documents, slowest = arena.results(loads, started[:-1])
        said = arena.printed(cyclic, started[-1])
    *computing, waker, sleeper = documents
    cpu = [each for one in computing for each in numbers(one, "cpu_ns")]
    found = {
        "gap_us": max(each for one in computing for each in numbers(one, "gap_us")),
        "least_share": round(min(cpu) / max(sum(cpu), 1.0), 4),
        "waker_max_us": number(waker, "max_us"),
        "sleeper_max_us": number(sleeper, "max_us"),
        "slowest_s": slowest,
    }
    if said is not None and (most := _CYCLIC_MAX.search(said)) is not None:
        found["cyclictest_max_us"] = float(most[1])
    return found
