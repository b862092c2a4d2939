# SPDX-License-Identifier: Apache-2.0
"""The node's half of the loop: observe, look, decide, act, and say what is.

Each pass reads the newest good commit, takes in the profile of a window that has closed, then asks `diff_node` for one
action at a time until there is none, carrying each out and looking at the kernel again in between. What it learns goes
into this node's NodeScheduler, which is written only when it changed; the profile and the heartbeat move it once a
minute at most.

No pass waits for a window (observe/background.py). Which intents count here is what a profile says, so a commit with
other intents is followed once a window has looked for them; until then the node keeps to the commit before, and is
looked after by it: what dies is buried, a probation ends. An agent that has just begun has none before: it does that
much, and decides the rest with its first profile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import assert_never

from controller import observe
from controller.api import (
    Attachment,
    Condition,
    ConditionStatus,
    Desired,
    NodeScheduler,
    NodeSpec,
    NodeStatus,
    ObjectMeta,
    PlanOutcome,
    Reporter,
    Resource,
    SchedulerPolicy,
    SchedulerRevision,
    SchedulingIntent,
    SourceState,
    Store,
    now,
    set_condition,
)
from controller.deploy import Actual, Deployment, admit
from controller.deploy.deployment import why_refused
from controller.errors import InputError, KernelError, RepositoryError, TrustError
from controller.reconcile.diff import Action, Attach, Bury, Detach, NodeDecision, NodeView, Promote, Tune, diff_node

_MAX_ACTIONS = 8
"""Actions in one pass: attach, bury, roll back and a little more; a longer chain would be a loop."""
_HEARTBEAT = timedelta(seconds=60)


class NodeAgent:
    """One node. `step` is one pass; `close` lets a scheduler on probation go."""

    def __init__(
        self,
        store: Store,
        deployment: Deployment,
        watch: observe.Background,
        *,
        name: str,
        labels: Mapping[str, str],
        reporter: Reporter,
    ) -> None:
        self._store = store
        self._deployment = deployment
        self._name = name
        self._labels = dict(labels)
        self._reporter = reporter
        self._watch = watch
        self._refused: dict[str, str] = {}
        self._refused_at = ""
        self._node = self._remembered()
        self._followed: SourceState | None = None
        self._sought: SourceState | None = None
        """The newest whose intents were looked for, or are by the window that is open."""
        self.behind = True
        """Whether the newest window did not look for the intents of the newest commit."""
        self._written: NodeScheduler | None = None
        self._said = ""

    @property
    def has_news(self) -> bool:
        """Whether a window has closed that the next pass will take in."""
        return self._watch.closed

    def step(self) -> NodeDecision:
        """One pass. Raises only what the whole agent must end for; trouble of one action becomes a condition."""
        newest = self._store.read()
        self._look()
        self._observe(newest.desired)
        source = self._follow(newest)
        if source.desired is not None and source.desired.commit != self._refused_at:
            self._refused, self._refused_at = {}, source.desired.commit
        plans = plan_outcomes(self._store.statuses())
        acted = False
        for _ in range(_MAX_ACTIONS):
            decision = self._decide(source, plans)
            if not decision.actions:
                break
            self._write(source, decision)
            for action in decision.actions:
                self._act(action, source.desired)
            acted = True
        if self._followed is not None or acted or not self._status().conditions:  # else what the last agent said holds
            self._write(source, decision)
            self._report(decision)
        return decision

    def _follow(self, newest: SourceState) -> SourceState:
        """The state to converge to now: the newest whose intents were looked for, however fast commits come."""
        self.behind = not self._watch.covers(_intents(newest.desired))
        if not self.behind:
            self._followed = self._sought = newest
        elif self._sought is not None and self._watch.covers(_intents(self._sought.desired)):
            self._followed = self._sought
        if self._watch.seeks(_intents(newest.desired)):
            self._sought = newest
        return newest if newest.desired is None else self._followed or newest

    def close(self) -> None:
        """Let go of the kernel."""
        self._watch.close()
        self._deployment.close()

    def _decide(self, source: SourceState, plans: Mapping[str, PlanOutcome]) -> NodeDecision:
        actual = self._look()
        node = self._node
        if self._followed is None and node.status is not None:  # a profile from before this agent decides nothing
            node = node.model_copy(update={"status": node.status.model_copy(update={"profile": None})})
        return diff_node(
            NodeView(source=source, node=node, actual=actual, plans=plans, refused=self._refused, at=now())
        )

    def _look(self) -> Actual:
        actual = self._deployment.actual()
        status = self._status().model_copy(
            update={
                "kernel": actual.kernel,
                "topology": actual.topology,
                "state": actual.state,
                "attached": _steady(self._status().attached, actual.attached),
                "ejected": actual.ejected,
                "quarantine": actual.quarantine,
                "last_exit": self._deployment.last_exit,
            }
        )
        self._node = self._node.model_copy(update={"status": status})
        return actual

    def _act(self, action: Action, desired: Desired | None) -> None:
        match action:
            case Attach():
                self._attach(action, desired)
            case Tune():
                self._tune(action, desired)
            case Detach():
                self._reporter.step(f"detaching: {action.why}")
                self._deployment.detach(action.why)
            case Promote():
                self._deployment.promote(pin=action.pin)
                self._reporter.done("promoted: probation passed")
            case Bury():
                self._reporter.failed(f"{action.death.revision}: {action.death.reason}")
                self._deployment.bury(action.death)
            case _:
                assert_never(action)

    def _attach(self, action: Attach, desired: Desired | None) -> None:
        revision = action.revision
        assert desired is not None
        self._reporter.step(f"attaching {revision.name}: {action.why}")
        try:
            files = self._store.revision_bytes(revision, desired.commit)
            admitted = admit(revision, files, self._deployment.actual(), now())
            self._deployment.attach(admitted, class_cgroups(revision))
        except (TrustError, InputError) as error:
            self._refuse(revision, str(error))
        except KernelError as error:
            reason = why_refused(error)
            self._deployment.quarantine(revision.spec.digests.object, revision.spec.digests.passport, reason)
            self._refuse(revision, reason)
        else:
            self._reporter.done(f"attached {revision.name} as {revision.spec.ops_name}")

    def _tune(self, action: Tune, desired: Desired | None) -> None:
        """Change the knobs in place; where that fails, attach the revision as any other."""
        revision = action.revision
        assert desired is not None
        self._reporter.step(f"changing knobs to those of {revision.name}")
        try:
            files = self._store.revision_bytes(revision, desired.commit)
            admitted = admit(revision, files, self._deployment.actual(), now())
            self._deployment.tune(admitted, class_cgroups(revision))
        except (TrustError, InputError) as error:
            self._refuse(revision, str(error))
        except KernelError as error:
            why = f"its knobs could not be changed in place: {error.message}"
            self._deployment.event("Warning", "NotTuned", f"{revision.name}: {why}")
            self._attach(Attach(revision=revision, why=why), desired)
        else:
            self._reporter.done(f"the knobs of {revision.name} are in force, without a detach")

    def _refuse(self, revision: SchedulerRevision, reason: str) -> None:
        self._refused[revision.name] = reason
        self._deployment.event("Warning", "Refused", f"{revision.name}: {reason}")
        self._reporter.failed(f"{revision.name}: {reason}")

    def _observe(self, desired: Desired | None) -> None:
        seen = self._watch.poll(self._name, _intents(desired))
        for news in seen.news if seen is not None else ():
            self._deployment.event(news.type, news.reason, news.message)
            (self._reporter.failed if news.type == "Warning" else self._reporter.done)(f"{news.reason}: {news.message}")
        if seen is None or seen.profile is None:
            return
        status = self._status().model_copy(update={"profile": seen.profile})
        self._node = self._node.model_copy(update={"status": status})
        attached = self._status().attached
        revisions = desired.revisions if desired is not None else ()
        serving = next((r for r in revisions if attached is not None and r.name == attached.revision), None)
        if serving is not None:
            self._deployment.refresh_cgroups(class_cgroups(serving))

    def _write(self, source: SourceState, decision: NodeDecision) -> None:
        """Put the status where others see it; nothing is written when only the heartbeat would move too soon."""
        at = now()
        status = self._status()
        conditions: tuple[Condition, ...] = status.conditions
        for condition in (*decision.conditions, load_changed(self._watch.steadiness, self._node.metadata.generation)):
            conditions = set_condition(conditions, condition, at)
        status = status.model_copy(
            update={
                "conditions": conditions,
                "commit": source.desired.commit if source.desired is not None else status.commit,
                "events": self._deployment.events,
            }
        )
        same = self._written is not None and status == self._written.status
        due = status.heartbeat is None or at - status.heartbeat >= _HEARTBEAT
        if same and not due:
            return
        alive = {"heartbeat": at, "pulse": self._deployment.pulse()}
        self._node = self._node.model_copy(update={"status": status.model_copy(update=alive)})
        try:
            self._store.put_status(self._name, [self._node])
        except RepositoryError as error:  # what the kernel runs does not depend on whether others can read it
            self._reporter.failed(str(error))
        else:
            self._written = self._node

    def _report(self, decision: NodeDecision) -> None:
        ready = next(c for c in decision.conditions if c.type == "Ready")
        text = f"{ready.reason}: {ready.message}"
        if text != self._said:
            self._said = text
            stalled = any(c.type == "Stalled" and c.status == "True" for c in decision.conditions)
            (self._reporter.failed if stalled else self._reporter.done)(text)

    def _status(self) -> NodeStatus:
        return self._node.status or NodeStatus()

    def _remembered(self) -> NodeScheduler:
        """This node's own resource as last written, so that a new agent goes on with the last profile."""
        mine = next((n for n in self._store.nodes() if n.name == self._name), None)
        spec = NodeSpec(labels=self._labels)
        if mine is not None:
            return mine.model_copy(update={"spec": spec})
        meta = ObjectMeta(name=self._name, creation_timestamp=now(), generation=1)
        return NodeScheduler(metadata=meta, spec=spec, status=NodeStatus())


