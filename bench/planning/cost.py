# SPDX-License-Identifier: Apache-2.0
"""Dollars of a plan and of an accepted policy, from the sizes of requests: the attempts are walked as the code goes.

A plan asks planner and executor. Each answer is taken as often as `tiers.chance` believes, a refused one is asked for
again, at most ATTEMPTS of them a plan. What a plan proposes is accepted by verification with a given share; if it is
not, the next plan has one failure more, which `tiers.charged` counts against the model that was asked, so the next is
often a larger one. A plan that ends without an answer is an attempt too (the rules decide then) and charges nobody.
After ATTEMPTS plans the policy is left without a scheduler of a model's. Every path of this is walked with its chance,
so median and mean are exact for the beliefs that they rest on. Prompts are all cold, their sizes the medians.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from controller.api.policy import Budget
from controller.plan.claude import tiers
from controller.plan.claude.tiers import RoleName
from controller.plan.ledger import Usage, cost

AIM_USD = 0.05
ATTEMPTS = Budget().attempts
BUDGET_USD = Budget().usd_per_day
ACCEPTANCE = (1.0, 0.5, 1 / 3)
"""Share of proposals that verification accepts: not known, so the cost is reckoned for several."""
CACHE_MINIMUM = {"claude-haiku-5-5": 512, "claude-sonnet-5-5": 512, "claude-opus-5-5": 512}
"""Tokens below which the API caches no prefix, and says nothing: each model's page under platform.claude.com/docs/en/
models and /docs/en/build-with-claude/prompt-caching#cache-limitations, as of the day below."""
CACHE_MINIMUM_AS_OF = "2026-10-08"
PUBLISHED_RATIO = 2.5
"""Characters a token in English text, by the same pages (a million tokens are about 2.5 million characters). What
JSON and C come to nobody says, so the code's assumption is the one that is reckoned with, and this one beside it."""
PLAIN: tuple[RoleName, ...] = ("planner", "executor")
FULL: tuple[RoleName, ...] = ("observer", "learner", "planner", "executor")
Sizes = Mapping[str, Mapping[str, Any]]
"""Of each role `prompt_bytes`, and in tokens `prompt_tokens`, `stable_tokens` of them, `output_tokens_assumed`."""


class Chooser(Protocol):
    """Who picks the model of an answer."""

    def asked(self, role: RoleName, failures: int, left_usd: float, refused: Mapping[str, int]) -> tuple[str, float]:
        """The model, and the chance that its answer is taken. `failures`: earlier proposals that were rejected;
        `refused`: answers to this question, by model."""
        ...


@dataclass(frozen=True)
class ByRule:
    """As `asking.Campaign` does it, with an empty ledger."""

    sizes: Sizes

    def asked(self, role: RoleName, failures: int, left_usd: float, refused: Mapping[str, int]) -> tuple[str, float]:
        """The tiers' own choice."""
        size = round(self.sizes[role]["prompt_bytes"])
        before = tiers.charged(role, failures, size, left_usd, {})
        counted = {model: before.get(model, 0) + refused.get(model, 0) for model in before.keys() | refused.keys()}
        model = tiers.choose(role, size, left_usd, {}, counted)
        return model, tiers.chance(_tier(model), {}, counted)


@dataclass(frozen=True)
class Always:
    """One model for everything, as SCHEDCTL_MODEL has it."""

    tier: tiers.Tier

    def asked(self, role: RoleName, failures: int, left_usd: float, refused: Mapping[str, int]) -> tuple[str, float]:  # noqa: ARG002 - it is always the same
        """It."""
        return self.tier.model, tiers.chance(self.tier, {}, refused)


def _tier(model: str) -> tiers.Tier:
    return next(tier for tier in tiers.TIERS if tier.model == model)


def answer_usd(model: str, size: Mapping[str, Any], *, warm: bool = False) -> float:
    """One answer. Warm: what is stable is read from the cache, where it is long enough to be there."""
    stable, whole, least = size["stable_tokens"], size["prompt_tokens"], CACHE_MINIMUM[model]
    out = size["output_tokens_assumed"]
    if whole < least:
        used = Usage(whole, out)
    elif warm and stable >= least:
        used = Usage(0, out, cached=stable, written=whole - stable)
    else:
        used = Usage(0, out, written=whole)
    usd = cost(model, used)
    assert usd is not None
    return usd


def plan_usd(sizes: Sizes, names: tuple[RoleName, ...], model: str, *, warm: bool = False) -> float:
    """One answer of each role by one model, nothing refused."""
    return sum(answer_usd(model, sizes[name], warm=warm) for name in names)


@dataclass(frozen=True)
class End:
    """How a plan or a policy may end: the chance, the dollars until then, and whether it came to what was wanted."""

    chance: float
    usd: float
    well: bool


