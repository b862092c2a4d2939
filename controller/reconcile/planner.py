# SPDX-License-Identifier: Apache-2.0
"""The planner's half of the loop: plan, render, verify, and commit a revision; or remember why not.

It runs where there is a compiler, QEMU and (for the LLM planner) a key; it never touches a node. Each outcome is kept
by plan key in the status of the governing SchedulerPolicy, so that a failure is not tried again until an input changes
(each try costs money), and so that nodes and people can read why they wait.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from controller import __version__, plan, verify
from controller.api import (
    Desired,
    Drift,
    Fingerprint,
    NodeScheduler,
    ObjectMeta,
    Passport,
    PlanOutcome,
    Proposal,
    Reporter,
    Resource,
    RevisionBytes,
    RevisionDigests,
    RevisionFiles,
    RevisionSpec,
    SchedulerPolicy,
    SchedulerRevision,
    SchedulerTemplate,
    SourceState,
    Store,
    Verdict,
    fingerprint_of,
    now,
    sha256,
)
from controller.errors import InputError, RepositoryError, SchedctlError
from controller.kernel import images, knobs
from controller.kernel.images import KernelImage
from controller.kernel.microvm import VmShape
from controller.reconcile import drift, keys
from controller.reconcile.diff import PlanTask, diff_planner
from controller.reconcile.node import plan_outcomes
from controller.reconcile.statuses import intent_status, policy_status
from controller.source import all_templates
from controller.trust import dsse
from controller.trust import keys as trust_keys

WRITER = "planner"


class Planner:
    """One planner for a policy repository. `step` plans at most everything that is due, one key after the other."""

    def __init__(self, store: Store, *, reporter: Reporter) -> None:
        self._store = store
        self._reporter = reporter
        self._drifts: tuple[Drift, ...] = ()
        self.trouble = ""
        """What is wrong with the newest commit; then the last good one, if there is any, is planned for."""

    def step(self) -> bool:
        """One pass; True if something was planned (and the repository should be read again)."""
        source = self._store.read()
        self._note_trouble(source)
        statuses = self._store.statuses()
        nodes = tuple(self._store.nodes())
        outcomes = plan_outcomes(statuses)
        inputs = self._inputs(source.desired, nodes)
        self._drifts = self._seen_drifts(source.desired, nodes, statuses)
        tasks = diff_planner(source, nodes, outcomes, inputs, now(), drift.drifted(self._drifts))
        for task in tasks:
            self._publish(source, nodes, outcomes, working=task)
            outcomes[task.key] = self._plan(task, source)
            self._publish(self._store.read(), nodes, outcomes)
        if not tasks:
            self._publish(source, nodes, outcomes)
        return bool(tasks)

    def _seen_drifts(
        self, desired: Desired | None, nodes: Sequence[NodeScheduler], statuses: Mapping[tuple[str, str, str], Resource]
    ) -> tuple[Drift, ...]:
        """With what the policies' status remembers of earlier profiles."""
        policies = (r for r in statuses.values() if isinstance(r, SchedulerPolicy) and r.status is not None)
        before = [d for p in policies if p.status is not None for d in p.status.drifts]
        return drift.seen(desired, nodes, before) if desired is not None else ()

    def _note_trouble(self, source: SourceState) -> None:
        """Say it once, not at each pass."""
        trouble = f"{source.reason}: {source.problems[0]}" if source.problems else ""
        if trouble and trouble != self.trouble:
            self._reporter.failed(trouble)
        self.trouble = trouble

    def _inputs(self, desired: Desired | None, nodes: Iterable[NodeScheduler]) -> dict[str, str]:
        """Plan key → digest of everything that may change its result."""
        found: dict[str, str] = {}
        for node in nodes if desired is not None else ():
            assert desired is not None
            policy, target = keys.governing(desired.policies, node.spec.labels), keys.target_of(node)
            if isinstance(policy, SchedulerPolicy) and target is not None:
                key = keys.plan_key(policy, keys.counted_intents(desired, node), target)
                found[key] = keys.plan_inputs(key, allowed_templates(policy, desired), __version__)
        return found

    def _plan(self, task: PlanTask, source: SourceState) -> PlanOutcome:
        """Plan, verify and commit; every way that can end is an outcome."""
        desired = source.desired
        assert desired is not None
        names = ", ".join(i.qualified_name for i in task.intents)
        self._reporter.step(f"planning for {names} under policy {task.policy.name}, attempt {task.attempt}")
        try:
            proposal = self._propose(task, desired)
        except InputError as error:
            return self._outcome(task, "NoPlan", "NoPlan", str(error))
        self._reporter.done(f"proposal: {proposal.template}, {len(proposal.classes)} classes")
        template = all_templates(desired)[proposal.template]
        try:
            return self._verify(task, proposal, template)
        except SchedctlError as error:
            return self._outcome(task, "Error", type(error).__name__, str(error))

    def _propose(self, task: PlanTask, desired: Desired) -> Proposal:
        status = task.node.status
        assert status is not None
        assert status.profile is not None
        templates = allowed_templates(task.policy, desired)
        return plan.propose(status.profile, task.intents, task.policy, templates)

    def _verify(self, task: PlanTask, proposal: Proposal, template: SchedulerTemplate) -> PlanOutcome:
        target = keys.target_of(task.node)
        assert target is not None
        kernels = verification_kernels(task.policy, target.kernel_release)
        wanted = task.policy.spec.verification
        examination = verify.examine(
            verify.Candidate.from_proposal(proposal, template),
            kernels=kernels,
            shapes=(VmShape.of_class(target.topology_class),),
            max_age_ns=wanted.max_age,
            workload=workload_of(task),
            trial=verify.spec_for(proposal, wanted) if wanted.trial else None,
            reporter=self._reporter,
        )
        passport = examination.passport
        if passport.verdict is not Verdict.PASS:
            failed = next((s for s in passport.all_stages() if s.verdict in (Verdict.REJECTED, Verdict.ERROR)), None)
            stage, summary = (failed.stage, failed.summary) if failed is not None else ("verify", "no stage passed")
            outcome = "Rejected" if passport.verdict is Verdict.REJECTED else "Error"
            reason = "VerificationRejected" if outcome == "Rejected" else "VerificationError"
            return self._outcome(task, outcome, reason, f"{stage}: {summary}")
        if passport.column(target.btf_digest, target.topology_class) is None:
            earned = ", ".join(f"{k.release} ({k.topology_class})" for k in passport.kernels)
            message = (
                f"the passport was earned on {earned}, but the node runs {target.kernel_release} "
                f"({target.topology_class}) with another BTF: verify on the node's own kernel image"
            )
            return self._outcome(task, "Error", "OtherKernel", message)
        return self._commit(task, proposal, passport, examination)

    def _commit(
        self, task: PlanTask, proposal: Proposal, passport: Passport, examination: verify.Examination
    ) -> PlanOutcome:
        assert examination.source is not None
        assert examination.object is not None
        files = RevisionBytes(
            source=examination.source,
            object=examination.object,
            passport=dsse.sign(passport, trust_keys.ensure_signing_key()).canonical(),
            evidence=examination.attachments,
        )
        revision = revision_for(task, proposal, passport, files)
        manual = task.policy.spec.approval == "Manual"
        branch = f"proposals/{revision.name}" if manual else None
        try:
            commit = self._store.add_revision(revision, files, branch=branch)
        except RepositoryError as error:
            return self._outcome(task, "Error", "CommitFailed", str(error))
        self._reporter.done(f"revision {revision.name} committed as {commit[:10]}")
        if branch is not None:
            message = f"revision {revision.name} waits on branch {branch}: merge it to approve"
            return self._outcome(task, "AwaitingApproval", "AwaitingApproval", message, revision.name)
        return self._outcome(task, "Planned", "Planned", f"revision {revision.name} was verified", revision.name)

    def _outcome(
        self, task: PlanTask, outcome: str, reason: str, message: str, revision: str | None = None
    ) -> PlanOutcome:
        (self._reporter.done if outcome in ("Planned", "AwaitingApproval") else self._reporter.failed)(message)
        return PlanOutcome(
            plan_key=task.key,
            inputs=task.inputs,
            outcome=outcome,
            reason=reason,
            message=message[:4096],
            revision=revision,
            attempts=task.attempt,
            at=now(),
        )

    def _publish(
        self,
        source: SourceState,
        nodes: Sequence[NodeScheduler],
        outcomes: Mapping[str, PlanOutcome],
        working: PlanTask | None = None,
    ) -> None:
        """Write the status of every policy and intent; the store makes no commit when nothing changed."""
        if source.desired is None:
            return
        before = self._store.statuses()
        resources: list[Resource] = [
            policy_status(policy, source.desired, nodes, outcomes, before, working, self._drifts)
            for policy in source.desired.policies
        ]
        resources += [intent_status(intent, source.desired, nodes, before) for intent in source.desired.intents]
        self._store.put_status(WRITER, resources)


