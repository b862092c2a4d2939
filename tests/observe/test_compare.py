# SPDX-License-Identifier: Apache-2.0
"""The diff of profiles: planted changes are told with their numbers, chance is not, and the most important is first."""

from __future__ import annotations

import random

import pytest

from controller.api.profile import (
    CgroupCpu,
    Classification,
    Histogram,
    Pressure,
    WakeEdge,
    WorkloadProfile,
    WorkloadStats,
)
from controller.observe import histogram
from controller.observe.compare import Change, bounds, changes, parts_differ, rates_differ, words
from tests.builders import KERNEL, T0, TOPOLOGY

SECONDS = 5


def hist(*values: float) -> Histogram:
    from collections import Counter

    whole = [round(v) for v in values]
    return histogram.build(Counter(map(histogram.bucket_of, whole)), sum(whole))


def around(mean: float, count: int = 5000, seed: int = 1) -> Histogram:
    chance = random.Random(seed)
    return hist(*(chance.lognormvariate(0, 0.3) * mean for _ in range(count)))


def stats(name: str = "shop/web", keyed_by: str = "intent", **given: object) -> WorkloadStats:
    plain: dict[str, object] = {
        "name": name, "keyed_by": keyed_by, "tasks": 4, "cpu_share": 0.05, "cpu_ns": 500_000_000, "wakeups": 5000,
        "voluntary_switches": 5000, "involuntary_switches": 50, "forks": 0, "migrations": 100,
        "wakeup_latency": around(400_000), "burst": around(100_000), "sleep": around(4_000_000),
    }  # fmt: skip
    return WorkloadStats.model_validate(plain | given)


def profile(*workloads: WorkloadStats, **given: object) -> WorkloadProfile:
    plain: dict[str, object] = {
        "node": "n1", "taken_at": T0, "window_ns": SECONDS * 10**9, "observer": "bcc", "topology": TOPOLOGY,
        "kernel": KERNEL, "workloads": workloads,
    }  # fmt: skip
    return WorkloadProfile.model_validate(plain | given)


def seen(old: WorkloadStats, new: WorkloadStats) -> list[Change]:
    found = changes(profile(old), profile(new))
    assert found[-1].what == "distance"
    return list(found[:-1])


def test_the_same_load_has_no_change():
    chance = [
        {"wakeups": 5100, "voluntary_switches": 5100, "cpu_ns": 510_000_000, "migrations": 110,
         "wakeup_latency": around(400_000, seed=2), "burst": around(102_000, seed=3), "sleep": around(4e6, seed=4)}
    ]  # fmt: skip
    for each in chance:
        assert seen(stats(), stats(**each)) == []
    text = words(changes(profile(stats()), profile(stats())))
    assert text == "nothing changed beyond what chance does\nfingerprint distance 0.000 (1 intent and all others)"


@pytest.mark.parametrize(
    ("new", "what", "text"),
    [
        (
            {"cpu_ns": 1_050_000_000, "burst": around(210_000)},
            "cpu",
            "runs 2.1x more CPU: 10 % of a CPU → 21 % of a CPU",
        ),
        ({"wakeups": 15_000}, "wakeups", "wakes 3x more often: 1000 → 3000 a second"),
        ({"wakeups": 1250}, "wakeups", "wakes 4x less often: 1000 → 250 a second"),
        ({"forks": 500, "tasks": 504}, "forks", "starts more tasks: 0 → 100 a second"),
        ({"tasks": 8}, "tasks", "has 8 tasks that stay, had 4"),
        ({"involuntary_switches": 5000}, "preempted", "is preempted in 50% of its switches, was in 1%"),
        ({"migrations": 1000}, "migrations", "migrates 10x more often: 20 → 200 a second"),
        ({"sleep": around(1_000_000)}, "sleep50", "median sleep 3.98 ms → 994 µs"),
    ],
)
def test_a_planted_change_is_told_in_words_and_numbers(new, what, text):
    found = [change for change in seen(stats(), stats(**new)) if change.what == what]
    assert found, what
    assert found[0].text.startswith(text)
    assert found[0].workload == "shop/web"


