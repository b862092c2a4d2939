# SPDX-License-Identifier: Apache-2.0
"""The claude planner with the real SDK against an endpoint on loopback: what it asks, what it takes, how it ends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controller.api import Proposal, sha256
from controller.plan import claude
from controller.plan.claude import NoAnswer, asking, executor, tiers
from controller.plan.ledger import PRICES, PRICES_AS_OF
from controller.plan.messages import Settings
from controller.plan.testing import (
    MessagesServer,
    Scripted,
    answer,
    broken_off,
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
SMALL, MIDDLE, LARGE = (tier.model for tier in tiers.TIERS)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCHEDCTL_STATE", str(tmp_path))
    return tmp_path


@pytest.fixture
def ask(state: Path) -> Ask:
    """Plan against a server; `planner` is the policy's spec.planner."""

    def run(server: MessagesServer, *, deadline_s: float = 30, model: str = "", **planner: Any) -> Proposal:
        settings = Settings(key=case.KEY, base_url=server.base_url, model=model)
        policy = builders.policy(planner=planner)
        profile = case.profile()
        return claude.propose(
            profile, case.INTENTS, policy, case.TEMPLATES, case.base(), settings, deadline_s=deadline_s
        )

    return run


def test_the_models_choices_take_the_place_of_the_rules(ask: Ask) -> None:
    filled = case.filling(expressions=[{"hole": "deadline", "expression": "min(deadline,\n 4 * burst)"}])
    with MessagesServer([answer(case.strategy()), answer(filled)]) as server:
        proposal = ask(server)
    assert proposal.template == "latency-first"
    assert proposal.parameters == {"slice": "1500us"}
    assert proposal.expressions == {"deadline": "min(deadline, 4 * burst)"}
    assert [c.parameters for c in proposal.classes] == [{"deadline": "500us"}, {}]
    assert proposal.planner.name == "claude"
    assert proposal.planner.version == SMALL
    assert proposal.reasons == ("shop/checkout waits.", "shop/checkout waits 4 us at p99.")
    bare = [c.model_copy(update={"parameters": {}}) for c in proposal.classes]
    assert bare == list(case.base().classes)
    assert render(proposal, next(t for t in case.TEMPLATES if t.name == proposal.template)).text


def test_the_same_answers_give_the_same_proposal(ask: Ask) -> None:
    with MessagesServer(case.good() * 2) as server:
        first, second = ask(server), ask(server)
    assert first.canonical() == second.canonical()
    assert [r.body for r in server.requests[:2]] == [r.body for r in server.requests[2:]]


def test_requests_are_ones_that_the_api_takes_and_can_cache(ask: Ask) -> None:
    with MessagesServer(case.good()) as server:
        ask(server)
    planner, executor = (request.body for request in server.requests)
    assert planner["stream"] is True
    assert planner["model"] == SMALL
    assert planner["output_config"]["effort"] == tiers.ROLES["planner"].effort
    assert [block["cache_control"] for block in planner["system"]] == [{"type": "ephemeral"}] * 2
    handles = planner["output_config"]["format"]["schema"]["properties"]["template"]["enum"]
    assert handles == [f"t{i}" for i in range(1, len(case.TEMPLATES) + 1)]
    assert "temperature" not in planner
    (page,) = [block for block in executor["system"] if block["text"].startswith("{")]
    assert json.loads(page["text"])["name"] == "latency-first", "the executor is given the one template that was chosen"


def test_what_a_role_reads_before_its_input_is_the_same_for_other_intents(ask: Ask, state: Path) -> None:
    """The cache holds a prefix, the schema of the answer with it: none may depend on what is planned for."""
    with MessagesServer(case.good()) as server:
        ask(server)
        one = case.base(case.INTENTS[:1])
        other = case.Authored([case.strategy(), case.filling()])
        claude.propose(case.profile(), case.INTENTS[:1], builders.policy(), case.TEMPLATES, one, other)
    for sent, (_, asked) in zip(server.requests, other.asked, strict=True):
        assert sent.body["system"] == asked["system"]
        assert sent.body["output_config"] == asked["output_config"]


def test_a_role_without_anything_to_do_is_not_asked(ask: Ask) -> None:
    with MessagesServer([answer(case.strategy(aims=[], holes=[]))]) as server:
        proposal = ask(server)
    assert len(server.requests) == 1
    assert (proposal.template, proposal.parameters) == ("latency-first", {})


