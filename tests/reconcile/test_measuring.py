# SPDX-License-Identifier: Apache-2.0
"""The real bench of a search: what it says of candidates and machines that are no good, and two trials in a guest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from controller.api import Proposal
from controller.api.base import parse_duration
from controller.errors import ToolMissing
from controller.kernel import images, leftovers
from controller.kernel.images import KernelImage
from controller.kernel.microvm import VmShape
from controller.plan import Past
from controller.plan.search.measure import Block, Failure
from controller.reconcile import bundle
from controller.reconcile.measuring import Measuring
from controller.reconcile.planner import Planner
from controller.reconcile.replay import replay
from controller.source import GitStore
from controller.verify.trial import workloads
from tests import builders
from tests.conftest import missing
from tests.kernel.conftest import kernel_image
from tests.plan import claude_case as case
from tests.plan.search_case import Bench, need_optuna
from tests.reconcile.planning import Bench as Verifier
from tests.reconcile.planning import Told, observed, repository, rules
from tests.reconcile.test_planner import outcomes, revisions

TEMPLATES = {t.name: t for t in case.TEMPLATES}


@pytest.fixture(autouse=True)
def _homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "STATE"):
        monkeypatch.setenv(f"SCHEDCTL_{name}", str(tmp_path / name))


def nowhere() -> tuple[KernelImage, VmShape]:
    raise ToolMissing("there is no kernel image of 9.9", remedy="schedctl kernel pull 9.9")


def policy(**search: Any) -> Any:
    return builders.policy(planner={"mode": "search", "search": search})


def bench(where: Any = nowhere, **search: Any) -> Measuring:
    return Measuring(where, TEMPLATES, policy(**search))


def changed(**values: Any) -> Proposal:
    return case.base(template="latency-first").model_copy(update=values)


BASE = changed()
FASTER = changed(parameters={"slice": "1ms"})


def measured(given: Measuring, *proposals: Proposal, within_s: float = 300) -> Block | Failure:
    with given:
        return given.measure(proposals or (BASE, FASTER), 0, within_s)


@pytest.mark.parametrize(
    ("values", "stage"),
    [
        ({"parameters": {"slice": "1h"}}, "schema: "),
        ({"expressions": {"deadline": "deadline * nonsense"}}, "render: "),
        ({"template_digest": "sha256:" + "0" * 64}, "render: "),
    ],
)
@pytest.mark.parametrize("which", [0, 1])
def test_a_candidate_that_is_none_is_to_blame_by_number(values, stage, which):
    pair = [BASE, FASTER]
    pair[which] = changed(**values)
    said = measured(bench(), *pair)
    assert isinstance(said, Failure)
    assert (said.kind, said.which) == ("candidate", which)
    assert said.why.startswith(stage)


def test_a_candidate_that_does_not_compile_is_to_blame():
    text = TEMPLATES["latency-first"].text + "\nint broken = ;\n"
    template = TEMPLATES["latency-first"].with_text(text)
    from controller.render import template_digest

    given = Measuring(nowhere, {"latency-first": template}, policy())
    broken = changed(template_digest=template_digest(template))
    said = measured(given, broken, broken)
    assert isinstance(said, Failure)
    assert said.kind == "candidate"
    assert said.why.startswith(("lint: ", "build: "))


def test_a_machine_that_has_no_kernel_cannot_measure():
    said = measured(bench())
    assert isinstance(said, Failure)
    assert said.kind == "bench"
    assert said.why == "there is no kernel image of 9.9 (schedctl kernel pull 9.9)"


def test_an_image_that_does_not_boot_cannot_measure(tmp_path):
    image = tmp_path / "vmlinuz-9.9"
    image.write_bytes(b"no kernel")
    said = measured(bench(lambda: (KernelImage("9.9", image, "file"), VmShape())))
    assert isinstance(said, Failure)
    assert said.kind == "bench"


def test_a_workload_that_does_not_measure_the_objective_says_so():
    said = measured(bench(workload="kernelbuild-like"))
    assert isinstance(said, Failure)
    assert said.kind == "bench"
    assert "does not measure wakeupLatency" in said.why


def test_no_time_is_no_block():
    said = measured(bench(), within_s=0)
    assert isinstance(said, Failure)
    assert said.kind == "time"


# ---- the planner ----


def slow_slices(proposal: Proposal) -> float:
    """Worth more, the shorter the slice is."""
    return -parse_duration(proposal.parameters.get("slice", "5ms")) / 2e7


def searching(**search: Any) -> Any:
    return rules(planner={"mode": "search", "search": {"trials": 6, **search}})


def planner(store: GitStore, given: Any, told: Told) -> Planner:
    return Planner(store, reporter=told, examine=Verifier(), bench=lambda *arguments: nullcontext(given))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GitStore:
    need_optuna()
    monkeypatch.setattr("controller.reconcile.planner.verification_kernels", lambda policy, release: ())
    made = GitStore(repository(tmp_path, searching(), builders.intent()))
    made.put_status("n1", [observed()])
    return made


def test_a_planner_searches_commits_what_it_found_and_can_be_replayed(store):
    planner(store, Bench(slow_slices), Told()).step()
    (made,) = revisions(store)
    proposal = made.spec.proposal
    assert proposal.planner.name == "search"
    assert slow_slices(proposal) > -0.25
    assert made.spec.campaign is not None
    kept = bundle.find(made.spec.campaign)
    assert len(json.loads((kept / "measured.json").read_bytes())) >= 8
    found = replay(bundle.read(kept))
    assert {c.result for c in found.checks} == {"ok"}, found.checks
    assert found.proposal == proposal


def test_measurements_that_were_changed_are_noticed(store):
    planner(store, Bench(slow_slices), Told()).step()
    kept = bundle.read(bundle.find(revisions(store)[0].spec.campaign or ""))
    blocks = json.loads(kept.files["measured.json"])
    for each in blocks:
        each["measured"]["gains"] = [-g for g in each["measured"]["gains"]]
    files = {**kept.files, "measured.json": json.dumps(blocks).encode()}
    told = {c.what: c for c in replay(bundle.Bundle(bundle_digest(files), files)).checks}
    assert told["proposal"].result == "differs"


def bundle_digest(files: dict[str, bytes]) -> str:
    from controller.api import sha256

    return sha256(bundle.index_of(files))


def test_a_planner_whose_bench_is_broken_plans_by_rules_and_says_so(store):
    gone = Bench(trouble=lambda n, p: Failure(kind="bench", why="no QEMU", seconds=0))
    planner(store, gone, Told()).step()
    proposal = revisions(store)[0].spec.proposal
    assert (proposal.planner.name, proposal.planner.note) == ("rules", "search gave no proposal: no QEMU")
    assert outcomes(store)[0].outcome == "Planned"


def test_settings_of_a_search_make_another_key_for_search_alone():
    from controller.reconcile.keys import plan_key

    intents = (builders.intent(),)

    def key(mode: str, **search: Any) -> str:
        return plan_key(builders.policy(planner={"mode": mode, "search": search}), intents, builders.TARGET)

    assert key("search") != key("search", trials=3)
    assert (
        key("rules")
        == key("rules", trials=3)
        == plan_key(builders.policy(planner={"mode": "rules"}), intents, builders.TARGET)
    )


# ---- in a guest ----


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(workloads, "RUN_S", 0.08)
    before = set(leftovers._undo)
    yield
    assert set(leftovers._undo) == before, "no guest and no file is left"


@pytest.mark.kernel
@pytest.mark.usefixtures("short")
def test_two_trials_in_a_guest_and_nothing_is_left(monkeypatch):
    need_optuna()
    from controller.kernel import clang
    from controller.plan import search
    from controller.plan.search import course

    for blocks in ("MOST_BLOCKS", "FINAL_BLOCKS"):
        monkeypatch.setattr(course, blocks, 4)
    try:
        clang.find()
    except ToolMissing as error:
        missing(str(error))
    path = kernel_image("newest")
    image = KernelImage(images.release_of(path), path, "file")
    given = Measuring(lambda: (image, VmShape()), TEMPLATES, policy(trials=2, time="4m"), Told())
    with given:
        made = search.propose(BASE, TEMPLATES["latency-first"], policy(trials=2, time="4m"), Past(), given)
        assert given._kept is not None
        guest = given._kept.guest
    assert made.planner.name == "search", made.planner.note
    assert any(reason.startswith("search (optuna") for reason in made.reasons)
    assert sum(reason.startswith("candidate ") for reason in made.reasons) >= 2
    assert guest is not None
    assert not Path(f"/proc/{guest.pid}").exists()
    assert given._kept.guest is None


@pytest.mark.kernel
@pytest.mark.usefixtures("short")
def test_a_block_in_a_guest_is_paired_and_can_end_for_lack_of_time():
    path = kernel_image("newest")
    image = KernelImage(images.release_of(path), path, "file")
    with Measuring(lambda: (image, VmShape()), TEMPLATES, policy()) as given:
        said = given.measure((BASE, FASTER, BASE), 0, 240)
        assert isinstance(said, Block), said
        assert len(said.gains) == len(said.guards) == 2
        assert len(said.guards[0]) == len(said.margins) == 1
        assert 0 < said.setup_seconds < said.seconds
        again = given.measure((BASE, FASTER), 1, 240)
        assert isinstance(again, Block), again
        assert again.setup_seconds < said.setup_seconds, "the guest stays"
        late = given.measure((BASE, FASTER), 2, 0.01)
        assert isinstance(late, Failure)
        assert late.kind == "time"
