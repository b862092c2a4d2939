# SPDX-License-Identifier: Apache-2.0
"""Fidelity: how near a replay is to its original, by the features of the fingerprint and in the same measure.

The distance is the fingerprint's (controller/api/fingerprint.py): 0 the same, 1 nothing alike, over the workloads that
were twinned. A feature that one of the two profiles lacks is not compared, and is named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from controller.api.fingerprint import FEATURES, WorkloadVector, apart, differences, vector_of
from controller.api.profile import WorkloadProfile, WorkloadStats
from controller.errors import InputError
from controller.observe.twin.load import is_kernel, thread_names


@dataclass(frozen=True, slots=True)
class FeatureDifference:
    """One feature of one workload; `difference` is 0 to 1, None where one side could not measure it."""

    workload: str
    feature: str
    original: float | None
    replay: float | None
    difference: float | None


@dataclass(frozen=True, slots=True)
class Fidelity:
    """`distance` is the mean of the workloads'; `features` are most different first."""

    distance: float
    features: tuple[FeatureDifference, ...]

    def words(self) -> str:
        """A sentence for each of the features that differ most, after the distance."""
        worst = [f for f in self.features if f.difference is not None and f.difference >= 0.05][:4]
        told = "; ".join(
            f"{f.workload}: {f.feature} {f.original:.3g} → {f.replay:.3g} ({f.difference:.0%})" for f in worst
        )
        return f"distance {self.distance:.3f}" + (f": {told}" if told else ", no feature apart")


def fidelity(
    profile: WorkloadProfile, replay: WorkloadProfile, *, workload: str | None = None, replayed: str | None = None
) -> Fidelity:
    """Compares a profile with that of its twin's replay.

    `workload`: the one that was twinned, otherwise all but kernel threads. `replayed`: the workload of the replay that
    holds all of rt-app (a cgroup, an intent); otherwise its threads are found by their names. InputError when they are
    not there.
    """
    originals = [w for w in profile.workloads if (w.name == workload if workload is not None else not is_kernel(w))]
    originals = [w for w in originals if w.cpu_ns or w.wakeups]
    if replayed is not None:
        whole = [w for w in replay.workloads if w.name == replayed]
        compared = [(workload or "all", originals, whole)]
    else:
        names = thread_names([w.name for w in originals])
        compared = [(w.name, [w], _threads(replay, names[w.name])) for w in originals]
    if not originals or not any(parts for _, _, parts in compared):
        raise InputError(
            "the replay's profile has no threads of the twin", remedy="profile it while rt-app runs the document"
        )
    pairs = [
        (vector_of(name, mine, profile), vector_of(name, theirs, replay) if theirs else None)
        for name, mine, theirs in compared
    ]
    return Fidelity(
        distance=sum(apart(one, other) for one, other in pairs) / len(pairs),
        features=tuple(
            sorted(
                (each for one, other in pairs for each in _features(one, other)),
                key=lambda f: -1.0 if f.difference is None else -f.difference - 1,
            )
        ),
    )


def _threads(replay: WorkloadProfile, base: str) -> list[WorkloadStats]:
    name = re.compile(rf"{re.escape(base)}-\d+")
    return [w for w in replay.workloads if w.comms and all(name.fullmatch(comm) for comm in w.comms)]


def _features(one: WorkloadVector, other: WorkloadVector | None) -> list[FeatureDifference]:
    apart_ = differences(one, other) if other is not None else {}
    theirs = other.features if other is not None else (None,) * len(FEATURES)
    return [
        FeatureDifference(one.name, name, mine, its, apart_.get(name))
        for name, mine, its in zip(FEATURES, one.features, theirs, strict=True)
    ]
