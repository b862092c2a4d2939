# SPDX-License-Identifier: Apache-2.0
"""Fingerprint: what a node's workloads looked like when a scheduler was planned for them, and how far they are now.

A workload is eleven numbers, always in this order; each is of the load more than of the scheduler that ran it, so that
a new scheduler alone does not look like a new load (wakeup latency, migrations and waits are not among them):

    0  cpu        CPU time / (CPUs × window), 0 to 1
    1  tasks      log2(1 + distinct tasks seen)
    2  wakeups    log2(1 + wakeups a second)
    3  burst50    log2 of the median on-CPU burst in nanoseconds
    4  burst99    log2 of the 99th percentile of the on-CPU burst in nanoseconds
    5  forks      log2(1 + forks a second)
    6  turn       log2 of the CPU time in nanoseconds from one voluntary sleep to the next, on the average; at most 27
                  (134 ms): no slice is that long, so what sleeps still less often is alike
    7  voluntary  part of the switches off a CPU that were sleeps and no preemptions, 0 to 1
    8  sleep      log2 of the usual sleep in nanoseconds: the mean of the logarithms between the quartiles (sleeps often
                  have two peaks, for the next item and for none, and a median in between jumps from one to the other);
                compared from 12 (4 µs) on
    9  chained    part of its wakeups that tasks made and not interrupts (timers, devices), 0 to 1
    10 fan_in     log2 of how many wakers it has: 2^entropy of its wakeups by waker, interrupts being one of them

What could not be measured is absent (None), not zero. Fingerprints that were committed when there were only the first
six have six numbers and keep them: `distance` compares what both have. It is 0 for the same load and at most 1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import Field

from controller.api.base import ApiModel
from controller.api.profile import Histogram, WakeEdge, WorkloadProfile, WorkloadStats

FEATURES = (
    "cpu", "tasks", "wakeups", "burst50", "burst99", "forks", "turn", "voluntary", "sleep", "chained", "fan_in",
)  # fmt: skip
FIRST = 6
"""The least that a vector has: what fingerprints had before the others were measured."""

OTHERS = "others"

FULL = (0.5, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 1.0, 4.0, 2.0, 8.0)
"""The difference in each feature that counts as entirely different: half the machine, a factor of 16, all or nothing.

How often tasks are preempted is the scheduler's choice in part, so `voluntary` reaches 1 only between the extremes; a
timer that breaks into a task is counted as that task's wakeup, so `chained` and `fan_in` depend on the neighbours and
count half.
"""

SHORTEST_SLEEP = 12.0
"""Log2 of 4096 ns, about what going to sleep and waking take. Where the waker is another CPU the wakeup may come before
the task has left its own, and its sleep is then some nanoseconds or none: that says who was quicker, not what the load
is.
"""

_LONGEST_TURN_NS = float(1 << 27)

_LEAST = {"sleep": SHORTEST_SLEEP}

_OTHERS_WEIGHT = 0.5
"""Who asked for nothing counts less than who did: a cron job is no new load."""

FEW = 20
"""Percentiles and parts of fewer events than this are chance: the feature is absent."""

Feature = Annotated[float, Field(ge=0, le=64, allow_inf_nan=False)]
Vector = Annotated[tuple[Feature | None, ...], Field(min_length=FIRST, max_length=len(FEATURES))]


class WorkloadVector(ApiModel):
    """One workload: six to eleven features, see the module's text."""

    name: Annotated[str, Field(max_length=1024)] = Field(description="NAMESPACE/NAME of an intent, or others.")
    features: Vector = Field(
        description="cpu, log2 of tasks, wakeups/s, burst p50 and p99 (ns), forks/s, turn (ns); voluntary part; log2 "
        "of usual sleep (ns); part of wakeups by tasks; log2 of wakers."
    )


class Fingerprint(ApiModel):
    """The workloads that a plan was for, by name, and everything else together as `others`."""

    workloads: tuple[WorkloadVector, ...] = Field(default=(), max_length=512)

    def of(self, name: str) -> WorkloadVector | None:
        """The workload called `name`."""
        return next((w for w in self.workloads if w.name == name), None)


def fingerprint_of(profile: WorkloadProfile, intents: Iterable[str]) -> Fingerprint:
    """What the profile says of the workloads named (NAMESPACE/NAME), and of all others together."""
    named = sorted(set(intents))
    vectors = [vector_of(name, [w for w in profile.workloads if w.name == name], profile) for name in named]
    rest = [w for w in profile.workloads if not (w.keyed_by == "intent" and w.name in named)]
    return Fingerprint(workloads=(*vectors, vector_of(OTHERS, rest, profile)))


