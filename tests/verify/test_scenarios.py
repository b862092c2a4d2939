# SPDX-License-Identifier: Apache-2.0
"""What each scenario takes for a failure, on numbers such as the guest gives."""

from __future__ import annotations

import re

import pytest

from controller.verify.scenarios import SCENARIOS

KERNEL = {
    "idle_wakeup": {"p50_us": 200.0, "p99_us": 800.0, "woken": 1.0},
    "affinity_churn": {"moves": 85000.0, "least_moves": 21000.0},
    "fork_storm": {"forks": 2000.0, "max_us": 7000.0},
    "weighted_shares": {
        "heavy_share": 0.75, "light_share": 0.25, "heavy_least_share": 0.18, "light_least_share": 0.06,
        "cpu_ms": 4000.0, "slowest_s": 2.7,
    },
    "late_waker": {"p50_us": 150.0, "max_us": 5000.0, "spin_least_share": 0.245, "slowest_s": 2.7},
    "pinned_floating": {"pinned_least_share": 0.24, "floating_least_share": 0.24, "spread": 0.05, "slowest_s": 2.2},
}  # fmt: skip
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


def judged(name: str, **changes: float) -> list[tuple[str, str]]:
    complaints = BY_NAME[name].judge(KERNEL[name] | changes, KERNEL[name])
    return [(c.severity, c.message) for c in complaints]


def test_every_scenario_says_what_it_asks():
    assert {"idle_wakeup", "weighted_shares", "fork_storm", "affinity_churn"} <= BY_NAME.keys()
    assert BY_NAME.keys() == KERNEL.keys()
    assert all(scenario.asks for scenario in SCENARIOS)


@pytest.mark.parametrize("name", KERNEL)
def test_the_kernels_own_scheduler_passes(name):
    assert judged(name) == []


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("idle_wakeup", {"p50_us": 1900.0, "p99_us": 90_000.0}),
        ("fork_storm", {"forks": 300.0, "max_us": 200_000.0}),
        ("affinity_churn", {"moves": 9000.0, "least_moves": 2000.0}),
        ("late_waker", {"p50_us": 40_000.0, "max_us": 120_000.0}),  # a FIFO queue with slices of 20 ms
        ("pinned_floating", {"pinned_least_share": 0.17, "floating_least_share": 0.32}),
    ],
)
def test_slower_is_not_dead(name, changes):
    assert judged(name, **changes) == []


def test_a_scheduler_without_weights_is_warned_and_not_rejected():
    told = judged("weighted_shares", heavy_share=0.5, light_share=0.5, heavy_least_share=0.12, light_least_share=0.12)
    assert [severity for severity, _ in told] == ["warn"]
    assert "nice values are ignored" in told[0][1]


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("idle_wakeup", {"p50_us": 250_000.0}, "250.0 ms late"),
        ("idle_wakeup", {"woken": 0.1}, "only 10%"),
        ("fork_storm", {"forks": 40.0}, "40 forks"),
        ("fork_storm", {"max_us": 1_900_000.0}, "one fork took 1.9 s"),
        ("affinity_churn", {"least_moves": 3.0}, "got 3 rounds"),
        ("weighted_shares", {"light_least_share": 0.001}, "nice 5 among 8 got 0.10%.*starves"),
        ("weighted_shares", {"heavy_least_share": 0.01}, "nice 0 among 8.*starves"),
        ("weighted_shares", {"slowest_s": 5.1, "cpu_ms": 8000.0}, "took up to 5.1 s, 2.7 s.*starves"),
        ("pinned_floating", {"slowest_s": 4.4}, "took up to 4.4 s"),
        ("late_waker", {"slowest_s": 5.0}, "took up to 5.0 s"),
        ("late_waker", {"p50_us": 400_000.0}, "waits 400 ms"),
        ("late_waker", {"max_us": 1_800_000.0}, "once waited 1.8 s"),
        ("late_waker", {"spin_least_share": 0.01}, "starves"),
        ("pinned_floating", {"pinned_least_share": 0.02}, "a pinned task"),
        ("pinned_floating", {"floating_least_share": 0.02}, "a floating task"),
    ],
)
def test_what_is_forgotten_or_far_too_late_is_an_error(name, changes, says):
    told = judged(name, **changes)
    assert [severity for severity, _ in told] == ["error"]
    assert re.search(says, told[0][1])
