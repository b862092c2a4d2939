# SPDX-License-Identifier: Apache-2.0
"""What a trial ends with: its result as plain values, and the two ways in which it is no pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from controller.api import Finding
from controller.errors import CandidateRejected, CouldNotTell

BETTER, EQUIVALENT, WORSE, INCONCLUSIVE = "better", "equivalent", "worse", "inconclusive"
KEPT, BROKEN, UNPROVEN = "kept", "broken", "unproven"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The candidate against one arm on one metric: gains as fractions (0.1: a tenth better, whatever the direction)."""

    metric: str
    reference: str
    gain: float
    low: float
    high: float
    verdict: str


@dataclass(frozen=True, slots=True)
class GuardrailResult:
    """One guardrail against one arm. `adjusted_p` is Holm's, of the hypothesis that it was kept."""

    metric: str
    reference: str
    gain: float
    low: float
    high: float
    max_regression: float
    adjusted_p: float
    verdict: str


@dataclass(frozen=True, slots=True)
class TrialResult:
    """A trial's verdict and everything behind it. Fractions throughout; a pair is one run of each of two arms.

    `noise` is the standard deviation of one A/A block's log ratio; `detectable` the smallest effect that the blocks
    run would show with the power asked for (of those that fit the time, when none were run).
    """

    verdict: str
    workload: str
    objective: str
    comparisons: tuple[Comparison, ...]
    guardrails: tuple[GuardrailResult, ...]
    noise: float
    pairs: int
    pairs_needed: int
    detectable: float
    mde: float
    confidence: float
    runs: int
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the stage passes."""
        return self.verdict in (BETTER, EQUIVALENT)

    def figures(self) -> dict[str, Any]:
        """For the passport, the unit last in each name."""
        found: dict[str, Any] = {
            "verdict": self.verdict, "workload": self.workload, "objective": self.objective, "pairs": self.pairs,
            "pairs_needed": self.pairs_needed, "runs": self.runs, "noise_percent": _percent(self.noise),
            "mde_percent": _percent(self.mde), "detectable_percent": _percent(self.detectable),
            "confidence": self.confidence,
        }  # fmt: skip
        for one in self.comparisons:
            found |= _figures(f"{one.reference}.{one.metric}", one)
        for guard in self.guardrails:
            name = f"{guard.reference}.guardrail.{guard.metric}"
            found |= _figures(name, guard)
            found |= {f"{name}.max_regression_percent": _percent(guard.max_regression), f"{name}.p": guard.adjusted_p}
        return found

    def summary(self) -> str:
        """A sentence."""
        if self.note:
            return f"{self.workload}: {self.note}"
        against = "; ".join(
            f"{_interval(one)} against {_ARMS.get(one.reference, one.reference)}" for one in self.comparisons
        )
        text = f"{self.workload}: {self.verdict} in {self.objective}: {against}, {self.pairs} pairs"
        broken = [guard for guard in self.guardrails if guard.verdict == BROKEN]
        if broken:
            text += (
                f"; {broken[0].metric} regresses {_signed(-broken[0].gain)}, {broken[0].max_regression:.1%} is allowed"
            )
        if self.verdict == INCONCLUSIVE:
            text += f"; {self.pairs_needed} pairs would do"
        return text

    def warnings(self) -> tuple[Finding, ...]:
        """Guardrails of which nothing was shown."""
        return tuple(
            Finding(
                rule="trial/guardrail-unproven",
                severity="warn",
                message=f"{guard.metric} against {_ARMS.get(guard.reference, guard.reference)}: "
                f"{_interval(guard)} does not show "
                f"that it regresses less than {guard.max_regression:.1%}",
                fix="allow the trial more time, or the guardrail more",
            )
            for guard in self.guardrails
            if guard.verdict == UNPROVEN
        )


_ARMS = {"baseline": "the kernel's own scheduler", "incumbent": "the incumbent"}


def _figures(name: str, one: Comparison | GuardrailResult) -> dict[str, Any]:
    return {
        f"{name}.verdict": one.verdict,
        f"{name}.gain_percent": _percent(one.gain),
        f"{name}.low_percent": _percent(one.low),
        f"{name}.high_percent": _percent(one.high),
    }


def _interval(one: Comparison | GuardrailResult) -> str:
    return f"{_signed(one.gain)} [{_signed(one.low)}, {_signed(one.high)}]"


def _percent(fraction: float) -> float:
    return round(100 * fraction, 4)


def _signed(fraction: float) -> str:
    return f"{100 * fraction:+.1f} %" if math.isfinite(fraction) else f"{fraction:+}"


class TrialRejected(CandidateRejected):
    """The candidate is worse, or did not last through the trial. `arm` is the one to blame, where that is known."""

    def __init__(
        self, rule: str, message: str, *, evidence: str = "", figures: dict[str, Any] | None = None, arm: str = ""
    ) -> None:
        super().__init__("trial", message, evidence=evidence)
        self.finding = Finding(rule=f"trial/{rule}", severity="error", message=message[:4096])
        self.figures = figures or {}
        self.arm = arm


class TrialInconclusive(CouldNotTell):
    """The trial showed nothing either way."""

    def __init__(self, message: str, *, figures: dict[str, Any], remedy: str) -> None:
        super().__init__(message, remedy=remedy)
        self.figures = figures
