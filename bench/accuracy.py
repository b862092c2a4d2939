# SPDX-License-Identifier: Apache-2.0
"""How near the figures of the observer are to the truth: loads of known period, burst and threads, and raw events.

The loads: rt-app threads that run for a set time in each period, cyclictest, a waker, and a sleeper that waits behind a
hog. Each is measured by itself, the sleeper and the hog, which belong together, together: loads beside it would cut a
load's bursts and delay its wakeups, and what it was told to do were no truth any more. Our probes watch, and the
kernel's own trace records sched_switch, sched_waking and sched_wakeup_new with the same clock. Then

  known   median burst and period within 5 % of what the load was told, wakeups within 1 % of window / period, threads
  kernel  wakeups within 1 % of the voluntary switches that the kernel counts for the load's threads
  raw     wakeups, latencies, bursts and sleeps counted from the raw events by the definitions of bpf/probes/sched.c:
          equal counts within 1 %, and the percentiles 50, 90 and 99 within one histogram bucket (6 % of the value)

The period is a burst, a sleep and a latency: the sum of their medians. Of two observers at one tracepoint the second
sees each event later, by what the first one takes, and more so at a wakeup, when its code has left the caches: whoever
comes first sees longer latencies (by less than a microsecond here, by ten on an emulated CPU). So each load has two
windows: in one the trace comes first, in the other the probes, and percentiles are of both together. In the second the
trace begins when the window is open already, so counts of raw events are compared in the first. On CPUs of which the
trace lacks events (see bench/loads/trace.py), raw events are not compared, all else is.

With --guest all of it happens in a node VM on the newest sched_ext kernel. An emulated CPU is some twenty times slower,
and what the loads do besides what they were told (reading the clock, going to sleep) is no longer nothing beside a
millisecond: their bursts and periods are stretched there by --stretch, so that the load does what it was told, and the
windows are longer, so that a 99th percentile is no single event; the bars are the same.

Needs root, bcc, tracefs, rt-app and rt-tests (and QEMU for --guest). The table goes to stderr, JSON to stdout and to
bench/results/accuracy.json or accuracy-guest.json (--name another). Exit status 1 if a bar is not met.

    python bench/accuracy.py
    python bench/accuracy.py --guest
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loads import conditions, guest, other_load, trace
from loads.raw import Raw

sys.path.insert(0, str(Path(__file__).parents[1]))

from controller.api.base import now
from controller.observe import Probes
from controller.observe.histogram import build
from controller.observe.sample import HISTOGRAMS, Observation, Sample
from controller.observe.twin import calibrate
from tests.observe.loads import HOG, LATE, running, waker

PERCENTILES = (50, 90, 99)
EVENTS = ("sched_switch", "sched_waking", "sched_wakeup_new")
SECONDS, GUEST_SECONDS = 10.0, 30.0
GUEST_STRETCH = 5
_ENOUGH = 100
"""Raw events, of which percentiles and counts within 1 % say something."""
_SLACK_S = 1.0
_START_S = 30.0
_GUEST_S = 205.0  # with windows of 10 s


@dataclass(frozen=True)
class Load:
    """What is known of one load: `name` starts its threads' names; times in nanoseconds, None is not set."""

    name: str
    threads: int | None = None
    burst: int | None = None
    period: int | None = None

    def stretched(self, factor: int) -> Load:
        """The same with longer times."""
        if self.burst is None or self.period is None:
            return self
        return replace(self, burst=self.burst * factor, period=self.period * factor)


GROUPS: tuple[tuple[Load, ...], ...] = (
    (Load("acc-slow", 2, 2_000_000, 20_000_000),),
    (Load("acc-fast", 1, 2_000_000, 8_000_000),),
    (Load("cyclictest"),),
    (Load("acc-waker", 1, 2_000_000, 10_000_000),),
    (Load("acc-late"), Load("acc-hog")),
)
"""Measured together: what is in one group."""


