# SPDX-License-Identifier: Apache-2.0
"""The benches of the templates: what they measure next, how a row is made of blocks, and that their loads run."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import families, templates
from bench.kit import filled
from bench.kit.charge import InCharge
from bench.kit.loads import LOADS
from bench.kit.store import Store, ratios
from controller.api import STAGES
from controller.errors import CandidateRejected, ToolMissing
from controller.kernel.images import KernelImage
from controller.kernel.initramfs import build_load_generator
from controller.kernel.microvm import VmShape, boot
from controller.render import builtin_templates
from controller.verify import Candidate, examine
from tests.conftest import missing
from tests.kernel.conftest import kernel_image
from tests.verify.candidates import proposal_for

IMAGE = KernelImage("7.3.4", Path("vmlinuz"), "archive")


def _jobs(*families_: str) -> list[templates.Job]:
    return [templates.Job(IMAGE, 2, family, load) for family in families_ for load in LOADS.values()]


def _row(family: str, blocks: int, **more: Any) -> dict[str, Any]:
    digest = filled.current(family)
    measured = {"class.throughput": [[[1.0], [1.0]]] * blocks}
    return {"digest": digest, "punctual": True, "blocks": measured, "left": "", **more}


def test_every_family_of_the_catalogue_is_measured_and_has_a_home():
    assert filled.names() == [template.name for template in builtin_templates()]
    for name in filled.names():
        load = LOADS[filled.home(name)]
        assert filled.aim(name) in ("", *load.metrics)
        assert f'"{filled.COMM.rstrip("*")}' in filled.text(name)  # the class is matched by that name


def test_what_a_scheduler_costs_comes_first_then_each_on_its_own_load():
    order = [(job.family, job.load.name) for job in templates.planned(_jobs("locality", "weighted-fair"), {}, 12)]
    assert set(order[:2]) == {("weighted-fair", "pipe"), ("weighted-fair", "hackbench")}
    assert order[2:4] == [(name, filled.home(name)) for name in ("locality", "weighted-fair")]
    assert len(order) == 2 * len(LOADS)


def test_what_is_there_is_not_measured_again_and_what_changed_is_last():
    jobs = _jobs("locality")
    rows = {job.key: _row("locality", 12) for job in jobs}
    assert templates.planned(jobs, rows, 12) == []
    rows[jobs[0].key] = _row("locality", 12) | {"digest": "other"}
    rows[jobs[1].key] = _row("locality", 11)
    rows[jobs[2].key] = _row("locality", 0, left="the kernel threw it out")
    assert templates.planned(jobs, rows, 12) == [jobs[1], jobs[0]]
    rows[jobs[4].key]["elsewhere"] = 0.5
    assert templates.planned(jobs, rows, 12) == [jobs[1], jobs[0], jobs[4]]
    rows[jobs[4].key]["elsewhere"] = 0.1
    del rows[jobs[3].key]["punctual"]  # measured when the guest's timers could be late
    assert templates.planned(jobs, rows, 12) == [jobs[1], jobs[0], jobs[3]]


def test_a_ratio_is_of_the_family_to_the_kernels_own_turned_so_that_more_is_better():
    twice = [[[2.0, 2.0 + n / 100], [1.0, 1.0]] for n in range(12)]
    found = ratios({"class.throughput": twice, "class.makespan": twice})
    center, low, high = found["class.throughput"]
    assert low < 2.02 < high
    assert found["class.makespan"][0] == pytest.approx(1 / center, abs=1e-3)
    assert ratios({"class.throughput": twice[:5]}) == {}


def test_results_are_added_to_what_is_there(tmp_path: Path):
    store = Store("templates", tmp_path)
    store.rows["a"] = 1
    store.keep()
    again = Store("templates", tmp_path)
    assert again.rows == {"a": 1}
    (tmp_path / "templates.json").write_text("{")
    assert Store("templates", tmp_path).rows == {}


def test_a_verdict_is_kept_for_what_was_verified_and_an_error_is_none():
    jobs = [families.Job("locality", IMAGE, shape) for shape in ("1", "2", "4", "8")]
    now = {"digest": families.digest("locality"), "verifier": families.verifier()}
    row = {"verdict": "pass", **now, "seconds": 10.0}
    rows = {
        jobs[0].key: row,
        jobs[1].key: {**row, "digest": "other"},
        jobs[2].key: {**row, "verdict": "error"},
    }
    assert families.planned(jobs, rows) == [jobs[2], jobs[3], jobs[1]]
    rows[jobs[0].key] = {**row, "elsewhere": 0.5}
    assert families.planned(jobs, rows) == [jobs[2], jobs[3], jobs[1], jobs[0]]
    rows[jobs[2].key] = {**row, "verifier": "of other scenarios"}
    assert families.planned(jobs, rows) == [jobs[3], jobs[1], jobs[2], jobs[0]]
    assert families.expected_s(jobs[1], rows) == 10.0
    assert families.expected_s(jobs[3], rows) > families.expected_s(replace(jobs[3], shape="2x1x1"), rows)


def test_a_row_tells_the_stage_that_failed_and_the_warnings():
    template = filled.templates()["weighted-fair"]
    try:
        passport = examine(Candidate.from_proposal(proposal_for(template), template), stages=STAGES[:5]).passport
    except ToolMissing as error:
        missing(error.message, error.remedy)
    row = families.row_of(passport)
    assert (row["verdict"], row["stage"], row["rules"]) == ("pass", "", [])
    assert list(row["stages"]) == list(STAGES[:5])
    broken = template.with_text(template.text + "{{ nothing }}")
    row = families.row_of(examine(Candidate.from_proposal(proposal_for(template), broken), stages=STAGES[:5]).passport)
    assert (row["verdict"], row["stage"]) == ("rejected", "render")
    assert row["summary"]


@pytest.mark.parametrize(("load", "told"), [(["pipe", "50"], "elapsed_ns"), (["walk", "2", "64", "0.05"], "units")])
def test_a_load_does_some_work(load: list[str], told: str):
    try:
        program = build_load_generator()
    except ToolMissing as error:
        missing(error.message, error.remedy)
    done = subprocess.run([str(program), "--comm", "jobtest", *load], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[told] > 0


@pytest.mark.kernel
def test_loads_run_under_a_family_and_one_that_was_thrown_out_is_noticed():
    with boot(kernel_image("newest"), VmShape(cores=2)) as guest:
        charge = InCharge(guest, filled.built("weighted-fair").object)
        for name in ("attack", "pipe", "hackbench", "cache"):
            timed = templates.Timed(guest, LOADS[name], charge)
            for arm in (templates.FAMILY, templates.OWN):
                found = timed.sample(arm, 1, 2)
                assert set(found) == set(LOADS[name].metrics)
                assert all(value > 0 for value in found.values())
        charge.switch(True)
        guest.write_file("/proc/sysrq-trigger", "S")  # sends every scheduler away, by a kernel thread of its own
        end = time.monotonic() + 10
        while guest.status().state != "disabled" and time.monotonic() < end:
            time.sleep(0.05)
        with pytest.raises(CandidateRejected, match="threw it out"):
            charge.check()
