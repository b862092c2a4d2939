# SPDX-License-Identifier: Apache-2.0
"""Tape: what was asked of a model and what came back, as data that takes the model's place later.

While a tape is `opened`, every exchange with a transport goes on it, the Messages API's and the file bridge's alike;
one that is playing answers in the transport's place, and a question that is not the recorded one is said to differ.
What the clock said goes on it too: how long answers took decides where a plan gives up, and a replay takes no time. The
key is on no tape: it is no part of a request. A tape belongs to the thread that opened it.

A tape that is played may come from anybody, so all that it holds has a type here, and is held to it when it is read.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from controller.api import ApiModel, PlanCost
from controller.errors import InputError, SchedctlError
from controller.plan import messages
from controller.plan.ledger import Usage, cost
from controller.plan.messages import Reply, Settings

if TYPE_CHECKING:
    from controller.plan.transport import Transport


class Failure(ApiModel):
    """A call that gave no answer, as messages.CallFailed tells it."""

    message: Annotated[str, Field(max_length=1024)]
    transient: bool = False
    free: bool = False
    retry_after_s: float = 0


Count = Annotated[int, Field(strict=True, ge=0, le=messages.MAX_TOKENS_COUNTED)]


class Tokens(ApiModel):
    """As ledger.Usage."""

    input: Count
    output: Count
    cached: Count = 0
    written: Count = 0

    def usage(self) -> Usage:
        """The same as the ledger takes it."""
        return Usage(self.input, self.output, self.cached, self.written)


class Answer(ApiModel):
    """As messages.Reply."""

    text: str
    stop_reason: str
    usage: Tokens | None = None
    request_id: str

    def reply(self) -> Reply:
        """The same as a transport gives it."""
        return Reply(self.text, self.stop_reason, self.usage.usage() if self.usage else None, self.request_id)


class Exchange(ApiModel):
    """One request, and its reply or why there was none."""

    request: dict[str, Any]
    reply: Answer | None = None
    failure: Failure | None = None

    @model_validator(mode="after")
    def _ended(self) -> Exchange:
        if (self.reply is None) == (self.failure is None):
            raise ValueError("an exchange has either a reply or a failure")
        return self


class TapeDiffers(SchedctlError):
    """A planner asked something else than what was recorded."""


class Asked(ApiModel):
    """Who there was to ask: whether there was a key, the model that was pinned, and why nobody could be asked, with the
    remedy.

    `given`: a transport was, and what it said of itself.
    """

    keyed: bool = False
    model: str = ""
    trouble: str = ""
    remedy: str = ""
    given: bool = False
    billed: bool = True
    patience_s: float | None = None


class Contents(ApiModel):
    """What a tape holds. `clock`: each reading of it, in order; None: recorded before there were readings on tapes."""

    asked: Asked | None = None
    exchanges: tuple[Exchange, ...]
    clock: tuple[Annotated[float, Field(strict=True, ge=0)], ...] | None = None


class Tape:
    """The exchanges of one campaign. One that is made of what was `recorded` plays: it answers them in their order."""

    def __init__(self, recorded: Contents | None = None) -> None:
        self.playing = recorded is not None
        recorded = recorded or Contents(exchanges=(), clock=())
        self.exchanges = list(recorded.exchanges)
        self.asked = recorded.asked
        self.clock = list(recorded.clock) if recorded.clock is not None else None
        self._at = 0
        self._readings = 0

    def contents(self) -> Contents:
        """What it holds now."""
        clock = tuple(self.clock) if self.clock is not None else None
        return Contents(asked=self.asked, exchanges=tuple(self.exchanges), clock=clock)

    def note(self, request: Mapping[str, Any], reply: Reply | None, failure: Failure | None) -> None:
        """Keep an exchange."""
        plain = json.loads(json.dumps(dict(request)))
        answer = Answer.model_validate(dataclasses.asdict(reply)) if reply is not None else None
        self.exchanges.append(Exchange(request=plain, reply=answer, failure=failure))

    def next(self, request: Mapping[str, Any]) -> Exchange:
        """The recorded answer to `request`. TapeDiffers when another one was recorded, or none."""
        if self._at == len(self.exchanges):
            told = f"request {self._at + 1} of the model was never recorded"
            raise TapeDiffers(told if self.clock is not None else f"{told}; {_NO_CLOCK}")
        found, self._at = self.exchanges[self._at], self._at + 1
        place = first_difference(found.request, json.loads(json.dumps(dict(request))))
        if place is not None:
            raise TapeDiffers(f"request {self._at} of the model is not the recorded one: {place}")
        return found

    def tick(self, elapsed_s: float) -> float:
        """A reading of the clock: `elapsed_s`, which is noted, or what it said then. TapeDiffers past the last one.

        Where no readings were recorded time stands still: a wait that was made then is made again, and a plan that gave
        up because its time was over asks for what was never recorded.
        """
        if self.clock is None:
            return 0.0
        if not self.playing:
            self.clock.append(elapsed_s)
            return elapsed_s
        if self._readings == len(self.clock):
            raise TapeDiffers("the plan goes on where the recorded one had ended")
        self._readings += 1
        return self.clock[self._readings - 1]

    def unasked(self) -> int:
        """Recorded exchanges that nobody has asked for yet."""
        return len(self.exchanges) - self._at if self.playing else 0


_NO_CLOCK = "the bundle does not say how long anything took, so an end for want of time cannot be made again"

_current: ContextVar[Tape | None] = ContextVar("tape", default=None)


def current() -> Tape | None:
    """The tape that is open here."""
    return _current.get()


@contextmanager
def opened(tape: Tape) -> Iterator[Tape]:
    """Everything asked of a model inside is noted on `tape`, or answered from it when it is playing."""
    token = _current.set(tape)
    try:
        yield tape
    finally:
        _current.reset(token)


class Clock:
    """How long a plan has been going on, since this was made; by the open tape when it plays, and then nobody waits."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def read(self) -> float:
        """Seconds, to the millisecond: what is decided by them is decided by what the tape holds."""
        elapsed_s = round(time.monotonic() - self._began, 3)
        tape = current()
        return elapsed_s if tape is None else tape.tick(elapsed_s)

    def wait(self, seconds: float) -> None:
        """Let so much time go by."""
        tape = current()
        if tape is None or not tape.playing:
            time.sleep(seconds)


