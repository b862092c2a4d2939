# SPDX-License-Identifier: Apache-2.0
"""The grid of scenarios without a guest: its questions, what each planner answers, verdicts, shares, and resuming."""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import grid
from bench.kit import contenders
from bench.kit.beside import Stays
from bench.kit.contenders import MOST_POINTS, PLANNERS
from bench.kit.scenarios import SCENARIOS, Scenario, templates
from bench.kit.store import Store, wilson
from controller.api import Proposal, SchedulingIntent
from controller.errors import GuestError
from controller.plan.search.space import subject
from controller.render import render
from controller.verify import spec_for
from controller.verify.trial import TrialRejected
from controller.verify.trial.spec import OBJECTIVES
from scripts import planner_doc
from tests.plan.search_case import Bench, need_optuna

RELEASE, CPUS = "7.3.4-test", 2
each_scenario = pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=lambda s: s.name)


def blocks(gain: float, spread: float = 0.01, count: int = grid.BLOCKS, seed: int = 1) -> list[list[list[float]]]:
    """Of a metric of which more is better: `gain` in log units over the kernel's own."""
    chance = random.Random(seed)
    return [
        [[math.exp(gain + chance.gauss(0, spread)) for _ in range(2)], [math.exp(chance.gauss(0, spread))] * 2]
        for _ in range(count)
    ]


def row(gain: float = 0.1, spread: float = 0.01, **changes: Any) -> dict[str, Any]:
    found = {
        "digest": "d", "proposal": {"template": "weighted-fair"}, "note": "", "stays": "", "broke": "", "seconds": 50.0,
        "elsewhere": 0.01,
        "objective": "class.throughput", "rails": {}, "blocks": {"class.throughput": blocks(gain, spread)},
    }  # fmt: skip
    return found | changes


# ---- questions and answers ----


def test_there_are_twelve_and_they_differ():
    assert len(SCENARIOS) == 12
    specs = [s.trial for s in SCENARIOS.values()]
    assert {spec.workload for spec in specs} == set(OBJECTIVES) - {"twin"}
    assert len({spec.metric for spec in specs}) == 4
    assert {len(s.wants) for s in SCENARIOS.values()} == {1, 2}
    assert len({s.wants[0].weight for s in SCENARIOS.values()}) >= 4
    assert len({w.target for s in SCENARIOS.values() for w in s.wants}) >= 5


@each_scenario
def test_a_scenario_is_valid_and_the_rules_have_a_proposal(scenario: Scenario):
    for intent in scenario.intents:
        assert SchedulingIntent.model_validate_json(intent.model_dump_json(by_alias=True)) == intent
    profile = scenario.profile(RELEASE, CPUS)
    assert all(profile.workload(i.qualified_name) is not None for i in scenario.intents)
    assert sum(w.cpu_share for w in profile.workloads) <= 1
    for want, seen in zip(scenario.wants, profile.workloads, strict=False):
        assert seen.burst is not None
        assert seen.burst.percentile(99) == pytest.approx(want.seen.burst_us * 1000, rel=0.05)
    made = contenders.by_rules(scenario, RELEASE, CPUS)
    assert made.template in {t.name for t in scenario.suiting()}
    assert render(made, templates()[made.template]).text
    tested = subject(made)
    assert tested is not None
    assert tested.intent == scenario.intents[0].qualified_name
    assert made == contenders.by_rules(scenario, RELEASE, CPUS)


@each_scenario
def test_the_measured_tasks_are_the_heaviest_intents_and_the_others_the_second_ones(scenario: Scenario):
    trial = scenario.trial
    own = spec_for(contenders.by_rules(scenario, RELEASE, CPUS), scenario.policy("rules").spec.verification)
    assert (trial.comm, trial.metric) == (own.comm, own.metric)
    if len(scenario.wants) == 1:
        assert trial.others_comm == own.others_comm
    else:
        assert trial.others_comm == scenario.wants[1].comm
    assert trial.guardrails