def allowed_templates(policy: SchedulerPolicy, desired: Desired) -> tuple[SchedulerTemplate, ...]:
    """Built-in and committed templates whose names the policy allows, by name."""
    allow = policy.spec.templates.allow
    found = all_templates(desired)
    return tuple(found[n] for n in sorted(found) if any(fnmatch.fnmatchcase(n, glob) for glob in allow))


def verification_kernels(policy: SchedulerPolicy, node_release: str) -> tuple[KernelImage, ...]:
    """The images the policy asks for; `node` is the image of the node's own release. ToolMissing if one is not here."""
    wanted = [node_release if name == "node" else name for name in policy.spec.verification.kernels]
    return tuple(images.resolve(name) for name in dict.fromkeys(wanted))


def revision_for(task: PlanTask, proposal: Proposal, passport: Passport, files: RevisionBytes) -> SchedulerRevision:
    """The manifest. Its name is the policy's and a digest of key, object and passport."""
    target = keys.target_of(task.node)
    assert target is not None
    digests = RevisionDigests(
        source=sha256(files.source),
        object=sha256(files.object),
        template=proposal.template_digest,
        proposal=proposal.content_digest(),
        passport=sha256(files.passport),
        code=knobs.code_digest(files.object) or None,
    )
    short = sha256(f"{task.key}{digests.object}{digests.passport}".encode())[7:17]
    name = f"{task.policy.name}-{short}"
    return SchedulerRevision(
        metadata=ObjectMeta(name=name),
        spec=RevisionSpec(
            policy=task.policy.name,
            plan_key=task.key,
            target=target,
            ops_name=passport.ops_name,
            proposal=proposal,
            digests=digests,
            files=RevisionFiles(
                source=str(Path(name) / "scheduler.bpf.c"),
                object=str(Path(name) / "scheduler.bpf.o"),
                passport=str(Path(name) / "passport.json"),
                evidence=tuple(str(Path(name) / "evidence" / file) for file in sorted(files.evidence)),
            ),
            workload=passport.workload,
            created_at=now(),
        ),
    )


def workload_of(task: PlanTask) -> Fingerprint | None:
    """The load that is planned for."""
    profile = task.node.status.profile if task.node.status is not None else None
    return fingerprint_of(profile, (i.qualified_name for i in task.intents)) if profile is not None else None