@dataclass(frozen=True)
class _Cpus:
    """All that there are, and those that the kernel's trace has all of, which come first."""

    all: tuple[int, ...]
    traced: frozenset[int]

    @classmethod
    def found(cls) -> _Cpus:
        """SystemExit when the trace lacks events of each CPU."""
        there = sorted(os.sched_getaffinity(0))
        traced = frozenset(trace.whole(there))
        if not traced:
            raise SystemExit("there are no raw events to compare with: this kernel's trace lacks some of each CPU")
        return cls(tuple(sorted(there, key=lambda cpu: (cpu not in traced, cpu))), traced)

    def raw(self, load: Load) -> tuple[str, ...]:
        """What the names of those of its threads begin with that run where the trace has all of them."""
        if load.threads is None or load.threads == 1:
            return (load.name,)
        spread = ((number, self.all[number % len(self.all)]) for number in range(load.threads))
        return tuple(f"{load.name}-{number}" for number, cpu in spread if cpu in self.traced)


def main() -> None:
    """Watch the loads and print how far off the figures are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.0, help="length of each window; default: 10, 30 in a guest")
    parser.add_argument("--name", default="", help="file in bench/results, without .json")
    parser.add_argument("--only", action="append", default=[], metavar="LOAD", help="its group alone; nothing is kept")
    parser.add_argument("--stretch", type=int, default=0, help=f"default: 1, and {GUEST_STRETCH} with --guest")
    parser.add_argument("--guest", action="store_true", help="run it in a node VM on the newest sched_ext kernel")
    arguments = parser.parse_args()
    for tool in ("rt-app", "cyclictest"):
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is needed; run `make setup`")
    result = _in_guest(arguments) if arguments.guest else _here(arguments)
    _table(result)
    text = json.dumps(result)
    print(text)
    if not arguments.only and arguments.name != guest.PRINT_ALONE:
        name = arguments.name or ("accuracy-guest" if arguments.guest else "accuracy")
        (Path(__file__).parent / "results" / f"{name}.json").write_text(text + "\n")
    raise SystemExit(0 if result["met"] else 1)


def _in_guest(arguments: argparse.Namespace) -> dict[str, Any]:
    seconds = arguments.seconds or GUEST_SECONDS
    passed = ["--seconds", str(seconds), "--stretch", str(arguments.stretch or GUEST_STRETCH)]
    passed += [word for name in arguments.only for word in ("--only", name)]
    longer_s = 2 * len(GROUPS) * max(0.0, seconds - SECONDS)
    return guest.run(Path(__file__), passed, timeout_s=_GUEST_S + longer_s)


def _here(arguments: argparse.Namespace) -> dict[str, Any]:
    stretch, seconds = arguments.stretch or 1, arguments.seconds or SECONDS
    before = other_load()
    cpus = _Cpus.found()
    groups = [group for group in GROUPS if not arguments.only or {load.name for load in group} & set(arguments.only)]
    loads, dropped, lost = [], 0, 0
    with contextlib.closing(Probes()) as probes:
        probes.observe(0.1)  # compiled before the loads start
        for group in groups:
            stretched = [load.stretched(stretch) for load in group]
            takes = _measured(stretched, seconds, probes, cpus)
            loads += [_compare(load, takes, cpus) for load in stretched]
            dropped += sum(take.seen.dropped for take in takes)
            lost += sum(take.lost for take in takes)
    return {
        "benchmark": "accuracy",
        "measured": now().isoformat(),
        "kernel": os.uname().release,
        "window_s": seconds,
        "stretch": stretch,
        "conditions": conditions(before, other_load()),
        "dropped": dropped,
        "lost_by_trace": lost,
        "cpus_without_whole_trace": [cpu for cpu in cpus.all if cpu not in cpus.traced],
        "loads": loads,
        "met": all(check["met"] for each in loads for check in each["checks"]),
    }


@dataclass(frozen=True)
class _Take:
    """One window: what our probes saw, what the raw events say by process name, and the kernel's own count."""

    seen: Observation
    raw: dict[str, Sample]
    counted: _Counted
    lost: int


def _measured(group: Sequence[Load], seconds: float, probes: Probes, cpus: _Cpus) -> tuple[_Take, _Take]:
    """Both windows of a group of loads."""
    with tempfile.TemporaryDirectory() as folder, _running(group, Path(folder), seconds, cpus):
        time.sleep(_SLACK_S)
        counted = _Counted(group, seconds)
        with trace.recorded(EVENTS) as recording:
            seen = probes.observe(seconds, counted.opened)
        first = _Take(seen, Raw(recording.events, seen).samples, counted, recording.lost)
        counted = _Counted(group, seconds)
        with contextlib.ExitStack() as stack:
            recordings = []

            def opened() -> None:
                counted.opened()
                recordings.append(stack.enter_context(trace.recorded(EVENTS)))

            seen = probes.observe(seconds, opened)
        (recording,) = recordings
        return first, _Take(seen, Raw(recording.events, seen).samples, counted, recording.lost)


