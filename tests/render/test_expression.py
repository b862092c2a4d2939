# SPDX-License-Identifier: Apache-2.0
"""Expressions: what the language takes, the C that comes out, and that nothing else can."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.errors import TemplateError
from controller.render import expression
from controller.render.interval import Interval, prove
from tests.render import expressions

NAMES = {"slice": "slice_ns", "queued": "queue_length(t)", "class_weight": "class_weight(t)"}
RANGES = {"slice": Interval(500_000, 20_000_000), "queued": Interval(0, 4_194_304), "class_weight": Interval(1, 10_000)}


def c(text: str) -> str:
    return expression.to_c(prove(text, RANGES, "hole slice").tree, NAMES)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("slice", "slice_ns"),
        ("slice*2+1", "(slice_ns * 2ULL) + 1ULL"),
        ("slice - queued * 3", "minus(slice_ns, queue_length(t) * 3ULL)"),
        ("(slice + queued) / 4 % 7", "((slice_ns + queue_length(t)) / 4ULL) % 7ULL"),
        ("queued > 3 ? slice >> 1 : slice", "(queue_length(t) > 3ULL) ? (slice_ns >> 1ULL) : slice_ns"),
        ("max(slice, min(queued, 5)) << 2", "max(slice_ns, min(queue_length(t), 5ULL)) << 2ULL"),
        ("queued ? 1 : queued ? 2 : 3", "queue_length(t) ? 1ULL : (queue_length(t) ? 2ULL : 3ULL)"),
        ("clamp(slice, 1, 2)", "clamp(slice_ns, 1ULL, 2ULL)"),
        ("slice / class->weight", "slice_ns / class_weight(t)"),
        ("slice * nr_queued", "slice_ns * queue_length(t)"),
        ("slice / queued", "slice_ns / max(queue_length(t), 1ULL)"),
        ("slice % (queued - 1)", "slice_ns % max(minus(queue_length(t), 1ULL), 1ULL)"),
        ("slice >> min(queued, 3)", "slice_ns >> min(queue_length(t), 3ULL)"),
        ("(queued < 2) << 40", "(u64)(queue_length(t) < 2ULL) << 40ULL"),
        ("queued && slice > 2 || !queued", "((queue_length(t) != 0) && (slice_ns > 2ULL)) || (!queue_length(t))"),
    ],
)
def test_c_of_an_expression(text: str, wanted: str) -> None:
    assert c(text) == wanted


@pytest.mark.parametrize(
    ("text", "at", "said"),
    [
        ("", 1, "its end"),
        ("slice +", 8, "its end"),
        ("slice / 0", 7, "always 0"),
        ("slice % (2 - 3)", 7, "always 0"),
        ("slice << 64", 7, "shifts by 64, and 63 is the most"),
        ("slice >> queued", 7, "shifts by 0..4194304"),
        ("slice << 50", 7, "above 2^63 - 1"),
        ("slice * slice * slice", 15, "the product of 250000000000..400000000000000 and 500000..20000000 may reach"),
        ("9223372036854775807 + 1", 21, "may reach about 10^18"),
        ("other", 1, "uses the name 'other'"),
        ("min", 1, "uses the name 'min'"),
        ("min(slice)", 10, "',' is missing"),
        ("min(slice, 1, 2)", 13, "')' is missing"),
        ("clamp(slice, 1)", 15, "',' is missing"),
        ("-slice", 1, "where a number"),
        ("slice; return 0", 6, "no part of an expression"),
        ("slice /* x */", 8, "where a number"),
        ("slice = 3", 7, "no part of an expression"),
        ("slice & 3", 7, "no part of an expression"),
        ('"a"', 1, "no part of an expression"),
        ("0x10", 2, "should end"),
        ("1 < 2 < 3", 7, "should end"),
        ("9223372036854775808", 1, "above"),
        ("٣", 1, "no part of an expression"),
        ("slice + ｓlice", 9, "no part of an expression"),
        ("class->css", 1, "uses the name 'class->css'"),
        ("__builtin_trap()", 1, "uses the name '__builtin_trap'"),
        ("sizeof(slice)", 1, "uses the name 'sizeof'"),
        ("scx_bpf_error(slice)", 1, "uses the name 'scx_bpf_error'"),
        ("slice(1)", 6, "should end"),
        ("(" * 100 + "1" + ")" * 100, 25, "nested deeper"),
        ("!" * 100 + "1", 24, "nested deeper"),
        ("1+" * 100 + "1", 122, "more than 60 operators"),
        ("1+" * 300 + "1", 1, "longer than 400"),
    ],
)
def test_what_is_refused_names_the_hole_the_place_and_a_remedy(text: str, at: int, said: str) -> None:
    with pytest.raises(TemplateError) as told:
        c(text)
    assert "hole slice" in told.value.message
    assert f"character {at}:" in told.value.message
    assert said in told.value.message
    assert told.value.remedy


def test_a_guarded_division_is_said() -> None:
    assert prove("slice / queued", RANGES, "x").notes == (
        "character 7: the right side of '/' may be 0, and counts as 1 then",
    )
    assert prove("slice / (queued + 1)", RANGES, "x").notes == ()


@given(st.text(max_size=60) | st.text(alphabet="slicequd()+-*/%<>?:,0123456789 min\n;{}\"'\\#!&|", max_size=60))
def test_any_text_is_refused_or_comes_out_as_plain_arithmetic(text: str) -> None:
    try:
        made = c(text)
    except TemplateError:
        return
    left = re.sub(r"slice_ns|queue_length\(t\)|class_weight\(t\)|\(u64\)|\b(?:minus|min|max|clamp)\b|\d+ULL", "", made)
    assert re.fullmatch(r"[-+*/%<>=!?:(), &|0]*", left)


def test_every_value_stays_in_the_proven_range_and_below_2_to_the_63() -> None:
    for case in expressions.accepted(1500, seed=5):
        for value in expressions.inside(case.proven.tree, case.values):
            assert 0 <= value < 2**63, case
        result = case.proven.result
        assert result.low <= expressions.worth(case.proven.tree, case.values) <= result.high, case


@pytest.mark.parametrize(
    "text",
    [
        "slice+" * 1700, "(" * 1000 + "slice" + ")" * 1000, "!" * 10_000, "min(" * 2500, "9" * 10_000, "\x00" * 10_000,
        "ｓ" * 10_000, "\u202e" * 10_000, "slice?" * 1700, "<<" * 5000, "1<<62*" * 60,
    ],
)  # fmt: skip
def test_hostile_text_is_refused_at_once(text: str) -> None:
    began = time.process_time()
    for _ in range(10):
        with pytest.raises(TemplateError):
            c(text)
    assert time.process_time() - began < 1  # a thousand times what it takes: only a blow-up fails
