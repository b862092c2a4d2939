# SPDX-License-Identifier: Apache-2.0
"""The planner's half of the loop: recall or plan, render, verify, and commit a revision; or remember why not.

It runs where there is a compiler, QEMU and (for the LLM planner) a key; it never touches a node. Each outcome is kept
by plan key in the status of the governing SchedulerPolicy, with what was learned, so that a failure is not tried again
in the same way (each try costs money), and so that nodes and people can read why they wait.

Several planners may serve one repository: each key is worked on under a lease (source.lease), the repository is read
again once it is held, and it is confirmed before anything is committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from controller import __version__, plan, verify
from controller.api import (
    Desired,
    Drift,
    NodeScheduler,
    Passport,
    PlannerRecord,
    PlanOutcome,
    Proposal,
    Reporter,
    Resource,
    RevisionBytes,
    SchedulerPolicy,
    SchedulerRevision,
    SchedulerTemplate,
    SourceState,
    Store,
    Verdict,
    lesson_of,
    now,
)
from controller.api.store import Lease
from controller.errors import InputError, RepositoryError, SchedctlError
from controller.kernel.images import KernelImage
from controller.kernel.microvm import VmShape
from controller.plan.drafting import Desk
from controller.plan.recall import Match, Question
from controller.reconcile import bundle, drafts, drift, keys, resume, revisions
from controller.reconcile.course import Course
from controller.reconcile.diff import PlanTask, diff_planner
from controller.reconcile.memory import Memory
from controller.reconcile.node import plan_outcomes
from controller.reconcile.questions import (
    allowed_templates,
    bench_for,
    profile_of,
    question_of,
    verification_kernels,
    workload_of,
)
from controller.reconcile.record import Campaign
from controller.reconcile.statuses import intent_status, policy_status
from controller.source import all_templates
from controller.trust import dsse
from controller.trust import keys as trust_keys

WRITER = "planner"
TAKEN_OVER = "another planner has taken this plan over: what was made here is not committed"
Statuses = Mapping[tuple[str, str, str], Resource]


@dataclass(frozen=True)
class _View:
    """The repository as it was read for one decision."""

    source: SourceState
    nodes: tuple[NodeScheduler, ...]
    outcomes: dict[str, PlanOutcome]
    drifts: tuple[Drift, ...]
    tasks: tuple[PlanTask, ...]


class LeaseLost(SchedctlError):
    """Another planner has taken over: what was made here is dropped."""


class Planner:
    """One planner for a policy repository. `step` plans at most everything that is due, one key after the other.

    `examine` is how a candidate is verified, `bench` gives what measures candidates for mode search.
    """

    def __init__(
        self,
        store: Store,
        *,
        reporter: Reporter,
        examine: Callable[..., verify.Examination] = verify.examine,
        bench: Callable[..., AbstractContextManager[plan.Bench]] | None = None,
    ) -> None:
        self._store = store
        self._reporter = reporter
        self._examine = examine
        self._bench = bench or bench_for
        self._memory = Memory(store)
        self.trouble = ""
        """What is wrong with the newest commit; then the last good one, if there is any, is planned for."""

    def step(self) -> bool:
        """One pass; True if something was planned (and the repository should be read again)."""
        view = self._look()
        if not view.tasks:
            self._publish(view)
        planned = [self._turn(task.key, view) for task in view.tasks]
        return any(planned)

    def _look(self) -> _View:
        source = self._store.read()
        self._note_trouble(source)
        statuses = self._store.statuses()
        nodes = tuple(self._store.nodes())
        outcomes = plan_outcomes(statuses)
        inputs = self._inputs(source.desired, nodes)
        drifts = self._seen_drifts(source.desired, nodes, statuses)
        tasks = diff_planner(source, nodes, outcomes, inputs, now(), drift.drifted(drifts))
        return _View(source, nodes, outcomes, drifts, tasks)

    def _turn(self, key: str, view: _View) -> bool:
        """Plan one key, if nobody else does; False when somebody does, or has."""
        lease = self._store.lease(key)
        if lease is None:
            self._reporter.step("another planner works on a plan that is due here too")
            return False
        try:
            view = self._look()  # whoever held the lease before may have done it
            task = next((t for t in view.tasks if t.key == key), None)
            if task is None:
                return False
            self._publish(view, working=task)
            outcome = self._plan(task, view, lease)
            if not lease.confirm():
                raise LeaseLost(TAKEN_OVER)
            self._publish(self._look(), outcome)
        except LeaseLost as lost:
            self._reporter.failed(lost.message)
        finally:
            lease.release()
        return True

    def _seen_drifts(
        self, desired: Desired | None, nodes: Sequence[NodeScheduler], statuses: Statuses
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
                if key not in found:
                    found[key] = keys.plan_inputs(key, allowed_templates(policy, desired), __version__)
        return found

    def _plan(self, task: PlanTask, view: _View, lease: Lease) -> PlanOutcome:
        """Recall, or plan, verify and commit; every way that can end is an outcome."""
        desired = view.source.desired
        assert desired is not None
        names = ", ".join(i.qualified_name for i in task.intents)
        self._reporter.step(f"planning for {names} under policy {task.policy.name}, attempt {task.attempt}")
        question = question_of(task, allowed_templates(task.policy, desired))
        found = self._memory.recollect(question, desired, view.nodes, view.outcomes.values(), now())
        for why in found.passed_over:
            self._reporter.step(f"not recalled: {why}")
        course = Course(task, lease, view.outcomes.get(task.key), keys.newest(desired.revisions, task.key))
        near = found.near
        if found.exact is not None:
            outcome = self._recall(course, found.exact, desired)
            if outcome is not None:
                return outcome
            near = found.exact
        prior = near.prior() if near is not None else None
        past = plan.Past(task.inputs, course.lessons, prior)
        before = course.before
        try:
            kernels = verification_kernels(task.policy, question.target.kernel_release)  # before anybody is paid
        except SchedctlError as error:
            course.digest = before.campaign if before is not None and before.inputs == task.inputs else None
            return self._outcome(course, "Error", type(error).__name__, str(error))
        try:
            proposal = self._proposed(course, question, past, drafts.desk_for(task.policy, desired, before))
        except InputError as error:
            self._record(course)
            reason = "NothingLeft" if past.rejected() else "NoPlan"
            return self._outcome(course, "NoPlan", reason, str(error))
        course.decided = proposal.planner
        self._reporter.done(f"proposal: {proposal.template}, {len(proposal.classes)} classes, {who(proposal.planner)}")
        try:
            return self._verify(course, proposal, all_templates(desired)[proposal.template], kernels)
        except LeaseLost:
            raise
        except SchedctlError as error:
            self._record(course)  # so that the next attempt need not ask again
            return self._outcome(course, "Error", type(error).__name__, str(error))

    def _proposed(self, course: Course, question: Question, past: plan.Past, desk: Desk | None) -> Proposal:
        """What the planners propose, or what they proposed before if that was paid for and could not be judged."""
        task = course.task
        kept = resume.kept(course.before, task, past)
        if kept is not None and kept.proposal is not None:
            course.resume(kept)
            self._reporter.step("what was proposed before could not be judged: it is verified again, nobody is asked")
            return kept.proposal
        course.campaign = Campaign(
            profile_of(task), task.intents, task.policy, question.templates, past, key=task.key, desk=desk
        )
        with self._bench(task.policy, question.target, question.templates, self._reporter) as course.campaign.bench:
            proposal = course.campaign.propose()
        course.filed = drafts.file(self._store, desk, course.before)
        return proposal

    def _recall(self, course: Course, match: Match, desired: Desired) -> PlanOutcome | None:
        """Commit the bytes and the passport of an earlier revision under this key: no call, no verification.

        None when its evidence can no longer be read: it is a prior then.
        """
        old, task = match.revision, course.task
        try:
            files = self._store.revision_bytes(old, desired.commit)
            files = files.model_copy(update={"evidence": dict(self._store.evidence(old, desired.commit))})
        except RepositoryError as error:
            self._reporter.failed(f"not recalled: {error.message}")
            return None
        revision = revisions.recalled(task, match, course.standing)
        course.decided = old.spec.proposal.planner
        told = (
            f"revision {revision.name} was recalled from {old.name}: the same intents, template, kernel and topology "
            f"class, and a load at distance {match.distance:.2f}; nothing was planned or verified"
        )
        return self._commit(course, revision, files, "Recalled", told, old.name)

    def _verify(
        self, course: Course, proposal: Proposal, template: SchedulerTemplate, kernels: tuple[KernelImage, ...]
    ) -> PlanOutcome:
        task = course.task
        target = keys.target_of(task.node)
        assert target is not None
        wanted = task.policy.spec.verification
        examination = self._examine(
            verify.Candidate.from_proposal(proposal, template),
            kernels=kernels,
            shapes=(VmShape.of_class(target.topology_class),),
            max_age_ns=wanted.max_age,
            workload=workload_of(task),
            trial=verify.spec_for(proposal, wanted) if wanted.trial else None,
            reporter=self._reporter,
        )
        passport = examination.passport
        assert course.campaign is not None
        course.campaign.examined(examination)
        self._record(course)
        course.learn(lesson_of(proposal, passport, task.inputs))
        if passport.verdict is not Verdict.PASS:
            failed = next((s for s in passport.all_stages() if s.verdict in (Verdict.REJECTED, Verdict.ERROR)), None)
            stage, summary = (failed.stage, failed.summary) if failed is not None else ("verify", "no stage passed")
            outcome = "Rejected" if passport.verdict is Verdict.REJECTED else "Error"
            reason = "VerificationRejected" if outcome == "Rejected" else "VerificationError"
            return self._outcome(course, outcome, reason, f"{stage}: {summary}")
        if passport.column(target.btf_digest, target.topology_class) is None:
            earned = ", ".join(f"{k.release} ({k.topology_class})" for k in passport.kernels)
            message = (
                f"the passport was earned on {earned}, but the node runs {target.kernel_release} "
                f"({target.topology_class}) with another BTF: verify on the node's own kernel image"
            )
            return self._outcome(course, "Error", "OtherKernel", message)
        return self._commit_verified(course, proposal, passport, examination)

    def _commit_verified(
        self, course: Course, proposal: Proposal, passport: Passport, examination: verify.Examination
    ) -> PlanOutcome:
        assert examination.source is not None
        assert examination.object is not None
        files = RevisionBytes(
            source=examination.source,
            object=examination.object,
            passport=dsse.sign(passport, trust_keys.ensure_signing_key()).canonical(),
            evidence=examination.attachments,
        )
        revision = revisions.verified(
            course.task, proposal, passport, files, course.lessons, course.cost(), course.digest, course.standing
        )
        return self._commit(course, revision, files, "Planned", f"revision {revision.name} was verified")

    def _commit(
        self,
        course: Course,
        revision: SchedulerRevision,
        files: RevisionBytes,
        reason: str,
        told: str,
        recalled: str | None = None,
    ) -> PlanOutcome:
        if not course.lease.confirm():
            raise LeaseLost(TAKEN_OVER)
        manual = course.task.policy.spec.approval == "Manual"
        branch = f"proposals/{revision.name}" if manual else None
        try:
            commit = self._store.add_revision(revision, files, branch=branch)
        except RepositoryError as error:
            return self._outcome(course, "Error", "CommitFailed", str(error))
        self._reporter.done(f"revision {revision.name} committed as {commit[:10]}")
        if branch is not None:
            told = f"{told}; it waits on branch {branch}: merge it to approve"
            return self._outcome(course, "AwaitingApproval", "AwaitingApproval", told, revision.name, recalled)
        return self._outcome(course, "Planned", reason, told, revision.name, recalled)

    def _record(self, course: Course) -> None:
        """Keep the campaign in the state folder. What cannot be kept costs its replay, not the plan."""
        assert course.campaign is not None
        try:
            course.digest = bundle.keep(course.campaign.files())
        except InputError as error:
            self._reporter.failed(f"the campaign was not recorded: {error.message}")

    def _outcome(
        self,
        course: Course,
        outcome: str,
        reason: str,
        message: str,
        revision: str | None = None,
        recalled: str | None = None,
    ) -> PlanOutcome:
        decided = who(course.decided) if course.decided is not None and recalled is None else ""
        message = "; ".join(filter(None, (message, decided, course.filed.told)))
        (self._reporter.done if outcome in ("Planned", "AwaitingApproval") else self._reporter.failed)(message)
        task = course.task
        return PlanOutcome(
            plan_key=task.key,
            inputs=task.inputs,
            outcome=outcome,
            reason=reason,
            message=message[:4096],
            revision=revision,
            attempts=task.attempt,
            errors=task.errors + (outcome == "Error"),
            planner=course.decided,
            recalled=recalled,
            lessons=course.lessons,
            cost=course.cost(),
            campaign=course.digest,
            draft=course.filed.branch or None,
            at=now(),
        )

    def _publish(self, view: _View, done: PlanOutcome | None = None, working: PlanTask | None = None) -> None:
        """Write the status of every policy and intent; the store makes no commit when nothing changed.

        What other planners wrote since the view was taken stays: of each key the newest outcome counts.
        """
        desired = view.source.desired
        if desired is None:
            return

        def build(before: Statuses) -> list[Resource]:
            outcomes = plan_outcomes(before) | ({done.plan_key: done} if done is not None else {})
            made: list[Resource] = [
                policy_status(policy, desired, view.nodes, outcomes, before, working, view.drifts)
                for policy in desired.policies
            ]
            return made + [intent_status(intent, desired, view.nodes, before) for intent in desired.intents]

        self._store.update_status(WRITER, build)


def who(planner: PlannerRecord) -> str:
    """Who planned, in a clause, and why nobody else did."""
    by = f"{planner.name} ({planner.version})" if planner.name == "claude" else planner.name
    return f"planned by {by}" + (f": {planner.note}" if planner.note else "")
