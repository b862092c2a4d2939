# SPDX-License-Identifier: Apache-2.0
"""How near the figures of the observer are to the truth: loads of known period, burst and threads, and raw events.

The loads: rt-app threads that run for a set time in each period, cyclictest, a waker, and a sleeper that waits behind a
hog. Each has a window of its own, the sleeper and the hog, which belong together, one in common: loads beside it would
cut a load's bursts and delay its wakeups, and what it was told to do were no truth any more. In each window our probes
watch, and `perf record` of sched_switch, sched_waking and sched_wakeup_new with the same clock. Then

  known   median burst and period within 5 % of what the load was told, wakeups within 1 % of window / period, threads
  kernel  wakeups within 1 % of the voluntary switches that the kernel counts for the load's threads
  raw     wakeups, latencies, bursts and sleeps counted from perf's events by the definitions of bpf/probes/sched.c:
          equal counts within 1 %, and the percentiles 50, 90 and 99 within one histogram bucket (6 % of the value)

The period is a burst, a sleep and a latency: the sum of their medians. With --guest all of it happens in a node VM on
the newest sched_ext kernel. An emulated CPU is some twenty times slower, and what the loads do besides what they were
told (reading the clock, going to sleep) is no longer nothing beside a millisecond: their bursts and periods are
stretched there by --stretch, so that the load does what it was told; the bars are the same.

Needs root, bcc, perf, rt-app and rt-tests (and QEMU for --guest). The table goes to stderr, JSON to stdout and to
bench/results/accuracy.json or accuracy-guest.json (--name another). Exit status 1 if a bar is not met.

    python bench/accuracy.py --seconds 10
    python bench/accuracy.py --guest
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loads import guest, other_load

sys.path.insert(0, str(Path(__file__).parents[1]))

from controller.api.base import now
from controller.observe import Probes
from controller.observe.histogram import bucket_of, build
from controller.observe.sample import HISTOGRAMS, Observation, Sample
from tests.observe.loads import HOG, LATE, running, waker

PERCENTILES = (50, 90, 99)
EVENTS = ("sched_switch", "sched_waking", "sched_wakeup_new")
GUEST_STRETCH = 5
_SLACK_S = 1.0
_START_S = 30.0
_GUEST_S = 220.0


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
    (Load("acc-fast", 1, 1_000_000, 8_000_000),),
    (Load("cyclictest"),),
    (Load("acc-waker", 1, 1_000_000, 10_000_000),),
    (Load("acc-late"), Load("acc-hog")),
)
"""Measured together: what is in one group."""


def main() -> None:
    """Watch the loads and print how far off the figures are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each window")
    parser.add_argument("--name", default="", help="file in bench/results, without .json")
    parser.add_argument("--only", action="append", default=[], metavar="LOAD", help="its group alone; nothing is kept")
    parser.add_argument("--stretch", type=int, default=0, help=f"default: 1, and {GUEST_STRETCH} with --guest")
    parser.add_argument("--guest", action="store_true", help="run it in a node VM on the newest sched_ext kernel")
    arguments = parser.parse_args()
    for tool in ("perf", "rt-app", "cyclictest"):
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
    passed = ["--seconds", str(arguments.seconds), "--stretch", str(arguments.stretch or GUEST_STRETCH)]
    passed += [word for name in arguments.only for word in ("--only", name)]
    return guest.run(Path(__file__), passed, timeout_s=_GUEST_S)


def _here(arguments: argparse.Namespace) -> dict[str, Any]:
    stretch = arguments.stretch or 1
    before = other_load()
    groups = [group for group in GROUPS if not arguments.only or {load.name for load in group} & set(arguments.only)]
    loads, dropped, lost = [], 0, 0
    with contextlib.closing(Probes()) as probes:
        probes.observe(0.1)  # compiled before the loads start
        for group in groups:
            found, by_probes, by_perf = _measured(
                [load.stretched(stretch) for load in group], arguments.seconds, probes
            )
            loads += found
            dropped += by_probes
            lost += by_perf
    return {
        "benchmark": "accuracy",
        "measured": now().isoformat(),
        "kernel": os.uname().release,
        "window_s": arguments.seconds,
        "stretch": stretch,
        "conditions": f"{before} before, {other_load()} after",
        "dropped": dropped,
        "lost_by_perf": lost,
        "loads": loads,
        "met": all(check["met"] for each in loads for check in each["checks"]),
    }


def _measured(group: Sequence[Load], seconds: float, probes: Probes) -> tuple[list[dict[str, Any]], int, int]:
    """The checks of each load of the group, and the events that the probes dropped and that perf lost."""
    with tempfile.TemporaryDirectory() as folder:
        with _running(group, Path(folder), seconds), _recorded(Path(folder) / "perf.data") as recording:
            time.sleep(_SLACK_S)
            counted = _Counted()
            seen = probes.observe(seconds, counted.read)
            counted.read()
        raw = _Raw(seen).read(recording)
    return [_compare(load, seen, raw.samples, counted) for load in group], seen.dropped, raw.lost


