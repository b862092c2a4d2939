# SPDX-License-Identifier: Apache-2.0
"""The claude planner with the real SDK against an endpoint on loopback: what it takes, what it refuses, how it ends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controller.api import Proposal
from controller.plan import claude, messages
from controller.plan.claude import NoAnswer
from controller.plan.messages import Settings
from controller.plan.testing import (
    MessagesServer,
    Scripted,
    answer,
    cut,
    error,
    max_tokens,
    message,
    overloaded,
    rate_limited,
    refusal,
    slow,
)
from controller.render import render
from tests import builders
from tests.plan import claude_case as case

Ask = Callable[..., Proposal]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCHEDCTL_STATE", str(tmp_path))
    return tmp_path


@pytest.fixture
def ask(state: Path) -> Ask:
    """Plan against a server; `planner` is the policy's spec.planner."""

    def run(server: MessagesServer, *, deadline_s: float = 30, model: str = "", **planner: Any) -> Proposal:
        settings = Settings(key=case.KEY, base_url=server.base_url, model=model or messages.DEFAULT_MODEL)
        policy = builders.policy(planner=planner)
        profile = case.profile()
        return claude.propose(
            profile, case.INTENTS, policy, case.TEMPLATES, case.base(), settings, deadline_s=deadline_s
        )

    return run


def test_the_models_choices_take_the_place_of_the_rules(ask: Ask) -> None:
    chosen = case.good(expressions=[{"hole": "deadline", "expression": "min(deadline,\n 4 * burst)"}])
    with MessagesServer([answer(chosen)]) as server:
        proposal = ask(server)
    assert proposal.template == "latency-first"
    assert proposal.parameters == {"slice": "1500us"}
    assert proposal.expressions == {"deadline": "min(deadline, 4 * burst)"}
    assert [c.parameters for c in proposal.classes] == [{"deadline": "500us"}, {}]
    assert proposal.planner.name == "claude"
    assert proposal.planner.version == messages.DEFAULT_MODEL
    assert proposal.reasons == ("shop/checkout waits 4 us at p99.",)
    bare = [c.model_copy(update={"parameters": {}}) for c in proposal.classes]
    assert bare == list(case.base().classes)
    assert render(proposal, next(t for t in case.TEMPLATES if t.name == proposal.template)).text


def test_the_same_answer_gives_the_same_proposal(ask: Ask) -> None:
    with MessagesServer([answer(case.good()), answer(case.good())]) as server:
        first, second = ask(server), ask(server)
    assert first.canonical() == second.canonical()
    assert server.requests[0].body == server.requests[1].body


def test_the_request_is_one_that_the_api_takes(ask: Ask) -> None:
    with MessagesServer([answer(case.good())]) as server:
        ask(server)
    body = server.requests[0].body
    assert body["model"] == messages.DEFAULT_MODEL
    assert body["output_config"]["effort"] == claude.EFFORT
    assert body["system"][0]["cache_control"] == {"type": "ephemeral"}
    handles = body["output_config"]["format"]["schema"]["properties"]["template"]["enum"]
    assert handles == [f"t{i}" for i in range(1, len(case.TEMPLATES) + 1)]
    assert "temperature" not in body


def test_a_value_out_of_range_goes_back_with_its_bound(ask: Ask) -> None:
    wrong = case.good(parameters=[{"name": "slice", "value": "3s"}])
    with MessagesServer([answer(wrong), answer(case.good())]) as server:
        proposal = ask(server)
    assert proposal.parameters == {"slice": "1500us"}
    first, second = server.requests
    sent_again = second.body["messages"][0]["content"]
    assert sent_again[0] == first.body["messages"][0]["content"][0]
    refused = json.loads(sent_again[1]["text"].splitlines()[1])
    handle = case.template_handle("latency-first")
    assert refused == [
        {
            "stage": "range",
            "field": f"{handle}.slice",
            "bound": "a duration in 500us..20ms, written as 5ms",
            "given": "3s",
        }
    ]


