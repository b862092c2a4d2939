# SPDX-License-Identifier: Apache-2.0
"""What a node decides: each test is one sentence of the design about safety or progress."""

from __future__ import annotations

import pytest

from controller.api import NodeScheduler, PlanOutcome, Quarantined, SourceState
from controller.deploy import Actual
from controller.deploy.actual import Death
from controller.reconcile import keys
from controller.reconcile.diff import Attach, Bury, Detach, NodeDecision, NodeView, Promote, Tune, diff_node
from tests.builders import (
    BTF,
    T0,
    TARGET,
    actual,
    attachment,
    digest,
    intent,
    later,
    node,
    policy,
    revision,
    source,
)

POLICY = policy()
INTENT = intent()
WANTED = revision("default-1", POLICY, (INTENT,), object_="0")


def decide(
    source_: SourceState,
    actual_: Actual,
    *,
    node_: NodeScheduler | None = None,
    plans: dict[str, PlanOutcome] | None = None,
    refused: dict[str, str] | None = None,
    at: float = 0,
) -> NodeDecision:
    seen = node_ or node(attached=actual_.attached)
    return diff_node(
        NodeView(source=source_, node=seen, actual=actual_, plans=plans or {}, refused=refused or {}, at=later(at))
    )


def said(decision: NodeDecision, kind: str) -> tuple[str, str, str]:
    found = next(c for c in decision.conditions if c.type == kind)
    return found.status.value, found.reason, found.message


def outcome(kind: str, reason: str, message: str) -> PlanOutcome:
    key = keys.plan_key(POLICY, (INTENT,), TARGET)
    return PlanOutcome(plan_key=key, inputs=digest("e"), outcome=kind, reason=reason, message=message, at=T0)


def test_a_committed_revision_for_this_node_is_attached():
    decision = decide(source(POLICY, INTENT, WANTED), actual())
    assert decision.actions == (Attach(revision=WANTED, why="committed for this node"),)
    assert said(decision, "Reconciling")[:2] == ("True", "Attaching")


def test_the_newest_of_equal_revisions_is_wanted():
    newer = revision("default-2", POLICY, (INTENT,), made=10, object_="1")
    decision = decide(source(POLICY, INTENT, newer, WANTED), actual(attached=attachment(WANTED)))
    assert [a.revision.name for a in decision.actions] == ["default-2"]


def tunable(name: str, *, weight: int = 100, code: str = "c", made: float = 0, comm: str = "web"):
    """A revision whose object without its knobs has the digest `code`."""
    plain = revision(name, POLICY, (INTENT,), made=made, object_=name[-1])
    classes = tuple(
        c.model_copy(update={"weight": weight, "selector": c.selector.model_copy(update={"comm": (comm,)})})
        for c in plain.spec.proposal.classes
    )
    filled = {
        "digests": plain.spec.digests.model_copy(update={"code": digest(code)}),
        "proposal": plain.spec.proposal.model_copy(update={"classes": classes}),
    }
    return plain.model_copy(update={"spec": plain.spec.model_copy(update=filled)})


@pytest.mark.parametrize(
    ("newer", "code", "action"),
    [
        (tunable("default-2", weight=300, made=10), digest("c"), Tune),
        (tunable("default-2", weight=300, made=10), "", Attach),
        (tunable("default-2", weight=300, made=10), digest("e"), Attach),
        (tunable("default-2", weight=300, made=10, code="e"), digest("c"), Attach),
        (tunable("default-2", weight=300, made=10, comm="other"), digest("c"), Attach),
        (revision("default-2", POLICY, (INTENT,), made=10, object_="2"), digest("c"), Attach),
    ],
    ids=["same code", "no knobs", "other code loaded", "other code wanted", "other tasks", "no digest"],
)
def test_only_a_revision_that_differs_in_knobs_alone_changes_them_in_place(newer, code, action):
    older = tunable("default-1")
    decision = decide(source(POLICY, INTENT, older, newer), actual(attached=attachment(older), code=code))
    assert [type(a) for a in decision.actions] == [action]
    assert decision.actions[0].revision == newer


def test_knobs_are_not_changed_in_place_under_a_revision_that_was_deleted():
    older, newer = tunable("default-1"), tunable("default-2", weight=300, made=10)
    decision = decide(source(POLICY, INTENT, newer), actual(attached=attachment(older), code=digest("c")))
    assert [type(a) for a in decision.actions] == [Attach]


def test_the_knobs_of_a_quarantined_revision_are_never_written():
    older, newer = tunable("default-1"), tunable("default-2", weight=300, made=10)
    bad = actual(attached=attachment(older), code=digest("c"), quarantine=(quarantined("2"),))
    decision = decide(source(POLICY, INTENT, older, newer), bad)
    assert decision.actions == ()
    assert "staying on default-1" in said(decision, "Stalled")[2]


