# SPDX-License-Identifier: Apache-2.0
"""Tasks that sleep and wake: on an idle machine, among busy tasks, and the kernel's own bound workers among them."""

from __future__ import annotations

from controller.verify.scenarios.arena import Arena, Numbers, number, numbers
from controller.verify.scenarios.registry import STARVED, Limit, scenario
from controller.verify.scenarios.shares import TOGETHER

_ASLEEP_S = 2.2


@scenario(
    "idle-wakeup",
    asks="does a task that wakes on an idle machine run at once",
    load="2 threads sleep and wake every 10 ms; nothing else runs",
    limits=(
        Limit("p50_us", "above", 10, 20_000, of="the median lateness of a wakeup on an idle machine",
              means="is an idle CPU ever kicked"),
        Limit("woken", "below", STARVED, of="the part of the periodic wakeups that happened"),
    ),
)  # fmt: skip
def idle_wakeup(arena: Arena) -> Numbers:
    """Lateness against absolute times; a wakeup that was overslept is not made up for."""
    found = arena.load("schedload", "wakers", "2", "10000", "1.5")
    part = number(found, "count") / max(number(found, "expected"), 1)
    return {"p50_us": number(found, "p50_us"), "p99_us": number(found, "p99_us"), "woken": round(part, 3)}


@scenario(
    "late-waker",
    asks="does a task that slept get in among busy ones",
    load="2 computing tasks a CPU, and 2 threads that wake every 50 ms, and one of nice 10 that does so every 100 ms",
    limits=(
        Limit("p50_us", "above", 20, 200_000, of="the median wait of a task that slept, among busy ones"),
        Limit("max_us", "above", 5, 1_500_000, of="the longest wait of a task that slept"),
        Limit("nice_max_us", "above", 5, 1_500_000, of="the longest wait of a task of nice 10 that slept"),
        Limit("spin_least_share", "below", STARVED, of="the least share of a busy task", means="it starves"),
        TOGETHER,
    ),
)
def late_waker(arena: Arena) -> Numbers:
    """Whoever sleeps has a claim to run soon, and no claim to everything."""
    spin = ("schedload", "spin", arena.busy(2), arena.seconds(2))
    wakers = ("schedload", "wakers", "2", "50000", arena.seconds(1.8))
    nice = ("schedload", "--nice", "10", "wakers", "1", "100000", arena.seconds(1.5))
    (busy, waker, nicer), slowest = arena.together([spin, wakers, nice])
    cpu = numbers(busy, "cpu_ns")
    return {
        "p50_us": number(waker, "p50_us"),
        "max_us": number(waker, "max_us"),
        "nice_max_us": number(nicer, "max_us"),
        "spin_least_share": round(min(cpu) / max(sum(cpu), 1.0), 4),
        "slowest_s": slowest,
    }


@scenario(
    "long-sleeper",
    asks="do busy tasks go on when others come back from a long sleep with much to do",
    load=f"one computing task a CPU; after {_ASLEEP_S:g} s two more a CPU, which slept until then, compute as long",
    limits=(
        Limit("gap_us", "above", 3, 800_000, of="the longest time that a computing task did not run",
              means="who slept claims all the time that it did not use"),
        Limit("least_share", "below", STARVED, of="the least share of a computing task", means="it starves"),
        TOGETHER,
    ),
)  # fmt: skip
def long_sleeper(arena: Arena) -> Numbers:
    """Few busy tasks, so that their virtual time runs far ahead; more sleepers than CPUs, so that one always waits."""
    cpus = str(arena.cpus)
    busy = ("schedload", "spin", cpus, f"{2 * _ASLEEP_S:g}")
    slept = ("schedload", "--after", f"{_ASLEEP_S:g}", "spin", str(2 * arena.cpus), f"{_ASLEEP_S:g}")
    found, slowest = arena.together([busy, slept])
    cpu, late = (numbers(one, "cpu_ns") for one in found)
    return {
        "gap_us": max(each for one in found for each in numbers(one, "gap_us")),
        "least_share": round(min(*cpu, *late) / max(sum(cpu) + sum(late), 1.0), 4),
        "slowest_s": slowest,
    }


@scenario(
    "kworker-latency",
    asks="do the kernel's own workers run that are bound to one CPU",
    load="2 computing tasks a CPU, while a real-time task writes vm.stat_refresh every 20 ms: a worker on each CPU",
    limits=(
        Limit("p50_us", "above", 20, 200_000, of="the median time until the workers of all CPUs were done"),
        Limit("max_us", "above", 5, 1_500_000, of="the longest time until the workers of all CPUs were done"),
    ),
)  # fmt: skip
def kworker_latency(arena: Arena) -> Numbers:
    """A kernel worker that waits holds up whoever asked for it: writeback, RCU, memory reclaim."""
    spin = ("schedload", "spin", arena.busy(2), arena.seconds(1.8))
    (_busy, asked), slowest = arena.amid([spin], ("schedload", "kworker", arena.seconds(1.3)))
    return {"p50_us": number(asked, "p50_us"), "max_us": number(asked, "max_us"), "slowest_s": slowest}
