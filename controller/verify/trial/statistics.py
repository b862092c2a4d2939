# SPDX-License-Identifier: Apache-2.0
"""The statistics of a trial: pure functions of arrays of log ratios, one number a block.

A block's log ratio is the mean over its runs of ln(value under the candidate) minus that under the other arm, turned so
that more is better; drift that is linear within a block cancels. Blocks are summarised by their 20 % trimmed mean,
because on a busy machine a few are spoilt by what else ran, and its interval is the paired bootstrap's, studentised
(bootstrap-t, symmetric): with 8 to 40 blocks the plain percentile interval is too narrow, this one is not. The
bootstrap draws from PCG64's raw output, which numpy promises never to change: the same data and seed give the same
interval everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

Array = npt.NDArray[np.float64]
TRIM = 0.2
RESAMPLES = 1999
MIN_BLOCKS = 12
"""With 8, one resample in twenty is of equal values and the bootstrap-t has no end; with 12 its limits are near enough
that a planted effect is found as often as the plan says."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A trimmed mean with its confidence limits, in log units."""

    center: float
    low: float
    high: float


def block_gains(candidate: Sequence[Sequence[float]], reference: Sequence[Sequence[float]], better: int) -> Array:
    """One log ratio a block: `candidate[i]` and `reference[i]` are the values of block i's runs, `better` is +1 when
    more is better and -1 when less is. Values below 1e-9 count as that: a scheduler that lets nothing happen is
    infinitely worse, and must stay comparable."""
    mine, theirs = (
        np.array([np.mean(np.log(np.maximum(runs, 1e-9))) for runs in arm]) for arm in (candidate, reference)
    )
    return np.asarray(better * (mine - theirs), dtype=np.float64)


def aa_contrasts(runs: Sequence[Sequence[float]]) -> Array:
    """What chance makes of equal runs: for each block of four, the log ratio of each of the three ways to set two of
    its runs against the other two. ABBA is one of them; where runs are alike all three vary as it does, and drift makes
    the other two vary more, never less: three times as many numbers to know the noise from, on the safe side."""
    logs = np.log(np.maximum(np.array(runs, dtype=np.float64), 1e-9))
    one, two, three, four = logs.T
    return np.asarray(
        np.stack([one - two - three + four, one - two + three - four, one + two - three - four]) / 2
    ).ravel()


def trimmed(values: Array) -> tuple[Array, Array]:
    """Trimmed mean and its standard error (from the winsorised variance), along the last axis."""
    count = values.shape[-1]
    cut = int(TRIM * count)
    ordered = np.sort(values, axis=-1)
    center = ordered[..., cut : count - cut].mean(axis=-1)
    low, high = ordered[..., cut, None], ordered[..., count - cut - 1, None]
    spread = np.clip(ordered, low, high).std(axis=-1, ddof=1)
    return center, spread / ((1 - 2 * cut / count) * math.sqrt(count))


def interval(values: Array, confidence: float, seed: int) -> Interval:
    """The bootstrap-t interval of the trimmed mean. Needs at least 2 values; (-inf, inf) when they cannot tell."""
    center, error = (float(one) for one in trimmed(values))
    if error == 0.0:
        alike = bool(np.all(values == values[0]))
        return Interval(center, *((center, center) if alike else (-math.inf, math.inf)))
    count = len(values)
    draws = np.random.PCG64(seed).random_raw(RESAMPLES * count) % np.uint64(count)
    centers, errors = trimmed(values[draws.astype(np.intp).reshape(RESAMPLES, count)])
    with np.errstate(divide="ignore", invalid="ignore"):
        away = np.abs(centers - center) / errors
    # A resample of equal values has no error of its own: as far away as can be, unless it is the center itself.
    away = np.sort(np.where(np.isnan(away), 0.0, away))
    factor = float(away[min(RESAMPLES - 1, math.ceil(confidence * (RESAMPLES + 1)) - 1)])
    return Interval(center, center - factor * error, center + factor * error)


def noise(values: Array) -> float:
    """What one block contributes to the error: the standard error of the trimmed mean times √blocks."""
    _, error = trimmed(values)
    return float(error) * math.sqrt(len(values))


def cautious(sigma: float, count: int) -> float:
    """The noise that the true one is below in 7 cases of 10, when `sigma` was estimated from `count` numbers."""
    return _noise_at(sigma, count, 0.7)


def hopeful(sigma: float, count: int) -> float:
    """The noise that the true one is below in only 1 case of 4: when even that is too much, a trial is not begun."""
    return _noise_at(sigma, count, 0.25)


def _noise_at(sigma: float, count: int, part: float) -> float:
    freedom = max(1, count - 2 * int(TRIM * count) - 1)
    return sigma * math.sqrt(freedom / float(special.chdtri(freedom, part)))


def detectable(sigma: float, blocks: int, confidence: float, power: float) -> float:
    """The effect, in log units, that `blocks` blocks of noise `sigma` show with `power`, and within which they can call
    equal arms equivalent with the same power (what needs more: both limits of the interval must be inside)."""
    freedom = max(1, blocks - 2 * int(TRIM * blocks) - 1)
    sure = float(special.stdtrit(freedom, 1 - (1 - confidence) / 2))
    find = float(special.stdtrit(freedom, 1 - (1 - power) / 2))
    return (sure + find) * sigma / math.sqrt(blocks)


def blocks_needed(sigma: float, effect: float, confidence: float, power: float) -> int:
    """The fewest blocks of noise `sigma` with which `effect` (log units, above 0) is detectable; even, at least 8."""
    low, high = MIN_BLOCKS, MIN_BLOCKS
    while detectable(sigma, high, confidence, power) > effect and high < 1 << 30:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if detectable(sigma, middle, confidence, power) <= effect else (middle, high)
    return high + high % 2


def p_broken(values: Array, margin: float) -> float:
    """One-sided p of "the mean gain is not below -margin" (log units): small when a guardrail is shown to be broken."""
    center, error = (float(one) for one in trimmed(values))
    if error == 0.0:
        return 0.0 if center < -margin else 1.0
    freedom = max(1, len(values) - 2 * int(TRIM * len(values)) - 1)
    return float(special.stdtr(freedom, (center + margin) / error))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def judge(found: Interval, effect: float) -> str:
    """better, worse, equivalent or inconclusive, `effect` being the minimum detectable one in log units."""
    if -effect <= found.low and found.high <= effect:
        return "equivalent"
    if found.low > 0:
        return "better"
    return "worse" if found.high < 0 else "inconclusive"
