# SPDX-License-Identifier: Apache-2.0
"""The statistics: how often they are wrong on equal arms, how often they see a difference, and what always holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.verify.trial import statistics

EFFECT = math.log1p(0.05)
ARRAYS = st.lists(st.floats(-2, 2), min_size=8, max_size=40).map(np.array)


def blocks(chance: np.random.Generator, count: int, sigma: float, shift: float = 0.0) -> np.ndarray:
    """Block gains from simulated ABBA runs."""
    runs = simulated_runs(chance, count, sigma)
    mine, theirs = runs[:, [0, 3]], runs[:, [1, 2]]
    turned = np.arange(count) % 2 == 1
    mine, theirs = np.where(turned[:, None], theirs, mine), np.where(turned[:, None], mine, theirs)
    # Through the same door as measured values: log ratios of numbers, less is better.
    return statistics.block_gains(np.exp(mine - shift).tolist(), np.exp(theirs).tolist(), -1)


def simulated_runs(chance: np.random.Generator, count: int, sigma: float) -> np.ndarray:
    """Logs of equal runs, four to a block: heavy-tailed noise of each run (Student's t, 3 degrees of freedom), a drift
    through the whole trial that turns round half-way, and now and then a run that something else held up."""
    at = np.arange(4 * count) / (4 * count)
    drift = 0.4 * np.abs(at - 0.5) * chance.choice([-1, 1])
    runs = sigma * chance.standard_t(3, 4 * count) / math.sqrt(3) + drift
    runs += (chance.random(4 * count) < 0.03) * chance.exponential(0.5, 4 * count)
    return runs.reshape(count, 4)


def trial(chance: np.random.Generator, sigma: float, shift: float) -> str:
    """The whole of a trial's arithmetic: A/A, blocks by its noise, the comparison."""
    noise = statistics.noise(statistics.aa_contrasts(np.exp(simulated_runs(chance, 10, sigma)).tolist()))
    needed = min(statistics.blocks_needed(statistics.cautious(noise, 30), EFFECT, 0.95, 0.9), 60)
    values = blocks(chance, needed, sigma, shift)
    return statistics.judge(statistics.interval(values, 0.95, int(chance.integers(1 << 30))), EFFECT)


@pytest.mark.parametrize("sigma", [0.02, 0.08])
def test_equal_arms_are_called_different_in_at_most_a_twentieth_of_trials(sigma):
    """2,000 trials with heavy tails, drift and interruptions, seeded: the count is always the same."""
    chance = np.random.default_rng(20240817)
    verdicts = [trial(chance, sigma, 0.0) for _ in range(2000)]
    assert sum(one in ("better", "worse") for one in verdicts) <= 100
    assert verdicts.count("equivalent") >= 1000


def test_the_interval_itself_misses_the_truth_in_at_most_a_twentieth_of_samples():
    """Without the help of `equivalent`: at the fewest blocks there are, and at many."""
    chance = np.random.default_rng(5)
    for count in (statistics.MIN_BLOCKS, 20, 30):
        found = [statistics.interval(blocks(chance, count, 0.08), 0.95, i) for i in range(1000)]
        assert sum(not one.low <= 0 <= one.high for one in found) <= 62, count  # 50 and two standard deviations


@pytest.mark.parametrize(("effect", "verdict"), [(0.10, "better"), (-0.10, "worse")])
def test_a_difference_of_a_tenth_is_found_in_four_trials_of_five(effect, verdict):
    chance = np.random.default_rng(99)
    verdicts = [trial(chance, 0.08, math.log1p(abs(effect)) * math.copysign(1, effect)) for _ in range(500)]
    assert verdicts.count(verdict) >= 400


def test_the_blocks_called_for_see_the_minimum_detectable_effect_with_the_power_asked_for():
    chance = np.random.default_rng(3)
    found = [trial(chance, 0.05, EFFECT) for _ in range(500)]
    assert sum(one in ("better", "equivalent") for one in found) >= 400
    assert "worse" not in found


@given(ARRAYS, st.integers(0, 1 << 32))
@settings(max_examples=60, deadline=None)
def test_an_interval_holds_its_center_and_turns_with_its_data(values, seed):
    found, turned = statistics.interval(values, 0.95, seed), statistics.interval(-values, 0.95, seed)
    assert found.low <= found.center <= found.high
    assert found == statistics.interval(values, 0.95, seed)
    assert turned.center == pytest.approx(-found.center)
    assert turned.low == pytest.approx(-found.high)


@given(ARRAYS, st.floats(-1, 1))
@settings(max_examples=60, deadline=None)
def test_moving_the_data_moves_the_trimmed_mean_and_not_its_error(values, shift):
    center, error = statistics.trimmed(values)
    moved, same = statistics.trimmed(values + shift)
    assert moved == pytest.approx(center + shift, abs=1e-9)
    assert same == pytest.approx(error, abs=1e-9)


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_is_never_below_the_raw_value_nor_above_bonferroni_and_keeps_the_order(p_values):
    adjusted = statistics.holm(p_values)
    for raw, one in zip(p_values, adjusted, strict=True):
        assert raw <= one <= min(1.0, len(p_values) * raw)
    assert sorted(adjusted) == [one for _raw, one in sorted(zip(p_values, adjusted, strict=True))]


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


@given(st.floats(0.001, 1), st.floats(0.01, 0.5))
def test_the_blocks_needed_are_enough_and_two_fewer_are_not(sigma, effect):
    needed = statistics.blocks_needed(sigma, effect, 0.95, 0.8)
    assert needed % 2 == 0
    assert statistics.detectable(sigma, needed, 0.95, 0.8) <= effect
    if needed - 2 >= statistics.MIN_BLOCKS:
        assert statistics.detectable(sigma, needed - 2, 0.95, 0.8) > effect


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.01, 0.04, "equivalent"), (-0.04, 0.04, "equivalent"), (0.01, 0.2, "better"), (-0.2, -0.01, "worse"),
        (-0.2, 0.2, "inconclusive"), (-0.01, 0.06, "inconclusive"), (-math.inf, math.inf, "inconclusive"),
    ],
)  # fmt: skip
def test_the_verdict_of_an_interval(low, high, verdict):
    assert statistics.judge(statistics.Interval(0.0, low, high), EFFECT) == verdict


def test_values_without_any_spread():
    assert statistics.interval(np.full(8, 0.3), 0.95, 1) == statistics.Interval(0.3, 0.3, 0.3)
    assert statistics.p_broken(np.full(8, -0.3), 0.05) == 0.0
    assert statistics.p_broken(np.full(8, 0.3), 0.05) == 1.0


def test_a_guardrail_at_its_very_limit_is_called_broken_in_at_most_a_twentieth_of_trials():
    chance = np.random.default_rng(8)
    found = [statistics.p_broken(blocks(chance, 20, 0.08, -EFFECT), EFFECT) <= 0.05 for _ in range(1000)]
    assert sum(found) <= 64
