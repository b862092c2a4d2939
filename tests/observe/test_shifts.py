# SPDX-License-Identifier: Apache-2.0
"""Change points on made series: noise alone is none, a real shift is found soon, and nothing is said twice."""

from __future__ import annotations

import math
import random

import pytest

from controller.api.fingerprint import Fingerprint, WorkloadVector, distance
from controller.observe.shifts import FLOOR, LEARNT, Watch, follow, step


def vector(name: str, noise: random.Random, sd: float, scale: float, *, traced: bool = True) -> WorkloadVector:
    """Lognormal noise of so much standard deviation on every figure; `scale` times the CPU time and the wakeups."""

    def about(value: float) -> float:
        return value * math.exp(noise.gauss(0, sd))

    cpu, tasks = min(about(0.2 * scale), 1.0), math.log2(1 + about(20))
    rest = (math.log2(1 + about(400 * scale)), math.log2(about(2e5)), math.log2(about(3e6)), math.log2(1 + about(2)))
    return WorkloadVector(name=name, features=(cpu, tasks, *(rest if traced else (None,) * 4)))


def windows(count: int, sd: float, *, seed: int = 1, scale: float = 1.0, traced: bool = True) -> list[Fingerprint]:
    noise = random.Random(seed)
    return [
        Fingerprint(
            workloads=(
                vector("shop/web", noise, sd, scale, traced=traced), vector("others", noise, sd, 1.0, traced=traced)
            )
        )
        for _ in range(count)
    ]  # fmt: skip


def kinds(series: list[Fingerprint]) -> list[tuple[int, str]]:
    return [(number, shift.kind) for number, shift in follow(series)[1]]


@pytest.mark.parametrize("sd", [0.0, 0.1, 0.2, 0.3])
def test_a_steady_load_is_told_as_changed_at_most_once_in_a_thousand_windows(sd):
    assert len([kind for _, kind in kinds(windows(2000, sd)) if kind == "changed"]) <= 2


@pytest.mark.parametrize(
    ("sd", "scale", "least"), [(0.02, 1.5, 40), (0.1, 2.0, 40), (0.1, 0.5, 40), (0.2, 2.0, 30), (0.3, 4.0, 38)]
)
def test_a_real_shift_is_found_within_three_windows(sd, scale, least):
    found = 0
    for seed in range(40):
        series = windows(30, sd, seed=seed) + windows(4, sd, seed=1000 + seed, scale=scale)
        found += any(kind == "changed" and 30 <= number <= 32 for number, kind in kinds(series))
    assert found >= least


def test_one_odd_window_is_nothing():
    series = windows(30, 0.05)
    series[20:21] = windows(1, 0.05, seed=2, scale=4)
    assert kinds(series) == []


def test_a_shift_that_stays_is_told_once_and_becomes_the_baseline():
    series = windows(20, 0.05) + windows(40, 0.05, seed=2, scale=4) + windows(40, 0.05, seed=3)
    told = kinds(series)
    assert [kind for _, kind in told] == ["changed", "settled", "changed", "settled"]
    changed, settled, back, _ = (number for number, _ in told)
    assert changed - 20 < 3
    assert settled - 20 <= LEARNT + 2
    assert back - 60 < 3


def test_an_excursion_returns():
    series = windows(20, 0.05) + windows(4, 0.05, seed=2, scale=4) + windows(20, 0.05, seed=3)
    assert [kind for _, kind in kinds(series)] == ["changed", "returned"]


def test_a_load_at_the_limit_does_not_flap():
    """Between the limit to enter and the one to leave, nothing is said."""
    steady = windows(20, 0.0)[0]
    there = next(
        seen for scale in range(100, 400) if distance(steady, seen := windows(1, 0.0, scale=scale / 100)[0]) > FLOOR
    )
    near = next(
        seen
        for scale in range(400, 100, -1)
        if distance(steady, seen := windows(1, 0.0, scale=scale / 100)[0]) < 0.95 * FLOOR
    )
    series = [steady] * 20 + [there, there, near, near] * 20
    told = kinds(series)
    assert [kind for _, kind in told].count("changed") == 1
    assert "returned" not in [kind for _, kind in told]


def test_a_load_that_finds_no_rest_becomes_the_baseline_in_the_end():
    noise = random.Random(5)
    wild = [windows(1, 0.0, scale=noise.choice([4, 40]))[0] for _ in range(40)]
    told = kinds(windows(20, 0.02) + wild)
    assert [kind for _, kind in told][:2] == ["changed", "settled"]


def test_it_says_which_workload_changed_most():
    _, ((_, shift),) = follow(windows(20, 0.02) + windows(3, 0.02, seed=2, scale=4))
    assert shift.name == "shop/web"
    assert shift.apart > shift.distance > FLOOR
    assert shift.distance == distance(shift.before, shift.after)


def test_restless_others_hide_nothing():
    calm = windows(20, 0.05) + windows(3, 0.05, seed=2, scale=2)
    wild = windows(20, 0.6, seed=3) + windows(3, 0.6, seed=4)
    mixed = [
        Fingerprint(workloads=(one.workloads[0], other.workloads[1])) for one, other in zip(calm, wild, strict=True)
    ]
    _, ((_, shift),) = follow(mixed)
    assert (shift.kind, shift.name) == ("changed", "shop/web")


def test_other_workloads_begin_anew():
    other = [
        Fingerprint(workloads=tuple(v.model_copy(update={"name": v.name + "x"}) for v in seen.workloads))
        for seen in windows(LEARNT - 1, 0.05, scale=8)
    ]
    watch, shifts = follow(windows(20, 0.05) + other)
    assert shifts == ()
    assert watch.learning
    assert len(watch.baseline) == LEARNT - 1


def test_what_the_observer_cannot_see_does_not_count():
    assert kinds(windows(20, 0.05, traced=False) + windows(20, 0.05, seed=2, traced=False)) == []
    changed = kinds(windows(20, 0.05, traced=False) + windows(3, 0.05, seed=2, scale=4, traced=False))
    assert [kind for _, kind in changed] == ["changed"]


def test_the_state_is_bounded_and_comes_out_of_its_last_windows():
    watch = Watch()
    for seen in windows(500, 0.1):
        watch, _ = step(watch, seen)
    assert len(watch.baseline) <= 20
    assert len(watch.newest) == 3
    again, _ = follow(windows(500, 0.1)[-28:])
    assert again == watch
