# SPDX-License-Identifier: Apache-2.0
"""Small valid values for tests of the pure parts: what is not named is the plainest thing that is allowed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from controller.api import (
    Attachment,
    Desired,
    IntentMatch,
    IntentSpec,
    KernelFacts,
    NodeScheduler,
    NodeSpec,
    NodeStatus,
    Objective,
    ObjectMeta,
    PlannerRecord,
    PolicySpec,
    Proposal,
    RevisionDigests,
    RevisionFiles,
    RevisionSpec,
    RevisionTarget,
    SchedulerPolicy,
    SchedulerRevision,
    SchedulingIntent,
    Signature,
    SourceState,
    TaskClass,
    Topology,
    WorkloadProfile,
    WorkloadSelector,
)
from controller.deploy import Actual
from controller.reconcile import keys

T0 = datetime(2026, 1, 1, tzinfo=UTC)
BTF = "sha256:" + "b" * 64
TOPOLOGY = Topology(cpus=2, topology_class="cpus2.pkg1.smt1.llc1.numa1")
KERNEL = KernelFacts(release="7.3.4-test", btf_digest=BTF, sched_ext=True)
TARGET = RevisionTarget(kernel_release="7.3.4-test", btf_digest=BTF, topology_class=TOPOLOGY.topology_class)


def digest(letter: str) -> str:
    return "sha256:" + letter * 64


def later(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def intent(name: str = "checkout", *, weight: int = 100, comm: str = "web") -> SchedulingIntent:
    spec = IntentSpec(
        workload=WorkloadSelector(comm=(comm,)),
        objective=Objective(metric="wakeupLatency", goal="minimize"),
        weight=weight,
    )
    return SchedulingIntent(metadata=ObjectMeta(name=name, namespace="shop", generation=1), spec=spec)


def policy(name: str = "default", **spec: object) -> SchedulerPolicy:
    return SchedulerPolicy(metadata=ObjectMeta(name=name, generation=1), spec=PolicySpec.model_validate(spec))


def revision(
    name: str, policy_: SchedulerPolicy, intents: tuple[SchedulingIntent, ...], *, made: float = 0, object_: str = "0"
) -> SchedulerRevision:
    classes = tuple(
        TaskClass(
            handle=f"c{number}",
            intent=i.qualified_name,
            metric=i.spec.objective.metric,
            weight=i.spec.weight,
            match={"comm": i.spec.workload.comm},
            selector=i.spec.workload,
        )
        for number, i in enumerate(intents, start=1)
    )
    proposal = Proposal(
        template="weighted-fair",
        template_digest=digest("a"),
        classes=classes,
        planner=PlannerRecord(name="rules", version="1"),
    )
    return SchedulerRevision(
        metadata=ObjectMeta(name=name),
        spec=RevisionSpec(
            policy=policy_.name,
            plan_key=keys.plan_key(policy_, intents, TARGET),
            target=TARGET,
            ops_name="schedctl_" + "0" * 11 + object_,
            proposal=proposal,
            digests=RevisionDigests(
                source=digest("1"),
                object=digest(object_),
                template=digest("a"),
                proposal=proposal.content_digest(),
                passport=digest("d"),
            ),
            files=RevisionFiles(
                source=f"{name}/scheduler.bpf.c", object=f"{name}/scheduler.bpf.o", passport=f"{name}/passport.json"
            ),
            created_at=later(made),
        ),
    )


def source(
    *resources: SchedulingIntent | SchedulerPolicy | SchedulerRevision, problems: tuple[str, ...] = ()
) -> SourceState:
    desired = Desired(
        commit="c" * 40,
        branch="main",
        committed_at=T0,
        author="a",
        signature=Signature(state="unsigned"),
        intents=tuple(r for r in resources if isinstance(r, SchedulingIntent)),
        policies=tuple(r for r in resources if isinstance(r, SchedulerPolicy)),
        revisions=tuple(r for r in resources if isinstance(r, SchedulerRevision)),
    )
    return SourceState(desired=desired, head=desired.commit, problems=problems)


def attachment(revision_: SchedulerRevision, phase: str = "Promoted", since: float = 0) -> Attachment:
    return Attachment(
        ops_name=revision_.spec.ops_name,
        revision=revision_.name,
        object_digest=revision_.spec.digests.object,
        since=later(since),
        phase=phase,
    )


def actual(**changes: object) -> Actual:
    return Actual(kernel=KERNEL, topology=TOPOLOGY, state="disabled").model_copy(update=changes)


def node(
    name: str = "n1",
    *,
    matched: tuple[str, ...] = ("shop/checkout",),
    labels: dict[str, str] | None = None,
    attached: Attachment | None = None,
    profiled: bool = True,
) -> NodeScheduler:
    profile = WorkloadProfile(
        node=name,
        taken_at=T0,
        window_ns=10**9,
        observer="procfs",
        topology=TOPOLOGY,
        kernel=KERNEL,
        matches=tuple(IntentMatch(intent=m, tasks=1) for m in matched),
    )
    status = NodeStatus(
        kernel=KERNEL, topology=TOPOLOGY, profile=profile if profiled else None, attached=attached, heartbeat=T0
    )
    return NodeScheduler(
        metadata=ObjectMeta(name=name, generation=1), spec=NodeSpec(labels=labels or {}), status=status
    )
