# SPDX-License-Identifier: Apache-2.0
"""New templates: where a planner hands them in, what they are held to, and the branch on which they wait for a person.

No plan uses a draft. A key has one at most: while an outcome names a branch, no other is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from controller import verify
from controller.api import ApiModel, Desired, PlanOutcome, Proposal, SchedulerPolicy, SchedulerTemplate, Store, Verdict
from controller.errors import SchedctlError
from controller.plan.drafting import Desk, Judgment
from controller.reconcile import bundle
from controller.source import all_templates

STATIC = ("schema", "render", "lint", "build", "audit")
"""The stages that need no kernel."""
FILE = "drafting.json"
FOLDER = "draft"


@dataclass(frozen=True)
class Filed:
    """The branch on which a draft lies ("" if none), and a sentence about it."""

    branch: str
    told: str


def desk_for(policy: SchedulerPolicy, desired: Desired, before: PlanOutcome | None = None) -> Desk | None:
    """A desk where the policy allows new templates and `before`, the key's last outcome, has led to none."""
    if policy.spec.planner.autonomy != "template" or (before is not None and before.draft is not None):
        return None
    return Desk(frozenset(all_templates(desired)), judge)


def judge(proposal: Proposal, template: SchedulerTemplate) -> Judgment:
    """A draft filled with its defaults: rendered, linted, compiled and audited."""
    passport = verify.examine(verify.Candidate.from_proposal(proposal, template), stages=STATIC).passport
    bad = next((s for s in passport.stages if s.verdict in (Verdict.REJECTED, Verdict.ERROR)), None)
    if bad is None:
        return Judgment(verdict=passport.verdict)
    finding = next((f for f in bad.findings if f.severity == "error"), None)
    rule, line = (finding.rule, finding.line or 0) if finding is not None else ("", 0)
    return Judgment(verdict=bad.verdict, stage=bad.stage, rule=rule, line=line, summary=bad.summary[:400])


def file(store: Store, desk: Desk | None, before: PlanOutcome | None) -> Filed:
    """Propose the draft on its branch. What cannot be committed costs the draft, not the plan."""
    if desk is None or desk.draft is None:
        waiting = before.draft if before is not None and before.draft is not None else ""
        return Filed(waiting, f"a new template waits for a person on branch {waiting}" if waiting else _none(desk))
    draft = desk.draft
    try:
        new = store.add_draft(draft)
    except SchedctlError as error:
        return Filed("", f"the new template {draft.name} was not proposed: {error.message}")
    told = f"a new template {draft.name} {'lies' if new else 'lay already'} on branch {draft.branch}"
    return Filed(draft.branch, f"{told}: a person must review and merge it, and nothing uses it")


def _none(desk: Desk | None) -> str:
    return desk.note() if desk is not None else ""


# In a bundle ---------------------------------------------------------------------------------------------------------


class _Drafting(ApiModel):
    """drafting.json"""

    taken: tuple[str, ...]
    judged: tuple[Judgment, ...]


def files_of(desk: Desk | None) -> dict[str, bytes]:
    """What a bundle keeps: the names that were taken, every judgment, and the draft."""
    if desk is None:
        return {}
    told = {"taken": sorted(desk.taken), "judged": [one.wire() for one in desk.judged]}
    made = {FILE: json.dumps(told, sort_keys=True, indent=1).encode() + b"\n"}
    draft = desk.draft.files() if desk.draft is not None else {}
    return made | {f"{FOLDER}/{name}": content for name, content in draft.items()}


def desk_of(files: Mapping[str, bytes]) -> Desk | None:
    """The desk of a bundle, whose judge says again what was said. InputError for what is none."""
    if FILE not in files:
        return None
    told = bundle.value(files, FILE, _Drafting)
    return Desk(frozenset(told.taken), Replayed(told.judged))


class Replayed:
    """A judge who judges anew, and goes on as the record does where another machine could not tell."""

    def __init__(self, recorded: Sequence[Judgment]) -> None:
        self._recorded = iter(recorded)
        self.compared: list[tuple[Judgment | None, Judgment]] = []

    def __call__(self, proposal: Proposal, template: SchedulerTemplate) -> Judgment:
        was, now = next(self._recorded, None), judge(proposal, template)
        self.compared.append((was, now))
        return now if was is None else was


def compared(
    desk: Desk | None, files: Mapping[str, bytes]
) -> Iterator[tuple[str, Literal["ok", "differs", "skipped"], str]]:
    """What a replay made of the drafts beside what was recorded: (what, result, detail)."""
    if desk is None:
        return
    for number, (was, now) in enumerate(desk.judge.compared if isinstance(desk.judge, Replayed) else (), start=1):
        told = f"{now.verdict.value} {now.stage} {now.rule}".strip()
        before = f"{was.verdict.value} {was.stage} {was.rule}".strip() if was is not None else "nothing"
        untold = Verdict.ERROR in (now.verdict, was.verdict if was is not None else None)
        same = was is not None and (was.verdict, was.stage, was.rule, was.line) == (
            now.verdict, now.stage, now.rule, now.line,
        )  # fmt: skip
        detail = told if same else f"{told}; {before} was recorded"
        yield f"draft {number} judged", "ok" if same else "skipped" if untold else "differs", detail
    made = desk.draft.files() if desk.draft is not None else {}
    kept = {n.removeprefix(f"{FOLDER}/"): d for n, d in files.items() if n.startswith(f"{FOLDER}/")}
    bad = sorted(name for name in made.keys() | kept.keys() if made.get(name) != kept.get(name))
    if bad:
        yield "draft", "differs", f"{bad[0]} is another one than was recorded"
    elif made and desk.draft is not None:
        yield "draft", "ok", desk.draft.digest
