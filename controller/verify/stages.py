# SPDX-License-Identifier: Apache-2.0
"""Keeps the record of one run of stages: each one's verdict, time, figures and findings, and where the run ended.

The one place that decides what an exception means. What the candidate did is `rejected`; what this machine lacks or
breaks is `error`. Neither is ever a pass, and nothing that is not one of schedctl's own errors is caught: a bug shows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from controller.api import Finding, Reporter, StageResult, Verdict
from controller.errors import CandidateRejected, GuestError, SchedctlError, TemplateError
from controller.kernel.c_screen import BuildRejected
from controller.verify.audit import AuditRejected
from controller.verify.liveness import LivenessRejected
from controller.verify.load import LoadRejected

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
        except SchedctlError as error:
            self._failed(stage, error, outcome, time.monotonic() - begun)
            raise Ended from error
        seconds = time.monotonic() - begun
        self._add(stage, Verdict.PASS, outcome.summary, seconds, outcome.figures, outcome.findings)
        self.reporter.done(f"{stage}{self.where}: {outcome.summary}")
        return value

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
        return (error.finding,), {}, error.evidence
    if isinstance(error, LivenessRejected):
        return (error.finding, *error.warnings), dict(error.figures), error.evidence
    if isinstance(error, CandidateRejected):
        return (), {}, error.evidence
    return (), {}, error.console if isinstance(error, GuestError) else ""
