# SPDX-License-Identifier: Apache-2.0
"""Lesson: what became of one candidate, as data a planner can read: stage, rule and numbers, nobody's text.

Lessons are kept by plan key in the governing policy's status, and those that led to a revision with the revision. They
are given to the next plan for the same key, so that it does something else.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from controller.api.base import ApiModel, Digest, DnsName, Timestamp
from controller.api.passport import Passport, Verdict
from controller.api.proposal import ClassHandle, Proposal
from controller.api.template import Identifier, ParameterValue

MAX_LESSONS = 16
"""Kept for a plan key; the oldest go first."""
MAX_FIGURES = 64

Number = bool | int | float
Rule = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9/_.-]{0,127}$")]


class Lesson(ApiModel):
    """One candidate and how it fared."""

    inputs: Digest = Field(description="Of everything the plan depended on: it holds for these inputs.")
    candidate: Digest = Field(description="Of what was proposed, but for who proposed it and why.")
    object: Digest | None = Field(default=None, description="Of its object; absent if it was never built.")
    template: DnsName = Field(description="SchedulerTemplate it was made from.")
    template_digest: Digest = Field(description="Of the template's text.")
    parameters: dict[Identifier, ParameterValue] = Field(default_factory=dict, description="Of the whole scheduler.")
    class_parameters: dict[ClassHandle, dict[Identifier, ParameterValue]] = Field(
        default_factory=dict, max_length=255, description="Of each class that has some, by its handle."
    )
    holes: tuple[Identifier, ...] = Field(
        default=(), max_length=16, description="That an expression filled, other than the template's default."
    )
    planner: Literal["rules", "search", "claude"] = Field(description="Who proposed it.")
    verdict: Verdict = Field(description="How it ended.")
    stage: Literal["schema", "render", "lint", "build", "audit", "load", "liveness", "trial"] | None = Field(
        default=None, description="The stage that refused it, or the trial that it passed."
    )
    rule: Rule | None = Field(default=None, description="The rule that refused it, such as lint/lost-task.")
    figures: dict[Annotated[str, Field(max_length=128)], Number] = Field(
        default_factory=dict, max_length=MAX_FIGURES, description="The stage's numbers; the unit ends the name."
    )
    at: Timestamp = Field(description="When it ended.")


class PlanCost(ApiModel):
    """What the plan cost."""

    calls: Annotated[int, Field(ge=0)] = Field(description="Model calls, over all attempts.")
    usd: Annotated[float, Field(ge=0)] | None = Field(default=None, description="US dollars; absent: unknown.")


def lesson_of(proposal: Proposal, passport: Passport, inputs: str) -> Lesson:
    """What a passport teaches about its candidate: of the stage that failed, else of the trial, if there was one."""
    stages = passport.all_stages()
    failed = next((s for s in stages if s.verdict in (Verdict.REJECTED, Verdict.ERROR)), None)
    tried = next((s for s in stages if s.stage == "trial" and s.verdict is Verdict.PASS), None)
    told = failed or tried
    rules = [f.rule for f in told.findings if f.severity == "error"] if told is not None else []
    numbers = {k: v for k, v in told.figures.items() if not isinstance(v, str)} if told is not None else {}
    return Lesson(
        inputs=inputs,
        candidate=proposal.substance(),
        object=passport.object_digest,
        template=proposal.template,
        template_digest=proposal.template_digest,
        parameters=proposal.parameters,
        class_parameters={c.handle: c.parameters for c in proposal.classes if c.parameters},
        holes=tuple(sorted(proposal.expressions)),
        planner=proposal.planner.name,
        verdict=passport.verdict,
        stage=told.stage if told is not None else None,
        rule=rules[0] if rules else None,
        figures=dict(sorted(numbers.items())[:MAX_FIGURES]),
        at=passport.issued_at,
    )
