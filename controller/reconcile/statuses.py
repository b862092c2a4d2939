# SPDX-License-Identifier: Apache-2.0
"""What the planner says of policies and intents: pure functions from desired state, nodes and outcomes to status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from controller.api import (
    Condition,
    ConditionStatus,
    Desired,
    Drift,
    IntentStatus,
    NodeScheduler,
    PlanOutcome,
    PolicyStatus,
    Resource,
    SchedulerPolicy,
    SchedulingIntent,
    now,
    set_condition,
)
from controller.reconcile import keys
from controller.reconcile.diff import PlanTask
from controller.reconcile.drift import IN_A_ROW

_MAX_PLANS = 256
"""As many as a status may hold (PolicyStatus)."""


def policy_status(
    policy: SchedulerPolicy,
    desired: Desired,
    nodes: Sequence[NodeScheduler],
    outcomes: Mapping[str, PlanOutcome],
    before: Mapping[tuple[str, str, str], Resource],
    working: PlanTask | None,
    drifts: Sequence[Drift] = (),
) -> SchedulerPolicy:
    """The policy with its status: nodes governed, plans, and whether something stands in the way."""
    mine = [n for n in nodes if keys.governing(desired.policies, n.spec.labels) == policy]
    current = {
        keys.plan_key(policy, keys.counted_intents(desired, n), target)
        for n in mine
        if (target := keys.target_of(n)) is not None and keys.counted_intents(desired, n)
    }
    old = before.get(policy.key)
    status = old.status if isinstance(old, SchedulerPolicy) and old.status is not None else PolicyStatus()
    kept = {o.plan_key: o for o in status.plans} | {k: o for k, o in outcomes.items() if k in current}
    # A current failure that is forgotten is planned, and paid for, again: what no node looks for goes first.
    by_worth = sorted(kept.values(), key=lambda o: (o.plan_key in current, o.at))
    plans = tuple(sorted(by_worth[-_MAX_PLANS:], key=lambda o: o.at))
    made = sorted((r for r in desired.revisions if r.spec.policy == policy.name), key=lambda r: r.spec.created_at)
    tied = [
        n.name for n in nodes
        if isinstance(found := keys.governing(desired.policies, n.spec.labels), keys.Conflict)
        and policy.name in found.policies
    ]  # fmt: skip
    failed = [o for k, o in outcomes.items() if k in current and o.outcome in ("NoPlan", "Rejected", "Error")]
    if tied:
        summary, reason, message = (
            "Stalled",
            "PolicyConflict",
            f"equal priority with another policy on {', '.join(tied)}",
        )
    elif working is not None and working.policy.name == policy.name:
        summary, reason, message = "Reconciling", "Planning", "a scheduler is being planned and verified"
    elif failed:
        summary, reason, message = "Stalled", failed[-1].reason, failed[-1].message
    elif policy.spec.suspend:
        summary, reason, message = "Ready", "Suspended", "nothing is planned, attached or detached"
    else:
        summary, reason, message = "Ready", "UpToDate", f"{len(mine)} nodes, {len(current)} plans wanted"
    conditions = _trio(status.conditions, summary, reason, message, policy.metadata.generation)
    here = tuple(d for d in drifts if d.node in {n.name for n in mine})
    conditions = set_condition(conditions, _drifted(here, policy), now())
    new = PolicyStatus(
        observed_generation=policy.metadata.generation,
        conditions=conditions,
        nodes=len(mine),
        plans=plans,
        drifts=here,
        revision=made[-1].name if made else None,
        commit=desired.commit,
    )
    return policy.model_copy(update={"status": new})


def intent_status(
    intent: SchedulingIntent,
    desired: Desired,
    nodes: Sequence[NodeScheduler],
    before: Mapping[tuple[str, str, str], Resource],
) -> SchedulingIntent:
    """The intent with its status: where it matches and what serves it. Matching nothing is no error."""
    name = intent.qualified_name
    matches = {
        n.name: m
        for n in nodes
        if n.status is not None and n.status.profile is not None
        for m in n.status.profile.matches
        if m.intent == name
    }
    on = tuple(sorted(node for node, m in matches.items() if m.tasks))
    serving = {r.name for r in desired.revisions if any(c.intent == name for c in r.spec.proposal.classes)}
    attached = [
        n.status.attached.revision
        for n in nodes
        if n.status is not None and n.status.attached is not None and n.status.attached.revision in serving
    ]
    unresolved = next((m.unresolved for m in matches.values() if m.unresolved), "")
    if not on:
        why = unresolved or f"no task on {len(matches)} observed nodes matches the selector"
        summary, reason, message = "Ready", "NoMatch", why
    elif attached:
        summary, reason, message = "Ready", "Served", f"served by {attached[-1]}"
    else:
        summary, reason, message = "Reconciling", "NotServedYet", "matched, but no attached revision serves it yet"
    old = before.get(intent.key)
    conditions = old.status.conditions if isinstance(old, SchedulingIntent) and old.status is not None else ()
    status = IntentStatus(
        observed_generation=intent.metadata.generation,
        conditions=_trio(conditions, summary, reason, message, intent.metadata.generation),
        matched_tasks=sum(m.tasks for m in matches.values()),
        nodes=on,
        revision=attached[-1] if attached else None,
    )
    return intent.model_copy(update={"status": status})


def _drifted(drifts: Sequence[Drift], policy: SchedulerPolicy) -> Condition:
    """Whether a load has been another one than was planned for, for long enough to count."""
    far = max((d for d in drifts if d.profiles >= IN_A_ROW), key=lambda d: d.distance, default=None)
    limit = policy.spec.verification.max_drift
    message = ""
    if far is not None:
        message = (
            f"the load on {far.node} is {far.distance:.2f} away from what {far.revision} was planned for "
            f"(verification.maxDrift is {limit:g}): it is planned and verified anew; the node keeps what it runs"
        )
    return Condition(
        type="Drifted",
        status=ConditionStatus.TRUE if far is not None else ConditionStatus.FALSE,
        reason="LoadChanged" if far is not None else "AsPlanned",
        message=message,
        observed_generation=policy.metadata.generation,
    )


def _trio(
    conditions: tuple[Condition, ...], summary: str, reason: str, message: str, generation: int | None
) -> tuple[Condition, ...]:
    """Ready, Reconciling and Stalled from one summary (kstatus)."""
    for kind in ("Ready", "Reconciling", "Stalled"):
        is_it = kind == summary
        new = Condition(
            type=kind,
            status=ConditionStatus.TRUE if is_it else ConditionStatus.FALSE,
            reason=reason,
            message=message if is_it or kind == "Ready" else "",
            observed_generation=generation,
        )
        conditions = set_condition(conditions, new, now())
    return conditions
