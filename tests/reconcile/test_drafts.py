# SPDX-License-Identifier: Apache-2.0
"""A new template ends on a branch of its own: the policy's branch is as it was, and nothing uses the draft."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from controller import apikey
from controller.api import SchedulerPolicy
from controller.plan import messages
from controller.plan.testing import MessagesServer, Scripted, answer
from controller.reconcile import bundle, drafts
from controller.reconcile.replay import replay
from controller.source import GitStore
from tests import builders
from tests.cli.harness import run
from tests.plan import drafts_case
from tests.reconcile.planning import NIGHT, Bench, observed, planner, repository
from tests.reconcile.test_planner import apply, outcomes, revisions


@pytest.fixture(autouse=True)
def _homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "STATE", "CACHE"):
        monkeypatch.setenv(f"SCHEDCTL_{name}", str(tmp_path / name))
    apikey.forget()
    for name in (messages.KEY, messages.BASE_URL, messages.MODEL):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("controller.reconcile.planner.verification_kernels", lambda policy, release: ())


def free(**planner_: Any) -> SchedulerPolicy:
    """A policy that allows new templates, and two of ours: latency-first is t2."""
    allow = {"allow": ["batch-order", "latency-first", "authored-*"]}
    return builders.policy(planner={"mode": "claude", "autonomy": "template"} | planner_, templates=allow)


GAP = drafts_case.gap(template="t2")


def stepped(store: GitStore, monkeypatch: pytest.MonkeyPatch, *said: Any) -> MessagesServer:
    """One pass of the planner, which is answered so; all of it must be asked for."""
    script: list[Scripted] = [answer(one) for one in said]
    with MessagesServer(script) as server:
        monkeypatch.setenv(messages.KEY, case_key())
        monkeypatch.setenv(messages.BASE_URL, server.base_url)
        planner(store, Bench()).step()
    assert len(server.requests) == len(script)
    return server


def case_key() -> str:
    from tests.plan.claude_case import KEY

    return KEY


def git(path: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(["git", "-C", str(path), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout


def proposals(path: Path) -> list[str]:
    return git(path, "for-each-ref", "--format=%(refname:short)", "refs/heads/proposals").split()


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return repository(tmp_path, free(), builders.intent())


@pytest.fixture
def store(repo: Path) -> GitStore:
    made = GitStore(repo)
    made.put_status("n1", [observed()])
    return made


def test_an_authored_example_ends_on_its_branch_and_the_plan_goes_on(
    store: GitStore, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped(store, monkeypatch, GAP, drafts_case.draft())
    (branch,) = proposals(repo)
    assert branch.startswith("proposals/template-authored-example-")
    (revision,) = revisions(store)
    assert revision.spec.proposal.template == "latency-first"
    assert branch in revision.spec.proposal.planner.note
    (outcome,) = outcomes(store)
    assert (outcome.outcome, outcome.draft) == ("Planned", branch)
    assert f"lies on branch {branch}: a person must review and merge it" in outcome.message
    on_main = git(repo, "ls-tree", "-r", "--name-only", "main").split()
    assert not [path for path in on_main if path.startswith("templates/")]
    added = git(repo, "diff", "--name-only", f"main~1...{branch}").split()
    folder = "templates/authored-example"
    assert added == [f"{folder}/README.md", f"{folder}/scheduler.bpf.c.j2", f"{folder}/template.yaml"]
    said = git(repo, "log", "-1", "--format=%B", branch)
    assert "reviewed by nobody" in said
    assert "Schedctl-Writer: planner" in said
    shown = run("describe", "spol", "default", repo=repo)
    assert branch in shown.out


def test_the_campaign_with_its_draft_comes_out_the_same(
    store: GitStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    late = drafts_case.spoilt(".timeout_ms = 5000", ".timeout_ms = 60000")
    stepped(store, monkeypatch, GAP, late, drafts_case.draft())
    (outcome,) = outcomes(store)
    assert outcome.campaign is not None
    monkeypatch.delenv(messages.KEY, raising=False)
    apikey.forget()
    kept = bundle.read(bundle.find(outcome.campaign))
    found = replay(kept)
    told = {check.what: check.result for check in found.checks}
    assert set(told.values()) == {"ok"}, found.checks
    assert {"draft", "draft 1 judged", "draft 2 judged"} <= told.keys()
    assert found.proposal is not None
    assert found.proposal.canonical() == kept.files["proposal.json"]
    changed = {**kept.files, "draft/README.md": b"another"}
    assert {c.what: c.result for c in replay(bundle.Bundle("", changed)).checks}["draft"] == "differs"
    other = json.loads(kept.files["drafting.json"])
    other["judged"][1] |= {"verdict": "rejected", "stage": "lint", "rule": "lint/lost-task"}
    changed = {**kept.files, "drafting.json": json.dumps(other).encode()}
    assert {c.what: c.result for c in replay(bundle.Bundle("", changed)).checks} == {"proposal": "differs"}


def test_the_same_draft_twice_is_one_branch_that_nobody_moves(
    store: GitStore, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped(store, monkeypatch, GAP, drafts_case.draft())
    (branch,) = proposals(repo)
    git(repo, "checkout", "-q", branch)
    (repo / "templates" / "authored-example" / "README.md").write_text("A person's words.\n")
    git(repo, "commit", "-qam", "review")
    git(repo, "checkout", "-q", "main")
    before = git(repo, "rev-parse", branch)
    apply(store, free(budget={"usdPerDay": 2}))  # another key, the same question
    store.put_status("n1", [observed(load=NIGHT)])
    stepped(store, monkeypatch, GAP, drafts_case.draft())
    assert proposals(repo) == [branch]
    assert git(repo, "rev-parse", branch) == before
    assert len(revisions(store)) == 2
    (second,) = (o for o in outcomes(store) if f"lay already on branch {branch}" in o.message)
    assert second.draft == branch


def test_a_key_whose_draft_waits_is_asked_for_no_other(store: GitStore, monkeypatch: pytest.MonkeyPatch) -> None:
    stepped(store, monkeypatch, GAP, drafts_case.draft())
    (outcome,) = outcomes(store)
    desired = store.read().desired
    assert desired is not None
    (policy,) = desired.policies
    assert drafts.desk_for(policy, desired, None) is not None
    assert drafts.desk_for(policy, desired, outcome) is None
    assert drafts.file(store, None, outcome).branch == outcome.draft
    less = policy.spec.planner.model_copy(update={"autonomy": "expressions"})
    capped = policy.model_copy(update={"spec": policy.spec.model_copy(update={"planner": less})})
    assert drafts.desk_for(capped, desired, None) is None


def test_a_draft_that_was_merged_is_a_committed_template_whose_name_is_taken(
    store: GitStore, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped(store, monkeypatch, GAP, drafts_case.draft())
    (branch,) = proposals(repo)
    git(repo, "merge", "-q", "--no-edit", branch)
    desired = store.read().desired
    assert desired is not None
    assert [t.name for t in desired.templates] == ["authored-example"]
    desk = drafts.desk_for(free(), desired)
    assert desk is not None
    assert "authored-example" in desk.taken


def test_a_draft_that_fails_costs_the_plan_nothing(
    store: GitStore, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped(store, monkeypatch, GAP, *[drafts_case.draft(name="../x")] * 3)
    assert proposals(repo) == []
    (outcome,) = outcomes(store)
    assert (outcome.outcome, outcome.draft) == ("Planned", None)
    assert "no new template was drafted: 3 answers were refused, the last by: schema of name" in outcome.message


def test_a_draft_that_cannot_be_committed_costs_the_plan_nothing(
    store: GitStore, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = repo / "templates" / "authored-example"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("somebody's")
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", "notes")
    stepped(store, monkeypatch, GAP, drafts_case.draft())
    assert proposals(repo) == []
    (outcome,) = outcomes(store)
    assert (outcome.outcome, outcome.draft) == ("Planned", None)
    assert "was not proposed: there is a template authored-example on branch main already" in outcome.message


def test_by_hand_the_draft_is_in_the_bundle(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = observed().status
    assert status is not None
    assert status.profile is not None
    (tmp_path / "profile.json").write_bytes(status.profile.canonical())
    words = ("plan", "-f", str(tmp_path / "profile.json"), "--autonomy", "template")
    assert "add --record DIR" in run(*words, repo=repo).err
    with MessagesServer([answer(GAP), answer(drafts_case.draft())]) as server:
        monkeypatch.setenv(messages.KEY, case_key())
        monkeypatch.setenv(messages.BASE_URL, server.base_url)
        made = run(*words, "--record", str(tmp_path / "b"), repo=repo)
    assert made.code == 0, made.err
    assert f"review {tmp_path / 'b' / 'draft'}, nothing uses it" in made.err
    assert sorted(p.name for p in (tmp_path / "b" / "draft").iterdir()) == [
        "README.md", "scheduler.bpf.c.j2", "template.yaml",
    ]  # fmt: skip
    assert proposals(repo) == [], "a branch is the planner's agent's to make"
    again = run("plan", "--replay", str(tmp_path / "b"))
    assert (again.code, again.out) == (0, made.out), again.err