def exchange(by: Transport, role: str, request: Mapping[str, Any], timeout_s: float) -> Reply:
    """What `by` answers, with the exchange on the open tape, or the answer from it when it plays. Raises CallFailed."""
    tape = current()
    if tape is None:
        return by.send(role, request, timeout_s)
    if tape.playing:
        return _played(tape.next(request))
    try:
        reply = by.send(role, request, timeout_s)
    except messages.CallFailed as failed:
        free = failed.free and by.billed  # what nobody bills us for has a cost that is not known
        told = Failure(
            message=failed.message, transient=failed.transient, free=free, retry_after_s=failed.retry_after_s
        )
        tape.note(request, None, told)
        raise
    tape.note(request, reply, None)
    return reply


def _played(found: Exchange) -> Reply:
    failure = found.failure
    if failure is not None:
        raise messages.CallFailed(
            failure.message, transient=failure.transient, free=failure.free, retry_after_s=failure.retry_after_s
        )  # fmt: skip
    assert found.reply is not None
    return found.reply.reply()


def settings(ask: Callable[[], Settings | None]) -> Settings | None:
    """What `ask` (messages.Settings.from_environment) gives, noted on the open tape, or as it was when it plays."""
    tape = current()
    if tape is None:
        return ask()
    if not tape.playing:
        try:
            found = ask()
        except InputError as error:
            tape.asked = Asked(trouble=error.message, remedy=error.remedy)
            raise
        tape.asked = Asked(keyed=found is not None, model=found.model if found is not None else "")
        return found
    was = tape.asked or Asked()
    if was.trouble:
        raise InputError(was.trouble, remedy=was.remedy)
    return messages.Settings(key="replayed", model=was.model) if was.keyed else None


@dataclasses.dataclass(frozen=True)
class Recorded:
    """In the place of the transport that was given when the tape was made: the tape itself answers."""

    model: str
    billed: bool
    patience_s: float | None

    def send(self, role: str, request: Mapping[str, Any], timeout_s: float) -> Reply:  # noqa: ARG002 - a Transport's
        """Nobody is there."""
        raise TapeDiffers("a question was asked that no tape answered")


def transport(given: Transport | None) -> Transport | None:
    """`given`, noted on the open tape; from one that plays, who was given then."""
    tape = current()
    if tape is None:
        return given
    if tape.playing:
        was = tape.asked or Asked()
        return Recorded(was.model, was.billed, was.patience_s) if was.given else None
    if given is not None:
        tape.asked = Asked(given=True, model=given.model, billed=given.billed, patience_s=given.patience_s)
    return given


def cost_of(exchanges: Sequence[Exchange]) -> PlanCost:
    """What they cost by the dated prices; unknown as soon as the bill of one of them is."""
    total = 0.0
    for one in exchanges:
        usd = _usd(one)
        if usd is None:
            return PlanCost(calls=len(exchanges), usd=None)
        total += usd
    return PlanCost(calls=len(exchanges), usd=round(total, 9))


def _usd(exchange: Exchange) -> float | None:
    if exchange.failure is not None:
        return 0.0 if exchange.failure.free else None
    usage = exchange.reply.usage if exchange.reply is not None else None
    return cost(str(exchange.request.get("model")), usage.usage()) if usage is not None else None


def first_difference(one: Any, other: Any, place: str = "") -> str | None:
    """Where two plain values differ first, in words; None when they are equal."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            inside = f"{place}.{key}" if place else str(key)
            if key not in one or key not in other:
                return f"{inside} is {'not there' if key not in other else 'new'}"
            found = first_difference(one[key], other[key], inside)
            if found is not None:
                return found
        return None
    if isinstance(one, list) and isinstance(other, list):
        for index, (left, right) in enumerate(zip(one, other, strict=False)):
            found = first_difference(left, right, f"{place}[{index}]")
            if found is not None:
                return found
        return None if len(one) == len(other) else f"{place} has {len(other)} items, {len(one)} were recorded"
    if type(one) is type(other) and one == other:
        return None
    return f"{place or 'the value'} is {_short(other)}, {_short(one)} was recorded"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"
