# SPDX-License-Identifier: Apache-2.0
"""Classification by what a workload does: clear cases are clear, unclear ones say so, and nothing known is no crash."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.profile import CgroupCpu, Classification, Histogram, WorkloadStats
from controller.observe.classify import classified, classify, duration, features

SECOND = 10**9
WINDOW = 4 * SECOND


def load(cpus: float, wakes: float, **changes: object) -> WorkloadStats:
    """One task that keeps `cpus` CPUs busy and wakes `wakes` times a second, each time by itself."""
    given_: dict[str, object] = {
        "name": "x", "keyed_by": "comm", "tasks": 1, "cpu_share": min(cpus / 2, 1), "cpu_ns": round(cpus * WINDOW),
        "wakeups": round(wakes * 4), "voluntary_switches": round(wakes * 4), "involuntary_switches": 10, "forks": 0,
    }  # fmt: skip
    return WorkloadStats.model_validate(given_ | changes)


def kind(stats: WorkloadStats) -> Classification:
    return classify(stats, WINDOW, 2)


@pytest.mark.parametrize(
    ("stats", "wanted"),
    [
        (load(0.03, 800), "latency"),
        (load(0.2, 94), "latency"),
        (load(1.9, 40_000, tasks=20), "throughput"),
        (load(0.9, 5000), "throughput"),
        (load(0.25, 14_000), "throughput"),
        (load(1.0, 0), "batch"),
        (load(1.8, 60, tasks=90, forks=88), "batch"),
        (load(0.4, 2, tasks=2), "batch"),
        (load(0.002, 1), "background"),
        (load(0.0001, 0.25), "background"),
    ],
)
def test_clear_cases(stats, wanted):
    found = kind(stats)
    assert found.kind == wanted
    assert found.confidence > 0.7


def test_an_unclear_case_says_so():
    assert kind(load(0.03, 30)).confidence < 0.7


def test_it_says_why_in_words_and_numbers():
    why = kind(load(0.03, 812, wakeup_latency=Histogram(edges=(1,), widths=(1,), counts=(1,), total_ns=0))).because
    assert why[:3] == ("wakes 812 times a second", "runs 36.9 µs at a time", "sleeps 97 % of the time")
    assert "never sleeps" in kind(load(1.0, 0)).because
    assert "starts 22 tasks a second" in kind(load(1.8, 60, tasks=90, forks=88)).because
    assert "wakes once a second" in kind(load(0.002, 1)).because
    assert "wakes every 4 seconds" in kind(load(0.0001, 0.25)).because


def test_preemption_changes_nothing_but_the_words():
    calm, pressed = load(0.5, 5000), load(0.5, 5000, involuntary_switches=60_000)
    assert (kind(calm).kind, kind(calm).confidence) == (kind(pressed).kind, kind(pressed).confidence)


def test_a_load_that_others_keep_from_running_is_known_by_its_sleeps():
    """Requests wait for a server that hardly gets a CPU: it sleeps 50 µs, then waits long for its turn."""

    def sleeping(ns: int) -> WorkloadStats:
        return load(0.1, 1000, sleep=Histogram(edges=(ns,), widths=(1000,), counts=(4000,), total_ns=4000 * ns))

    assert kind(sleeping(50_000)).kind == "throughput"
    assert kind(sleeping(900_000)).kind == "latency"


def test_an_owner_who_gave_it_a_small_weight_called_it_background():
    busy = load(1.0, 0, cgroup=CgroupCpu(path="/x", weight=1))
    assert kind(busy).because[0] == "has a cpu.weight of 1"
    assert (kind(busy).kind, kind(busy).confidence < 0.6) == ("background", True)
    assert kind(load(1.0, 0, cgroup=CgroupCpu(path="/x", weight=100))).kind == "batch"


def test_a_profile_from_proc_is_enough():
    """Neither wakeups nor forks: voluntary switches stand for wakeups."""
    assert kind(load(0.03, 800, wakeups=None, forks=None)).kind == "latency"
    assert kind(load(1.0, 0, wakeups=None, forks=None, voluntary_switches=0)).kind == "batch"


def test_what_neither_ran_nor_woke_has_no_kind():
    still, alive = classified([load(0, 0), load(0.5, 2)], WINDOW, 2)
    assert still.classification is None
    assert alive.classification is not None


def test_the_time_slept_is_unknown_where_tasks_come_and_go():
    assert features(load(0.5, 10, tasks=100, forks=90), WINDOW, 2).slept is None
    assert features(load(0.5, 10), WINDOW, 2).slept == pytest.approx(0.5)


def test_durations_for_people():
    assert [duration(ns) for ns in (0, 40_000, 3_140_000, 250e6, 2e9)] == ["0 ns", "40 µs", "3.14 ms", "250 ms", "2 s"]


counts = st.one_of(st.none(), st.integers(0, 10**9))


@given(st.integers(0, 10**12), counts, counts, counts, counts, st.integers(0, 10**6), st.integers(1, 512))
def test_anything_has_a_kind_and_a_confidence(cpu, wakeups, voluntary, involuntary, forks, tasks, cpus):
    stats = WorkloadStats(
        name="x", keyed_by="comm", tasks=tasks, cpu_share=0.5, cpu_ns=cpu, wakeups=wakeups,
        voluntary_switches=voluntary, involuntary_switches=involuntary, forks=forks,
    )  # fmt: skip
    found = classify(stats, WINDOW, cpus)
    assert 0.5 <= found.confidence <= 1
    assert found.because
