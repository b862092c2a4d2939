# SPDX-License-Identifier: Apache-2.0
"""Without bcc the figures come from /proc, and the profile says so."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from controller.api import sought_digest
from controller.errors import InputError
from controller.observe import facts, procfs, profile, tracer
from tests.observe.loads import HOG, WAKER, cpu_ns, running
from tests.observe.test_grouping import intent


@pytest.mark.alone
def test_a_hog_and_a_waker_are_named_with_the_kernels_own_figures():
    wanted = intent("hogs", comm=["procfs-hog"])
    with running(b"procfs-hog", HOG) as hog, running(b"procfs-waker", WAKER):
        start, before = time.monotonic_ns(), cpu_ns(hog.pid)
        seen = profile(1.0, node="here", intents=[wanted], force_procfs=True)
        used, outside = cpu_ns(hog.pid) - before, time.monotonic_ns() - start - seen.window_ns
    assert (seen.observer, seen.node) == ("procfs", "here")
    assert "asked for" in seen.degraded
    hogs = seen.workload("shop/hogs")
    walk = 100_000_000  # a thread is read somewhere in a walk over /proc, which takes long on a busy machine
    assert used - outside - walk <= hogs.cpu_ns <= used + walk
    assert hogs.tasks == 1
    assert (hogs.burst, hogs.wakeup_latency, hogs.wakeups, hogs.execs) == (None, None, None, None)
    assert hogs.wait_ns is not None
    assert hogs.migrations is not None or not Path("/proc/self/sched").exists()
    assert [stats.cpu for stats in seen.cpus] == sorted(os.sched_getaffinity(0))
    assert seen.workload("procfs-waker").voluntary_switches == pytest.approx(100, abs=15)
    assert sum(w.cpu_share for w in seen.workloads) <= 1 + 1e-9
    assert [(m.intent, m.tasks) for m in seen.matches] == [("shop/hogs", 1)]
    assert seen.sought == sought_digest([wanted])
    assert seen == type(seen).model_validate_json(seen.model_dump_json(by_alias=True))


def test_missing_headers_are_named_with_the_remedy(monkeypatch, tmp_path):
    if os.geteuid() != 0:
        expected = "root"
    else:
        expected = "no kernel header tree"
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(tmp_path))
    seen = profile(0.1)
    assert seen.observer == "procfs"
    assert expected in seen.degraded


def test_without_bcc(monkeypatch):
    monkeypatch.setattr(tracer.importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(tracer.os, "geteuid", lambda: 0)
    assert "python3-bpfcc" in profile(0.1).degraded


def test_without_root(monkeypatch):
    monkeypatch.setattr(tracer.os, "geteuid", lambda: 1000)
    seen = profile(0.1)
    assert seen.observer == "procfs"
    assert "needs root" in seen.degraded


@pytest.mark.parametrize("seconds", [0, -1, 1e-10, float("nan"), float("inf"), 10**6])
def test_windows_that_make_no_sense(seconds):
    with pytest.raises(InputError, match="cannot observe"):
        profile(seconds)


def test_a_kernel_without_schedstat_has_clock_ticks(tmp_path):
    after_name = ["R", *["1"] * 10, "300", "200", *["0"] * 30]
    (tmp_path / "stat").write_text(f"7 (a) b)) {' '.join(after_name)}\n")
    (tmp_path / "status").write_text("voluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t6\n")
    thread = procfs._thread(tmp_path)
    assert thread == procfs._Thread(0, b"a) b)", procfs._Counts(500 * procfs._TICK_NS, 5, 6, None, None))


def test_pressure_is_read_or_absent(tmp_path):
    (tmp_path / "cpu").write_text("some avg10=12.50 avg60=1.00 avg300=0.00 total=5\nfull avg10=0.00\n")
    (tmp_path / "io").write_text("some avg10=2.00 avg60=0.00\nfull avg10=1.50 avg60=0.00 avg300=0.00 total=0\n")
    assert facts.pressure(tmp_path).wire() == {"cpu": 12.5, "io": 2.0, "ioFull": 1.5}


def test_waits_and_migrations_are_read_where_the_kernel_tells(tmp_path):
    after_name = ["R", *["1"] * 10, "300", "200", *["0"] * 30]
    (tmp_path / "stat").write_text(f"7 (a) {' '.join(after_name)}\n")
    (tmp_path / "status").write_text("voluntary_ctxt_switches:\t5\n")
    (tmp_path / "schedstat").write_text("1000 250 3\n")
    (tmp_path / "sched").write_text("a (7, #threads: 1)\nse.nr_migrations      :     12\nnr_switches : 9\n")
    assert procfs._thread(tmp_path).counts == procfs._Counts(1000, 5, 0, 250, 12)
