# SPDX-License-Identifier: Apache-2.0
"""Change points in a series of fingerprints: when a node's load became another one, and when it settled again.

A pure fold, so that a restarted agent comes to the same state from the profiles it kept. The *baseline* is the last
calm windows, its *centre* their median, feature by feature. What is compared with the centre is the median of the
newest three windows, so that one odd window is nothing; what such medians of the baseline's own windows differ from the
centre is its noise. All that is done workload by workload, for what nobody asked about (`others`) may be as restless as
it likes without hiding what happens to a workload that an intent names:

    one is further away than twice the most its noise came to, and than 0.10 (others: 0.20)   the load has changed
    all are back to 0.7 of that or less                                                      it is as before again
    else, when eight windows are as calm among themselves, or after 20                       a new baseline

Between the two limits nothing is said in either direction. The first eight windows only teach. A fingerprint of other
workloads than the baseline's (an intent came or went) begins anew. This compares with what ran here a short while ago;
whether it is still what a scheduler was planned for is another question (controller/reconcile/drift.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Literal

from controller.api.fingerprint import OTHERS, Fingerprint, WorkloadVector, apart, distance

NEWEST = 3
LEARNT = 8
BASELINE = 20
FLOOR, FLOOR_OTHERS = 0.10, 0.20
"""A distance that is no change on the calmest node: a tenth of `entirely different`."""

_NOISES = 2.0
_BACK = 0.7
_MOST = 0.9

Kind = Literal["changed", "returned", "settled"]
Limits = Mapping[str, float]


@dataclass(frozen=True)
class Shift:
    """The load changed, returned to what it was, or settled as another one.

    `distance` is that of `after` from `before`; `name` the workload that is furthest beyond its limit, `apart` its own.
    """

    kind: Kind
    before: Fingerprint
    after: Fingerprint
    name: str

    @property
    def distance(self) -> float:
        """Of the two fingerprints, 0 to 1."""
        return distance(self.before, self.after)

    @property
    def apart(self) -> float:
        """Of the workload `name` alone, 0 to 1."""
        return apart(self.before.of(self.name), self.after.of(self.name))


@dataclass(frozen=True)
class Watch:
    """What the fold knows: `since` holds the windows since a change, and is empty while the load is steady.

    `limits` are the distances, by workload, that count as a change.
    """

    baseline: tuple[Fingerprint, ...] = ()
    centre: Fingerprint | None = None
    limits: Limits = field(default_factory=dict)
    newest: tuple[Fingerprint, ...] = ()
    since: tuple[Fingerprint, ...] = ()

    @property
    def learning(self) -> bool:
        """Whether there are too few windows yet to tell."""
        return len(self.baseline) < LEARNT

    @property
    def changed(self) -> bool:
        """Whether the load is not the one of the baseline, and no other has settled."""
        return bool(self.since)


def step(watch: Watch, seen: Fingerprint) -> tuple[Watch, Shift | None]:
    """The next window."""
    if watch.centre is not None and _names(watch.centre) != _names(seen):
        watch = Watch()
    newest = (*watch.newest, seen)[-NEWEST:]
    watch = replace(watch, newest=newest)
    if watch.learning or watch.centre is None:
        return _with_baseline(watch, (*watch.baseline, seen)), None
    now = _median(newest)
    far, name = _beyond(watch, now)
    if watch.changed:
        return _while_changed(watch, seen, now, far, name)
    if far > 1:
        since = tuple(each for each in newest if _beyond(watch, each)[0] > 1)
        return replace(watch, since=since or (seen,)), Shift("changed", watch.centre, now, name)
    return _with_baseline(watch, (*watch.baseline, seen)[-BASELINE:]), None


def follow(series: Iterable[Fingerprint]) -> tuple[Watch, tuple[tuple[int, Shift], ...]]:
    """The whole series: the state at its end, and each shift with the number of the window that told it."""
    watch, shifts = Watch(), []
    for number, seen in enumerate(series):
        watch, shift = step(watch, seen)
        if shift is not None:
            shifts.append((number, shift))
    return watch, tuple(shifts)


def _while_changed(
    watch: Watch, seen: Fingerprint, now: Fingerprint, far: float, name: str
) -> tuple[Watch, Shift | None]:
    assert watch.centre is not None
    if far <= _BACK:
        return replace(watch, since=()), Shift("returned", watch.centre, now, name)
    since = (*watch.since, seen)
    late = since[-LEARNT:]
    after = _median(late)
    noise = _noise(late, after)
    calm = len(since) >= LEARNT and all(_NOISES * noise[each] <= limit for each, limit in watch.limits.items())
    if calm or len(since) >= BASELINE:
        _, name = _beyond(watch, after)
        return _with_baseline(replace(watch, since=()), late), Shift("settled", watch.centre, after, name)
    return replace(watch, since=since), None


def _beyond(watch: Watch, seen: Fingerprint) -> tuple[float, str]:
    """How far the workload that is furthest away is, in its own limits, and its name."""
    assert watch.centre is not None
    return max((apart(watch.centre.of(name), seen.of(name)) / limit, name) for name, limit in watch.limits.items())


def _with_baseline(watch: Watch, baseline: tuple[Fingerprint, ...]) -> Watch:
    centre = _median(baseline)
    limits = {
        name: min(max(FLOOR_OTHERS if name == OTHERS else FLOOR, _NOISES * noise), _MOST)
        for name, noise in _noise(baseline, centre).items()
    }
    return replace(watch, baseline=baseline, centre=centre, limits=limits)


def _noise(windows: Sequence[Fingerprint], centre: Fingerprint) -> dict[str, float]:
    """The most that medians of three windows in a row are away from the centre, by workload."""
    middles = [_median(windows[at : at + NEWEST]) for at in range(len(windows) - NEWEST + 1)]
    return {
        vector.name: max((apart(vector, middle.of(vector.name)) for middle in middles), default=0.0)
        for vector in centre.workloads
    }


def _median(windows: Sequence[Fingerprint]) -> Fingerprint:
    """Feature by feature; a feature that most windows lack is lacking."""
    vectors = []
    for first in windows[0].workloads:
        found = [vector for window in windows if (vector := window.of(first.name)) is not None]
        columns = zip(*(vector.features for vector in found), strict=True)
        vectors.append(WorkloadVector(name=first.name, features=tuple(_middle(column) for column in columns)))
    return Fingerprint(workloads=tuple(vectors))


def _middle(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if 2 * len(known) > len(values) else None


def _names(seen: Fingerprint) -> frozenset[str]:
    return frozenset(w.name for w in seen.workloads)
