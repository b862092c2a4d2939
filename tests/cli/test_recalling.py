# SPDX-License-Identifier: Apache-2.0
"""What `schedctl plan --record` makes of a revision that fits as it is: what it says is what it does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from controller.api import Proposal, now
from controller.plan import messages
from controller.plan.testing import MessagesServer, answer
from tests.cli.harness import run
from tests.plan import claude_case as case
from tests.reconcile.planning import Bench, observed
from tests.reconcile.test_planner import apply, other_budget, planned, revisions


@pytest.fixture(autouse=True)
def _homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "STATE", "CACHE"):
        monkeypatch.setenv(f"SCHEDCTL_{name}", str(tmp_path / name))
    monkeypatch.setattr("controller.reconcile.planner.verification_kernels", lambda policy, release: ())


@pytest.mark.parametrize("mode", ["rules", "auto"])
def test_a_recorded_plan_starts_from_what_would_be_recalled_and_says_so(tmp_path, monkeypatch, mode):
    """A recalled plan was not made, so it cannot be made again; who is asked is said as it is."""
    store = planned(tmp_path, Bench())
    (old,) = revisions(store)
    apply(store, other_budget())
    profile = observed().status.profile.canonical()
    words = ("plan", "-f", "-", "-o", "json", "--planner", mode)
    with MessagesServer([answer(case.strategy(template="t2", aims=[], holes=[]))]) as server:
        monkeypatch.setenv(messages.KEY, case.KEY)
        monkeypatch.setenv(messages.BASE_URL, server.base_url)
        recalled = run(*words, stdin=profile, repo=store.repository.path, now=now())
        assert recalled.err.startswith(f"Recalled from revision {old.name} (distance 0.00): nobody was asked")
        assert server.requests == []
        said = run(*words, "--record", str(tmp_path / "b"), stdin=profile, repo=store.repository.path, now=now())
        assert len(server.requests) == (mode == "auto")
    assert said.code == 0, said.err
    first, last = said.err.splitlines()
    assert first == (
        f"Not recalled: revision {old.name} (distance 0.00) fits as it is, but what is recorded is planned anew: it "
        "starts from there"
    )
    assert last.startswith("recorded sha256:")
    proposal = Proposal.model_validate_json(said.out)
    assert old.name in proposal.reasons[0]
    assert json.loads((tmp_path / "b" / "past.json").read_bytes())["prior"]["revision"] == old.name
    again = run("plan", "--replay", str(tmp_path / "b"), "-o", "json")
    assert (again.code, again.out) == (0, said.out), again.err
