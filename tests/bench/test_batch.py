# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of bench/batch.py, and that its eight batches are what they say: real programs, equal work."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from bench import batch
from bench.loads import batchjobs
from bench.loads.batchjobs import LONG, SHORT, WORKLOADS, Fit, Workload, lowest, short_seconds
from controller.errors import ToolMissing
from tests.conftest import missing

by_workload = pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.name)


def jobs(ends: list[int], used: list[int]) -> list[dict[str, object]]:
    """The first is the long one."""
    groups = [LONG] + [SHORT] * (len(ends) - 1)
    return [{"group": g, "end_ns": e, "cpu_ns": u, "code": 0} for g, e, u in zip(groups, ends, used, strict=True)]


def test_no_makespan_is_lower_than_the_work_by_the_cpus_nor_than_the_longest_job():
    assert lowest([7, *[1] * 9], 2) == 8
    assert lowest([9, *[1] * 5], 2) == 9
    assert lowest([7, *[1] * 19], 4) == 7


@pytest.mark.parametrize("times", [5, 7, 9])
def test_fair_sharing_takes_the_time_that_the_jobs_are_sized_for(times):
    """Fair sharing of 2 CPUs, simulated in steps of a 1000th of a short job."""
    left = [1000.0 * times] + [1000.0] * 9
    steps = 0
    while any(x > 0 for x in left):
        running = [i for i, x in enumerate(left) if x > 0]
        for i in running:
            left[i] -= min(1.0, 2 / len(running))
        steps += 1
    assert short_seconds(steps / 1000, times) == pytest.approx(1, rel=0.01)


def test_sizes_follow_from_two_probes():
    fit = Fit.of((100, 400), (0.11, 0.41))
    assert fit.start_s == pytest.approx(0.01)
    short, long = fit.sizes(0.2, 6, 10_000)
    assert fit.start_s + fit.each_s * short == pytest.approx(0.2, rel=0.02)
    assert fit.start_s + fit.each_s * long == pytest.approx(1.2, rel=0.02)
    short, long = fit.sizes(0.2, 6, 800)  # the input would not fit: both are smaller, as many times as before
    assert long == 800
    assert (fit.start_s + fit.each_s * long) / (fit.start_s + fit.each_s * short) == pytest.approx(6, rel=0.02)
    short, long = Fit.of((100, 1600), (0.3, 0.16)).sizes(0.2, 6, 1_000_000)  # nonsense, of the right order still
    assert 500 < short < 5000
    assert 5 < long / short < 10


@pytest.mark.parametrize("cpus", [2, 4])
@by_workload
def test_five_jobs_a_cpu_one_of_them_long_anywhere(workload: Workload, cpus: int):
    assert 5 <= workload.times <= 9
    made = [workload.batch(cpus, (10, 70), random.Random(seed)) for seed in range(20)]
    places = {[job["group"] for job in each].index(LONG) for each in made}
    assert len(places) > 3
    for each in made:
        assert len(each) == 5 * cpus
        assert [job["group"] for job in each].count(LONG) == 1
        assert len({str(job) for job in each if job["group"] == SHORT}) in (1, 5 * cpus - 1)
    assert workload.batch(cpus, (10, 70), random.Random(3)) == made[3]


