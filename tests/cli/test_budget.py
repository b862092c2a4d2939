# SPDX-License-Identifier: Apache-2.0
"""`budget` and the flags of `plan` that say who answers and how freely."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from controller.api import WorkloadProfile
from controller.plan.ledger import Ledger, Usage, cost
from tests import builders
from tests.cli.harness import T0, check_golden, run, transcript

DAY = "2026-01-04"
LINES = [
    {"phase": "before", "call": "a", "at": f"{DAY}T01:02:03Z", "policy": "default", "role": "planner",
     "model": "claude-haiku-5-5", "estimateUsd": 0.0044},
    {"phase": "after", "call": "a", "at": f"{DAY}T01:02:09Z", "outcome": "answered", "usd": 0.00102,
     "tokens": {"input": 900, "output": 1500, "cached": 0, "written": 1440}, "requestId": "req_1"},
    {"phase": "judged", "call": "a", "accepted": True},
    {"phase": "before", "call": "b", "at": f"{DAY}T01:02:10Z", "policy": "default", "role": "executor",
     "model": "claude-haiku-5-5", "estimateUsd": 0.0027},
    {"phase": "before", "call": "c", "at": f"{DAY}T02:00:00Z", "policy": "gone", "role": "planner",
     "model": "bridge", "estimateUsd": 0.0},
    {"phase": "after", "call": "c", "at": f"{DAY}T02:00:01Z", "outcome": "answered", "usd": None, "requestId": ""},
    {"phase": "judged", "call": "c", "accepted": False},
    {"phase": "before", "call": "d", "at": "2026-01-03T23:59:59Z", "policy": "default", "role": "planner",
     "model": "claude-opus-5-5", "estimateUsd": 0.5},
]  # fmt: skip


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCHEDCTL_STATE", str(tmp_path / "state"))
    path = tmp_path / "state" / "planner-ledger.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


def test_budget_in_every_form(repo: Path, ledger: Path) -> None:
    text = transcript(
        [
            "budget", "budget -o wide", "budget default -o yaml", "budget --calls", "budget --calls -o wide",
            "budget --day 2026-01-03 --no-headers", "budget --day 1999-01-01 --calls", "budget nope",
            "budget --day today", "budget -o name",
        ],
        repo,
    )  # fmt: skip
    check_golden("budget", text)


def test_json_says_unknown_and_never_nothing(repo: Path, ledger: Path) -> None:
    calls = json.loads(run("budget", "--calls", "-o", "json", repo=repo).out)["calls"]
    assert [call["usd"] for call in calls] == [0.00102, "unknown", "unknown"]
    assert [call["atMostUsd"] for call in calls] == [0.00102, 0.0027, 0.0]
    policies = json.loads(run("budget", "-o", "json", repo=repo).out)["policies"]
    assert {p["policy"]: (p["limitUsd"], p["unknown"]) for p in policies} == {"default": (1.0, 1), "gone": (None, 1)}


def test_budget_without_a_repository(ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCHEDCTL_REPO", raising=False)
    monkeypatch.chdir(tmp_path)
    said = run("budget")
    assert said.code == 0
    assert said.out.splitlines()[1].split()[:2] == ["default", "<unknown>"]


def test_budget_before_any_call(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHEDCTL_STATE", str(tmp_path / "none"))
    shown = run("budget", repo=repo).out.splitlines()[1].split()
    assert shown == ["default", "$1.00", "$0.0000", "$1.0000", "0", "0", "<none>", "<none>"]
    assert not (tmp_path / "none").exists(), "looking writes nothing"


def test_an_unusable_ledger_is_said(repo: Path, ledger: Path) -> None:
    ledger.unlink()
    ledger.mkdir()
    said = run("budget", repo=repo)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("error: the ledger ")


def test_the_ledgers_view_and_the_bill_agree(ledger: Path) -> None:
    (first, *_) = Ledger(ledger).calls(DAY)
    assert first.tokens == Usage(900, 1500, 0, 1440)
    assert cost(first.model, first.tokens) == pytest.approx(first.usd)


@pytest.fixture
def profile() -> str:
    matches = [{"intent": name, "tasks": 4} for name in ("default/web", "shop/checkout")]
    made = WorkloadProfile.model_validate(
        {
            "node": "n1", "takenAt": T0, "windowNs": 10_000_000_000, "observer": "bcc",
            "topology": builders.TOPOLOGY, "kernel": builders.KERNEL, "matches": matches,
        }
    )  # fmt: skip
    return made.canonical().decode()


def test_plan_over_the_bridge(repo: Path, profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHEDCTL_STATE", str(tmp_path / "state"))
    folder = tmp_path / "bridge"
    gone = run("plan", "-f", "-", "--bridge", str(folder), repo=repo, stdin=profile.encode())
    assert (gone.code, gone.out) == (1, "")
    assert "mkdir -m 700" in gone.err
    folder.mkdir()
    asked = run("plan", "-f", "-", "--bridge", str(folder), "--bridge-wait", "200ms", repo=repo, stdin=profile.encode())
    assert asked.code == 0
    assert yaml.safe_load(asked.out)["planner"]["name"] == "rules", "nobody answered"
    (question,) = folder.glob("*.request.json")
    told = json.loads(question.read_text())
    said = {"template": "t4", "aims": [], "holes": [], "reasons": ["i1 wants latency"]}
    (folder / told["answerFile"]).write_text(json.dumps(said))
    answered = run("plan", "-f", "-", "--bridge", str(folder), repo=repo, stdin=profile.encode())
    planned = yaml.safe_load(answered.out)
    assert (planned["planner"]["name"], planned["template"]) == ("claude", "latency-first")
    wrong = run("plan", "-f", "-", "--bridge", str(folder), "--bridge-wait", "soon", repo=repo, stdin=profile.encode())
    assert wrong.err.startswith('error: invalid --bridge-wait "soon" (it must be a duration')


@pytest.mark.parametrize(
    ("level", "told"),
    [
        ("template", "error: a new template is kept in a bundle only (add --record DIR)\n"),
        ("all", 'error: unknown autonomy "all" (one of parameters, expressions, template)\n'),
    ],
)
def test_autonomy_is_bounded(repo: Path, profile: str, level: str, told: str) -> None:
    said = run("plan", "-f", "-", "--autonomy", level, repo=repo, stdin=profile.encode())
    assert (said.code, said.err) == (1, told)
    assert run("plan", "-f", "-", "--autonomy", "parameters", repo=repo, stdin=profile.encode()).code == 0


def test_autonomy_is_capped_by_the_policy() -> None:
    from controller.cli.pipeline import _with_autonomy
    from controller.errors import InputError

    policy = builders.policy(planner={"autonomy": "parameters"})
    with pytest.raises(InputError, match="allows a planner to change parameters only"):
        _with_autonomy(policy, "expressions")
    freer = builders.policy(planner={"autonomy": "template"})
    assert _with_autonomy(freer, "parameters").spec.planner.autonomy == "parameters"