def test_nothing_is_attached_without_a_revision():
    decision = decide(source(POLICY, INTENT), actual())
    assert decision.actions == ()
    assert said(decision, "Ready")[:2] == ("False", "AwaitingRevision")


def test_probation_ends_when_its_time_is_over_and_not_before():
    held = actual(attached=attachment(WANTED, "Probation"), state="enabled")
    early = decide(source(POLICY, INTENT, WANTED), held, at=59)
    assert early.actions == ()
    assert said(early, "Ready")[:2] == ("False", "Probation")
    assert decide(source(POLICY, INTENT, WANTED), held, at=60).actions == (Promote(pin=True),)


def test_on_agent_exit_detach_is_never_pinned():
    detaching = policy(rollout={"onAgentExit": "detach"})
    wanted = revision("default-1", detaching, (INTENT,))
    held = actual(attached=attachment(wanted, "Probation"))
    assert decide(source(detaching, INTENT, wanted), held, at=60).actions == (Promote(pin=False),)


def test_promoted_is_ready():
    decision = decide(source(POLICY, INTENT, WANTED), actual(attached=attachment(WANTED), state="enabled"))
    assert decision.actions == ()
    assert said(decision, "Ready")[:2] == ("True", "Promoted")
    assert said(decision, "Attached")[0] == "True"


@pytest.mark.parametrize(
    ("kind", "reason", "summary"),
    [
        ("NoPlan", "NoPlan", "Stalled"),
        ("Rejected", "VerificationRejected", "Stalled"),
        ("Error", "ToolMissing", "Stalled"),
        ("AwaitingApproval", "AwaitingApproval", "Reconciling"),
    ],
)
def test_a_failed_plan_keeps_the_last_good_revision_and_says_why(kind, reason, summary):
    changed = intent(weight=900)
    key = keys.plan_key(POLICY, (changed,), TARGET)
    plan = outcome(kind, reason, "template x is not allowed").model_copy(update={"plan_key": key})
    decision = decide(source(POLICY, changed, WANTED), actual(attached=attachment(WANTED)), plans={key: plan})
    assert decision.actions == ()
    status, why, message = said(decision, summary)
    assert (status, why) == ("True", reason)
    assert "template x is not allowed" in message
    assert "staying on default-1" in message


def test_a_dead_scheduler_is_buried_before_anything_else():
    death = Death(
        revision="default-1", object_digest=digest("0"), passport_digest=digest("d"), fault="Scheduler", reason="stall"
    )
    decision = decide(source(POLICY, INTENT, WANTED), actual(died=death, ejected=True))
    assert decision.actions == (Bury(death=death),)


def quarantined(letter: str = "0") -> Quarantined:
    return Quarantined(
        object_digest=digest(letter), btf_digest=BTF, passport_digest=digest("d"), reason="it stalled", at=T0
    )


def test_a_quarantined_digest_is_not_attached_again():
    decision = decide(source(POLICY, INTENT, WANTED), actual(quarantine=(quarantined(),)))
    assert decision.actions == ()
    assert said(decision, "Stalled") == (
        "True",
        "Quarantined",
        "default-1: it stalled; staying on the kernel's own scheduler",
    )
    assert said(decision, "Degraded")[0] == "True"


def test_a_new_passport_lifts_the_quarantine():
    old = quarantined().model_copy(update={"passport_digest": digest("f")})
    decision = decide(source(POLICY, INTENT, WANTED), actual(quarantine=(old,)))
    assert [type(a) for a in decision.actions] == [Attach]


def test_after_a_quarantine_the_last_promoted_revision_comes_back():
    newer = revision("default-2", POLICY, (INTENT,), made=10, object_="1")
    state = actual(quarantine=(quarantined("1"),), last_good="default-1")
    decision = decide(source(POLICY, INTENT, WANTED, newer), state)
    assert decision.actions == (Attach(revision=WANTED, why="rolling back from default-2"),)
    assert said(decision, "Stalled")[:2] == ("True", "Quarantined")


def test_rolled_back_it_stays_and_is_promoted_in_its_time():
    newer = revision("default-2", POLICY, (INTENT,), made=10, object_="1")
    state = actual(quarantine=(quarantined("1"),), last_good="default-1", attached=attachment(WANTED, "Probation"))
    assert decide(source(POLICY, INTENT, WANTED, newer), state).actions == ()
    assert decide(source(POLICY, INTENT, WANTED, newer), state, at=61).actions == (Promote(pin=True),)


