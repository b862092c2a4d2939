# SPDX-License-Identifier: Apache-2.0
"""bench/realtime.py: blocks in which no arm is first more often, and ratios to the kernel's own."""

from __future__ import annotations

from collections import Counter

import pytest

from bench import realtime
from bench.kit import filled
from bench.realtime import ARMS, FAMILY, OWN, REAL_TIME


def test_each_arm_runs_twice_a_block_and_drift_cancels():
    for index in range(2):
        arms = realtime.order(index)
        assert Counter(arms) == dict.fromkeys(ARMS, 2)
        assert arms == arms[::-1]
    assert realtime.order(0)[0] == OWN
    assert realtime.order(1)[0] == FAMILY


def test_ratios_are_to_the_kernels_own_and_above_one_is_better():
    def runs(late: float, work: float, n: int) -> list[dict[str, float]]:
        return [{"class.wakeupLatency.p99": late + n / 100, "others.throughput": work + n / 100}] * 2

    samples = [{OWN: runs(40, 10, n), REAL_TIME: runs(4, 9, n), FAMILY: runs(8, 8, n)} for n in range(12)]
    found = realtime.compared(samples)
    assert found[REAL_TIME]["class.wakeupLatency.p99"][0] == pytest.approx(10, rel=0.05)
    assert found[REAL_TIME]["others.throughput"][0] == pytest.approx(0.9, rel=0.02)
    assert found[FAMILY]["class.wakeupLatency.p99"][0] == pytest.approx(5, rel=0.05)
    assert found[FAMILY]["others.throughput"][0] == pytest.approx(0.8, rel=0.02)
    assert realtime.compared(samples[:3]) == {REAL_TIME: {}, FAMILY: {}}


def test_a_row_of_another_version_is_stale():
    assert not realtime.is_stale({"digest": filled.current(FAMILY)})
    assert realtime.is_stale({"digest": "of another version"})
