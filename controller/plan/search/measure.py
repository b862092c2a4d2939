# SPDX-License-Identifier: Apache-2.0
"""Measuring proposals against each other: what a search asks of whoever can run them, and what it is told.

A `Bench` runs proposals in turns and answers with data, also when it cannot: what became of a search follows from its
settings and these answers alone, so a recorded search is made again by playing them back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Protocol

from pydantic import Field, model_validator

from controller.api import ApiModel, Proposal
from controller.errors import InputError
from controller.plan.tape import TapeDiffers

MAX_WHY = 300
Gain = Annotated[float, Field(ge=-2000, le=2000)]
"""In log units: the ratio of no two numbers is beyond."""
Seconds = Annotated[float, Field(ge=0, le=10**9)]


class Block(ApiModel):
    """One paired block: the same work under each proposal, forth and back, so that linear drift cancels.

    Gains are log ratios over the first proposal, above 0 where more of what the objective wants was seen: ln 1.1 is a
    tenth better. `seconds` is all the time it took, `setup_seconds` the part that comes once (a boot, a build).
    """

    gains: tuple[Gain, ...] = Field(description="Of the objective, a proposal after the first each.")
    guards: tuple[tuple[Gain, ...], ...] = Field(default=(), description="For the same proposals, a guardrail each.")
    margins: tuple[Gain, ...] = Field(default=(), description="What each guardrail may lose, in log units.")
    seconds: Seconds
    setup_seconds: Seconds = 0

    @model_validator(mode="after")
    def _even(self) -> Block:
        rows = len(self.gains) if self.margins else len(self.guards)
        if len(self.guards) != rows or any(len(row) != len(self.margins) for row in self.guards):
            raise ValueError("a block has a gain for every proposal after the first in every guardrail")
        return self


class Failure(ApiModel):
    """There was no block. `candidate`: proposal number `which` (from 0) is to blame; `bench`: nothing can be measured;
    `time`: what was allowed did not do.
    """

    kind: Literal["candidate", "bench", "time"]
    which: Annotated[int, Field(ge=0)] = 0
    why: Annotated[str, Field(max_length=MAX_WHY)]
    seconds: Seconds


class Bench(Protocol):
    """Runs proposals of one template and the same classes, which differ in values and expressions."""

    def measure(self, proposals: Sequence[Proposal], block: int, within_s: float) -> Block | Failure:
        """Block number `block` (it seeds work and order) of two or more proposals, in about `within_s` seconds at most.

        Expensive: some seconds, the first time a boot more. Raises for signals alone.
        """
        ...


class Exchange(ApiModel):
    """One question to a bench, by the proposals' substance, and its answer."""

    proposals: tuple[str, ...]
    block: int
    measured: Block | None = None
    failure: Failure | None = None

    @model_validator(mode="after")
    def _ended(self) -> Exchange:
        said, failed = self.measured, self.failure
        if (said is None) == (failed is None):
            raise ValueError("a question to a bench has either a block or a failure for its answer")
        if said is not None and len(said.gains) != len(self.proposals) - 1:
            raise ValueError("a block has a gain for every proposal after the first")
        if failed is not None and failed.which >= len(self.proposals):
            raise ValueError("the proposal that failed is one of those that were measured")
        return self


class Recorder:
    """A bench that notes what another one says."""

    def __init__(self, bench: Bench, exchanges: list[Exchange]) -> None:
        self._bench = bench
        self._exchanges = exchanges

    def measure(self, proposals: Sequence[Proposal], block: int, within_s: float) -> Block | Failure:
        """As the other one."""
        said = self._bench.measure(proposals, block, within_s)
        self._exchanges.append(
            Exchange(
                proposals=tuple(p.substance() for p in proposals),
                block=block,
                measured=said if isinstance(said, Block) else None,
                failure=said if isinstance(said, Failure) else None,
            )
        )
        return said


class Player:
    """A bench that says what was recorded. TapeDiffers when it is asked something else, or more; InputError when it is
    made of blocks that differ in how many guardrails there are.
    """

    def __init__(self, exchanges: Sequence[Exchange]) -> None:
        if len({len(each.measured.margins) for each in exchanges if each.measured is not None}) > 1:
            raise InputError("measured.json: not every block has the same guardrails")
        self._exchanges = tuple(exchanges)
        self._at = 0

    def measure(self, proposals: Sequence[Proposal], block: int, within_s: float) -> Block | Failure:  # noqa: ARG002
        """The recorded answer; how much time there is now says nothing about what there was."""
        number, self._at = self._at, self._at + 1
        if number >= len(self._exchanges):
            raise TapeDiffers(f"measurement {number + 1} was never recorded")
        found = self._exchanges[number]
        if (found.proposals, found.block) != (tuple(p.substance() for p in proposals), block):
            raise TapeDiffers(f"measurement {number + 1} is of other proposals than was recorded")
        said = found.measured or found.failure
        assert said is not None
        return said

    def unasked(self) -> int:
        """How many recorded measurements nobody asked for."""
        return max(0, len(self._exchanges) - self._at)
