# SPDX-License-Identifier: Apache-2.0
"""One search: optuna's TPE proposes points of the space, each is measured in paired blocks beside the best so far.

The rules' own proposal is the study's first trial, with a gain of 0, and the first best. A candidate that is given up
(pruning), fails, or breaks a guardrail is a pruned trial; of every other one the study is told the gain over the rules'
own: its own over the best of that time, plus what that one had. A lead of the best is partly luck, so at the end it is
measured once more beside the rules' own, on blocks that it was not picked by, and only what is better there, with all
guardrails kept, is proposed.

Everything follows from the settings and from what the bench says, its seconds included: there is no other clock. A
block is begun only when the slowest one so far would end in time, and blocks for the last comparison are kept free.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from controller.api import Proposal
from controller.api.policy import SearchSpec
from controller.errors import InputError
from controller.plan.search.measure import Bench, Block
from controller.plan.search.pruning import LEAST_BLOCKS, MOST_BLOCKS, better, bounds, hopeless
from controller.plan.search.record import Ending, Record, Tried, interval
from controller.plan.search.space import Space

FINAL_BLOCKS = 8
"""Of the winner beside the rules' own."""
_STARTUP = 8
"""Points drawn at random before TPE has enough to go by; a third of the candidates when those are few."""
_ASKED = 5
"""Points asked for, at most, for each candidate that may be tried: some come twice."""


@dataclass(frozen=True)
class _Best:
    """The best so far, with its log gains over the rules' own in the objective and the guardrails."""

    proposal: Proposal
    lead: float = 0.0
    guards: tuple[float, ...] = ()
    tried: Tried | None = None


@dataclass
class _Pair:
    """What was measured of one proposal beside another."""

    gains: list[float] = field(default_factory=list)
    guards: list[tuple[float, ...]] = field(default_factory=list)
    margins: tuple[float, ...] = ()

    def add(self, block: Block) -> None:
        """One block more."""
        self.gains.append(block.gains[0])
        self.guards += block.guards
        self.margins = block.margins

    def guarded(self, before: Sequence[float]) -> tuple[float, ...]:
        """The mean log gain in each guardrail, on top of what `before` says."""
        means = [statistics.fmean(each) for each in zip(*self.guards, strict=True)]
        return tuple(a + b for a, b in zip(means, before or [0.0] * len(means), strict=True))

    def breaks(self, before: Sequence[float], *, surely: bool) -> bool:
        """Whether a guardrail has lost more than it may; `surely`: even the upper bound has."""
        lost = self.guarded(before)
        if surely and len(self.gains) < LEAST_BLOCKS:
            return False
        if surely:
            columns = [bounds(each) for each in zip(*self.guards, strict=True)]
            lost = tuple(at + found.high - found.mean for at, found in zip(lost, columns, strict=True))
        return any(at < -margin for at, margin in zip(lost, self.margins, strict=True))


class _Over(Exception):
    """Nothing more is measured: the time is over, or the bench broke (which the record says)."""


class _Failed(Exception):
    """A proposal failed: number `which` of the pair. The text is why."""

    def __init__(self, which: int, why: str) -> None:
        super().__init__(why)
        self.which = which


def search(
    space: Space, settings: SearchSpec, bench: Bench, refused: Callable[[Proposal], bool]
) -> tuple[Proposal, Record]:
    """The best proposal of the space as far as can be shown, and what was tried; `space.base` where nothing is shown.

    `refused` says what is not to be proposed. `trouble` of the record says why nothing, or no more, was measured.
    InputError without optuna.
    """
    course = _Course(space, settings, bench, refused)
    return course.run(), course.record


