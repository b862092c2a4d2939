# SPDX-License-Identifier: Apache-2.0
"""How a trial is conducted: order, counts, budget, several candidates, and that its document holds its result.

The sampler is an authored one: what a run takes and gives is stated, so that what must follow can be, too.
"""

from __future__ import annotations

import collections
import itertools
import json
import math
import random
from dataclasses import dataclass, field, replace

import pytest

from controller.api import Metric, Verdict
from controller.api.policy import VerificationSpec
from controller.errors import InputError
from controller.verify.stages import Ended, Record
from controller.verify.trial import (
    Guardrail,
    TrialInconclusive,
    TrialRejected,
    TrialSpec,
    design,
    recompute,
    runner,
    spec,
    spec_for,
    workloads,
)
from controller.verify.trial.runner import Where, conduct, settle
from controller.verify.trial.workloads import Sizes
from tests.verify.candidates import filled

WHERE = Where("6.99.0", "sha256:" + "0" * 64, "cpus2.pkg1.smt1.llc1.numa1")
SPEC = TrialSpec("longtail", Metric.MAKESPAN, guardrails=(Guardrail(Metric.THROUGHPUT, 0.1),), budget_s=200)


@dataclass
class Machine:
    """A sampler whose arms take and give what the tests say, and its clock, which only running advances."""

    slower: dict[str, float] = field(default_factory=dict)
    others: dict[str, float] = field(default_factory=dict)
    noise: float = 0.05
    others_noise: float = 0.01
    run_s: float = 1.0
    sizes: Sizes = field(default_factory=lambda: Sizes(1_000_000, 100, 2))
    time: float = 0.0
    ran: list[tuple[str, int, int]] = field(default_factory=list)
    chance: random.Random = field(default_factory=lambda: random.Random(1))

    def sample(self, arm: str, work_seed: int, name_seed: int) -> dict[str, int]:
        self.ran.append((arm, work_seed, name_seed))
        self.time += self.run_s
        took = 1e9 * self.slower.get(arm, 1.0) * math.exp(self.chance.gauss(0, self.noise))
        done = 1e-6 * took * self.others.get(arm, 1.0) * math.exp(self.chance.gauss(0, self.others_noise))
        return {"elapsed_ns": round(took), "cpus": 2, "class.units": 10, "others.units": round(done)}

    def clock(self) -> float:
        return self.time


def trial(machine: Machine, wanted: TrialSpec = SPEC, **more):
    return conduct(wanted, machine, WHERE, clock=machine.clock, **more)


def test_every_block_has_each_arm_once_forth_and_once_back_and_each_order_as_often():
    made = design.blocks(("a", "b", "c"), 24, 7)
    assert all(block[:3] == block[:2:-1] and sorted(block[:3]) == ["a", "b", "c"] for block in made)
    orders = collections.Counter(block[:3] for block in made)
    assert orders == dict.fromkeys(itertools.permutations("abc"), 4)
    assert made == design.blocks(("a", "b", "c"), 24, 7) != design.blocks(("a", "b", "c"), 24, 8)


def test_the_runs_of_a_block_do_the_same_work_under_names_of_their_own():
    seeds = design.run_seeds(1, "trial", 3, 4)
    assert len({work for work, _name in seeds}) == 1
    assert len({name for _work, name in seeds}) == 4
    assert seeds != design.run_seeds(1, "aa", 3, 4)


def test_a_faster_candidate_is_better_and_the_document_says_so_again():
    machine = Machine(slower={"candidate": 0.8})
    done = trial(machine)
    assert done.result.verdict == "better"
    (against,) = done.result.comparisons
    assert against.reference == "baseline"
    assert against.low < 0.25 < against.high  # a makespan of 0.8 is a gain of 1/0.8 - 1
    assert recompute(done.document) == done.result
    assert done.document == json.dumps(json.loads(done.document), sort_keys=True, separators=(",", ":")).encode()
    settle(done.result)


def test_the_number_of_blocks_is_the_one_planned_from_the_noise():
    machine = Machine()
    done = trial(machine)
    document = json.loads(done.document)
    plan = document["plan"]
    assert plan["needed"] <= plan["blocks"] <= plan["affordable"]
    assert len(document["phases"]["trial"]) == plan["blocks"]
    assert len(document["phases"]["aa"]) == runner.AA_BLOCKS
    assert {arm for block in document["phases"]["aa"] for arm in block["arms"]} == {"baseline", "baseline-again"}
    assert done.result.pairs == 2 * plan["blocks"]
    assert done.result.runs == len(machine.ran) - 1  # all but the warm-up
    assert machine.time <= SPEC.budget_s
    louder = json.loads(trial(Machine(noise=0.06)).document)["plan"]
    assert louder["needed"] > plan["needed"]


def test_noise_above_what_the_time_can_show_is_inconclusive_with_the_pairs_that_would_do():
    machine = Machine(noise=0.4, slower={"candidate": 0.5})
    done = trial(machine)
    assert done.result.verdict == "inconclusive"
    assert done.result.pairs == 0
    assert done.result.pairs_needed > 2 * json.loads(done.document)["plan"]["affordable"]
    assert "candidate" not in {arm for arm, _work, _name in machine.ran}
    with pytest.raises(TrialInconclusive, match=f"{done.result.pairs_needed} pairs") as caught:
        settle(done.result)
    assert caught.value.figures["verdict"] == "inconclusive"
    assert recompute(done.document) == done.result


