# SPDX-License-Identifier: Apache-2.0
"""Search: the offline planner that measures. Same classes and template as the rules planner, better values if any.

space      what may be changed, and how far         catalogue  the expressions that holes are tried with
course     optuna's TPE, one candidate at a time    pruning    when a candidate is given up, when it is better
measure    what is asked of a bench, and recorded   record     what was tried, in a dozen sentences

The bench is handed in: it is the micro-VM's trial (reconcile.measuring), a recording of it, or one that tests author.
What is proposed goes through the same gates as any other proposal, a trial of its own among them if the policy asks for
one. Equal settings and equal measurements give the equal proposal.
"""

from __future__ import annotations

from controller import __version__
from controller.api import PlannerRecord, Proposal, SchedulerPolicy, SchedulerTemplate
from controller.plan.learning import Past
from controller.plan.search.measure import Bench

NO_BENCH = "search measures candidates in a micro-VM, and there was none to measure in"


def ready() -> None:
    """InputError without optuna."""
    from controller.plan.search import course  # optuna takes a second to load

    course.optuna()


def propose(
    base: Proposal, template: SchedulerTemplate, policy: SchedulerPolicy, past: Past, bench: Bench | None
) -> Proposal:
    """The best of what was measured around `base`, the rules' own; that itself where nothing is shown to be better.

    What cannot be measured never raises: the rules' proposal comes back, and its note says why. `ready` comes first.
    """
    from controller.plan.search import course
    from controller.plan.search.space import space_of

    if bench is None:
        return _said(base, base.planner, NO_BENCH, ())
    space = space_of(template, base, expressions=policy.spec.planner.autonomy != "parameters")
    made, record = course.search(space, policy.spec.planner.search, bench, past.was_refused)
    if record.trouble or not record.blocks:
        why = record.trouble or "there was no time for a block"
        if not record.trouble and not record.out_of_time:
            why = "every candidate failed" if record.tried else "there is nothing to try"
        told = record.sentences() if record.tried else ()
        return _said(base, base.planner, f"search gave no proposal: {why}", told)
    changed = {change.partition(" = ")[0] for change in space.changes(made)}
    reasons = tuple(r for r in base.reasons if r.partition(" = ")[0] not in changed)
    made = made.model_copy(update={"reasons": reasons})
    return _said(made, PlannerRecord(name="search", version=__version__), "", record.sentences())


def _said(made: Proposal, by: PlannerRecord, note: str, reasons: tuple[str, ...]) -> Proposal:
    planner = by.model_copy(update={"note": note}) if note else by
    return made.model_copy(update={"planner": planner, "reasons": (*made.reasons, *reasons)})
