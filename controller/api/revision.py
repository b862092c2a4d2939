# SPDX-License-Identifier: Apache-2.0
"""SchedulerRevision: an immutable, verified scheduler; the only thing a node may attach."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from controller.api.base import ApiModel, Digest, DnsName, Resource, Status, Timestamp
from controller.api.fingerprint import Fingerprint
from controller.api.intent import Guardrail, Objective
from controller.api.lesson import MAX_LESSONS, Lesson, PlanCost
from controller.api.proposal import Proposal

RelativePath = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*$")]


class RevisionFiles(ApiModel):
    """Where the bytes lie, relative to the revision's manifest."""

    source: RelativePath
    object: RelativePath
    passport: RelativePath
    evidence: tuple[RelativePath, ...] = Field(
        default=(), max_length=64, description="Raw data behind the passport, which names each by its digest."
    )


class RevisionDigests(ApiModel):
    """What the bytes must be."""

    source: Digest
    object: Digest
    template: Digest
    proposal: Digest
    passport: Digest = Field(description="Of the DSSE envelope's bytes.")
    code: Digest | None = Field(
        default=None,
        description="Of the object without its name and the values of its live knobs; equal for revisions that differ "
        "in nothing else. Absent without knobs.",
    )


class RevisionTarget(ApiModel):
    """The nodes it was made for: equal kernel BTF and topology class."""

    kernel_release: str
    btf_digest: Digest
    topology_class: str


class PlannedIntent(ApiModel):
    """What one intent wanted when it was planned for; its selector and weight are in the class made of it."""

    intent: str = Field(description="NAMESPACE/NAME.")
    objective: Objective = Field(description="What was to be made better.")
    guardrails: tuple[Guardrail, ...] = Field(default=(), max_length=32, description="What must not get worse.")


class Recalled(ApiModel):
    """An earlier revision that was taken instead of planning."""

    revision: DnsName = Field(description="Whose bytes and passport these are.")
    distance: Annotated[float, Field(ge=0, le=1)] = Field(description="Of the load now from the one it was made for.")


class RevisionSpec(ApiModel):
    """A proposal, its digests and whom it is for."""

    policy: DnsName = Field(description="SchedulerPolicy it was made under.")
    plan_key: Digest = Field(description="Digest of all inputs of the plan.")
    target: RevisionTarget = Field(description="Whom it is for.")
    ops_name: str = Field(description="What root/ops shows when it is attached.")
    proposal: Proposal = Field(description="What was proposed.")
    digests: RevisionDigests = Field(description="What the bytes must be.")
    files: RevisionFiles = Field(description="Where the bytes lie.")
    workload: Fingerprint | None = Field(default=None, description="The load it was planned for.")
    intents: tuple[PlannedIntent, ...] = Field(default=(), max_length=255, description="What was wanted, by class.")
    recalled: Recalled | None = Field(default=None, description="The earlier revision that it is, under another key.")
    lessons: tuple[Lesson, ...] = Field(
        default=(), max_length=MAX_LESSONS, description="The attempts before it and its own trial, oldest first."
    )
    campaign: Digest | None = Field(default=None, description="Of the recorded campaign that `plan --replay` takes.")
    cost: PlanCost | None = Field(default=None, description="What planning it cost; absent: unknown.")
    created_at: Timestamp = Field(description="When it was made.")


class RevisionStatus(Status):
    """Where it runs."""

    nodes: tuple[str, ...] = Field(default=(), description="Nodes that have it attached.")


class SchedulerRevision(Resource):
    """An immutable, verified scheduler."""

    kind: Literal["SchedulerRevision"] = "SchedulerRevision"
    spec: RevisionSpec = Field(description="What it is.")
    status: RevisionStatus | None = Field(default=None, description="Where it runs.")
