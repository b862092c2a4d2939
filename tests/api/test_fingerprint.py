# SPDX-License-Identifier: Apache-2.0
"""Fingerprints: the same load is at distance 0, another one is not, and no distance is outside 0 to 1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api import Fingerprint, Histogram, WakeEdge, WorkloadProfile, WorkloadStats, fingerprint_of
from controller.api.fingerprint import FEATURES, FIRST, OTHERS, WorkloadVector, differences, distance, merged
from tests.builders import KERNEL, T0, TOPOLOGY

lengths = st.integers(FIRST, len(FEATURES))
features = lengths.flatmap(lambda n: st.tuples(*[st.one_of(st.none(), st.floats(0, 64)) for _ in range(n)]))
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
    assert seen(**blind).workloads[0].features[2:6] == (None,) * 4


def test_an_intent_that_is_gone_is_entirely_different():
    without = Fingerprint(workloads=tuple(w for w in seen().workloads if w.name == OTHERS))
    assert distance(seen(), without) > 0.6


def test_a_vector_has_one_length():
    for found in seen().workloads:
        assert len(found.features) == len(FEATURES)
    with pytest.raises(ValueError, match="at least 6"):
        WorkloadVector(name="x", features=(1.0,))


def test_a_fingerprint_of_six_features_still_loads_and_is_compared_by_them():
    old = Fingerprint.model_validate(
        {"workloads": [{"name": "shop/web", "features": [0.2, 2.3, 10.0, 16.6, 16.7, 0.0]}]}
    )
    assert Fingerprint.model_validate(old.wire()) == old
    assert len(old.wire()["workloads"][0]["features"]) == FIRST  # a committed revision stays as it is, byte for byte
    now = WorkloadVector(name="shop/web", features=(0.2, 2.3, 10.0, 16.6, 16.7, 0.0, 27.0, 1.0, 20.0, 1.0, 3.0))
    assert distance(old, Fingerprint(workloads=(now,))) == 0


def edges(**wakeups: int) -> tuple[WakeEdge, ...]:
    return tuple(WakeEdge(waker=k.replace("timer", ""), wakee="shop/web", wakeups=n) for k, n in wakeups.items())


def vector(*wakes: WakeEdge, **changes: object) -> dict[str, float | None]:
    made = profile(stats("shop/web", **changes)).model_copy(update={"wake_edges": wakes})
    found = fingerprint_of(made, ["shop/web"]).of("shop/web")
    assert found is not None
    return dict(zip(FEATURES, found.features, strict=True))


def test_who_wakes_it_is_a_feature():
    assert vector()["chained"] is None
    timed, chained, many = edges(timer=1000), edges(web=1000), edges(a=250, b=250, c=250, timer=250)
    assert (vector(*timed)["chained"], vector(*timed)["fan_in"]) == (0, 0)
    assert (vector(*chained)["chained"], vector(*chained)["fan_in"]) == (1, 0)
    assert (vector(*many)["chained"], vector(*many)["fan_in"]) == (0.75, 2)


def test_preemption_cuts_bursts_but_not_turns():
    """The same load under a scheduler that preempts it four times a turn: bursts are shorter, turns are not."""
    calm = {"voluntary_switches": 1000, "involuntary_switches": 0, "burst": burst(1_000_000, 1000)}
    cut = {"voluntary_switches": 1000, "involuntary_switches": 4000, "burst": burst(200_000, 5000)}
    assert vector(**calm)["turn"] == vector(**cut)["turn"]
    assert vector(**calm)["burst50"] != vector(**cut)["burst50"]
    assert (vector(**calm)["voluntary"], vector(**cut)["voluntary"]) == (1, 0.2)


def test_few_events_make_no_percentile_and_no_part():
    few = vector(*edges(web=5), sleep=burst(10**6, 5), voluntary_switches=3, involuntary_switches=2)
    assert (few["sleep"], few["voluntary"], few["fan_in"], few["chained"]) == (None, None, None, None)


def test_histograms_of_several_workloads_add_up():
    both = merged([burst(1000, 30), None, burst(5000, 10), burst(1000, 60)])
    assert both is not None
    assert (both.edges, both.counts, both.total_ns) == ((1000, 5000), (90, 10), 140_000)
    assert merged([None, Histogram()]) is None
    with pytest.raises(ValueError, match="different buckets"):
        merged([burst(1000), burst(1010)])


def test_a_difference_is_told_by_feature():
    one, other = (WorkloadVector(name="x", features=(cpu, 1.0, None, 10.0, 12.0, 0.0)) for cpu in (0.25, 0.5))
    assert differences(one, other) == {"cpu": 0.5, "tasks": 0, "burst50": 0, "burst99": 0, "forks": 0}


def test_what_hardly_ever_sleeps_is_alike():
    never, twice = (vector(voluntary_switches=n, involuntary_switches=900, cpu_ns=9 * 10**9) for n in (0, 2))
    assert never["turn"] == twice["turn"] == 27


def test_sleeps_too_short_to_be_any_are_alike():
    """Where the waker is another CPU a sleep may end before it has begun: 0 ns, 5 ns and 3 µs are the same load."""
    none, few, short, long = (
        WorkloadVector(name="w", features=(0.5, 1, 2, 3, 4, 5, 6, 0.5, sleep)) for sleep in (0.0, 2.3, 11.5, 14.0)
    )
    assert differences(none, few)["sleep"] == differences(none, short)["sleep"] == 0
    assert differences(none, long)["sleep"] == differences(long, short)["sleep"] == 0.5


def test_the_usual_sleep_moves_little_when_few_sleeps_pass_the_middle():
    """Half of the sleeps are 20 µs, half 5 ms: the median is either; what is usual hardly moves."""
    found = []
    for short in (490, 510):
        two = Histogram(edges=(20_000, 5_000_000), widths=(1000, 100_000), counts=(short, 1000 - short), total_ns=1)
        found.append(vector(sleep=two)["sleep"])
    assert found[0] - found[1] < 0.5
    assert vector(sleep=burst(1 << 20))["sleep"] == pytest.approx(20, abs=0.1)
