# SPDX-License-Identifier: Apache-2.0
"""Keeps the record of one run of stages: each one's verdict, time, figures and findings, and where the run ended.

The one place that decides what an exception means. What the candidate did is `rejected`; what this machine lacks or
breaks (a full disk, no memory, a signal that asks us to stop) is `error`. Neither is ever a pass, and nothing else is
caught: a bug shows.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from controller.api import Finding, Reporter, StageResult, Verdict
from controller.errors import CandidateRejected, CouldNotTell, GuestError, Interrupted, SchedctlError, TemplateError
from controller.kernel.c_screen import BuildRejected
from controller.verify.audit import AuditRejected
from controller.verify.liveness import LivenessRejected
from controller.verify.load import LoadRejected
from controller.verify.trial import TrialInconclusive, TrialRejected

T = TypeVar("T")
_SUMMARY = 4096
_EVIDENCE = 65536


class Ended(Exception):
    """A stage failed; the run is over."""


@dataclass
class Outcome:
    """What a stage's body may tell besides its value."""

    summary: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


@dataclass
class Record:
    """Stages of one column (or those of no kernel), in order."""

    reporter: Reporter
    where: str = ""
    results: list[StageResult] = field(default_factory=list)

    def run(self, stage: str, doing: str, body: Callable[[Outcome], T]) -> T:
        """Run one stage. Raises Ended, with the failure recorded, unless it passes."""
        self.reporter.step(f"{stage}{self.where}: {doing}")
        begun = time.monotonic()
        outcome = Outcome()
        try:
            value = body(outcome)
        except (SchedctlError, OSError, MemoryError, Interrupted) as error:
            self._failed(stage, said_of(error), outcome, time.monotonic() - begun)
            raise Ended from error
        seconds = time.monotonic() - begun
        self._add(stage, Verdict.PASS, outcome.summary, seconds, outcome.figures, outcome.findings)
        self.reporter.done(f"{stage}{self.where}: {outcome.summary}")
        return value

    def error(self, stage: str, error: SchedctlError) -> None:
        """Note that a stage could not be told of, before it began."""
        self._failed(stage, error, Outcome(), 0.0)

    def not_run(self, stage: str, why: str) -> None:
        """Note that a stage did not run."""
        self._add(stage, Verdict.NOT_RUN, why, 0.0, {}, ())

    def _failed(self, stage: str, error: SchedctlError, outcome: Outcome, seconds: float) -> None:
        bad = isinstance(error, CandidateRejected | TemplateError)
        verdict = Verdict.REJECTED if bad else Verdict.ERROR
        findings, figures, evidence = _told(error)
        summary = error.message if findings else str(error)
        self._add(
            stage, verdict, summary, seconds, {**outcome.figures, **figures}, (*outcome.findings, *findings), evidence
        )
        self.reporter.failed(f"{stage}{self.where}: {verdict.value}: {summary}")

    def _add(
        self,
        stage: str,
        verdict: Verdict,
        summary: str,
        seconds: float,
        figures: Mapping[str, Any],
        findings: tuple[Finding, ...],
        evidence: str = "",
    ) -> None:
        self.results.append(
            StageResult(
                stage=stage,
                verdict=verdict,
                summary=summary[:_SUMMARY],
                seconds=round(seconds, 6),
                figures=dict(figures),
                findings=findings,
                evidence=evidence[-_EVIDENCE:],
            )
        )


def said_of(error: BaseException) -> SchedctlError:
    """An error as one that has a verdict: what this machine does to us is `CouldNotTell`."""
    if isinstance(error, SchedctlError):
        return error
    if isinstance(error, Interrupted):
        return CouldNotTell(f"stopped by {error} before there was a verdict", remedy="run it again")
    if isinstance(error, MemoryError):
        return CouldNotTell("this machine has no memory left", remedy="end other programs and run it again")
    assert isinstance(error, OSError)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "make room, or set SCHEDCTL_CACHE and TMPDIR to a folder with room" if full else "schedctl doctor"
    file = f": {error.filename}" if error.filename else ""
    return CouldNotTell(f"this machine fails: {error.strerror or error}{file}", remedy=remedy)


def _told(error: SchedctlError) -> tuple[tuple[Finding, ...], dict[str, Any], str]:
    """What a failure says besides its sentence: findings, figures, evidence."""
    if isinstance(error, BuildRejected):
        message = error.message.removeprefix(f"line {error.line}: ")[:4096]
        finding = Finding(
            rule="build/rejected", severity="error", message=message, line=error.line, fix=error.remedy[:1024]
        )
        return (finding,), {}, error.evidence
    if isinstance(error, AuditRejected):
        return error.findings, {}, error.evidence
    if isinstance(error, LoadRejected):
        return (error.finding,), dict(error.figures), error.evidence
    if isinstance(error, LivenessRejected):
        return (error.finding, *error.warnings), dict(error.figures), error.evidence
    if isinstance(error, TrialRejected):
        return (error.finding,), dict(error.figures), error.evidence
    if isinstance(error, TrialInconclusive):
        return (), dict(error.figures), ""
    if isinstance(error, CandidateRejected):
        return (), {}, error.evidence
    return (), {}, error.console if isinstance(error, GuestError) else ""
