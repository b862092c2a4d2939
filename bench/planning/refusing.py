# SPDX-License-Identifier: Apache-2.0
"""A model that never gives what it is asked for: however often it is asked, the plan ends, and within its budget.

Each way of refusing is played in each of three roles, under three numbers of attempts and two budgets. What comes
before that role in a plan is answered as the rules would, so that the plan gets there. Bills are dear: every token of
output that was allowed, and the whole prompt written to the cache.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from bench.planning.questions import SMALL, Question
from controller.api import PolicySpec, Verdict
from controller.plan import claude
from controller.plan.claude import NoAnswer, tiers
from controller.plan.drafting import Desk, Judgment
from controller.plan.ledger import Ledger, Usage
from controller.plan.messages import Reply
from controller.render import render

ROLES = ("planner", "executor", "author")
ATTEMPTS = (1, 3, 20)
BUDGETS_USD = (0.05, 1.0)
WAYS = {
    "the model declines to answer": ("", "refusal"),
    "it refuses in words": ("I am sorry, but I cannot help with that.", "end_turn"),
    "it refuses in JSON": ('{"refusal": "I cannot help with that."}', "end_turn"),
    "its answer never comes to an end": ('{"template": "t', "max_tokens"),
}
"""What is said, and why the model stopped."""
BOUNDS = ("at once", "the attempts", "the budget")
REJECTED, SAFE, OTHER = "rejected", "safe proposal", "anything else"


@dataclass
class Refusing:
    """A transport that answers as `answers` has it until `role` is asked, and then `said`, for ever."""

    answers: Mapping[str, str]
    role: str
    said: str
    stop: str
    model: str = ""
    billed: bool = True
    patience_s: float | None = None
    asked: list[str] = field(default_factory=list)

    def send(self, role: str, request: Mapping[str, Any], timeout_s: float) -> Reply:
        """Billed at its dearest."""
        assert timeout_s > 0
        self.asked.append(role)
        tokens = round(len(json.dumps(request, separators=(",", ":"))) / tiers.BYTES_PER_TOKEN)
        used = Usage(0, request["max_tokens"], written=tokens)
        said, stop = (self.said, self.stop) if role == self.role else (self.answers[role], "end_turn")
        return Reply(said, stop, used, "req_authored")


def measure(folder: Path) -> dict[str, dict[str, Any]]:
    """By way of refusing: plans, requests, how they ended and by what bound, and the dollars taken of each budget."""
    return {way: _played(folder, *said) for way, said in WAYS.items()}


def _played(folder: Path, said: str, stop: str) -> dict[str, Any]:
    ends = dict.fromkeys((REJECTED, SAFE, OTHER), 0)
    bounds = dict.fromkeys(BOUNDS, 0)
    requests: list[int] = []
    taken: dict[float, list[float]] = {budget: [] for budget in BUDGETS_USD}
    for role, attempts, budget in product(ROLES, ATTEMPTS, BUDGETS_USD):
        ledger = Ledger(folder / "refusing.jsonl")
        asker = Refusing(SMALL.answers(lacks="order" if role == "author" else ""), role, said, stop)
        end, why = ended(SMALL, asker, ledger, attempts, budget)
        ends[end] += 1
        bounds[_bound(why)] += 1
        requests.append(len(asker.asked))
        taken[budget].append(sum(call.counted_usd for call in ledger.calls()))
        ledger.path.unlink()
    return {
        "plans": len(requests), "requests": sum(requests), "most_requests_of_one": max(requests), **ends,
        "ended_by": bounds, "most_usd_of_one": {f"{budget:.2f}": max(usd) for budget, usd in taken.items()},
        "over_budget": sum(usd > budget for budget, each in taken.items() for usd in each),
    }  # fmt: skip


def unjudged(*_: object) -> Judgment:
    """What a desk makes of a draft where none comes so far."""
    return Judgment(verdict=Verdict.ERROR, summary="nobody judges here")


def ended(question: Question, asker: Refusing, ledger: Ledger, attempts: int, usd: float) -> tuple[str, str]:
    """How the plan ended, and our sentence of why an answer was not had."""
    desk = Desk(frozenset(), unjudged)
    spec = PolicySpec.model_validate(
        {"planner": {"autonomy": "template", "budget": {"usdPerDay": usd, "attempts": attempts}}}
    )
    policy = question.policy.model_copy(update={"spec": spec})
    base = question.base
    try:
        made = claude.propose(
            question.profile, question.intents, policy, question.templates, base, asker, ledger=ledger, desk=desk
        )
    except NoAnswer as no:
        return REJECTED, no.message
    template = next(t for t in question.templates if t.name == made.template)
    same = [c.model_copy(update={"parameters": {}}) for c in (*made.classes, *base.classes)]
    safe = bool(render(made, template).text) and same[: len(made.classes)] == same[len(made.classes) :]
    return (SAFE if safe and desk.draft is None else OTHER), desk.why


def _bound(why: str) -> str:
    """What ended it, from our sentence."""
    if "refused to answer" in why:
        return "at once"
    return "the budget" if "the next call may cost" in why else "the attempts"
