# SPDX-License-Identifier: Apache-2.0
"""`ask`: the one way in which any role becomes a model call.

A question is what stays the same, in blocks from the most to the least stable, each ending in a cache breakpoint (the
API takes four), and then what is new: the role's input, and after a refused answer its refusals. The schema of the
answer names templates but no intents: it is part of what is cached. Before a call the model is chosen (tiers), the
whole request passes the taint check, and the ledger takes the most that it can cost; after it the bill, and whether
the answer was taken. Refused answers are counted over all roles of a plan: at most `budget.attempts`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from controller.api import SchedulerPolicy, sha256
from controller.plan import messages, tape
from controller.plan.claude import tiers
from controller.plan.claude.refusals import MAX_SHOWN, RULES, NoAnswer, Refusal, Refused
from controller.plan.claude.tiers import ROLES, RoleName
from controller.plan.ledger import (
    MAX_PROMPT_TOKENS,
    PRICES,
    PRICES_AS_OF,
    Ledger,
    LedgerUnusable,
    OverBudget,
    cost,
    most,
)
from controller.plan.messages import CallFailed, Reply
from controller.plan.taint import Guard, Tainted
from controller.plan.transport import Transport
from controller.plan.values import Given, Said

RETRIES = 2
"""Further requests after an overload, rate limit or broken connection, over the whole plan."""
REFUSED = "Your last answer was refused. Mend this and answer again. rule says what would be taken: " + "; ".join(
    f"{rule}: {words}" for rule, words in RULES.items()
)
_PARTIAL = frozenset({"stop_sequence", "tool_use", "pause_turn", "model_context_window_exceeded"})

A = TypeVar("A", bound=Said)
T = TypeVar("T")


@dataclass(frozen=True)
class Question(Generic[A]):
    """What a role is asked. `stable`: system texts, the most stable first; `schema`: of `answer`, for the API."""

    role: RoleName
    stable: Sequence[str]
    given: Given
    answer: type[A]
    schema: Mapping[str, Any]


class Campaign:
    """The calls of one plan: their time (`within_s` from now on), retries, models and place in the ledger. `models` are
    those that answered, in order, `asking` the one that was asked last.
    """

    def __init__(
        self,
        policy: SchedulerPolicy,
        transport: Transport,
        ledger: Ledger,
        guard: Guard,
        within_s: float,
        *,
        failures: int = 0,
    ) -> None:
        self.models: list[str] = []
        self.asking = ""
        self._policy = policy.name
        self._limit = policy.spec.planner.budget.usd_per_day
        self._attempts = policy.spec.planner.budget.attempts
        self._transport = transport
        self._ledger = ledger
        self._guard = guard
        self._within_s = within_s
        self._clock = tape.Clock()
        self._failures = failures
        self._retries = RETRIES
        self._refused = 0

    def ask(self, question: Question[A], check: Callable[[A], T]) -> T:
        """What `check` makes of an answer; it raises Refused for one that is not to be taken. Raises NoAnswer."""
        refusals: tuple[Refusal, ...] = ()
        by_model: dict[str, int] = {}
        while True:
            self.asking = model = self._model(question, by_model)
            call, reply = self._whole(question.role, request(question, model, refusals), model)
            try:
                taken = check(parsed(question.answer, reply))
            except Refused as refused:
                self._judge(call, accepted=False)
                refusals = refused.refusals
                by_model[model] = by_model.get(model, 0) + 1
                self._refused += 1
                if self._refused >= self._attempts:
                    raise NoAnswer(self._given_up(refusals)) from None
            else:
                self._judge(call, accepted=True)
                self.models += [model] if model not in self.models else []
                return taken

    def _given_up(self, refusals: Sequence[Refusal]) -> str:
        places = ", ".join(sorted({str(refusal) for refusal in refusals})[:4])
        count = "1 answer was" if self._refused == 1 else f"{self._refused} answers were"
        return f"{count} refused, the last by: {places}"

    def _model(self, question: Question[A], refused: Mapping[str, int]) -> str:
        if self._transport.model:
            return self._transport.model
        size = len(json.dumps(request(question, tiers.TIERS[0].model, ()), separators=(",", ":")))
        try:
            judged = self._ledger.judged(question.role)
            left = self._limit - self._ledger.spent(self._policy, time.strftime("%Y-%m-%d", time.gmtime()))
        except LedgerUnusable as error:
            raise NoAnswer(str(error)) from error
        before = tiers.charged(question.role, self._failures, size, left, judged)
        counted = {model: before.get(model, 0) + refused.get(model, 0) for model in before.keys() | refused.keys()}
        return tiers.choose(question.role, size, left, judged, counted)

    def _whole(self, role: RoleName, asked: dict[str, Any], model: str) -> tuple[str, Reply]:
        """The call's id in the ledger and its answer, after as many tries as retries and deadline allow."""
        while True:
            try:
                call, reply = self._accounted(role, asked, model)
                break
            except CallFailed as failure:
                self._wait_or_give_up(failure)
        if reply.stop_reason == "refusal":
            raise NoAnswer("the model refused to answer")
        if reply.stop_reason not in ("end_turn", "max_tokens", messages.TOO_LONG):
            reason = reply.stop_reason if reply.stop_reason in _PARTIAL else "another reason"
            raise NoAnswer(f"the answer is not whole: the model stopped for {reason}")
        return call, reply

    def _wait_or_give_up(self, failure: CallFailed) -> None:
        wait = failure.retry_after_s or 0.5 * 2 ** (RETRIES - self._retries)
        if not failure.transient or self._retries == 0:
            raise NoAnswer(failure.message) from None
        if self._clock.read() + wait >= self._within_s:
            raise NoAnswer(f"{failure.message}, longer than this plan may take") from None
        self._retries -= 1
        self._clock.wait(wait)

    def _accounted(self, role: RoleName, asked: dict[str, Any], model: str) -> tuple[str, Reply]:
        try:
            body = self._guard.check(asked)
        except Tainted as error:
            raise NoAnswer(error.message) from None
        if len(body) >= MAX_PROMPT_TOKENS:
            raise NoAnswer(f"the question takes {len(body)} bytes, and {MAX_PROMPT_TOKENS} are the most")
        estimate = most(model, len(body), asked["max_tokens"]) if self._transport.billed else 0.0
        if estimate is None:
            raise NoAnswer(f"what model {model} costs is unknown, so a budget in dollars cannot cover it")
        left = self._within_s - self._clock.read()
        if left <= 0:
            raise NoAnswer("the time for this plan is over")
        about = {"role": role, "model": model, "promptBytes": len(body), "prompt": sha256(body), "prices": PRICES_AS_OF}
        try:
            call = self._ledger.reserve(policy=self._policy, limit_usd=self._limit, estimate_usd=estimate, about=about)
            patience = self._transport.patience_s or ROLES[role].deadline_s
            return call, self._settled(call, role, asked, model, min(left, patience))
        except (OverBudget, LedgerUnusable) as error:
            raise NoAnswer(str(error)) from error

    def _settled(self, call: str, role: RoleName, asked: Mapping[str, Any], model: str, timeout_s: float) -> Reply:
        try:
            reply = tape.exchange(self._transport, role, asked, timeout_s)
        except CallFailed as failure:
            free = failure.free and self._transport.billed
            self._ledger.settle(call, "failed", 0.0 if free else None, {"failure": failure.message})
            raise
        used = reply.usage
        usd = None if used is None else cost(model, used)
        bill = {} if used is None else {"tokens": vars(used)}
        said = {"requestId": reply.request_id, "answer": sha256(reply.text.encode("utf-8", "surrogatepass"))}
        self._ledger.settle(call, "answered", usd, bill | said | {"stop": _known_stop(reply.stop_reason)})
        return reply

    def _judge(self, call: str, *, accepted: bool) -> None:
        try:
            self._ledger.judge(call, accepted=accepted)
        except LedgerUnusable as error:
            raise NoAnswer(str(error)) from error


