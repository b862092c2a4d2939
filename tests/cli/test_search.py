# SPDX-License-Identifier: Apache-2.0
"""`schedctl search`: by field, by text, by distance, and what it says when it is asked wrongly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from controller.api import fingerprint_of
from controller.api.decode import encode
from tests import builders
from tests.cli.harness import T0, check_golden, commit, git, run, transcript
from tests.reconcile.planning import DAY, NEARBY, NIGHT, observed


def revision(name: str, load: dict[str, object], *, made: float, template: str, reason: str, intent: str = "checkout"):
    base = builders.revision(name, builders.policy(), (builders.intent(intent),), made=made)
    status = observed(load=load).status
    assert status is not None
    assert status.profile is not None
    workload = fingerprint_of(status.profile, ["shop/checkout"])
    proposal = base.spec.proposal.model_copy(
        update={"template": template, "reasons": (reason,), "parameters": {"slice": "2ms"}}
    )
    changes = {"workload": workload, "proposal": proposal}
    return base.model_copy(update={"spec": base.spec.model_copy(update=changes)})


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    path = tmp_path / "policies"
    path.mkdir()
    git(path, "init", "--quiet", "-b", "main")
    made = [
        revision("day-1", DAY, made=0, template="latency-first", reason="slice = 2ms: the target is 2 ms"),
        revision("night-1", NIGHT, made=3600, template="weighted-fair", reason="template weighted-fair suits most"),
        revision("near-1", NEARBY, made=7200, template="latency-first", reason="starts from revision day-1"),
        revision("batch-1", DAY, made=60, template="batch-order", reason="long jobs first", intent="nightly"),
    ]
    commit(path, {f"revisions/{r.name}.yaml": encode(r) for r in made}, "Start", T0)
    return path


@pytest.fixture
def profile(tmp_path: Path) -> str:
    status = observed(load=DAY).status
    assert status is not None
    assert status.profile is not None
    path = tmp_path / "before.json"
    path.write_bytes(status.profile.canonical())
    return str(path)


def found(repo: Path, *words: str) -> list[str]:
    said = run("search", *words, "-o", "name", repo=repo)
    assert (said.code, said.err) == (0, "")
    return [line.rpartition("/")[2] for line in said.out.splitlines()]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["near-1", "night-1", "batch-1", "day-1"]),
        ("template:latency-first", ["near-1", "day-1"]),
        ("template:latency-* !reason:starts*", ["day-1"]),
        ("metric:wakeupLatency template:weighted", ["night-1"]),
        ("metric:makespan", []),
        ("intent:shop/*", ["near-1", "night-1", "batch-1", "day-1"]),
        ("intents:shop/nightly", ["batch-1"]),
        ("LONG jobs", ["batch-1"]),
        ("!template:latency-first", ["night-1", "batch-1"]),
        ("day-1", ["day-1", "near-1"]),  # a name before a mention of it
        ("'the target is'", ["day-1"]),
        ("parameter:slice=2ms kernel:7.3.* policy:default planner:rules", ["near-1", "night-1", "batch-1", "day-1"]),
        ("nothing-like-it", []),
    ],
)
def test_words_and_fields(repo, query, names):
    assert found(repo, query) == names


def test_the_nearest_load_comes_first(repo, profile):
    assert found(repo, "--profile", profile, "--max-distance", "0.4") == ["batch-1", "day-1", "near-1"]
    assert found(repo, "--profile", profile, "--max-distance", "0") == ["batch-1", "day-1"]
    assert found(repo, "template:weighted-fair", "--profile", profile) == ["night-1"]


def test_what_it_looks_like(repo, profile):
    lines = [
        "search", "search intent:shop/checkout", "search template:latency-first -o wide", "search --no-headers day-1",
        "search --profile before.json metric:wakeupLatency", "search nothing-like-it", "search --limit 2",
        "search colour:red", "search metric:", "search \"'open\"", "search --max-distance 0.2", "search --limit x",
        "search --profile none.json", "search --profile before.json --max-distance 2", "search -o csv",
    ]  # fmt: skip
    text = transcript([line.replace("before.json", profile) for line in lines], repo, hide=((profile, "before.json"),))
    check_golden("search", text)


def test_structured(repo, profile):
    said = run("search", "template:latency-first", "--profile", profile, "-o", "json", repo=repo)
    hits = json.loads(said.out)["hits"]
    assert [hit["name"] for hit in hits] == ["day-1", "near-1"]
    assert hits[0]["distance"] == 0
    assert hits[0]["intents"] == [{"intent": "shop/checkout", "metric": "wakeupLatency"}]
    as_yaml = run("search", "template:latency-first", "--profile", profile, "-o", "yaml", repo=repo)
    assert yaml.safe_load(as_yaml.out)["hits"] == hits


def test_a_profile_of_other_names_is_compared_with_the_nearest_workload(repo, tmp_path):
    status = observed(load=NIGHT).status
    assert status is not None
    assert status.profile is not None
    (only,) = status.profile.workloads
    renamed = only.model_copy(update={"name": "nginx", "keyed_by": "comm"})
    path = tmp_path / "other.json"
    path.write_bytes(status.profile.model_copy(update={"workloads": (renamed,)}).canonical())
    assert found(repo, "--profile", str(path), "--max-distance", "0.1") == ["night-1"]
