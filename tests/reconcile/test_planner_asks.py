# SPDX-License-Identifier: Apache-2.0
"""A planner on a real repository that asks a model: what it does when a candidate is refused, or cannot be judged.

The model is an authored script behind the real wire protocol; what a kernel says of a candidate is authored, too.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from controller import apikey
from controller.api import PlanOutcome, SchedulerRevision, Verdict, now
from controller.errors import GuestError, ToolMissing
from controller.plan import messages
from controller.plan.testing import MessagesServer, answer, overloaded
from controller.reconcile.node import plan_outcomes
from controller.reconcile.planner import Planner
from controller.source import GitStore
from tests.cli.harness import run
from tests.plan import claude_case as case
from tests.reconcile.planning import Bench, Told, observed, repository, rules


@pytest.fixture(autouse=True)
def _homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("CONFIG", "STATE", "CACHE"):
        monkeypatch.setenv(f"SCHEDCTL_{name}", str(tmp_path / name))
    apikey.forget()
    monkeypatch.setenv(messages.KEY, case.KEY)
    monkeypatch.setattr("controller.reconcile.planner.verification_kernels", lambda policy, release: ())
    yield
    apikey.forget()


def store_for(tmp_path: Path, **planner: Any) -> GitStore:
    """A repository whose policy asks claude and allows latency-first alone."""
    policy = rules(planner={"mode": "claude", **planner}, templates={"allow": ["latency-first"]})
    from tests.builders import intent

    store = GitStore(repository(tmp_path, policy, intent()))
    store.put_status("n1", [observed()])
    return store


def outcome(store: GitStore) -> PlanOutcome:
    (found,) = plan_outcomes(store.statuses()).values()
    return found


def revisions(store: GitStore) -> tuple[SchedulerRevision, ...]:
    desired = store.read().desired
    assert desired is not None
    return desired.revisions


def answers(*slices: str) -> list[Any]:
    """Whole plans: for each slice a strategy that leaves it to write, and what is written."""
    aims = [{"parameter": "slice", "intent": "", "direction": "lower", "because": "waits"}]
    made = []
    for value in slices:
        filled = {"parameters": [{"name": "slice", "value": value}], "classes": [], "expressions": [], "reasons": []}
        made += [answer(case.strategy(template="t1", aims=aims, holes=[])), answer(filled)]
    return made


class Verifier(Bench):
    """Refuses, or cannot judge, the first candidates."""

    def __init__(self, *first: str) -> None:
        super().__init__()
        self.first = list(first)

    def __call__(self, candidate: Any, **asked: Any) -> Any:
        what = self.first.pop(0) if self.first else "passes"
        self.refuses = {"latency-first": ("load", "load/unbounded-loop")} if what == "refused" else {}
        if what == "dies":
            raise GuestError("the guest died")
        return super().__call__(candidate, **asked)


def planner(store: GitStore, verifier: Verifier, told: Told | None = None) -> Planner:
    return Planner(store, reporter=told or Told(), examine=verifier)


def hours_go_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time the planner looks at the clock an hour has gone by: whatever waits is due again."""
    hours = itertools.count(1)
    monkeypatch.setattr("controller.reconcile.planner.now", lambda: now() + timedelta(hours=next(hours)))


def test_a_refused_candidate_goes_back_to_the_model_and_its_next_one_is_taken(tmp_path, monkeypatch):
    store, verifier = store_for(tmp_path), Verifier("refused")
    with MessagesServer(answers("1ms", "2ms")) as server:
        monkeypatch.setenv(messages.BASE_URL, server.base_url)
        assert planner(store, verifier).step()
        assert outcome(store).outcome == "Rejected"
        assert planner(store, verifier).step(), "a template filled badly once is not refused for ever"
    (made,) = revisions(store)
    assert made.spec.proposal.planner.name == "claude"
    assert made.spec.proposal.parameters["slice"] == "2ms"
    assert [one.verdict for one in made.spec.lessons] == [Verdict.REJECTED, Verdict.PASS]
    again = json.dumps(server.requests[2].body)
    for word in ("rejected", "load/unbounded-loop", "insns_verified", "1ms"):
        assert word in again, "the stage, the rule and the figures of the first one go back"


def test_what_the_rules_had_refused_is_still_a_question_to_the_model(tmp_path, monkeypatch):
    store, verifier = store_for(tmp_path), Verifier("refused")
    with MessagesServer([*[overloaded()] * 3, *answers("1ms")]) as server:
        monkeypatch.setenv(messages.BASE_URL, server.base_url)
        assert planner(store, verifier).step()
        assert outcome(store).lessons[0].planner == "rules"
        assert planner(store, verifier).step()
    (made,) = revisions(store)
    assert made.spec.proposal.planner.name == "claude"


