# SPDX-License-Identifier: Apache-2.0
"""A campaign is recorded with all that went into it, comes out the same again, and says what was changed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.api import KernelColumn, Proposal, StageResult, Verdict, sha256
from controller.errors import InputError
from controller.plan import messages, tape
from controller.plan.bridge import Bridge
from controller.plan.testing import MessagesServer, Scripted, answer, overloaded, rate_limited
from controller.reconcile import bundle
from controller.reconcile.record import Campaign
from controller.reconcile.replay import Check, replay
from controller.source import GitStore
from controller.verify.trial.runner import Where, conduct
from tests import builders
from tests.builders import TARGET
from tests.cli.harness import run
from tests.plan import bridging
from tests.plan import claude_case as case
from tests.reconcile.planning import Bench, observed, planner, profile_file, repository, rules
from tests.reconcile.test_planner import outcomes, revisions
from tests.verify.trial.test_runner import SPEC, Machine

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def _homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "STATE", "CACHE"):
        monkeypatch.setenv(f"SCHEDCTL_{name}", str(tmp_path / name))
    for name in (messages.KEY, messages.BASE_URL, messages.MODEL):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("controller.reconcile.planner.verification_kernels", lambda policy, release: ())


@pytest.fixture(scope="module")
def conducted():
    """A trial of a candidate that is a fifth quicker, on an authored machine."""
    where = Where(TARGET.kernel_release, TARGET.btf_digest, TARGET.topology_class)
    machine = Machine(slower={"candidate": 0.8})
    return conduct(SPEC, machine, where, clock=machine.clock)


@pytest.fixture
def kept(tmp_path: Path, conducted: Any) -> Path:
    """The bundle of a whole campaign of the planner, with a trial."""
    tried = StageResult(
        stage="trial", verdict=Verdict.PASS, summary="better", figures=dict(conducted.result.figures())
    )  # fmt: skip
    bench = Bench(trial=tried, samples={f"trial-{TARGET.kernel_release}.json": conducted.document})
    store = GitStore(repository(tmp_path, rules(), builders.intent()))
    store.put_status("n1", [observed()])
    planner(store, bench).step()
    (made,) = revisions(store)
    assert made.spec.campaign is not None
    assert outcomes(store)[0].campaign == made.spec.campaign
    return bundle.find(made.spec.campaign)


def results(checks: tuple[Check, ...]) -> dict[str, str]:
    return {check.what: check.result for check in checks}


def test_a_whole_campaign_comes_out_the_same_to_the_byte(kept):
    found = replay(bundle.read(kept))
    assert set(results(found.checks).values()) == {"ok"}, found.checks
    assert found.proposal is not None
    assert found.proposal.canonical() == (kept / "proposal.json").read_bytes()
    assert found.source == (kept / "scheduler.bpf.c").read_bytes()
    assert found.object == (kept / "scheduler.bpf.o").read_bytes()
    assert found.verdict is Verdict.PASS
    assert {"proposal", "source", "object", "verdict", f"trial on {TARGET.kernel_release}"} <= results(
        found.checks
    ).keys()


def altered(kept: Path, name: str, old: bytes, new: bytes) -> bundle.Bundle:
    """The bundle with one file changed, and an index that knows of it: as by somebody who wants it to pass."""
    data = (kept / name).read_bytes()
    assert old in data
    files = {**bundle.read(kept).files, name: data.replace(old, new, 1)}
    return bundle.Bundle(sha256(bundle.index_of(files)), files)


@pytest.mark.parametrize(
    ("name", "old", "new", "what", "says"),
    [
        ("proposal.json", b'"template":"latency-first"', b'"template":"latency-second"', "proposal",
         'template is "latency-first", "latency-second" was recorded'),
        ("scheduler.bpf.c", b"struct", b"strukt", "source", "differs from line"),
        ("passport.json", b'"verdict":"pass"}', b'"verdict":"rejected"}', "verdict", "pass was recorded"),
        ("intents.json", b'"weight": 100', b'"weight": 101', "proposal", "classes[0].weight is 101, 100 was recorded"),
        ("templates.json", b"latency", b"latenzy", "proposal", "recorded was a proposal"),
        ("policy.json", b'"latency-first"', b'"throughput"', "proposal", "recorded was a proposal"),
    ],
)  # fmt: skip
def test_a_change_that_the_index_covers_shows_in_what_comes_out(kept, name, old, new, what, says):
    found = replay(altered(kept, name, old, new))
    told = {check.what: check for check in found.checks}
    assert told[what].result == "differs", found.checks
    assert says in told[what].detail


def test_a_changed_object_or_sample_is_named(kept):
    data = bytearray((kept / "scheduler.bpf.o").read_bytes())
    data[100] ^= 1
    files = {**bundle.read(kept).files, "scheduler.bpf.o": bytes(data)}
    told = {c.what: c for c in replay(bundle.Bundle("", files)).checks}
    assert told["object"].result == "differs"
    assert "from byte 100 on" in told["object"].detail
    (name,) = [n for n in files if n.startswith("evidence/")]
    told = {c.what: c for c in replay(bundle.Bundle("", {**files, name: b"{}"})).checks}
    assert told[name.replace("/", " ")].result == "differs"
    unread = files[name] + b"\n"
    told = {c.what: c for c in replay(bundle.Bundle("", {**files, name: unread})).checks}
    assert told[name.replace("/", " ")].result == "differs"
    assert told[f"trial on {TARGET.kernel_release}"].detail.startswith("not recomputed: trial-")
    assert told["verdict"].result == "differs"


def test_every_changed_byte_is_noticed_by_its_file(kept):
    for path in sorted(p for p in kept.rglob("*") if p.is_file() and p.name != bundle.INDEX):
        data = path.read_bytes()
        name = str(path.relative_to(kept))
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if data else b"x")
        found = bundle.read(kept)
        assert list(found.problems) == [name]
        assert "was changed" in found.problems[name]
        path.write_bytes(data)
    assert bundle.read(kept).problems == {}


# With a model ----------------------------------------------------------------------------------------------------


def asked(monkeypatch: pytest.MonkeyPatch, script: list[Scripted], **planner_: Any) -> Campaign:
    """A campaign in which a model was asked over the real wire."""
    policy = builders.policy(planner={"mode": "auto", **planner_})
    campaign = Campaign(case.profile(), case.INTENTS, policy, case.TEMPLATES)
    with MessagesServer(script) as server:
        monkeypatch.setenv(messages.KEY, case.KEY)
        monkeypatch.setenv(messages.BASE_URL, server.base_url)
        campaign.propose()
    monkeypatch.delenv(messages.KEY, raising=False)
    return campaign


def again(campaign: Campaign) -> tuple[dict[str, Check], Proposal | None]:
    found = replay(bundle.Bundle("", campaign.files()))
    return {c.what: c for c in found.checks}, found.proposal


ALONE = case.strategy(aims=[], holes=[])
"""A planner's answer that leaves the executor nothing to do."""
SCRIPTS = {
    "answered": case.good(),
    "refused once": [answer("nonsense"), *case.good()],
    "overloaded": [overloaded(), *case.good()],
    "rate limit": [rate_limited(3600)],
    "nonsense": [answer("no")] * 3,
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_a_model_answered_is_answered_again_without_key_or_network(monkeypatch, tmp_path, name):
    monkeypatch.setattr("controller.plan.tape.time.sleep", lambda seconds: None)
    campaign = asked(monkeypatch, SCRIPTS[name])
    assert campaign.proposal is not None
    ledger = (tmp_path / "STATE" / "planner-ledger.jsonl").read_bytes()
    checks, proposal = again(campaign)
    assert checks["proposal"].result == "ok", checks
    assert proposal == campaign.proposal
    assert len(campaign.tape.exchanges) == len(SCRIPTS[name])
    assert (tmp_path / "STATE" / "planner-ledger.jsonl").read_bytes() == ledger  # a replay costs and counts nothing
    whole = b"".join(campaign.files().values())
    assert case.KEY.encode() not in whole


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("controller.plan.bridge.POLL_S", 0.01)
    made = tmp_path / "bridge"
    made.mkdir(mode=0o700)
    return made


BRIDGED = {
    "answered": [case.strategy(), case.filling()],
    "refused once": [{"nonsense": 1}, case.strategy(), case.filling()],
    "nonsense": ["no"] * 3,
    "no answer": [],
}


@pytest.mark.parametrize("name", BRIDGED)
def test_what_came_over_the_file_bridge_comes_out_the_same(folder, tmp_path, name):
    campaign = Campaign(case.profile(), case.INTENTS, builders.policy(planner={"mode": "rules"}), case.TEMPLATES)
    answers = list(BRIDGED[name])
    with contextlib.ExitStack() as stack:
        if answers:
            stack.enter_context(bridging.answering(folder, answers))
        campaign.propose(transport=Bridge(folder, patience_s=20 if answers else 0.2))
    shutil.rmtree(folder)
    assert campaign.proposal is not None
    assert campaign.proposal.planner.name == ("claude" if name in ("answered", "refused once") else "rules")
    assert answers == []
    ledger = (tmp_path / "STATE" / "planner-ledger.jsonl").read_bytes()
    kept = campaign.files()
    found = replay(bundle.Bundle("", kept))
    assert {c.result for c in found.checks} == {"ok"}, found.checks
    assert found.proposal is not None
    assert found.proposal.canonical() == kept["proposal.json"]
    assert len(campaign.tape.exchanges) == len(BRIDGED[name]) or name == "no answer"
    cost = tape.cost_of(campaign.tape.exchanges)
    assert (cost.calls, cost.usd) == (max(len(BRIDGED[name]), 1), None), "what it cost is not known"
    assert (tmp_path / "STATE" / "planner-ledger.jsonl").read_bytes() == ledger


def test_a_bundle_of_the_bridge_asks_nobody_else(folder, monkeypatch):
    """A key that is there at the replay changes nothing, nor does a changed answer pass."""
    campaign = Campaign(case.profile(), case.INTENTS, builders.policy(planner={"mode": "auto"}), case.TEMPLATES)
    with bridging.answering(folder, [case.strategy(), case.filling()]):
        campaign.propose(transport=Bridge(folder, patience_s=20))
    with MessagesServer([]) as server:
        monkeypatch.setenv(messages.KEY, case.KEY)
        monkeypatch.setenv(messages.BASE_URL, server.base_url)
        checks, proposal = again(campaign)
        assert server.requests == []
    assert (checks["proposal"].result, proposal) == ("ok", campaign.proposal)
    files = campaign.files()
    changed = {**files, "model.json": files["model.json"].replace(b"1.5ms", b"1.6ms")}
    assert changed != files
    assert {c.what: c.result for c in replay(bundle.Bundle("", changed)).checks}["proposal"] == "differs"


def test_cost_is_of_the_recorded_bills_and_unknown_when_one_is(monkeypatch):
    campaign = asked(monkeypatch, [answer(ALONE, input_tokens=1_000_000, output_tokens=0)])
    paid = tape.cost_of(campaign.tape.exchanges)
    assert paid.calls == 1
    assert paid.usd is not None
    assert paid.usd > 0
    (one,) = campaign.tape.exchanges
    assert tape.cost_of([one, tape.Exchange(request={}, failure=tape.Failure(message="?"))]).usd is None
    assert tape.cost_of([one.model_copy(update={"request": {"model": "unheard-of"}})]).usd is None
    assert tape.cost_of([]).usd == 0


def test_a_changed_answer_or_question_is_named(monkeypatch):
    campaign = asked(monkeypatch, case.good())
    files = campaign.files()
    model = json.loads(files["model.json"])
    said = json.loads(model["exchanges"][1]["reply"]["text"])
    said["parameters"] = [{"name": "slice", "value": "3ms"}]
    model["exchanges"][1]["reply"]["text"] = json.dumps(said)
    found = replay(bundle.Bundle("", {**files, "model.json": json.dumps(model).encode()}))
    (check,) = [c for c in found.checks if c.what == "proposal"]
    assert (check.result, check.detail.startswith("parameters.slice is")) == ("differs", True)
    model = json.loads(files["model.json"])
    model["exchanges"][0]["request"]["max_tokens"] = 1
    found = replay(bundle.Bundle("", {**files, "model.json": json.dumps(model).encode()}))
    (check,) = [c for c in found.checks if c.what == "proposal"]
    assert "request 1 of the model is not the recorded one: maxTokens" in check.detail.replace(
        "max_tokens", "maxTokens"
    )


def test_an_empty_budget_is_found_empty_again(monkeypatch, tmp_path):
    first = asked(monkeypatch, [answer(ALONE, input_tokens=11_000_000, output_tokens=0)])
    assert first.proposal is not None
    second = asked(monkeypatch, [])
    assert second.proposal is not None
    assert "are spent" in second.proposal.planner.note
    checks, proposal = again(second)
    assert checks["proposal"].result == "ok"
    assert proposal == second.proposal


# Bundles ---------------------------------------------------------------------------------------------------------


def test_the_newest_are_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(bundle, "MAX_KEPT", 3)
    made = []
    for number in range(5):
        digest = bundle.keep({"a.json": str(number).encode()})
        os.utime(bundle.find(digest), (number, number))
        made.append(digest)
    assert bundle.keep({"a.json": b"4"}) == made[-1]
    left = sorted(f"sha256:{p.name}" for p in bundle.kept_folder().iterdir())
    assert left == sorted(made[2:])
    monkeypatch.setattr(bundle, "MAX_KEPT_BYTES", 10_000)
    big = bundle.keep({"b.bin": b"x" * 20_000})
    assert [f"sha256:{p.name}" for p in bundle.kept_folder().iterdir()] == [big]


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/b/c", "", "evidence/../x", ".hidden"])
def test_a_bundle_names_nothing_outside_itself(tmp_path, name):
    folder = tmp_path / "evil"
    folder.mkdir()
    index = {"format": bundle.FORMAT, "files": {name: {"digest": "sha256:0", "size": 1}}}
    (folder / bundle.INDEX).write_text(json.dumps(index))
    found = bundle.read(folder)
    assert found.files == {}
    assert list(found.problems) == [name]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "x", "files": {}}', '{"files": {"a": 1}}', "\xff"])
