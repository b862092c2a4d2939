# SPDX-License-Identifier: Apache-2.0
"""What `schedctl plan` knows of the past: what the planner would recall, or what a new plan starts from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from controller.cli.context import Context

if TYPE_CHECKING:
    from controller.api import Desired, NodeScheduler, Proposal, SchedulerPolicy, SchedulerTemplate, SchedulingIntent
    from controller.plan import Past
    from controller.source import GitStore


def remembered(
    context: Context,
    store: GitStore,
    desired: Desired,
    seen: NodeScheduler,
    policy: SchedulerPolicy,
    intents: tuple[SchedulingIntent, ...],
    templates: Sequence[SchedulerTemplate],
    *,
    recording: bool = False,
) -> tuple[Proposal | None, Past]:
    """The proposal of an exact revision, or None and the past of a new plan; what is recalled is said on stderr.

    `seen` has the profile. `recording`: a plan is to be made, with all that goes into it, so an exact revision is what
    it starts from.
    """
    from controller import __version__, plan
    from controller.reconcile import keys
    from controller.reconcile.diff import PlanTask
    from controller.reconcile.memory import Memory
    from controller.reconcile.node import plan_outcomes
    from controller.reconcile.questions import question_of

    target = keys.target_of(seen)
    if target is None:  # a profile from a kernel without BTF: no revision was made for it
        return None, plan.Past()
    key = keys.plan_key(policy, intents, target)
    inputs = keys.plan_inputs(key, templates, __version__)
    outcomes = plan_outcomes(store.statuses())
    task = PlanTask(policy=policy, intents=intents, node=seen, key=key, inputs=inputs, attempt=1)
    found = Memory(store).recollect(
        question_of(task, templates), desired, store.nodes(), outcomes.values(), context.now()
    )  # fmt: skip
    for why in found.passed_over:
        context.warn(f"Not recalled: {why}")
    near = found.near
    if found.exact is not None:
        told = f"revision {found.exact.revision.name} (distance {found.exact.distance:.2f})"
        if not recording:
            context.warn(f"Recalled from {told}: nobody was asked; --no-recall plans anew")
            return found.exact.revision.spec.proposal, plan.Past()
        context.warn(f"Not recalled: {told} fits as it is, but what is recorded is planned anew: it starts from there")
        near = found.exact
    prior = near.prior() if near is not None else None
    lessons = outcomes[key].lessons if key in outcomes else ()
    return None, plan.Past(inputs, lessons, prior)
