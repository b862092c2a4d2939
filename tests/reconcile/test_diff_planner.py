# SPDX-License-Identifier: Apache-2.0
"""What the planner plans, and what it does not plan again."""

from __future__ import annotations

import pytest

from controller.api import PlanOutcome, sought_digest
from controller.reconcile import keys
from controller.reconcile.diff import diff_planner
from tests.builders import T0, TARGET, attachment, digest, intent, later, node, policy, revision, source

POLICY = policy()
INTENT = intent()
KEY = keys.plan_key(POLICY, (INTENT,), TARGET)


def plan(nodes=None, *resources, plans=None, inputs=None, at=0.0, problems=()):
    state = source(*(resources or (POLICY, INTENT)), problems=problems)
    return diff_planner(state, tuple(nodes or (node(),)), plans or {}, inputs or {KEY: digest("e")}, later(at))


def remembered(kind: str, attempts: int = 1, inputs: str = digest("e")) -> dict[str, PlanOutcome]:
    done = PlanOutcome(
        plan_key=KEY, inputs=inputs, outcome=kind, reason="Because", message="m", attempts=attempts, at=T0
    )
    return {KEY: done}


def test_a_thousand_equal_nodes_need_one_plan():
    assert len(plan([node(f"n{i}") for i in range(1000)])) == 1


def test_nodes_of_another_kernel_or_topology_need_their_own():
    other = node("n2")
    assert other.status is not None
    assert other.status.topology is not None
    four = other.status.topology.model_copy(update={"topology_class": "cpus4.pkg1.smt1.llc1.numa1"})
    other = other.model_copy(update={"status": other.status.model_copy(update={"topology": four})})
    assert len(plan([node(), other])) == 2


def test_a_committed_revision_needs_no_plan():
    assert plan(None, POLICY, INTENT, revision("default-1", POLICY, (INTENT,))) == ()


def test_a_rejection_is_followed_by_other_attempts_up_to_the_budget():
    assert [t.attempt for t in plan(plans=remembered("Rejected", 1))] == [2]
    assert [t.attempt for t in plan(plans=remembered("Rejected", 2))] == [3]
    assert plan(plans=remembered("Rejected", 3), at=10**6) == ()
    one = policy(planner={"budget": {"attempts": 1}})
    key = keys.plan_key(one, (INTENT,), TARGET)
    done = {key: remembered("Rejected")[KEY].model_copy(update={"plan_key": key})}
    assert plan(None, one, INTENT, plans=done, inputs={key: digest("e")}) == ()


@pytest.mark.parametrize("kind", ["NoPlan", "AwaitingApproval"])
def test_an_outcome_is_not_tried_again_for_the_same_inputs(kind):
    assert plan(plans=remembered(kind), at=10**6) == ()


@pytest.mark.parametrize("kind", ["NoPlan", "Rejected", "Error", "AwaitingApproval"])
def test_changed_inputs_are_a_first_attempt(kind):
    tasks = plan(plans=remembered(kind, attempts=3), inputs={KEY: digest("f")})
    assert [t.attempt for t in tasks] == [1]


def failed(attempts: int, errors: int, kind: str = "Error") -> dict[str, PlanOutcome]:
    return {KEY: remembered(kind, attempts)[KEY].model_copy(update={"errors": errors})}


@pytest.mark.parametrize(
    ("attempts", "errors", "due"), [(1, 1, 60), (2, 2, 120), (4, 3, 240), (99, 99, 3600), (3, 1, 60)]
)
def test_could_not_tell_waits_longer_each_time(attempts, errors, due):
    assert plan(plans=failed(attempts, errors), at=due - 1) == ()
    (task,) = plan(plans=failed(attempts, errors), at=due)
    assert (task.attempt, task.errors) == (attempts + 1, errors)


def test_an_attempt_that_could_not_be_judged_takes_none_of_the_budget():
    assert [t.attempt for t in plan(plans=failed(5, 3, "Rejected"))] == [6]
    assert plan(plans=failed(5, 2, "Rejected"), at=10**6) == ()


def test_a_deleted_revision_is_made_again():
    assert len(plan(plans=remembered("Planned"))) == 1


@pytest.mark.parametrize(
    "resources", [(POLICY,), (INTENT,), (policy(suspend=True), INTENT), (POLICY, policy("other"), INTENT)]
)
def test_nothing_to_plan(resources):
    assert plan(None, *resources) == ()


def test_a_bad_commit_is_not_planned_for():
    assert plan(problems=("x.yaml: bad",)) == ()


def test_a_node_that_was_never_observed_waits():
    assert plan([node(profiled=False)]) == ()


def looked_for(*intents, name="n1"):
    """A node whose last window looked for just these, and found a task of shop/checkout."""
    seen = node(name)
    profile = seen.status.profile.model_copy(update={"sought": sought_digest(intents)})
    return seen.model_copy(update={"status": seen.status.model_copy(update={"profile": profile})})


def test_a_node_that_has_not_looked_for_the_committed_intents_yet_waits():
    assert len(plan([looked_for(INTENT)])) == 1
    assert plan([looked_for()]) == ()
    more = intent("reports")
    assert plan([looked_for(INTENT)], POLICY, INTENT, more) == ()
    assert len(plan([looked_for(INTENT, more)], POLICY, INTENT, more)) == 1
    (task,) = plan([looked_for(INTENT), looked_for(INTENT, more, name="n2")], POLICY, INTENT, more)
    assert task.node.name == "n2"


def test_another_wish_of_the_same_tasks_needs_no_other_look():
    wanting = INTENT.model_copy(update={"spec": INTENT.spec.model_copy(update={"weight": 700})})
    assert sought_digest((wanting,)) == sought_digest((INTENT,))
    of_others = INTENT.spec.workload.model_copy(update={"comm": ("other",)})
    selecting = INTENT.model_copy(update={"spec": INTENT.spec.model_copy(update={"workload": of_others})})
    assert sought_digest((selecting,)) != sought_digest((INTENT,))


def test_the_key_moves_with_what_is_wanted_and_only_with_that():
    same = policy(rollout={"probation": "5s"}, approval="Manual", priority=9)
    assert keys.plan_key(same, (INTENT,), TARGET) == KEY
    for changed in (
        keys.plan_key(policy(templates={"allow": ["x"]}), (INTENT,), TARGET),
        keys.plan_key(POLICY, (intent(weight=7),), TARGET),
        keys.plan_key(POLICY, (), TARGET),
        keys.plan_key(POLICY, (INTENT,), TARGET.model_copy(update={"btf_digest": digest("9")})),
        keys.plan_key(POLICY, (INTENT,), TARGET.model_copy(update={"topology_class": "cpus4.pkg1.smt1.llc1.numa1"})),
    ):
        assert changed != KEY
    patch = TARGET.model_copy(update={"kernel_release": "7.3.5-test"})
    assert keys.plan_key(POLICY, (INTENT,), patch) == KEY


def test_an_intent_counts_when_it_matches_or_is_served():
    served = revision("default-1", POLICY, (INTENT,))
    desired = source(POLICY, INTENT, intent("other"), served).desired
    assert desired is not None
    assert [i.name for i in keys.counted_intents(desired, node())] == ["checkout"]
    assert keys.counted_intents(desired, node(matched=())) == ()
    kept = keys.counted_intents(desired, node(matched=(), attached=attachment(served)))
    assert [i.name for i in kept] == ["checkout"]
