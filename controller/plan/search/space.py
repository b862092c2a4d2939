# SPDX-License-Identifier: Apache-2.0
"""The search space of one template for one set of intents: which numbers and expressions may be changed, and how far.

It is laid around the proposal to start from (that of the rules planner): every typed parameter within the range that
the template declares, those of the class under test, and for each hole the catalogue's expressions. Not searched is

- what belongs to people, or would buy the objective with everybody else's CPU time: weights, the part kept for others;
- what is a fact of the load (how long a job is);
- parameters of the other classes, which a trial has no processes of.

Numbers are tried with two significant digits, so that a person can read what was found; durations and whole numbers
that span a factor of ten or more on a logarithmic scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from controller.api import Metric, Parameter, Proposal, SchedulerTemplate, TaskClass
from controller.api.template import ParameterValue
from controller.plan import rules
from controller.plan.search import catalogue
from controller.render import parameters as ranges

NOT_SEARCHED = frozenset({"others_weight", "others_share", "length"})
ONLY_FOR = {"deadline": Metric.WAKEUP_LATENCY, "reserve": Metric.CPU_SHARE}
"""Class parameters that mean something for classes of one metric alone."""
_WIDE = 10
Values = Mapping[str, float | str]
"""A point of the space: a number in base units, or the option chosen, by dimension."""


@dataclass(frozen=True, slots=True)
class Number:
    """A parameter with a range, in base units (nanoseconds, a fraction, a count). `handle`: of that class."""

    name: str
    parameter: Parameter
    handle: str
    low: float
    high: float
    start: float
    log: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """A boolean parameter (`true`, `false`), or a hole with expressions (`parameter` is None)."""

    name: str
    parameter: Parameter | None
    handle: str
    options: tuple[str, ...]
    start: str


@dataclass(frozen=True)
class Space:
    """All dimensions, in an order that depends on the template alone, around the proposal `base`."""

    template: SchedulerTemplate
    base: Proposal
    numbers: tuple[Number, ...]
    choices: tuple[Choice, ...]

    @property
    def dimensions(self) -> tuple[Number | Choice, ...]:
        """Numbers, then choices."""
        return (*self.numbers, *self.choices)

    def start(self) -> dict[str, float | str]:
        """The point that is `base`."""
        return {each.name: each.start for each in self.dimensions}

    def proposal(self, values: Values) -> Proposal:
        """`base` with the values of a point; where one is as at the start, what `base` says stays to the letter."""
        parameters, expressions = dict(self.base.parameters), dict(self.base.expressions)
        of_class = {c.handle: dict(c.parameters) for c in self.base.classes}
        for dimension in self.dimensions:
            value = values[dimension.name]
            if value == dimension.start:
                continue
            if dimension.parameter is None:
                hole = dimension.name.removeprefix("hole.")
                default = next(h.default for h in self.template.spec.holes if h.name == hole)
                _put(expressions, hole, str(value), default)
            else:
                target = of_class[dimension.handle] if dimension.handle else parameters
                wire = _wire(dimension.parameter, value)
                _put(target, dimension.parameter.name, wire, dimension.parameter.default)
        classes = tuple(c.model_copy(update={"parameters": of_class[c.handle]}) for c in self.base.classes)
        return self.base.model_copy(
            update={"parameters": parameters, "expressions": expressions, "classes": classes},
        )

    def changes(self, candidate: Proposal) -> tuple[str, ...]:
        """What `candidate` has otherwise than `base`: `slice = 2ms`, `c1.deadline = 4ms`, `hole.slice = turn`."""
        mine, theirs = self._said(candidate), self._said(self.base)
        return tuple(f"{name} = {mine[name]}" for name in mine if mine[name] != theirs[name])

    def _said(self, proposal: Proposal) -> dict[str, ParameterValue]:
        of_class = {c.handle: c.parameters for c in proposal.classes}
        holes = {hole.name: hole.default for hole in self.template.spec.holes}
        said: dict[str, ParameterValue] = {}
        for dimension in self.dimensions:
            if dimension.parameter is None:
                hole = dimension.name.removeprefix("hole.")
                said[dimension.name] = proposal.expressions.get(hole, holes[hole])
            else:
                given = of_class[dimension.handle] if dimension.handle else proposal.parameters
                said[dimension.name] = given.get(dimension.parameter.name, dimension.parameter.default)
        return said


def space_of(template: SchedulerTemplate, base: Proposal, *, expressions: bool) -> Space:
    """The space around `base`, a proposal that fills `template`; with `expressions` its holes belong to it."""
    numbers: list[Number] = []
    choices: list[Choice] = []
    tested = subject(base)
    declared = [(p, "", base.parameters) for p in template.spec.parameters]
    if tested is not None:
        wanted = (p for p in template.spec.class_parameters if ONLY_FOR.get(p.name, tested.metric) is tested.metric)
        declared += [(p, tested.handle, tested.parameters) for p in wanted]
    for parameter, handle, given in declared:
        if parameter.name in NOT_SEARCHED:
            continue
        name = f"{handle}.{parameter.name}" if handle else parameter.name
        where = f"template {template.name}"
        start = ranges.number(parameter, given.get(parameter.name, parameter.default), where)
        if parameter.type == "boolean":
            choices.append(Choice(name, parameter, handle, ("false", "true"), str(start).lower()))
            continue
        low, high = ranges.bounds(parameter, where)
        if low is None or high is None or not low < high:
            continue  # nobody said how far it may go
        wide = parameter.type != "percent" and 0 < low * _WIDE <= high
        numbers.append(Number(name, parameter, handle, float(low), float(high), float(start), wide))
    for hole in template.spec.holes if expressions else ():
        begin = base.expressions.get(hole.name, hole.default)
        options = tuple(dict.fromkeys((*catalogue.choices(template, hole), begin)))
        if len(options) > 1:
            choices.append(Choice(f"hole.{hole.name}", None, "", options, begin))
    return Space(template, base, tuple(numbers), tuple(choices))


def subject(proposal: Proposal) -> TaskClass | None:
    """The class that a trial of the proposal tests (verify.trial.spec): the heaviest one that can be measured."""
    measurable = [c for c in proposal.classes if c.metric is not Metric.EXTERNAL and not c.match.tgid]
    return max(measurable, key=lambda c: c.weight, default=None)


def _wire(parameter: Parameter, value: float | str) -> ParameterValue:
    if parameter.type == "boolean":
        return value == "true"
    return rules.fit(parameter, float(f"{float(value):.2g}"))


def _put(target: dict[str, ParameterValue] | dict[str, str], name: str, value: ParameterValue, default: object) -> None:
    """Set it; a default is said by leaving it out, as the rules planner does."""
    if value == default:
        target.pop(name, None)
    else:
        target[name] = value  # type: ignore[assignment]
