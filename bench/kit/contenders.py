# SPDX-License-Identifier: Apache-2.0
"""What planners answer to a scenario: the rules, the search, chance, and the points of a small exhaustive grid.

All start from what the rules derive from the profile (class matches, weights, targets), and are of any template that
suits the deciding metric; `random` and `grid` need no measurement to be told what there is to choose from.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import islice, product
from typing import Any

from bench.kit.scenarios import SEED, Scenario, templates
from controller import plan
from controller.api import Proposal, SchedulerTemplate
from controller.plan import rules
from controller.plan.search.space import Choice, Number, Space, space_of

PLANNERS = ("rules", "search", "random", "grid")
"""In the order in which one wants to know of them."""
MOST_POINTS = 24
"""Of a grid."""
_STEPS = (1 / 6, 1 / 2, 5 / 6)
"""Where on a parameter's scale a grid's values are."""
IMPORTANT = {
    "background": ("background_slice", "floor"),
    "batch-order": ("batch_slice", "slice"),
    "core-pack": ("spread", "slice"),
    "latency-first": ("slice", "latency_share"),
    "locality": ("slice", "balance"),
    "partition": ("reserve", "slice"),
    "pipeline": ("handoff", "slice"),
    "throughput": ("longest", "round"),
    "weighted-fair": ("slice", "lag"),
}
"""The parameters of each template that a grid varies: two where few templates suit, else the first. Of a template that
is not named, the first two of its space."""


def by_rules(scenario: Scenario, release: str, cpus: int) -> Proposal:
    """What the offline planner proposes by rules."""
    policy = scenario.policy("rules")
    return plan.propose(scenario.profile(release, cpus), scenario.intents, policy, tuple(templates().values()))


def by_search(scenario: Scenario, release: str, cpus: int, bench: plan.Bench, **settings: Any) -> Proposal:
    """What the offline planner proposes after measuring on `bench`, within `settings` (SearchSpec). Takes minutes."""
    policy = scenario.policy("search", **settings)
    profile = scenario.profile(release, cpus)
    return plan.propose(profile, scenario.intents, policy, tuple(templates().values()), bench=bench)


def by_chance(scenario: Scenario, release: str, cpus: int, seed: int = SEED) -> Proposal:
    """One point at random: first any template that suits, then any value of each dimension, on its own scale."""
    chance = random.Random(f"{seed}/{scenario.name}")
    space = space_on(scenario, chance.choice(scenario.suiting()), release, cpus)
    values: dict[str, float | str] = {each.name: _at(each, chance.random()) for each in space.numbers}
    values |= {each.name: chance.choice(each.options) for each in space.choices}
    return _told(space, values, "a point drawn at random")


def grid(scenario: Scenario, release: str, cpus: int) -> tuple[Proposal, ...]:
    """Every suiting template with a few values of its most important parameters; at most MOST_POINTS, no two alike."""
    spaces = [space_on(scenario, template, release, cpus) for template in scenario.suiting()]
    both, first = ([list(_points(space, count)) for space in spaces] for count in (2, 1))
    taken = both if sum(map(len, both)) <= MOST_POINTS else first
    # In turns, so that no template is left out where even one parameter each is too many.
    turns = (points[turn] for turn in range(max(map(len, taken))) for points in taken if turn < len(points))
    return tuple(islice({point.substance(): point for point in turns}.values(), MOST_POINTS))


def space_on(scenario: Scenario, template: SchedulerTemplate, release: str, cpus: int) -> Space:
    """The search space of a template around what the rules would fill it with."""
    policy, profile = scenario.policy("rules"), scenario.profile(release, cpus)
    base = rules.propose(profile, scenario.intents, policy, (template,))
    return space_of(template, base, expressions=True)


def _points(space: Space, count: int) -> Sequence[Proposal]:
    varied = _important(space)[:count]
    steps: list[tuple[float | str, ...]] = [
        tuple(_at(each, part) for part in _STEPS) if isinstance(each, Number) else each.options for each in varied
    ]
    names = [each.name for each in varied]
    found = [
        _told(space, space.start() | dict(zip(names, values, strict=True)), "a point of a grid")
        for values in product(*steps)
    ]
    return list({point.substance(): point for point in found}.values())


def _important(space: Space) -> list[Number | Choice]:
    """Of class parameters those of the class under test, which alone are in a space."""
    by_name = {each.name.rpartition(".")[2]: each for each in space.dimensions if not each.name.startswith("hole.")}
    return [by_name[name] for name in IMPORTANT.get(space.template.name, tuple(by_name)[:2]) if name in by_name]


def _at(number: Number, part: float) -> float:
    """The value so far (0 to 1) up a dimension's scale."""
    if number.log:
        return math.exp(math.log(number.low) + part * (math.log(number.high) - math.log(number.low)))
    return number.low + part * (number.high - number.low)


def _told(space: Space, values: dict[str, float | str], why: str) -> Proposal:
    made = space.proposal(values)
    return made.model_copy(update={"reasons": (f"{why}: {', '.join(space.changes(made)) or 'as the rules fill it'}",)})
