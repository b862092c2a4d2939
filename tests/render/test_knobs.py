# SPDX-License-Identifier: Apache-2.0
"""Which knobs a scheduler has: their order, ranges and rows, and what may be one."""

from __future__ import annotations

import re
from typing import Any

import pytest

from controller.api import SchedulerTemplate
from controller.errors import TemplateError
from controller.render import check_template, knobs, render
from controller.render.holes import hole_names
from tests.templates import cases

LATENCY = cases.TEMPLATES["latency-first"]


def test_weights_come_first_then_parameters_then_those_of_classes() -> None:
    web = cases.task_class(1, "wakeupLatency", weight=300, comm=("web",), parameters={"deadline": "3ms"})
    made = knobs(cases.proposal(LATENCY, web, parameters={"latency_share": "12.5%", "others_weight": 7}), LATENCY)
    assert [knob.index for knob in made] == list(range(len(made)))
    assert [knob.name for knob in made] == [
        "others.weight", "c1.weight", "slice", "latency_slice", "latency_share", "budget", "lag", "age",
        "others.deadline", "c1.deadline",
    ]  # fmt: skip
    by_name = {knob.name: knob for knob in made}
    assert by_name["others.weight"].value == 7
    assert (by_name["latency_share"].value, by_name["latency_share"].unit) == (125, "permille")
    assert (by_name["latency_share"].minimum, by_name["latency_share"].maximum) == (50, 950)
    assert (by_name["c1.deadline"].value, by_name["c1.deadline"].unit) == (3_000_000, "ns")


@pytest.mark.parametrize("name", cases.LIVE)
def test_the_c_has_each_knob_once_with_its_value_and_range(name: str) -> None:
    template = cases.TEMPLATES[name]
    proposal = cases.proposal(template, *cases.mixed(5))
    text = render(proposal, template).text
    rows = {int(i): int(value) for i, value in re.findall(r"^\t\[(\d+)\] = (\d+)ULL, /\*", text, re.M)}
    made = knobs(proposal, template)
    assert {knob.index: knob.value for knob in made} == rows
    assert f"#define NR_KNOBS {len(made)}\n" in text
    ranges = {
        (int(low), int(high)) for low, high in re.findall(r"^#define KNOB_\w+ \d+, (\d+)ULL, (\d+)ULL", text, re.M)
    }
    assert {(knob.minimum, knob.maximum) for knob in made} == ranges


@pytest.mark.parametrize("name", cases.LIVE)
def test_a_value_of_a_knob_stands_nowhere_else_in_the_c(name: str) -> None:
    """Else a revision with other values would be other code."""
    template = cases.TEMPLATES[name]
    one = cases.task_class(1, weight=300, comm=("a",))
    two = cases.task_class(1, weight=301, comm=("a",))
    first = render(cases.proposal(template, one), template).text.splitlines()
    other = next(p.name for p in template.spec.parameters if p.live and p.name.endswith(("slice", "round")))
    changes = cases.proposal(template, two, parameters={other: "6ms", "lag": "9ms"})
    second = render(changes, template).text.splitlines()
    changed = [(a, b) for a, b in zip(first, second, strict=True) if a != b]
    assert changed
    assert all(re.search(r"schedctl_[0-9a-f]{12}|^\t\[\w+\] = \d+", line) for pair in changed for line in pair), changed


def test_a_template_without_live_parameters_has_none() -> None:
    plain = LATENCY.spec.model_copy(
        update={
            "parameters": tuple(p.model_copy(update={"live": False}) for p in LATENCY.spec.parameters),
            "class_parameters": tuple(p.model_copy(update={"live": False}) for p in LATENCY.spec.class_parameters),
        }
    )
    template = LATENCY.model_copy(update={"spec": plain})
    assert knobs(cases.proposal(template, *cases.mixed(2)), template) == ()
    assert "NR_KNOBS" not in render(cases.proposal(template, *cases.mixed(2)), template).text


@pytest.mark.parametrize(
    "parameter",
    [
        {"name": "x", "type": "boolean", "default": True},
        {"name": "x", "type": "integer", "default": 3, "minimum": 0},
        {"name": "x", "type": "integer", "default": 3, "maximum": 7},
        {"name": "x", "type": "integer", "default": 3, "minimum": -1, "maximum": 7},
    ],
)
def test_only_a_number_with_both_ends_of_its_range_is_live(parameter: dict[str, Any]) -> None:
    with pytest.raises(TemplateError, match="parameter x is live, but") as told:
        check_template(_template(parameters=[parameter | {"live": True, "description": "x"}]))
    assert told.value.remedy


def test_a_name_of_a_hole_has_the_range_that_is_declared_or_known() -> None:
    hole = {
        "name": "h", "default": "1", "names": ["depth", "weight", "x", "strange"], "description": "x",
        "ranges": [{"name": "depth", "unit": "CPUs", "minimum": 1, "maximum": 64, "description": "How deep."}],
    }  # fmt: skip
    parameter = {
        "name": "x",
        "type": "duration",
        "default": "1ms",
        "minimum": "1ms",
        "maximum": "2ms",
        "description": "x",
    }
    text = '{{ hole("h", depth="d()", weight="w()", x="x()", strange="s()") }}'
    template = _template(text=text, holes=[hole], parameters=[parameter])
    shown = {each.name: each.shown for each in hole_names(template, template.spec.holes[0])}
    assert shown == {"depth": "1..64 CPUs", "weight": "1..10000", "x": "1ms..2ms", "strange": "0..1000000000000"}
    filled = cases.proposal(template, expressions={"h": "depth + weight + x + strange"})
    c = "((clamp(d(), 1ULL, 64ULL) + clamp(w(), 1ULL, 10000ULL)) + clamp(x(), 1000000ULL, 2000000ULL))"
    assert render(filled, template).text == f"{c} + min(s(), 1000000000000ULL)"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ranges": [{"name": "y", "maximum": 1}]}, "a range for 'y', which is not among its names"),
        ({"ranges": [{"name": "x", "minimum": 2, "maximum": 1}]}, "x ranges from 2 to 1"),
        ({"ranges": [{"name": "x", "maximum": "soon"}]}, "a bound of x is 'soon'"),
        ({"names": ["min"]}, "'min' is a function"),
        ({"minimum": 5, "maximum": 4}, "the result ranges from 5 to 4"),
    ],
)
def test_a_hole_that_is_declared_wrong(change: dict[str, Any], said: str) -> None:
    hole = {"name": "h", "default": "1", "names": ["x"], "description": "x"} | change
    with pytest.raises(TemplateError) as told:
        check_template(_template(text='{{ hole("h", x="x") }}', holes=[hole]))
    assert said in told.value.message
    assert told.value.remedy


def _template(text: str = "", **spec: Any) -> SchedulerTemplate:
    made = {"summary": "x", "suits": ["throughput"], "source": {"inline": text}} | spec
    return SchedulerTemplate.model_validate(
        {"apiVersion": "schedctl.dev/v1alpha1", "kind": "SchedulerTemplate", "metadata": {"name": "t"}, "spec": made}
    )
