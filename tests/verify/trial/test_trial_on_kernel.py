# SPDX-License-Identifier: Apache-2.0
"""A trial in a real guest, with a small budget: its structure, and a scheduler that spoils what is measured.

No figure is asserted that a busy machine could turn: of equal arms only that the whole can be recomputed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from controller.api import Metric, Verdict, sha256
from controller.errors import ToolMissing
from controller.kernel import clang
from controller.kernel.images import KernelImage, release_of
from controller.kernel.microvm import Guest, boot
from controller.observe import twin
from controller.paths import data_dir
from controller.verify import Candidate, evidence, examine
from controller.verify.trial import TrialRejected, TrialSpec, recompute, runner, workloads
from controller.verify.trial.arms import GuestArms
from controller.verify.trial.runner import Where, conduct
from controller.verify.trial.spec import OBJECTIVES
from tests.conftest import missing
from tests.kernel.conftest import kernel_image
from tests.observe.test_twin import chain as observed_chain
from tests.verify import sources

pytestmark = pytest.mark.kernel

# Everything through one queue, and a wakeup's slice so long that whoever wakes waits for each hog in turn.
SLOW = sources.fifo("    scx_bpf_dsq_insert(p, SHARED, 25000000ULL, ctx[1]);", name="slow")
TWIN = {
    "global": {"duration": 1, "calibration": 100, "default_policy": "SCHED_OTHER"},
    "tasks": {
        "work": {"instance": 2, "loop": 20, "run": 1000, "timer": {"ref": "unique", "period": 8000}},
        "rest": {"loop": 20, "run": 2000},
    },
}


def build(source: str) -> bytes:
    try:
        return clang.compile_bpf(source, data_dir("bpf") / "include").object
    except ToolMissing as error:
        missing(str(error))


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    with boot(kernel_image("newest")) as booted:
        yield booted


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(workloads, "RUN_S", 0.08)
    monkeypatch.setattr(runner, "AA_BLOCKS", 8)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_workload_gives_figures_for_the_class_and_for_the_others(guest, name):
    spec = TrialSpec(name, OBJECTIVES[name], comm="work*", twin=json.dumps(TWIN) if name == "twin" else "")
    sizes = workloads.calibrate(guest, name)
    sample = workloads.run(guest, spec, sizes, 1, 2)
    assert workloads.value(spec.objective, sample) > 0
    assert sample["class.units"] > 0
    assert sample["others.units"] > 0


def test_the_class_alone_can_be_real_time_work(guest):
    command = "schedtrial --comm work* --others other* --fifo 1 mixed wakers 2 3000 600 10 2"
    number = guest.spawn(command.split())
    names_and_policies = "sleep 0.5; busybox awk '{print $2, $41}' /proc/[0-9]*/stat"
    seen = guest.run(["sh", "-c", names_and_policies], timeout_s=20).stdout
    assert guest.wait(number, 60).rc == 0
    policies = {group: re.findall(rf"^\({group}\S*\) (\d+)$", seen, re.MULTILINE) for group in ("work", "other")}
    assert policies == {"work": ["1", "1"], "other": ["0", "0"]}, seen  # SCHED_FIFO, SCHED_OTHER


def test_a_twin_of_a_profile_runs_at_the_guests_own_speed(guest):
    """The document leaves the calibration to the machine: the guest's is measured, and each turn takes what it says."""
    document = twin.rtapp(observed_chain(), seconds=1)
    assert document["global"]["calibration"] == "CPU0"
    spec = TrialSpec("twin", Metric.WAKEUP_LATENCY, comm="client*", twin=json.dumps(document))
    sizes = workloads.calibrate(guest, "twin")
    assert sizes.loop_ns is not None
    assert sizes.loop_ns > 0
    assert json.loads(workloads.twin_document(spec.twin, sizes.loop_ns))["global"]["calibration"] == round(
        sizes.loop_ns
    )
    sample = workloads.run(guest, spec, sizes, 1, 2)
    # Every turn of both ends of the chain was taken, and the chain came to its end.
    for group in ("class", "others"):
        threads = [t for name, t in document["tasks"].items() if name.startswith("client") == (group == "class")]
        turns = sum(t["loop"] * sum(p.get("loop", 1) for p in t["phases"].values()) for t in threads)
        assert sample[f"{group}.units"] == turns
    assert workloads.value("class.wakeupLatency.p99", sample) > 1


def test_the_kernels_own_scheduler_against_itself(guest):
    """The candidate's arm is the baseline as well: whatever the verdict, it is in the document."""

    class Alike:
        def __init__(self) -> None:
            self._arms = GuestArms(guest, spec, {})
            self.sizes = self._arms.sizes

        def sample(self, _arm: str, work_seed: int, name_seed: int) -> dict[str, int]:
            return self._arms.sample("baseline", work_seed, name_seed)

    spec = TrialSpec("longtail", Metric.MAKESPAN, mde=0.5, budget_s=40)
    done = conduct(spec, Alike(), Where(guest.facts.release, guest.facts.btf_digest, guest.facts.topology_class))
    document = json.loads(done.document)
    assert len(document["phases"]["aa"]) == 8
    assert len(document["phases"].get("trial", [])) == document["plan"]["blocks"]
    assert recompute(done.document) == done.result
    assert done.result.noise > 0


def test_a_scheduler_that_lets_wakers_wait_is_rejected_with_the_samples_that_show_it():
    """The whole way to the passport: its attachment gives the figures that it states."""
    spec = TrialSpec("mixed", Metric.WAKEUP_LATENCY, percentile=50, mde=1.0, budget_s=60)
    path = kernel_image("newest")
    kernel = KernelImage(release_of(path), path, "file")
    done = examine(Candidate.from_source(SLOW), kernels=[kernel], stages=("trial",), trial=spec)
    passport = done.passport
    stages = {stage.stage: stage for stage in passport.all_stages()}
    assert passport.verdict is Verdict.REJECTED, [(s.stage, s.verdict.value, s.summary) for s in passport.all_stages()]
    assert stages["liveness"].verdict is Verdict.NOT_RUN
    trial = stages["trial"]
    assert [finding.rule for finding in trial.findings] == ["trial/worse"]
    (name,) = (name for name in done.attachments if name.startswith("trial-"))
    assert name.removesuffix(".gz") == f"trial-{passport.kernels[0].release}.json"
    assert {file.name: file.digest for file in passport.attachments} == {
        file: sha256(data) for file, data in done.attachments.items()
    }
    raw = evidence.unpacked(name, done.attachments[name])
    again = recompute(raw)
    assert json.loads(raw)["objects"] == {"candidate": passport.object_digest}
    assert again.verdict == "worse"
    assert again.figures() == trial.figures


def test_a_scheduler_that_is_thrown_out_is_rejected(guest):
    arms = GuestArms(guest, TrialSpec("longtail", Metric.MAKESPAN), {"candidate": build(sources.LOSES_TASKS)})
    arms.sample("baseline", 1, 1)
    with pytest.raises(TrialRejected) as caught:
        _ = [arms.sample("candidate", seed, seed) for seed in range(8)]
    assert caught.value.finding.rule in ("trial/exit", "trial/stuck"), caught.value
    assert guest.run(["true"], timeout_s=20).rc == 0