WRONG: dict[str, tuple[Any, str]] = {
    "no JSON": ("I would rather talk about it.", "schema of answer"),
    "not an object": ("[]", "schema of answer"),
    "a field too many": (case.good(command="rm -rf /"), "schema of ?"),
    "a number for text": (case.good(parameters=[{"name": "slice", "value": 5}]), "schema of parameters.0.value"),
    "a megabyte": (case.good(reasons=["x" * 1_000_000]), "schema of answer"),
    "an unknown template": (case.good(template="t99"), "handles of template"),
    "a template by its name": (case.good(template="latency-first"), "handles of template"),
    "an unknown parameter": (case.good(parameters=[{"name": "speed", "value": "1ms"}]), "handles of t"),
    "a parameter twice": (case.good(parameters=[{"name": "lag", "value": "1ms"}] * 2), "handles of t"),
    "an unknown intent": (case.good(classes=[{"intent": "i9", "name": "deadline", "value": "1ms"}]), "handles of cl"),
    "no unit": (case.good(parameters=[{"name": "slice", "value": "5"}]), "range of t"),
    "below the range": (case.good(parameters=[{"name": "slice", "value": "1us"}]), "range of t"),
    "a fraction": (case.good(parameters=[{"name": "others_weight", "value": "1.5"}]), "range of t"),
    "a huge number": (case.good(parameters=[{"name": "others_weight", "value": "9" * 300}]), "range of t"),
    "an unknown hole": (case.good(expressions=[{"hole": "x", "expression": "1"}]), "handles of t"),
    "C in an expression": (
        case.good(expressions=[{"hole": "deadline", "expression": "deadline; } int x = system(0); {"}]),
        "expression of t",
    ),
    "a name of another hole": (
        case.good(expressions=[{"hole": "deadline", "expression": "ageing"}]),
        "expression of t",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_is_never_a_proposal(ask: Ask, name: str) -> None:
    value, told = WRONG[name]
    with MessagesServer([answer(value)] * 3) as server, pytest.raises(NoAnswer, match="2 answers were refused") as no:
        ask(server, budget={"attempts": 2})
    assert told in no.value.message
    assert len(server.requests) == 2
    assert "rm -rf" not in server.requests[1].raw.decode()
    assert len(server.requests[1].raw) < len(server.requests[0].raw) + 2000


def test_unicode_digits_are_no_number(ask: Ask) -> None:
    arabic = case.good(parameters=[{"name": "slice", "value": "٢ms"}])
    plain = case.good(parameters=[{"name": "slice", "value": "2ms"}])
    with MessagesServer([answer(arabic), answer(plain)]) as server:
        assert ask(server).parameters == {"slice": "2ms"}
    assert len(server.requests) == 2


def test_reasons_are_one_line_each_and_bounded(ask: Ask) -> None:
    said = ["a\x1b[31mred\u202e\u200b\n\tline", " \x00 ", "y" * 3000, *(["more"] * 20)]
    with MessagesServer([answer(case.good(reasons=said))]) as server:
        reasons = ask(server).reasons
    assert reasons[0] == "a[31mred line"
    assert reasons[1] == "y" * claude.MAX_REASON_CHARS
    assert len(reasons) == claude.MAX_REASONS


def test_autonomy_parameters_offers_no_expressions_and_takes_none(ask: Ask) -> None:
    filled = case.good(expressions=[{"hole": "deadline", "expression": "deadline"}])
    with MessagesServer([answer(filled)]) as server, pytest.raises(NoAnswer, match="autonomy of expressions"):
        ask(server, autonomy="parameters", budget={"attempts": 1})
    body = server.requests[0].body
    assert "expressions" not in body["output_config"]["format"]["schema"]["properties"]
    assert "holes" not in body["system"][0]["text"]


ENDINGS: dict[str, tuple[list[Scripted], str, float | None]] = {
    "refusal": ([refusal()], "the model refused", 0.0054),
    "max_tokens": ([max_tokens()], "max_tokens", 0.0054),
    "pause": ([answer("", stop_reason="pause_turn")], "pause_turn", 0.0054),
    "a stop reason of tomorrow": ([answer("", stop_reason="\x1b]bored")], "another reason", 0.0054),
    "invalid request": ([error(400, "invalid_request_error")], "HTTP 400", 0),
    "bad key": ([error(401, "authentication_error")], "refused the key", 0),
    "no credit": ([error(402, "billing_error")], "no credit", 0),
    "rate limit beyond the deadline": ([rate_limited(3600)], r"rate limit is reached for 3600 s \(HTTP 429\)", 0),
    "overloaded for good": ([overloaded()] * 3, "overloaded", 0),
    "broken for good": ([cut(answer(case.good()))] * 3, "failed or broke off", None),
    "server error": ([error(500, "api_error")] * 3, "HTTP 500", None),
    "not a message": ([Scripted(body=b'{"hello": 1}')], "not a message", None),
    "not JSON": ([Scripted(body=b"<html>", headers={"content-type": "text/html"})], "not a message", None),
}
"""What the endpoint does, what is told, and what each of the calls cost (None: not known, the estimate stands)."""


@pytest.mark.parametrize("name", ENDINGS)
def test_every_ending_is_a_sentence_of_ours(ask: Ask, name: str, monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    monkeypatch.setattr(claude.time, "sleep", lambda seconds: None)
    script, told, usd = ENDINGS[name]
    with MessagesServer(script) as server, pytest.raises(NoAnswer, match=told) as no:
        ask(server)
    assert len(server.requests) == len(script)
    assert "authored" not in no.value.message
    assert case.KEY not in str(no.value)
    assert case.KEY not in (state / "planner-ledger.jsonl").read_text()
    before, after = case.lines(state)[::2], case.lines(state)[1::2]
    assert [line["phase"] for line in before] == ["before"] * len(script)
    assert [line["usd"] for line in after] == [usd] * len(script)


def test_a_redirect_is_not_followed(ask: Ask) -> None:
    with MessagesServer([answer(case.good())]) as other:
        away = Scripted(status=307, headers={"location": f"{other.base_url}/v1/messages"})
        with MessagesServer([away]) as server, pytest.raises(NoAnswer, match="HTTP 307"):
            ask(server)
    assert other.requests == []


@pytest.mark.parametrize("passing", [overloaded(), error(500, "api_error"), cut(), rate_limited(0.01)])
def test_what_passes_is_tried_again(ask: Ask, passing: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(claude.time, "sleep", waits.append)
    with MessagesServer([passing, answer(case.good())]) as server:
        assert ask(server).planner.name == "claude"
    assert len(waits) == 1


@pytest.mark.parametrize("late", [slow(answer(case.good()), delay_s=60), slow(answer(case.good()), drip_s=0.2)])
def test_the_deadline_ends_a_slow_answer_and_one_that_drips(ask: Ask, late: Scripted) -> None:
    started = time.monotonic()
    with MessagesServer([late]) as server, pytest.raises(NoAnswer, match="within 2 s"):
        ask(server, deadline_s=2)
    # The answer would take 60 s and more: this bounds nothing closely, it tells the deadline from none.
    assert time.monotonic() - started < 30


def test_usage_that_is_missing_leaves_the_estimate_standing(ask: Ask, state: Path) -> None:
    body = message(json.dumps(case.good()))
    del body["usage"]
    with MessagesServer([Scripted(body=json.dumps(body).encode())]) as server:
        ask(server)
    before, after = case.lines(state)
    assert before["estimateUsd"] > 0
    assert after["usd"] is None


def test_a_model_without_a_price_is_not_called(ask: Ask, state: Path) -> None:
    with MessagesServer([]) as server, pytest.raises(NoAnswer, match="claude-unheard-of costs is unknown"):
        ask(server, model="claude-unheard-of")
    assert server.requests == []
    assert not (state / "planner-ledger.jsonl").exists()


def test_the_budget_is_held_before_the_call(ask: Ask, state: Path) -> None:
    with MessagesServer([answer(case.good())] * 2) as server:
        ask(server)
        estimate = case.lines(state)[0]["estimateUsd"]
        cost = case.lines(state)[1]["usd"]
        assert 0 < cost < estimate
        with pytest.raises(NoAnswer, match=r"of today's .* are spent"):
            ask(server, budget={"usdPerDay": estimate + cost / 2})
        assert len(server.requests) == 1
        ask(server, budget={"usdPerDay": estimate + cost + 0.0001})
    assert len(server.requests) == 2


def test_an_unusable_ledger_means_no_call(ask: Ask, state: Path) -> None:
    (state / "planner-ledger.jsonl").mkdir()
    with MessagesServer([answer(case.good())]) as server, pytest.raises(NoAnswer, match=r"ledger .* cannot be used"):
        ask(server)
    assert server.requests == []


def test_a_proxy_of_the_environment_is_not_asked_for_loopback(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with MessagesServer([answer(case.good())]) as server:
        assert ask(server).planner.name == "claude"


def test_the_sdks_list_has_the_default_model() -> None:
    from typing import get_args

    from anthropic.types.model import Model

    assert messages.DEFAULT_MODEL in get_args(get_args(Model)[0])


def test_settings_do_not_show_the_key() -> None:
    assert case.KEY not in repr(Settings(key=case.KEY))
