# SPDX-License-Identifier: Apache-2.0
"""An emulator's main thread is real-time while it takes little, and never for longer."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path

import pytest

from controller.kernel import qemu
from controller.kernel.microvm import Guest
from controller.kernel.punctual import RT_LIMIT_S, Punctual
from tests.conftest import missing
from tests.kernel.conftest import kernel_image
from tests.observe.loads import running

FIFO = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
SLEEPS = "import time\nwhile True: time.sleep(0.01)"
HARDLY_SLEEPS = """
import time
while True:
    end = time.monotonic() + 0.02
    while time.monotonic() < end: pass
    time.sleep(0.001)
"""
SPINS = "while True: pass"


@pytest.fixture(autouse=True)
def may() -> None:
    with running(b"sleeps", SLEEPS) as process:
        try:
            os.sched_setscheduler(process.pid, os.SCHED_FIFO, os.sched_param(1))
        except PermissionError:
            missing("the right to make a thread real-time", "run as root, or with CAP_SYS_NICE")


def test_a_thread_that_sleeps_stays_real_time():
    with running(b"sleeps", SLEEPS) as process:
        punctual = Punctual(process.pid)
        time.sleep(0.3)
        punctual.check()
        assert punctual.active
        assert os.sched_getscheduler(process.pid) == FIFO


def test_one_that_takes_most_of_a_cpu_is_made_an_ordinary_one_for_good():
    with running(b"hardly", HARDLY_SLEEPS) as process:
        punctual = Punctual(process.pid)
        time.sleep(0.5)
        punctual.check()
        assert not punctual.active
        assert os.sched_getscheduler(process.pid) & ~os.SCHED_RESET_ON_FORK == os.SCHED_OTHER
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(0.3)
        punctual.check()
        assert os.sched_getscheduler(process.pid) & ~os.SCHED_RESET_ON_FORK == os.SCHED_OTHER


def test_one_that_never_sleeps_is_ended_by_the_kernel():
    with running(b"spins", SPINS) as process:
        begun = Punctual(process.pid)
        assert begun.active
        assert process.wait(20) in (-signal.SIGXCPU, -signal.SIGKILL)


def test_one_that_has_ended_is_none_of_its_business():
    with running(b"sleeps", SLEEPS) as process:
        process.kill()
        process.wait()
        punctual = Punctual(process.pid)
        assert not punctual.active
        punctual.check()


@pytest.mark.kernel
def test_a_guest_of_the_emulator_has_one_and_its_cpus_are_ordinary_threads(guest: Guest):
    if qemu.is_kvm(qemu.accelerator(qemu.find(), kernel_image("newest"))):
        assert not guest.punctual  # the kernel's KVM raises its timer interrupts
        return
    assert guest.punctual
    numbers = [int(thread.name) for thread in Path(f"/proc/{guest.pid}/task").iterdir()]
    threads = {number: os.sched_getscheduler(number) for number in numbers}
    assert threads.pop(guest.pid) == FIFO
    assert len(threads) >= guest.facts.cpus
    assert set(threads.values()) == {os.SCHED_OTHER}
    assert resource.prlimit(guest.pid, resource.RLIMIT_RTTIME) == (round(RT_LIMIT_S * 1e6),) * 2
