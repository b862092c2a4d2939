# SPDX-License-Identifier: Apache-2.0
"""Replay: a recorded campaign made again from its bundle, and compared byte by byte.

It needs neither key nor network nor a guest: the planners run again, on the recorded answers of the model and
measurements of a search; the proposal is rendered, linted, compiled and audited again; the trial's verdict is reckoned
anew from its samples. What a kernel alone can say (load, liveness) is taken from the record.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from controller import __version__, plan, verify
from controller.api import (
    ApiModel,
    Lesson,
    Passport,
    Proposal,
    SchedulerPolicy,
    SchedulerTemplate,
    SchedulingIntent,
    StageResult,
    Verdict,
    WorkloadProfile,
    now,
    sha256,
)
from controller.errors import SchedctlError
from controller.plan import tape
from controller.plan.learning import Prior
from controller.plan.ledger import Ledger
from controller.plan.search.measure import Exchange, Player
from controller.reconcile import bundle as bundles
from controller.reconcile import drafts
from controller.reconcile.bundle import Bundle
from controller.reconcile.drafts import STATIC
from controller.reconcile.record import Campaign
from controller.verify.recheck import recheck


@dataclass(frozen=True)
class Check:
    """One thing that was made again: the same, another one, or not to be told here."""

    what: str
    result: Literal["ok", "differs", "skipped"]
    detail: str


@dataclass(frozen=True)
class Replay:
    """What a replay gave: the proposal's canonical bytes, source and object, the verdict, and every comparison."""

    checks: tuple[Check, ...]
    proposal: Proposal | None = None
    source: bytes | None = None
    object: bytes | None = None
    verdict: Verdict | None = None


class _About(ApiModel):
    """campaign.json"""

    schedctl: str
    plan_key: str
    error: str
    day: Annotated[str, Field(pattern=r"^([0-9]{4}-[0-9]{2}-[0-9]{2})?$")]


class _Prior(ApiModel):
    """As learning.Prior."""

    revision: str
    proposal: Proposal
    distance: float
    names: dict[str, str]


class _Past(ApiModel):
    """past.json"""

    inputs: str
    lessons: tuple[Lesson, ...]
    prior: _Prior | None = None

    def past(self) -> plan.Past:
        """As the planners take it."""
        was = self.prior
        prior = Prior(was.revision, was.proposal, was.distance, was.names) if was is not None else None
        return plan.Past(self.inputs, self.lessons, prior)


def replay(bundle: Bundle) -> Replay:
    """Make the campaign of `bundle` again. Never raises for what is wrong with it: that is a check that differs."""
    checks = [Check(name, "differs", problem) for name, problem in sorted(bundle.problems.items())]
    try:
        about = bundles.value(bundle.files, "campaign.json", _About)
        campaign = campaign_of(bundle.files)
    except SchedctlError as problem:
        return Replay((*checks, Check("bundle", "differs", f"it cannot be replayed: {problem}")))
    if about.schedctl != __version__:
        told = f"this is schedctl {__version__}, it was recorded with {about.schedctl}: results may differ"
        checks.append(Check("version", "skipped", told))
    proposal = _replan(campaign, bundle.files, about.error, checks)
    if proposal is None or "passport.json" not in bundle.files:
        return Replay(tuple(checks), proposal)
    return _reverified(campaign, proposal, bundle.files, checks)


def campaign_of(files: Mapping[str, bytes]) -> Campaign:
    """The campaign in a bundle's files, its tape rewound. InputError for what is missing or none."""
    about = bundles.value(files, "campaign.json", _About)
    measured = None
    if "measured.json" in files:
        measured = list(bundles.values(files, "measured.json", Exchange))
    return Campaign(
        profile=bundles.value(files, "profile.json", WorkloadProfile),
        intents=bundles.values(files, "intents.json", SchedulingIntent),
        policy=bundles.value(files, "policy.json", SchedulerPolicy),
        templates=bundles.values(files, "templates.json", SchedulerTemplate),
        past=bundles.value(files, "past.json", _Past).past(),
        key=about.plan_key,
        tape=tape.Tape(bundles.value(files, "model.json", tape.Contents)),
        bench=Player(measured) if measured is not None else None,
        measured=measured,
        ledger=bundles.raw(files, "ledger.jsonl"),
        day=about.day,
        desk=drafts.desk_of(files),
    )


