# SPDX-License-Identifier: Apache-2.0
"""Which model answers: the one of which a dollar can expect most, as known so far.

For each tier the expected gain of one answer is P × QUALITY, and it costs its tokens and the ROOM it takes:

    P        the chance that the answer is taken: (good + GOOD) / (good + bad + GOOD + BAD), of the newest answers to
             this role that the ledger has judged, with GOOD and BAD of the tier as what is believed before any. An
             answer that was refused in this very plan counts AGAIN times: who erred although he was told erred on this
             question.
    QUALITY  which part of the gain that can be had a taken answer of this tier brings. For the executor it is near 1
             everywhere (it fills in numbers whose direction is given), for the planner it is not.
    tokens   prompt and expected answer at the tier's prices
    ROOM     0.01 dollars: what an attempt costs beside tokens, most of it the verification of a candidate, about five
             minutes of two CPUs

The tier with the largest P × QUALITY / (tokens + ROOM) is asked; so a small model begins where its price is small, and
refusals move the question up. It does not go down again: a tier below one that was refused in this plan is asked only
where nothing else can be paid. Never chosen is a model whose price is unknown or whose dearest answer what is left
of the budget does not cover; when that is all of them, the cheapest is returned for the ledger to refuse. GOOD, BAD and
QUALITY are beliefs, not measurements: the ledger's counts outweigh the first two with time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from controller.plan.ledger import PRICES, Usage, cost, most

RoleName = Literal["observer", "planner", "executor", "learner", "author"]
Effort = Literal["low", "medium", "high"]


@dataclass(frozen=True)
class Tier:
    """A model and what is believed of it before it was ever asked."""

    name: str
    model: str
    good: float
    bad: float


@dataclass(frozen=True)
class RoleSetting:
    """How a role is asked. `expected_tokens` of output, thinking included, are an assumption; `max_tokens` is the bound
    that the budget reckons with. `quality` by tier.
    """

    effort: Effort
    max_tokens: int
    expected_tokens: int
    deadline_s: float
    quality: Mapping[str, float]


TIERS = (
    Tier("small", "claude-haiku-5-5", 8, 2),
    Tier("middle", "claude-sonnet-5-5", 9, 1),
    Tier("large", "claude-opus-5-5", 19, 1),
)
_FILLING = {"small": 0.9, "middle": 1.0, "large": 1.0}
_CHOOSING = {"small": 0.7, "middle": 0.9, "large": 1.0}
_WRITING = {"small": 0.3, "middle": 0.8, "large": 1.0}
ROLES: dict[RoleName, RoleSetting] = {
    "observer": RoleSetting("low", 3000, 500, 40, _FILLING),
    "planner": RoleSetting("medium", 6000, 1500, 90, _CHOOSING),
    "executor": RoleSetting("low", 4000, 700, 60, _FILLING),
    "learner": RoleSetting("low", 3000, 400, 40, _CHOOSING),
    "author": RoleSetting("high", 16_000, 8000, 240, _WRITING),
}
ROOM_USD = 0.01
AGAIN = 12
BYTES_PER_TOKEN = 3.5
"""Of JSON and English; an assumption that only expectations rest on, never the budget (there a token is a byte)."""


def expected_usd(role: RoleName, model: str, prompt_bytes: int) -> float | None:
    """What an answer probably costs, nothing of the prompt being cached yet; None: the price is unknown."""
    tokens = round(prompt_bytes / BYTES_PER_TOKEN)
    return cost(model, Usage(input=0, written=tokens, output=ROLES[role].expected_tokens))


def chance(tier: Tier, judged: Mapping[str, tuple[int, int]], refused: Mapping[str, int]) -> float:
    """That an answer of the tier is taken. `judged`: (good, bad) by model; `refused`: in this plan, by model."""
    good, bad = judged.get(tier.model, (0, 0))
    return (good + tier.good) / (good + bad + tier.good + tier.bad + AGAIN * refused.get(tier.model, 0))


def choose(
    role: RoleName,
    prompt_bytes: int,
    left_usd: float,
    judged: Mapping[str, tuple[int, int]],
    refused: Mapping[str, int],
    tiers: Sequence[Tier] = TIERS,
) -> str:
    """The model to ask. Pure: equal arguments give the same model."""

    def merit(tier: Tier) -> float:
        usd = expected_usd(role, tier.model, prompt_bytes)
        assert usd is not None
        return chance(tier, judged, refused) * ROLES[role].quality[tier.name] / (usd + ROOM_USD)

    dearest = {t: most(t.model, prompt_bytes, ROLES[role].max_tokens) for t in tiers if t.model in PRICES}
    covered = [t for t, usd in dearest.items() if usd is not None and usd <= left_usd]
    if not covered:
        return min(tiers, key=lambda t: dearest.get(t) or float("inf")).model
    floor = max((i for i, t in enumerate(tiers) if refused.get(t.model)), default=0)
    return max([t for t in covered if t in tiers[floor:]] or covered, key=merit).model


def charged(
    role: RoleName, failures: int, prompt_bytes: int, left_usd: float, judged: Mapping[str, tuple[int, int]]
) -> dict[str, int]:
    """Earlier proposals that verification refused, as refusals of the model that the rule had then asked."""
    refused: dict[str, int] = {}
    for _ in range(min(failures, 20)):
        model = choose(role, prompt_bytes, left_usd, judged, refused)
        refused[model] = refused.get(model, 0) + 1
    return refused