def test_a_value_out_of_range_goes_back_with_its_bound_to_a_larger_model(ask: Ask, state: Path) -> None:
    wrong = case.filling(parameters=[{"name": "slice", "value": "3s"}])
    with MessagesServer([answer(case.strategy()), answer(wrong), answer(case.filling())]) as server:
        proposal = ask(server)
    assert proposal.parameters == {"slice": "1500us"}
    assert proposal.planner.version == f"{SMALL}+{MIDDLE}"
    _, first, second = server.requests
    sent_again = second.body["messages"][0]["content"]
    assert sent_again[0] == first.body["messages"][0]["content"][0]
    handle = case.template_handle("latency-first")
    allowed = ["duration", "500us", "20ms"]
    place = {"stage": "range", "place": [handle, "slice"], "rule": "range", "allowed": allowed, "given": "3s"}
    assert json.loads(sent_again[2]["text"]) == [place]
    assert [line["accepted"] for line in case.lines(state, "judged")] == [True, False, True]


def test_a_value_on_the_wrong_side_of_the_default_is_not_what_the_strategy_said(ask: Ask) -> None:
    wrong = case.filling(parameters=[{"name": "slice", "value": "10ms"}])
    with MessagesServer([answer(case.strategy()), answer(wrong), answer(case.filling())]) as server:
        assert ask(server).parameters == {"slice": "1500us"}
    assert '\\"rule\\":\\"side\\",\\"allowed\\":[\\"5ms\\"]' in server.requests[2].raw.decode()


def test_unicode_digits_are_no_number(ask: Ask) -> None:
    arabic = case.filling(parameters=[{"name": "slice", "value": "٢ms"}])
    plain = case.filling(parameters=[{"name": "slice", "value": "2ms"}])
    with MessagesServer([answer(case.strategy()), answer(arabic), answer(plain)]) as server:
        assert ask(server).parameters == {"slice": "2ms"}
    assert len(server.requests) == 3


def test_reasons_are_one_line_each_and_bounded(ask: Ask) -> None:
    said = ["a\x1b[31mred\u202e\u200b\n\tline", " \x00 ", "y" * 3000, *(["more"] * 20)]
    with MessagesServer([answer(case.strategy(reasons=[])), answer(case.filling(reasons=said))]) as server:
        reasons = ask(server).reasons
    assert reasons[0] == "a[31mred line"
    assert reasons[1] == "y" * executor.MAX_REASON_CHARS
    assert len(reasons) == executor.MAX_REASONS


def test_autonomy_parameters_offers_no_expressions_and_takes_none(ask: Ask) -> None:
    with MessagesServer([answer(case.strategy())]) as server, pytest.raises(NoAnswer, match="autonomy of holes"):
        ask(server, autonomy="parameters", budget={"attempts": 1})
    assert '"holes"' not in server.requests[0].body["system"][1]["text"]
    filled = case.filling(expressions=[{"hole": "deadline", "expression": "deadline"}])
    script = [answer(case.strategy(holes=[])), answer(filled)]
    with MessagesServer(script) as server, pytest.raises(NoAnswer, match="autonomy of expressions"):
        ask(server, autonomy="parameters", budget={"attempts": 1})
    assert "expressions" not in server.requests[1].body["output_config"]["format"]["schema"]["properties"]


def test_the_catalogue_is_small(ask: Ask) -> None:
    """What a plan costs is its prompts: a text that grows by a third should be noticed."""
    with MessagesServer(case.good()) as server:
        ask(server)
    planner, executor = (len(request.raw) for request in server.requests)
    assert planner < 16_000
    assert executor < 9_000


