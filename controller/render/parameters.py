# SPDX-License-Identifier: Apache-2.0
"""Parameter values: from a proposal's wire form to numbers in base units, within the template's ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping

from controller.api.base import parse_duration, parse_percent
from controller.api.template import Parameter, ParameterValue
from controller.errors import TemplateError

Value = bool | int | float
"""A duration in nanoseconds, a percentage as a fraction, an integer or a boolean."""


def resolve(declared: tuple[Parameter, ...], given: Mapping[str, ParameterValue], where: str) -> dict[str, Value]:
    """Every declared parameter with the value given, or its default. TemplateError on one unknown or out of range."""
    known = {parameter.name for parameter in declared}
    for name in given:
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise TemplateError(f"{where}: unknown parameter {name!r}", remedy=f"it has these parameters: {listed}")
    return {p.name: _value(p, given.get(p.name, p.default), where) for p in declared}


def number(parameter: Parameter, value: ParameterValue, where: str) -> Value:
    """`value` in base units, by the parameter's type; ranges are not looked at."""
    try:
        return _convert(parameter.type, value)
    except ValueError as error:
        raise TemplateError(
            f"{where}: parameter {parameter.name} is {_shown(value)} but {error}",
            remedy=f"write it as its default {parameter.default!r} is written",
        ) from None


def bounds(parameter: Parameter, where: str) -> tuple[Value | None, Value | None]:
    """(minimum, maximum) in base units, None where there is none."""
    low, high = parameter.minimum, parameter.maximum
    return (
        None if low is None else number(parameter, low, where),
        None if high is None else number(parameter, high, where),
    )


def _value(parameter: Parameter, given: ParameterValue, where: str) -> Value:
    value = number(parameter, given, where)
    low, high = bounds(parameter, where)
    if (low is not None and value < low) or (high is not None and value > high):
        allowed = f"{'' if low is None else parameter.minimum}..{'' if high is None else parameter.maximum}"
        raise TemplateError(
            f"{where}: parameter {parameter.name} is {_shown(given)}, outside {allowed}",
            remedy=f"give a value in {allowed}, or leave it out for {parameter.default}",
        )
    return value


def _convert(kind: str, value: ParameterValue) -> Value:
    if kind == "boolean":
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return value
    if isinstance(value, bool):
        raise ValueError(f"must be of type {kind}")
    if kind == "integer":
        if not isinstance(value, int) or abs(value) >= 2**63:
            raise ValueError("must be a whole number of at most 63 bits")
        return value
    if kind == "duration":
        if not isinstance(value, str):
            raise ValueError("must be a duration with a unit, such as 500us, 2ms, 60s or 30d")
        return parse_duration(value)
    if not isinstance(value, str):
        raise ValueError("must be a percentage such as 3% or 0.5%")
    fraction = parse_percent(value)
    if not math.isfinite(fraction):
        raise ValueError("must be a percentage such as 3% or 0.5%")
    return fraction


def _shown(value: ParameterValue) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
