# SPDX-License-Identifier: Apache-2.0
"""Conducts a trial: A/A, then a number of blocks fixed before the first of them, within a budget of seconds.

It sees arms by name and gets samples from a `Sampler`, so its order, counts and budget can be shown without a kernel.
How many blocks the budget has room for is what the A/A blocks took, with an allowance for switching schedulers; how
many are needed is what their noise says. Needed within affordable: just the needed ones are run. Among several
candidates a short screening picks the best, which then stands a trial on fresh blocks: the lead that it was picked for
is partly luck and counts for nothing.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from controller.api import Reporter, Silent, sha256
from controller.errors import InputError
from controller.kernel.microvm import Guest
from controller.verify.trial import analysis, design, statistics
from controller.verify.trial.arms import GuestArms
from controller.verify.trial.design import AGAIN, BASELINE, CANDIDATE, INCUMBENT
from controller.verify.trial.outcome import INCONCLUSIVE, WORSE, TrialInconclusive, TrialRejected, TrialResult
from controller.verify.trial.spec import TrialSpec
from controller.verify.trial.workloads import Sample, Sizes

AA_BLOCKS = 10
SCREENING_BLOCKS = 4
_AA_PART = 0.35  # of the budget, at most
_SWITCHING = 1.15  # a block with schedulers to switch takes this much longer than one without
_OVERRUN = 1.5  # of the budget: after this the trial ends, unfinished


class Sampler(Protocol):
    """Gives one run's figures under an arm; `sizes` is what the work was measured to be."""

    sizes: Sizes

    def sample(self, arm: str, work_seed: int, name_seed: int) -> Sample:
        """One run."""
        ...


@dataclass(frozen=True, slots=True)
class Where:
    """The kernel that a trial ran on, for its document."""

    release: str
    btf_digest: str
    topology_class: str


@dataclass(frozen=True, slots=True)
class Trial:
    """A finished trial: its samples' document, and the result computed from it."""

    document: bytes
    result: TrialResult
    chosen: int = 0


def try_candidate(guest: Guest, spec: TrialSpec, images: Sequence[bytes], reporter: Reporter | None = None) -> Trial:
    """A trial of the best of `images` (usually one) in the guest. About `spec.budget_s` seconds, mostly less.

    Raises TrialRejected when a candidate does not last through it, and CouldNotTell (GuestError) for the environment.
    A verdict, of whichever kind, is in the result: see `settle`.
    """
    facts = guest.facts
    names = {f"{CANDIDATE}{index or ''}": image for index, image in enumerate(images)}
    arms = GuestArms(guest, spec, names)
    where = Where(facts.release, facts.btf_digest, facts.topology_class)
    digests = {name: sha256(image) for name, image in names.items()}
    trial = conduct(spec, arms, where, candidates=digests, reporter=reporter)
    arms.finish()
    return trial


def settle(result: TrialResult) -> None:
    """Return for a pass. TrialRejected for `worse`, TrialInconclusive for `inconclusive`."""
    if result.verdict == WORSE:
        raise TrialRejected("worse", result.summary(), figures=result.figures())
    if result.verdict == INCONCLUSIVE:
        raise TrialInconclusive(
            result.summary(),
            figures=result.figures(),
            remedy=f"allow time for {result.pairs_needed} pairs, a larger effect to detect, or a quieter machine",
        )