def test_a_slower_candidate_is_worse_and_the_stage_rejects_it():
    done = trial(Machine(slower={"candidate": 1.3}))
    assert done.result.verdict == "worse"
    with pytest.raises(TrialRejected) as caught:
        settle(done.result)
    assert caught.value.finding.rule == "trial/worse"
    assert caught.value.figures["baseline.class.makespan.verdict"] == "worse"


def test_a_broken_guardrail_outweighs_a_gain():
    done = trial(Machine(slower={"candidate": 0.7}, others={"candidate": 0.5}))
    assert [one.verdict for one in done.result.comparisons] == ["better"]
    (guard,) = done.result.guardrails
    assert (guard.metric, guard.verdict) == ("others.throughput", "broken")
    assert guard.gain == pytest.approx(-0.5, abs=0.05)
    assert done.result.verdict == "worse"
    assert "others.throughput regresses" in done.result.summary()


def test_a_guardrail_of_which_nothing_was_shown_is_a_warning():
    done = trial(Machine(others={"candidate": 1 / 1.1}, others_noise=0.03, chance=random.Random(2)))
    assert [guard.verdict for guard in done.result.guardrails] == ["unproven"]
    assert [finding.severity for finding in done.result.warnings()] == ["warn"]


def test_an_incumbent_is_an_arm_of_every_block_and_a_comparison():
    machine = Machine(slower={"candidate": 0.8, "incumbent": 0.8}, noise=0.02)
    done = trial(machine, replace(SPEC, incumbent=b"object"))
    assert [(one.reference, one.verdict) for one in done.result.comparisons] == [
        ("incumbent", "equivalent"),
        ("baseline", "better"),
    ]
    assert done.result.verdict == "equivalent"
    assert all(len(block["arms"]) == 6 for block in json.loads(done.document)["phases"]["trial"])


def test_the_best_of_several_is_measured_again_on_fresh_blocks():
    names = ("candidate", "candidate1", "candidate2")
    machine = Machine(slower={"candidate": 1.2, "candidate1": 0.7, "candidate2": 0.9}, noise=0.02)
    done = trial(machine, candidates=dict.fromkeys(names, "sha256:x"))
    assert done.chosen == 1
    phases = json.loads(done.document)["phases"]
    assert {arm for block in phases["screening"] for arm in block["arms"]} == {*names, "baseline"}
    assert not {tuple(seed) for b in phases["screening"] for seed in b["seeds"]} & {
        tuple(seed) for b in phases["trial"] for seed in b["seeds"]
    }
    after = machine.ran[-4 * len(phases["trial"]) :]
    assert {arm for arm, _work, _name in after} == {"candidate1", "baseline"}
    # What it was picked for plays no part in the verdict: other screening samples, same result.
    document = json.loads(done.document)
    for block in document["phases"]["screening"]:
        for run in block["runs"]:
            run["elapsed_ns"] *= 3
    again = recompute(json.dumps(document).encode())
    assert again == done.result


def test_a_trial_that_runs_out_of_time_is_no_verdict():
    """The machine becomes ten times slower once the blocks are planned; the blocks that were run are not judged."""

    class Slowing(Machine):
        def sample(self, arm: str, work_seed: int, name_seed: int) -> dict[str, int]:
            self.run_s = 10.0 if len(self.ran) > 4 * runner.AA_BLOCKS else 1.0
            return super().sample(arm, work_seed, name_seed)

    machine = Slowing(slower={"candidate": 0.5})
    done = trial(machine)
    assert done.result.verdict == "inconclusive"
    assert not done.result.comparisons
    assert done.result.pairs > 0
    assert machine.time <= 1.5 * SPEC.budget_s + 4 * machine.run_s
    assert recompute(done.document) == done.result


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{}", b'{"format":"schedctl.dev/trial/v1"}', b"\xff", b"[" * 100_000], ids=range(6)
)
def test_what_is_no_document_of_samples_is_refused(raw):
    with pytest.raises(InputError):
        recompute(raw)


def test_a_changed_sample_changes_the_result():
    done = trial(Machine(slower={"candidate": 0.8}))
    document = json.loads(done.document)
    for run in document["phases"]["trial"][0]["runs"]:
        run["elapsed_ns"] = 1
    assert recompute(json.dumps(document).encode()) != done.result


@pytest.mark.parametrize(
    ("verdict", "raised"),
    [(Verdict.REJECTED, Machine(slower={"candidate": 2.0})), (Verdict.ERROR, Machine(noise=0.5))],
    ids=["worse", "inconclusive"],
)
def test_in_the_passport_worse_is_rejected_and_inconclusive_is_an_error_both_with_figures(verdict, raised):
    class Quiet:
        def step(self, text): ...
        def done(self, text): ...
        def failed(self, text): ...

    record = Record(Quiet())
    with pytest.raises(Ended):
        record.run("trial", "is it better", lambda _outcome: settle(trial(raised).result))
    (stage,) = record.results
    assert stage.verdict is verdict
    assert stage.figures["objective"] == "class.makespan"
    assert stage.figures["pairs_needed"] > 0


