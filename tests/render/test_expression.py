# SPDX-License-Identifier: Apache-2.0
"""Expressions: what the language takes, the C that comes out, and that nothing else can."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.errors import TemplateError
from controller.render import expression

NAMES = {"slice": "slice_ns", "queued": "queue_length(t)"}


def c(text: str) -> str:
    return expression.to_c(expression.parse(text, tuple(NAMES), "hole slice"), NAMES)


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
    ],
)
def test_c_of_an_expression(text: str, wanted: str) -> None:
    assert c(text) == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "its end"),
        ("slice +", "its end"),
        ("slice / 0", "needs a number from 1"),
        ("slice / queued", "needs a number from 1"),
        ("slice % (queued)", "needs a number from 1"),
        ("slice << 64", "needs a number from 0 to 63"),
        ("slice << queued", "needs a number from 0 to 63"),
        ("other", "uses the name 'other'"),
        ("min", "uses the name 'min'"),
        ("min(slice)", "lacks ','"),
        ("-slice", "where a number"),
        ("slice; return 0", "unexpected at character 6"),
        ("slice /* x */", "where a number"),
        ("slice = 3", "unexpected"),
        ('"a"', "unexpected"),
        ("0x10", "should end"),
        ("1 < 2 < 3", "should end"),
        ("9223372036854775808", "above"),
        ("٣", "unexpected"),
        ("(" * 100 + "1" + ")" * 100, "nested deeper"),
        ("1+" * 300 + "1", "longer than 400"),
    ],
)
def test_what_is_refused_names_the_hole_and_a_remedy(text: str, said: str) -> None:
    with pytest.raises(TemplateError) as told:
        c(text)
    assert "hole slice" in told.value.message
    assert said in told.value.message
    assert told.value.remedy


@given(st.text(max_size=60) | st.text(alphabet="slicequd()+-*/%<>?:,0123456789 min\n;{}\"'\\#", max_size=60))
def test_any_text_is_refused_or_comes_out_as_plain_arithmetic(text: str) -> None:
    try:
        made = c(text)
    except TemplateError:
        return
    left = re.sub(r"slice_ns|queue_length\(t\)|\bminus\b|\bmin\b|\bmax\b|\d+ULL", "", made)
    assert re.fullmatch(r"[-+*/%<>=!?:(), ]*", left)
