# SPDX-License-Identifier: Apache-2.0
"""The planner role filled by a model: one question, an answer that is only data, and every way out is a sentence.

The rules planner has made a proposal before the model is asked. Its classes (which tasks, by what match, in what
order) are kept as they are; the model chooses template, parameters, class parameters and, where the policy's autonomy
allows it, expressions. What it says is checked in order: JSON of the asked shape, handles that were given out, values
of the parameter's type and range, expressions in the small language of controller.render, and the whole of it rendered
once. An answer that fails goes back as stage, field and bound, at most `budget.attempts` times. Every request is
accounted in the ledger before it leaves.
"""

from __future__ import annotations

import json
import re
import time
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from controller.api import (
    Parameter,
    PlannerRecord,
    Proposal,
    SchedulerPolicy,
    SchedulerTemplate,
    SchedulingIntent,
    WorkloadProfile,
    sha256,
)
from controller.api.template import ParameterValue
from controller.errors import SchedctlError, TemplateError
from controller.plan import messages
from controller.plan.ledger import (
    MAX_PROMPT_TOKENS,
    PRICES,
    Ledger,
    LedgerUnusable,
    OverBudget,
    cost,
    most,
)
from controller.plan.messages import CallFailed, Reply, Settings
from controller.plan.prompt import Entry, Prompt, build, canonical
from controller.render import holes, parameters, render, template_digest

DEADLINE_S = 180.0
"""For one plan: all attempts, waits and retries."""
MAX_TOKENS = 8192
"""Thinking counts as output; an answer alone takes a few hundred."""
EFFORT = "medium"
RETRIES = 2
"""Further requests after an overload, rate limit or broken connection, over the whole plan."""
MAX_REASONS = 8
MAX_REASON_CHARS = 300
_HANDLE = re.compile(r"\b[itw][1-9][0-9]{0,2}\b", re.ASCII)
_PLAIN = re.compile(r"[0-9A-Za-z.%+-]{1,24}", re.ASCII)


class NoAnswer(SchedctlError):
    """The model made no usable proposal. The message says why, in our words, and may be stored."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Text = Annotated[str, Field(max_length=400)]


class _Value(_Strict):
    name: Text
    value: Text


class _ClassValue(_Strict):
    intent: Text
    name: Text
    value: Text


class _Expression(_Strict):
    hole: Text
    expression: Text


class _Answer(_Strict):
    template: Text
    parameters: Annotated[tuple[_Value, ...], Field(max_length=64)]
    classes: Annotated[tuple[_ClassValue, ...], Field(max_length=4096)]
    expressions: Annotated[tuple[_Expression, ...], Field(max_length=16)] = ()
    reasons: Annotated[tuple[Annotated[str, Field(max_length=4000)], ...], Field(max_length=32)]


@dataclass(frozen=True)
class Refusal:
    """Why an answer was not taken: which check, which field (in handles), and what would be taken. Ours, sent back."""

    stage: str
    field: str
    bound: str
    given: str = ""

    def shown(self) -> dict[str, str]:
        """As it goes into the next request. The model's own text goes back only if it can be a plain value."""
        said = {"stage": self.stage, "field": self.field, "bound": self.bound}
        return said | ({"given": self.given} if _PLAIN.fullmatch(self.given) else {})


class _Refused(Exception):
    def __init__(self, *refusals: Refusal) -> None:
        super().__init__(refusals)
        self.refusals = refusals


def propose(
    profile: WorkloadProfile,
    intents: Sequence[SchedulingIntent],
    policy: SchedulerPolicy,
    templates: Sequence[SchedulerTemplate],
    base: Proposal,
    settings: Settings,
    *,
    ledger: Ledger | None = None,
    deadline_s: float = DEADLINE_S,
) -> Proposal:
    """`base` (the rules planner's proposal) with the model's choices in place of its own. Raises NoAnswer.

    `templates` are those the policy allows. Returns or raises within `deadline_s`.
    """
    planner = policy.spec.planner
    expressions = planner.autonomy != "parameters"
    prompt = build(profile, intents, templates, base, expressions=expressions)
    if not prompt.templates:
        raise NoAnswer("no allowed template is sound and made for this kernel")
    campaign = _Campaign(policy, settings, ledger or Ledger(), time.monotonic() + deadline_s)
    refusals: tuple[Refusal, ...] = ()
    for _attempt in range(planner.budget.attempts):
        reply = campaign.ask(_request(prompt, settings.model, refusals))
        try:
            return _proposal(_answer(reply.text), prompt, base, settings.model, expressions=expressions)
        except _Refused as refused:
            refusals = refused.refusals
    fields = ", ".join(sorted({f"{r.stage} of {r.field}" for r in refusals})[:4])
    raise NoAnswer(f"{planner.budget.attempts} answers were refused, the last by: {fields}")