def _replan(campaign: Campaign, files: Mapping[str, bytes], error: str, checks: list[Check]) -> Proposal | None:
    """The proposal, made again and compared."""
    recorded = files.get("proposal.json")
    try:
        with _as_it_was(campaign) as ledger:
            proposal = campaign.propose(ledger)
    except tape.TapeDiffers as differs:
        checks.append(Check("proposal", "differs", differs.message))
        return None
    except SchedctlError as failed:
        same = recorded is None and str(failed) == error
        told = f"nothing was proposed: {failed}"
        told += "" if same else f"; recorded was {error or 'a proposal'}"
        checks.append(Check("proposal", "ok" if same else "differs", told))
        return None
    checks += [Check(*told) for told in drafts.compared(campaign.desk, files)]
    left = campaign.tape.unasked()
    if left:
        checks.append(Check("model", "differs", f"{left} recorded requests were not made"))
    left = campaign.bench.unasked() if isinstance(campaign.bench, Player) else 0
    if left:
        checks.append(Check("measurements", "differs", f"{left} recorded measurements were not asked for"))
    made = proposal.canonical()
    if recorded is None:
        checks.append(Check("proposal", "differs", f"there is one now; recorded was: {error or 'none'}"))
    elif made == recorded:
        checks.append(Check("proposal", "ok", f"{sha256(made)}, {len(campaign.tape.exchanges)} answers of a model"))
    else:
        checks.append(Check("proposal", "differs", _where(recorded, made)))
    return proposal


def _reverified(
    campaign: Campaign, proposal: Proposal, files: Mapping[str, bytes], checks: list[Check]
) -> Replay:  # fmt: skip
    """Source, object and verdict, made again and compared with the recorded passport."""
    try:
        passport = bundles.value(files, "passport.json", Passport)
    except SchedctlError as error:
        return Replay((*checks, Check("verdict", "differs", str(error))), proposal)
    template = next((t for t in campaign.templates if t.name == proposal.template), None)
    if template is None:
        told = f"template {proposal.template} is not among the recorded ones"
        return Replay((*checks, Check("source", "differs", told)), proposal)
    ran = [s.stage for s in passport.stages if s.stage in STATIC and s.verdict is not Verdict.NOT_RUN]
    again = verify.examine(verify.Candidate.from_proposal(proposal, template), stages=ran)
    checks.append(_bound("proposal", passport.proposal_digest, proposal.canonical()))
    checks.append(_same("source", files.get("scheduler.bpf.c"), again.source, passport.source_digest))
    checks.append(_object(files.get("scheduler.bpf.o"), again, passport))
    stages = [_stage(stage, again.passport, passport, checks) for stage in passport.stages]
    verdict = _verdict([*stages, *_on_kernels(passport, files, checks)])
    same = verdict is passport.verdict
    told = f"{verdict.value}; what guests said of load and liveness is taken from the record"
    checks.append(
        Check(
            "verdict", "ok" if same else "differs", told if same else f"{told}; {passport.verdict.value} was recorded"
        )
    )
    return Replay(tuple(checks), proposal, again.source, again.object, verdict)


def _stage(recorded: StageResult, now_: Passport, passport: Passport, checks: list[Check]) -> Verdict:
    """A stage of no kernel, run again. What this machine cannot tell (no clang) is taken from the record, and said."""
    if recorded.verdict is Verdict.NOT_RUN or recorded.stage not in STATIC:
        return recorded.verdict
    mine = next(s for s in now_.stages if s.stage == recorded.stage)
    if mine.verdict is recorded.verdict:
        checks.append(Check(recorded.stage, "ok", mine.verdict.value))
        return mine.verdict
    told = f"{mine.verdict.value}: {mine.summary}; {recorded.verdict.value} was recorded"
    # Lint and audit know more rules when they know the kernels, whose images a replay does not need.
    unknown = mine.verdict in (Verdict.ERROR, Verdict.NOT_RUN) or (
        recorded.stage in ("lint", "audit") and mine.verdict is Verdict.PASS and bool(passport.kernels)
    )
    checks.append(Check(recorded.stage, "skipped" if unknown else "differs", told))
    return recorded.verdict if unknown else mine.verdict


