# SPDX-License-Identifier: Apache-2.0
"""Recall: the committed revisions as memory of what worked. All of it is in Git; nothing else is asked.

Every revision is for a kernel class (BTF digest) and a topology class, and says what was wanted and which load it was
planned for. For a question of the same target that is

    exact   every intent is the same in name, selector, objective, weight and guardrails, and there is no other; the
            template is one that the policy allows now, its text unchanged; the policy lets such a planner decide and
            take that much freedom; the load is at most EXACT away (and at most half of verification.maxDrift)
    near    as many intents with the same metrics, goals and percentiles, whatever their names; the template allowed and
            unchanged; the load, workload by workload, at most NEAR away

An exact one is taken as it is, when its passport is good and shows all that the policy asks for today: no call, no
verification. A near one is the prior of a new plan. Which passports are good is the caller's to say (`Standing`): this
module compares values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from controller.api import (
    Fingerprint,
    Objective,
    PlannedIntent,
    RevisionTarget,
    SchedulerPolicy,
    SchedulerRevision,
    SchedulerTemplate,
    SchedulingIntent,
)
from controller.api.fingerprint import OTHERS, WorkloadVector, apart, distance
from controller.plan.learning import Prior
from controller.render import template_digest

EXACT = 0.15
"""Two profiles of one load are 0.02 to 0.12 apart where it is steady (docs/observation.md); a factor of two in one
feature of a workload is 0.125."""
NEAR = 0.35
"""As verification.maxDrift by default: further away it is another load."""


@dataclass(frozen=True)
class Question:
    """What is to be planned: `templates` are those the policy allows, `workload` the load of now."""

    policy: SchedulerPolicy
    intents: tuple[SchedulingIntent, ...]
    target: RevisionTarget
    workload: Fingerprint
    templates: tuple[SchedulerTemplate, ...]


@dataclass(frozen=True)
class Match:
    """A revision that fits a question. `names` maps its intents to those of the question."""

    kind: Literal["exact", "near"]
    revision: SchedulerRevision
    distance: float
    names: Mapping[str, str]

    def prior(self) -> Prior:
        """The same as what a new plan starts from."""
        return Prior(self.revision.name, self.revision.spec.proposal, self.distance, self.names)


@dataclass(frozen=True)
class Standing:
    """What stands against a revision: `bad` (its passport is not good, or it was ejected: it is not recalled at all) or
    `short` (it is good, and does not show all that the policy asks for today: it is a prior at most). Empty: nothing.
    """

    bad: str = ""
    short: str = ""


@dataclass(frozen=True)
class Recollection:
    """What was found, and for each nearer revision why it was not it."""

    exact: Match | None = None
    near: Match | None = None
    passed_over: tuple[str, ...] = ()


def recall(
    question: Question, revisions: Iterable[SchedulerRevision], standing: Callable[[SchedulerRevision], Standing]
) -> Recollection:
    """The nearest exact revision that may be taken, or the nearest that may be a prior.

    `standing` is asked for one revision after the other, nearest first, until one will do: it may be expensive.
    """
    near: Match | None = None
    passed: list[str] = []
    for match in matches(question, revisions):
        if near is not None and match.kind == "near":
            break
        said = standing(match.revision)
        if not said.bad and not said.short and match.kind == "exact":
            return Recollection(exact=match, passed_over=tuple(passed))
        if said.bad or (match.kind == "exact" and said.short):
            passed.append(f"{match.revision.name}: {said.bad or said.short}")
        if not said.bad and near is None:
            near = match
    return Recollection(near=near, passed_over=tuple(passed))


def matches(question: Question, revisions: Iterable[SchedulerRevision]) -> list[Match]:
    """Every revision that fits: exact ones first, then by distance, then the newest."""
    found = [match for revision in revisions if (match := _match(question, revision)) is not None]
    found.sort(key=lambda m: m.revision.spec.created_at, reverse=True)
    return sorted(found, key=lambda m: (m.kind != "exact", m.distance))


def planned_intents(intents: Sequence[SchedulingIntent]) -> tuple[PlannedIntent, ...]:
    """What a revision keeps of the intents that it was planned for, in the order of its classes."""
    return tuple(
        PlannedIntent(
            intent=i.qualified_name, objective=i.spec.objective, guardrails=i.spec.guardrails
        )
        for i in sorted(intents, key=lambda i: (i.namespace, i.name))
    )  # fmt: skip


def _match(question: Question, revision: SchedulerRevision) -> Match | None:
    spec = revision.spec
    target = (spec.target.btf_digest, spec.target.topology_class)
    if spec.workload is None or target != (question.target.btf_digest, question.target.topology_class):
        return None
    digests = {template.name: template_digest(template) for template in question.templates}
    if digests.get(spec.proposal.template) != spec.proposal.template_digest:
        return None
    if _same_intents(question, revision) and _may_decide(question.policy, revision):
        away = distance(question.workload, spec.workload)
        if away <= min(EXACT, question.policy.spec.verification.max_drift / 2):
            return Match("exact", revision, round(away, 4), {c.intent: c.intent for c in spec.proposal.classes})
    names = _paired(question, revision)
    if names is None:
        return None
    away = distance(question.workload, _renamed(spec.workload, names))
    return Match("near", revision, round(away, 4), names) if away <= NEAR else None


def _same_intents(question: Question, revision: SchedulerRevision) -> bool:
    classes = {c.intent: c for c in revision.spec.proposal.classes}
    planned = {p.intent: p for p in revision.spec.intents}
    wanted = {p.intent: p for p in planned_intents(question.intents)}
    if not wanted or planned != wanted or classes.keys() != wanted.keys():
        return False
    own = {i.qualified_name: i.spec for i in question.intents}
    return all((c.selector, c.weight) == (own[name].workload, own[name].weight) for name, c in classes.items())


def _may_decide(policy: SchedulerPolicy, revision: SchedulerRevision) -> bool:
    """Whether the policy lets this planner decide, and take the freedom that it took."""
    proposal, planner = revision.spec.proposal, policy.spec.planner
    if planner.autonomy == "parameters" and proposal.expressions:
        return False
    return planner.mode in ("auto", proposal.planner.name)


def _paired(question: Question, revision: SchedulerRevision) -> dict[str, str] | None:
    """The revision's intents with those of the question that want the same, the same names first, then by load."""
    free = {i.qualified_name: _wish(i.spec.objective) for i in question.intents}
    theirs = {p.intent: _wish(p.objective) for p in revision.spec.intents}
    if sorted(free.values()) != sorted(theirs.values()) or not theirs:
        return None
    names = {name: name for name, wish in theirs.items() if free.get(name) == wish}
    for name in names:
        del free[name]
    load = revision.spec.workload
    for name, wish in sorted(theirs.items()):
        if name not in names:
            mine = [other for other, its in free.items() if its == wish]
            if not mine:  # a name that both have wants something else now
                return None
            best = min(mine, key=lambda o: (apart(question.workload.of(o), load.of(name) if load else None), o))
            names[name] = best
            del free[best]
    return names


def _wish(objective: Objective) -> tuple[str, str, float]:
    """What must be equal for a scheduler to be worth starting from: how much is enough may differ."""
    return (objective.metric.value, objective.goal, objective.percentile or 99)


def _renamed(workload: Fingerprint, names: Mapping[str, str]) -> Fingerprint:
    known = {**names, OTHERS: OTHERS}
    return Fingerprint(
        workloads=tuple(
            WorkloadVector(name=known[w.name], features=w.features) for w in workload.workloads if w.name in known
        )
    )
