# SPDX-License-Identifier: Apache-2.0
"""Proposal: a filled template, unproven. It is all that a planner may say; everything in it is data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from controller.api.base import ApiModel, Digest, DnsName
from controller.api.intent import CommGlob, Metric, WorkloadSelector
from controller.api.template import Identifier, ParameterValue

ClassHandle = Annotated[str, Field(pattern=r"^c[1-9][0-9]{0,2}$")]


class ClassMatch(ApiModel):
    """How the scheduler knows a class's tasks in the kernel. Fields are ANDed, entries of one field ORed.

    `cgroup` says that membership of the cgroups which the node resolves from the selector's cgroup, unit and pod
    fields (into the BPF map `schedctl_cgroups`) is needed too; the paths themselves stay in user space.

    `tgid` has processes, by their numbers outside all PID namespaces: all threads of each, also after an exec, and none
    of the processes that it forks. A number means its process only while that lives, so it is for a planner that knows
    what runs, on the node where it runs, and not for manifests.
    """

    comm: tuple[CommGlob, ...] = ()
    uid: tuple[Annotated[int, Field(ge=0, le=0xFFFFFFFE)], ...] = ()
    cgroup: bool = False
    tgid: tuple[Annotated[int, Field(ge=1, le=4_194_304)], ...] = ()

    @model_validator(mode="after")
    def _not_empty(self) -> ClassMatch:
        if not (self.comm or self.uid or self.cgroup or self.tgid):
            raise ValueError("a class must match by comm, uid, cgroup or tgid")
        return self


class TaskClass(ApiModel):
    """One intent as the scheduler sees it. Class 0, `others`, is implied and never listed."""

    handle: ClassHandle = Field(description="c1, c2, …: the class's number.")
    intent: Annotated[str, Field(pattern=r"^[a-z0-9][-a-z0-9.]*/[a-z0-9][-a-z0-9.]*$")] = Field(
        description="NAMESPACE/NAME of the intent it came from."
    )
    metric: Metric = Field(description="What the class wants.")
    weight: Annotated[int, Field(ge=1, le=10000)] = Field(description="As cpu.weight.")
    match: ClassMatch = Field(description="Which tasks, for the kernel.")
    selector: WorkloadSelector = Field(description="Which tasks, as committed; the node resolves cgroups from it.")
    parameters: dict[Identifier, ParameterValue] = Field(default_factory=dict, description="Class parameters.")


class PlannerRecord(ApiModel):
    """Who decided."""

    name: Literal["rules", "search", "claude"]
    version: str = Field(description="Of schedctl for rules and search; the model for claude.")
    note: str = Field(default="", description="Why this planner, when another was asked for.")


class Proposal(ApiModel):
    """A template and everything that fills it."""

    template: DnsName = Field(description="SchedulerTemplate name.")
    template_digest: Digest = Field(description="Of the template's text.")
    parameters: dict[Identifier, ParameterValue] = Field(default_factory=dict, description="Of the whole scheduler.")
    expressions: dict[Identifier, Annotated[str, Field(max_length=400)]] = Field(
        default_factory=dict, description="By hole."
    )
    classes: tuple[TaskClass, ...] = Field(default=(), max_length=255, description="In order of handle.")
    planner: PlannerRecord = Field(description="Who decided.")
    reasons: tuple[Annotated[str, Field(max_length=1000)], ...] = Field(default=(), description="Why, a sentence each.")

    def substance(self) -> str:
        """`sha256:…` of what is rendered from it: equal where only who proposed it, and why, differ."""
        said = self.model_copy(update={"planner": PlannerRecord(name="rules", version=""), "reasons": ()})
        return said.content_digest()

    @model_validator(mode="after")
    def _handles_in_order(self) -> Proposal:
        if [c.handle for c in self.classes] != [f"c{i + 1}" for i in range(len(self.classes))]:
            raise ValueError("classes must carry the handles c1, c2, … in order")
        return self


class RenderedSource(ApiModel):
    """One `.bpf.c`, byte-identical for the same proposal and template."""

    text: str = Field(description="C source.")
    digest: Digest = Field(description="Of the text.")
    ops_name: Annotated[str, Field(pattern=r"^schedctl_[0-9a-f]{12}$")] = Field(
        description="The kernel's root/ops shows it; made from the proposal's and template's digests."
    )
