# SPDX-License-Identifier: Apache-2.0
"""When `agent run --once` may end, and with which exit code."""

from __future__ import annotations

import subprocess

import pytest

from controller.reconcile.agent import _unfinished
from controller.source import init
from tests.builders import actual, attachment, revision, source
from tests.cli.harness import run
from tests.reconcile.test_diff_node import INTENT, POLICY, WANTED, decide, quarantined


def test_once_waits_for_a_probation_also_after_a_roll_back():
    newer = revision("default-2", POLICY, (INTENT,), made=10, object_="1")
    bad = {"quarantine": (quarantined("1"),), "last_good": "default-1"}
    sources = source(POLICY, INTENT, WANTED, newer)
    assert _unfinished(decide(sources, actual(**bad, attached=attachment(WANTED, "Probation"))))
    assert not _unfinished(decide(sources, actual(**bad, attached=attachment(WANTED, "Promoted"))))


def test_once_does_not_wait_for_what_others_owe():
    assert not _unfinished(decide(source(POLICY, INTENT), actual()))
    assert not _unfinished(decide(source(POLICY, INTENT, WANTED), actual(ejected=True)))
    assert _unfinished(decide(source(POLICY, INTENT, WANTED), actual()))
    assert not _unfinished(None)


@pytest.mark.parametrize("bad", ["empty", "broken"])
def test_once_a_planner_says_what_is_wrong_with_the_repository_and_exits_1(tmp_path, monkeypatch, bad):
    for name in ("CONFIG", "STATE", "CACHE"):
        monkeypatch.setenv(f"SCHEDCTL_{name}", str(tmp_path / name))
    repo = tmp_path / "policies"
    if bad == "empty":
        subprocess.run(["git", "init", "-q", str(repo)], check=True)
    else:
        init(repo)
        (repo / "policies" / "wrong.yaml").write_text("kind: [\n", encoding="utf-8")
        subprocess.run(["git", "-C", str(repo), "add", "-A"], check=True)
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
        subprocess.run(["git", "-C", str(repo), *identity, "commit", "-qm", "wrong"], check=True)
    said = run("agent", "run", "--once", "--role", "planner", repo=repo)
    assert said.code == 1
    assert ("EmptyRepository" if bad == "empty" else "wrong.yaml") in said.err
