# SPDX-License-Identifier: Apache-2.0
"""The executor: a strategy → a proposal. It is given one template, with every range, and writes values into it.

Asked where the strategy leaves something to write: when it names neither an aim nor a hole, the filling is empty, which
is every parameter's default, and the rules say that for nothing. Its answer is checked in order: handles and names that
were given out, values of the parameter's type and range and on the side of the default that the strategy says,
expressions in the small language of controller.render, and the whole of it rendered once.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from controller.api import Parameter, PlannerRecord, Proposal
from controller.api.template import ParameterValue
from controller.errors import TemplateError
from controller.plan.claude.asking import TEXT, TEXTS, Campaign, Question, array, obj
from controller.plan.claude.refusals import Refusal, Refused
from controller.plan.prompt import Entry, Prompt, canonical, page
from controller.plan.values import Attempt as Tried
from controller.plan.values import Expression, Filling, Lessons, Strategy, Task, Value
from controller.render import holes, parameters, render, template_digest

MAX_REASONS = 8
MAX_REASON_CHARS = 300
_HANDLE = re.compile(r"\b[itw][1-9][0-9]{0,2}\b", re.ASCII)

INSTRUCTIONS = """\
You fill one template of a CPU scheduler for Linux (sched_ext, eBPF) as a strategy says. You are given the template, the
strategy (which parameters go which way from their defaults, and why), what was measured of the workloads, and what they
want. Your answer is data: it is checked, rendered to C, verified on a real kernel and measured on it.

How to answer
- parameters: one value for each aim of the whole scheduler. Values are strings written as in the template: durations
  with a unit (500us, 2ms, 1s), percentages (5%), whole numbers, true or false; within minimum and maximum, ends
  included; above the default where the aim is raise, below it where it is lower. What you leave out keeps its default.
- classes: class parameters, each for one intent handle.
- Take sizes from the figures: a slice of about twice the p99 burst lets a task finish what it woke for; a deadline is
  at most the target; a share is what was used and what the guardrail for others allows more.
- attempts are earlier fillings, lessons what to do after each: do not repeat what was rejected.
- reasons: one to five short sentences, each naming the figure it rests on, with handles for workloads and intents.
"""
LANGUAGE = """\
- expressions: one for each hole that the strategy names, in place of its default. Whole numbers from 0 to 2^63 - 1:
  decimal literals, the names of the hole, + - * / % << >> (a - b is 0 where b is larger, a / 0 is a / 1), one
  comparison (< <= > >= == !=), && || !, c ? a : b, min(a, b), max(a, b), clamp(a, low, high) and parentheses; at most
  400 characters. Over the ranges given with the names no sum, product or shift may exceed 2^63 - 1: divide before you
  multiply.
"""


NOTHING = Filling(parameters=(), classes=(), reasons=())
"""Every parameter at its default."""


def ask(campaign: Campaign, prompt: Prompt, strategy: Strategy, tried: tuple[Tried, ...], lessons: Lessons) -> Filling:
    """The model's filling, checked as far as it can be without the rest of the proposal."""
    entry = prompt.templates[strategy.template]
    mine = [attempt for attempt in tried if attempt.template == entry.handle]
    numbers = {attempt.attempt for attempt in mine}
    given = Task(
        template=entry.handle,
        aims=strategy.aims,
        holes=strategy.holes,
        workloads=tuple(w for w in prompt.workloads if w.workload in prompt.classes or w.workload == "others"),
        intents=prompt.intents,
        rules_planner=prompt.prior if prompt.prior is not None and prompt.prior.template == entry.handle else None,
        attempts=tuple(mine),
        lessons=tuple(lesson for lesson in lessons.lessons if lesson.attempt in numbers),
    )
    stable = (INSTRUCTIONS + (LANGUAGE if strategy.holes else ""), page(entry))
    question = Question("executor", stable, given, Filling, _schema(expressions=bool(strategy.holes)))
    return campaign.ask(question, lambda said: checked(said, prompt, strategy))


def by_rules(prompt: Prompt, strategy: Strategy, base: Proposal) -> Filling:
    """The rules planner's values for its own template; for another one nothing, which is its defaults."""
    entry, prior = prompt.templates[strategy.template], prompt.prior
    if prior is None or prior.template != entry.handle:
        return NOTHING
    expressions = tuple(Expression(hole=hole, expression=text) for hole, text in base.expressions.items())
    return Filling(parameters=prior.parameters, classes=prior.classes, expressions=expressions, reasons=())


def leaves_something(strategy: Strategy) -> bool:
    """Whether there is anything to write."""
    return bool(strategy.holes) or any(aim.direction != "keep" for aim in strategy.aims)


def checked(said: Filling, prompt: Prompt, strategy: Strategy) -> Filling:
    """The filling, or Refused with everything that is wrong with it."""
    wrong: list[Refusal] = []
    _values(said, prompt, strategy, wrong)
    if said.expressions and not prompt.expressions:
        wrong.append(Refusal("autonomy", ("expressions",), "autonomy"))
    else:
        _expressions(said.expressions, prompt.templates[strategy.template], strategy, wrong)
    if wrong:
        raise Refused(*wrong)
    return said


