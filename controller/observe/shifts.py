# SPDX-License-Identifier: Apache-2.0
"""Change points in a series of fingerprints: when a node's load became another one, and when it settled again.

A pure fold, so that a restarted agent comes to the same state from the profiles it kept. The *baseline* is the last
calm windows, its *centre* their median, feature by feature. What is compared with the centre is the median of the
newest three windows, so that one odd window is nothing; what such medians of the baseline's own windows differ from the
centre is its noise:

    further away than `enter` (1.6 times the most that noise came to, at least 0.10)   the load has changed
    back to 0.7 of that or less                                                        it is again what it was before
    else, when eight windows are as calm among themselves, or after 20 of them         this is the new baseline

Between the two limits nothing is said in either direction. The first eight windows only teach. A fingerprint of other
workloads than the baseline's (an intent came or went) begins anew. This compares with what ran here a short while ago;
whether it is still what a scheduler was planned for is another question (controller/reconcile/drift.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

from controller.api.fingerprint import Fingerprint, WorkloadVector, distance

NEWEST = 3
LEARNT = 8
BASELINE = 20
FLOOR = 0.10
"""A distance that is no change on the calmest node: a tenth of `entirely different`."""

_NOISES = 1.6
_BACK = 0.7
_MOST = 0.9

Kind = Literal["changed", "returned", "settled"]


@dataclass(frozen=True)
class Shift:
    """The load changed, returned to what it was, or settled as another one; `distance` is from `before` to `after`."""

    kind: Kind
    distance: float
    before: Fingerprint
    after: Fingerprint

    @property
    def most(self) -> tuple[str, float]:
        """The workload that changed most, and its own distance."""
        names = {w.name for w in (*self.before.workloads, *self.after.workloads)}
        return max(((name, _apart(name, self.before, self.after)) for name in sorted(names)), key=lambda pair: pair[1])


@dataclass(frozen=True)
class Watch:
    """What the fold knows: `since` holds the windows since a change, and is empty while the load is steady."""

    baseline: tuple[Fingerprint, ...] = ()
    centre: Fingerprint | None = None
    enter: float = FLOOR
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
    apart = distance(now, watch.centre)
    if watch.changed:
        return _while_changed(watch, seen, now, apart)
    if apart > watch.enter:
        since = tuple(each for each in newest if distance(each, watch.centre) > watch.enter)
        return replace(watch, since=since or (seen,)), Shift("changed", apart, watch.centre, now)
    return _with_baseline(watch, (*watch.baseline, seen)[-BASELINE:]), None


def follow(series: Iterable[Fingerprint]) -> tuple[Watch, tuple[tuple[int, Shift], ...]]:
    """The whole series: the state at its end, and each shift with the number of the window that told it."""
    watch, shifts = Watch(), []
    for number, seen in enumerate(series):
        watch, shift = step(watch, seen)
        if shift is not None:
            shifts.append((number, shift))
    return watch, tuple(shifts)


def _while_changed(watch: Watch, seen: Fingerprint, now: Fingerprint, apart: float) -> tuple[Watch, Shift | None]:
    assert watch.centre is not None
    if apart <= _BACK * watch.enter:
        return replace(watch, since=()), Shift("returned", apart, watch.centre, now)
    since = (*watch.since, seen)
    late = since[-LEARNT:]
    calm = len(since) >= LEARNT and _noise(late, _median(late)) <= watch.enter / _NOISES
    if calm or len(since) >= BASELINE:
        settled = _with_baseline(replace(watch, since=()), late)
        after = _median(late)
        return settled, Shift("settled", distance(watch.centre, after), watch.centre, after)
    return replace(watch, since=since), None


def _with_baseline(watch: Watch, baseline: tuple[Fingerprint, ...]) -> Watch:
    centre = _median(baseline)
    enter = min(max(FLOOR, _NOISES * _noise(baseline, centre)), _MOST)
    return replace(watch, baseline=baseline, centre=centre, enter=enter)


def _noise(windows: Sequence[Fingerprint], centre: Fingerprint) -> float:
    """The most that medians of three windows in a row are away from the centre."""
    return max(
        (distance(_median(windows[at : at + NEWEST]), centre) for at in range(len(windows) - NEWEST + 1)), default=0.0
    )


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


def _apart(name: str, one: Fingerprint, other: Fingerprint) -> float:
    def alone(seen: Fingerprint) -> Fingerprint:
        found = seen.of(name)
        return Fingerprint(workloads=(found,) if found is not None else ())

    return distance(alone(one), alone(other))
