# SPDX-License-Identifier: Apache-2.0
"""From the document of a trial's samples to its result: all of it, and nothing else goes in.

The document is canonical JSON (sorted, compact): `format`, `spec` (what was to be shown), `kernel` (release, BTF,
topology), `objects` (the candidates by digest), `sizes` of the work, `plan` (blocks needed and affordable, decided
before the first of them ran) and `phases`: `aa`, perhaps `screening`, and `trial`, each a list of blocks with the arms
in their order, the seeds, and what the guest told of each run. The live trial's verdict is computed from the document
that it writes, so recomputing it cannot give another one.
"""

from __future__ import annotations

import json
import math
from typing import Any

from controller.errors import InputError
from controller.verify.trial import statistics
from controller.verify.trial.design import BASELINE, CANDIDATE, INCUMBENT
from controller.verify.trial.outcome import (
    BETTER,
    BROKEN,
    EQUIVALENT,
    INCONCLUSIVE,
    KEPT,
    UNPROVEN,
    WORSE,
    Comparison,
    GuardrailResult,
    TrialResult,
)
from controller.verify.trial.workloads import better, value

FORMAT = "schedctl.dev/trial/v1"
Document = dict[str, Any]
_SEVERITY = (WORSE, INCONCLUSIVE, EQUIVALENT, BETTER)


