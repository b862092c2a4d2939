# SPDX-License-Identifier: Apache-2.0
"""Fingerprint: what a node's workloads looked like when a scheduler was planned for them, and how far they are now.

A workload is six numbers, always in this order; each is of the load more than of the scheduler that ran it, so that a
new scheduler alone does not look like a new load:

    0  cpu      CPU time / (CPUs × window), 0 to 1
    1  tasks    log2(1 + distinct tasks seen)
    2  wakeups  log2(1 + wakeups a second)
    3  burst50  log2 of the median on-CPU burst in nanoseconds
    4  burst99  log2 of the 99th percentile of the on-CPU burst in nanoseconds
    5  forks    log2(1 + forks a second)

What could not be measured is absent (None), not zero. `distance` is 0 for the same load and at most 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from controller.api.base import ApiModel
from controller.api.profile import WorkloadProfile, WorkloadStats

FEATURES = ("cpu", "tasks", "wakeups", "burst50", "burst99", "forks")
OTHERS = "others"

_FULL = (0.5, 4.0, 4.0, 4.0, 4.0, 4.0)
"""The difference in each feature that counts as entirely different: half the machine, or a factor of 16."""

_OTHERS_WEIGHT = 0.5
"""Who asked for nothing counts less than who did: a cron job is no new load."""

Feature = Annotated[float, Field(ge=0, le=64, allow_inf_nan=False)]
Vector = Annotated[tuple[Feature | None, ...], Field(min_length=len(FEATURES), max_length=len(FEATURES))]


class WorkloadVector(ApiModel):
    """One workload: six features, see the module's text."""

    name: Annotated[str, Field(max_length=1024)] = Field(description="NAMESPACE/NAME of an intent, or others.")
    features: Vector = Field(description="cpu, log2 of tasks, wakeups/s, burst p50 and p99 (ns), forks/s.")


class Fingerprint(ApiModel):
    """The workloads that a plan was for, by name, and everything else together as `others`."""

    workloads: tuple[WorkloadVector, ...] = Field(default=(), max_length=512)

    def of(self, name: str) -> WorkloadVector | None:
        """The workload called `name`."""
        return next((w for w in self.workloads if w.name == name), None)


def fingerprint_of(profile: WorkloadProfile, intents: Iterable[str]) -> Fingerprint:
    """What the profile says of the workloads named (NAMESPACE/NAME), and of all others together."""
    named = sorted(set(intents))
    vectors = [_vector(name, [w for w in profile.workloads if w.name == name], profile.window_ns) for name in named]
    rest = [w for w in profile.workloads if not (w.keyed_by == "intent" and w.name in named)]
    return Fingerprint(workloads=(*vectors, _vector(OTHERS, rest, profile.window_ns)))


def distance(one: Fingerprint, other: Fingerprint) -> float:
    """How different two loads are: 0 the same, 1 nothing alike. Symmetric; a factor of 2 in one feature is 0.25 of it.

    The mean over the workloads, in which a workload's distance is that of its most different feature that both have,
    halved where it is the only one that moved; a workload that one of them lacks counts as entirely different.
    """
    names = sorted({w.name for w in one.workloads} | {w.name for w in other.workloads})
    total = weight = 0.0
    for name in names:
        share = _OTHERS_WEIGHT if name == OTHERS else 1.0
        total += share * _apart(one.of(name), other.of(name))
        weight += share
    return total / weight if weight else 0.0


def _apart(one: WorkloadVector | None, other: WorkloadVector | None) -> float:
    if one is None or other is None:
        return 1.0
    differences = sorted(
        (
            min(abs(a - b) / full, 1.0)
            for a, b, full in zip(one.features, other.features, _FULL, strict=True)
            if a is not None and b is not None
        ),
        reverse=True,
    )
    if not differences:
        return 0.0
    return (differences[0] + (differences[1] if len(differences) > 1 else 0.0)) / 2


def _vector(name: str, parts: list[WorkloadStats], window_ns: int) -> WorkloadVector:
    seconds = window_ns / 1e9
    bursts = [w.burst for w in parts if w.burst is not None and w.burst.count]
    # The heaviest part speaks for the bursts of several: percentiles do not add up.
    burst = max(bursts, key=lambda b: b.total_ns, default=None)
    return WorkloadVector(
        name=name,
        features=(
            min(sum(w.cpu_share for w in parts), 1.0),
            math.log2(1 + sum(w.tasks for w in parts)),
            _rate([w.wakeups for w in parts], seconds),
            _log(burst.percentile(50)) if burst is not None else None,
            _log(burst.percentile(99)) if burst is not None else None,
            _rate([w.forks for w in parts], seconds),
        ),
    )


def _rate(counts: list[int | None], seconds: float) -> float | None:
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        return None  # one observer could not see it: the sum of the others would be another load
    return _log(1 + sum(known) / seconds)


def _log(value: float) -> float:
    return min(max(math.log2(max(value, 1.0)), 0.0), 64.0)
