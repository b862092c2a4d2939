# SPDX-License-Identifier: Apache-2.0
"""The key stays in the process that plans: no program that a verb starts inherits it, and the model gets it all the
same.

Each verb runs as a process of its own, with a `git` first in PATH that notes its environment.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from controller import apikey
from controller.plan import messages
from controller.plan.testing import MessagesServer, answer
from tests import builders, noting
from tests.plan import claude_case as case
from tests.reconcile.planning import profile_file, repository, rules

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the programs that were started had in their environment."""
    return noting.git(tmp_path, monkeypatch)


@pytest.fixture
def profile(tmp_path: Path) -> str:
    return profile_file(tmp_path)


def schedctl(*words: str, repo: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment, apikey.VARIABLE: case.KEY, "SCHEDCTL_REPO": str(repo)}
    env |= {f"SCHEDCTL_{name}": str(repo.parent / name) for name in ("CONFIG", "STATE", "CACHE")}
    command = [sys.executable, "-m", "controller.cli.main", *words]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    "words", [("plan", "-f", "PROFILE"), ("plan", "-f", "PROFILE", "--planner", "auto"), ("get", "spol"), ("diff",)]
)
def test_no_program_that_a_verb_starts_gets_the_key(tmp_path, profile, noted, words):
    repo = repository(tmp_path, rules(planner={"mode": "rules", "budget": {"usdPerDay": 0}}), builders.intent())
    noted.unlink()
    done = schedctl(*(profile if word == "PROFILE" else word for word in words), repo=repo)
    assert "error" not in done.stderr
    assert "# git " in noted.read_text(), "git was asked"
    assert case.KEY not in noted.read_text()
    assert case.KEY not in done.stdout + done.stderr


def test_the_model_gets_the_key_all_the_same(tmp_path, profile, noted):
    planner = {"mode": "claude", "budget": {"usdPerDay": 1}}
    allow = {"allow": ["latency-first"]}
    repo = repository(tmp_path, builders.policy(planner=planner, templates=allow), builders.intent())
    said = answer(case.strategy(template="t1", aims=[], holes=[]))
    with MessagesServer([said]) as server:
        done = schedctl("plan", "-f", profile, repo=repo, **{messages.BASE_URL: server.base_url})
        assert case.KEY.encode() in server.requests[0].raw
    assert yaml.safe_load(done.stdout)["planner"]["name"] == "claude", done.stderr
    assert case.KEY not in noted.read_text()
