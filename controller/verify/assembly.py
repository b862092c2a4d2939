# SPDX-License-Identifier: Apache-2.0
"""The passport of an examination: every stage that ran, and why each of the others did not."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from controller.api import STAGES, EvidenceFile, Fingerprint, Passport, StageResult, Verdict, now, sha256
from controller.verify.candidate import Candidate
from controller.verify.examination import Run
from controller.verify.stages import Record

_NO_TRIAL = "no trial of benefit was asked for"


def note_what_did_not_run(run: Run) -> None:
    for stage in STAGES[:5]:
        if not any(result.stage == stage for result in run.static.results):
            run.static.not_run(stage, _why_not(run, stage))
    run.static.results.sort(key=lambda result: STAGES.index(result.stage))
    for index, column in enumerate(run.columns):
        record = Record(run.reporter, results=list(column.stages))
        for stage in STAGES[5:]:  # those of a kernel
            if not any(result.stage == stage for result in record.results):
                record.not_run(stage, _NO_TRIAL if stage == "trial" and run.trial is None else _why_not(run, stage))
        run.columns[index] = column.model_copy(update={"stages": tuple(record.results)})


def next_stage(run: Run) -> str:
    """The stage that would have come next, or the last one."""
    told = {result.stage for result in run.static.results} | {s.stage for c in run.columns for s in c.stages}
    done = max((STAGES.index(stage) for stage in told), default=-1)
    kinds = _kinds(run.candidate)
    return next((s for s in STAGES[done + 1 :] if s in run.wanted and s in kinds), STAGES[max(done, 0)])


def _kinds(candidate: Candidate) -> tuple[str, ...]:
    """The stages that a candidate of this kind has."""
    return STAGES if candidate.proposal is not None else STAGES[2 if candidate.source is not None else 4 :]


def _why_not(run: Run, stage: str) -> str:
    if stage not in run.wanted:
        return "not asked for"
    kind = "C text" if run.candidate.source is not None else "an object"
    theirs = {"schema", "render"} if run.candidate.source is not None else {"schema", "render", "lint", "build"}
    if run.candidate.proposal is None and stage in theirs:
        return f"the candidate is {kind}"
    return "an earlier stage failed"


def passport_of(run: Run, max_age_ns: int, workload: Fingerprint | None) -> Passport:
    issued = now()
    proposal = run.candidate.proposal
    return Passport(
        verdict=_verdict([*run.static.results, *(s for column in run.columns for s in column.stages)]),
        object_digest=sha256(run.image) if run.image is not None else None,
        source_digest=sha256(run.source.encode("utf-8", "replace")) if run.source is not None else None,
        template_digest=proposal.template_digest if proposal is not None else None,
        proposal_digest=proposal.content_digest() if proposal is not None else None,
        ops_name=run.ops_name,
        stages=tuple(run.static.results),
        kernels=tuple(run.columns),
        tools=run.tools,
        workload=workload,
        attachments=tuple(
            EvidenceFile(name=name, digest=sha256(data), size=len(data))
            for name, data in sorted(run.attachments.items())
        ),
        issued_at=issued,
        expires_at=issued + timedelta(microseconds=max_age_ns // 1000),
    )


def _verdict(results: Sequence[StageResult]) -> Verdict:
    verdicts = {result.verdict for result in results}
    for verdict in (Verdict.REJECTED, Verdict.ERROR, Verdict.PASS):
        if verdict in verdicts:
            return verdict
    return Verdict.NOT_RUN
