# SPDX-License-Identifier: Apache-2.0
"""Guests that hang, flood and fill their memory: each ends in time, with evidence, and costs this machine nothing."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.kernel import microvm
from controller.kernel.guest_protocol import MAX_TEXT
from controller.kernel.microvm import Guest, GuestHung, VmShape, boot

pytestmark = pytest.mark.kernel
HOG = "import os\nos.fork()\nos.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))\nwhile True: pass\n"


@pytest.fixture(scope="module")
def guest(newest_kernel: Path) -> Iterator[Guest]:
    """One guest for all that a guest survives."""
    with boot(newest_kernel) as booted:
        yield booted


def own_memory_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


@pytest.mark.parametrize(
    "flood",
    [
        "exec cat /dev/zero > /dev/ttyS0",
        "while :; do echo a line of a flood > /dev/kmsg; done",
        "while :; do echo a line of a flood; done",  # its output is read by nobody until it ends
    ],
    ids=["console", "kernel log", "output"],
)
def test_a_flood_costs_nothing_and_the_guest_still_answers(guest, flood):
    before = own_memory_mib()
    number = guest.spawn(["sh", "-c", flood])
    ended = guest.wait(number, timeout_s=2)
    assert guest.run(["sh", "-c", "echo here"], timeout_s=30).stdout == "here\n"
    assert sum(map(len, guest.kmsg())) <= 2 * MAX_TEXT
    if ended.timed_out:
        guest.kill(number)
        ended = guest.wait(number, timeout_s=30)
    assert ended.rc != 127
    assert len(ended.stdout) <= MAX_TEXT
    assert len(guest.console()) < 2_000_000
    assert own_memory_mib() - before < 64


@pytest.mark.parametrize(
    "hog",
    [
        "a=aaaaaaaaaaaaaaaa; while :; do a=$a$a; done",
        "i=0; while cat /bin/busybox > /tmp/full.$i; do i=$((i + 1)); done; busybox rm /tmp/full.*",
        "exec stress-ng --vm 2 --vm-bytes 2G --vm-keep --oomable --timeout 5",
    ],
    ids=["one process", "files", "stress-ng"],
)
def test_a_full_memory_ends_what_fills_it_and_not_the_guest(guest, hog):
    guest.run(["sh", "-c", hog], timeout_s=10)
    assert guest.run(["sh", "-c", "echo here"], timeout_s=30).stdout == "here\n"
    assert guest.status().state == "disabled"


def test_a_guest_whose_cpus_are_all_taken_above_the_agent_is_said_to_hang(newest_kernel, monkeypatch):
    with boot(newest_kernel) as guest:
        guest.write_file("/proc/sys/kernel/sched_rt_runtime_us", "-1")
        guest.write_file("/tmp/hog.py", HOG)
        monkeypatch.setattr(microvm, "_ANSWER_S", 4.0)
        guest.spawn(["/usr/bin/python3", "-I", "-S", "/tmp/hog.py"])
        with pytest.raises(GuestHung, match="did not answer") as caught:
            wait_for_the_hang(guest)
        assert not caught.value.in_charge  # no candidate was
        with pytest.raises(GuestHung):
            guest.status()
        assert isinstance(guest.console(), str)  # what it said stays readable


def wait_for_the_hang(guest: Guest) -> None:
    for _ in range(20):
        guest.run(["sleep", "0.5"], timeout_s=1)


@pytest.mark.parametrize(
    ("label", "klass"),
    [
        ("1", "cpus1.pkg1.smt1.llc1.numa1"),
        ("4", "cpus4.pkg1.smt1.llc1.numa1"),
        ("8", "cpus8.pkg1.smt1.llc1.numa1"),
        ("2x2x2", "cpus8.pkg2.smt2.llc2.numa1"),
    ],
)
def test_topologies(newest_kernel, label, klass):
    shape = VmShape.parse(label)
    with boot(newest_kernel, shape) as guest:
        assert guest.facts.topology_class == klass
        assert guest.facts.cpus == shape.cpus
        assert guest.facts.memory_mib > 0.75 * shape.memory_mib