def distance(one: Fingerprint, other: Fingerprint) -> float:
    """How different two loads are: 0 the same, 1 nothing alike. Symmetric; a factor of 2 in one feature is 0.25 of it.

    The mean over the workloads, in which a workload's distance is that of its most different feature that both have,
    halved where it is the only one that moved; a workload that one of them lacks counts as entirely different.
    """
    names = sorted({w.name for w in one.workloads} | {w.name for w in other.workloads})
    total = weight = 0.0
    for name in names:
        share = _OTHERS_WEIGHT if name == OTHERS else 1.0
        total += share * apart(one.of(name), other.of(name))
        weight += share
    return total / weight if weight else 0.0


def apart(one: WorkloadVector | None, other: WorkloadVector | None) -> float:
    """The distance of two workloads: the mean of their two most different features, 1 when there is only one."""
    if one is None or other is None:
        return 1.0
    largest = sorted(differences(one, other).values(), reverse=True)[:2]
    return sum(largest) / 2


def differences(one: WorkloadVector, other: WorkloadVector) -> dict[str, float]:
    """Feature → how different, 0 to 1, of those that both have."""
    return {
        name: min(abs(max(a, _LEAST.get(name, a)) - max(b, _LEAST.get(name, b))) / full, 1.0)
        for name, a, b, full in zip(FEATURES, one.features, other.features, FULL, strict=False)
        if a is not None and b is not None
    }


def vector_of(name: str, parts: Sequence[WorkloadStats], profile: WorkloadProfile) -> WorkloadVector:
    """The vector, under `name`, of several workloads of the profile taken as one."""
    seconds = profile.window_ns / 1e9
    burst, sleep = merged([w.burst for w in parts]), merged([w.sleep for w in parts])
    voluntary, preempted = total(w.voluntary_switches for w in parts), total(w.involuntary_switches for w in parts)
    cpu_ns = sum(w.cpu_ns for w in parts)
    wakers = _wakers(parts, profile.wake_edges)
    return WorkloadVector(
        name=name,
        features=(
            min(sum(w.cpu_share for w in parts), 1.0),
            math.log2(1 + sum(w.tasks for w in parts)),
            _rate(total(w.wakeups for w in parts), seconds),
            _log(burst.percentile(50)) if burst is not None else None,
            _log(burst.percentile(99)) if burst is not None else None,
            _rate(total(w.forks for w in parts), seconds),
            # What never slept in the window had a turn of at least all its CPU time.
            _log(min(cpu_ns / max(voluntary, 1), _LONGEST_TURN_NS)) if voluntary is not None and cpu_ns else None,
            _part(voluntary, preempted),
            _usual(sleep) if sleep is not None and sleep.count >= FEW else None,
            _part(wakers.total() - wakers[""], wakers[""]) if wakers else None,
            _entropy(wakers) if wakers.total() >= FEW else None,
        ),
    )


def merged(parts: Iterable[Histogram | None]) -> Histogram | None:
    """Several histograms of the same buckets as one; None without events."""
    counts: Counter[tuple[int, int]] = Counter()
    total_ns = 0
    for part in parts:
        if part is not None:
            total_ns += part.total_ns
            for low, width, events in zip(part.edges, part.widths, part.counts, strict=True):
                counts[low, width] += events
    filled = sorted(bucket for bucket, events in counts.items() if events)
    if not filled:
        return None
    edges, widths = (tuple(bucket[i] for bucket in filled) for i in (0, 1))
    if any(low + width > above for low, width, above in zip(edges, widths, edges[1:], strict=False)):
        raise ValueError("histograms of different buckets cannot be added up")
    return Histogram(edges=edges, widths=widths, counts=tuple(counts[b] for b in filled), total_ns=total_ns)


def total(counts: Iterable[int | None]) -> int | None:
    """The sum; None when one of them is unknown: the sum of the others would be another load."""
    known = list(counts)
    return None if None in known else sum(count for count in known if count is not None)


def _wakers(parts: Sequence[WorkloadStats], edges: Sequence[WakeEdge]) -> Counter[str]:
    """Waker → wakeups of all parts together; those by one another come from one waker."""
    names = {part.name for part in parts}
    found: Counter[str] = Counter()
    for edge in edges:
        if edge.wakee in names:
            found[parts[0].name if edge.waker in names else edge.waker] += edge.wakeups
    return found


def _entropy(wakers: Counter[str]) -> float:
    """log2 of the effective number: 0 for one waker, 3 for eight that wake equally often."""
    everything = wakers.total()
    return max(-sum(n / everything * math.log2(n / everything) for n in wakers.values() if n), 0.0)


def _usual(histogram: Histogram) -> float:
    """Mean log2 of the middle half, at 24 equal steps."""
    return math.fsum(_log(histogram.percentile(25 + 2 * step)) for step in range(1, 25)) / 24


def _part(yes: int | None, no: int | None) -> float | None:
    if yes is None or no is None or yes + no < FEW:
        return None
    return yes / (yes + no)


def _rate(count: int | None, seconds: float) -> float | None:
    return None if count is None else _log(1 + count / seconds)


def _log(value: float) -> float:
    return min(max(math.log2(max(value, 1.0)), 0.0), 64.0)
