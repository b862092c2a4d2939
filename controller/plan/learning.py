# SPDX-License-Identifier: Apache-2.0
"""What a plan is told of the past: lessons of earlier attempts for the same key, and a revision to start from.

A rejected candidate is not proposed again for the same inputs. The rules planner goes further: it fills a template in
one way only, but for what was measured meanwhile, so a template that was refused as the rules had filled it is left out
and the second best is filled instead. As a model or a search had filled it, it says nothing of any other filling. What
depends on the inputs ends with them: when a template's text or the version changes, nothing is refused any more, and
the lessons are history.

A prior is a verified revision of a near load. Its template is the one that is filled, and of its values those stay that
the rules do not derive anew from what is measured now; what a model or a search chose stays in any case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controller.api import (
    Lesson,
    Proposal,
    SchedulerPolicy,
    SchedulerTemplate,
    SchedulingIntent,
    Verdict,
    WorkloadProfile,
)
from controller.api.template import ParameterValue
from controller.errors import InputError
from controller.plan import rules
from controller.render import template_digest


class NothingLeft(InputError):
    """Every filling that the rules have was refused. `base` is the best of them: a model may know another."""

    def __init__(self, told: str, base: Proposal) -> None:
        super().__init__(f"nothing else to propose: {told}", remedy="allow another template, or change one")
        self.base = base


@dataclass(frozen=True)
class Prior:
    """A revision to start from. `names` maps its intents (NAMESPACE/NAME) to those of the new plan."""

    revision: str
    proposal: Proposal
    distance: float
    names: Mapping[str, str]


@dataclass(frozen=True)
class Past:
    """What is known before a plan is made. `inputs` is the digest of everything the plan depends on."""

    inputs: str = ""
    lessons: tuple[Lesson, ...] = ()
    prior: Prior | None = None

    def refused(self, template: SchedulerTemplate) -> Lesson | None:
        """The newest lesson by which the template, as it is now, was rejected for these inputs as the rules fill it."""
        digest = template_digest(template)
        by_rules = [one for one in self.rejected() if one.planner == "rules"]
        mine = [one for one in by_rules if (one.template, one.template_digest) == (template.name, digest)]
        return mine[-1] if mine else None

    def was_refused(self, proposal: Proposal) -> bool:
        """Whether just this, whoever proposed it, was rejected for these inputs."""
        return self.refusal(proposal) is not None

    def refusal(self, proposal: Proposal) -> Lesson | None:
        """The lesson by which just this was rejected."""
        substance = proposal.substance()
        return next((one for one in self.rejected() if one.candidate == substance), None)

    def rejected(self) -> list[Lesson]:
        """What was rejected for these inputs."""
        return [one for one in self.lessons if one.verdict is Verdict.REJECTED and one.inputs == self.inputs]


def said_of(lesson: Lesson) -> str:
    """A lesson in a clause: `latency-first was rejected by load (load/unbounded-loop)`."""
    rule = f" ({lesson.rule})" if lesson.rule else ""
    return f"{lesson.template} was {lesson.verdict.value} by {lesson.stage or 'verification'}{rule}"


def begin(base: Proposal, prior: Prior, *, expressions: bool) -> Proposal:
    """`base`, made by the rules from the prior's template, with the values of the prior that stay."""
    theirs = prior.proposal
    keep_theirs = theirs.planner.name != "rules"
    by_intent = {prior.names.get(c.intent, ""): c for c in theirs.classes}
    classes = []
    for one in base.classes:
        before = by_intent.get(one.intent)
        values = _merged(before.parameters, one.parameters, keep_theirs) if before is not None else one.parameters
        classes.append(one.model_copy(update={"parameters": values}))
    why = (
        f"starts from revision {prior.revision}, by {theirs.planner.name}: verified for a load at distance "
        f"{prior.distance:.2f}, with the same objectives, kernel and topology class"
    )
    return base.model_copy(
        update={
            "parameters": _merged(theirs.parameters, base.parameters, keep_theirs),
            "expressions": theirs.expressions if expressions else {},
            "classes": tuple(classes),
            "reasons": (why[:1000], *base.reasons),
        }
    )


def _merged(
    theirs: Mapping[str, ParameterValue], ours: Mapping[str, ParameterValue], keep_theirs: bool
) -> dict[str, ParameterValue]:
    merged = {**ours, **theirs} if keep_theirs else {**theirs, **ours}
    return dict(sorted(merged.items()))


def first(
    profile: WorkloadProfile,
    intents: Sequence[SchedulingIntent],
    policy: SchedulerPolicy,
    allowed: Sequence[SchedulerTemplate],
    past: Past,
) -> Proposal:
    """The rules planner's proposal: from the prior's template if there is one, never one that was refused.

    NothingLeft when all were, InputError as rules.propose.
    """
    refused = {t.name: lesson for t in allowed if (lesson := past.refused(t)) is not None}
    free = [t for t in allowed if t.name not in refused]
    prior = past.prior
    started = [t for t in free if prior is not None and t.name == prior.proposal.template]
    if prior is not None and started:
        base = rules.propose(profile, intents, policy, started)
        base = begin(base, prior, expressions=policy.spec.planner.autonomy != "parameters")
        if not past.was_refused(base):
            return base
    while True:
        told = "; ".join(map(said_of, refused.values()))
        try:
            base = rules.propose(profile, intents, policy, free)
        except InputError as error:
            if not told:
                raise
            raise NothingLeft(told, rules.propose(profile, intents, policy, allowed)) from error
        same = past.refusal(base)
        if same is None:
            return base.model_copy(update={"reasons": (*base.reasons, told[:1000])}) if told else base
        # Somebody else's proposal was just this one.
        refused[base.template] = same
        free = [t for t in free if t.name != base.template]


def credited(proposal: Proposal, past: Past) -> Proposal:
    """A model's proposal, with the revision it was given to start from among its reasons."""
    prior = past.prior
    if prior is None:
        return proposal
    told = f"was given revision {prior.revision} (distance {prior.distance:.2f}) to start from"
    return proposal.model_copy(update={"reasons": (told, *proposal.reasons)})
