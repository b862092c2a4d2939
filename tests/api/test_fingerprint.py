# SPDX-License-Identifier: Apache-2.0
"""Fingerprints: the same load is at distance 0, another one is not, and no distance is outside 0 to 1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api import Fingerprint, Histogram, WorkloadProfile, WorkloadStats, fingerprint_of
from controller.api.fingerprint import FEATURES, OTHERS, WorkloadVector, distance
from tests.builders import KERNEL, T0, TOPOLOGY

features = st.tuples(*[st.one_of(st.none(), st.floats(0, 64)) for _ in FEATURES])
names = st.sampled_from(["shop/web", "shop/api", "batch/night", OTHERS])
prints = st.dictionaries(names, features, max_size=4).map(
    lambda d: Fingerprint(workloads=tuple(WorkloadVector(name=n, features=f) for n, f in d.items()))
)


def burst(ns: int, count: int = 100) -> Histogram:
    return Histogram(edges=(ns,), widths=(max(ns // 8, 1),), counts=(count,), total_ns=ns * count)


def stats(name: str, keyed_by: str = "intent", **changes: object) -> WorkloadStats:
    given_: dict[str, object] = {
        "name": name, "keyed_by": keyed_by, "tasks": 4, "cpu_share": 0.2, "cpu_ns": 10**9, "wakeups": 5000,
        "forks": 0, "burst": burst(100_000),
    }  # fmt: skip
    return WorkloadStats.model_validate(given_ | changes)


def profile(*workloads: WorkloadStats, seconds: int = 5) -> WorkloadProfile:
    return WorkloadProfile(
        node="n1", taken_at=T0, window_ns=seconds * 10**9, observer="bcc", topology=TOPOLOGY, kernel=KERNEL,
        workloads=workloads,
    )  # fmt: skip


def seen(**changes: object) -> Fingerprint:
    return fingerprint_of(profile(stats("shop/web", **changes), stats("cron", "comm", cpu_share=0.01)), ["shop/web"])


@given(prints, prints)
def test_distance_is_symmetric_and_bounded(one, other):
    assert 0 <= distance(one, other) <= 1
    assert distance(one, other) == distance(other, one)


@given(prints)
def test_the_same_load_is_at_no_distance(one):
    assert distance(one, one) == 0


@pytest.mark.parametrize(
    "changes",
    [{"wakeups": 80_000, "tasks": 64}, {"burst": burst(10_000_000)}, {"cpu_share": 0.9, "forks": 10_000}],
)
def test_another_load_is_far_and_a_little_more_of_the_same_is_near(changes):
    assert distance(seen(), seen(**changes)) > 0.35
    assert distance(seen(), seen(wakeups=6000, cpu_share=0.24, tasks=5)) < 0.1


def test_one_feature_alone_says_less_than_two():
    one, two = distance(seen(), seen(wakeups=80_000)), distance(seen(), seen(wakeups=80_000, tasks=64))
    assert 0 < one < two


def test_the_length_of_the_window_is_no_feature():
    short = fingerprint_of(profile(stats("shop/web", wakeups=1000), seconds=1), ["shop/web"])
    assert distance(short, fingerprint_of(profile(stats("shop/web", wakeups=5000)), ["shop/web"])) < 0.01


def test_what_could_not_be_measured_is_not_compared():
    blind = {"wakeups": None, "forks": None, "burst": None}
    assert distance(seen(), seen(**blind)) == 0
    assert seen(**blind).workloads[0].features[2:] == (None,) * 4


def test_an_intent_that_is_gone_is_entirely_different():
    without = Fingerprint(workloads=tuple(w for w in seen().workloads if w.name == OTHERS))
    assert distance(seen(), without) > 0.6


def test_a_vector_has_one_length():
    for found in seen().workloads:
        assert len(found.features) == len(FEATURES)
    with pytest.raises(ValueError, match="at least 6"):
        WorkloadVector(name="x", features=(1.0,))
