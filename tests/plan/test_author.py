# SPDX-License-Identifier: Apache-2.0
"""The author: a new template is written, checked, handed in, and changes nothing about what is proposed.

The real SDK asks the authored endpoint; drafts are judged as the planner's agent has them judged: lint, clang, audit.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller import apikey
from controller.api import Proposal, Verdict
from controller.plan import claude, messages, select
from controller.plan.claude import asking, author
from controller.plan.drafting import Desk, Judgment
from controller.plan.messages import Settings
from controller.plan.testing import MessagesServer, Scripted, answer, cut, overloaded, refusal
from controller.reconcile.drafts import judge
from tests import builders
from tests.plan import claude_case as case
from tests.plan import drafts_case, hostile_drafts, tainted

TAKEN = frozenset(t.name for t in case.TEMPLATES)


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHEDCTL_STATE", str(tmp_path))
    monkeypatch.setattr(asking.time, "sleep", lambda seconds: None)
    apikey.forget()
    for name in (messages.KEY, messages.BASE_URL, messages.MODEL):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(server: MessagesServer, desk: Desk | None, **planner: Any) -> Proposal:
        monkeypatch.setenv(messages.KEY, case.KEY)
        monkeypatch.setenv(messages.BASE_URL, server.base_url)
        policy = builders.policy(planner={"mode": "claude", "autonomy": "template"} | planner)
        return select.propose(case.profile(), case.INTENTS, policy, case.TEMPLATES, desk=desk)

    return run


def scripted(*drafts: Any, strategy: Any = None) -> list[Scripted]:
    return [answer(strategy or drafts_case.gap()), *map(answer, drafts)]


def told(request: Any) -> list[str]:
    return [block["text"] for block in request.body["messages"][0]["content"]]


def test_an_authored_example_is_handed_in_and_not_used(plan: Any) -> None:
    desk = Desk(TAKEN, judge)
    with MessagesServer(scripted(drafts_case.draft())) as server:
        proposal = plan(server, desk)
    assert desk.draft is not None, desk.why
    assert desk.judged == [Judgment(verdict=Verdict.PASS)]
    assert (proposal.template, proposal.planner.name) == ("latency-first", "claude")
    assert desk.draft.branch in proposal.planner.note
    assert "a person must review and merge it" in proposal.planner.note
    manifest = yaml.safe_load(desk.draft.manifest)
    assert manifest["metadata"] == {"name": "authored-example"}
    assert manifest["spec"]["special"] is True, "the rules planner does not take it by itself"
    assert "until a person has reviewed and merged it" in desk.draft.readme
    assert set(desk.draft.files()) == {"template.yaml", "scheduler.bpf.c.j2", "README.md"}
    for text in (desk.draft.manifest, desk.draft.source):
        assert text.count("SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause") == 1
    given = json.loads(told(server.requests[1])[0])
    assert (given["lacks"], given["template"]) == ("order", case.template_handle("latency-first"))


def test_a_refused_draft_goes_back_as_data_and_the_next_may_pass(plan: Any, tmp_path: Path) -> None:
    desk = Desk(TAKEN, judge)
    late = drafts_case.spoilt(".timeout_ms = 5000", ".timeout_ms = 60000")
    taken = drafts_case.draft(name="weighted-fair")
    with MessagesServer(scripted(late, taken, drafts_case.draft())) as server:
        proposal = plan(server, desk)
    assert desk.draft is not None, desk.why
    assert [one.verdict for one in desk.judged] == [Verdict.REJECTED, Verdict.PASS]
    assert proposal.template == "latency-first"
    (first,) = json.loads(told(server.requests[2])[2])
    assert (first["stage"], first["place"], first["rule"]) == ("lint", ["lint/timeout-too-long"], "clean")
    assert int(first["given"]) == desk.judged[0].line > 0
    (second,) = json.loads(told(server.requests[3])[2])
    assert (second["place"], second["rule"]) == (["name"], "name")
    assert all("authored" not in json.dumps(request.body) for request in server.requests), "its text does not go back"
    judged = [line["accepted"] for line in case.lines(tmp_path, "judged")]
    assert judged == [True, False, False, True]


@pytest.mark.parametrize("what", hostile_drafts.SAID)
def test_a_harmful_draft_is_a_rejected_attempt_and_the_plan_stands(plan: Any, what: str) -> None:
    check, said = hostile_drafts.SAID[what]
    desk = Desk(TAKEN, judge)
    begun = time.monotonic()
    with MessagesServer(scripted(said)) as server:
        proposal = plan(server, desk, budget={"attempts": 1})
    assert time.monotonic() - begun < 20
    assert desk.draft is None
    assert f"1 answer was refused, the last by: {check}" in desk.why
    assert (proposal.template, proposal.planner.name) == ("latency-first", "claude")
    assert proposal.planner.note == f"no new template was drafted: {desk.why}"
    assert len(server.requests) == 2


def test_refused_drafts_end_within_the_attempts(plan: Any) -> None:
    desk = Desk(TAKEN, judge)
    with MessagesServer(scripted(*[drafts_case.draft(name="X")] * 9)) as server:
        plan(server, desk, budget={"attempts": 3})
    assert len(server.requests) == 1 + 3
    assert "3 answers were refused" in desk.why


@pytest.mark.parametrize(
    ("scripts", "why"),
    [
        ([overloaded()] * 3, "overloaded"),
        ([refusal()], "refused to answer"),
        ([cut()] * 3, ""),
    ],
)
def test_what_the_author_does_not_answer_costs_the_draft_only(plan: Any, scripts: Any, why: str) -> None:
    desk = Desk(TAKEN, judge)
    with MessagesServer([answer(drafts_case.gap()), *scripts]) as server:
        proposal = plan(server, desk)
    assert proposal.planner.name == "claude"
    assert desk.draft is None
    assert desk.why
    assert why in desk.why


def test_a_budget_that_does_not_cover_the_author(plan: Any) -> None:
    desk = Desk(TAKEN, judge)
    with MessagesServer([answer(drafts_case.gap(), input_tokens=9_500_000)]) as server:
        proposal = plan(server, desk, budget={"usdPerDay": 0.955})
    assert len(server.requests) == 1
    assert proposal.planner.name == "claude"
    assert "the next call may cost" in desk.why


def test_a_machine_that_cannot_judge_proposes_nothing(plan: Any) -> None:
    desk = Desk(TAKEN, lambda proposal, template: Judgment(verdict=Verdict.ERROR, stage="build", summary="no clang"))
    with MessagesServer(scripted(drafts_case.draft())) as server:
        proposal = plan(server, desk)
    assert desk.draft is None
    assert "could not be checked here: build: no clang" in proposal.planner.note


@pytest.mark.parametrize("autonomy", ["parameters", "expressions"])
def test_less_autonomy_never_asks_the_author(plan: Any, autonomy: str) -> None:
    desk = Desk(TAKEN, judge)
    answers = [answer(drafts_case.gap()), answer(case.strategy(aims=[], holes=[]))]
    with MessagesServer(answers) as server:
        proposal = plan(server, desk, autonomy=autonomy)
    assert len(server.requests) == 2, "a gap that may not be named is a refused answer"
    assert (desk.draft, desk.why, proposal.planner.note) == (None, "", "")
    schema = server.requests[0].body["output_config"]["format"]["schema"]
    assert "lacks" not in schema["properties"]
    assert "lacks" not in json.dumps(server.requests[0].body["system"])


def test_no_gap_and_no_desk_ask_nobody(plan: Any) -> None:
    desk = Desk(TAKEN, judge)
    with MessagesServer([answer(drafts_case.gap(lacks="nothing"))]) as server:
        assert plan(server, desk).planner.note == ""
    with MessagesServer([answer(case.strategy(aims=[], holes=[]))]) as server:
        assert plan(server, None).planner.note == select.NO_DESK
        assert len(server.requests) == 1


def test_no_canary_is_in_a_request_to_the_author() -> None:
    intent, committed = tainted.an_intent(), tainted.a_template()
    desk = Desk(TAKEN, judge)
    policy = tainted.a_policy()
    free = policy.spec.planner.model_copy(update={"autonomy": "template"})
    policy = policy.model_copy(update={"spec": policy.spec.model_copy(update={"planner": free})})
    named = drafts_case.draft(name="weighted-fair", readme=tainted.CANARY, summary=tainted.CANARY)
    gap = drafts_case.gap(template="t2")
    with MessagesServer(scripted(named, drafts_case.draft(), strategy=gap)) as server:
        settings = Settings(key=case.KEY, base_url=server.base_url)
        templates = [next(t for t in case.TEMPLATES if t.name == "weighted-fair"), committed]
        made = claude.propose(
            tainted.a_profile(), (intent,), policy, templates, case.base((intent,)), settings, desk=desk
        )
    assert made.template == committed.name
    assert desk.draft is not None, desk.why
    assert len(server.requests) == 3
    for request in server.requests:
        assert tainted.CANARY.encode() not in request.raw.lower()
    assert server.requests[1].body["system"][2]["text"] == templates[0].text, "the example is ours"


def test_the_request_stays_within_what_may_be_sent(plan: Any) -> None:
    """With every template of ours as the example."""
    assert max(len(json.dumps(author.texts()[0])) + len(json.dumps(t.text)) for t in case.TEMPLATES) < 80_000
