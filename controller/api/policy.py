# SPDX-License-Identifier: Apache-2.0
"""SchedulerPolicy: on which nodes and within which guardrails schedulers are made, written by the platform team."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from controller.api.base import ApiModel, Digest, Duration, LabelMap, Percent, Resource, Status, Timestamp
from controller.api.lesson import MAX_LESSONS, Lesson, PlanCost
from controller.api.proposal import PlannerRecord

_DAY = 86_400_000_000_000
_SECOND = 1_000_000_000


class Budget(ApiModel):
    """What planning may cost."""

    usd_per_day: Annotated[float, Field(ge=0, le=10000)] = Field(default=1.0, description="US dollars a day.")
    attempts: Annotated[int, Field(ge=1, le=20)] = Field(
        default=3, description="Proposals tried for one set of inputs."
    )


class SearchSpec(ApiModel):
    """How mode search looks for better values: by measuring candidates in a micro-VM, beside the rules' own proposal.

    It ends with whatever comes first, the candidates or the time. Equal settings and measurements give equal plans.
    """

    trials: Annotated[int, Field(ge=1, le=200)] = Field(
        default=16, description="Candidates tried, besides the rules' own proposal."
    )
    time: Duration = Field(
        default=900 * _SECOND,
        ge=30 * _SECOND,
        le=14_400 * _SECOND,
        description="For all measurements of one plan, booting and building included: 30s to 4h.",
    )
    seed: Annotated[int, Field(ge=0, le=0xFFFFFFFF)] = Field(
        default=1, description="Of the candidates' draw, and of the order and work of their runs."
    )
    workload: Literal["auto", "longtail", "mixed", "messaging", "pipeline", "kernelbuild-like"] = Field(
        default="auto",
        description="What runs while candidates are measured; auto: as in the trial, by the heaviest class's metric.",
    )


class PlannerSpec(ApiModel):
    """Who plans, and how freely."""

    mode: Literal["auto", "rules", "search", "claude"] = Field(
        default="auto",
        description="auto: claude with a key and budget, rules otherwise; search: rules, and better values by trying.",
    )
    autonomy: Literal["parameters", "expressions", "template"] = Field(
        default="expressions",
        description="The most a planner may change. template: a model may also propose a new one, on a branch.",
    )
    budget: Budget = Field(default_factory=Budget, description="What planning may cost.")
    search: SearchSpec = Field(default_factory=SearchSpec, description="What mode search may do; others do not look.")


class TemplatesSpec(ApiModel):
    """Which templates may be used."""

    allow: tuple[Annotated[str, Field(min_length=1, max_length=253)], ...] = Field(
        default=("*",), max_length=64, description="Globs over SchedulerTemplate names."
    )


class VerificationSpec(ApiModel):
    """What a scheduler must have shown before a node may attach it."""

    kernels: tuple[Annotated[str, Field(min_length=1, max_length=255)], ...] = Field(
        default=("node",), min_length=1, max_length=8, description="`node`, `newest`, `oldest`, or releases."
    )
    trial: bool = Field(
        default=False, description="True: it must also be shown to be better than, or equivalent to, the kernel's own."
    )
    minimum_detectable_effect: Percent = Field(
        default=0.05, gt=0, le=1, description="Smallest effect a trial must see."
    )
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = Field(default=0.95, description="Of the trial's verdict.")
    max_age: Duration = Field(default=30 * _DAY, gt=0, description="How long a passport is good for.")
    max_drift: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.35, description="Distance (0 to 1) of the load from the planned one at which it is planned anew."
    )


class RolloutSpec(ApiModel):
    """How a revision comes to a node."""

    probation: Duration = Field(
        default=60 * _SECOND,
        ge=_SECOND,
        le=_DAY,
        description="Time the agent alone holds the link before it is pinned.",
    )
    on_agent_exit: Literal["keep", "detach"] = Field(
        default="keep", description="keep: promoted schedulers are pinned; detach: never pinned."
    )


class PolicySpec(ApiModel):
    """On which nodes, within which guardrails."""

    node_selector: LabelMap = Field(default_factory=dict, description="Labels of nodes; empty selects every node.")
    priority: Annotated[int, Field(ge=-1000000, le=1000000)] = Field(
        default=0, description="The highest that selects a node governs it; a tie is an error on both."
    )
    planner: PlannerSpec = Field(default_factory=PlannerSpec, description="Who plans.")
    templates: TemplatesSpec = Field(default_factory=TemplatesSpec, description="Which templates may be used.")
    verification: VerificationSpec = Field(default_factory=VerificationSpec, description="What must be shown.")
    approval: Literal["Automatic", "Manual"] = Field(
        default="Automatic",
        description="Manual: the revision waits on branch proposals/NAME until it is merged.",
    )
    rollout: RolloutSpec = Field(default_factory=RolloutSpec, description="How it comes to a node.")
    suspend: bool = Field(default=False, description="True: nothing is planned, attached or detached.")


class PlanOutcome(ApiModel):
    """How planning for one set of inputs ended. A failure is remembered until an input changes: retries cost money.

    With reason `Recalled` nothing was planned or verified: `recalled` is a revision that was taken as it is.
    """

    plan_key: Digest = Field(description="Of the policy, the intents and the target: what a node looks for.")
    inputs: Digest = Field(description="Of everything that may change the result: the plan key and the templates.")
    outcome: Literal["Planned", "AwaitingApproval", "NoPlan", "Rejected", "Error"] = Field(
        description="NoPlan: nothing to propose; Rejected: the verifier refused; Error: it could not tell."
    )
    reason: Annotated[str, Field(pattern=r"^[A-Z][A-Za-z0-9]*$")] = Field(description="PascalCase, for programs.")
    message: Annotated[str, Field(max_length=4096)] = Field(description="A sentence for people.")
    revision: str | None = Field(default=None, description="The revision made, if any.")
    attempts: Annotated[int, Field(ge=1)] = Field(default=1, description="Times tried with these inputs.")
    errors: Annotated[int, Field(ge=0)] = Field(default=0, description="Of these, how many ended as Error.")
    planner: PlannerRecord | None = Field(default=None, description="Who decided, and why nobody else; absent: nobody.")
    recalled: str | None = Field(default=None, description="The earlier revision that was taken instead of planning.")
    lessons: tuple[Lesson, ...] = Field(
        default=(), max_length=MAX_LESSONS, description="What became of each candidate for this key, oldest first."
    )
    cost: PlanCost | None = Field(default=None, description="Of all attempts with these inputs; absent: unknown.")
    campaign: Digest | None = Field(default=None, description="Of the recorded campaign that `plan --replay` takes.")
    draft: str | None = Field(default=None, description="Branch on which a new template waits for a person's review.")
    at: Timestamp = Field(description="When it ended.")


class Drift(ApiModel):
    """A node's load is not the one its revision was planned for."""

    node: str = Field(description="Whose profile.")
    revision: str = Field(description="The revision that is wanted there.")
    profiles: Annotated[int, Field(ge=0)] = Field(description="Profiles in a row that were beyond the limit.")
    distance: Annotated[float, Field(ge=0, le=1)] = Field(description="Of the newest profile from the planned load.")
    since: Timestamp = Field(description="When the first of them was taken.")
    last: Timestamp = Field(description="When the newest of them was taken.")


class PolicyStatus(Status):
    """What the controller made of the policy."""

    nodes: int | None = Field(default=None, ge=0, description="Nodes governed.")
    plans: tuple[PlanOutcome, ...] = Field(default=(), max_length=256, description="By plan key, newest last.")
    drifts: tuple[Drift, ...] = Field(default=(), max_length=256, description="Loads that are not the planned ones.")
    revision: str | None = Field(default=None, description="Newest revision made for it.")
    commit: str | None = Field(default=None, description="Commit last acted on.")


class SchedulerPolicy(Resource):
    """On which nodes and within which guardrails schedulers are made."""

    kind: Literal["SchedulerPolicy"] = "SchedulerPolicy"
    spec: PolicySpec = Field(default_factory=PolicySpec, description="What is allowed.")
    status: PolicyStatus | None = Field(default=None, description="What is.")