@each_scenario
def test_chance_draws_the_same_point_for_the_same_seed_and_it_can_be_rendered(scenario: Scenario):
    drawn = [contenders.by_chance(scenario, RELEASE, CPUS, seed) for seed in range(8)]
    assert drawn == [contenders.by_chance(scenario, RELEASE, CPUS, seed) for seed in range(8)]
    assert len({p.substance() for p in drawn}) == 8
    suiting = {t.name for t in scenario.suiting()}
    assert {p.template for p in drawn} <= suiting
    assert len({p.template for p in drawn}) > 1 or len(suiting) == 1
    for proposal in drawn:
        assert render(proposal, templates()[proposal.template]).text


@each_scenario
def test_the_grid_is_small_has_every_suiting_template_and_no_point_twice(scenario: Scenario):
    points = contenders.grid(scenario, RELEASE, CPUS)
    assert 3 <= len(points) <= MOST_POINTS
    assert len({p.substance() for p in points}) == len(points)
    assert {p.template for p in points} == {t.name for t in scenario.suiting()}
    for point in points:
        assert render(point, templates()[point.template]).text


def test_what_a_grid_varies_is_in_the_templates_spaces():
    assert set(contenders.IMPORTANT) <= set(templates())
    for scenario in SCENARIOS.values():
        for template in scenario.suiting():
            space = contenders.space_on(scenario, template, RELEASE, CPUS)
            names = {each.name.rpartition(".")[2] for each in space.dimensions}
            wanted = contenders.IMPORTANT.get(template.name, ())
            assert wanted[0] in names, f"{template.name} in {scenario.name}"


def test_a_search_answers_as_it_is_told_by_its_bench():
    need_optuna()
    scenario = SCENARIOS["nightly-batch"]

    def worth(proposal: Proposal) -> float:
        return 0.3 if proposal.parameters.get("batch_slice", "10ms") != "10ms" else 0.0

    made = [contenders.by_search(scenario, RELEASE, CPUS, Bench(worth), **grid.SEARCH) for _ in range(2)]
    assert made[0] == made[1]
    assert made[0].planner.name == "search"
    assert "batch_slice" in made[0].parameters


# ---- one row ----


class Measures:
    """Stands in for a guest: what each proposal gains is authored; it may raise in place of that."""

    def __init__(self, gain: Any, others: Any = lambda _p: 0.0) -> None:
        self.gain, self.others = gain, others
        self.phases: list[str] = []

    def blocks(self, proposal: Proposal, count: int, phase: str) -> dict[str, Any]:
        self.phases.append(phase)
        made = {"class.throughput": blocks(self.gain(proposal), count=count)}
        return made | {"others.throughput": blocks(self.others(proposal), count=count)}

    def __enter__(self) -> Measures:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def measured(monkeypatch: pytest.MonkeyPatch, planner: str, given: Measures) -> dict[str, Any]:
    monkeypatch.setattr(grid, "Beside", lambda *_: given)
    found = grid.measure(grid.Job(RELEASE, CPUS, SCENARIOS["messages"], planner), SimpleNamespace(release=RELEASE))  # type: ignore[arg-type]
    found = json.loads(json.dumps(found))
    return found | grid.figures(found)


def test_a_grid_proposes_the_best_that_keeps_its_guardrails_and_measures_it_on_other_blocks(monkeypatch):
    def gain(proposal: Proposal) -> float:
        return {"throughput": 0.5, "locality": 0.3}.get(proposal.template, 0.1)

    def others(proposal: Proposal) -> float:
        return -0.4 if proposal.template == "throughput" else 0.0

    given = Measures(gain, others)
    found = measured(monkeypatch, "grid", given)
    assert found["proposal"]["template"] == "locality"
    assert {one["kept"] for one in found["tried"] if one["template"] == "throughput"} == {False}
    assert set(given.phases[:-1]) == {"grid/messages/pick"}
    assert given.phases[-1] == "grid/messages"
    assert found["verdict"] == "better"
    assert len(found["blocks"]["class.throughput"]) == grid.BLOCKS