@by_workload
def test_the_program_does_its_work(workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run here, small: the input is made and a job takes it, and another of another size says something else."""
    if workload.missing():
        missing(", ".join(workload.missing()))
    monkeypatch.setattr(batchjobs, "FOLDER", str(tmp_path))
    said = []
    for number, size in enumerate((60, 600)):
        subprocess.run(["sh", "-ec", workload.script(size)], check=True, timeout=60)
        job = workload.job(SHORT, size, number)
        if job["before"]:
            subprocess.run(["sh", "-ec", job["before"]], check=True, timeout=60)
        done = subprocess.run(job["argv"], capture_output=True, check=True, timeout=60)
        objects = list((tmp_path / f"job{number}").rglob("objects/??/*"))
        assert done.stderr == b""
        said.append((done.stdout, len(objects)))
    assert said[0] != said[1]
    assert said[1][0] or said[1][1] == 600


def test_a_row_gives_ratio_bound_and_the_latest_short_job():
    own = batch.Run("own", jobs([1100, *[480] * 9], [700, *[100] * 9])).kept(2)
    mine = batch.Run("template", jobs([720, *[810] * 9], [700, *[100] * 9])).kept(2)
    row = {"workload": "join", "samples": [[mine, own, own, mine], [own, mine, mine, own]]}
    found = batch.figures(row)
    assert found["ratio"] == [pytest.approx(810 / 1100, abs=1e-4)] * 3
    assert found["bound_ratio"] == pytest.approx(800 / 1100, abs=1e-4)
    assert found["short_latest_ratio"] == pytest.approx(810 / 1100, abs=1e-4)
    assert found["times"] == 7
    assert found["blocks"] == 2


def test_what_must_be_shown_is_shown_by_the_mean_of_all_eight():
    row = {"ratio": [0.78, 0.76, 0.80], "bound_ratio": 0.76, "short_latest_ratio": 0.9}
    assert batch.means([row] * 8)["met"]
    assert not batch.means([row] * 7)["met"]
    assert not batch.means([row | {"bound_ratio": 0.70}] * 8)["met"]
    assert batch.means([row | {"ratio": [0.74, 0.7, 0.78], "bound_ratio": 0.6}] * 8)["met"]
    assert not batch.means([row] * 7 + [row | {"short_latest_ratio": 1.01}])["met"]


def test_the_two_arms_of_a_half_launch_the_same_jobs_in_the_same_order():
    for index in (0, 1):
        runs = batch.block_runs(WORKLOADS[0], 2, (10, 70), index)
        assert runs[0]["jobs"] == runs[1]["jobs"]
        assert runs[2]["jobs"] == runs[3]["jobs"]
        assert sorted(run["arm"] for run in runs[:2]) == sorted(run["arm"] for run in runs[2:]) == ["own", "template"]
        assert len({run["seed"] for run in runs}) == 4


def test_the_planner_fills_in_the_lengths_that_were_measured():
    seen = batch.profile("7.3.4-test", 2, batch.Run("own", jobs([1100] * 10, [2_000_000_000, *[300_000_000] * 9])))
    try:
        proposal, _, classes = batch.planned("declared", seen)
    except ToolMissing as error:
        missing(error.message, error.remedy)
    assert proposal.template == "batch-order"
    assert {c.intent: c.parameters.get("length") for c in proposal.classes} == {
        "batch/long": "2s", "batch/short": "300ms"
    }  # fmt: skip
    assert classes == {LONG: 1, SHORT: 2}
    proposal, _, classes = batch.planned("unknown", seen)
    assert [c.parameters for c in proposal.classes] == [{}]
    assert classes == {LONG: 1, SHORT: 1}


def test_the_runner_starts_programs_under_random_names_and_tells_how_they_end(tmp_path: Path):
    """Here, where a folder stands in for the cgroup."""
    script = f"""
import json, pathlib, sys
sys.path.insert(0, {str(Path(batchjobs.__file__).parent)!r})
import batchrunner
batchrunner.CGROUP, batchrunner.FOLDER = pathlib.Path("cgroup"), pathlib.Path.cwd() / "jobs"
for group in ("long", "short"):
    (batchrunner.CGROUP / group).mkdir(parents=True)
jobs = [
    {{"group": "short", "argv": ["dd", "if=/proc/self/comm", f"of={{pathlib.Path.cwd()}}/comm{{i}}"], "before": ""}}
    for i in range(2)
]
jobs.append({{"group": "long", "argv": ["sh", "-c", "exit 3"], "before": "touch before"}})
print(json.dumps([batchrunner.run(jobs, seed) for seed in (1, 2)]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    runs = json.loads(done.stdout)
    assert [[job["code"] for job in run] for run in runs] == [[0, 0, 3]] * 2
    assert [[job["group"] for job in run] for run in runs] == [["short", "short", "long"]] * 2
    assert all(job["end_ns"] > 0 and job["cpu_ns"] > 0 for run in runs for job in run)
    names = {(tmp_path / f"comm{i}").read_text() for i in range(2)}
    assert len(names) == 2
    assert all(len(name.strip()) == 10 for name in names)
    assert (tmp_path / "before").exists()
    assert (tmp_path / "cgroup" / "long" / "cgroup.procs").read_text() == "0"