def proposal(strategy: Strategy, filling: Filling, prompt: Prompt, base: Proposal, record: PlannerRecord) -> Proposal:
    """The whole: the rules planner's classes, the strategy's template, the filling's values. Raises Refused."""
    entry = prompt.templates[strategy.template]
    wrong: list[Refusal] = []
    whole, by_class = _values(filling, prompt, strategy, wrong)
    expressions = _expressions(filling.expressions, entry, strategy, wrong)
    if wrong:
        raise Refused(*wrong)
    made = Proposal(
        template=entry.template.name,
        template_digest=template_digest(entry.template),
        parameters=whole,
        expressions=expressions,
        classes=tuple(
            base.classes[index].model_copy(update={"parameters": by_class[handle]})
            for handle, index in prompt.classes.items()
        ),
        planner=record,
        reasons=_reasons((*strategy.reasons, *filling.reasons), prompt.names),
    )
    try:
        render(made, entry.template)
    except TemplateError:
        raise Refused(Refusal("render", (entry.handle,), "fit")) from None
    return made


def _values(
    said: Filling, prompt: Prompt, strategy: Strategy, wrong: list[Refusal]
) -> tuple[dict[str, ParameterValue], dict[str, dict[str, ParameterValue]]]:
    entry = prompt.templates[strategy.template]
    sides = {(aim.intent, aim.parameter): aim.direction for aim in strategy.aims}
    whole = _chosen(said.parameters, entry.parameters, entry.handle, sides, "", wrong)
    by_class = {}
    for handle in prompt.classes:
        given = [Value(name=c.name, value=c.value) for c in said.classes if c.intent == handle]
        by_class[handle] = _chosen(given, entry.class_parameters, handle, sides, handle, wrong)
    if any(c.intent not in prompt.classes for c in said.classes):
        wrong.append(Refusal("handles", ("classes",), "oneOf", tuple(prompt.classes)))
    return whole, by_class


def _chosen(
    given: Iterable[Value],
    declared: Mapping[str, Parameter],
    where: str,
    sides: Mapping[tuple[str, str], str],
    intent: str,
    wrong: list[Refusal],
) -> dict[str, ParameterValue]:
    chosen: dict[str, ParameterValue] = {}
    for item in given:
        parameter = declared.get(item.name)
        if parameter is None:
            wrong.append(Refusal("handles", (where,), "oneOf", tuple(declared)))
        elif parameter.name in chosen:
            wrong.append(Refusal("handles", (where, item.name), "once"))
        else:
            try:
                chosen[parameter.name] = value = _typed(parameter, item.value)
            except TemplateError:
                wrong.append(Refusal("range", (where, item.name), "range", _bounds(parameter), item.value))
            else:
                if not _on_side(parameter, value, sides.get((intent, item.name), "keep")):
                    usual = canonical(parameter, parameter.default)
                    wrong.append(Refusal("strategy", (where, item.name), "side", (usual,), item.value))
    return dict(sorted(chosen.items()))


def _typed(parameter: Parameter, text: str) -> ParameterValue:
    """`text` as the parameter's wire value in its one spelling. TemplateError for another type or out of range."""
    value: ParameterValue = text
    if parameter.type == "integer" and re.fullmatch(r"-?[0-9]{1,19}", text, re.ASCII):
        value = int(text)
    elif parameter.type == "boolean":
        value = {"true": True, "false": False}.get(text, text)
    parameters.resolve((parameter,), {parameter.name: value}, "answer")
    return canonical(parameter, value) if isinstance(value, str) else value


def _on_side(parameter: Parameter, value: ParameterValue, direction: str) -> bool:
    """The default itself is on either side."""
    given, usual = (parameters.number(parameter, v, "answer") for v in (value, parameter.default))
    return given >= usual if direction == "raise" else given <= usual if direction == "lower" else True


def _bounds(parameter: Parameter) -> tuple[str, ...]:
    low = "" if parameter.minimum is None else canonical(parameter, parameter.minimum)
    high = "" if parameter.maximum is None else canonical(parameter, parameter.maximum)
    return (parameter.type, low, high)


def _expressions(given: Sequence[Expression], entry: Entry, strategy: Strategy, wrong: list[Refusal]) -> dict[str, str]:
    filled: dict[str, str] = {}
    for item in given:
        hole = entry.holes.get(item.hole)
        if hole is None or hole.name in filled or hole.name not in strategy.holes:
            wrong.append(Refusal("handles", (entry.handle, "expressions"), "oneOf", strategy.holes))
            continue
        try:
            holes.check(entry.template, hole, item.expression)
        except TemplateError:
            wrong.append(Refusal("expression", (entry.handle, hole.name), "language", tuple(hole.names)))
        else:
            filled[hole.name] = " ".join(item.expression.split())
    return filled


def _reasons(said: Sequence[str], names: Mapping[str, str]) -> tuple[str, ...]:
    """Sentences for people: one line each, bounded, no control or format characters, handles by what they stand for."""
    shown = (_HANDLE.sub(lambda m: names.get(m[0], m[0]), _printable(text)[:MAX_REASON_CHARS]) for text in said)
    cleaned = (_printable(text)[: 2 * MAX_REASON_CHARS] for text in shown)
    return tuple(text for text in cleaned if text)[:MAX_REASONS]


def _printable(text: str) -> str:
    """Unicode's C categories (control, format, surrogate, unassigned) gone, white space to single blanks."""
    spaced = "".join(" " if c.isspace() else c for c in text)
    return " ".join("".join(c for c in spaced if not unicodedata.category(c).startswith("C")).split())


def _schema(*, expressions: bool) -> dict[str, object]:
    properties: dict[str, object] = {
        "parameters": array(name=TEXT, value=TEXT),
        "classes": array(intent=TEXT, name=TEXT, value=TEXT),
    }
    if expressions:
        properties["expressions"] = array(hole=TEXT, expression=TEXT)
    return obj(properties | {"reasons": TEXTS})


def texts() -> Sequence[str]:
    """Our own texts in its requests."""
    return (INSTRUCTIONS, INSTRUCTIONS + LANGUAGE)