def conduct(
    spec: TrialSpec,
    sampler: Sampler,
    where: Where,
    *,
    candidates: Mapping[str, str] | None = None,
    reporter: Reporter | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Trial:
    """Run the whole trial and compute its result from the document of its samples.

    `candidates` are the sampler's names for them, each with the digest of its object, for the document.
    """
    candidates = candidates if candidates is not None else {CANDIDATE: ""}
    if not candidates:
        raise InputError("a trial needs a candidate")
    names = tuple(candidates)
    course = _Course(spec, sampler, reporter or Silent(), clock)
    document: analysis.Document = {
        "format": analysis.FORMAT,
        "spec": _spec_document(spec),
        "kernel": dataclasses.asdict(where),
        "objects": dict(candidates),
        "sizes": dataclasses.asdict(sampler.sizes),
        "phases": {},
    }
    course.calibrate(document)
    chosen = course.screen(document, names) if len(names) > 1 else names[0]
    document["chosen"] = chosen
    course.compare(document, chosen)
    raw = analysis.canonical(document)
    return Trial(raw, analysis.recompute(raw), names.index(chosen))


class _Course:
    """One trial under way."""

    def __init__(self, spec: TrialSpec, sampler: Sampler, reporter: Reporter, clock: Callable[[], float]) -> None:
        self._spec, self._sampler, self._reporter, self._clock = spec, sampler, reporter, clock
        self._began = clock()
        self._run_s = 0.0

    def calibrate(self, document: analysis.Document) -> None:
        """The A/A blocks, as many as a part of the budget allows (a warm-up run tells how long one takes)."""
        self._reporter.step("trial: A/A: the kernel's own scheduler against itself")
        self._sampler.sample(BASELINE, 0, 0)
        once = max(self._clock() - self._began, 1e-6)
        room = int(_AA_PART * self._spec.budget_s / (4 * once))
        count = min(AA_BLOCKS, max(statistics.MIN_BLOCKS, room))
        begin = self._clock()
        document["phases"]["aa"] = self._blocks("aa", (BASELINE, AGAIN), count)
        self._run_s = max(self._clock() - begin, 1e-6) / (4 * count)
        sigma, needed = analysis.calibrate(document)
        affordable = self._affordable()
        document["plan"] = analysis.plan(document, affordable)
        reached = statistics.detectable(sigma, max(affordable, 2), self._spec.confidence, self._spec.power)
        self._reporter.done(
            f"trial: A/A noise {sigma:.1%} a block: {2 * needed} pairs for {self._spec.mde:.1%}, "
            f"time for {2 * affordable} ({math.expm1(min(reached, 50)):.1%})"
        )

    def screen(self, document: analysis.Document, candidates: tuple[str, ...]) -> str:
        """The best of several candidates in a few blocks; its trial is on others."""
        self._reporter.step(f"trial: screening {len(candidates)} candidates")
        blocks = self._blocks("screening", (*candidates, BASELINE), SCREENING_BLOCKS)
        document["phases"]["screening"] = blocks
        objective = self._spec.objective
        scores = [float(statistics.trimmed(analysis.gains(blocks, objective, arm, BASELINE))[0]) for arm in candidates]
        document["plan"] = analysis.plan(document, self._affordable())
        return candidates[scores.index(max(scores))]

    def compare(self, document: analysis.Document, chosen: str) -> None:
        """The blocks of the trial proper: all that were planned, unless time has quite run out."""
        count = document["plan"]["blocks"]
        if not count:
            return
        arms = (CANDIDATE, INCUMBENT, BASELINE) if self._spec.incumbent is not None else (CANDIDATE, BASELINE)
        document["phases"]["trial"] = self._blocks("trial", arms, count, {CANDIDATE: chosen})

    def _affordable(self) -> int:
        """How many blocks the rest of the budget holds; even, for both orders alike."""
        runs = 6 if self._spec.incumbent is not None else 4
        left = self._spec.budget_s - (self._clock() - self._began)
        count = int(left / (_SWITCHING * runs * self._run_s))
        return max(0, count - count % 2)

    def _blocks(
        self, phase: str, arms: Sequence[str], count: int, alias: dict[str, str] | None = None
    ) -> list[analysis.Document]:
        made: list[analysis.Document] = []
        for index, order in enumerate(design.blocks(arms, count, self._spec.seed)):
            if self._clock() - self._began > _OVERRUN * self._spec.budget_s:
                break
            seeds = design.run_seeds(self._spec.seed, phase, index, len(order))
            runs = [
                self._sampler.sample((alias or {}).get(arm, arm), *pair) for arm, pair in zip(order, seeds, strict=True)
            ]
            made.append({"arms": list(order), "seeds": [list(pair) for pair in seeds], "runs": runs})
            self._reporter.step(f"trial: {phase}: block {index + 1} of {count}")
        return made


def _spec_document(spec: TrialSpec) -> dict[str, object]:
    """The spec as JSON; objects by digest."""
    return {
        "workload": spec.workload,
        "objective": spec.objective,
        "mde": spec.mde,
        "confidence": spec.confidence,
        "power": spec.power,
        "budget_s": spec.budget_s,
        "seed": spec.seed,
        "comm": spec.comm,
        "incumbent": sha256(spec.incumbent) if spec.incumbent is not None else "",
        "twin": sha256(spec.twin.encode()) if spec.twin else "",
        "guardrails": [{"metric": rail.key, "max_regression": rail.max_regression} for rail in spec.guardrails],
    }
