# SPDX-License-Identifier: Apache-2.0
"""Patterns and names that others chose."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.observe.names import glob, printable

BYTES = st.text(alphabet="ab*?[]/", max_size=12).map(str.encode)


@given(BYTES, BYTES)
def test_glob_is_the_two_wildcards_and_nothing_else(pattern, name):
    parts = {ord("*"): b".*", ord("?"): b"."}
    reference = b"".join(parts.get(byte, re.escape(bytes([byte]))) for byte in pattern)
    assert glob(pattern, name) == bool(re.fullmatch(reference, name, re.DOTALL))


def test_glob_is_linear_where_a_regular_expression_would_not_end():
    assert not glob(b"*a" * 400 + b"b", b"a" * 3000)


@pytest.mark.parametrize(("pattern", "name"), [(b"Nginx", b"nginx"), (b"[ab]", b"a"), (b"web", b"web1"), (b"?", b"")])
def test_glob_refuses(pattern, name):
    assert not glob(pattern, name)


@given(st.binary(max_size=400), st.integers(10, 300))
def test_printable_is_printable_and_bounded(raw, limit):
    text = printable(raw, limit)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) <= limit


def test_printable_shows_what_was_there():
    assert printable(b"web\n\x1b[31m\xff") == "web\\x0a\\x1b[31m\\xff"