def request(question: Question[A], model: str, refusals: Sequence[Refusal]) -> dict[str, Any]:
    """The arguments of `messages.create`. What stays the same comes first, for the prompt cache."""
    setting = ROLES[question.role]
    content: list[dict[str, Any]] = [_cached(question.given.json_text())]
    if refusals:
        said = json.dumps([r.shown() for r in refusals[:MAX_SHOWN]], separators=(",", ":"))
        content += [{"type": "text", "text": REFUSED}, {"type": "text", "text": said}]
    output: dict[str, Any] = {"format": {"type": "json_schema", "schema": question.schema}}
    if model in PRICES and PRICES[model].effort:
        output["effort"] = setting.effort
    return {
        "model": model,
        "max_tokens": setting.max_tokens,
        "system": [_cached(text) for text in question.stable],
        "messages": [{"role": "user", "content": content}],
        "output_config": output,
    }


def _cached(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}


def parsed(answer: type[A], reply: Reply) -> A:
    """The answer as its model. Raises Refused."""
    if reply.stop_reason == "max_tokens":
        raise Refused(Refusal("schema", ("answer",), "whole"))
    if reply.stop_reason == messages.TOO_LONG or len(reply.text) > messages.MAX_ANSWER_CHARS:
        raise Refused(Refusal("schema", ("answer",), "length"))
    try:
        return answer.model_validate_json(reply.text.encode("utf-8", "surrogatepass"))
    except ValidationError as error:
        raise Refused(*(Refusal("schema", _place(answer, e["loc"]), "form") for e in error.errors()[:8])) from None


def _place(answer: type[Said], location: tuple[int | str, ...]) -> tuple[str, ...]:
    """pydantic's place. A field the model invented is its text, so its name is not repeated."""
    known = answer.model_fields.keys()
    return tuple(str(part) if isinstance(part, int) or part in known else "unknown" for part in location) or ("answer",)


def _known_stop(reason: str) -> str:
    return reason if reason in _PARTIAL | {"end_turn", "max_tokens", "refusal", messages.TOO_LONG} else "other"


def array(**properties: Any) -> dict[str, Any]:
    """The schema of a list of objects. The API enforces no ranges or lengths and takes no optional fields."""
    return {"type": "array", "items": obj(properties)}


def obj(properties: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object whose fields are all there and no others."""
    required = list(properties)
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


def one_of(words: Sequence[str]) -> dict[str, Any]:
    """The schema of one of some words."""
    return {"type": "string", "enum": list(words)}


TEXT: dict[str, Any] = {"type": "string"}
TEXTS: dict[str, Any] = {"type": "array", "items": TEXT}
NUMBER: dict[str, Any] = {"type": "integer"}
