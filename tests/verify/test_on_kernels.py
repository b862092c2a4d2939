# SPDX-License-Identifier: Apache-2.0
"""Load and liveness on real kernels: good schedulers pass, bad ones are rejected for what they do."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from dataclasses import replace

import pytest

from controller.api import Silent, Verdict
from controller.errors import CandidateRejected, GuestError, ToolMissing
from controller.kernel import clang
from controller.kernel.images import KernelImage, release_of
from controller.kernel.microvm import Guest, VmShape, boot
from controller.paths import data_dir
from controller.trust import dsse, keys
from controller.verify import Candidate, baselines, examine, liveness, scenarios
from controller.verify.liveness import Bench, LivenessRejected
from controller.verify.load import LoadRejected, load
from controller.verify.scenarios import Arena
from tests.conftest import missing
from tests.kernel.conftest import kernel_image
from tests.verify import sources
from tests.verify.candidates import filled

pytestmark = pytest.mark.kernel


def build(source: str) -> bytes:
    try:
        return clang.compile_bpf(source, data_dir("bpf") / "include").object
    except ToolMissing as error:
        missing(str(error))


def image(which: str) -> KernelImage:
    path = kernel_image(which)
    return KernelImage(release_of(path), path, "file")


@pytest.fixture(scope="module", params=["oldest", "newest"])
def guest(request) -> Iterator[Guest]:
    """A guest on each kernel; nothing is attached in it."""
    with boot(kernel_image(request.param)) as booted:
        yield booted


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """A guest on the newest kernel, with the baselines measured once for all tests."""
    kernel = kernel_image("newest")
    with boot(kernel) as booted:
        yield Bench(booted, again=lambda: boot(kernel))


def rejected(bench: Bench, source: str) -> LivenessRejected:
    report = load(bench.guest, build(source))
    with pytest.raises(LivenessRejected) as caught:
        liveness.liveness(bench, report.ops_name, Silent())
    return caught.value


def test_a_good_scheduler_passes_all_stages_on_the_oldest_kernel(tmp_path, monkeypatch):
    """The whole way, to a signed passport that lets exactly this object onto exactly this kernel; the demo goes the
    same way on the newest one.
    """
    monkeypatch.setenv("SCHEDCTL_CONFIG", str(tmp_path))
    template, proposal = next(pair for pair in filled() if pair[0].name == "weighted-fair")
    kernel = image("oldest")
    passport = examine(Candidate.from_proposal(proposal, template), kernels=[kernel]).passport
    told = [(s.stage, s.verdict.value, s.summary) for s in passport.all_stages()]
    assert passport.verdict is Verdict.PASS, told
    (column,) = passport.kernels
    assert column.release == kernel.release
    found = {s.stage: s for s in column.stages}
    assert [s.verdict for s in column.stages] == [Verdict.PASS, Verdict.PASS, Verdict.NOT_RUN]
    assert found["load"].figures["insns_verified"] > 0
    assert found["liveness"].figures["fork-storm.forks"] > 0
    assert found["liveness"].figures["kernel.fork-storm.forks"] > 0
    assert {"schedctl", "clang", "libbpf", "qemu"} <= passport.tools.keys()
    envelope = dsse.sign(passport, keys.ensure_signing_key()).canonical()
    believed = dsse.verify(envelope, keys.list_trusted())
    assert believed == passport
    dsse.check(believed, object_digest=passport.object_digest or "", btf_digest=column.btf_digest,
               topology_class=column.topology_class, at=passport.issued_at)  # fmt: skip


def test_somebody_elses_fifo_without_weights_passes(bench):
    report = load(bench.guest, build(sources.GOOD))
    told = liveness.liveness(bench, report.ops_name, Silent())
    # Whether it is warned about its weights depends on how busy this machine is; test_scenarios.py asks that.
    shares = {"liveness/weighted-shares", "liveness/cgroup-shares"}
    assert {f.rule for f in told.warnings} <= shares | {"liveness/kernel-log"}
    assert told.seconds.keys() == {scenario.name for scenario in liveness.SCENARIOS}
    for scenario in liveness.SCENARIOS:
        under = {name.partition(scenario.name)[0] for name in told.figures if f"{scenario.name}." in name}
        assert under == ({"", "kernel."} if scenario.compared else {""})
    assert told.figures["hotplug.came_back"] == 2  # it has neither cpu_online nor cpu_offline
    assert told.figures["reload.reloads"] == 20


@pytest.mark.parametrize("name", sources.MISBEHAVES)
def test_what_one_scenario_alone_finds(bench, monkeypatch, name):
    scenario = scenarios.get(name)
    assert scenario is not None
    monkeypatch.setattr(liveness, "SCENARIOS", (scenario,))
    error = rejected(bench, sources.MISBEHAVES[name])
    if error.finding.rule == "liveness/stall":
        assert f"in scenario {name}" in error.message
    elif name == "reload":
        assert error.finding.rule == "liveness/attach"
    else:
        assert error.finding.rule == f"liveness/{name}"


@pytest.mark.parametrize("shape", [VmShape(cores=1), VmShape(cores=4)], ids=lambda shape: f"{shape.cpus}cpus")
def test_the_kernels_own_scheduler_never_fails_against_itself(shape):
    """Where the number of CPUs matters most; a hiccup that is not there again is forgiven, as it is to a candidate."""
    names = ("weighted-shares", "pinned-floating", "rt-hog", "hotplug", "many-tasks")
    with boot(kernel_image("newest"), shape) as guest:
        for scenario in filter(None, map(scenarios.get, names)):
            if scenario.not_here(shape.cpus):
                continue
            for _attempt in range(2):
                before, after = (scenario.measure(Arena(guest)) for _ in range(2))
                told = [c.message for c in scenario.judge(after, before) if c.severity == "error"]
                if not told:
                    break
            assert not told


def test_baselines_are_kept_for_the_boot_and_measured_anew_on_a_machine_of_another_speed(monkeypatch, tmp_path):
    kernel = kernel_image("newest")
    measured = []
    first = scenarios.SCENARIOS[0]
    counted = replace(first, measure=lambda arena: measured.append(1) or first.measure(arena))
    monkeypatch.setattr(baselines, "digest", lambda: hashlib.sha256(bytes(tmp_path)).hexdigest())
    monkeypatch.setattr(baselines, "FASTER_OR_SLOWER", 50.0)
    with boot(kernel) as guest:
        again = lambda: boot(kernel)  # noqa: E731
        Bench(guest, again).prepare([counted], Silent())
        kept = Bench(guest, again)
        kept.prepare([counted], Silent())
        assert len(measured) == 1
        assert kept.baseline(counted)["woken"] > 0
        monkeypatch.setattr(baselines, "FASTER_OR_SLOWER", 0.0)
        Bench(guest, again).prepare([counted], Silent())
    assert len(measured) == 2


def test_a_scheduler_that_loses_tasks_is_rejected_as_a_stall(bench):
    error = rejected(bench, sources.LOSES_TASKS)
    assert error.finding.rule == "liveness/stall"
    assert "failed to run for" in error.message
    assert "sched_ext" in error.evidence


def test_a_scheduler_that_sends_a_task_to_a_cpu_it_may_not_use_is_rejected(bench):
    error = rejected(bench, sources.WRONG_CPU)
    assert error.finding.rule in ("liveness/runtime-error", "liveness/attach")  # it may go before attach returns
    assert "not allowed" in error.message
    with pytest.raises(CandidateRejected, match="lint"):
        _raise_first(examine(Candidate.from_source(sources.WRONG_CPU)).passport)


def _raise_first(passport) -> None:
    stage = next(s for s in passport.all_stages() if s.verdict is not Verdict.NOT_RUN)
    raise CandidateRejected(stage.stage, f"{stage.stage}: {stage.verdict.value}: {stage.summary}")


def test_starvation_that_the_watchdog_does_not_see_is_rejected(bench):
    error = rejected(bench, sources.STARVES_NICE)
    assert error.finding.rule in ("liveness/weighted-shares", "liveness/stall")
    assert "starves" in error.message or "failed to run" in error.message


def test_a_scheduler_whose_init_fails_is_rejected_without_any_measurement(bench):
    error = rejected(bench, sources.INIT_FAILS)
    assert error.finding.rule == "liveness/attach"
    assert "-22" in error.message
    assert not error.figures


@pytest.mark.parametrize("cause", sources.REFUSED_BY_THE_VERIFIER)
def test_the_verifiers_reason_is_reduced_to_line_and_cause(guest, cause):
    source = sources.REFUSED_BY_THE_VERIFIER[cause]
    here = [number for number, line in enumerate(source.splitlines(), 1) if "// HERE" in line]
    with pytest.raises(LoadRejected) as caught:
        load(guest, build(source))
    finding = caught.value.finding
    assert finding.rule == f"load/{cause}", caught.value.evidence[-2000:]
    if cause == "unbounded-loop":
        assert finding.line in range(here[0], here[0] + 3)
    elif here:
        assert finding.line == here[0]
    assert finding.fix


def test_an_unbounded_loop_is_rejected_at_load_with_its_line():
    source = sources.REFUSED_BY_THE_VERIFIER["unbounded-loop"]
    result = examine(Candidate.from_source(source), kernels=[image("newest")])
    stage = next(s for s in result.passport.all_stages() if s.stage == "load")
    assert result.passport.verdict is stage.verdict is Verdict.REJECTED
    assert stage.findings[0].rule == "load/unbounded-loop"
    assert stage.findings[0].line
    assert stage.evidence
    assert result.passport.kernels[0].stages[1].verdict is Verdict.NOT_RUN


def _disturbed(bench: Bench, monkeypatch, act) -> None:
    """Liveness whose second scenario, under the candidate, does `act` to the guest."""
    first, second = liveness.SCENARIOS[1], liveness.SCENARIOS[2]
    begun = []

    def measure(arena: Arena):
        begun.append(1)
        if len(begun) > 1:
            act(arena.guest)
        return second.measure(arena)

    monkeypatch.setattr(liveness, "SCENARIOS", (first, replace(second, measure=measure)))
    report = load(bench.guest, build(sources.GOOD))
    liveness.liveness(bench, report.ops_name, Silent())


def test_a_kernel_that_panics_under_the_candidate_rejects_it(monkeypatch):
    with boot(kernel_image("newest")) as booted, pytest.raises(LivenessRejected) as caught:
        _disturbed(Bench(booted), monkeypatch, lambda guest: guest.write_file("/proc/sysrq-trigger", "c"))
    assert caught.value.finding.rule == "liveness/panic"
    assert "Kernel panic" in caught.value.evidence


def test_a_guest_that_is_killed_from_outside_is_no_verdict(monkeypatch):
    with boot(kernel_image("newest")) as booted, pytest.raises(GuestError) as caught:
        _disturbed(Bench(booted), monkeypatch, lambda guest: os.kill(guest.pid, signal.SIGKILL))
    assert not isinstance(caught.value, CandidateRejected)
