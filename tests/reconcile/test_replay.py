# SPDX-License-Identifier: Apache-2.0
"""A replay takes no time and needs no luck: what the clock decided comes again, and a bundle may hold anything."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from controller.plan import Past, messages
from controller.plan.learning import Prior
from controller.plan.messages import CallFailed, Reply
from controller.plan.search.measure import Block, Exchange
from controller.reconcile import bundle
from controller.reconcile.record import Campaign
from controller.reconcile.replay import replay
from tests import builders
from tests.cli.harness import run
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
    note = campaign.propose().planner.note
    assert ("set " in note) == (mode == "claude"), "who asked for it is told what to do"
    monkeypatch.delenv(variable, raising=False)
    found = replay(bundle.Bundle("", campaign.files()))
    assert {c.result for c in found.checks} == {"ok"}, found.checks


# What a bundle may hold ----------------------------------------------------------------------------------------------

SAID = ("exchanges", 0, "reply")
BLOCK = Block(gains=(0.1,), guards=((0.0,),), margins=(0.1,), seconds=4)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    """Of a plan that had a prior and asked a model, with what a search would have measured beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCHEDCTL_STATE", str(tmp_path_factory.mktemp("state")))
        past = Past(prior=Prior("day-1", case.base(), 0.1, {"shop/checkout": "shop/checkout"}))
        campaign = Campaign(case.profile(), case.INTENTS, builders.policy(), case.TEMPLATES, past)
        campaign.propose(transport=case.Authored([case.strategy(), case.filling()]))
        campaign.measured = [Exchange(proposals=("a", "b"), block=number, measured=BLOCK) for number in range(2)]
        return campaign.files() | {"drafting.json": b'{"taken": [], "judged": []}'}


def put(value: Any, place: tuple[str | int, ...], new: object) -> Any:
    if not place:
        return new
    inside = value[place[0]] if isinstance(value, list) or place[0] in value else {}
    copy = list(value) if isinstance(value, list) else dict(value)
    copy[place[0]] = put(inside, place[1:], new)  # type: ignore[index]
    return copy


@pytest.mark.parametrize(
    ("name", "place", "new", "says"),
    [
        ("model.json", (*SAID, "text"), 5, "model.json: exchanges[0].reply.text: Input should be a valid string"),
        ("model.json", (*SAID, "stopReason"), None, "model.json: exchanges[0].reply.stopReason: Input should be a"),
        ("model.json", (*SAID, "usage", "input"), "many", "model.json: exchanges[0].reply.usage.input: Input should"),
        ("model.json", (*SAID, "usage", "output"), "1", "model.json: exchanges[0].reply.usage.output: Input should"),
        ("model.json", (*SAID, "usage", "output"), -1, "model.json: exchanges[0].reply.usage.output: Input should"),
        ("model.json", (*SAID, "usage"), 7, "model.json: exchanges[0].reply.usage: Input should be a valid"),
        ("model.json", (*SAID, "colour"), "red", "model.json: exchanges[0].reply.colour: Extra inputs are not"),
        ("model.json", SAID, None, "model.json: exchanges[0]: an exchange has either a reply or a failure"),
        ("model.json", ("exchanges",), 1, "model.json: exchanges: Input should be a valid"),
        ("model.json", ("clock",), ["soon"], "model.json: clock[0]: Input should be a valid number"),
        ("model.json", ("asked",), [], "model.json: asked: Input should be a valid dictionary"),
        ("model.json", (), [], "model.json: Input should be a valid dictionary"),
        ("campaign.json", ("day",), "\ud800", "campaign.json: day: "),
        ("campaign.json", ("planKey",), 5, "campaign.json: planKey: Input should be a valid string"),
        ("past.json", ("prior", "names"), {"a": []}, "past.json: prior.names.a: Input should be a valid string"),
        ("past.json", ("lessons",), 1, "past.json: lessons: Input should be a valid tuple"),
        ("intents.json", (0, "spec", "weight"), "x", "intents.json: [0].spec.weight: Input should be a valid integer"),
        ("intents.json", (), {}, "intents.json: a list is needed"),
        ("profile.json", ("windowNs",), 10**400, "profile.json: a whole number has 401 digits"),
        ("measured.json", (0, "measured", "gains"), [], "measured.json: [0].measured: a block has a gain for every"),
        ("measured.json", (0, "proposals"), ["a"], "measured.json: [0]: a block has a gain for every proposal after"),
        ("measured.json", (0, "measured"), None, "measured.json: [0]: a question to a bench has either a block or"),
        ("measured.json", (0, "measured"), {"gains": [1], "seconds": 1}, "measured.json: not every block has the same"),
        ("drafting.json", ("judged",), [5], "drafting.json: judged[0]: Input should be a valid dictionary"),
    ],
)  # fmt: skip
def test_what_a_bundle_may_not_hold_is_said_with_file_and_place(files, name, place, new, says):
    altered = json.dumps(put(json.loads(files[name]), place, new)).encode()
    (check,) = replay(bundle.Bundle("", {**files, name: altered})).checks
    assert (check.what, check.result) == ("bundle", "differs")
    assert check.detail.startswith(f"it cannot be replayed: {says}")


@pytest.mark.parametrize("text", [b"[" * 100_000, b"{", b"\xff", b""])
@pytest.mark.parametrize("name", ["model.json", "drafting.json"])
def test_what_is_no_json_is_said_with_its_file(files, name, text):
    (check,) = replay(bundle.Bundle("", {**files, name: text})).checks
    assert check.detail.startswith(f"it cannot be replayed: {name}: ")


def test_a_file_that_is_missing_is_named(files):
    for name in ("model.json", "ledger.jsonl", "past.json"):
        (check,) = replay(bundle.Bundle("", {n: data for n, data in files.items() if n != name})).checks
        assert check.detail == f"it cannot be replayed: {name} is missing"


def test_a_reply_as_bundles_had_it_before_is_read(files):
    model = json.loads(files["model.json"])
    for one in model["exchanges"]:
        one["reply"] |= {"stop_reason": one["reply"].pop("stopReason"), "request_id": one["reply"].pop("requestId")}
    kept = {n: data for n, data in files.items() if n not in ("measured.json", "drafting.json")}
    found = replay(bundle.Bundle("", {**kept, "model.json": json.dumps(model).encode()}))
    assert {c.result for c in found.checks} == {"ok"}, found.checks


def test_a_ledger_of_any_size_is_reckoned_with(files):
    line = b'{"call": "x", "phase": "before", "at": "2026-01-01T00:00:00Z", "policy": "default", "estimateUsd": 1%s}\n'
    replayed = replay(bundle.Bundle("", {**files, "ledger.jsonl": line % (b"0" * 400)}))
    assert "bundle" not in {c.what for c in replayed.checks}


def test_on_the_command_line_it_is_no_bug_of_ours(files, tmp_path):
    altered = put(json.loads(files["model.json"]), (*SAID, "text"), 5)
    bundle.write({**files, "model.json": json.dumps(altered).encode()}, tmp_path / "b")
    said = run("plan", "--replay", str(tmp_path / "b"))
    assert (said.code, said.out) == (1, "")
    assert "it cannot be replayed: model.json: exchanges[0].reply.text: Input should be a valid string" in said.err
    assert "bug" not in said.err
    (tmp_path / "b" / bundle.INDEX).write_text('{"files": {"a": {"digest": "x", "size": 1e999}}}')
    said = run("plan", "--replay", str(tmp_path / "b"))
    assert (said.code, "is no bundle: bundle.json cannot be read" in said.err) == (1, True), said.err
