# SPDX-License-Identifier: Apache-2.0
"""Course: what a planner keeps of one plan while it is under way, and what the plan has cost."""

from __future__ import annotations

from controller.api import Lesson, PlanCost, PlannerRecord, PlanOutcome, SchedulerRevision
from controller.api.lesson import MAX_LESSONS
from controller.api.store import Lease
from controller.plan import tape
from controller.reconcile.diff import PlanTask
from controller.reconcile.drafts import Filed
from controller.reconcile.record import Campaign


class Course:
    """One plan under way: its task and lease, what was learned, and its campaign with the digest it is kept under."""

    def __init__(
        self, task: PlanTask, lease: Lease, before: PlanOutcome | None, standing: SchedulerRevision | None
    ) -> None:
        self.task = task
        self.standing = standing  # what counts for the key until now
        self.lease = lease
        self.before = before  # the key's last outcome
        self.decided: PlannerRecord | None = None
        self.lessons = before.lessons if before is not None else ()  # of whatever inputs: each says of which
        self.campaign: Campaign | None = None
        self.digest: str | None = None
        self.filed = Filed(before.draft or "" if before is not None else "", "")
        again = before is not None and before.inputs == task.inputs and task.attempt > 1
        self._resumed = False
        self._spent = before.cost if before is not None and again else PlanCost(calls=0, usd=0)

    def resume(self, kept: Campaign) -> None:
        """Go on with the proposal of an earlier attempt: its calls are in what that cost."""
        self.campaign, self._resumed = kept, True

    def learn(self, lesson: Lesson) -> None:
        """Keep what became of a candidate."""
        self.lessons = (*self.lessons, lesson)[-MAX_LESSONS:]

    def cost(self) -> PlanCost | None:
        """Of the calls of all attempts with these inputs; None when nothing is known of the earlier ones."""
        mine = tape.cost_of(self.campaign.tape.exchanges if self.campaign is not None and not self._resumed else ())
        if self._spent is None:
            return None
        known = mine.usd is not None and self._spent.usd is not None
        usd = round((mine.usd or 0) + (self._spent.usd or 0), 9) if known else None
        return PlanCost(calls=mine.calls + self._spent.calls, usd=usd)
