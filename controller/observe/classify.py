# SPDX-License-Identifier: Apache-2.0
"""Classification: what kind of load a workload is, from what it does on the CPU, with the features that decided.

There are four kinds, by what its owner would complain about. `latency`: somebody waits for each answer. `throughput`:
it is paid by the item, and waits for others between two items. `batch`: it is paid when it is done. `background`:
nobody waits for it. Names are not looked at: they can be given, and a new program has none that is known.

Five figures tell them apart, all of them more of the load than of the scheduler under it:

    used   CPUs it kept busy. Half way from little to much at 3 % of one CPU: below, no scheduling could gain anybody
           else more than that, and what runs there (cron, kworkers, exporters, idle servers) uses 0.1 to 2 %.
    wakes  wakeups a second; where only /proc was read, voluntary switches. Half way from seldom to often at 30: people
           see a frame that comes 30 times a second as motion and notice one that is late; a timer that fires once or
           ten times a second is housekeeping.
    turn   CPU time from one voluntary sleep to the next. Preemption cuts a burst but not a turn, so this is not the
           burst. Half way from short to long at 8 ms: under the 3 ms that the kernel's own scheduler gives as a slice
           (6 with the usual scaling), a task is done before it is preempted; one that takes 30 ms or more for a turn
           meets its neighbours' slices whatever its owner hopes for.
    full   the part of the CPUs it could use, at most one a task, that it did use. Half way at 45 %: what answers
           somebody must find a free CPU, so it is run at low occupancy; what always has a next item is not.
    gap    how long it sleeps, on the average; where sleeps were not measured, the time from one wakeup to the next on
           each of those CPUs. Half way at 200 µs, a round trip in a data centre: what sleeps less had its next item
           waiting, though a disk, a peer or other load may leave it little of its CPU.

A figure's membership is a logistic curve on a log scale, ½ at the middle; a kind's score is the product of what it
asks: background little and seldom; batch much and long; throughput short, often, and full or with hardly a gap; latency
short, often and neither. A cgroup with less than half the usual weight was called background by its owner: that adds to
its score. The confidence is the best score over the sum of the two best, so ½ says that it could as well be the next
likely. Calibrated with `bench/classify.py`, which prints where this agrees with an expert and where it does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from controller.api.profile import Classification, WorkloadClass, WorkloadStats

_USED, _WAKES, _TURN_NS, _FULL, _GAP_NS = 0.03, 30.0, 8e6, 0.45, 2e5
_SLOPE, _STEEP = 1.5, 4.0
"""Exponents of the curves: a factor of 4 from the middle is 0.11 or 0.89; `full` and `gap` decide within one decade."""

_USUAL_WEIGHT = 100


@dataclass(frozen=True, slots=True)
class Features:
    """What is looked at. `wakes` and `turn_ns` are None where nothing counted switches; `slept` where none lasted."""

    used: float
    full: float
    wakes: float | None
    gap_ns: float | None
    turn_ns: float | None
    slept: float | None
    voluntary: float | None
    starts: float | None


def classify(stats: WorkloadStats, window_ns: int, cpus: int) -> Classification:
    """The kind of one workload of a window of `window_ns` on `cpus` CPUs; works with what an observer measured."""
    seen = features(stats, window_ns, cpus)
    scores = _scores(seen, stats)
    ranked = sorted(scores, key=lambda kind: -scores[kind])
    best, second = scores[ranked[0]], scores[ranked[1]]
    kind = ranked[0]
    return Classification(
        kind=kind,
        confidence=round(best / (best + second), 3) if best > 0 else 0.5,
        because=_because(kind, seen, stats)[:8],
    )


def classified(workloads: Iterable[WorkloadStats], window_ns: int, cpus: int) -> tuple[WorkloadStats, ...]:
    """The workloads with their kinds; what neither ran nor woke has none."""
    return tuple(
        each.model_copy(update={"classification": classify(each, window_ns, cpus)})
        if each.cpu_ns or each.wakeups or each.voluntary_switches
        else each
        for each in workloads
    )


def features(stats: WorkloadStats, window_ns: int, cpus: int) -> Features:
    """The figures of one workload; rates are a second, shares 0 to 1, `used` is in CPUs."""
    seconds = window_ns / 1e9
    used = stats.cpu_ns / window_ns
    switches = None
    if stats.voluntary_switches is not None and stats.involuntary_switches is not None:
        switches = stats.voluntary_switches + stats.involuntary_switches
    wakes = stats.wakeups if stats.wakeups is not None else stats.voluntary_switches
    sleeps = stats.voluntary_switches
    starts = stats.forks
    # Tasks that came one after the other ran on one CPU.
    at_once = max(min(stats.tasks - (starts or 0), cpus), 1)
    return Features(
        used=used,
        full=min(used / at_once, 1.0),
        wakes=None if wakes is None else wakes / seconds,
        gap_ns=_gap(stats, at_once * window_ns, wakes),
        # One that never slept has a turn of at least all it ran.
        turn_ns=None if sleeps is None else stats.cpu_ns / max(sleeps, 1),
        slept=_slept(stats, window_ns),
        voluntary=stats.voluntary_switches / switches if stats.voluntary_switches is not None and switches else None,
        starts=None if starts is None else starts / seconds,
    )


def _gap(stats: WorkloadStats, time_ns: int, wakes: int | None) -> float | None:
    if stats.sleep is not None and stats.sleep.count:
        return stats.sleep.total_ns / stats.sleep.count
    return None if wakes is None else time_ns / max(wakes, 1)


def _slept(stats: WorkloadStats, window_ns: int) -> float | None:
    """The part of its tasks' time that they slept; None when most of them came or went inside the window."""
    if stats.forks is None or 2 * stats.forks > stats.tasks or not stats.tasks:
        return None
    waited = stats.wakeup_latency.total_ns if stats.wakeup_latency is not None else 0
    return max(1 - (stats.cpu_ns + waited) / (stats.tasks * window_ns), 0.0)


