# SPDX-License-Identifier: Apache-2.0
"""What a search may change: all that a template declares and no more, and only what renders."""

from __future__ import annotations

import random

import pytest

from controller.api import ClassMatch, Metric, SchedulerTemplate
from controller.plan.search import catalogue
from controller.plan.search.space import NOT_SEARCHED, Number, Space, space_of, subject
from controller.render import holes, parameters, render
from controller.verify import spec_for
from controller.verify.trial.spec import OBJECTIVES
from tests.builders import policy
from tests.plan import claude_case as case
from tests.plan.search_case import space
from tests.verify.candidates import proposal_for

BY_NAME = {t.name: t for t in case.TEMPLATES}


def whole(template: SchedulerTemplate) -> Space:
    return space_of(template, proposal_for(template), expressions=True)


def drawn(found: Space, chance: random.Random) -> dict[str, float | str]:
    point: dict[str, float | str] = {n.name: chance.uniform(n.low, n.high) for n in found.numbers}
    return point | {c.name: chance.choice(c.options) for c in found.choices}


@pytest.mark.parametrize("name", BY_NAME)
def test_every_parameter_and_hole_of_a_template_is_a_dimension(name):
    spec = BY_NAME[name].spec
    found = whole(BY_NAME[name])
    mine = {p.name for p in spec.parameters} | {f"c1.{p.name}" for p in spec.class_parameters}
    left_out = {n for n in mine if n.removeprefix("c1.") in NOT_SEARCHED} | {"c1.reserve"}  # of another metric
    assert {d.name for d in (*found.numbers, *found.choices)} == mine - left_out | {
        f"hole.{h.name}" for h in spec.holes
    }
    assert len(found.numbers) >= 3


@pytest.mark.parametrize("name", BY_NAME)
def test_any_point_is_in_range_and_renders(name):
    template, chance = BY_NAME[name], random.Random(name)
    found = whole(template)
    for _ in range(25):
        made = found.proposal(drawn(found, chance))
        assert render(made, template).text
        assert [c.weight for c in made.classes] == [c.weight for c in found.base.classes]
        assert made.classes[1] == found.base.classes[1], "the trial has no processes of it"
    for end in ("low", "high"):
        made = found.proposal(found.start() | {n.name: getattr(n, end) for n in found.numbers})
        assert render(made, template).text


@pytest.mark.parametrize("name", BY_NAME)
def test_the_start_is_the_proposal_that_it_is_laid_around(name):
    found = whole(BY_NAME[name])
    assert found.proposal(found.start()) == found.base
    assert found.changes(found.base) == ()


def test_a_start_of_its_own_stays_to_the_letter():
    base = case.base().model_copy(update={"parameters": {"slice": "1234567ns"}, "expressions": {"slice": "slice / 3"}})
    found = space_of(BY_NAME["weighted-fair"], base, expressions=True)
    assert found.proposal(found.start()) == base
    assert "slice / 3" in next(c for c in found.choices if c.name == "hole.slice").options
    other = found.proposal(found.start() | {"hole.slice": "slice", "slice": 5e6})
    assert (other.parameters, other.expressions) == ({}, {}), "defaults are left out"


def test_without_expressions_holes_stay():
    found = space(expressions=False)
    assert not found.choices
    assert "slice" in {n.name for n in found.numbers}


def test_numbers_have_two_digits_and_wide_ranges_are_logarithmic():
    found = space("latency-first")
    made = found.proposal(found.start() | {"slice": 1_234_567.0, "latency_share": 0.4567})
    assert made.parameters == {"slice": "1200us", "latency_share": "46%"}
    assert found.changes(made) == ("slice = 1200us", "latency_share = 46%")
    by_name: dict[str, Number] = {n.name: n for n in found.numbers}
    assert by_name["slice"].log
    assert not by_name["latency_share"].log


def test_parameters_of_a_metric_belong_to_its_classes_alone():
    base = case.base(template="partition")
    assert "c1.reserve" not in {n.name for n in space_of(BY_NAME["partition"], base, expressions=True).numbers}
    shares = tuple(c.model_copy(update={"metric": Metric.CPU_SHARE}) for c in base.classes)
    wanted = base.model_copy(update={"classes": shares})
    assert "c1.reserve" in {n.name for n in space_of(BY_NAME["partition"], wanted, expressions=True).numbers}


def test_the_class_under_test_is_the_trials():
    base = case.base()
    weights = {"c1": 100, "c2": 300}
    classes = tuple(c.model_copy(update={"weight": weights[c.handle]}) for c in base.classes)
    for made in (base, base.model_copy(update={"classes": classes})):
        tested = subject(made)
        assert tested is not None
        asked = spec_for(made, policy().spec.verification)
        assert (asked.metric, asked.comm) == (tested.metric, tested.match.comm[0])
    passing = classes[1].model_copy(update={"match": ClassMatch(tgid=(7,))})
    tested = subject(base.model_copy(update={"classes": (classes[0], passing)}))
    assert tested is not None
    assert tested.handle == "c1"
    none = tuple(c.model_copy(update={"metric": Metric.EXTERNAL}) for c in classes)
    assert subject(base.model_copy(update={"classes": none})) is None


def test_every_expression_is_accepted_by_the_checker_of_a_template():
    accepted = set()
    for template in case.TEMPLATES:
        for hole in template.spec.holes:
            offered = catalogue.choices(template, hole)
            assert offered[0] == hole.default
            assert len(offered) >= 5, f"{template.name}, hole {hole.name}"
            for text in offered:
                assert holes.check(template, hole, text).result.high >= 0
                accepted.add((hole.name, text))
    written = {(name, entry.text) for name, entries in catalogue.CATALOGUE.items() for entry in entries}
    assert written == accepted
    assert all(entry.why for entries in catalogue.CATALOGUE.values() for entry in entries)


def test_a_template_of_ones_own_gets_what_fits():
    spec = BY_NAME["weighted-fair"].spec
    (hole,) = spec.holes
    few = spec.model_copy(update={"holes": (hole.model_copy(update={"names": ("slice", "queued")}),)})
    mine = BY_NAME["weighted-fair"].model_copy(update={"spec": few})
    offered = catalogue.choices(mine, mine.spec.holes[0])
    assert offered == ("slice", "slice / max(queued, 1)", "clamp(4 * slice / max(queued, 1), slice / 4, slice)")


def test_a_parameter_without_an_end_is_left_alone():
    spec = BY_NAME["weighted-fair"].spec
    open_ended = tuple(p.model_copy(update={"maximum": None}) if p.name == "slice" else p for p in spec.parameters)
    template = BY_NAME["weighted-fair"].model_copy(update={"spec": spec.model_copy(update={"parameters": open_ended})})
    assert parameters.bounds(template.spec.parameters[0], "")[1] is None
    assert "slice" not in {n.name for n in space_of(template, case.base(), expressions=False).numbers}


def test_the_workloads_of_a_policy_are_the_trials():
    from typing import get_args

    from controller.api.policy import SearchSpec

    offered = get_args(SearchSpec.model_fields["workload"].annotation)
    assert set(offered) == {"auto", *OBJECTIVES} - {"twin"}
