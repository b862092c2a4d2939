# SPDX-License-Identifier: Apache-2.0
"""Knobs change on a real node without a moment on the kernel's own scheduler, also when the agent dies meanwhile."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from controller.api import SchedulerRevision, sha256
from controller.errors import ToolMissing
from controller.kernel import images, knobs, nodevm, qemu
from controller.render import render
from tests.builders import intent, policy, revision
from tests.conftest import missing
from tests.deploy import tuning
from tests.templates import cases

pytestmark = pytest.mark.kernel

FAIR = cases.TEMPLATES["weighted-fair"]


def made(name: str, gold: int, lead: int, *, stalls: bool = False) -> tuple[SchedulerRevision, bytes]:
    classes = (cases.task_class(1, weight=gold, comm=("gold",)), cases.task_class(2, weight=lead, comm=("lead",)))
    proposal = cases.proposal(FAIR, *classes)
    rendered = render(proposal, FAIR)
    text = rendered.text
    if stalls:
        # Class gold alone: were all to wait for ever, whoever attaches it might too, and be told that it failed.
        text = text.replace("fair_enqueue(p, t,", "if (t->class != 1) fair_enqueue(p, t,").replace("= 5000,", "= 1000,")
    built = cases.built(text).object
    plain = revision(name, policy(), (intent(),))
    digests = plain.spec.digests.model_copy(update={"object": sha256(built), "code": knobs.code_digest(built)})
    filled = {"proposal": proposal, "digests": digests, "ops_name": rendered.ops_name}
    return plain.model_copy(update={"spec": plain.spec.model_copy(update=filled)}), built


@pytest.fixture(scope="module")
def revisions() -> dict[str, tuple[SchedulerRevision, bytes]]:
    try:
        return {"a": made("a", 400, 100), "b": made("b", 100, 400), "stalls": made("stalls", 100, 100, stalls=True)}
    except ToolMissing as error:
        missing(str(error), error.remedy)


@pytest.fixture(scope="module")
def story(
    tmp_path_factory: pytest.TempPathFactory, revisions: dict[str, tuple[SchedulerRevision, bytes]]
) -> dict[str, dict[str, Any]]:
    """What each step of tests/deploy/tuning.py saw."""
    folder = tmp_path_factory.mktemp("tuning")
    for name, (manifest, built) in revisions.items():
        (folder / f"{name}.json").write_bytes(manifest.canonical())
        (folder / f"{name}.o").write_bytes(built)
    try:
        qemu.find()
        kernel = images.resolve("newest")
    except ToolMissing as error:
        missing(str(error), error.remedy)
    vm = nodevm.start(f"tune-{os.getpid()}", kernel=kernel, shares=[folder])
    try:
        argv = [sys.executable, "-m", "tests.deploy.tuning", str(folder)]
        done = vm.exec(argv, timeout_s=150, cwd=str(Path(__file__).parents[2]))
    finally:
        vm.stop()
    lines = [json.loads(line) for line in done.stdout.decode().splitlines()]
    steps = {line.pop("step"): line for line in lines}
    assert {*tuning.STEPS} - {*steps} == {"died_pinned", "died_unpinned"}, done.stderr.decode()
    return steps


def test_the_knobs_change_and_the_scheduler_stays(story: dict[str, Any], revisions: dict[str, Any]) -> None:
    before, after = story["attached"], story["tuned"]
    probation = after["probation"]
    print(f"gold:lead {before['shares']:.2f} with 400:100, {probation['shares']:.2f} with 100:400")
    assert before["ops"] == probation["ops"] == after["ops"] == revisions["a"][0].spec.ops_name
    assert before["seq"] == probation["seq"] == after["seq"]
    assert before["shares"] > 2
    assert probation["shares"] < 0.5
    assert before["knobs"] == knobs.image(revisions["a"][1]).hex()
    assert after["knobs"] == knobs.image(revisions["b"][1]).hex()


def test_it_is_said_whose_knobs_are_live_and_they_are_on_probation(story: dict[str, Any]) -> None:
    attached = story["tuned"]["probation"]["actual"]["attached"]
    assert (attached["revision"], attached["loaded"], attached["phase"]) == ("b", "a", "Probation")
    assert not story["tuned"]["probation"]["pinned"], "on probation the agent alone holds it"
    assert story["tuned"]["pinned"]
    assert story["tuned"]["actual"]["attached"]["phase"] == "Promoted"
    assert story["tuned"]["actual"]["lastGood"] == "b"
    assert story["tuned"]["events"][-2:] == ["Tuned", "Promoted"]


def test_the_heartbeat_is_read(story: dict[str, Any]) -> None:
    assert story["tuned"]["pulse"]["decisions"] > story["attached"]["pulse"]["decisions"] > 0
    assert story["tuned"]["pulse"]["lastDecision"]


def test_an_agent_that_dies_before_it_took_the_pin_away_is_repaired(story: dict[str, Any], revisions: Any) -> None:
    assert story["died_pinned.exit"]["code"] == 9
    assert story["half_done"]["knobs"] == knobs.image(revisions["a"][1]).hex()
    restored = story["restored"]
    assert restored["knobs"] == knobs.image(revisions["b"][1]).hex()
    assert restored["events"][-1] == "KnobsRestored"
    assert restored["actual"]["attached"]["revision"] == "b"
    assert restored["seq"] == story["attached"]["seq"]


def test_an_agent_that_dies_after_that_takes_the_scheduler_with_it_and_nobody_is_blamed(story: dict[str, Any]) -> None:
    assert story["died_unpinned.exit"]["code"] == 9
    assert story["fallen_back"]["ops"] == ""
    assert story["fallen_back"]["died"]["fault"] == "Agent"
    assert story["fallen_back"]["actual"].get("quarantine", []) == []


def test_what_a_stalled_scheduler_left_is_kept(story: dict[str, Any]) -> None:
    stalled = story["stalled"]
    assert stalled["died"]["fault"] == "Scheduler"
    report = stalled["last_exit"]
    assert (report["revision"], report["kind"]) == ("stalls", 1026)
    assert "stall" in report["reason"]
    assert report["message"]
    assert "runnable" in report["dump"]