CONTEXT = "model_context_window_exceeded"
HTML = Scripted(body=b"<html>", headers={"content-type": "text/html"}, as_it_is=True)
NO_JSON = Scripted(
    body=b"event: message_start\ndata: {\n\n", headers={"content-type": "text/event-stream"}, as_it_is=True
)
ENDINGS: dict[str, tuple[list[Scripted], str, float | None]] = {
    "refusal": ([refusal()], "the model refused", 0.0054),
    "max_tokens": ([max_tokens()] * 3, "3 answers were refused, the last by: schema of answer", 0.0054),
    "pause": ([answer("", stop_reason="pause_turn")], "pause_turn", 0.0054),
    "tool_use": ([answer(case.strategy(), stop_reason="tool_use")], "stopped for tool_use", 0.0054),
    "stop_sequence": ([answer(case.strategy(), stop_reason="stop_sequence")], "stopped for stop_sequence", 0.0054),
    "context": ([answer(case.strategy(), stop_reason=CONTEXT)], f"stopped for {CONTEXT}", 0.0054),
    "a stop reason of tomorrow": ([answer("", stop_reason="\x1b]bored")], "another reason", 0.0054),
    "invalid request": ([error(400, "invalid_request_error")], "HTTP 400", 0),
    "bad key": ([error(401, "authentication_error")], "refused the key", 0),
    "no credit": ([error(402, "billing_error")], "no credit", 0),
    "rate limit beyond the deadline": ([rate_limited(3600)], r"rate limit is reached for 3600 s \(HTTP 429\)", 0),
    "overloaded for good": ([overloaded()] * 3, "overloaded", 0),
    "broken for good": ([cut(case.good()[0])] * 3, "failed or broke off", None),
    "server error": ([error(500, "api_error")] * 3, "HTTP 500", None),
    "a time-out there": ([error(408, "timeout_error")] * 3, r"refused the request \(HTTP 408\)", 0),
    "a conflict": ([error(409, "conflict_error")] * 3, r"refused the request \(HTTP 409\)", 0),
    "a request too large": ([error(413, "request_too_large")], "too large", 0),
    "no such model": ([error(404, "not_found_error")], "does not know the model", 0),
    "forbidden": ([error(403, "permission_error")], "may not use", 0),
    "a stream that ends in an overload": ([broken_off()] * 3, r"overloaded \(HTTP 529\)", None),
    "a stream that ends in a rate limit": ([broken_off("rate_limit_error")] * 3, r"HTTP 429", None),
    "a stream that ends in a refused key": ([broken_off("authentication_error")], r"HTTP 401", None),
    "a stream that ends in tomorrow's error": ([broken_off("\x1b_error")] * 3, r"HTTP 500", None),
    "a stream that ends before its end": ([cut(answer(case.strategy()), after=500)] * 3, "broke off", None),
    "not a message": ([Scripted(body=b'{"hello": 1}', as_it_is=True)], "not a message", None),
    "not JSON": ([HTML], "not a message", None),
    "events of no message": ([Scripted(body=b"event: x\ndata: {}\n\n", as_it_is=True)], "not a message", None),
    "an event that is no JSON": ([NO_JSON], "the SDK failed with", None),
}
"""What the endpoint does, what is told, and what each of the calls cost (None: not known, the estimate stands)."""


