# SPDX-License-Identifier: Apache-2.0
"""cpu.weight inside a class on real kernels: who gets how much, and that what was counted is counted back."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator

import pytest

from controller.kernel.microvm import Guest, VmShape, boot
from tests.kernel.conftest import kernel_image
from tests.templates import cases
from tests.templates.test_on_kernels import running, together

pytestmark = pytest.mark.kernel

GROUPS = 4096
"""As in bpf/include/schedctl_group.bpf.h."""
ROOT = "/sys/fs/cgroup"
TREE = ("near", "far", "near/one", "near/two")
BY_VTIME = sorted(set(cases.TEMPLATES) - {"background", "batch-order", "latency-first"})
"""The families that go by weight in any class; a class of work of the other three can go by something else."""


@pytest.fixture(scope="module", params=["oldest", "newest"])
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    with boot(kernel_image(request.param), VmShape(cores=2)) as booted:
        for name in TREE:
            sh(booted, f"mkdir {ROOT}/{name}")
            if "/" not in name:
                sh(booted, f"echo +cpu > {ROOT}/{name}/cgroup.subtree_control")
        sh(booted, f"mkdir {ROOT}/far/one")
        yield booted


def sh(guest: Guest, script: str) -> str:
    ended = guest.run(["sh", "-c", script], timeout_s=60)
    assert ended.rc == 0, (script, ended.stderr)
    return ended.stdout


def weigh(guest: Guest, **weights: int) -> None:
    """Write cpu.weight; `near_one` stands for near/one."""
    for name in (*TREE, "far/one"):
        weight = weights.get(name.replace("/", "_"), 100)
        sh(guest, f"echo {weight} > {ROOT}/{name}/cpu.weight")


def spin(group: str, tasks: int, *, comm: str = "job", seconds: str = "3", nice: int = 0) -> list[str]:
    """All on one CPU, where shares are exact."""
    where = ("--cgroup", f"{ROOT}/{group}") if group else ()
    return ["taskset", "1", "schedload", "--comm", comm, "--nice", str(nice), *where, "spin", str(tasks), seconds]


def shares(guest: Guest, *loads: list[str]) -> list[float]:
    """What part of the CPU time each of the loads got."""
    times = [sum(said["cpu_ns"]) for said in together(guest, *loads)]
    print(f"{guest.facts.release}: " + ", ".join(f"{time / sum(times):.3f}" for time in times))
    return [time / sum(times) for time in times]


def counted(guest: Guest, number: int) -> dict[int, tuple[int, int]]:
    """Load and what it added above, of the rows of the class that are not 0."""
    found = {}
    for row in range(64):
        value = guest.map_lookup("schedctl_groups", struct.pack("<I", number * GROUPS + row))
        assert value is not None
        load, added = struct.unpack("<qq", value)
        if load or added:
            found[row] = (load, added)
    return found


@pytest.mark.parametrize("guest", ["newest"], indirect=True)
@pytest.mark.parametrize("template", BY_VTIME)
def test_cgroups_share_their_class_by_weight_however_many_tasks_they_have(guest: Guest, template: str) -> None:
    weigh(guest, near=300)
    with running(guest, template, cases.task_class(1, comm=("job",))):
        near, _ = shares(guest, spin("near/one", 1, seconds="2"), spin("far/one", 3, seconds="2"))
    assert 0.65 < near < 0.85, "3 to 1, where tasks that count alike would be 1 to 3"


def test_each_level_of_the_hierarchy_is_divided_by_itself(guest: Guest) -> None:
    weigh(guest, near_two=300)
    with running(guest, "weighted-fair", cases.task_class(1, comm=("job",))):
        one, two, far = shares(guest, spin("near/one", 3), spin("near/two", 1), spin("far/one", 2))
        assert counted(guest, 1) == {}
    assert 0.42 < far < 0.58
    assert 0.08 < one < 0.18
    assert 0.29 < two < 0.46


def test_who_sleeps_does_not_count_and_neither_does_another_class(guest: Guest) -> None:
    weigh(guest, far=10000, near_two=300)
    with running(guest, "weighted-fair", cases.task_class(1, comm=("job",)), cases.task_class(2, comm=("else",))):
        sleeper = ["schedload", "--comm", "job", "--cgroup", f"{ROOT}/far/one", "wakers", "1", "1000000", "3"]
        asleep = guest.spawn(sleeper)
        one, two, other = shares(guest, spin("near/one", 1), spin("near/two", 1), spin("far/one", 2, comm="else"))
        assert guest.wait(asleep, 60).rc == 0
    assert 0.42 < other < 0.58, "two classes of one weight"
    assert 2.2 < two / one < 4


def test_a_task_outside_of_all_competes_with_cgroups_by_its_nice_value(guest: Guest) -> None:
    weigh(guest)
    with running(guest, "weighted-fair", cases.task_class(1, comm=("job",))):
        near, nice, plain = shares(guest, spin("near/one", 4), spin("", 1, nice=5), spin("", 1))
    assert 0.33 < near < 0.53, "100 of 100 + 33 + 100"
    assert 1.8 < plain / nice < 5


def test_a_weight_that_changes_counts_at_once(guest: Guest) -> None:
    """Also where all tasks involved never sleep."""
    weigh(guest, near=1)
    with running(guest, "weighted-fair", cases.task_class(1, comm=("job",))):
        numbers = [guest.spawn(spin(group, 1, seconds="4")) for group in ("near/one", "far/one")]
        weigh(guest, near=1000)
        near, far = (sum(json.loads(guest.wait(number, 60).stdout)["cpu_ns"]) for number in numbers)
        assert counted(guest, 1) == {}
    assert near > 2 * far


def test_what_was_counted_is_counted_back_whatever_happens_meanwhile(guest: Guest) -> None:
    """Moves between cgroups and so between classes, nice values, weights and CPUs, another policy, forks and ends."""
    churn = f"""
        job="schedload --comm job"
        $job forkstorm 2 & $job --cgroup {ROOT}/near/one yieldstorm 3 2 & $job rthog 1 0.3 &
        $job --cgroup {ROOT}/near/two spin 6 4 & sleep 0.3
        pids=$(cat {ROOT}/near/two/cgroup.procs)
        for i in 1 2 3 4 5 6 7 8; do
            for pid in $pids; do
                echo $pid > {ROOT}/far/one/cgroup.procs; renice -n 5 -p $pid; taskset -p 1 $pid
                echo $((i * 700)) > {ROOT}/near/cpu.weight
                echo $pid > {ROOT}/near/one/cgroup.procs; taskset -p 3 $pid
                echo $i > {ROOT}/far/cpu.weight
            done
        done > /tmp/churned 2>&1
        wait
    """
    weigh(guest)
    with running(guest, "weighted-fair", cases.task_class(1, cgroup=True), cases.task_class(2, comm=("job",))):
        far = int(sh(guest, f"ls -id {ROOT}/far").split()[0])
        guest.map_update("schedctl_cgroups", struct.pack("<Q", far), (1 << 1).to_bytes(32, "little"))
        guest.map_update("schedctl_control", bytes(4), struct.pack("<Q", 7))
        number = guest.spawn(["sh", "-c", churn])
        seen: set[int] = set()
        ends = time.monotonic() + 20
        while seen != {1, 2} and time.monotonic() < ends:
            seen |= {n for n in (1, 2) if counted(guest, n)}
        assert guest.wait(number, 60).rc == 0
        assert "affinity mask: 3" in sh(guest, "cat /tmp/churned")
        assert seen == {1, 2}
        assert (counted(guest, 1), counted(guest, 2)) == ({}, {})
