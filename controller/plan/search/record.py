# SPDX-License-Identifier: Apache-2.0
"""What a search tried and how each candidate ended, and the sentences of it that a proposal keeps, at most a dozen."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from controller.plan.search.pruning import SURE, Bounds

MAX_TOLD = 8
"""Candidates that get a sentence each: the best ones."""
_MAX_SENTENCE = 1000
Ending = Literal["better", "pruned", "unshown", "guardrail", "failed", "refused", "unfinished"]
_ENDS: dict[Ending, str] = {
    "better": "better than the best before it",
    "pruned": "given up: it cannot beat the best",
    "unshown": "not shown to be better",
    "guardrail": "given up: others lose more than is allowed",
    "failed": "failed",
    "refused": "rejected before for the same inputs",
    "unfinished": "was not finished",
}


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate. `found` is its log gain over the best of that time, in `blocks`; `lead` is over the rules' own."""

    number: int
    changes: tuple[str, ...]
    ended: Ending
    blocks: int = 0
    found: Bounds | None = None
    lead: float = -math.inf
    why: str = ""

    def sentence(self) -> str:
        """Candidate, figures, end."""
        figures = f" {interval(self.found)} over the best in {_blocks(self.blocks)}:" if self.found is not None else ""
        why = f": {self.why}" if self.why else ""
        return f"candidate {self.number} ({', '.join(self.changes)}){figures} {_ENDS[self.ended]}{why}"


@dataclass
class Record:
    """One search. `trouble` says why it broke off, `dropped` which candidates were the best for a while and failed."""

    by: str
    candidates: int
    tried: list[Tried] = field(default_factory=list)
    asked: int = 0
    blocks: int = 0
    seconds: float = 0.0
    out_of_time: bool = False
    trouble: str = ""
    dropped: list[str] = field(default_factory=list)
    result: str = ""

    def sentences(self) -> tuple[str, ...]:
        """For `Proposal.reasons`: what was done, what came of it, and the best candidates."""
        told = [
            f"search ({self.by}) tried {len(self.tried)} of {self.candidates} candidates beside the rules' own in "
            f"{_blocks(self.blocks)}, {self.seconds:.0f} s{self._why_fewer()}; bounds are one-sided at {SURE:.0%}",
            self.result,
            *self.dropped[:1],
        ]
        best = sorted(self.tried, key=lambda one: (-one.lead, one.number))
        told += [one.sentence() for one in best[:MAX_TOLD]]
        others = Counter(_ENDS[one.ended] for one in best[MAX_TOLD:])
        if others:
            told.append("of the other candidates " + ", ".join(f"{n} {end}" for end, n in sorted(others.items())))
        return tuple(sentence[:_MAX_SENTENCE] for sentence in told if sentence)

    def _why_fewer(self) -> str:
        if self.trouble:
            return ", until it broke off"
        if self.out_of_time:
            return ", until the time was over"
        return ", and found no others" if len(self.tried) < self.candidates else ""


def interval(found: Bounds) -> str:
    """Log gains as percentages: `+12.3 % [+8.1 %, +16.7 %]`."""
    return f"{_percent(found.mean)} [{_percent(found.low)}, {_percent(found.high)}]"


def _percent(gain: float) -> str:
    return f"{100 * math.expm1(min(gain, 50.0)):+.1f} %" if math.isfinite(gain) else "?"


def _blocks(count: int) -> str:
    return f"{count} block{'' if count == 1 else 's'}"
