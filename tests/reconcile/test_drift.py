# SPDX-License-Identifier: Apache-2.0
"""A load that changed for good is planned anew, once; one that wobbles is not."""

from __future__ import annotations

from controller.api import Drift, Fingerprint, NodeScheduler, PlanOutcome, SchedulerRevision
from controller.api.fingerprint import WorkloadVector
from controller.reconcile import drift, keys
from controller.reconcile.diff import diff_planner
from controller.reconcile.statuses import policy_status
from tests.api.test_fingerprint import burst, stats
from tests.builders import T0, TARGET, digest, intent, later, node, policy, revision, source

POLICY, INTENT = policy(), intent()
KEY = keys.plan_key(POLICY, (INTENT,), TARGET)
PLANNED = {"wakeups": 5000, "tasks": 4, "burst": burst(100_000)}
OTHER = {"wakeups": 500_000, "tasks": 256, "burst": burst(20_000)}


def observed(at: float, **load: object) -> NodeScheduler:
    made = node()
    assert made.status is not None
    assert made.status.profile is not None
    workload = stats("shop/checkout", **load)
    profile = made.status.profile.model_copy(update={"taken_at": later(at), "workloads": (workload,)})
    return made.model_copy(update={"status": made.status.model_copy(update={"profile": profile})})


def planned_for(name: str = "default-1", made: float = 0, **load: object) -> SchedulerRevision:
    from controller.api import fingerprint_of

    status = observed(0, **load).status
    assert status is not None
    assert status.profile is not None
    workload = fingerprint_of(status.profile, ["shop/checkout"])
    base = revision(name, POLICY, (INTENT,), made=made)
    return base.model_copy(update={"spec": base.spec.model_copy(update={"workload": workload})})


def after(*loads: dict[str, object], wanted: SchedulerRevision | None = None) -> tuple[Drift, ...]:
    """What is remembered after these profiles, a minute apart."""
    desired = source(POLICY, INTENT, wanted or planned_for(**PLANNED)).desired
    assert desired is not None
    found: tuple[Drift, ...] = ()
    for minute, load in enumerate(loads, start=1):
        found = drift.seen(desired, (observed(60 * minute, **load),), found)
    return found


def tasks(found: tuple[Drift, ...], plans: dict[str, PlanOutcome] | None = None):
    state = source(POLICY, INTENT, planned_for(**PLANNED))
    nodes = (observed(600, **OTHER),)
    return diff_planner(state, nodes, plans or {}, {KEY: digest("e")}, later(600), drift.drifted(found))


def test_the_planned_load_is_no_drift():
    assert after(PLANNED, PLANNED, PLANNED, PLANNED) == ()


def test_three_profiles_in_a_row_are_another_load():
    assert [d.profiles for d in after(OTHER, OTHER)] == [2]
    assert tasks(after(OTHER, OTHER)) == ()
    found = after(OTHER, OTHER, OTHER)
    assert drift.drifted(found).keys() == {"default-1"}
    assert [(t.key, t.attempt) for t in tasks(found)] == [(KEY, 1)]


def test_one_odd_profile_is_noise():
    assert after(OTHER, OTHER, PLANNED) == ()
    assert [d.profiles for d in after(OTHER, PLANNED, OTHER)] == [1]


def test_a_profile_counts_once_however_often_it_is_looked_at():
    desired = source(POLICY, INTENT, planned_for(**PLANNED)).desired
    assert desired is not None
    found: tuple[Drift, ...] = ()
    for _ in range(5):
        found = drift.seen(desired, (observed(60, **OTHER),), found)
    assert [d.profiles for d in found] == [1]


def test_a_failed_plan_for_a_drift_is_not_tried_again():
    found = after(OTHER, OTHER, OTHER)
    (task,) = tasks(found)
    for kind in ("Rejected", "NoPlan", "Planned"):
        done = PlanOutcome(
            plan_key=KEY, inputs=task.inputs, outcome=kind, reason="X", message="m", attempts=3, at=T0
        )  # fmt: skip
        assert tasks(found, {KEY: done}) == ()


def test_a_revision_that_was_planned_anew_starts_with_no_drift():
    assert after(OTHER, OTHER, OTHER, wanted=planned_for("default-2", made=1, **OTHER)) == ()


def test_a_revision_without_a_fingerprint_never_drifts():
    assert after(OTHER, OTHER, OTHER, wanted=revision("default-1", POLICY, (INTENT,))) == ()


def test_the_policy_says_which_load_changed_and_that_the_node_keeps_what_it_runs():
    desired = source(POLICY, INTENT, planned_for(**PLANNED)).desired
    assert desired is not None
    nodes = (observed(180, **OTHER),)
    for loads, status in (((OTHER, OTHER, OTHER), "True"), ((OTHER,), "False")):
        made = policy_status(POLICY, desired, nodes, {}, {}, None, after(*loads))
        assert made.status is not None
        found = made.status.condition("Drifted")
        assert found is not None
        assert (found.status.value, found.reason) == (status, "LoadChanged" if status == "True" else "AsPlanned")
        assert ("keeps what it runs" in found.message) == (status == "True")
        assert made.status.drifts == after(*loads)


def test_the_limit_is_no_part_of_what_is_wanted():
    wider = policy(verification={"maxDrift": 0.9})
    assert keys.plan_key(wider, (INTENT,), TARGET) == KEY


def test_a_fingerprint_survives_the_wire():
    workload = planned_for(**PLANNED).spec.workload
    assert workload is not None
    assert Fingerprint.model_validate(workload.wire()) == workload
    assert isinstance(workload.workloads[0], WorkloadVector)