# ---- what a trial is to show ----


@pytest.mark.parametrize("pair", filled(), ids=lambda pair: pair[0].name)
def test_a_proposals_trial_follows_from_its_heaviest_class(pair):
    _template, proposal = pair
    policy = VerificationSpec(minimum_detectable_effect=0.08, confidence=0.9)
    made = spec_for(proposal, policy)
    heaviest = max((one for one in proposal.classes), key=lambda one: one.weight)
    assert made.metric is heaviest.metric
    assert made.metric in spec.MEASURES[made.workload]
    assert (made.mde, made.confidence) == (0.08, 0.9)
    assert made == spec_for(proposal, policy)


@pytest.mark.parametrize(
    ("glob", "pattern"),
    [("php-fpm*", "php-fpm*"), ("nginx", "nginx"), ("w[ab]?", "wax"), ("*", "*"), ("a*b*", "a*b"),
     ("exactly-15-long", "exactly-15-long"), ("long-prefix-12*", "long-prefix-12")],
)  # fmt: skip
def test_a_class_is_given_names_that_its_glob_matches(glob, pattern):
    assert spec.pattern_of(glob) == pattern


def test_a_class_of_this_nodes_processes_has_no_trial():
    _template, proposal = filled()[0]
    match = proposal.classes[0].match.model_copy(update={"tgid": (77,)})
    bound = tuple(one.model_copy(update={"match": match}) for one in proposal.classes)
    with pytest.raises(InputError, match="tgid"):
        spec_for(proposal.model_copy(update={"classes": bound}), VerificationSpec())
    second = spec_for(proposal.model_copy(update={"classes": (bound[0], proposal.classes[1])}), VerificationSpec())
    assert second.comm == "batch"


@pytest.mark.parametrize(
    "wrong",
    [{"workload": "none"}, {"metric": Metric.EXTERNAL}, {"percentile": 42}, {"mde": 0.0}, {"twin": "{}"}],
    ids=str,
)
def test_a_trial_of_nothing_is_refused(wrong):
    with pytest.raises(InputError):
        replace(SPEC, **wrong)


# ---- what a sample means ----


def test_the_metrics_of_a_sample():
    sample = {"elapsed_ns": 2_000_000_000, "cpus": 2, "class.units": 10, "class.cpu_ns": 1_000_000_000,
              "others.late_p99_ns": 5}  # fmt: skip
    assert workloads.value("class.makespan", sample) == 2e9
    assert workloads.value("class.throughput", sample) == 5.0
    assert workloads.value("class.cpuShare", sample) == 0.25
    assert workloads.value("others.wakeupLatency.p99", sample) == 5.0
    assert [workloads.better(f"class.{name}") for name in ("makespan", "wakeupLatency.p50", "throughput")] == [
        -1,
        -1,
        1,
    ]


def test_rt_apps_logs_become_a_sample():
    logs = """file /tmp/twin/twin-work-0.log
#idx perf run period start end rel_st slack c_duration c_period wu_lat
   0 9 2000 8000 100000 108000 0 5900 2000 8000 70
   0 9 2100 8000 108000 116000 0 5900 2000 8000 90
file /tmp/twin/twin-hog-1.log
#idx perf run period start end rel_st slack c_duration c_period wu_lat
   0 9 5000 5000 99000 109000 0 0 5000 0 0
"""
    sample = workloads.twin_sample(logs, "work", 2)
    assert sample["elapsed_ns"] == 17_000_000
    assert (sample["class.units"], sample["others.units"]) == (2, 1)
    assert sample["class.cpu_ns"] == 4_100_000
    assert (sample["class.late_p50_ns"], sample["class.late_p99_ns"]) == (70_000, 70_000)
    assert sample["others.late_p99_ns"] == 0


def test_turns_that_no_timer_ended_say_nothing_of_latency():
    logs = """file /tmp/twin/twin-work-0.log
#idx perf run period start end rel_st slack c_duration c_period wu_lat
   0 9 2000 8000 100000 108000 0 5900 2000 8000 70
   0 9 2100 2100 108000 116000 0 0 2100 0 0
   0 9 2100 2100 108000 116000 0 0 2100 0 0
"""
    sample = workloads.twin_sample(logs, "work", 2)
    assert (sample["class.units"], sample["class.late_p50_ns"]) == (3, 70_000)


@pytest.mark.parametrize(("asked", "given_"), [("CPU0", 163), (100, 100), (None, 163)])
def test_the_guests_speed_goes_into_a_document_that_names_none(asked, given_):
    text = json.dumps({"global": {"calibration": asked} if asked else {}, "tasks": {"a": {}}})
    assert json.loads(workloads.twin_document(text, 162.6))["global"]["calibration"] == given_
    assert json.loads(workloads.twin_document(text))["global"].get("calibration") == asked