@contextlib.contextmanager
def _running(group: Sequence[Load], folder: Path, seconds: float) -> Iterator[None]:
    """The loads of the group, all their threads started."""
    cpus = sorted(os.sched_getaffinity(0))
    length = math.ceil(seconds + _SLACK_S + 2 * _START_S)
    with contextlib.ExitStack() as stack:
        for load in group:
            match load.name:
                case "cyclictest":
                    command = ["cyclictest", "-q", "-p", "5", "-i", "1000", "-t", "1", "-a", str(cpus[-1])]
                    stack.enter_context(_program([*command, "-D", f"{length}"]))
                case "acc-waker":
                    assert load.burst is not None
                    assert load.period is not None
                    process = stack.enter_context(running(b"acc-waker", waker(load.period, load.burst)))
                    os.sched_setaffinity(process.pid, {cpus[0]})
                case "acc-late" | "acc-hog":
                    body = HOG if load.name == "acc-hog" else LATE
                    process = stack.enter_context(running(load.name.encode(), body))
                    os.sched_setaffinity(process.pid, {cpus[-1]})
                case _:
                    stack.enter_context(_program(["rt-app", str(_rt_app(load, folder, length, cpus))]))
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
    # Nothing is calibrated: `runtime` goes by the clock.
    settings = {"duration": length, "calibration": 10, "logdir": str(folder)}
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
        names = []
        for file in Path("/proc").glob("[0-9]*/task/[0-9]*/comm"):
            with contextlib.suppress(OSError):
                names.append(file.read_text())
        missing = [
            load.name for load in group if sum(name.startswith(load.name) for name in names) < (load.threads or 1)
        ]
        if not missing:
            return
        if time.monotonic() > end:
            raise SystemExit(f"{', '.join(missing)} did not start; rt-app and cyclictest need real-time priorities")
        time.sleep(0.1)


@contextlib.contextmanager
def _recorded(file: Path) -> Iterator[Path]:
    (orders, order), (answer, answers) = os.pipe(), os.pipe()
    events = [f"-esched:{event}" for event in EVENTS]
    command = ["perf", "record", "-q", "-a", "-c", "1", "-k", "CLOCK_MONOTONIC", "-m", "32M", "--control"]
    command += [f"fd:{orders},{answers}", "-o", str(file), *events]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, pass_fds=(orders, answers), **quiet) as process:
        os.close(answers)
        os.close(orders)
        for word in (b"ping\n", b"stop\n"):
            os.write(order, word)
            if not os.read(answer, 16).startswith(b"ack"):  # it records, and: all that it recorded is written
                raise SystemExit("perf record did not start")
            if word == b"ping\n":
                yield file
        process.wait()
    os.close(order)
    os.close(answer)


class _Counted:
    """The kernel's count of voluntary switches by thread, read when the window opens and when it has closed."""

    def __init__(self) -> None:
        self._readings: list[dict[tuple[str, str], tuple[int, int]]] = []

    def read(self) -> None:
        at = time.monotonic_ns()
        found = {}
        for folder in Path("/proc").glob("[0-9]*/task/[0-9]*"):
            with contextlib.suppress(OSError, StopIteration):
                lines = (folder / "status").read_text().splitlines()
                count = next(line for line in lines if line.startswith("voluntary_ctxt_switches"))
                found[folder.name, (folder / "comm").read_text().strip()] = int(count.split()[1]), at
        self._readings.append(found)

    def per_second(self, name: str) -> float:
        """Voluntary switches a second of the threads whose names start so."""
        first, last = self._readings
        total = 0.0
        for key, (count, at) in last.items():
            if key[1].startswith(name) and key in first:
                then, before = first[key]
                total += (count - then) * 1e9 / (at - before)
        return total


@dataclass
class _State:
    waking: int = 0
    asleep: int = 0
    early: bool = False
    since: int = 0
    wait: int | None = None
    woke: bool = False
    slept: int | None = None