def _request(prompt: Prompt, model: str, refusals: Sequence[Refusal]) -> dict[str, Any]:
    """The arguments of `messages.create`; what stays the same comes first, for the prompt cache."""
    content: list[dict[str, Any]] = [{"type": "text", "text": prompt.findings}]
    if refusals:
        said = json.dumps([r.shown() for r in refusals[:16]], separators=(",", ":"))
        content.append({"type": "text", "text": "Your last answer was refused. Mend this and answer again:\n" + said})
    output: dict[str, Any] = {"format": {"type": "json_schema", "schema": prompt.schema}}
    if model in PRICES and PRICES[model].effort:
        output["effort"] = EFFORT
    return {
        "model": model,
        "max_tokens": MAX_TOKENS,
        "system": [{"type": "text", "text": prompt.system, "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": content}],
        "output_config": output,
    }


class _Campaign:
    """The requests of one plan: their deadline, their retries and their place in the ledger."""

    def __init__(self, policy: SchedulerPolicy, settings: Settings, ledger: Ledger, deadline: float) -> None:
        self._policy = policy.name
        self._limit = policy.spec.planner.budget.usd_per_day
        self._settings = settings
        self._ledger = ledger
        self._deadline = deadline
        self._retries = RETRIES

    def ask(self, request: dict[str, Any]) -> Reply:
        """A whole answer, after as many tries as retries and deadline allow. Raises NoAnswer."""
        while True:
            try:
                reply = self._accounted(request)
                break
            except CallFailed as failure:
                self._wait_or_give_up(failure)
        if reply.stop_reason == "refusal":
            raise NoAnswer("the model refused to answer")
        if reply.stop_reason != "end_turn":
            reason = reply.stop_reason if reply.stop_reason in _STOPS else "another reason"
            raise NoAnswer(f"the answer is not whole: the model stopped for {reason}")
        return reply

    def _wait_or_give_up(self, failure: CallFailed) -> None:
        wait = failure.retry_after_s or 0.5 * 2 ** (RETRIES - self._retries)
        if not failure.transient or self._retries == 0:
            raise NoAnswer(failure.message) from None
        if time.monotonic() + wait >= self._deadline:
            raise NoAnswer(f"{failure.message}, longer than this plan may take") from None
        self._retries -= 1
        time.sleep(wait)

    def _accounted(self, request: dict[str, Any]) -> Reply:
        model = self._settings.model
        body = json.dumps(request, separators=(",", ":")).encode()
        if len(body) >= MAX_PROMPT_TOKENS:
            raise NoAnswer(f"the question takes {len(body)} bytes, and {MAX_PROMPT_TOKENS} are the most")
        estimate = most(model, len(body), MAX_TOKENS)
        if estimate is None:
            raise NoAnswer(f"what model {model} costs is unknown, so a budget in dollars cannot cover it")
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise NoAnswer("the time for this plan is over")
        about = {"role": "planner", "model": model, "promptBytes": len(body), "prompt": sha256(body)}
        try:
            call = self._ledger.reserve(policy=self._policy, limit_usd=self._limit, estimate_usd=estimate, about=about)
            return self._settled(call, request, left)
        except (OverBudget, LedgerUnusable) as error:
            raise NoAnswer(str(error)) from error

    def _settled(self, call: str, request: Mapping[str, Any], timeout_s: float) -> Reply:
        try:
            reply = messages.send(self._settings, request, timeout_s)
        except CallFailed as failure:
            self._ledger.settle(call, "failed", 0.0 if failure.free else None, {"failure": failure.message})
            raise
        used = reply.usage
        usd = None if used is None else cost(self._settings.model, used)
        bill = {} if used is None else {"tokens": vars(used)}
        said = {"requestId": reply.request_id, "answer": sha256(reply.text.encode("utf-8", "surrogatepass"))}
        self._ledger.settle(call, "answered", usd, bill | said)
        return reply


_STOPS = frozenset({"max_tokens", "stop_sequence", "tool_use", "pause_turn", "model_context_window_exceeded"})


def _answer(text: str) -> _Answer:
    if len(text) > messages.MAX_ANSWER_CHARS:
        raise _Refused(Refusal("schema", "answer", f"at most {messages.MAX_ANSWER_CHARS} characters"))
    try:
        return _Answer.model_validate_json(text.encode("utf-8", "surrogatepass"))
    except ValidationError as error:
        raise _Refused(*(_field_refusal(e["loc"], e["type"]) for e in error.errors()[:8])) from None


