# SPDX-License-Identifier: Apache-2.0
"""Which planner decides: the one the policy asks for, or the rules planner with a note saying why not.

The rules planner goes first, always: it costs nothing, what it refuses (no template allowed, nothing to plan) the
others would too, its proposal is the prior that the model is shown, its classes are the ones that are used, and it is
what remains when the model cannot be asked or says nothing usable. What earlier attempts taught, and a revision that
worked for a near load, are in `Past` (plan.learning).

    rules    the rules planner
    auto     claude with a key and a budget, else rules
    claude   the same: a policy is in Git, and whether there is a key is another machine's business; `schedctl plan
             --planner claude`, where both are the user's, insists (`insist`)
    search   what the rules propose, and better values for it where a bench shows some (plan.search)

A transport that is given (the file bridge, a recording) is asked whatever the mode, with no key and no budget.
Autonomy is the policy's: parameters, expressions, or template. Under `template` a model may write a new template, too,
if there is a desk to hand it in at (plan.drafting); the proposal is of a template that exists all the same, and its
note says what became of the draft.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from controller.api import Proposal, SchedulerPolicy, SchedulerTemplate, SchedulingIntent, WorkloadProfile
from controller.errors import InputError
from controller.plan import claude, learning, messages, search, tape
from controller.plan.drafting import Desk
from controller.plan.learning import Past
from controller.plan.ledger import Ledger
from controller.plan.messages import Settings
from controller.plan.search.measure import Bench
from controller.plan.transport import Transport

NO_DESK = "the policy allows new templates, and nobody here would take one: planned as expressions"


def propose(
    profile: WorkloadProfile,
    intents: Sequence[SchedulingIntent],
    policy: SchedulerPolicy,
    templates: Sequence[SchedulerTemplate],
    past: Past | None = None,
    *,
    transport: Transport | None = None,
    ledger: Ledger | None = None,
    desk: Desk | None = None,
    bench: Bench | None = None,
) -> Proposal:
    """A proposal for `intents` (those that matched) from the templates that `policy` allows.

    `past` is what became of proposals for the same inputs (it is given to models as typed lessons) and what is near.
    `ledger` is where calls are accounted, that of this machine by default. `desk` takes a new template, if one is
    written. `bench` measures for mode search.

    Raises InputError where there is nothing to propose. A missing key, or optuna, network, quota, budget, nonsense and
    what cannot be measured never raise: `planner.note` of the rules planner's proposal tells them.
    """
    mode = policy.spec.planner.mode
    transport = tape.transport(transport)
    allow = policy.spec.templates.allow
    allowed = [t for t in templates if any(fnmatch.fnmatchcase(t.name, glob) for glob in allow)]
    past = past or Past()
    if transport is None and mode in ("rules", "search"):
        base = learning.first(profile, intents, policy, allowed, past)
        template = next(t for t in allowed if t.name == base.template)
        return base if mode == "rules" else _searched(base, template, policy, past, bench)
    nothing: learning.NothingLeft | None = None
    try:
        base = learning.first(profile, intents, policy, allowed, past)
    except learning.NothingLeft as left:
        base, nothing = left.base, left

    def offline(note: str) -> Proposal:
        if nothing is not None:
            raise nothing
        return _noted(base, note)

    by: Settings | Transport
    if transport is not None:
        by = transport
    else:
        try:
            by = _settings(
                f"policy {policy.name} asks for planner {mode}",
                f"set {messages.KEY} where the planner runs, or spec.planner.mode to auto or rules",
            )
        except InputError as error:
            return offline(str(error) if mode == "claude" else error.message)
        if policy.spec.planner.budget.usd_per_day == 0:
            return offline("the policy's planner.budget.usdPerDay is 0")
    try:
        made = claude.propose(
            profile, intents, policy, allowed, base, by,
            earlier=past.lessons, failures=sum(one.planner == "claude" for one in past.rejected()),
            ledger=ledger, desk=desk,
        )  # fmt: skip
    except claude.NoAnswer as reason:
        return offline(f"claude gave no proposal: {reason.message}")
    drafted = _drafted(policy, desk)
    if past.was_refused(made):
        return offline("; ".join(filter(None, ("claude proposed again what was rejected before", drafted))))
    made = learning.credited(made, past)
    return _noted(made, drafted) if drafted else made


def insist(policy: SchedulerPolicy) -> None:
    """InputError where the planner that the user asks for, by the mode in `policy`, cannot be had on this machine."""
    mode = policy.spec.planner.mode
    if mode == "claude":
        _settings(f"planner {mode} is asked for", f"set {messages.KEY} here, or ask for planner auto or rules")
    elif mode == "search":
        search.ready()


def _searched(
    base: Proposal, template: SchedulerTemplate, policy: SchedulerPolicy, past: Past, bench: Bench | None
) -> Proposal:
    try:
        search.ready()
    except InputError as error:
        return _noted(base, str(error))
    return search.propose(base, template, policy, past, bench)


def _drafted(policy: SchedulerPolicy, desk: Desk | None) -> str:
    """What the note says of a new template."""
    if policy.spec.planner.autonomy != "template":
        return ""
    return desk.note() if desk is not None else NO_DESK


def _settings(who: str, remedy: str) -> messages.Settings:
    """InputError, of `who` asks and the `remedy`, where there is no key."""
    settings = tape.settings(messages.Settings.from_environment)
    if settings is None:
        raise InputError(f"{who}, and {messages.KEY} is not set", remedy=remedy)
    return settings


def _noted(base: Proposal, note: str) -> Proposal:
    return base.model_copy(update={"planner": base.planner.model_copy(update={"note": note})})
