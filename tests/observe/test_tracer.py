# SPDX-License-Identifier: Apache-2.0
"""The bcc observer on this host's own kernel, against loads with known figures."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from controller.api.report import Silent
from controller.kernel import schedext
from controller.observe import Capacity, Probes, cgroups, procfs, profile, reader, tracer
from controller.observe.sample import CpuClock, Reading, Unavailable
from tests.conftest import missing
from tests.observe.loads import EXECER, FORKER, HOG, LATE, MOVER, PAIR, WAKER, cpu_ns, running, waited_ns
from tests.observe.test_grouping import intent

pytestmark = pytest.mark.bcc


@pytest.fixture(autouse=True, scope="module")
def _can_trace():
    try:
        tracer._requirements()
    except Unavailable as error:
        missing(str(error))


class AtOpening(Silent):
    """Calls `then` once the window is open."""

    def __init__(self, then):
        self._then = then

    def step(self, text):
        if text.startswith("tracing"):
            self._then()


def test_a_known_load_has_its_figures():
    """One window over four loads: their wakeups, bursts, CPU time, forks and moves are known."""
    with (
        running(b"trace-hog", HOG) as hog,
        running(b"trace-waker", WAKER),
        running(b"trace-forker", FORKER) as forker,
        running(b"trace-mover", MOVER) as mover,
    ):

        def go():
            for process in (forker, mover):
                process.stdin.write(b"go\n")
                process.stdin.flush()

        start, before = time.monotonic_ns(), cpu_ns(hog.pid)
        seen = profile(3.0, intents=[intent("wakers", comm=["trace-w*"])], reporter=AtOpening(go))
        used, outside = cpu_ns(hog.pid) - before, time.monotonic_ns() - start - seen.window_ns
    assert (seen.observer, seen.degraded, seen.dropped) == ("bcc", "", 0)
    assert seen.window_ns == 3_000_000_000

    waker = seen.workload("shop/wakers")
    assert waker.keyed_by == "intent"
    assert waker.tasks == 1
    assert waker.wakeups == pytest.approx(300, rel=0.05)
    assert waker.voluntary_switches == pytest.approx(300, rel=0.05)
    # One that is woken before it has left its CPU waits for nothing: on a busy host, one in a hundred.
    assert waker.wakeup_latency.count == pytest.approx(waker.wakeups, rel=0.03)
    # A burst is the 1 ms of work and the wake-up path around it; a bucket there is 6 % wide.
    assert waker.burst.percentile(50) == pytest.approx(1_000_000, rel=0.2)
    assert waker.burst.total_ns == pytest.approx(waker.cpu_ns, rel=0.05)

    tick = 20_000_000
    trace_hog = seen.workload("trace-hog")
    assert used - outside - tick <= trace_hog.cpu_ns <= used + tick
    assert trace_hog.cpu_share == pytest.approx(trace_hog.cpu_ns / seen.window_ns / seen.topology.cpus, rel=0.01)

    forked = seen.workload("trace-forker")
    assert forked.forks == 40
    assert forked.tasks == 41
    if seen.topology.cpus > 1:
        assert seen.workload("trace-mover").migrations == pytest.approx(30, abs=1)

    assert sum(w.cpu_share for w in seen.workloads) <= 1 + 1e-9
    assert not any("swapper" in w.name for w in seen.workloads)
    assert list(seen.workloads) == sorted(seen.workloads, key=lambda w: (w.keyed_by == "others", -w.cpu_ns, w.name))


def test_wakeup_latency_is_the_kernels_own_run_delay():
    cpu = max(os.sched_getaffinity(0))
    with running(b"trace-hog", HOG) as hog, running(b"trace-late", LATE) as late:
        for process in (hog, late):
            os.sched_setaffinity(process.pid, {cpu})
        opened = []

        def delays():
            return waited_ns(late.pid), waited_ns(hog.pid)

        seen = profile(2.0, reporter=AtOpening(lambda: opened.extend([time.monotonic_ns(), *delays()])))
        span, (waited, preempted) = time.monotonic_ns() - opened[0], delays()
    traced = seen.workload("trace-late").wakeup_latency.total_ns / seen.window_ns
    assert traced == pytest.approx((waited - opened[1]) / span, rel=0.25)
    assert traced > 0.01
    # The hog waits too, each time it was preempted: that is no wakeup latency.
    assert seen.workload("trace-hog").involuntary_switches > 50
    assert seen.workload("trace-hog").wakeup_latency.count <= 2
    # The kernel stamps both ends of a wait with the run queue's clock, the probe with the time at its tracepoints.
    assert 0 < seen.workload("trace-hog").wait_ns <= (preempted - opened[2]) * 1.05


def test_sleeps_edges_execs_and_exits(tmp_path):
    program = shutil.copy("/bin/true", tmp_path / "trace-true")
    with (
        running(b"trace-sleeps", WAKER),
        running(b"edge-parent", PAIR),
        running(b"trace-execer", EXECER) as execer,
    ):

        def go():
            execer.stdin.write(os.fsencode(program) + b"\n")
            execer.stdin.flush()

        seen = profile(2.0, intents=[intent("true", comm=["trace-true"])], reporter=AtOpening(go))
    sleeps = seen.workload("trace-sleeps").sleep
    assert sleeps.count == pytest.approx(200, rel=0.05)
    assert sleeps.percentile(50) == pytest.approx(9_000_000, rel=0.1)
    edges = {(edge.waker, edge.wakee): edge.wakeups for edge in seen.wake_edges}
    child = seen.workload("edge-child")
    assert child.wakeups > 200
    assert edges["edge-parent", "edge-child"] == pytest.approx(child.wakeups, rel=0.05)
    assert ("edge-child", "edge-parent") not in edges
    ran = seen.workload("shop/true")
    assert (ran.tasks, ran.execs, ran.exits, ran.forks) == (20, 20, 20, 0)
    parent = seen.workload("trace-execer")
    assert (parent.forks, parent.execs, parent.exits) == (20, 0, 0)


def test_the_depth_of_a_cpus_queue():
    cpu = max(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            os.sched_setaffinity(stack.enter_context(running(b"trace-deep", HOG)).pid, {cpu})
        seen = profile(1.0)
    stats = next(stats for stats in seen.cpus if stats.cpu == cpu)
    assert sum(stats.depth) == pytest.approx(seen.window_ns, rel=0.05)
    assert sum(stats.depth[3:]) > 0.7 * seen.window_ns
    assert stats.busy_share > 0.8


def test_others_who_trace_still_get_their_events(tmp_path):
    if shutil.which("perf") is None:
        missing("perf", "apt-get install linux-perf")
    with contextlib.closing(Probes()) as probes:
        file = tmp_path / "perf.data"
        record = ["perf", "record", "-q", "-a", "-c", "1", "-e", "sched:sched_switch", "-o", file, "sleep", "0.3"]
        profile(2.0, probes=probes, reporter=AtOpening(lambda: subprocess.run(record, check=True, capture_output=True)))
    shown = subprocess.run(["perf", "script", "-i", file, "-F", "event"], check=True, capture_output=True)
    assert shown.stdout.count(b"sched_switch") > 10


def test_probes_that_die_in_a_window_are_said_and_started_again():
    with contextlib.closing(Probes()) as probes:
        lost = profile(0.3, probes=probes, reporter=AtOpening(lambda: probes._process.kill()))
        again = profile(0.1, probes=probes)
    assert (lost.observer, again.observer) == ("procfs", "bcc")
    assert "bcc failed" in lost.degraded
    assert lost.workloads


def test_bcc_and_btf_that_vanished_are_said(monkeypatch, tmp_path):
    with contextlib.closing(Probes()) as probes:
        assert profile(0.1, probes=probes).observer == "bcc"
        with monkeypatch.context() as without:
            without.setattr(tracer.importlib.util, "find_spec", lambda _name: None)
            gone = profile(0.1, probes=probes)
        assert profile(0.1, probes=probes).observer == "bcc"
    assert gone.observer == "procfs"
    assert "python3-bpfcc" in gone.degraded
    monkeypatch.setattr(schedext, "VMLINUX_BTF", tmp_path / "none")
    blind = profile(0.1)
    assert blind.observer == "procfs"
    assert "BTF" in blind.degraded


def test_a_cgroup_names_its_tasks():
    root = cgroups.mount()
    if root is None:
        missing("a cgroup v2 hierarchy", "mount -t cgroup2 none /sys/fs/cgroup")
    group = root / f"schedctl-trace-{os.getpid()}.service"
    group.mkdir()
    try:
        with running(b"trace-inside", HOG) as hog:
            (group / "cgroup.procs").write_text(str(hog.pid))
            seen = profile(0.5)
            hog.kill()
            hog.wait()
        inside = seen.workload(f"/{group.name}")
        assert (inside.keyed_by, inside.comms) == ("cgroup", ("trace-inside",))
        assert inside.cpu_ns > 0
    finally:
        group.rmdir()


def test_a_task_that_moves_to_another_cgroup_is_counted_there_from_then_on():
    root = cgroups.mount()
    if root is None:
        missing("a cgroup v2 hierarchy", "mount -t cgroup2 none /sys/fs/cgroup")
    group = root / f"schedctl-moved-{os.getpid()}.service"
    group.mkdir()
    try:
        with running(b"trace-moves", WAKER) as waker:

            def go():
                time.sleep(0.5)
                (group / "cgroup.procs").write_text(str(waker.pid))

            seen = profile(1.5, reporter=AtOpening(lambda: threading.Thread(target=go).start()))
            waker.kill()
            waker.wait()
        before, after = seen.workload("trace-moves"), seen.workload(f"/{group.name}")
        assert before.wakeups == pytest.approx(50, abs=25)
        assert before.wakeups + after.wakeups == pytest.approx(150, rel=0.05)
        assert (before.tasks, after.tasks) == (1, 1)
    finally:
        group.rmdir()


def test_a_full_map_is_counted(capfd):
    with contextlib.closing(Probes(Capacity(tasks=4, groups=4, cells=16))) as probes:
        seen = profile(0.5, probes=probes)
    assert seen.observer == "bcc"
    assert seen.dropped > 0
    assert capfd.readouterr() == ("", "")


def test_a_probe_that_does_not_compile_falls_back_with_the_compilers_words(monkeypatch, tmp_path, capfd):
    (tmp_path / "probes").mkdir()
    for part in tracer.PARTS:
        (tmp_path / "probes" / part).write_text("int broken(void) { return nonsense; }\n")
    monkeypatch.setattr(tracer, "data_dir", lambda _name: tmp_path)
    seen = profile(0.1)
    assert seen.observer == "procfs"
    assert "nonsense" in seen.degraded
    assert "doctor" in seen.degraded
    assert capfd.readouterr() == ("", "")


def test_neither_tracefs_nor_debugfs_is_needed():
    script = "import controller.observe as o; p = o.profile(0.1); print(p.observer, p.degraded)"
    command = 'for each in tracing debug; do umount -l /sys/kernel/$each; done 2>/dev/null; exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command, "sh", sys.executable, "-c", script], capture_output=True, text=True
    )
    assert done.stdout == "bcc \n"


def test_root_without_the_capabilities_is_told_so():
    script = "import controller.observe as o; p = o.profile(0.1); print(p.observer, p.degraded)"
    drop = ["setpriv", "--bounding-set", "-bpf,-perfmon,-sys_admin"]
    done = subprocess.run([*drop, sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.startswith("procfs bcc failed: ")
    assert "grant CAP_BPF" in done.stdout


def test_killing_the_observer_leaves_no_probe():
    script = "from controller.observe import profile; profile(600)"
    parent = subprocess.Popen([sys.executable, "-c", script])
    try:
        child = _wait_for(lambda: _child_with_probes(parent.pid))
        assert child
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    assert _wait_for(lambda: not _alive(child))


def test_a_cpu_that_never_switched_is_its_running_tasks():
    cpu = max(os.sched_getaffinity(0))
    window = 1_000_000_000
    stays = [[1, 0]] * cpu + [[0, 0]]  # since, address
    nothing = {name: [] for name in ("groups", "cells", "tasks", "queues")}
    answer = {"start": 1, "stop": 1 + window, "own": 0, "dropped": 0, "stays": stays, **nothing}

    def meter(busy_ns):
        return Reading(0, {cpu: CpuClock(busy_ns, busy_ns, 0, None)}, {})

    with running(b"trace-alone", HOG) as hog:
        os.sched_setaffinity(hog.pid, {cpu})
        assert _wait_for(lambda: procfs.running_on(cpu) is not None)
        seen = reader.observation(answer, {}, meter(0), meter(window))
        assert sum(sample.cpu_ns for sample in seen.samples.values()) == window
        assert reader.observation(answer, {}, meter(0), meter(0)).samples == {}


def _child_with_probes(pid):
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        links = []
        for link in Path(f"/proc/{child}/fd").iterdir():
            try:
                links.append(str(link.readlink()))
            except OSError:
                continue
        if sum("bpf" in link for link in links) >= 20:
            return int(child)
    return None


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait_for(condition, deadline_s=60):
    end = time.monotonic() + deadline_s
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return value


def test_kept_probes_count_each_window_anew():
    with contextlib.closing(Probes()) as probes:
        first = profile(0.5, probes=probes)
        second = profile(0.5, probes=probes)
    for seen in (first, second):
        assert seen.observer == "bcc"
        share = sum(w.cpu_share for w in seen.workloads)
        assert 0 < share <= 1.05, "counts of an earlier window would add to this one"
        assert sum(w.tasks for w in seen.workloads) > 0
