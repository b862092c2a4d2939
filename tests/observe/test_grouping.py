# SPDX-License-Identifier: Apache-2.0
"""Which workload a task is counted under."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.intent import SchedulingIntent
from controller.observe import cgroups
from controller.observe.grouping import MAX_WORKLOADS, group
from controller.observe.sample import Observation, Reading, Sample, Who


def intent(name, **selector):
    return SchedulingIntent.model_validate(
        {
            "apiVersion": "schedctl.dev/v1alpha1",
            "kind": "SchedulingIntent",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"workload": selector, "objective": {"metric": "throughput", "goal": "maximize"}},
        }
    )


def traced(cpu_ns, **more):
    sample = Sample.traced()
    sample.cpu_ns = cpu_ns
    for name, value in more.items():
        setattr(sample, name, value)
    return sample


def watched(window_ns, samples, **more):
    return Observation(window_ns, samples, Reading(0, {}, {}), Reading(window_ns, {}, {}), **more)


def workloads(seen, intents, cpus):
    return group(seen, intents, cpus).workloads


def names(seen, intents=()):
    return [(w.keyed_by, w.name) for w in workloads(seen, intents, 1)]


def one(comm, cgroup=b"/", uid=0, intents=()):
    return names(watched(100, {Who(comm, cgroup, uid): traced(10)}), intents)


@pytest.mark.parametrize(
    ("comm", "cgroup", "expected"),
    [
        (b"nginx", b"/", ("comm", "nginx")),
        (b"nginx", None, ("comm", "nginx")),
        (b"nginx", b"/system.slice/web.service", ("cgroup", "/system.slice/web.service")),
        (b"make", b"/user.slice/user-0.slice/session-3.scope", ("comm", "make")),
        (b"systemd", b"/init.scope", ("comm", "systemd")),
        (b"ksoftirqd/3", b"/", ("comm", "ksoftirqd")),
        (b"kworker/u8:2", b"/", ("comm", "kworker")),
        (b"a/b", b"/", ("comm", "a/b")),
        (b"\x1b[2J", b"/", ("comm", "\\x1b[2J")),
    ],
)
def test_without_intents(comm, cgroup, expected):
    assert one(comm, cgroup) == [expected]


def test_the_first_intent_that_matches_wins():
    first, second = intent("first", comm=["ng*"]), intent("second", comm=["nginx"])
    assert one(b"nginx", intents=[first, second]) == [("intent", "shop/first")]
    assert one(b"nginx", intents=[second, first]) == [("intent", "shop/second")]
    assert one(b"other", intents=[first, second]) == [("comm", "other")]


def test_fields_are_anded_and_a_cgroup_is_selected_with_what_is_below_it():
    web = intent("web", comm=["nginx"], cgroup=["/kube*/pod1"], user=["33"])
    key = [("intent", "shop/web")]
    assert one(b"nginx", b"/kubepods/pod1/container", 33, [web]) == key
    assert one(b"nginx", b"/kubepods/pod10", 33, [web]) != key
    assert one(b"nginx", b"/kubepods/pod1", 34, [web]) != key
    assert one(b"php", b"/kubepods/pod1", 33, [web]) != key


def test_an_intent_with_a_pod_selector_takes_nothing():
    assert one(b"nginx", intents=[intent("pods", comm=["nginx"], podSelector={"app": "web"})]) == [("comm", "nginx")]


def test_units_are_components_of_the_path():
    assert cgroups.units(b"/system.slice/web.service/worker") == [b"system.slice", b"web.service"]
    assert one(b"x", b"/system.slice/web.service/worker", intents=[intent("u", unit=["web.service"])]) == [
        ("intent", "shop/u")
    ]
    assert one(b"x", b"/system.slice/web.service", intents=[intent("u", unit=["worker"])])[0][0] == "cgroup"


def test_the_rest_is_added_up_in_others_and_intents_always_stay():
    samples = {Who(f"c{n}".encode(), b"/", 0): traced(1000 + n, wakeups=1, tasks=1) for n in range(100)}
    samples[Who(b"quiet", b"/", 0)] = traced(1, wakeups=1, tasks=1)
    found = workloads(watched(10**6, samples), [intent("quiet", comm=["quiet"])], 1)
    assert len(found) == MAX_WORKLOADS
    assert found[-1].keyed_by == "others"
    assert any(w.name == "shop/quiet" for w in found)
    assert sum(w.wakeups for w in found) == 101
    assert [w.cpu_ns for w in found[:-1]] == sorted((w.cpu_ns for w in found[:-1]), reverse=True)
    assert len(found[-1].comms) == 8


@given(st.lists(st.integers(0, 10**12), max_size=80), st.integers(1, 4))
def test_shares_add_up_to_at_most_one(times, cpus):
    samples = {Who(f"c{n}".encode(), b"/", 0): traced(cpu_ns) for n, cpu_ns in enumerate(times)}
    assert sum(w.cpu_share for w in workloads(watched(10**9, samples), (), cpus)) <= 1 + 1e-9


def test_what_never_left_its_cpu_has_a_lower_bound_as_burst():
    hog = workloads(watched(10**9, {Who(b"hog", b"/", 0): traced(10**9, cut=[10**9])}), (), 1)[0]
    assert hog.burst.count == 1
    assert hog.burst.percentile(50) == pytest.approx(1e9, rel=0.07)
    busy = traced(10**9, cut=[10**9], burst=Counter({100: 5}))
    assert workloads(watched(10**9, {Who(b"busy", b"/", 0): busy}), (), 1)[0].burst.count == 5


def test_what_was_not_measured_stays_unmeasured():
    found = workloads(watched(100, {Who(b"a", b"/", 0): Sample(1, 10, voluntary=1, involuntary=1)}), (), 1)[0]
    assert (found.wakeups, found.forks, found.burst, found.wakeup_latency) == (None, None, None, None)
    assert found.voluntary_switches == 1


def test_edges_are_between_workloads_most_wakeups_first_and_an_interrupt_has_no_name():
    web, db, odd = Who(b"nginx", b"/", 33), Who(b"postgres", b"/db.service", 70), Who(b"nginx-2", b"/", 33)
    edges = Counter({(web, db): 5, (odd, db): 2, (None, web): 9, (db, web): 1})
    seen = watched(10**9, {web: traced(20), db: traced(10)}, edges=edges)
    found = group(seen, [intent("web", comm=["nginx*"])], 1).edges
    assert [(e.waker, e.wakee, e.wakeups) for e in found] == [
        ("", "shop/web", 9),
        ("shop/web", "/db.service", 7),
        ("/db.service", "shop/web", 1),
    ]


def test_edges_of_what_is_in_others_are_others():
    samples = {Who(f"c{n}".encode(), b"/", 0): traced(1000 + n) for n in range(100)}
    quiet, busy = Who(b"c0", b"/", 0), Who(b"c99", b"/", 0)
    found = group(watched(10**6, samples, edges=Counter({(quiet, busy): 3})), (), 1).edges
    assert [(e.waker, e.wakee, e.wakeups) for e in found] == [("others", "c99", 3)]
