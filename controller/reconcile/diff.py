# SPDX-License-Identifier: Apache-2.0
"""`diff(desired, actual) → actions`, for a node and for the planner: pure functions of values.

No clock, no Git, no kernel: the time is an argument. A node's decision is at most one action and the conditions that
explain it; the executor carries it out, looks again, and asks again, so that each action starts from what the kernel
says and not from what the one before should have done. Reading the cases from top to bottom is reading the priorities:
what keeps the node safe comes before what makes it fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Literal

from controller.api import (
    ApiModel,
    Attachment,
    Condition,
    ConditionStatus,
    Drift,
    NodeScheduler,
    PlanOutcome,
    SchedulerPolicy,
    SchedulerRevision,
    SchedulingIntent,
    SourceState,
    sha256,
    sought_digest,
)
from controller.deploy import Actual
from controller.deploy.actual import Death
from controller.reconcile import keys


class Attach(ApiModel):
    """Put this committed revision on probation; the gate has the last word."""

    revision: SchedulerRevision
    why: str


class Tune(ApiModel):
    """Write this committed revision's knobs into the scheduler that runs; the gate has the last word."""

    revision: SchedulerRevision


class Detach(ApiModel):
    """Back to the kernel's own scheduler."""

    why: str


class Promote(ApiModel):
    """Probation is over; `pin` makes it outlive the agent."""

    pin: bool


class Bury(ApiModel):
    """Take note of a scheduler that died."""

    death: Death


Action = Attach | Tune | Detach | Promote | Bury


class NodeView(ApiModel):
    """Everything a node's decision depends on."""

    source: SourceState
    node: NodeScheduler
    """This node's resource with its newest status: labels, profile, attachment."""
    actual: Actual
    plans: Mapping[str, PlanOutcome]
    """The planner's outcomes by plan key."""
    refused: Mapping[str, str]
    """Revisions that the gate or the kernel refused at this commit, with the reason."""
    at: datetime


class NodeDecision(ApiModel):
    """At most one action, and what to tell people."""

    actions: tuple[Action, ...] = ()
    conditions: tuple[Condition, ...]


def diff_node(view: NodeView) -> NodeDecision:
    """What this node should do next."""
    actual, source = view.actual, view.source
    if actual.died is not None:
        return _decide(view, "Reconciling", "SchedulerDied", actual.died.reason, Bury(death=actual.died))
    if actual.ejected:
        action = Detach(why="ejected") if _ours(actual) else None
        message = "held on the kernel's own scheduler by `schedctl eject`; `schedctl eject --release` lifts it"
        return _decide(view, "Stalled", "Ejected", message, action)
    if not actual.kernel.sched_ext:
        message = (
            f"kernel {actual.kernel.release} has no sched_ext; boot one with CONFIG_SCHED_CLASS_EXT (6.12 or newer)"
        )
        return _decide(view, "Stalled", "NoSchedExt", message)
    if actual.attached is not None and actual.attached.phase == "Foreign":
        message = f"somebody else attached the scheduler {actual.attached.ops_name}; it is left alone"
        return _decide(view, "Stalled", "ForeignScheduler", message)
    if source.desired is None:
        message = "; ".join(source.problems) or "no commit to converge to yet"
        return _decide(view, "Stalled", source.reason, message, _probation(view))
    policy = keys.governing(source.desired.policies, view.node.spec.labels)
    if isinstance(policy, keys.Conflict):
        message = f"policies {' and '.join(policy.policies)} have equal priority and both select this node"
        return _decide(view, "Stalled", "PolicyConflict", message, _probation(view))
    if policy is None:
        action = Detach(why="no policy selects this node") if _ours(actual) else None
        return _decide(
            view, "Ready", "NoPolicy", "no policy selects this node: the kernel's own scheduler runs", action
        )
    if policy.spec.suspend:
        return _decide(view, "Ready", "Suspended", f"policy {policy.name} is suspended: nothing is changed")
    return _under(view, policy)


def _under(view: NodeView, policy: SchedulerPolicy) -> NodeDecision:
    """The decision under a governing policy that is not suspended."""
    actual, desired = view.actual, view.source.desired
    assert desired is not None
    if view.node.status is None or view.node.status.profile is None:
        return _decide(view, "Reconciling", "Observing", "the first profile is being taken", _probation(view))
    intents = keys.counted_intents(desired, view.node)
    if not intents:
        action = Detach(why="no intent matches here") if _ours(actual) else None
        message = "no intent matches a task here: the kernel's own scheduler runs"
        return _decide(view, "Ready", "NoIntentMatches", message, action)
    target = keys.target_of(view.node)
    if target is None:
        return _decide(view, "Stalled", "NoKernelBTF", "this kernel has no BTF: no passport can be bound to it")
    key = keys.plan_key(policy, intents, target)
    wanted = keys.newest(desired.revisions, key)
    if wanted is None:
        return _without_revision(view, policy, view.plans.get(key))
    digests = wanted.spec.digests
    bad = actual.quarantined(digests.object, digests.passport)
    if bad is not None or wanted.name in view.refused:
        why = bad.reason if bad is not None else view.refused[wanted.name]
        return _fallback(view, policy, wanted, "Quarantined" if bad is not None else "Refused", why)
    if _only_knobs_differ(view, wanted):
        message = f"changing knobs to those of {wanted.name}"
        return _decide(view, "Reconciling", "Tuning", message, Tune(revision=wanted))
    if actual.attached is None or actual.attached.revision != wanted.name:
        message = f"attaching {wanted.name}"
        return _decide(
            view, "Reconciling", "Attaching", message, Attach(revision=wanted, why="committed for this node")
        )
    return _attached(view, policy, wanted.name)