class _Course:
    """One search under way."""

    def __init__(
        self, space: Space, settings: SearchSpec, bench: Bench, refused: Callable[[Proposal], bool]
    ) -> None:  # fmt: skip
        self._optuna = optuna()
        self._space, self._settings, self._bench, self._refused = space, settings, bench, refused
        self._limit = settings.time / 1e9
        self._best = _Best(space.base)
        self._pace = 0.0
        self.record = Record(f"optuna {self._optuna.__version__}, seed {settings.seed}", settings.trials)

    def run(self) -> Proposal:
        """Try candidates, then confirm the best."""
        with _quiet(self._optuna):
            try:
                self._try_all()
            except _Over:
                pass
        try:
            return self._confirmed()
        except _Over:
            self.record.result = "the winner could not be measured again: the rules' own stand"
            return self._space.base

    # ---- candidates ----

    def _try_all(self) -> None:
        first = max(1, min(_STARTUP, self._settings.trials // 3))
        sampler = self._optuna.samplers.TPESampler(seed=self._settings.seed, n_startup_trials=first)
        study = self._optuna.create_study(direction="maximize", sampler=sampler)
        study.enqueue_trial(self._space.start())
        start = study.ask()
        self._point(start)
        study.tell(start, 0.0)
        known: dict[str, Tried] = {}
        own = self._space.base.substance()
        for _ in range(_ASKED * self._settings.trials):
            if len(self.record.tried) == self._settings.trials:
                return
            trial = study.ask()
            candidate = self._space.proposal(self._point(trial))
            substance = candidate.substance()
            if substance == own:
                study.tell(trial, 0.0)
                continue
            if substance not in known:
                known[substance] = tried = self._try(candidate)
                if tried.ended != "unfinished" or tried.blocks:
                    self.record.tried.append(tried)
                if tried.ended == "unfinished":
                    raise _Over
            self._tell(study, trial, known[substance])

    def _point(self, trial: Any) -> dict[str, float | str]:
        """Asked for in one order always: what the sampler draws depends on it."""
        point: dict[str, float | str] = {
            each.name: trial.suggest_float(each.name, each.low, each.high, log=each.log) for each in self._space.numbers
        }
        for choice in self._space.choices:
            point[choice.name] = trial.suggest_categorical(choice.name, choice.options)
        return point

    def _tell(self, study: Any, trial: Any, tried: Tried) -> None:
        if tried.ended in ("better", "unshown"):
            study.tell(trial, tried.lead)
            return
        if tried.blocks:
            trial.report(tried.lead, tried.blocks)
        study.tell(trial, state=self._optuna.trial.TrialState.PRUNED)

    def _try(self, candidate: Proposal) -> Tried:
        """Blocks beside the best, until the candidate is given up or has had all of them."""
        number, changes = len(self.record.tried) + 1, self._space.changes(candidate)
        if self._refused(candidate):
            return Tried(number, changes, "refused")
        best, pair, why = self._best, _Pair(), ""
        try:
            ended = self._beside(best, candidate, pair)
        except _Over:
            ended = "unfinished"
        except _Failed as failed:
            if failed.which == 0:
                self._drop(best, str(failed))
                return self._try(candidate)
            ended, why = "failed", str(failed)
        found = bounds(pair.gains) if pair.gains else None
        lead = best.lead + found.mean if found is not None else float("-inf")
        tried = Tried(number, changes, ended, len(pair.gains), found, lead, why)
        if ended == "better":
            self._best = _Best(candidate, lead, pair.guarded(best.guards), tried)
        return tried

    def _beside(self, best: _Best, candidate: Proposal, pair: _Pair) -> Ending:
        while len(pair.gains) < MOST_BLOCKS:
            pair.add(self._measure(best.proposal, candidate, spare=FINAL_BLOCKS))
            if hopeless(pair.gains):
                return "pruned"
            if pair.breaks(best.guards, surely=True):
                return "guardrail"
        if not better(pair.gains):
            return "unshown"
        return "guardrail" if pair.breaks(best.guards, surely=False) else "better"

    def _drop(self, best: _Best, why: str) -> None:
        """What was taken for the best does not last: back to the rules' own, without which there is no search."""
        if best.tried is None:
            self.record.trouble = f"the rules' own proposal failed: {why}"
            raise _Over
        self.record.dropped.append(f"candidate {best.tried.number} was the best until it failed: {why}")
        self._best = _Best(self._space.base)

    # ---- the end ----

    def _confirmed(self) -> Proposal:
        """The best, if it is better than the rules' own once more; else those."""
        best, pair, base = self._best, _Pair(), self._space.base
        if best.tried is None:
            if self.record.blocks and not self.record.trouble:
                self.record.result = "nothing was shown to be better than the rules' own"
            return base
        name = f"candidate {best.tried.number}"
        try:
            while len(pair.gains) < FINAL_BLOCKS and (len(pair.gains) < LEAST_BLOCKS or self._room(1)):
                pair.add(self._measure(base, best.proposal))
        except _Failed as failed:
            whose = "the rules' own" if failed.which == 0 else name
            self.record.result = f"measured again, {whose} failed ({failed}): the rules' own stand"
            return base
        found = bounds(pair.gains)
        figures = f"{interval(found)} over the rules' own in {len(pair.gains)} fresh blocks"
        kept = not pair.breaks((), surely=False)
        if better(pair.gains) and kept:
            self.record.result = f"{name} is proposed ({', '.join(best.tried.changes)}): {figures}"
            return best.proposal
        why = "a lead that was luck" if kept else "others lose more than is allowed"
        self.record.result = f"{name} was the best, and measured again {figures}: {why}, so the rules' own stand"
        return base

    # ---- the bench ----

    def _room(self, blocks: int) -> bool:
        """Whether so many blocks end in time, as far as those before tell."""
        return self.record.seconds + blocks * self._pace < self._limit

    def _measure(self, beside: Proposal, candidate: Proposal, spare: int = 0) -> Block:
        """One block. _Over when there is no time for it (and `spare` more), or the bench breaks; _Failed."""
        if self.record.trouble:
            raise _Over
        if not self._room(1 + spare):
            self.record.out_of_time = True
            raise _Over
        said = self._bench.measure((beside, candidate), self.record.asked, self._limit - self.record.seconds)
        self.record.asked += 1
        self.record.seconds += said.seconds
        if isinstance(said, Block):
            self.record.blocks += 1
            self._pace = max(self._pace, said.seconds - said.setup_seconds)
            return said
        if said.kind == "candidate":
            raise _Failed(said.which, said.why)
        if said.kind == "time":
            self.record.out_of_time = True
        else:
            self.record.trouble = said.why
        raise _Over


def optuna() -> ModuleType:
    """The package, which is an extra. InputError when it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise InputError(
            f"planner search needs the package optuna: {error}",
            remedy="make setup, or: pip install 'schedctl[search]'; or set spec.planner.mode to auto or rules",
        ) from None
    module: ModuleType = optuna
    return module


@contextmanager
def _quiet(package: Any) -> Iterator[None]:
    """Without optuna's notes on standard error: what it did is in the record."""
    before = package.logging.get_verbosity()
    package.logging.set_verbosity(package.logging.WARNING)
    try:
        yield
    finally:
        package.logging.set_verbosity(before)
