# SPDX-License-Identifier: Apache-2.0
"""Live knobs: the numbers of a scheduler that change through a BPF map, without a detach.

They are the weights of the classes and every parameter and class parameter that its template marks `live`. Each has a
row of the map `schedctl_knobs`, u64 a row, and a range that is compiled into the program. Rows are numbered in a fixed
order: the weights of all classes, `others` first; the parameters as the template declares them; then, for each class
parameter, one row a class. A template without a live parameter has none. bpf/include/schedctl_knob.bpf.h reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from controller.api.base import format_duration, format_percent
from controller.api.proposal import Proposal
from controller.api.template import Parameter, SchedulerTemplate
from controller.errors import TemplateError
from controller.render import parameters
from controller.render.interval import Interval

OTHERS_WEIGHT = "others_weight"
"""A parameter of this name is the weight of class 0, and has that row."""
DEFAULT_WEIGHT = 100
WEIGHT = Interval(1, 10_000)
_UNITS = {"duration": "ns", "percent": "permille", "integer": ""}


@dataclass(frozen=True, slots=True)
class Knob:
    """One number that can be changed while the scheduler runs: `slice`, `c2.weight`, `c1.deadline`."""

    name: str
    index: int
    """Its row in the map."""
    unit: str
    """ns, permille, or nothing."""
    value: int
    minimum: int
    maximum: int


@dataclass(frozen=True, slots=True)
class _Row:
    """A declared knob: of the whole scheduler, or one a class."""

    name: str
    first: int
    unit: str
    range: Interval
    values: tuple[int, ...]
    """One, or one a class."""
    said: tuple[str, ...]
    """The same for people."""
    per_class: bool

    @property
    def macro(self) -> str:
        return f"KNOB_{'WEIGHTS' if self.name == 'weight' else self.name.upper()}"


def knobs(proposal: Proposal, template: SchedulerTemplate) -> tuple[Knob, ...]:
    """Every knob of the scheduler, in order of row. Empty for a template without live parameters."""
    handles = ["others", *(c.handle for c in proposal.classes)]
    return tuple(
        Knob(
            f"{handles[i]}.{row.name}" if row.per_class else row.name,
            row.first + i,
            row.unit,
            value,
            row.range.low,
            row.range.high,
        )
        for row in _rows(proposal, template)
        for i, value in enumerate(row.values)
    )


def check(template: SchedulerTemplate) -> None:
    """TemplateError unless every live parameter is a number from 0 up with both ends of its range."""
    for parameter in (*template.spec.parameters, *template.spec.class_parameters):
        if parameter.live:
            _range(parameter, f"template {template.name}")


def readers(proposal: Proposal, template: SchedulerTemplate) -> Mapping[str, Interval]:
    """C that reads a knob, and the range that it keeps to."""
    return {
        (f"class_knob(t->class, {row.macro})" if row.per_class else f"knob({row.macro})"): row.range
        for row in _rows(proposal, template)
    }


def definitions(proposal: Proposal, template: SchedulerTemplate) -> str:
    """The C before the header: how many rows, and the row and range of each knob."""
    rows = _rows(proposal, template)
    if not rows:
        return ""
    lines = [f"#define NR_KNOBS {rows[-1].first + len(rows[-1].values)}"]
    for row in rows:
        what = f"parameter {row.name}"
        if row.per_class:
            what = "weight of class 0" if row.name == "weight" else f"class parameter {row.name} of class 0"
            what += "; the next rows are those of the other classes"
        unit = f", {row.unit}" if row.unit else ""
        lines.append(f"#define {row.macro} {row.first}, {row.range.low}ULL, {row.range.high}ULL /* {what}{unit} */")
    return "\n".join(lines) + "\n"


def table(proposal: Proposal, template: SchedulerTemplate) -> str:
    """The C after the header: the map and the values to start with."""
    rows = _rows(proposal, template)
    if not rows:
        return ""
    handles = ["others", *(c.handle for c in proposal.classes)]
    has_parameter = any(p.name == OTHERS_WEIGHT for p in template.spec.parameters)
    lines = [
        "/* Live knobs, which user space may change while the scheduler runs; each is read within its range. */",
        'u64 schedctl_knobs[NR_KNOBS] SEC(".data.schedctl_knobs") = {',
    ]
    for row in rows:
        for i, (value, said) in enumerate(zip(row.values, row.said, strict=True)):
            if not row.per_class:
                what = f"parameter {row.name} = {said}"
            elif row.name == "weight":
                what = f"{handles[i]}: weight" + (f", parameter {OTHERS_WEIGHT}" if i == 0 and has_parameter else "")
            else:
                what = f"{handles[i]}: class parameter {row.name} = {said}"
            lines.append(f"\t[{row.first + i}] = {value}ULL, /* {what} */")
    return "\n".join([*lines, "};"]) + "\n"


def _rows(proposal: Proposal, template: SchedulerTemplate) -> tuple[_Row, ...]:
    where = f"template {template.name}"
    live = [p for p in template.spec.parameters if p.live and p.name != OTHERS_WEIGHT]
    of_classes = [p for p in template.spec.class_parameters if p.live]
    if not live and not of_classes:
        return ()
    given = parameters.resolve(template.spec.parameters, proposal.parameters, where)
    weights = [int(given.get(OTHERS_WEIGHT, DEFAULT_WEIGHT)), *(c.weight for c in proposal.classes)]
    rows = [_Row("weight", 0, "", WEIGHT, tuple(weights), tuple(map(str, weights)), per_class=True)]

    def add(parameter: Parameter, values: list[parameters.Value], *, per_class: bool) -> None:
        numbers = tuple(_scaled(parameter, value) for value in values)
        said = tuple(_said(parameter, value) for value in values)
        first = rows[-1].first + len(rows[-1].values)
        rows.append(
            _Row(parameter.name, first, _UNITS[parameter.type], _range(parameter, where), numbers, said, per_class)
        )

    for parameter in live:
        add(parameter, [given[parameter.name]], per_class=False)
    chosen = [parameters.resolve(template.spec.class_parameters, {}, where)]
    for task_class in proposal.classes:
        place = f"{where}, class {task_class.handle} ({task_class.intent})"
        chosen.append(parameters.resolve(template.spec.class_parameters, task_class.parameters, place))
    for parameter in of_classes:
        add(parameter, [values[parameter.name] for values in chosen], per_class=True)
    return tuple(rows)


def _range(parameter: Parameter, where: str) -> Interval:
    low, high = parameters.bounds(parameter, where)
    numbers = None if low is None or high is None else (_scaled(parameter, low), _scaled(parameter, high))
    if parameter.type == "boolean" or numbers is None or not 0 <= numbers[0] <= numbers[1]:
        raise TemplateError(
            f"{where}: parameter {parameter.name} is live, but is no number from 0 up with minimum and maximum",
            remedy="give both ends of its range, or take `live` away",
        )
    return Interval(*numbers)


def _scaled(parameter: Parameter, value: parameters.Value) -> int:
    return round(value * 1000) if parameter.type == "percent" else int(value)


def _said(parameter: Parameter, value: parameters.Value) -> str:
    if parameter.type == "duration":
        return format_duration(int(value))
    return format_percent(float(value)) if parameter.type == "percent" else str(value)