def test_a_tail_that_grew_is_told_though_the_median_stayed():
    slow = hist(*[400_000] * 4800, *[3_100_000] * 200)
    found = seen(stats(wakeup_latency=hist(*[400_000] * 5000)), stats(wakeup_latency=slow))
    assert [change.what for change in found] == ["latency99"]
    assert found[0].text == "p99 wakeup latency 409 µs → 3.11 ms"


def test_few_events_prove_nothing():
    """Ten times the tail, but of 40 wakeups: the 99th percentile of so few is anywhere."""
    few, other = hist(*[400_000] * 40), hist(*[400_000] * 38, 4e6, 4e6)
    assert seen(stats(wakeup_latency=few), stats(wakeup_latency=other)) == []
    assert not rates_differ(3, 9, (5.0, 5.0))
    assert rates_differ(300, 900, (5.0, 5.0))
    assert not rates_differ(300, 900, (5.0, 15.0))  # a window three times as long
    assert not parts_differ(1, 4, 3, 4)
    assert parts_differ(100, 400, 300, 400)


def test_chance_alone_is_hardly_ever_a_change():
    chance = random.Random(7)
    alarms = sum(
        rates_differ(*(sum(chance.expovariate(1) < 0.05 for _ in range(2000)) for _ in range(2)), (1.0, 1.0))
        for _ in range(300)
    )
    assert alarms <= 3


def test_the_bounds_of_a_percentile_hold_it():
    low, high = bounds(around(1e6, 10_000), 50)
    assert low < 1e6 < high < 1.1 * low
    assert bounds(hist(*range(1, 50)), 99)[1] == float("inf")


def test_what_came_and_what_went():
    before = profile(stats(), stats("cron", "comm"), stats("kworker", "comm", cpu_ns=1000, wakeups=2))
    after = profile(stats(), stats("batch/night", classification=Classification(kind="batch", confidence=0.9)))
    found = {change.what: change for change in changes(before, after)}
    assert found["appeared"].text == "appeared: uses 10 % of a CPU, batch"
    assert (found["vanished"].workload, found["vanished"].text) == ("cron", "vanished: used 10 % of a CPU")
    assert "kworker" not in words(changes(before, after))  # it hardly ran: that it did not is chance


def test_the_most_important_is_first():
    before = profile(stats(), stats("small", "comm", cpu_share=0.001, cpu_ns=10_000_000))
    after = profile(stats(wakeups=50_000), stats("small", "comm", cpu_share=0.001, cpu_ns=10_000_000, wakeups=100_000))
    lines = words(changes(before, after)).splitlines()
    assert lines[0].startswith("shop/web: wakes 10x")
    assert lines[1].startswith("small: wakes 20x")
    assert lines[-1].startswith("fingerprint distance 0.")


def test_a_kind_changes_only_when_both_are_sure():
    sure, unsure = Classification(kind="latency", confidence=0.9), Classification(kind="batch", confidence=0.55)
    other = Classification(kind="throughput", confidence=0.9)
    assert [c.text for c in seen(stats(classification=sure), stats(classification=other))] == [
        "is throughput now, was latency"
    ]
    assert seen(stats(classification=sure), stats(classification=unsure)) == []


def test_throttling_and_wakers_and_the_node():
    old, new = (CgroupCpu(path="/x", periods=50, throttled_periods=n) for n in (0, 25))
    assert [c.text for c in seen(stats(cgroup=old), stats(cgroup=new))] == [
        "is throttled in 50% of its periods, was in 0%"
    ]
    edges = [tuple(WakeEdge(waker=w, wakee="shop/web", wakeups=n) for w, n in each) for each in (
        [("", 5000)], [("", 2500), ("db", 2500)])]  # fmt: skip
    found = changes(
        profile(stats(), wake_edges=edges[0], pressure=Pressure(cpu=3.0)),
        profile(stats(), wake_edges=edges[1], pressure=Pressure(cpu=40.0), observer="procfs"),
    )
    texts = [c.text for c in found]
    assert "50% of its wakeups are now by db, none were" in texts
    assert "cpu pressure: tasks waited 3 % → 40 % of the time" in texts
    assert texts[0].startswith("observer: bcc → procfs")


def test_what_one_of_them_did_not_measure_is_no_change():
    blind = {"wakeups": None, "forks": None, "migrations": None, "wakeup_latency": None, "burst": None, "sleep": None}
    assert seen(stats(**blind), stats()) == []
    assert seen(stats(), stats(**blind)) == []