@pytest.mark.parametrize("name", ENDINGS)
def test_every_ending_is_a_sentence_of_ours(ask: Ask, name: str, monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    monkeypatch.setattr(asking.time, "sleep", lambda seconds: None)
    script, told, usd = ENDINGS[name]
    with MessagesServer(script) as server, pytest.raises(NoAnswer, match=told) as no:
        ask(server, model=MIDDLE)
    assert len(server.requests) == len(script)
    assert "authored" not in no.value.message
    assert case.KEY not in str(no.value)
    assert case.KEY not in (state / "planner-ledger.jsonl").read_text()
    before, after = case.lines(state, "before"), case.lines(state, "after")
    assert len(before) == len(script)
    assert [line["usd"] for line in after] == [usd] * len(script)


def test_a_redirect_is_not_followed(ask: Ask) -> None:
    with MessagesServer(case.good()) as other:
        away = Scripted(status=307, headers={"location": f"{other.base_url}/v1/messages"})
        with MessagesServer([away]) as server, pytest.raises(NoAnswer, match="HTTP 307"):
            ask(server)
    assert other.requests == []


PASSING: dict[str, tuple[list[Scripted], list[float]]] = {
    "overloaded": ([overloaded()], [0.5]),
    "overloaded twice": ([overloaded()] * 2, [0.5, 1.0]),
    "overloaded, and says for how long": ([error(529, "overloaded_error", retry_after=3)], [3.0]),
    "server error": ([error(500, "api_error")], [0.5]),
    "a time-out there": ([error(408, "timeout_error")], [0.5]),
    "a conflict": ([error(409, "conflict_error")], [0.5]),
    "cut": ([cut()], [0.5]),
    "rate limit": ([rate_limited(0.01)], [0.01]),
    "rate limit of seconds, then a cut": ([rate_limited(7), cut()], [7.0, 1.0]),
    "a stream that ends in an overload": ([broken_off()], [0.5]),
}
"""What the endpoint does first, and how long is waited after each: as long as it asks for, else ever longer."""


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_tried_again(ask: Ask, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    passing, expected = PASSING[name]
    waits: list[float] = []
    monkeypatch.setattr(asking.time, "sleep", waits.append)
    with MessagesServer([*passing, *case.good()]) as server:
        assert ask(server).planner.name == "claude"
    assert waits == expected
    assert len(server.requests) == len(passing) + 2


@pytest.mark.parametrize("late", [slow(case.good()[0], delay_s=60), slow(case.good()[0], drip_s=0.2)])
def test_the_deadline_ends_a_slow_answer_and_one_that_drips(ask: Ask, late: Scripted) -> None:
    started = time.monotonic()
    with MessagesServer([late]) as server, pytest.raises(NoAnswer, match="within 2 s"):
        ask(server, deadline_s=2)
    # The answer would take 60 s and more: this bounds nothing closely, it tells the deadline from none.
    assert time.monotonic() - started < 30


def test_usage_that_is_missing_leaves_the_estimate_standing(ask: Ask, state: Path) -> None:
    body = message(json.dumps(case.strategy(aims=[], holes=[])))
    del body["usage"]
    with MessagesServer([Scripted(body=json.dumps(body).encode())]) as server:
        ask(server)
    before, after, _ = case.lines(state)
    assert before["estimateUsd"] > 0
    assert after["usd"] is None


def test_the_bill_has_tokens_by_kind_and_the_requests_id(ask: Ask, state: Path) -> None:
    said = answer(case.strategy(aims=[], holes=[]), input_tokens=40, output_tokens=9, written=2000, cached=700)
    with MessagesServer([said]) as server:
        ask(server, model=MIDDLE)
    before, after, _ = case.lines(state)
    assert (before["role"], before["model"], before["prices"]) == ("planner", MIDDLE, PRICES_AS_OF)
    assert after["tokens"] == {"input": 40, "output": 9, "written": 2000, "cached": 700}
    assert after["usd"] == pytest.approx((40 * 2 + 9 * 10 + 2000 * 2.5 + 700 * 0.1) / 1e6)
    assert after["requestId"] == "req_authored"
    assert after["answer"] == sha256(json.dumps(case.strategy(aims=[], holes=[])).encode())


def test_a_model_without_a_price_is_not_called(ask: Ask, state: Path) -> None:
    with MessagesServer([]) as server, pytest.raises(NoAnswer, match="claude-unheard-of costs is unknown"):
        ask(server, model="claude-unheard-of")
    assert server.requests == []
    assert not (state / "planner-ledger.jsonl").exists()


def test_the_budget_is_held_before_the_call(ask: Ask, state: Path) -> None:
    with MessagesServer([answer(case.strategy(aims=[], holes=[]))] * 2) as server:
        ask(server, model=MIDDLE)
        estimate = case.lines(state, "before")[0]["estimateUsd"]
        cost = case.lines(state, "after")[0]["usd"]
        assert 0 < cost < estimate
        with pytest.raises(NoAnswer, match=r"of today's .* are spent"):
            ask(server, model=MIDDLE, budget={"usdPerDay": estimate + cost / 2})
        assert len(server.requests) == 1
        ask(server, model=MIDDLE, budget={"usdPerDay": estimate + cost + 0.0001})
    assert len(server.requests) == 2


def test_an_unusable_ledger_means_no_call(ask: Ask, state: Path) -> None:
    (state / "planner-ledger.jsonl").mkdir()
    with MessagesServer(case.good()) as server, pytest.raises(NoAnswer, match=r"ledger .* cannot be used"):
        ask(server)
    assert server.requests == []


def test_a_proxy_of_the_environment_is_not_asked_for_loopback(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with MessagesServer(case.good()) as server:
        assert ask(server).planner.name == "claude"


def test_the_sdks_list_and_the_prices_have_every_tier() -> None:
    from typing import get_args

    from anthropic.types.model import Model

    for tier in tiers.TIERS:
        assert tier.model in get_args(get_args(Model)[0])
        assert tier.model in PRICES


def test_settings_do_not_show_the_key() -> None:
    assert case.KEY not in repr(Settings(key=case.KEY))