def _only_knobs_differ(view: NodeView, wanted: SchedulerRevision) -> bool:
    """Whether the attached scheduler becomes the wanted revision by its map of knobs alone.

    The object says so: without its knobs' values it is the one that is loaded. The classes must be those of the
    attached revision too, for user space resolves cgroups from their selectors.
    """
    attached, desired = view.actual.attached, view.source.desired
    assert desired is not None
    if attached is None or attached.revision in (None, wanted.name):
        return False
    running = next((r for r in desired.revisions if r.name == attached.revision), None)
    if running is None or not view.actual.code or wanted.spec.digests.code != view.actual.code:
        return False
    return running.spec.target == wanted.spec.target and _fixed(running) == _fixed(wanted)


def _fixed(revision: SchedulerRevision) -> list[object]:
    """What no knob changes of a revision's classes."""
    return [(c.handle, c.intent, c.metric, c.match, c.selector) for c in revision.spec.proposal.classes]


def _attached(view: NodeView, policy: SchedulerPolicy, name: str) -> NodeDecision:
    """The wanted revision is attached: probation, or all is well."""
    attached = view.actual.attached
    assert attached is not None
    if attached.phase == "Promoted":
        return _decide(view, "Ready", "Promoted", f"{name} is attached and passed its probation")
    promote = _probation(view)
    left = _probation_end(view, policy) - view.at
    message = f"{name} is attached; probation ends in {max(int(left.total_seconds()), 0)}s"
    return _decide(view, "Reconciling", "Probation", message, promote)


def _without_revision(view: NodeView, policy: SchedulerPolicy, outcome: PlanOutcome | None) -> NodeDecision:
    """Nothing is committed for what is wanted now: the last good revision stays, and the reason is said."""
    attached = view.actual.attached
    keeping = f"staying on {attached.revision}" if attached is not None else "staying on the kernel's own scheduler"
    probation = _probation(view)
    if outcome is None or outcome.outcome == "Planned":
        message = f"waiting for a revision under policy {policy.name}; {keeping}"
        return _decide(view, "Reconciling", "AwaitingRevision", message, probation)
    if outcome.outcome == "AwaitingApproval":
        message = f"{outcome.message}; {keeping}"
        return _decide(view, "Reconciling", "AwaitingApproval", message, probation)
    return _decide(view, "Stalled", outcome.reason, f"{outcome.message}; {keeping}", probation)


def _fallback(
    view: NodeView, policy: SchedulerPolicy, wanted: SchedulerRevision, reason: str, why: str
) -> NodeDecision:
    """The wanted revision may not run here: go back to the last one that was promoted, if it still may."""
    actual, desired = view.actual, view.source.desired
    assert desired is not None
    attached = actual.attached.revision if actual.attached else None
    if attached is not None and attached != wanted.name:
        return _decide(view, "Stalled", reason, f"{wanted.name}: {why}; staying on {attached}", _probation(view))
    good = next((r for r in desired.revisions if r.name == actual.last_good and r.name != wanted.name), None)
    may = (
        good is not None
        and good.spec.policy == policy.name
        and good.name not in view.refused
        and actual.quarantined(good.spec.digests.object, good.spec.digests.passport) is None
    )
    if good is not None and may:
        action = Attach(revision=good, why=f"rolling back from {wanted.name}")
        return _decide(view, "Stalled", reason, f"{wanted.name}: {why}; going back to {good.name}", action)
    message = f"{wanted.name}: {why}; staying on the kernel's own scheduler"
    return _decide(view, "Stalled", reason, message, Detach(why=why) if _ours(actual) else None)


def _probation(view: NodeView) -> Promote | None:
    """The promotion that is due, whatever else is wrong: a scheduler must not stay on probation because Git is gone."""
    attached, desired = view.actual.attached, view.source.desired
    if attached is None or attached.phase != "Probation" or desired is None:
        return None
    policy = keys.governing(desired.policies, view.node.spec.labels)
    if not isinstance(policy, SchedulerPolicy) or view.at < _probation_end(view, policy):
        return None
    return Promote(pin=policy.spec.rollout.on_agent_exit == "keep")


def _probation_end(view: NodeView, policy: SchedulerPolicy) -> datetime:
    assert view.actual.attached is not None
    return view.actual.attached.since + timedelta(microseconds=policy.spec.rollout.probation / 1000)


def _ours(actual: Actual) -> bool:
    return actual.attached is not None and actual.attached.phase != "Foreign"


