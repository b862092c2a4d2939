# SPDX-License-Identifier: Apache-2.0
"""The planner made of roles, each a model call where it is worth one, each an answer that is only data.

    observer   profile → findings                       planner    findings, intents, catalogue → strategy
    executor   strategy → values, hole expressions      learner    what was tried → lessons
    author     a gap in the catalogue → a new template, for a person to review

Each role takes and gives values of controller.plan.values; who filled it, a model or rules, the next one cannot tell.
With no key the rules planner decides; all roles filled by rules come to just its proposal (`by_rules`). With a key a
role is still left to rules where they give its answer at equal quality for nothing:

    observer   comparing two figures needs no model; asked only when the rules find nothing to say of an intent that
               has figures (observer.unexplained)
    planner    always asked: weighing several intents against eight templates is where rules are a crude table
    executor   not asked when the strategy names nothing to write: then every value is the template's default
    learner    what verification refuses has one reading each, a table; asked only about a trial whose figures point
               both ways (learner.is_trade_off)

So a plan is one or two calls, and three or four where the past or the profile is hard. The rules planner has made a
proposal before any is asked; its classes (which tasks, by what match, in what order) are kept as they are. An answer
that fails a check goes back to its role as stage, place and bound, at most `budget.attempts` refused answers a plan. A
candidate that verification refused comes back with the next plan as `earlier`: stage, rule and figures. Models are
chosen by `tiers`, every request passes `controller.plan.taint` and is accounted in the ledger before it leaves.

Under autonomy `template` a strategy may say what every template lacks. It chooses among those that there are all the
same; the author is asked when the proposal is complete, and what it writes goes to a desk (controller.plan.drafting),
where it is checked, judged, and left for a branch of its own. No plan uses it before a person has merged it.
"""

from __future__ import annotations

from collections.abc import Sequence

from controller.api import (
    Lesson,
    PlannerRecord,
    Proposal,
    SchedulerPolicy,
    SchedulerTemplate,
    SchedulingIntent,
    WorkloadProfile,
)
from controller.plan.claude import author, executor, learner, observer, planner, tiers
from controller.plan.claude.asking import REFUSED, Campaign
from controller.plan.claude.refusals import WORDS, NoAnswer, Refused
from controller.plan.drafting import Desk
from controller.plan.ledger import Ledger
from controller.plan.messages import Settings
from controller.plan.prompt import Prompt, build
from controller.plan.taint import Guard
from controller.plan.transport import Api, Transport

__all__ = ["DEADLINE_S", "NoAnswer", "by_rules", "propose"]

DEADLINE_S = 180.0
"""For one plan: all roles, attempts, waits and retries. A transport with a patience of its own has that for each."""
DRAFTING_S = 300.0
"""More than that, where a new template may be asked for."""


def propose(
    profile: WorkloadProfile,
    intents: Sequence[SchedulingIntent],
    policy: SchedulerPolicy,
    templates: Sequence[SchedulerTemplate],
    base: Proposal,
    by: Settings | Transport,
    *,
    earlier: Sequence[Lesson] = (),
    failures: int = 0,
    ledger: Ledger | None = None,
    deadline_s: float = DEADLINE_S,
    desk: Desk | None = None,
) -> Proposal:
    """`base` (the rules planner's proposal) with the models' choices in place of its own. Raises NoAnswer.

    `templates` are those the policy allows; `earlier` is what became of proposals for the same key, oldest first, and
    `failures` counts those of a model that were rejected for the same inputs.
    `desk` is where a new template is handed in, if the policy allows one.
    Returns or raises within `deadline_s` (and DRAFTING_S, with a desk), or for a transport with patience within that
    for each of its questions.
    """
    transport = Api(by) if isinstance(by, Settings) else by
    autonomy = policy.spec.planner.autonomy
    drafting = desk is not None and autonomy == "template"
    prompt = build(profile, intents, templates, base, expressions=autonomy != "parameters", drafting=drafting)
    if not prompt.templates:
        raise NoAnswer("no allowed template is sound and made for this kernel")
    tried = learner.attempts(earlier, prompt)
    patience = transport.patience_s
    most_s = (
        deadline_s + DRAFTING_S * drafting
        if patience is None
        else patience * (policy.spec.planner.budget.attempts + len(tiers.ROLES))
    )
    campaign = Campaign(
        policy,
        transport,
        ledger or Ledger(),
        Guard.of_plan(_trusted(transport, earlier, drafting=drafting), profile, intents, policy, templates, base),
        most_s,
        failures=failures,
    )
    findings = observer.by_rules(prompt)
    if observer.unexplained(prompt, findings):
        findings = observer.ask(campaign, prompt, findings)
    lessons = learner.by_rules(tried)
    if learner.is_trade_off(tried):
        lessons = learner.ask(campaign, prompt, tried, lessons)
    strategy = planner.ask(campaign, prompt, findings, tried, lessons)
    if executor.leaves_something(strategy):
        filling = executor.ask(campaign, prompt, strategy, tried, lessons)
    else:
        filling = executor.NOTHING
    record = PlannerRecord(name="claude", version="+".join(campaign.models))
    try:
        made = executor.proposal(strategy, filling, prompt, base, record)
    except Refused as refused:
        raise NoAnswer(f"what was answered does not fit together: {refused.refusals[0]}") from None
    if desk is not None and author.wanted(prompt, strategy):
        author.hand_in(campaign, prompt, findings, strategy, base, desk)
    return made


def by_rules(
    profile: WorkloadProfile,
    intents: Sequence[SchedulingIntent],
    templates: Sequence[SchedulerTemplate],
    base: Proposal,
) -> tuple[Prompt, Proposal]:
    """What the roles are given, and the proposal that comes out when all of them are filled by rules.

    It is `base` in everything that is rendered: the values that pass between the roles lose nothing of it.
    """
    prompt = build(profile, intents, templates, base, expressions=True)
    strategy = planner.checked(planner.by_rules(prompt, base), prompt)
    filling = executor.checked(executor.by_rules(prompt, strategy, base), prompt, strategy)
    return prompt, executor.proposal(strategy, filling, prompt, base, base.planner)


def _trusted(transport: Transport, earlier: Sequence[Lesson], *, drafting: bool) -> set[str]:
    """Our own texts that are not ours in every request: instructions, words of refusals, models, names of figures."""
    roles = (*observer.texts(), *planner.texts(), *executor.texts(), *learner.texts())
    roles += tuple(author.texts()) if drafting else ()
    models = {tier.model for tier in tiers.TIERS} | {transport.model}
    figures = {name for one in earlier for name in one.figures if learner.is_figure(name)}
    return {REFUSED, *roles} | WORDS | models | figures