def _field_refusal(place: tuple[int | str, ...], kind: str) -> Refusal:
    """pydantic's place and kind of error. A field the model invented is its text, so its name is not repeated."""
    known = _Answer.model_fields.keys() | _ClassValue.model_fields.keys() | _Expression.model_fields.keys()
    field = ".".join(str(part) if isinstance(part, int) or part in known else "?" for part in place) or "answer"
    return Refusal("schema", field, f"one JSON object of the given schema, not: {kind}")


def _proposal(answer: _Answer, prompt: Prompt, base: Proposal, model: str, *, expressions: bool) -> Proposal:
    """The answer as a proposal, or _Refused with everything that is wrong with it."""
    entry = prompt.templates.get(answer.template)
    if entry is None:
        raise _Refused(Refusal("handles", "template", f"one of {', '.join(prompt.templates)}"))
    wrong: list[Refusal] = []
    whole = _checked(answer.parameters, entry.parameters, entry.handle, wrong)
    classes = []
    for handle, index in prompt.classes.items():
        given = [_Value(name=c.name, value=c.value) for c in answer.classes if c.intent == handle]
        chosen = _checked(given, entry.class_parameters, handle, wrong)
        classes.append(base.classes[index].model_copy(update={"parameters": chosen}))
    if any(c.intent not in prompt.classes for c in answer.classes):
        wrong.append(Refusal("handles", "classes", f"intents {', '.join(prompt.classes)}"))
    filled = _holes(answer.expressions, entry, wrong) if expressions else {}
    if answer.expressions and not expressions:
        wrong.append(Refusal("autonomy", "expressions", "none: the policy allows parameters only"))
    if wrong:
        raise _Refused(*wrong)
    proposal = Proposal(
        template=entry.template.name,
        template_digest=template_digest(entry.template),
        parameters=whole,
        expressions=filled,
        classes=tuple(classes),
        planner=PlannerRecord(name="claude", version=model),
        reasons=_reasons(answer.reasons, prompt.names),
    )
    try:
        render(proposal, entry.template)
    except TemplateError:
        raise _Refused(Refusal("render", entry.handle, "values and expressions that fit together")) from None
    return proposal


def _checked(
    given: Sequence[_Value], declared: Mapping[str, Parameter], where: str, wrong: list[Refusal]
) -> dict[str, ParameterValue]:
    chosen: dict[str, ParameterValue] = {}
    for item in given:
        parameter = declared.get(item.name)
        if parameter is None:
            wrong.append(Refusal("handles", where, f"parameters {', '.join(declared) or 'none'}"))
        elif parameter.name in chosen:
            wrong.append(Refusal("handles", f"{where}.{item.name}", "each parameter once"))
        else:
            try:
                chosen[parameter.name] = _typed(parameter, item.value)
            except TemplateError:
                wrong.append(Refusal("range", f"{where}.{item.name}", _bound(parameter), item.value))
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


def _bound(parameter: Parameter) -> str:
    low = "" if parameter.minimum is None else canonical(parameter, parameter.minimum)
    high = "" if parameter.maximum is None else canonical(parameter, parameter.maximum)
    return f"a {parameter.type} in {low}..{high}, written as {canonical(parameter, parameter.default)}"


def _holes(given: Sequence[_Expression], entry: Entry, wrong: list[Refusal]) -> dict[str, str]:
    filled: dict[str, str] = {}
    for item in given:
        hole = entry.holes.get(item.hole)
        if hole is None or hole.name in filled:
            wrong.append(Refusal("handles", f"{entry.handle}.expressions", f"once each: {', '.join(entry.holes)}"))
            continue
        try:
            holes.check(entry.template, hole, item.expression)
        except TemplateError:
            bound = f"the expression language over {', '.join(hole.names)}, whose ranges must not overflow 63 bits"
            wrong.append(Refusal("expression", f"{entry.handle}.{hole.name}", bound))
        else:
            filled[hole.name] = " ".join(item.expression.split())
    return dict(sorted(filled.items()))


def _reasons(said: Sequence[str], names: Mapping[str, str]) -> tuple[str, ...]:
    """Sentences for people: one line each, bounded, no control or format characters, handles by what they stand for."""
    shown = (_HANDLE.sub(lambda m: names.get(m[0], m[0]), _printable(text)[:MAX_REASON_CHARS]) for text in said)
    cleaned = (_printable(text)[: 2 * MAX_REASON_CHARS] for text in shown)
    return tuple(text for text in cleaned if text)[:MAX_REASONS]


def _printable(text: str) -> str:
    """Unicode's C categories (control, format, surrogate, unassigned) gone, white space to single blanks."""
    spaced = "".join(" " if c.isspace() else c for c in text)
    return " ".join("".join(c for c in spaced if not unicodedata.category(c).startswith("C")).split())
