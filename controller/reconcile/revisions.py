# SPDX-License-Identifier: Apache-2.0
"""The manifests of revisions: of a proposal that was just verified, and of an earlier one that is recalled."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from controller.api import (
    Lesson,
    ObjectMeta,
    Passport,
    PlanCost,
    Proposal,
    Recalled,
    RevisionBytes,
    RevisionDigests,
    RevisionFiles,
    RevisionSpec,
    RevisionTarget,
    SchedulerRevision,
    now,
    sha256,
)
from controller.kernel import knobs
from controller.plan.recall import Match, planned_intents
from controller.reconcile import keys
from controller.reconcile.diff import PlanTask


def verified(
    task: PlanTask,
    proposal: Proposal,
    passport: Passport,
    files: RevisionBytes,
    lessons: tuple[Lesson, ...],
    cost: PlanCost | None,
    campaign: str | None,
    standing: SchedulerRevision | None,
) -> SchedulerRevision:
    """The manifest. Its name is the policy's and a digest of key, object and passport; `campaign` is the digest under
    which that was kept, if it was.

    `standing` is what counts for the key until now: the new one must be newer, whatever clock made that.
    """
    digests = RevisionDigests(
        source=sha256(files.source),
        object=sha256(files.object),
        template=proposal.template_digest,
        proposal=proposal.content_digest(),
        passport=sha256(files.passport),
        code=knobs.code_digest(files.object) or None,
    )
    name = _name(task, f"{task.key}{digests.object}{digests.passport}")
    return SchedulerRevision(
        metadata=ObjectMeta(name=name),
        spec=RevisionSpec(
            policy=task.policy.name,
            plan_key=task.key,
            target=_target(task),
            ops_name=passport.ops_name,
            proposal=proposal,
            digests=digests,
            files=_files(name, sorted(files.evidence)),
            workload=passport.workload,
            intents=planned_intents(task.intents),
            lessons=lessons,
            cost=cost,
            campaign=campaign,
            created_at=_after(standing),
        ),
    )


def recalled(task: PlanTask, match: Match, standing: SchedulerRevision | None) -> SchedulerRevision:
    """The matched revision under the task's key: its bytes and passport, with the load that it was verified for.

    `standing` as for `verified`. The name depends on the time too: a load that comes back a second time recalls the
    same bytes under the same key.
    """
    old, at = match.revision.spec, _after(standing)
    name = _name(task, f"{task.key}{old.digests.object}{old.digests.passport}{at.isoformat()}")
    return SchedulerRevision(
        metadata=ObjectMeta(name=name),
        spec=old.model_copy(
            update={
                "policy": task.policy.name,
                "plan_key": task.key,
                "target": _target(task),
                "files": _files(name, [Path(path).name for path in old.files.evidence]),
                "recalled": Recalled(revision=match.revision.name, distance=match.distance),
                "cost": PlanCost(calls=0, usd=0),
                "created_at": at,
            }
        ),
    )


def _after(standing: SchedulerRevision | None) -> datetime:
    at = now()
    return at if standing is None else max(at, standing.spec.created_at + timedelta(seconds=1))


def _target(task: PlanTask) -> RevisionTarget:
    target = keys.target_of(task.node)
    assert target is not None
    return target


def _name(task: PlanTask, identity: str) -> str:
    return f"{task.policy.name}-{sha256(identity.encode())[7:17]}"


def _files(name: str, evidence: list[str]) -> RevisionFiles:
    return RevisionFiles(
        source=str(Path(name) / "scheduler.bpf.c"),
        object=str(Path(name) / "scheduler.bpf.o"),
        passport=str(Path(name) / "passport.json"),
        evidence=tuple(str(Path(name) / "evidence" / file) for file in evidence),
    )
