# SPDX-License-Identifier: Apache-2.0
"""Units on the wire, base units inside."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from controller.api import format_duration, format_percent, parse_duration, parse_percent
from controller.api.base import Duration, Percent

TEN_YEARS_NS = 3650 * 86_400_000_000_000


@given(st.integers(0, TEN_YEARS_NS))
def test_duration_round_trip(nanoseconds):
    text = format_duration(nanoseconds)
    if nanoseconds < 2**53:  # beyond that a float, which the parser goes through, skips integers
        assert parse_duration(text) == nanoseconds
    assert TypeAdapter(Duration).dump_python(nanoseconds) == text


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0s", 0), ("1ns", 1), ("500us", 500_000), ("500µs", 500_000), ("2ms", 2_000_000), ("1.5s", 1_500_000_000),
        ("60s", 60_000_000_000), ("1m", 60_000_000_000), ("2h", 7_200_000_000_000), ("30d", 2_592_000_000_000_000),
    ],
)  # fmt: skip
def test_duration_units(text, nanoseconds):
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    "bad",
    ["", "2", "2mss", "ms", "-2ms", "2 ms", "2MS", "1e3ms", "0x10s", "1.ms", ".5s", None, 2.5, True, [], {}],
)
def test_duration_refuses(bad):
    with pytest.raises(ValueError, match="must be a duration with a unit"):
        parse_duration(bad)


def test_duration_has_an_upper_bound():
    assert parse_duration("3650d") == TEN_YEARS_NS
    with pytest.raises(ValueError, match="at most 3650d"):
        parse_duration("3651d")


def test_duration_beyond_floating_point_is_an_error_like_any_other():
    with pytest.raises(ValueError, match="must be"):
        parse_duration("9" * 400 + "d")


@pytest.mark.parametrize("bad", ["٣ms", "2ms\n"])
def test_duration_is_ascii_to_its_end(bad):
    """As the CRD's pattern has it: Go's digits are ASCII, and its `$` is the very end."""
    with pytest.raises(ValueError, match="must be a duration with a unit"):
        parse_duration(bad)


@pytest.mark.parametrize("bad", ["٣%", "3%\n", "9" * 400 + "%"])
def test_percent_is_ascii_to_its_end_and_finite(bad):
    with pytest.raises(ValueError, match="must be"):
        parse_percent(bad)


@given(st.integers(0, 1_000_000))
def test_percent_round_trip(hundredths):
    fraction = hundredths / 10_000
    assert parse_percent(format_percent(fraction)) == pytest.approx(fraction, rel=1e-5)


@pytest.mark.parametrize(("text", "fraction"), [("3%", 0.03), ("0.5%", 0.005), ("100%", 1.0), ("0%", 0.0)])
def test_percent_units(text, fraction):
    assert parse_percent(text) == fraction


@pytest.mark.parametrize("bad", ["", "3", "%", "-3%", "3 %", "3%%", "three%", None, 3, True])
def test_percent_refuses(bad):
    with pytest.raises(ValueError, match="must be a percentage"):
        parse_percent(bad)


def test_models_report_quantities_as_validation_errors():
    with pytest.raises(ValidationError):
        TypeAdapter(Duration).validate_python("2mss")
    with pytest.raises(ValidationError):
        TypeAdapter(Percent).validate_python("3")
