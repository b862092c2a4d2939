# SPDX-License-Identifier: Apache-2.0
"""A model that means harm, scripted: each of its answers ends in a clear rejection or a safe proposal, within budget.

The real SDK asks the authored endpoint. What counts as safe is not that an answer was odd, but what came of it: a
proposal that renders, with every value in its range, every expression proven, and classes that are the rules' own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from controller.api import Proposal
from controller.plan import claude
from controller.plan.claude import NoAnswer, asking, tiers
from controller.plan.ledger import Ledger
from controller.plan.messages import Settings
from controller.plan.testing import MessagesServer, Scripted, answer, cut, refusal, slow
from controller.render import render
from tests import builders
from tests.plan import claude_case as case
from tests.plan.hostile_answers import EXECUTOR, PLANNER, TWIN


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCHEDCTL_STATE", str(tmp_path))
    monkeypatch.setattr(asking.time, "sleep", lambda seconds: None)
    return tmp_path


def plan(script: Sequence[Scripted], **planner: Any) -> tuple[Proposal | NoAnswer, MessagesServer]:
    policy = builders.policy(planner=planner)
    with MessagesServer(script) as server:
        settings = Settings(key=case.KEY, base_url=server.base_url)
        arguments = (case.profile(), case.INTENTS, policy, case.TEMPLATES, case.base(), settings)
        try:
            return claude.propose(*arguments, deadline_s=30), server
        except NoAnswer as no:
            return no, server


def assert_safe(made: Proposal) -> None:
    """It renders, which holds every value to its range and proves every expression; the classes are the rules'."""
    assert render(made, next(t for t in case.TEMPLATES if t.name == made.template)).text
    assert [c.model_copy(update={"parameters": {}}) for c in made.classes] == list(case.base().classes)
    assert all(reason.isprintable() and len(reason) <= 600 for reason in made.reasons)


def assert_within(state: Path, server: MessagesServer, usd_per_day: float = 1.0) -> None:
    """Every request is in the ledger, and what they cost at most is within the budget."""
    ledger = Ledger(state / "planner-ledger.jsonl")
    calls = ledger.calls()
    assert len(calls) == len(server.requests)
    assert sum(call.counted_usd for call in calls) <= usd_per_day


@pytest.mark.parametrize("name", PLANNER)
def test_a_planner_that_means_harm(name: str, state: Path) -> None:
    end, server = plan([answer(PLANNER[name])] * 3, budget={"attempts": 2})
    assert isinstance(end, NoAnswer)
    assert end.message.startswith("2 answers were refused, the last by: ")
    assert len(server.requests) == 2
    assert len(server.requests[1].raw) < len(server.requests[0].raw) + 2500, "what was said does not come back"
    assert b"rm -rf" not in server.requests[1].raw
    assert_within(state, server)


@pytest.mark.parametrize("name", EXECUTOR)
def test_an_executor_that_means_harm(name: str, state: Path) -> None:
    end, server = plan([answer(case.strategy()), *[answer(EXECUTOR[name])] * 3], budget={"attempts": 2})
    assert isinstance(end, NoAnswer)
    assert end.message.startswith("2 answers were refused, the last by: ")
    assert len(server.requests) == 3
    for word in (b"system(0)", b"rm -rf", b"passwd", b"7*7"):
        assert word not in server.requests[2].raw
    assert_within(state, server)


ODD_BUT_SAFE: dict[str, list[Any]] = {
    "a field twice, the last of which counts": [TWIN.replace('"t1"', f'"{case.template_handle("latency-first")}"')],
    "reasons that try the terminal": [case.strategy(reasons=["\x1b[2J\u202e" + "y" * 3900, *["x"] * 20])],
    "reasons with handles that are not there": [case.strategy(reasons=["w99 and i250 and t77 say so"])],
    "white space around it": ["  \n" + json.dumps(case.strategy()) + "\n\n"],
    "escapes for letters": [json.dumps(case.strategy()).replace("lower", "\\u006cower")],
}


@pytest.mark.parametrize("name", ODD_BUT_SAFE)
def test_what_is_odd_but_harmless_is_taken_safely_or_refused(name: str, state: Path) -> None:
    end, server = plan([answer(said) for said in ODD_BUT_SAFE[name]] + [answer(case.filling())] * 3)
    if isinstance(end, Proposal):
        assert_safe(end)
    assert_within(state, server)


def test_it_can_be_harmful_once_and_right_then(state: Path) -> None:
    wrong = [PLANNER["deep nesting"], EXECUTOR["C in an expression"]]
    script = [answer(wrong[0]), answer(case.strategy()), answer(wrong[1]), answer(case.filling())]
    end, server = plan(script)
    assert isinstance(end, Proposal)
    assert_safe(end)
    assert_within(state, server)


@pytest.mark.parametrize("attempts", [1, 3, 20])
def test_endless_refusals_end(attempts: int, state: Path) -> None:
    """Answers refused by us end with the attempts; an answer that the model refuses to give ends at once."""
    end, server = plan([answer(case.strategy(template="t99"))] * 40, budget={"attempts": attempts, "usdPerDay": 5})
    assert isinstance(end, NoAnswer)
    assert len(server.requests) <= attempts
    assert_within(state, server, 5)
    end, server = plan([refusal()] * 40, budget={"attempts": attempts})
    assert isinstance(end, NoAnswer)
    assert end.message == "the model refused to answer"
    assert len(server.requests) == 1


def test_answers_that_never_end_whole_end_with_the_budget(state: Path) -> None:
    """Each bill is at its bound: the next call is not made when the day's money does not cover it."""
    spent = 0.05
    bill = {"output_tokens": tiers.ROLES["planner"].max_tokens, "input_tokens": 3000}
    end, server = plan(
        [answer("x", stop_reason="max_tokens", **bill)] * 40, budget={"attempts": 20, "usdPerDay": spent}
    )
    assert isinstance(end, NoAnswer)
    assert "of today's $0.05 are spent" in end.message
    assert_within(state, server, spent)


def test_a_stream_without_end_is_cut_off(state: Path) -> None:
    """A megabyte of white space is valid JSON so far: it is cut off at the bound, and its estimate stands."""
    end, server = plan([answer(" " * 1_000_000 + json.dumps(case.strategy()))] * 3, budget={"attempts": 1})
    assert isinstance(end, NoAnswer)
    (after,) = case.lines(state, "after")
    assert (after["stop"], after["usd"]) == ("too_long", None)
    assert_within(state, server)


@pytest.mark.parametrize("broken", [cut(answer("x" * 3000), after=900), slow(refusal(), drip_s=0.0001)])
def test_broken_and_dripping_streams(broken: Scripted, state: Path) -> None:
    end, server = plan([broken] * 3)
    assert isinstance(end, NoAnswer)
    assert_within(state, server)


FORGED_BILLS = [
    {"output_tokens": -5},
    {"output_tokens": 10**30},
    {"output_tokens": "many"},
    {"input_tokens": 1.5},
]


@pytest.mark.parametrize("forged", FORGED_BILLS)
def test_a_forged_bill_is_no_bill(forged: dict[str, Any], state: Path) -> None:
    from controller.plan.testing import message

    body = message(json.dumps(case.strategy(aims=[], holes=[])))
    body["usage"] |= forged
    end, _ = plan([Scripted(body=json.dumps(body).encode())])
    assert isinstance(end, Proposal)
    before, after, _ = case.lines(state)
    assert after["usd"] is None
    assert Ledger(state / "planner-ledger.jsonl").spent("default", before["at"][:10]) == before["estimateUsd"] > 0
