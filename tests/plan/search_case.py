# SPDX-License-Identifier: Apache-2.0
"""A bench whose gains are authored: what a proposal is worth is a function, noise is drawn by the block's number."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from controller.api import Proposal, SchedulerTemplate
from controller.api.base import parse_duration
from controller.api.policy import SearchSpec
from controller.plan.search.measure import Block, Failure
from controller.plan.search.space import Space, space_of
from tests.conftest import missing
from tests.plan import claude_case as case

Worth = Callable[[Proposal], float]


def need_optuna() -> None:
    try:
        import optuna  # noqa: F401
    except ImportError:
        missing("optuna")


def template_of(name: str) -> SchedulerTemplate:
    return next(t for t in case.TEMPLATES if t.name == name)


def space(template: str = "weighted-fair", *, expressions: bool = True) -> Space:
    return space_of(template_of(template), case.base(template=template), expressions=expressions)


def slice_ns(proposal: Proposal) -> int:
    """The parameter slice of a proposal for weighted-fair."""
    return parse_duration(proposal.parameters.get("slice", "5ms"))


def planted(proposal: Proposal) -> float:
    """Log worth with its best at a slice of 1 ms and one expression; the rules' own (5 ms, `slice`) is 0.36 away."""
    off = math.log(slice_ns(proposal) / 1e6)
    bonus = 0.1 if proposal.expressions.get("slice") == "slice / max(queued, 1)" else 0.0
    return bonus - 0.1 * off * off


def hopeless(proposal: Proposal) -> float:
    """Whatever is changed makes it a fifth worse."""
    return -0.2 if proposal.parameters or proposal.expressions else 0.0


@dataclass
class Bench:
    """`worth` of each proposal in log units; `others` likewise, what a guardrail of 10 % sees. `trouble` may answer in
    its place. A block takes `block_s`, the first `setup_s` more."""

    worth: Worth = planted
    noise: float = 0.02
    others: Worth | None = None
    trouble: Callable[[int, Sequence[Proposal]], Failure | None] | None = None
    block_s: float = 4.0
    setup_s: float = 20.0
    blocks: int = 0
    seconds: float = 0.0
    asked: list[tuple[str, ...]] = field(default_factory=list)
    within: list[float] = field(default_factory=list)

    def measure(self, proposals: Sequence[Proposal], block: int, within_s: float) -> Block | Failure:
        self.asked.append(tuple(p.substance() for p in proposals))
        self.within.append(within_s)
        found = self.trouble(len(self.asked), proposals) if self.trouble is not None else None
        if found is not None:
            self.seconds += found.seconds
            return found
        chance = random.Random(f"noise/{block}")
        setup = 0.0 if self.blocks else self.setup_s
        self.blocks += 1
        self.seconds += self.block_s + setup
        first, *rest = proposals
        gains = tuple(self.worth(p) - self.worth(first) + chance.gauss(0, self.noise) for p in rest)
        guards: tuple[tuple[float, ...], ...] = ()
        if self.others is not None:
            guards = tuple((self.others(p) - self.others(first) + chance.gauss(0, 0.005),) for p in rest)
        margins = (math.log1p(0.1),) if self.others is not None else ()
        return Block(
            gains=gains, guards=guards, margins=margins, seconds=self.block_s + setup, setup_seconds=setup
        )  # fmt: skip


def settings(**changes: object) -> SearchSpec:
    return SearchSpec.model_validate({"trials": 24, "time": "1h", **changes})