def test_points_that_fail_are_passed_over_and_without_any_other_the_kernels_own_stays(monkeypatch):
    def gain(proposal: Proposal) -> float:
        if proposal.template == "throughput":
            raise Stays("lint: no")
        if proposal.template == "locality":
            raise TrialRejected("stuck", "it does not end")
        return 0.2

    found = measured(monkeypatch, "grid", Measures(gain))
    failed = {one["template"]: one["failed"] for one in found["tried"] if "failed" in one}
    assert failed == {"throughput": "lint: no", "locality": "it does not end"}
    assert found["proposal"]["template"] not in failed

    found = measured(monkeypatch, "grid", Measures(lambda _p: 0.5, lambda _p: -1.0))
    assert found["proposal"] is None
    assert "none ran and kept the guardrails" in found["stays"]
    assert (found["ratio"], found["verdict"]) == ([1.0, 1.0, 1.0], "not worse")


def test_what_never_comes_to_a_node_changes_nothing_and_what_breaks_there_is_worse(monkeypatch):
    def refused(_proposal: Proposal) -> float:
        raise Stays("load: the verifier says no")

    def breaks(_proposal: Proposal) -> float:
        raise TrialRejected("exit", "thrown out")

    def nobodys(_proposal: Proposal) -> float:
        raise GuestError("QEMU died")

    found = measured(monkeypatch, "rules", Measures(refused))
    assert (found["stays"], found["ratio"], found["verdict"]) == ("load: the verifier says no", [1, 1, 1], "not worse")
    found = measured(monkeypatch, "random", Measures(breaks))
    assert (found["broke"], found["ratio"], found["verdict"]) == ("thrown out", None, "worse")
    with pytest.raises(GuestError):
        measured(monkeypatch, "rules", Measures(nobodys))


# ---- verdicts and shares ----


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (1.001, 1.3, "better"),
        (1.0, 1.3, "not worse"),
        (0.953, 0.99, "not worse"),
        (0.952, 1.2, "unclear"),
        (0.5, 1.0, "unclear"),
        (0.5, 0.999, "worse"),
    ],
)
def test_a_verdict_is_of_the_interval(low: float, high: float, said: str):
    assert grid.verdict(low, high) == said
    assert grid.verdict(low, high, broken=True) == "worse"


def test_a_guardrail_that_is_shown_broken_makes_a_row_worse():
    rails = {"others.throughput": 0.1}
    good = row(rails=rails)
    good["blocks"]["others.throughput"] = blocks(-0.05, seed=2)
    assert grid.figures(good)["verdict"] == "better"
    good["blocks"]["others.throughput"] = blocks(-0.3, seed=2)
    found = grid.figures(good)
    assert (found["verdict"], found["broken"]) == ("worse", ["others.throughput"])
    assert found["ratio"][0] == pytest.approx(math.exp(0.1), rel=0.01)


def test_shares_count_better_as_not_worse_and_need_all_scenarios_to_meet_an_aim():
    found = grid.shares(["better"] * 8 + ["not worse"] * 3 + ["unclear"])
    assert found["better"]["share"] == pytest.approx(8 / 12, abs=1e-4)
    assert found["not worse"]["share"] == pytest.approx(11 / 12, abs=1e-4)
    assert found["better"]["interval95"] == [round(x, 4) for x in wilson(8, 12)]
    assert found["better"]["met"]
    assert found["not worse"]["met"]
    assert grid.shares(["better"] * 7 + ["worse"] * 5)["better"]["met"] is False
    assert grid.shares(["better"] * 11)["better"]["met"] is None


# ---- resuming ----


