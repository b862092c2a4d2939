# SPDX-License-Identifier: Apache-2.0
"""The file bridge: questions and answers as files, by the same checks, in a folder that may be somebody else's."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.api import Proposal
from controller.errors import InputError
from controller.plan import bridge, select
from controller.plan.bridge import Bridge
from controller.plan.messages import MAX_ANSWER_CHARS, CallFailed
from tests import builders
from tests.plan import bridging
from tests.plan import claude_case as case


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHEDCTL_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(bridge, "POLL_S", 0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "bridge"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def answering(folder: Path) -> Iterator[list[Any]]:
    """Somebody who answers each question with the next of the list."""
    with bridging.answering(folder, []) as answers:
        yield answers


def plan(folder: Path, patience_s: float = 20, **planner: Any) -> Proposal:
    policy = builders.policy(planner={"mode": "rules"} | planner)
    by = Bridge(folder, patience_s=patience_s)
    return select.propose(case.profile(), case.INTENTS, policy, case.TEMPLATES, transport=by)


def test_a_person_can_be_the_planner_without_a_key(folder: Path, answering: list[Any], tmp_path: Path) -> None:
    wrong = case.filling(parameters=[{"name": "slice", "value": "3s"}])
    answering += [case.strategy(), wrong, case.filling()]
    proposal = plan(folder)
    assert (proposal.planner.name, proposal.planner.version) == ("claude", "bridge")
    assert (proposal.template, proposal.parameters) == ("latency-first", {"slice": "1500us"})
    first, second, third = sorted(folder.glob("*.request.json"))
    assert (first.name[:11], second.name[:12], third.name[:12]) == ("01-planner-", "02-executor-", "03-executor-")
    asked = json.loads(third.read_text())
    assert "3s" in asked["request"]["messages"][0]["content"][2]["text"], "the refusal goes back"
    assert first.stat().st_mode & 0o777 == 0o600
    assert not list(folder.glob(".*")), "nothing half written is left"
    lines = case.lines(tmp_path / "state")
    assert [line["usd"] for line in lines if line["phase"] == "after"] == [None] * 3, "what it cost is not known"
    assert {line["model"] for line in lines if line["phase"] == "before"} == {"bridge"}


def test_answers_that_are_there_are_taken_at_once(folder: Path, answering: list[Any]) -> None:
    answering += [case.strategy(), case.filling()]
    first = plan(folder)
    assert plan(folder, patience_s=5) == first
    assert answering == []
    assert len(list(folder.glob("*.request.json"))) == 2


def test_no_answer_is_the_rules_planner_with_a_note(folder: Path) -> None:
    proposal = plan(folder, patience_s=0.2)
    assert proposal.planner.name == "rules"
    assert "no answer in 01-planner-" in proposal.planner.note


def ask(folder: Path, patience_s: float = 5) -> str:
    return Bridge(folder).send("planner", {"model": "bridge"}, patience_s).text


@pytest.fixture
def name(folder: Path) -> str:
    """The file in which the answer to `ask` is waited for."""
    with pytest.raises(CallFailed, match="in time"):
        ask(folder, 0.05)
    (question,) = folder.glob("*.request.json")
    return str(json.loads(question.read_text())["answerFile"])


def test_a_symbolic_link_is_not_followed(folder: Path, name: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"secret": 1}')
    (folder / name).symlink_to(secret)
    with pytest.raises(CallFailed, match="is a symbolic link") as failed:
        ask(folder)
    assert "secret" not in failed.value.message


def test_what_is_no_file_or_too_large_is_refused(folder: Path, name: str) -> None:
    os.mkfifo(folder / name)
    with pytest.raises(CallFailed, match="no regular file"):
        ask(folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(CallFailed, match="no regular file"):
        ask(folder)
    (folder / name).rmdir()
    (folder / name).write_bytes(b"1" * (MAX_ANSWER_CHARS + 1))
    with pytest.raises(CallFailed, match="larger than 65536 bytes"):
        ask(folder)
    (folder / name).unlink()
    (folder / name).write_text("{}")
    (folder / name).chmod(0)
    if os.geteuid() != 0:
        with pytest.raises(CallFailed, match="cannot be read"):
            ask(folder)


def test_an_answer_that_is_still_being_written_is_waited_for(folder: Path, name: str) -> None:
    (folder / name).write_text('{"template": ')
    later = threading.Timer(0.3, (folder / name).write_text, ('{"template": "t1"}',))
    later.start()
    assert ask(folder) == '{"template": "t1"}'
    later.join()


def test_what_stays_no_json_is_given_as_it_is(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "SETTLE_S", 0.1)
    (folder / name).write_bytes(b"\xff I would rather \xf0\x9f\x92\xac")
    assert ask(folder) == "\ufffd I would rather \U0001f4ac"


def test_the_folder_is_a_folder_and_no_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "file").write_text("")
    for path, told in (("link", "symbolic link"), ("file", "no folder"), ("gone", "opened: No such file")):
        with pytest.raises(InputError, match=told) as failed:
            Bridge(tmp_path / path)
        assert "mkdir" in failed.value.remedy


def test_a_question_is_not_written_through_a_link(folder: Path, name: str, tmp_path: Path) -> None:
    """Its file is replaced, whatever stands there: what a link points to keeps its bytes."""
    kept = tmp_path / "kept"
    kept.write_text("mine")
    (question,) = folder.glob("*.request.json")
    question.unlink()
    question.symlink_to(kept)
    (folder / name).write_text("{}")
    assert ask(folder) == "{}"
    assert kept.read_text() == "mine"
    assert not question.is_symlink()