def _intents(desired: Desired | None) -> Sequence[SchedulingIntent]:
    return desired.intents if desired is not None else ()


def load_changed(steadiness: observe.Steadiness, generation: int | None) -> Condition:
    """Whether the load is another one than a short while ago: no judgement, and not what a plan was made for."""
    status = {None: ConditionStatus.UNKNOWN, True: ConditionStatus.TRUE, False: ConditionStatus.FALSE}
    return Condition(
        type="LoadChanged",
        status=status[steadiness.changed],
        reason=steadiness.reason,
        message=steadiness.message,
        observed_generation=generation,
    )


def class_cgroups(revision: SchedulerRevision) -> dict[int, set[int]]:
    """cgroup id → numbers of the classes of `revision` whose selectors name it by cgroup or unit."""
    found: dict[int, set[int]] = {}
    for number, task_class in enumerate(revision.spec.proposal.classes, start=1):
        if task_class.match.cgroup:
            for cgroup_id in observe.cgroup_ids(task_class.selector):
                found.setdefault(cgroup_id, set()).add(number)
    return found


def plan_outcomes(statuses: Mapping[tuple[str, str, str], Resource]) -> dict[str, PlanOutcome]:
    """The planner's outcomes by plan key, over all policies."""
    policies = (r for r in statuses.values() if isinstance(r, SchedulerPolicy) and r.status is not None)
    return {outcome.plan_key: outcome for p in policies if p.status is not None for outcome in p.status.plans}


def _steady(before: Attachment | None, seen: Attachment | None) -> Attachment | None:
    """A foreign scheduler has no record of its beginning: keep the first time it was seen."""
    if before is not None and seen is not None and before.phase == seen.phase == "Foreign":
        return before if before.ops_name == seen.ops_name else seen
    return seen