def test_what_is_no_bundle(tmp_path, text):
    folder = tmp_path / "none"
    folder.mkdir()
    (folder / bundle.INDEX).write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"is no bundle|has the format"):
        bundle.read(folder)


# The command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def profile(tmp_path: Path) -> str:
    return profile_file(tmp_path)


def test_record_and_replay_on_the_command_line(tmp_path, profile):
    repo = repository(tmp_path, rules(), builders.intent())
    made = run("plan", "-f", profile, "--record", str(tmp_path / "b"), repo=repo)
    assert made.code == 0, made.err
    assert made.err.startswith("recorded sha256:")
    shutil.rmtree(repo)  # nothing but the bundle is needed
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('the network was asked')\n"
        "socket.socket.connect = refuse\n"
        "from controller.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "plan", "--replay", str(tmp_path / "b")],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        env={k: v for k, v in os.environ.items() if k != messages.KEY},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == made.out
    assert done.stderr.splitlines()[-1].endswith("is the same in every byte")
    path = tmp_path / "b" / "profile.json"
    path.write_bytes(path.read_bytes().replace(b'"tasks": 4', b'"tasks": 5', 1))
    changed = run("plan", "--replay", str(tmp_path / "b"))
    assert changed.code == 1
    assert re.search(r"profile\.json +differs +was changed: it is sha256:", changed.err)
    assert yaml.safe_load(changed.out)["template"] == "latency-first"