def _on_kernels(passport: Passport, files: Mapping[str, bytes], checks: list[Check]) -> list[Verdict]:
    """The verdicts of the stages on kernels: trials from their samples, the rest as recorded."""
    evidence = {name.removeprefix("evidence/"): data for name, data in files.items() if name.startswith("evidence/")}
    for each in passport.attachments:
        found = evidence.get(each.name)
        if found is None or sha256(found) != each.digest:
            told = "is missing" if found is None else f"is {sha256(found)}, the passport names {each.digest}"
            checks.append(Check(f"evidence {each.name}", "differs", told))
    trials = [s for column in passport.kernels for s in column.stages if s.stage == "trial"]
    ran = any(s.verdict is not Verdict.NOT_RUN for s in trials)
    bad = False
    for what, result, detail in recheck(passport, evidence) if ran else ():
        checks.append(Check(what, "differs" if result == "refused" else result, detail))
        bad = bad or result == "refused"
    verdicts = [s.verdict for column in passport.kernels for s in column.stages]
    return [*verdicts, Verdict.REJECTED] if bad and Verdict.REJECTED not in verdicts else verdicts


def _verdict(verdicts: Sequence[Verdict]) -> Verdict:
    """As verification combines them: the worst that is known."""
    return next((v for v in (Verdict.REJECTED, Verdict.ERROR, Verdict.PASS) if v in verdicts), Verdict.NOT_RUN)


def _bound(part: str, named: str | None, data: bytes) -> Check:
    found = sha256(data)
    if named == found:
        return Check(f"passport's {part}", "ok", found)
    return Check(f"passport's {part}", "differs", f"the passport is for {named}, this is {found}")


def _same(what: str, recorded: bytes | None, made: bytes | None, named: str | None) -> Check:
    if recorded is None and made is None:
        return Check(what, "ok", "there is none")
    if recorded is None or made is None:
        return Check(what, "differs", "there is none now" if made is None else "none was recorded")
    if recorded != made:
        return Check(what, "differs", _where(recorded, made))
    if named is not None and sha256(made) != named:
        return Check(what, "differs", f"it is {sha256(made)}, the passport is for {named}")
    return Check(what, "ok", sha256(made))


def _object(recorded: bytes | None, again: verify.Examination, passport: Passport) -> Check:
    """The object is the same only from the same compiler: with another one that is no difference of the campaign."""
    check = _same("object", recorded, again.object, passport.object_digest)
    mine, theirs = again.passport.tools.get("clang"), passport.tools.get("clang")
    if check.result != "differs" or mine == theirs:
        return check
    told = f"clang {mine or 'is not here'}, recorded with clang {theirs}: {check.detail}"
    return Check("object", "skipped", told)


def _where(recorded: bytes, made: bytes) -> str:
    """The first difference: a field of JSON, a line of text, else an offset."""
    try:
        place = tape.first_difference(json.loads(recorded), json.loads(made))
        return place or "the same values in other bytes"
    except ValueError:
        pass
    try:
        left, right = recorded.decode().splitlines(), made.decode().splitlines()
    except UnicodeDecodeError:
        at = next((i for i, (a, b) in enumerate(zip(recorded, made, strict=False)) if a != b), None)
        at = min(len(recorded), len(made)) if at is None else at
        return f"differs from byte {at} on: {len(made)} bytes, {len(recorded)} were recorded"
    line = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    return f"differs from line {line + 1} on"


@contextmanager
def _as_it_was(campaign: Campaign) -> Iterator[Ledger]:
    """The ledger as the campaign found it: a copy, its last day moved to today."""
    today = f"{now():%Y-%m-%d}".encode()
    with tempfile.TemporaryDirectory(prefix="schedctl-replay-") as folder:
        text = campaign.ledger
        if campaign.day:
            text = text.replace(b'"at":"' + campaign.day.encode(), b'"at":"' + today)
        ledger = Ledger(Path(folder) / "ledger.jsonl")
        ledger.path.write_bytes(text)
        yield ledger
