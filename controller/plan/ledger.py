# SPDX-License-Identifier: Apache-2.0
"""What planning costs: dated prices, and a ledger in which no call can be lost.

The ledger is one JSON-lines file in the state folder. Each request to the Messages API has a line written and fsynced
BEFORE it is sent, with the most it can cost, and a line after, with what it did cost; a process killed between the two
leaves the first, which then counts in full. Reading today's spend, comparing it with the policy's budget and writing
the first line happen under one file lock, so two planners on one machine cannot spend the same dollar. The budget is
per policy and day (UTC). A third line says whether the answer was taken, which is what the choice of a model learns
from. Neither key nor prompt nor answer is ever written: only their sizes and digests.

A cost that is not known is `null`, never 0: the estimate then counts against the budget. What comes over the file
bridge costs this account nothing that could be known here: it has the estimate 0 and the cost `null`.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from controller.errors import SchedctlError
from controller.paths import state_dir

PRICES_AS_OF = "2026-10-16"
"""The day on which the table below was compared with the published prices."""
_MTOK = 1_000_000
_MOST_USD = 1e12
"""More than any call costs: whole numbers of a line that somebody else wrote may be beyond what a float can hold."""
JUDGED = 100
"""What a model was like longer ago says little: it and the prompts have changed since."""


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens, for prompts up to MAX_PROMPT_TOKENS. `effort`: the model takes that setting."""

    input: float
    cache_write: float
    cache_read: float
    output: float
    effort: bool = True


MAX_PROMPT_TOKENS = 100_000
"""Above this some models have other prices; the planner never sends that much."""

PRICES = {
    "claude-haiku-5-5": Price(0.10, 0.125, 0.01, 0.50),
    "claude-haiku-4-5": Price(1.00, 1.25, 0.10, 5.00, effort=False),
    "claude-sonnet-5-5": Price(2.00, 2.50, 0.10, 10.00),
    "claude-sonnet-5": Price(2.00, 2.50, 0.20, 10.00),
    "claude-opus-5-5": Price(4.00, 5.00, 0.20, 20.00),
    "claude-opus-5": Price(5.00, 6.25, 0.50, 25.00),
    "claude-fable-5-1": Price(10.00, 12.50, 0.25, 50.00),
}


@dataclass(frozen=True)
class Usage:
    """Tokens of one call, by kind; `cached` were read from the prompt cache, `written` written to it."""

    input: int
    output: int
    cached: int = 0
    written: int = 0


class OverBudget(SchedctlError):
    """The call was not made: the policy's budget does not cover the most it could cost."""


class LedgerUnusable(SchedctlError):
    """The ledger cannot be read or written, so a call could not be accounted for and is not made."""


def cost(model: str, usage: Usage) -> float | None:
    """US dollars, or None: unknown. An unknown price is never 0."""
    price = PRICES.get(model)
    if price is None:
        return None
    dear = usage.input * price.input + usage.output * price.output
    return (dear + usage.cached * price.cache_read + usage.written * price.cache_write) / _MTOK


def most(model: str, prompt_bytes: int, max_tokens: int) -> float | None:
    """The most a call can cost: a token is at least one byte, and all of the prompt may be written to the cache."""
    return cost(model, Usage(input=0, written=prompt_bytes, output=max_tokens))


@dataclass(frozen=True)
class Call:
    """One call as the ledger has it. `usd` None: unknown; `outcome` "": it never ended, as when the process was killed.

    `accepted` is None where no answer was judged.
    """

    call: str
    at: str
    policy: str
    role: str
    model: str
    estimate_usd: float
    outcome: str = ""
    usd: float | None = None
    tokens: Usage | None = None
    request_id: str = ""
    accepted: bool | None = None

    @property
    def counted_usd(self) -> float:
        """What it takes of the budget."""
        return self.estimate_usd if self.usd is None else self.usd