def _decide(
    view: NodeView,
    summary: Literal["Ready", "Reconciling", "Stalled"],
    reason: str,
    message: str,
    action: Action | None = None,
) -> NodeDecision:
    """The kstatus trio from one summary, and the conditions that speak of one thing each."""
    actual, source = view.actual, view.source
    generation = view.node.metadata.generation
    attached = actual.attached
    bad = summary == "Stalled" and reason in ("Quarantined", "Refused", "ForeignScheduler")
    said: list[tuple[str, bool, str, str]] = [
        ("Ready", summary == "Ready", reason, message),
        ("Reconciling", summary == "Reconciling", reason, message if summary == "Reconciling" else ""),
        ("Stalled", summary == "Stalled", reason, message if summary == "Stalled" else ""),
        ("SourceVerified", not source.problems, source.reason, "; ".join(source.problems)),
        ("Degraded", bad, reason if bad else "AsDesired", message if bad else ""),
        (
            "Attached",
            attached is not None,
            attached.phase if attached is not None else "KernelScheduler",
            _in_charge(attached) if attached is not None else "the kernel's own scheduler runs",
        ),
    ]
    conditions = tuple(
        Condition(
            type=kind,
            status=ConditionStatus.TRUE if true else ConditionStatus.FALSE,
            reason=why,
            message=text,
            observed_generation=generation,
        )
        for kind, true, why, text in said
    )
    return NodeDecision(actions=(action,) if action is not None else (), conditions=conditions)


def _in_charge(attached: Attachment) -> str:
    said = f"{attached.ops_name} is in root/ops"
    return (
        f"{said}; it was loaded as {attached.loaded}, with the knobs of {attached.revision}"
        if attached.loaded
        else said
    )


class PlanTask(ApiModel):
    """One set of inputs that has no revision and no remembered failure: plan it."""

    policy: SchedulerPolicy
    intents: tuple[SchedulingIntent, ...]
    node: NodeScheduler
    """One of the nodes that need it; equal nodes share the result."""
    key: str
    inputs: str
    attempt: int
    errors: int = 0
    """Earlier attempts with these inputs that ended as Error."""


def diff_planner(
    source: SourceState,
    nodes: tuple[NodeScheduler, ...],
    plans: Mapping[str, PlanOutcome],
    template_inputs: Mapping[str, str],
    at: datetime,
    drifted: Mapping[str, Drift] | None = None,
) -> tuple[PlanTask, ...]:
    """What the planner should plan next, each key once.

    `template_inputs` maps a plan key to its `inputs` digest (made by the caller, who knows the templates). A failure
    with the same inputs is not retried (DESIGN rule 7), except `Rejected`, up to `budget.attempts` times, for the next
    attempt knows the lessons of those before and proposes something else; and `Error`, which says nothing about the
    candidate and is none of those attempts: that one waits 1, 2, 4, … minutes, at most an hour. Nothing is planned for
    a node whose profile is of other intents than are committed: which of them count there is not known yet, and a plan
    without one of them would be made in vain. `Planned` without its revision means that somebody deleted that, which
    asks for a new one. So does a revision that is in `drifted`: its name is among the inputs then, so that a failure of
    that plan is remembered too.
    """
    if source.desired is None or source.problems:
        return ()
    tasks: dict[str, PlanTask] = {}
    committed = sought_digest(source.desired.intents)
    for node in sorted(nodes, key=lambda n: n.name):
        policy = keys.governing(source.desired.policies, node.spec.labels)
        target = keys.target_of(node)
        intents = keys.counted_intents(source.desired, node)
        usable = isinstance(policy, SchedulerPolicy) and not policy.spec.suspend
        if not usable or target is None or not intents or node.status is None or node.status.profile is None:
            continue
        if node.status.profile.sought not in (None, committed):
            continue
        assert isinstance(policy, SchedulerPolicy)
        key = keys.plan_key(policy, intents, target)
        inputs = template_inputs.get(key, key)
        standing = keys.newest(source.desired.revisions, key)
        if key in tasks or (standing is not None and standing.name not in (drifted or {})):
            continue
        if standing is not None:
            inputs = sha256(f"{inputs} drifted {standing.name}".encode())
        before = plans.get(key)
        same = before is not None and before.inputs == inputs
        if standing is not None and same and before is not None and before.outcome == "Planned":
            continue  # its revision is on its way, or was deleted again
        if before is not None and same and not _retry_due(before, at, policy.spec.planner.budget.attempts):
            continue
        attempt, errors = (before.attempts + 1, before.errors) if before is not None and same else (1, 0)
        tasks[key] = PlanTask(
            policy=policy, intents=intents, node=node, key=key, inputs=inputs, attempt=attempt, errors=errors
        )
    return tuple(tasks.values())


def _retry_due(outcome: PlanOutcome, at: datetime, attempts: int) -> bool:
    if outcome.outcome == "Rejected":
        return outcome.attempts - outcome.errors < attempts
    if outcome.outcome != "Error":
        return outcome.outcome == "Planned"
    return at >= outcome.at + timedelta(minutes=min(2 ** min(max(outcome.errors, 1) - 1, 6), 60))
