# SPDX-License-Identifier: Apache-2.0
"""A replay takes no time and needs no luck: what the clock decided comes again, and a bundle may hold anything."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from controller.errors import InputError
from controller.plan import messages
from controller.plan.messages import CallFailed, Reply
from controller.reconcile import bundle
from controller.reconcile.record import Campaign
from controller.reconcile.replay import replay
from tests import builders
from tests.plan import claude_case as case


@pytest.fixture(autouse=True)
def _homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "STATE", "CACHE"):
        monkeypatch.setenv(f"SCHEDCTL_{name}", str(tmp_path / name))
    for name in (messages.KEY, messages.BASE_URL, messages.MODEL):
        monkeypatch.delenv(name, raising=False)


class Slow:
    """A transport in a time of its own: each answer, or failure, comes after its seconds."""

    model, billed, patience_s = "authored", False, None

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *script: tuple[float, dict[str, Any] | CallFailed]) -> None:
        self.script = list(script)
        self.now = time.monotonic()
        self.slept: list[float] = []
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        monkeypatch.setattr("time.sleep", self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def send(self, role: str, request: Mapping[str, Any], timeout_s: float) -> Reply:
        seconds, said = self.script.pop(0)
        self.now += seconds
        if isinstance(said, CallFailed):
            raise said
        return Reply(json.dumps(said), "end_turn", None, "")


def busy(retry_after_s: float = 0) -> CallFailed:
    return CallFailed("busy", transient=True, retry_after_s=retry_after_s)


OUT_OF_TIME = {
    "a first answer that takes too long": ([(181, {"nonsense": 1})], [], "the time for this plan is over"),
    "a second answer that would come too late": ([(181, case.strategy())], [], "the time for this plan is over"),
    "no time for another try": ([(179.8, busy())], [], "busy, longer than this plan may take"),
    "no time for what was asked for": ([(90, busy(100))], [], "busy, longer than this plan may take"),
    "one wait, and then none": ([(10, busy(100)), (10, busy(100))], [100], "busy, longer than this plan may take"),
}


def in_time(monkeypatch: pytest.MonkeyPatch, script: list[Any]) -> tuple[Campaign, Slow]:
    by = Slow(monkeypatch, *script)
    campaign = Campaign(case.profile(), case.INTENTS, builders.policy(), case.TEMPLATES)
    campaign.propose(transport=by)
    assert by.script == []
    return campaign, by


@pytest.mark.parametrize("name", OUT_OF_TIME)
def test_an_end_for_want_of_time_comes_again_and_at_once(monkeypatch, name):
    script, slept, why = OUT_OF_TIME[name]
    campaign, by = in_time(monkeypatch, script)
    assert campaign.proposal is not None
    assert campaign.proposal.planner.note == f"claude gave no proposal: {why}"
    assert by.slept == slept
    kept = campaign.files()
    found = replay(bundle.Bundle("", kept))
    assert {c.result for c in found.checks} == {"ok"}, found.checks
    assert found.proposal is not None
    assert found.proposal.canonical() == kept["proposal.json"]
    assert by.slept == slept, "a replay waits for nothing"


def without_clock(campaign: Campaign) -> bundle.Bundle:
    """As bundles were before the tape had one."""
    files = campaign.files()
    model = json.loads(files["model.json"])
    del model["clock"]
    return bundle.Bundle("", {**files, "model.json": json.dumps(model).encode()})


def test_a_bundle_without_a_clock_is_replayed_as_far_as_that_goes(monkeypatch):
    """What was waited for is known from what came next; an end for want of time is not, and that is said."""
    waited, by = in_time(monkeypatch, [(60, busy(100)), (1, case.strategy(aims=[], holes=[]))])
    found = replay(without_clock(waited))
    assert {c.result for c in found.checks} == {"ok"}, found.checks
    assert by.slept == [100]
    late, by = in_time(monkeypatch, OUT_OF_TIME["no time for what was asked for"][0])
    (check,) = replay(without_clock(late)).checks
    assert check.result == "differs"
    assert check.detail == (
        "request 2 of the model was never recorded; the bundle does not say how long anything took, so an end for want "
        "of time cannot be made again"
    )
    assert by.slept == []


def test_a_plan_that_goes_on_where_the_recorded_one_ended_differs(monkeypatch):
    campaign, _ = in_time(monkeypatch, OUT_OF_TIME["no time for what was asked for"][0])
    files = campaign.files()
    model = json.loads(files["model.json"])
    assert model["clock"] == [0, 90]
    for clock, told in (
        ([0, 9], "goes on where the recorded one had ended"),
        ([0, 9, 9], "request 2 of the model was never"),
    ):
        altered = {**files, "model.json": json.dumps({**model, "clock": clock}).encode()}
        (check,) = replay(bundle.Bundle("", altered)).checks
        assert check.result == "differs"
        assert told in check.detail


# Who there was to ask ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["claude", "auto"])
@pytest.mark.parametrize(
    ("variable", "value"),
    [(messages.BASE_URL, "https://example.org"), (messages.MODEL, "no model"), (messages.KEY, "")],
)
def test_what_stood_against_asking_comes_again_with_its_remedy(monkeypatch, mode, variable, value):
    monkeypatch.setenv(messages.KEY, case.KEY)
    monkeypatch.setenv(variable, value)
    policy = builders.policy(planner={"mode": mode})
    campaign = Campaign(case.profile(), case.INTENTS, policy, case.TEMPLATES)
    with contextlib.suppress(InputError):
        campaign.propose()
    assert ("set" in campaign.error) == (mode == "claude"), "it says what to do"
    monkeypatch.delenv(variable, raising=False)
    found = replay(bundle.Bundle("", campaign.files()))
    assert {c.result for c in found.checks} == {"ok"}, found.checks
