# SPDX-License-Identifier: Apache-2.0
"""Rendering: what a proposal and a template must be, and that hostile ones are refused or harmless."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.api import SchedulerTemplate
from controller.errors import TemplateError
from controller.render import check_template, engine, render
from tests.templates import cases

FAIR = cases.TEMPLATES["weighted-fair"]
LATENCY = cases.TEMPLATES["latency-first"]


def refused(*classes: Any, template: SchedulerTemplate = FAIR, **filled: Any) -> TemplateError:
    with pytest.raises(TemplateError) as told:
        render(cases.proposal(template, *classes, **filled), template)
    assert told.value.remedy
    return told.value


def inline(text: str, **spec: Any) -> SchedulerTemplate:
    made = {"summary": "x", "suits": ["throughput"], "source": {"inline": text}} | spec
    return SchedulerTemplate.model_validate(
        {"apiVersion": "schedctl.dev/v1alpha1", "kind": "SchedulerTemplate", "metadata": {"name": "t"}, "spec": made}
    )


def test_the_name_of_the_scheduler_is_made_from_proposal_and_template() -> None:
    one = render(cases.proposal(FAIR), FAIR)
    other = render(cases.proposal(FAIR, parameters={"slice": "4ms"}), FAIR)
    assert re.fullmatch(r"schedctl_[0-9a-f]{12}", one.ops_name)
    assert one.ops_name != other.ops_name
    assert f'.name = "{one.ops_name}"' in one.text


def test_a_number_carries_the_parameter_it_came_from() -> None:
    text = render(cases.proposal(FAIR, parameters={"slice": "1.5ms"}), FAIR).text
    assert "] = 1500000ULL, /* parameter slice = 1500us */" in text


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"slice": "21ms"}, "parameter slice is '21ms', outside 500us..20ms"),
        ({"slice": "0s"}, "outside"),
        ({"slice": 5000000}, "must be a duration with a unit"),
        ({"slice": "5"}, "must be a duration with a unit"),
        ({"slice": True}, "must be of type duration"),
        ({"others_weight": "100"}, "must be a whole number"),
        ({"others_weight": 10**30}, "at most 63 bits"),
        ({"others_weight": 1.5}, "must be a whole number"),
        ({"quantum": "5ms"}, "unknown parameter 'quantum'"),
    ],
)
def test_a_parameter_out_of_its_type_or_range(parameters: dict[str, Any], said: str) -> None:
    error = refused(parameters=parameters)
    assert said in error.message
    assert "template weighted-fair" in error.message


def test_a_class_parameter_names_its_class() -> None:
    error = refused(cases.task_class(1, "wakeupLatency", comm=("a",), parameters={"deadline": "2s"}), template=LATENCY)
    assert "class c1 (demo/app1)" in error.message


def test_an_expression_fills_its_hole_and_an_unknown_hole_is_refused() -> None:
    filled = cases.proposal(FAIR, expressions={"slice": "max(slice / 4, slice - queued * 100000)"})
    slice_ = "knob(KNOB_SLICE)"
    made = f"max({slice_} / 4ULL, minus({slice_}, min(queue_length(t), 4194304ULL) * 100000ULL))"
    assert f"return {made};" in render(filled, FAIR).text  # from 125 us on: the hole's 100 us need no clamp
    far = cases.proposal(FAIR, expressions={"slice": "burst"})
    assert "return clamp(min(t->burst_avg, 3600000000000ULL), 100000ULL, 20000000ULL);" in render(far, FAIR).text
    assert "unknown hole 'enqueue'" in refused(expressions={"enqueue": "1"}).message
    assert "hole slice" in refused(expressions={"slice": "bpf_loop(1)"}).message


def test_a_proposal_for_another_template_or_another_text_is_refused() -> None:
    with pytest.raises(TemplateError, match="is for template weighted-fair, not latency-first"):
        render(cases.proposal(FAIR), LATENCY)
    with pytest.raises(TemplateError, match="text has changed"):
        render(cases.proposal(FAIR), FAIR.with_text(FAIR.text + "\n"))


HOLE = {"name": "slice", "default": "slice", "names": ["slice"], "description": "x"}


@pytest.mark.parametrize(
    ("text", "spec", "said"),
    [
        ("int x;", {"holes": [HOLE]}, "does not use its hole 'slice'"),
        ('{{ hole("slice", slice="s") }}', {}, "uses hole 'slice', which is not declared"),
        ('{{ hole("slice") }}', {"holes": [HOLE]}, "the text gives C for []"),
        ("a\n{{ nothing }}", {}, "line 2: 'nothing' is undefined"),
        ("{{ parameters.slice }}", {}, "line 1"),
        ("a\n\n{% if %}", {}, "line 3"),
        ("{{ 1 | upper }}", {}, "line 1: No filter named 'upper'"),
        ("{% for a in classes %}{% for b in classes %}{% endfor %}{% endfor %}", {}, "loops inside loops"),
        ("{{ 'a' * 1000000000 }}", {}, "may not use mul"),
        ("{{ 9 ** 999999999 }}", {}, "may not use pow"),
        ("{{ 'a' ~ 'b' }}", {}, "may not use concat"),
        ("{% set a = ops_name + ops_name %}{{ a }}", {}, "takes whole numbers"),
        ("{% for i in range(1000000000) %}x{% endfor %}", {}, "calls other than hole"),
        ("{{ ops_name.upper() }}", {}, "calls other than hole"),
        ("{{ ops_name['__class__'] }}", {}, "may not use getitem"),
        ("{{ ops_name.__class__ }}", {}, "unsafe"),
        ("{% include 'x' %}", {}, "may not use include"),
        ("{% import 'x' as x %}", {}, "may not use import"),
        ("{% macro f() %}{% endmacro %}", {}, "may not use macro"),
    ],
)
def test_a_template_that_is_wrong_or_hostile(text: str, spec: dict[str, Any], said: str) -> None:
    error = refused(template=inline(text, **spec))
    assert said in f"{error}"
    assert "template t" in error.message


def test_loops_without_output_and_long_output_are_bounded() -> None:
    many = inline("{% for c in classes %}{% endfor %}" * 65)
    assert "more than 64" in refused(template=many).message
    wide = inline("{% for c in classes %}" + "y" * 20_000 + "{% endfor %}")
    classes = [cases.task_class(n, comm=("a",)) for n in range(1, 101)]
    assert f"longer than {engine.MAX_OUTPUT}" in refused(*classes, template=wide).message


def test_a_default_out_of_range_is_the_templates_fault() -> None:
    bad = {"name": "slice", "type": "duration", "default": "1s", "maximum": "5ms", "description": "x"}
    with pytest.raises(TemplateError, match=r"outside \.\.5ms"):
        check_template(inline("{{ parameters.slice | ns }}", parameters=[bad]))


COMM = st.text(alphabet=st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=15).filter(
    lambda text: text[0] != " "
)


@given(st.lists(COMM, min_size=1, max_size=6))
@settings(deadline=None, max_examples=60)
def test_no_process_name_pattern_leaves_its_string(globs: list[str]) -> None:
    text = render(cases.proposal(FAIR, cases.task_class(1, comm=tuple(globs))), FAIR).text
    plain = render(cases.proposal(FAIR, cases.task_class(1, comm=("x",) * len(globs))), FAIR).text
    rows = re.findall(r'^\t\{ 1, "((?:[^"\\\n]|\\[0-7]{3})*)" \},$', text, re.M)
    assert [re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), row) for row in rows] == globs
    skeleton = re.compile(r'schedctl_[0-9a-f]{12}|^\t\{ 1, ".*" \},$', re.M)
    assert skeleton.sub("", text) == skeleton.sub("", plain)


@pytest.mark.parametrize("value", ['"', "\\", "??/", "*/", "\n", "\0", "é", '"}; int x = 0; //'])
def test_a_c_string_holds_whatever_is_in_it(value: str) -> None:
    made = engine.cstring(value)
    assert re.fullmatch(r'"(?:[A-Za-z0-9 _.,:;/*+=@%<>()\[\]-]|\\[0-7]{3})*"', made)
    back = re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), made[1:-1].encode())
    assert back.decode() == value


@pytest.mark.parametrize("value", ["*/ int x; /*", "a\nb", "é\\"])
def test_a_comment_stays_one(value: str) -> None:
    made = engine.comment(value)
    assert "*" not in made
    assert made.isascii()
    assert made.isprintable()
