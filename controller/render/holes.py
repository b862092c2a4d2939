# SPDX-License-Identifier: Apache-2.0
"""Holes: which names an expression may use, what values each may have, and the C that makes it so.

A name's range is the one that the hole declares for it, else that of the parameter of the same name, else that of the
table of names which templates share, else 0 to 10^12. The C of a name is clamped to its range as it is read (not
trusted to be in it), except where the reader in bpf/include does that already.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from controller.api.base import format_duration, parse_duration
from controller.api.template import Hole, Parameter, ParameterValue, SchedulerTemplate
from controller.errors import TemplateError
from controller.render import expression, parameters
from controller.render.interval import Interval, Proven, prove

SECOND = 10**9


@dataclass(frozen=True, slots=True)
class HoleName:
    """A name as people read of it. `unit` is ns, permille, or what is counted."""

    name: str
    unit: str
    range: Interval
    description: str

    @property
    def shown(self) -> str:
        """Its range, durations with their unit."""
        return shown(self.range, self.unit)


def shown(interval: Interval, unit: str) -> str:
    """A range as people write it: `500us..20ms`, `0..4194304 tasks`."""
    if unit != "ns":
        return f"{interval} {unit}".rstrip()
    return f"{format_duration(interval.low)}..{format_duration(interval.high)}"


_SHARED = {
    "weight": ("", 1, 10_000, "the task's weight by its nice value: 100 for nice 0"),
    "class_weight": ("", 1, 10_000, "the weight of the task's class, as cpu.weight"),
    "queued": ("tasks", 0, 4_194_304, "tasks that wait in the queue"),
    "burst": ("ns", 0, 3600 * SECOND, "average CPU time between two sleeps of the task"),
    "wait": ("ns", 0, 3600 * SECOND, "how long the task has waited since it woke; 0 when it did not sleep"),
    "turn": ("ns", 0, SECOND, "the task's part of a round that all who wait share"),
    "cpus": ("CPUs", 1, 8192, "CPUs of the machine"),
}
_UNKNOWN = Interval(0, 10**12)
_UNITS = {"duration": "ns", "percent": "permille", "integer": "", "boolean": ""}
READERS: dict[str, Interval] = {"class_weight(t)": Interval(1, 10_000)}
"""C whose value is always in a range, by bpf/include."""


def hole_names(template: SchedulerTemplate, hole: Hole) -> tuple[HoleName, ...]:
    """What an expression for the hole may use, in the order in which the hole declares it. TemplateError if unfit."""
    where = f"template {template.name}, hole {hole.name}"
    declared = {each.name: each for each in hole.ranges}
    unknown = sorted(set(declared) - set(hole.names))
    if unknown:
        raise TemplateError(
            f"{where}: a range for {unknown[0]!r}, which is not among its names", remedy="list it there"
        )
    of_parameter = {p.name: p for p in (*template.spec.class_parameters, *template.spec.parameters)}
    found = []
    for name in hole.names:
        if name in expression.FUNCTIONS:
            raise TemplateError(f"{where}: {name!r} is a function, not a name", remedy="call the name otherwise")
        if name in declared:
            each = declared[name]
            low, high = _bound(each.minimum, where, name), _bound(each.maximum, where, name)
            made = HoleName(name, each.unit, _interval(low, high, where, name), each.description)
        elif name in of_parameter:
            parameter = of_parameter[name]
            made = HoleName(name, _UNITS[parameter.type], _of_parameter(parameter, where), parameter.description)
        elif name in _SHARED:
            unit, low, high, description = _SHARED[name]
            made = HoleName(name, unit, Interval(low, high), description)
        else:
            made = HoleName(name, "", _UNKNOWN, "")
        found.append(made)
    return tuple(found)


def result_range(template: SchedulerTemplate, hole: Hole) -> Interval | None:
    """What the result is clamped to; None for a hole whose template bounds it otherwise."""
    where = f"template {template.name}, hole {hole.name}"
    if hole.minimum is None and hole.maximum is None:
        return None
    low = 0 if hole.minimum is None else _bound(hole.minimum, where, "the result")
    high = expression.MAX_NUMBER if hole.maximum is None else _bound(hole.maximum, where, "the result")
    return _interval(low, high, where, "the result")


def check(template: SchedulerTemplate, hole: Hole, text: str) -> Proven:
    """The expression `text` for the hole, proven safe. TemplateError with its place, and what would do."""
    ranges = {each.name: each.range for each in hole_names(template, hole)}
    return prove(text, ranges, f"template {template.name}, hole {hole.name}")


def filler(
    template: SchedulerTemplate, expressions: Mapping[str, str], readers: Mapping[str, Interval]
) -> Callable[..., str]:
    """The function `hole(NAME, name="C", …)` of the templates. `readers` are C texts that keep to a range."""
    where = f"template {template.name}"
    declared = {hole.name: hole for hole in template.spec.holes}
    for name in expressions:
        if name not in declared:
            listed = ", ".join(declared) or "none"
            raise TemplateError(f"{where}: unknown hole {name!r}", remedy=f"it has these holes: {listed}")
    proven = {name: check(template, hole, expressions.get(name, hole.default)) for name, hole in declared.items()}

    def fill(name: str, **in_c: str) -> str:
        hole = declared[name]
        if set(in_c) != set(hole.names):
            raise TemplateError(
                f"{where}, hole {name}: the text gives C for {sorted(in_c)} but the hole declares {sorted(hole.names)}",
                remedy="give each declared name its C expression in hole(…)",
            )
        ranges = {each.name: each.range for each in hole_names(template, hole)}
        read = {n: _within(c, ranges[n], readers.get(c, _EVERYTHING)) for n, c in in_c.items()}
        text = expression.to_c(proven[name].tree, read)
        wanted = result_range(template, hole)
        return text if wanted is None else _within(text, wanted, proven[name].result)

    return fill


_EVERYTHING = Interval(0, 2**64 - 1)


def _within(c: str, wanted: Interval, known: Interval) -> str:
    """C for the value of `c`, which is in `known`, brought into `wanted`."""
    below, above = known.low < wanted.low, known.high > wanted.high
    if below and above:
        return f"clamp({c}, {wanted.low}ULL, {wanted.high}ULL)"
    if below or above:
        return f"max({c}, {wanted.low}ULL)" if below else f"min({c}, {wanted.high}ULL)"
    return c


def _of_parameter(parameter: Parameter, where: str) -> Interval:
    low, high = parameters.bounds(parameter, where)
    scale = 1000 if parameter.type == "percent" else 1
    limits = (0 if low is None else round(low * scale), expression.MAX_NUMBER if high is None else round(high * scale))
    return _interval(*limits, where, parameter.name)


def _interval(low: int, high: int, where: str, name: str) -> Interval:
    if not 0 <= low <= high <= expression.MAX_NUMBER:
        raise TemplateError(f"{where}: {name} ranges from {low} to {high}", remedy="from 0 up to 2^63 - 1, low first")
    return Interval(low, high)


def _bound(value: ParameterValue, where: str, name: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        return parse_duration(value if isinstance(value, str) and re.search(r"[a-z]$", value) else None)
    except ValueError as error:
        raise TemplateError(
            f"{where}: a bound of {name} is {value!r}", remedy=f"a whole number, or it {error}"
        ) from None