def test_a_plan_by_the_file_bridge_is_recorded_and_replayed_on_the_command_line(tmp_path, profile, folder):
    allow = {"allow": ["latency-first"]}
    repo = repository(tmp_path, builders.policy(templates=allow), builders.intent())
    said = [case.strategy(template="t1", aims=[], holes=["deadline"]), case.filling(parameters=[], classes=[])]
    words = ("plan", "-f", profile, "--bridge", str(folder), "--record", str(tmp_path / "b"))
    with bridging.answering(folder, said):
        made = run(*words, repo=repo)
    assert made.code == 0, made.err
    assert yaml.safe_load(made.out)["planner"] == {"name": "claude", "version": "bridge", "note": ""}
    shutil.rmtree(repo)
    shutil.rmtree(folder)
    again = run("plan", "--replay", str(tmp_path / "b"))
    assert (again.code, again.out) == (0, made.out), again.err
    assert again.err.splitlines()[-1].endswith("is the same in every byte")


def test_a_plan_that_failed_is_recorded_too(tmp_path, profile):
    repo = repository(tmp_path, rules(templates={"allow": ["batch-order"]}), builders.intent())
    made = run("plan", "-f", profile, "--record", str(tmp_path / "b"), repo=repo)
    assert made.code == 1
    said = run("plan", "--replay", str(tmp_path / "b"))
    assert (said.code, said.out) == (0, "")
    assert "nothing was proposed: no template that policy default allows (batch-order) suits" in said.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--replay", "nowhere"], 'there is no bundle "nowhere"'),
        (["--replay", "sha256:0123456789"], 'there is no bundle "sha256:0123456789"'),
        (["--replay", "."], "is no bundle: bundle.json"),
        (["--replay", "x", "-f", "y"], "takes everything from the bundle"),
        (["--record", ".", "-f", "PROFILE"], "exists already"),
    ],
)
def test_wrong_words(tmp_path, profile, monkeypatch, words, says):
    repo = repository(tmp_path, rules(), builders.intent())
    monkeypatch.chdir(tmp_path)
    said = run("plan", *[profile if w == "PROFILE" else w for w in words], repo=repo)
    assert said.code == 1
    assert says in said.err
    assert "Traceback" not in said.err


def test_a_passport_with_another_verdict_in_a_column_is_noticed(kept):
    files = dict(bundle.read(kept).files)
    passport = json.loads(files["passport.json"])
    column = KernelColumn.model_validate(passport["kernels"][0])
    assert column.stages[-1].stage == "trial"
    passport["kernels"][0]["stages"][-1]["figures"]["noise_percent"] = 0.001
    found = replay(bundle.Bundle("", {**files, "passport.json": json.dumps(passport).encode()}))
    told = {c.what: c for c in found.checks}
    assert told[f"trial on {TARGET.kernel_release}"].result == "differs"
    assert "noise_percent" in told[f"trial on {TARGET.kernel_release}"].detail