@contextlib.contextmanager
def _running(group: Sequence[Load], folder: Path, seconds: float, cpus: _Cpus) -> Iterator[None]:
    """The loads of the group, all their threads started."""
    first = cpus.all[0]
    length = math.ceil(2 * seconds + _SLACK_S + 4 * _START_S)
    with contextlib.ExitStack() as stack:
        for load in group:
            match load.name:
                case "cyclictest":
                    command = ["cyclictest", "-q", "-p", "5", "-i", "1000", "-t", "1", "-a", str(first)]
                    stack.enter_context(_program([*command, "-D", f"{length}"]))
                case "acc-waker":
                    assert load.burst is not None
                    assert load.period is not None
                    process = stack.enter_context(running(b"acc-waker", waker(load.period, load.burst)))
                    os.sched_setaffinity(process.pid, {first})
                case "acc-late" | "acc-hog":
                    body = HOG if load.name == "acc-hog" else LATE
                    process = stack.enter_context(running(load.name.encode(), body))
                    os.sched_setaffinity(process.pid, {first})
                case _:
                    stack.enter_context(_program(["rt-app", str(_rt_app(load, folder, length, cpus.all))]))
        _await_threads(group)
        yield


def _rt_app(load: Load, folder: Path, length: int, cpus: Sequence[int]) -> Path:
    """A document for the load: each thread on a CPU of its own, as far as there are enough."""
    assert load.threads is not None
    assert load.burst is not None
    assert load.period is not None
    tasks = {
        f"{load.name}-{number}": {
            "loop": -1,
            "policy": "SCHED_FIFO",
            "priority": 10,
            "cpus": [cpus[number % len(cpus)]],
            "runtime": load.burst // 1000,
            "timer": {"ref": "unique", "period": load.period // 1000},
        }
        for number in range(load.threads)
    }
    # `runtime` goes by the clock, which rt-app reads after each 32 µs of work by its idea of the CPU's speed.
    settings = {"duration": length, "calibration": max(round(calibrate()), 1), "logdir": str(folder)}
    document = folder / "loads.json"
    document.write_text(json.dumps({"global": settings, "tasks": tasks}))
    return document


@contextlib.contextmanager
def _program(command: Sequence[str]) -> Iterator[None]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


def _await_threads(group: Sequence[Load]) -> None:
    """Until all threads of the loads have their names. SystemExit when they do not come."""
    end = time.monotonic() + _START_S
    while True:
        names = [name for name, _ in _threads()]
        missing = [
            load.name for load in group if sum(name.startswith(load.name) for name in names) < (load.threads or 1)
        ]
        if not missing:
            return
        if time.monotonic() > end:
            raise SystemExit(f"{', '.join(missing)} did not start; rt-app and cyclictest need real-time priorities")
        time.sleep(0.1)


def _threads() -> Iterator[tuple[str, Path]]:
    """Name and /proc file of the name of each thread that runs."""
    for file in Path("/proc").glob("[0-9]*/task/[0-9]*/comm"):
        with contextlib.suppress(OSError):
            yield file.read_text().strip(), file


class _Counted:
    """The kernel's count of voluntary switches of the loads, read when the window opens and when it closes.

    `threads` are their folders in /proc; the second reading comes from a thread, since the observer returns only when
    it has read all that it counted.
    """

    def __init__(self, group: Sequence[Load], seconds: float) -> None:
        names = [load.name for load in group]
        self._seconds = seconds
        self._threads: dict[str, list[Path]] = {name: [] for name in names}
        for name, file in _threads():
            for load in names:
                if name.startswith(load):
                    self._threads[load].append(file.parent / "status")
        self._readings: list[dict[str, tuple[int, int]]] = []
        self._later: threading.Timer | None = None

    def opened(self) -> None:
        """The window is open: read now, and when it is over."""
        self._read()
        self._later = threading.Timer(self._seconds, self._read)
        self._later.start()

    def _read(self) -> None:
        found = {}
        for load, files in self._threads.items():
            counts = (re.search(r"^voluntary_ctxt_switches:\s*(\d+)", file.read_text(), re.M) for file in files)
            found[load] = sum(int(count[1]) for count in counts if count), time.monotonic_ns()
        self._readings.append(found)

    def per_second(self, name: str) -> float:
        """Voluntary switches a second of the threads of a load."""
        assert self._later is not None
        self._later.join()
        (first, then), (last, at) = (reading[name] for reading in self._readings)
        return (last - first) * 1e9 / (at - then)


def _compare(load: Load, takes: tuple[_Take, _Take], cpus: _Cpus) -> dict[str, Any]:
    mine = [[(who.comm.decode("latin-1"), sample) for who, sample in take.seen.samples.items()] for take in takes]
    found = _sum(itertools.chain(*mine), (load.name,))
    spans = [take.seen.window_ns for take in takes]
    median = {name: build(getattr(found, name) or {}, 1).percentile(50) for name in HISTOGRAMS}
    checks = []

    def check(name: str, got: float, wanted: float, allowed: float) -> None:
        off = abs(got - wanted) / wanted if wanted else float(got != wanted)
        checks.append({"what": name, "got": got, "wanted": wanted, "off": off, "met": off <= allowed})

    if load.threads is not None:
        check("threads", found.tasks / len(takes), load.threads, 0)
    if load.burst is not None and load.period is not None and load.threads is not None:
        check("burst, known, ns", median["burst"], load.burst, 0.05)
        check("period, known, ns", sum(median.values()), load.period, 0.05)
        check("wakeups, known", found.wakeups or 0, load.threads * sum(spans) / load.period, 0.01)
    if found.wakeups and found.wakeups > _ENOUGH:
        by_kernel = sum(
            take.counted.per_second(load.name) * span / 1e9 for take, span in zip(takes, spans, strict=True)
        )
        check("wakeups, kernel", found.wakeups, by_kernel, 0.01)
    whole, whole_truth = _sum(mine[0], cpus.raw(load)), _sum(takes[0].raw.items(), cpus.raw(load))
    both = _sum(itertools.chain(*mine), cpus.raw(load))
    both_truth = _sum(itertools.chain(*(take.raw.items() for take in takes)), cpus.raw(load))
    if (whole_truth.wakeups or 0) >= _ENOUGH:
        check("wakeups, raw", whole.wakeups or 0, whole_truth.wakeups or 0, 0.01)
    for name in HISTOGRAMS:
        if sum(getattr(whole_truth, name).values()) < _ENOUGH:
            continue
        check(f"{name} count, raw", sum(getattr(whole, name).values()), sum(getattr(whole_truth, name).values()), 0.01)
        for percent in PERCENTILES:
            got, wanted = (_percentile(getattr(one, name), percent) for one in (both, both_truth))
            off = abs(got - wanted)
            what = f"{name} p{percent}, raw, bucket"
            checks.append({"what": what, "got": got, "wanted": wanted, "off": off, "met": off <= 1})
    return {"load": load.name, "checks": checks}


def _sum(samples: Iterable[tuple[str, Sample]], beginnings: tuple[str, ...]) -> Sample:
    total = Sample.traced()
    for comm, sample in samples:
        if comm.startswith(beginnings):
            total.add(sample)
    return total


def _percentile(counts: Counter[int], percent: float) -> int:
    """The bucket with the value below which `percent` of the events lie."""
    wanted, seen = math.ceil(sum(counts.values()) * percent / 100), 0
    for bucket in sorted(counts):
        seen += counts[bucket]
        if seen >= wanted:
            return bucket
    return 0


def _table(result: dict[str, Any]) -> None:
    for each in result["loads"]:
        for check in each["checks"]:
            mark = "" if check["met"] else "   NOT MET"
            got, wanted, off = check["got"], check["wanted"], check["off"]
            line = f"{each['load']:<12}{check['what']:<26}{got:>14.0f}{wanted:>14.0f}{off:>9.3f}{mark}"
            print(line, file=sys.stderr)
    lost = f"dropped {result['dropped']}, lost by the trace {result['lost_by_trace']}"
    print(f"{result['conditions']}; {lost}; all bars met: {result['met']}", file=sys.stderr)


if __name__ == "__main__":
    main()
