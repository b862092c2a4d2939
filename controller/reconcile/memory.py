# SPDX-License-Identifier: Apache-2.0
"""Memory: which committed revisions may be recalled, held against trust, clock, nodes and what the policy asks for.

Values are compared by plan.recall; here each candidate's bytes are read from the commit and proven as a node's gate
would prove them, lazily and once a commit. Never recalled is what any node quarantined, saw end with an error or was
ejected from, and what a later verification rejected, whatever its own passport says; nor the same scheduler under
another name (an object's name depends on who proposed it and why).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from controller.api import (
    Desired,
    Lesson,
    NodeScheduler,
    Passport,
    PlanOutcome,
    RevisionTarget,
    SchedulerPolicy,
    SchedulerRevision,
    Store,
    Verdict,
)
from controller.deploy import prove
from controller.errors import RepositoryError, SchedctlError, TrustError
from controller.kernel import images
from controller.plan.recall import Question, Recollection, Standing, recall
from controller.trust import dsse

LEFT = 0.1
"""A passport with less of the policy's maxAge left than this part of it is not taken as it is."""
_ERROR_EXITS = 1024


class Memory:
    """Recall from one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._commit = ""
        self._proofs: dict[str, Passport | str] = {}

    def recollect(
        self,
        question: Question,
        desired: Desired,
        nodes: Sequence[NodeScheduler],
        outcomes: Iterable[PlanOutcome],
        at: datetime,
    ) -> Recollection:
        """What the revisions of `desired` have to offer for the question."""
        shunned = shunned_candidates(nodes, desired.revisions, outcomes)

        def standing(revision: SchedulerRevision) -> Standing:
            why = shunned.get(revision.spec.proposal.substance())
            if why is not None:
                return Standing(bad=why)
            passport = self._proven(revision, desired.commit)
            if isinstance(passport, str):
                return Standing(bad=passport)
            return judged(passport, revision, question.policy, question.target, at)

        return recall(question, desired.revisions, standing)

    def _proven(self, revision: SchedulerRevision, commit: str) -> Passport | str:
        """The revision's passport, or why it proves nothing."""
        if commit != self._commit:
            self._commit, self._proofs = commit, {}
        if revision.name not in self._proofs:
            try:
                self._proofs[revision.name] = prove(revision, self._store.revision_bytes(revision, commit))
            except (TrustError, RepositoryError) as error:
                self._proofs[revision.name] = error.message
        return self._proofs[revision.name]


def judged(
    passport: Passport, revision: SchedulerRevision, policy: SchedulerPolicy, target: RevisionTarget, at: datetime
) -> Standing:
    """What stands against a revision whose passport is genuine, by clock, kernel and the policy of today."""
    wanted = policy.spec.verification
    try:
        dsse.check(
            passport,
            object_digest=revision.spec.digests.object,
            btf_digest=target.btf_digest,
            topology_class=target.topology_class,
            at=at,
        )
    except TrustError as error:
        return Standing(bad=error.message)
    age = timedelta(microseconds=wanted.max_age / 1000)
    if at + LEFT * age >= min(passport.expires_at, passport.issued_at + age):
        return Standing(short=f"its passport is good for less than {LEFT:.0%} of the policy's maxAge")
    return Standing(short=_not_shown(passport, policy, target))


def _not_shown(passport: Passport, policy: SchedulerPolicy, target: RevisionTarget) -> str:
    """What the policy asks to be shown and the passport does not show; empty when there is nothing."""
    wanted = policy.spec.verification
    earned = {column.release for column in passport.kernels}
    for name in wanted.kernels:
        try:
            release = images.resolve(name).release if name != "node" else None
        except SchedctlError as error:
            return f"which kernel {name} is cannot be told: {error.message}"
        if release is not None and release not in earned:
            return f"it was never verified on kernel {release}"
    column = passport.column(target.btf_digest, target.topology_class)
    trial = next((s for s in column.stages if s.stage == "trial"), None) if column is not None else None
    if not wanted.trial:
        return ""
    if trial is None or trial.verdict is not Verdict.PASS:
        return "it stood no trial, and the policy asks for one"
    effect, confidence = trial.figures.get("mde_percent"), trial.figures.get("confidence")
    enough = (
        isinstance(effect, int | float)
        and isinstance(confidence, int | float)
        and effect <= 100 * wanted.minimum_detectable_effect + 1e-9
        and confidence >= wanted.confidence - 1e-9
    )
    return "" if enough else "its trial was for a larger effect, or less sure, than the policy asks for"


def shunned_candidates(
    nodes: Sequence[NodeScheduler], revisions: Sequence[SchedulerRevision], outcomes: Iterable[PlanOutcome]
) -> dict[str, str]:
    """`Proposal.substance()` → why it is never recalled."""
    lessons = [one for r in revisions for one in r.spec.lessons] + [one for o in outcomes for one in o.lessons]
    found = {one.candidate: _rejected(one) for one in lessons if one.verdict is Verdict.REJECTED}
    for node in nodes:
        objects, names = _bad_on(node)
        for revision in revisions if objects or names else ():
            why = objects.get(revision.spec.digests.object) or names.get(revision.name)
            if why is not None:
                found[revision.spec.proposal.substance()] = why
    return found


def _rejected(lesson: Lesson) -> str:
    return f"the same scheduler was rejected by {lesson.stage or 'verification'} at {lesson.at:%F %T}Z"


def _bad_on(node: NodeScheduler) -> tuple[dict[str, str], dict[str, str]]:
    """What one node knows against objects (by digest) and against revisions (by name)."""
    status = node.status
    if status is None:
        return {}, {}
    objects = {q.object_digest: f"quarantined on {node.name}: {q.reason}" for q in status.quarantine}
    names: dict[str, str] = {}
    last = status.last_exit
    if last is not None and last.kind >= _ERROR_EXITS:
        names[last.revision] = f"ended on {node.name}: {last.reason}"
    for event in status.events:
        name, _, why = event.message.partition(": ")
        if event.reason == "Detached" and why == "ejected":
            names[name] = f"ejected on {node.name}"
    return objects, names