def canonical(document: Document) -> bytes:
    """The document's bytes: equal documents give equal bytes."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def recompute(raw: bytes) -> TrialResult:
    """The result of a document. Raises InputError for what is none."""
    try:
        document = json.loads(raw)
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise InputError(f"the samples are no document of the format {FORMAT}")
        return result_of(document)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, OverflowError) as error:
        raise InputError(
            f"the trial's samples make no sense: {type(error).__name__}: {error}", remedy="verify the candidate again"
        ) from error


def gains(blocks: list[Document], metric: str, first: str, second: str) -> statistics.Array:
    """The log gain of arm `first` over arm `second` in each block."""
    mine, theirs = ([_values(block, metric, arm) for block in blocks] for arm in (first, second))
    return statistics.block_gains(mine, theirs, better(metric))


def calibrate(document: Document) -> tuple[float, int]:
    """The A/A noise of the objective (sd of a block's log ratio), and the blocks that it takes to see the effect."""
    sigma = statistics.noise(_aa(document))
    return sigma, _needed(document["spec"], sigma)


def plan(document: Document, affordable: int) -> Document:
    """How many blocks to run, from the A/A blocks and what there is time for; 0 when that is surely not enough.

    The noise is known from few blocks only: where there is time, as many are run as a somewhat larger noise needs, and
    a trial is begun when a somewhat smaller one would let it end in time.
    """
    sigma, needed = calibrate(document)
    known_from = len(_aa(document))
    safe = _needed(document["spec"], statistics.cautious(sigma, known_from))
    least = _needed(document["spec"], statistics.hopeful(sigma, known_from))
    return {"needed": needed, "affordable": affordable, "blocks": min(safe, affordable) if least <= affordable else 0}


def _aa(document: Document) -> statistics.Array:
    objective = document["spec"]["objective"]
    return statistics.aa_contrasts(
        [[value(objective, run) for run in block["runs"]] for block in document["phases"]["aa"]]
    )


def _needed(spec: Document, sigma: float) -> int:
    return statistics.blocks_needed(sigma, math.log1p(spec["mde"]), _confidence(spec), spec["power"])


def result_of(document: Document) -> TrialResult:
    """The result of a document that is one."""
    spec, plan, blocks = document["spec"], document["plan"], document["phases"].get("trial", [])
    sigma, needed = calibrate(document)
    complete = bool(blocks) and len(blocks) == plan["blocks"]
    comparisons: tuple[Comparison, ...] = ()
    guardrails: tuple[GuardrailResult, ...] = ()
    verdict, note, ran = INCONCLUSIVE, "", len(blocks)
    if complete:
        comparisons = tuple(_compare(spec, blocks, index, arm) for index, arm in enumerate(_references(spec)))
        guardrails = _guardrails(spec, blocks)
        verdict = min((one.verdict for one in comparisons), key=_SEVERITY.index)
        if any(guard.verdict == BROKEN for guard in guardrails):
            verdict = WORSE
        needed = max(needed, _needed_by(spec, blocks)) if verdict == INCONCLUSIVE else needed
        sigma_seen = max(_noise(spec, blocks, arm) for arm in _references(spec))
    else:
        note = _why_not(plan, ran, needed, sigma)
        ran, sigma_seen = max(plan["affordable"], statistics.MIN_BLOCKS), sigma
    reached = statistics.detectable(sigma_seen, ran, _confidence(spec), spec["power"])
    return TrialResult(
        verdict=verdict,
        workload=spec["workload"],
        objective=spec["objective"],
        comparisons=comparisons,
        guardrails=guardrails,
        noise=_round(sigma),
        pairs=2 * len(blocks),
        pairs_needed=2 * needed,
        detectable=_fraction(reached),
        mde=spec["mde"],
        confidence=spec["confidence"],
        runs=sum(len(block["arms"]) for phase in document["phases"].values() for block in phase),
        note=note,
    )


def _why_not(plan: Document, ran: int, needed: int, sigma: float) -> str:
    if ran:
        return f"inconclusive: only {ran} of {plan['blocks']} blocks were run in the time allowed"
    return (
        f"inconclusive: the noise between equal runs (sd {sigma:.1%} a block) takes {2 * needed} pairs, "
        f"the time allowed is enough for {2 * plan['affordable']}"
    )


def _references(spec: Document) -> tuple[str, ...]:
    return (INCUMBENT, BASELINE) if spec["incumbent"] else (BASELINE,)


def _confidence(spec: Document) -> float:
    """Of one comparison: with two of them each must be surer, so that both together are as sure as was asked for."""
    return float(1 - (1 - spec["confidence"]) / len(_references(spec)))


def _values(block: Document, metric: str, arm: str) -> list[float]:
    return [value(metric, run) for ran, run in zip(block["arms"], block["runs"], strict=True) if ran == arm]


def _noise(spec: Document, blocks: list[Document], arm: str) -> float:
    return statistics.noise(gains(blocks, spec["objective"], CANDIDATE, arm))


def _needed_by(spec: Document, blocks: list[Document]) -> int:
    return _needed(spec, max(_noise(spec, blocks, arm) for arm in _references(spec)))


def _compare(spec: Document, blocks: list[Document], index: int, arm: str) -> Comparison:
    values = gains(blocks, spec["objective"], CANDIDATE, arm)
    found = statistics.interval(values, _confidence(spec), spec["seed"] + index)
    verdict = statistics.judge(found, math.log1p(spec["mde"]))
    gain, low, high = _fractions(found)
    return Comparison(spec["objective"], arm, gain, low, high, verdict)


def _guardrails(spec: Document, blocks: list[Document]) -> tuple[GuardrailResult, ...]:
    cases = [(rail, arm) for rail in spec["guardrails"] for arm in _references(spec)]
    values = [gains(blocks, rail["metric"], CANDIDATE, arm) for rail, arm in cases]
    margins = [math.log1p(rail["max_regression"]) for rail, _arm in cases]
    adjusted = statistics.holm([statistics.p_broken(*each) for each in zip(values, margins, strict=True)])
    made = []
    for index, (rail, arm) in enumerate(cases):
        found = statistics.interval(values[index], spec["confidence"], spec["seed"] + 100 + index)
        verdict = KEPT if found.low >= -margins[index] else UNPROVEN
        if adjusted[index] <= 1 - spec["confidence"]:
            verdict = BROKEN
        gain, low, high = _fractions(found)
        allowed, p = rail["max_regression"], _round(adjusted[index])
        made.append(GuardrailResult(rail["metric"], arm, gain, low, high, allowed, p, verdict))
    return tuple(made)


def _fraction(log_gain: float) -> float:
    """A log gain as a fraction, kept within what JSON and a reader can hold."""
    return _round(math.expm1(min(max(log_gain, -50.0), 50.0)))


def _fractions(found: statistics.Interval) -> tuple[float, float, float]:
    return _fraction(found.center), _fraction(found.low), _fraction(found.high)


def _round(number: float) -> float:
    """To 9 digits: the last ones may differ between processors that add in another order."""
    return float(f"{number:.9g}")
