# SPDX-License-Identifier: Apache-2.0
"""Paired pruning: from a candidate's log gains, a block each, whether it is worth another block.

The bounds are those of Student's t for the mean of the blocks so far, one-sided at 90 %. A candidate whose upper bound
is below 0 after 3 blocks or more is given up; one whose lower bound is above 0 after all its 8 is taken. The bounds are
looked at after each block, so a candidate that is just as good is given up more often than one time in ten, which costs
a candidate. What is taken in the end is measured again on blocks of its own, by the same bounds: of searches in which
nothing is better, at most one in ten proposes something else than the rules.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

SURE = 0.9
LEAST_BLOCKS = 3
MOST_BLOCKS = 8


@dataclass(frozen=True, slots=True)
class Bounds:
    """A mean log gain with its one-sided bounds at 90 %."""

    mean: float
    low: float
    high: float


def bounds(gains: Sequence[float]) -> Bounds:
    """The bounds of one or more gains; of a single one they are infinite."""
    from scipy import special

    mean = statistics.fmean(gains)
    if len(gains) < 2:
        return Bounds(mean, -math.inf, math.inf)
    away = float(special.stdtrit(len(gains) - 1, SURE)) * statistics.stdev(gains) / math.sqrt(len(gains))
    return Bounds(mean, mean - away, mean + away)


def hopeless(gains: Sequence[float]) -> bool:
    """Whether enough blocks say that it cannot beat what it is measured beside."""
    return len(gains) >= LEAST_BLOCKS and bounds(gains).high < 0


def better(gains: Sequence[float]) -> bool:
    """Whether enough blocks show that it beats what it is measured beside."""
    return len(gains) >= LEAST_BLOCKS and bounds(gains).low > 0