def _above(value: float | None, middle: float, slope: float = _SLOPE) -> float:
    """0 far below the middle, ½ there and where nothing is known, 1 far above."""
    if value is None:
        return 0.5
    return 1 / (1 + (middle / value) ** slope) if value > 0 else 0.0


def _scores(seen: Features, stats: WorkloadStats) -> dict[WorkloadClass, float]:
    much, often = _above(seen.used, _USED), _above(seen.wakes, _WAKES)
    long, full = _above(seen.turn_ns, _TURN_NS), _above(seen.full, _FULL, _STEEP)
    gap = 1 - _above(seen.gap_ns, _GAP_NS, _STEEP) if seen.gap_ns is not None else 0.0
    pressed = max(full, gap)
    weight = stats.cgroup.weight if stats.cgroup is not None else None
    meant = 1 - _above(weight, _USUAL_WEIGHT / 2, _STEEP) if weight is not None and weight < _USUAL_WEIGHT else 0.0
    return {
        "background": max((1 - much) * (1 - often), meant),
        "batch": much * long,
        "throughput": (1 - long) * often * pressed,
        "latency": (1 - long) * often * (1 - pressed),
    }


def _because(kind: WorkloadClass, seen: Features, stats: WorkloadStats) -> tuple[str, ...]:
    """The figures in words, those that the kind asks for first."""
    words = {
        "wakes": None if seen.wakes is None else f"wakes {_rate(seen.wakes)}",
        "turn": _turn(seen, stats),
        "used": f"uses {_percent(seen.used)} of a CPU" if seen.used < 1 else f"keeps {seen.used:.1f} CPUs busy",
        "slept": None if seen.slept is None else f"sleeps {_percent(seen.slept)} of the time",
        "voluntary": None
        if seen.voluntary is None
        else f"leaves the CPU by itself {_percent(seen.voluntary)} of the time",
        "starts": None if not seen.starts or seen.starts < 1 else f"starts {_rate(seen.starts, 'task')}",
        "weight": f"has a cpu.weight of {stats.cgroup.weight}"
        if stats.cgroup is not None and stats.cgroup.weight is not None and stats.cgroup.weight < _USUAL_WEIGHT
        else None,
    }
    order = {
        "latency": ("wakes", "turn", "slept", "used", "voluntary", "starts", "weight"),
        "throughput": ("used", "wakes", "turn", "voluntary", "starts", "slept", "weight"),
        "batch": ("turn", "used", "starts", "voluntary", "wakes", "slept", "weight"),
        "background": ("weight", "used", "wakes", "turn", "slept", "voluntary", "starts"),
    }[kind]
    return tuple(text for name in order if (text := words[name]) is not None)


def _turn(seen: Features, stats: WorkloadStats) -> str | None:
    if seen.turn_ns is None:
        return None
    if not stats.voluntary_switches:
        return "never sleeps" if stats.cpu_ns else "never runs"
    return f"runs {duration(seen.turn_ns)} at a time"


def _percent(share: float) -> str:
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"


def _rate(rate: float, what: str = "") -> str:
    number = round(rate)
    if rate >= 0.95:
        once = f"one {what}" if what else "once"
        return f"{once} a second" if number == 1 else f"{number} {what + 's' if what else 'times'} a second"
    return f"every {1 / rate:.0f} seconds" if rate > 0 else "never"


def duration(ns: float) -> str:
    """Nanoseconds for people: 40 µs, 3.1 ms, 2 s; three digits at most."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if ns >= size:
            value = ns / size
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return f"{ns:.0f} ns"