@dataclass(frozen=True)
class _Within:
    """Where in a plan a walk is: what it took so far, the roles still to be asked, the answers refused in all and to
    this question."""

    usd: float
    chance: float
    roles: tuple[RoleName, ...]
    refused: int = 0
    by_model: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Walk:
    """Every way in which a plan, and then a policy, may go. `attempts` bounds both, as the policy's budget does."""

    sizes: Sizes
    by: Chooser
    attempts: int = ATTEMPTS
    budget_usd: float = BUDGET_USD

    def plan(self, failures: int = 0, spent_usd: float = 0.0) -> Iterator[End]:
        """One plan, after so many rejected proposals and so many dollars of the day. Well: it has a proposal."""
        yield from self._answers(_Within(0.0, 1.0, PLAIN), failures, self.budget_usd - spent_usd)

    def policy(self, share: float) -> Iterator[End]:
        """Plans until one is accepted, or there is none left to make. Well: one was."""
        yield from self._plans(share, End(1.0, 0.0, False), self.attempts, 0)

    def _answers(self, at: _Within, failures: int, left_usd: float) -> Iterator[End]:
        if at.chance == 0:
            return
        if not at.roles:
            yield End(at.chance, at.usd, True)
            return
        role = at.roles[0]
        model, taken = self.by.asked(role, failures, left_usd - at.usd, at.by_model)
        usd = at.usd + answer_usd(model, self.sizes[role])
        yield from self._answers(_Within(usd, at.chance * taken, at.roles[1:], at.refused), failures, left_usd)
        missed = at.chance * (1 - taken)
        if at.refused + 1 >= self.attempts:
            yield End(missed, usd, False)
        else:
            by_model = {**at.by_model, model: at.by_model.get(model, 0) + 1}
            again = replace(at, usd=usd, chance=missed, refused=at.refused + 1, by_model=by_model)
            yield from self._answers(again, failures, left_usd)

    def _plans(self, share: float, before: End, left: int, failures: int) -> Iterator[End]:
        if not left:
            yield before
            return
        for end in self.plan(failures, before.usd):
            chance, usd = before.chance * end.chance, before.usd + end.usd
            accepted = share if end.well else 0.0
            if accepted:
                yield End(chance * accepted, usd, True)
            if accepted < 1:
                missed = End(chance * (1 - accepted), usd, False)
                yield from self._plans(share, missed, left - 1, failures + end.well)


def per_accepted(ends: Iterable[End]) -> dict[str, float]:
    """Median: of policies that were accepted. Mean: all dollars, those of the others too, over the accepted ones.
    Unaccepted: how many are left without one."""
    found = sorted(ends, key=lambda end: end.usd)
    well = sum(end.chance for end in found if end.well)
    reached, median = 0.0, 0.0
    for end in found:
        if end.well and reached < well / 2:
            reached, median = reached + end.chance, end.usd
    mean = sum(end.chance * end.usd for end in found) / well
    return {"median_usd": median, "mean_usd": mean, "unaccepted": max(0.0, 1 - well)}


def cost_model(sizes: Sizes) -> dict[str, Any]:
    """Dollars a plan and per accepted policy, by tier and for the rule that chooses among them."""
    found: dict[str, Any] = {}
    for tier in tiers.TIERS:
        found[tier.name] = {
            "model": tier.model,
            "plan_cold_usd": plan_usd(sizes, PLAIN, tier.model),
            "plan_warm_usd": plan_usd(sizes, PLAIN, tier.model, warm=True),
            "all_four_roles_cold_usd": plan_usd(sizes, FULL, tier.model),
            "author_cold_usd": answer_usd(tier.model, sizes["author"]),
            "accepted": _accepted(Walk(sizes, Always(tier))),
        }
    rule = ByRule(sizes)
    walk = Walk(sizes, rule)
    first = list(walk.plan())
    found["chosen by the rule"] = {
        "model": "",
        "plan_cold_usd": sum(end.chance * end.usd for end in first),
        "ends_with_a_proposal_if_beliefs_hold": sum(end.chance for end in first if end.well),
        "first_asked": {role: [rule.asked(role, n, BUDGET_USD, {})[0] for n in range(ATTEMPTS)] for role in PLAIN},
        "accepted": _accepted(walk),
    }
    for each in found.values():
        each["within_aim"] = {share: told["median_usd"] <= AIM_USD for share, told in each["accepted"].items()}
    return found


def at_ratio(sizes: Sizes, bytes_per_token: float) -> dict[str, dict[str, Any]]:
    """The same bytes as so many more or fewer tokens; what the model writes stays as it is assumed."""
    more = tiers.BYTES_PER_TOKEN / bytes_per_token
    return {
        role: {**size, **{name: round(size[name] * more) for name in ("prompt_tokens", "stable_tokens")}}
        for role, size in sizes.items()
    }


def can_be_cached(size: Mapping[str, Any]) -> bool:
    """Whether what is stable is long enough for every model that may be asked."""
    return all(size["stable_tokens"] >= CACHE_MINIMUM[tier.model] for tier in tiers.TIERS)


def accepted_by_rule(sizes: Sizes) -> dict[str, dict[str, float]]:
    """Dollars per accepted policy where the rule chooses, by share."""
    return _accepted(Walk(sizes, ByRule(sizes)))


def _accepted(walk: Walk) -> dict[str, dict[str, float]]:
    return {f"{share:.2f}": per_accepted(walk.policy(share)) for share in ACCEPTANCE}