@pytest.fixture
def conducted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command with an authored measurement; gives the rows that it measured, and what it told."""
    done: list[str] = []

    def measure(job: grid.Job, _kernel: object) -> dict[str, Any]:
        if job.scenario.name == "pipes":
            raise GuestError("the guest died")
        done.append(f"{job.scenario.name}/{job.planner}")
        return row(digest=job.digest)

    monkeypatch.setattr(grid, "measure", measure)
    monkeypatch.setattr(grid.signal, "signal", lambda *_: None)  # the handler would stay for the tests after it
    monkeypatch.setattr(grid.images, "resolve", lambda _name: SimpleNamespace(release=RELEASE))
    where = {"measured": "2026-01-01T00:00:00", "qemu": "10.0", "accelerator": "tcg", "cpus": 2}
    monkeypatch.setattr(Store, "conditions", lambda self, _kernel: self.document.update(where))

    def run(*arguments: str) -> tuple[Sequence[str], str, str]:
        done.clear()
        monkeypatch.setattr(sys, "argv", ["grid.py", "--results", str(tmp_path), *arguments])
        monkeypatch.setattr(grid.course, "optuna", lambda: None)
        grid.main()
        said = capsys.readouterr()
        return list(done), said.err, said.out

    return run


def test_rows_are_measured_once_the_most_informative_first(conducted, tmp_path):
    done, _, _ = conducted("--scenario", "messages", "--scenario", "build", "--seconds", "9000")
    assert done == [f"{name}/{planner}" for planner in PLANNERS for name in ("messages", "build")]
    done, told, out = conducted("--scenario", "messages", "--scenario", "paid-share", "--seconds", "9000")
    assert done == [f"paid-share/{planner}" for planner in PLANNERS]
    assert "3 of 12 scenarios: not worse 100%" in told
    document = json.loads((tmp_path / "grid.json").read_text())
    assert document == json.loads(out)
    assert len(document["rows"]) == 12
    assert conducted("--scenario", "messages", "--seconds", "9000")[0] == []
    key = f"{RELEASE}/2/messages/grid"
    document["rows"][key]["digest"] = "of another template"
    document["rows"][f"{RELEASE}/2/messages/search"]["elsewhere"] = 0.3
    (tmp_path / "grid.json").write_text(json.dumps(document))
    asked = [word for name in ("messages", "messages", "urgent-work") for word in ("--scenario", name)]
    done, _, _ = conducted(*asked, "--seconds", "9000")
    assert done[-2:] == ["messages/search", "messages/grid"]
    assert done.count("messages/grid") == 1


def test_no_row_is_begun_that_would_not_end_in_time_and_none_is_kept_of_a_broken_machine(conducted, tmp_path):
    done, told, _ = conducted("--scenario", "messages", "--scenario", "pipes", "--seconds", "150")
    assert done == ["messages/rules", "messages/random"]
    assert f"{RELEASE}/2/pipes/rules: not measured: the guest died" in told
    assert "6 rows are still to be measured" in told
    assert len(json.loads((tmp_path / "grid.json").read_text())["rows"]) == 2


# ---- the page ----


def test_the_page_has_what_was_measured_and_says_what_was_not(conducted, tmp_path):
    page = planner_doc.document(tmp_path)
    assert f"{planner_doc.NOT_MEASURED}: `{planner_doc.GRID_COMMAND}`" in page
    conducted("--scenario", "messages", "--planner", "rules", "--planner", "random", "--seconds", "9000")
    page = planner_doc.document(tmp_path)
    assert f"{planner_doc.NOT_MEASURED}: `{planner_doc.GRID_COMMAND}`" not in page
    assert f"46 of the rows are {planner_doc.NOT_MEASURED}" in page
    line = next(x for x in page.splitlines() if x.startswith("| `messages` | 1."))
    assert "better; weighted-fair" in line
    assert line.count(planner_doc.NOT_MEASURED) == 2
    assert "†" not in line
    document = json.loads((tmp_path / "grid.json").read_text())
    rows = document["rows"]
    rows[f"{RELEASE}/2/messages/rules"] |= {"digest": "old", "elsewhere": 0.3}
    rows[f"{RELEASE}/2/messages/random"] |= {"stays": "load: no"}
    (tmp_path / "grid.json").write_text(json.dumps(document))
    line = next(x for x in planner_doc.document(tmp_path).splitlines() if x.startswith("| `messages` | 1."))
    assert line.count("†") == line.count("‡") == 1
    assert "1, not worse: the kernel's own stays (load: no)" in line