@dataclass
class _Raw:
    """Samples made from perf's events by the definitions in bpf/probes/sched.c, by process name."""

    seen: Observation
    samples: dict[str, Sample] = field(default_factory=dict)
    lost: int = 0
    _states: dict[int, _State] = field(default_factory=dict)

    _LOST = re.compile(r"PERF_RECORD_LOST lost (\d+)")
    _LINE = re.compile(r"(?P<time>\d+)\.(?P<ns>\d{9}): +sched:(?P<event>\w+): (?P<fields>.*)")

    def read(self, file: Path) -> _Raw:
        """All events of the window in perf's file."""
        command = ["perf", "script", "-i", str(file), "--ns", "-F", "time,event,trace", "--show-lost-events"]
        shown = subprocess.run(command, check=True, capture_output=True, text=True, errors="replace").stdout
        start = self.seen.start_ns
        self.lost = sum(map(int, self._LOST.findall(shown)))
        for line in shown.splitlines():
            match = self._LINE.search(line)
            at = int(match["time"]) * 1_000_000_000 + int(match["ns"]) if match else 0
            if match is None or not start <= at < start + self.seen.window_ns:
                continue
            if match["event"] == "sched_switch":
                switch = self._fields(match["fields"])
                self._switched(
                    at, switch["prev_comm"], int(switch["prev_pid"]), switch["prev_state"], int(switch["next_pid"])
                )
            else:
                self._waking(at, int(self._fields(match["fields"])["pid"]))
        return self

    @staticmethod
    def _fields(text: str) -> dict[str, str]:
        return dict(re.findall(r"(\w+)=(.*?)(?= \w+=| ==>|$)", text))

    def _waking(self, at: int, pid: int) -> None:
        state = self._states.setdefault(pid, _State())
        if state.since:
            state.early = True
        elif not state.waking:
            state.waking = at
            state.slept = at - state.asleep if state.asleep else None

    def _switched(self, at: int, comm: str, pid: int, left: str, following: int) -> None:
        if pid:
            state = self._states.setdefault(pid, _State())
            sample = self.samples.setdefault(comm, Sample.traced())
            if state.since:
                self._add(sample, "burst", at - state.since)
                sample.wakeups = (sample.wakeups or 0) + state.woke
                if state.wait is not None:
                    self._add(sample, "latency", state.wait)
                if state.slept is not None:
                    self._add(sample, "sleep", state.slept)
            sleeps = not left.startswith("R")
            self._states[pid] = _State(asleep=at if sleeps else 0, early=state.early and sleeps)
        if following:
            state = self._states.setdefault(following, _State())
            state.wait = None
            if state.waking:
                state.wait = at - state.waking
            elif state.asleep and state.early:
                state.wait, state.slept = at - state.asleep, 0
            else:
                state.slept = None
            state.woke = state.wait is not None or state.asleep > 0
            state.since, state.waking, state.asleep, state.early = at, 0, 0, False

    @staticmethod
    def _add(sample: Sample, name: str, value: int) -> None:
        getattr(sample, name)[bucket_of(value)] += 1
        setattr(sample, f"{name}_ns", getattr(sample, f"{name}_ns") + value)


def _compare(load: Load, seen: Observation, raw: dict[str, Sample], counted: _Counted) -> dict[str, Any]:
    found = _sum(sample for who, sample in seen.samples.items() if who.comm.decode("latin-1").startswith(load.name))
    truth = _sum(sample for comm, sample in raw.items() if comm.startswith(load.name))
    seconds = seen.window_ns / 1e9
    median = {name: build(getattr(found, name) or {}, 1).percentile(50) for name in HISTOGRAMS}
    checks = []

    def check(name: str, got: float, wanted: float, allowed: float) -> None:
        off = abs(got - wanted) / wanted if wanted else float(got != wanted)
        checks.append({"what": name, "got": got, "wanted": wanted, "off": off, "met": off <= allowed})

    if load.threads is not None:
        check("threads", found.tasks, load.threads, 0)
    if load.burst is not None and load.period is not None and load.threads is not None:
        check("burst, known, ns", median["burst"], load.burst, 0.05)
        check("period, known, ns", sum(median.values()), load.period, 0.05)
        check("wakeups, known", found.wakeups or 0, load.threads * seen.window_ns / load.period, 0.01)
    if truth.wakeups and truth.wakeups > 100:
        check("wakeups, kernel", found.wakeups or 0, counted.per_second(load.name) * seconds, 0.01)
        check("wakeups, raw", found.wakeups or 0, truth.wakeups, 0.01)
    for name in HISTOGRAMS:
        mine, theirs = getattr(found, name), getattr(truth, name)
        if sum(theirs.values()) < 100:
            continue
        check(f"{name} count, raw", sum(mine.values()), sum(theirs.values()), 0.01)
        for percent in PERCENTILES:
            got, wanted = _percentile(mine, percent), _percentile(theirs, percent)
            checks.append(
                {
                    "what": f"{name} p{percent}, raw, bucket",
                    "got": got,
                    "wanted": wanted,
                    "off": abs(got - wanted),
                    "met": abs(got - wanted) <= 1,
                }
            )
    return {"load": load.name, "checks": checks}


def _sum(samples: Iterator[Sample]) -> Sample:
    total = Sample.traced()
    for sample in samples:
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
    lost = f"dropped {result['dropped']}, lost by perf {result['lost_by_perf']}"
    print(f"{result['conditions']}; {lost}; all bars met: {result['met']}", file=sys.stderr)


if __name__ == "__main__":
    main()
