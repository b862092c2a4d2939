# SPDX-License-Identifier: Apache-2.0
"""NodeScheduler: what one node observes and what its kernel says it runs. Written by the node's agent alone."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from controller.api.base import ApiModel, Digest, Duration, LabelMap, Resource, Status, Timestamp
from controller.api.profile import KernelFacts, Topology, WorkloadProfile


class NodeSpec(ApiModel):
    """Who the node is."""

    labels: LabelMap = Field(default_factory=dict, description="What policies select by.")


class Attachment(ApiModel):
    """What the kernel says is attached."""

    ops_name: str = Field(description="/sys/kernel/sched_ext/root/ops.")
    revision: str | None = Field(default=None, description="Whose it is; absent for a scheduler that is not ours.")
    object_digest: Digest | None = None
    since: Timestamp
    phase: Literal["Probation", "Promoted", "Foreign"] = Field(description="Foreign: attached by somebody else.")
    loaded: str | None = Field(
        default=None,
        description="The revision whose object is loaded, when only the live knobs are those of `revision`.",
    )


class Quarantined(ApiModel):
    """A digest that was ejected and is never attached again on that kernel without a new passport."""

    object_digest: Digest
    btf_digest: Digest
    passport_digest: Digest = Field(description="The passport it was running under.")
    reason: str
    at: Timestamp


class Pulse(ApiModel):
    """That the attached scheduler decides, by its own heartbeat. A machine with nothing to run needs no decision."""

    decisions: int = Field(ge=0, description="Times any CPU has put a task on since the scheduler was loaded.")
    last_decision: Duration | None = Field(default=None, description="How long ago the last one was, then.")


class ExitReport(ApiModel):
    """Why the last scheduler that ended unasked did, by its own exit record."""

    revision: str = Field(description="Whose it was.")
    at: Timestamp = Field(description="When it was found.")
    kind: int = Field(description="enum scx_exit_kind: 64 to 67 asked for, 1024 and more errors.")
    code: int = Field(description="Its exit code.")
    reason: Annotated[str, Field(max_length=64)] = Field(description="The kernel's reason.")
    message: Annotated[str, Field(max_length=256)] = Field(default="", description="The kernel's message.")
    dump: Annotated[str, Field(max_length=4096)] = Field(
        default="", description="The beginning of the kernel's dump of queues and tasks, for errors."
    )


class NodeEvent(ApiModel):
    """One thing that happened on the node; the newest come last and the list is bounded."""

    at: Timestamp
    type: Literal["Normal", "Warning"]
    reason: str
    message: str


class NodeStatus(Status):
    """What this node observes and runs."""

    commit: str | None = Field(default=None, description="Commit last converged to.")
    kernel: KernelFacts | None = None
    topology: Topology | None = None
    state: str | None = Field(default=None, description="/sys/kernel/sched_ext/state.")
    attached: Attachment | None = None
    ejected: bool = Field(default=False, description="Held on the kernel's own scheduler by `schedctl eject`.")
    quarantine: tuple[Quarantined, ...] = ()
    events: tuple[NodeEvent, ...] = ()
    pulse: Pulse | None = Field(default=None, description="The attached scheduler's heartbeat, at `heartbeat`.")
    last_exit: ExitReport | None = Field(default=None, description="Why a scheduler ended unasked, the last time.")
    profile: WorkloadProfile | None = None
    heartbeat: Timestamp | None = Field(default=None, description="When the agent last wrote this.")


class NodeScheduler(Resource):
    """What one node observes and runs."""

    kind: Literal["NodeScheduler"] = "NodeScheduler"
    spec: NodeSpec = Field(default_factory=NodeSpec, description="Who the node is.")
    status: NodeStatus | None = Field(default=None, description="What is.")