class Ledger:
    """The file of `state_dir()`; made with mode 0600 by the first call."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path if path is not None else state_dir() / "planner-ledger.jsonl"

    def spent(self, policy: str, day: str) -> float:
        """US dollars that calls of `day` (YYYY-MM-DD, UTC) under `policy` cost; at most, where that is not known."""
        return _spent(self._text(), policy, day)

    def calls(self, day: str = "") -> tuple[Call, ...]:
        """The calls of `day` (YYYY-MM-DD, UTC) or of all days, in order."""
        return tuple(call for call in _calls(self._text()) if call.at.startswith(day))

    def judged(self, role: str) -> dict[str, tuple[int, int]]:
        """By model: how many of the newest JUDGED answers to `role` were accepted and how many refused."""
        found: dict[str, tuple[int, int]] = {}
        for call in [c for c in self.calls() if c.role == role and c.accepted is not None][-JUDGED:]:
            good, bad = found.get(call.model, (0, 0))
            found[call.model] = (good + (call.accepted is True), bad + (call.accepted is False))
        return found

    def judge(self, call: str, *, accepted: bool) -> None:
        """Write whether the call's answer was taken."""
        with self._locked() as descriptor:
            _append(descriptor, {"call": call, "phase": "judged", "accepted": accepted})

    def reserve(self, *, policy: str, limit_usd: float, estimate_usd: float, about: dict[str, Any]) -> str:
        """Write the line before a call and return the call's id. Raises OverBudget, LedgerUnusable.

        `about` is what else the line says: role, model, digests, sizes.
        """
        at = datetime.now(UTC)
        with self._locked() as descriptor:
            spent = _spent(self._text(), policy, at.strftime("%Y-%m-%d"))
            if spent + estimate_usd > limit_usd:
                raise OverBudget(
                    f"the next call may cost ${estimate_usd:.4f} and ${spent:.4f} of today's ${limit_usd:.2f} are spent"
                )
            call = f"{at:%Y%m%dT%H%M%S}-{secrets.token_hex(6)}"
            line = {"call": call, "phase": "before", "at": _stamp(at), "policy": policy, "estimateUsd": estimate_usd}
            _append(descriptor, line | about)
        return call

    def settle(
        self, call: str, outcome: Literal["answered", "failed"], usd: float | None, about: dict[str, Any]
    ) -> None:
        """Write the line after a call; `usd` None leaves the estimate standing, for a bill that is not known."""
        line = {"call": call, "phase": "after", "at": _stamp(datetime.now(UTC)), "outcome": outcome, "usd": usd}
        with self._locked() as descriptor:
            _append(descriptor, line | about)

    def _text(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        except OSError as error:
            raise _unusable(self.path, error) from error

    @contextmanager
    def _locked(self) -> Iterator[int]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(self.path, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        except OSError as error:
            raise _unusable(self.path, error) from error
        finally:
            os.close(descriptor)


def _unusable(path: Path, error: OSError) -> LedgerUnusable:
    return LedgerUnusable(f"the ledger {path} cannot be used: {error.strerror}", remedy="free or mend its folder")


def _append(descriptor: int, line: dict[str, Any]) -> None:
    """One line in one write, on disk before this returns. A line torn by an earlier kill is closed first."""
    text = json.dumps(line, sort_keys=True, separators=(",", ":")) + "\n"
    size = os.fstat(descriptor).st_size
    torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
    data = ("\n" + text if torn else text).encode()
    if os.write(descriptor, data) != len(data):
        raise OSError(28, "the disk is full")
    os.fsync(descriptor)


def _spent(text: str, policy: str, day: str) -> float:
    return sum(c.counted_usd for c in _calls(text) if c.policy == policy and c.at.startswith(day))


def _calls(text: str) -> Iterable[Call]:
    """A torn line counts nothing: torn before a call, the call was never made; torn after, its estimate stands."""
    calls: dict[str, Call] = {}
    for line in map(_parsed, text.split("\n")):
        call = str(line.get("call", ""))
        if line.get("phase") == "before":
            at, policy, role, model = (str(line.get(name, "")) for name in ("at", "policy", "role", "model"))
            calls[call] = Call(call, at, policy, role, model, _dollars(line.get("estimateUsd")))
        elif call in calls and line.get("phase") == "after":
            usd = None if line.get("usd") is None else _dollars(line["usd"])
            calls[call] = replace(
                calls[call],
                outcome=str(line.get("outcome", "")),
                usd=usd,
                tokens=_tokens(line.get("tokens")),
                request_id=str(line.get("requestId", "")),
            )
        elif call in calls and isinstance(line.get("accepted"), bool):
            calls[call] = replace(calls[call], accepted=line["accepted"])
    return calls.values()


def _tokens(value: object) -> Usage | None:
    kinds = ("input", "output", "cached", "written")
    if not isinstance(value, dict) or not all(isinstance(value.get(kind), int) for kind in kinds):
        return None
    return Usage(**{kind: value[kind] for kind in kinds})


def _parsed(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _dollars(value: object) -> float:
    return float(min(value, _MOST_USD)) if isinstance(value, int | float) and value >= 0 else 0.0


def _stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