def test_when_neither_has_anything_left_it_is_said_once(tmp_path, monkeypatch):
    store, verifier = store_for(tmp_path), Verifier("refused")
    with MessagesServer([overloaded()] * 6) as server:
        monkeypatch.setenv(messages.BASE_URL, server.base_url)
        while planner(store, verifier).step():
            pass
    assert (outcome(store).outcome, outcome(store).reason) == ("NoPlan", "NothingLeft")
    assert len(verifier.seen) == 1


def test_the_status_says_who_planned(tmp_path, monkeypatch):
    store = store_for(tmp_path)
    with MessagesServer(answers("1ms")) as server:
        monkeypatch.setenv(messages.BASE_URL, server.base_url)
        planner(store, Verifier()).step()
    found = outcome(store)
    assert found.planner is not None
    assert (found.planner.name, found.planner.note) == ("claude", "")
    assert f"planned by claude ({found.planner.version})" in found.message


def test_the_status_says_why_the_model_did_not_plan(tmp_path, monkeypatch):
    store, told = store_for(tmp_path), Told()
    with MessagesServer([overloaded()] * 3) as server:
        monkeypatch.setenv(messages.BASE_URL, server.base_url)
        planner(store, Verifier("refused"), told).step()
    found = outcome(store)
    assert (found.outcome, found.planner is not None and found.planner.name) == ("Rejected", "rules")
    assert "planned by rules: claude gave no proposal: the API is overloaded" in found.message
    assert any("latency-first, 1 classes, planned by rules: claude gave no" in line for line in told.lines)
    shown = run("describe", "spol", "default", "--repo", str(store.repository.path))
    assert "the API is overloaded" in shown.out


def test_without_a_key_the_rules_plan_and_the_status_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv(messages.KEY)
    store = store_for(tmp_path)
    planner(store, Verifier()).step()
    assert len(revisions(store)) == 1
    assert f"planned by rules: policy default asks for planner claude, and {messages.KEY} is not set" in (
        outcome(store).message
    )


@pytest.mark.parametrize("deaths", [1, 4])
def test_what_could_not_be_judged_is_not_paid_for_again(tmp_path, monkeypatch, deaths):
    store, verifier = store_for(tmp_path), Verifier(*["dies"] * deaths, "refused")
    hours_go_by(monkeypatch)
    with MessagesServer(answers("1ms", "2ms")) as server:
        monkeypatch.setenv(messages.BASE_URL, server.base_url)
        for _ in range(deaths):
            assert planner(store, verifier).step()
            assert outcome(store).outcome == "Error"
        asked, cost = len(server.requests), outcome(store).cost
        assert asked == 2
        assert planner(store, verifier).step()
        assert (outcome(store).outcome, len(server.requests), outcome(store).cost) == ("Rejected", asked, cost)
        assert (outcome(store).attempts, outcome(store).errors) == (deaths + 1, deaths)
        assert planner(store, verifier).step(), "the attempts that the policy allows are those that were judged"
    (made,) = revisions(store)
    assert made.spec.proposal.parameters["slice"] == "2ms"


def test_nobody_is_paid_where_there_is_no_kernel_to_verify_on(tmp_path, monkeypatch):
    def nothing_here(policy: Any, release: str) -> Any:
        raise ToolMissing("no image of kernel 9.9", remedy="fetch one")

    store = store_for(tmp_path)
    with MessagesServer([]) as server:
        monkeypatch.setenv(messages.BASE_URL, server.base_url)
        monkeypatch.setattr("controller.reconcile.planner.verification_kernels", nothing_here)
        assert planner(store, Verifier()).step()
    assert server.requests == []
    assert (outcome(store).outcome, outcome(store).reason) == ("Error", "ToolMissing")
    assert "fetch one" in outcome(store).message


@pytest.mark.parametrize("harm", ["gone", "changed"])
def test_a_campaign_that_is_not_whole_any_more_is_asked_anew(tmp_path, monkeypatch, harm):
    store, verifier = store_for(tmp_path), Verifier("dies")
    hours_go_by(monkeypatch)
    with MessagesServer(answers("1ms", "2ms")) as server:
        monkeypatch.setenv(messages.BASE_URL, server.base_url)
        planner(store, verifier).step()
        (kept,) = (tmp_path / "STATE" / "campaigns").iterdir()
        text = (kept / "proposal.json").read_text()
        (kept / "proposal.json").unlink()
        if harm == "changed":
            (kept / "proposal.json").write_text(text.replace("1ms", "3ms"))
        planner(store, verifier).step()
        assert len(server.requests) == 4
    (made,) = revisions(store)
    assert made.spec.proposal.parameters["slice"] == "2ms"