def test_a_refused_passport_leaves_the_attached_scheduler_alone():
    newer = revision("default-2", POLICY, (INTENT,), made=10, object_="1")
    state = actual(attached=attachment(WANTED), last_good="default-1")
    decision = decide(source(POLICY, INTENT, WANTED, newer), state, refused={"default-2": "no trusted key"})
    assert decision.actions == ()
    assert said(decision, "Stalled")[:2] == ("True", "Refused")
    assert "no trusted key" in said(decision, "Stalled")[2]


def test_eject_wins_over_every_wish():
    decision = decide(source(POLICY, INTENT, WANTED), actual(ejected=True, attached=attachment(WANTED)))
    assert decision.actions == (Detach(why="ejected"),)
    assert decide(source(POLICY, INTENT, WANTED), actual(ejected=True)).actions == ()


def test_somebody_elses_scheduler_is_left_alone():
    foreign = attachment(WANTED, "Foreign").model_copy(update={"ops_name": "scx_lavd", "revision": None})
    decision = decide(source(POLICY, INTENT, WANTED), actual(attached=foreign, state="enabled"))
    assert decision.actions == ()
    assert said(decision, "Stalled")[:2] == ("True", "ForeignScheduler")


def test_a_source_that_fails_never_prunes():
    gone = SourceState(desired=None, reason="BranchGone", problems=("branch main is gone",))
    decision = decide(gone, actual(attached=attachment(WANTED)))
    assert decision.actions == ()
    assert said(decision, "SourceVerified") == ("False", "BranchGone", "branch main is gone")


def test_with_problems_the_last_good_state_is_still_converged_to():
    state = source(POLICY, INTENT, WANTED, problems=("x.yaml:3: bad",))
    decision = decide(state, actual())
    assert [type(a) for a in decision.actions] == [Attach]
    assert said(decision, "SourceVerified")[0] == "False"


@pytest.mark.parametrize(
    ("resources", "reason"),
    [((), "NoPolicy"), ((policy(nodeSelector={"zone": "b"}),), "NoPolicy"), ((POLICY,), "NoIntentMatches")],
)
def test_what_is_no_longer_wanted_is_detached(resources, reason):
    decision = decide(source(*resources), actual(attached=attachment(WANTED)))
    assert [type(a) for a in decision.actions] == [Detach]
    assert said(decision, "Ready")[:2] == ("True", reason)


def test_an_intent_whose_tasks_ended_is_still_served():
    idle = node(matched=(), attached=attachment(WANTED))
    decision = decide(source(POLICY, INTENT, WANTED), actual(attached=attachment(WANTED)), node_=idle)
    assert decision.actions == ()
    assert said(decision, "Ready")[1] == "Promoted"


def test_equal_priorities_are_an_error_and_change_nothing():
    other = policy("other")
    decision = decide(source(POLICY, other, INTENT, WANTED), actual(attached=attachment(WANTED)))
    assert decision.actions == ()
    assert said(decision, "Stalled")[:2] == ("True", "PolicyConflict")


def test_the_higher_priority_governs():
    high = policy("high", priority=5)
    mine = revision("high-1", high, (INTENT,))
    decision = decide(source(POLICY, high, INTENT, WANTED, mine), actual())
    assert [a.revision.name for a in decision.actions] == ["high-1"]


def test_suspended_changes_nothing():
    decision = decide(source(policy(suspend=True), INTENT, WANTED), actual(attached=attachment(WANTED)))
    assert decision.actions == ()
    assert said(decision, "Ready")[:2] == ("True", "Suspended")


def test_a_kernel_without_sched_ext_is_told_so():
    plain = actual().model_copy(update={"kernel": actual().kernel.model_copy(update={"sched_ext": False})})
    assert said(decide(source(POLICY, INTENT, WANTED), plain), "Stalled")[1] == "NoSchedExt"


def test_nothing_is_decided_before_the_first_profile():
    decision = decide(source(POLICY, INTENT, WANTED), actual(), node_=node(profiled=False))
    assert decision.actions == ()
    assert said(decision, "Reconciling")[1] == "Observing"


def test_every_decision_says_exactly_one_of_ready_reconciling_stalled():
    states = [actual(), actual(ejected=True), actual(attached=attachment(WANTED)), actual(quarantine=(quarantined(),))]
    sources = [source(), source(POLICY), source(POLICY, INTENT), source(POLICY, INTENT, WANTED)]
    for state in states:
        for src in sources:
            trio = [said(decide(src, state), kind)[0] for kind in ("Ready", "Reconciling", "Stalled")]
            assert trio.count("True") == 1
