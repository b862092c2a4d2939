# SPDX-License-Identifier: Apache-2.0
"""The workloads: what one run is in the guest, and what its samples mean.

A run is a fixed amount of work (`schedtrial` counts in units of arithmetic, sized once a trial by what this guest does
in a second), so that a scheduler can only change how long it takes and who waits. What the guest tells of a run is kept
as it is, whole numbers by name; `value` makes of it a metric of the API, in the API's units: nanoseconds, work a
second, and the part of the node's CPU time.
"""

from __future__ import annotations

import fnmatch
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from controller.api import Metric
from controller.errors import GuestError, InputError
from controller.kernel import rtapp
from controller.kernel.guest_protocol import CommandResult
from controller.kernel.microvm import Guest
from controller.verify.trial.spec import PERCENTILES, TrialSpec

Sample = dict[str, int]
RUN_TIMEOUT_S = 60.0
RUN_S = 0.4
"""About how long a run is that nothing holds up, in seconds."""
_LONG = (5, 9)
_TWIN_DIR = "/tmp/twin"  # noqa: S108 - a path in the guest, which has one user
_LOWER = {Metric.MAKESPAN.value, Metric.WAKEUP_LATENCY.value}


class RunStuck(Exception):
    """A run did not end in the time it was allowed."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How fast the guest is: work units a second of one CPU, those of a small periodic task's turn, its CPUs, and the
    nanoseconds of rt-app's loop, None where no twin is run."""

    units_per_s: int
    watch_units: int
    cpus: int
    loop_ns: float | None = None


def calibrate(guest: Guest, workload: str = "") -> Sizes:
    """Measured under the kernel's own scheduler, once a trial: every run then is the same work."""
    found = _json(guest.run(["schedtrial", "calibrate"], timeout_s=RUN_TIMEOUT_S), "calibrate")
    loop_ns = None
    if workload == "twin":
        logs = _rt_app(guest, twin_document(json.dumps(rtapp.calibration_document())), RUN_TIMEOUT_S)
        loop_ns = rtapp.loop_ns(logs.splitlines())
    return Sizes(_whole(found, "units_per_s"), _whole(found, "watch_units"), guest.facts.cpus, loop_ns)


def run(
    guest: Guest,
    spec: TrialSpec,
    sizes: Sizes,
    work_seed: int,
    name_seed: int,
    timeout_s: float = RUN_TIMEOUT_S,
    *,
    real_time: bool = False,
) -> Sample:
    """One run under whatever schedules the guest now; with `real_time` the class under SCHED_FIFO, which is above that.

    RunStuck when it does not end; GuestError for nonsense.
    """
    if spec.workload == "twin":
        logs = _rt_app(guest, twin_document(spec.twin, sizes.loop_ns), timeout_s)
        return twin_sample(logs, spec.comm, guest.facts.cpus)
    program, *arguments = command(spec, sizes, work_seed, name_seed)
    options = ["--fifo", "1"] if real_time else []
    done = guest.run([program, *options, *arguments], timeout_s=timeout_s)
    return _flat(_json(done, spec.workload))


def command(spec: TrialSpec, sizes: Sizes, work_seed: int, name_seed: int) -> list[str]:
    """What runs in the guest for any workload but `twin`."""
    options = ["--seed", str(name_seed), "--comm", spec.comm, "--others", spec.others_comm]
    options += ["--watch", str(sizes.watch_units)]
    options += ["--uid", str(spec.uid)] if spec.uid is not None else []
    options += ["--cgroup", CGROUP] if spec.cgroup_class is not None else []
    arguments = _ARGUMENTS[spec.workload](spec, sizes, random.Random(work_seed))  # noqa: S311
    return ["schedtrial", *options, *map(str, arguments)]


CGROUP = "/sys/fs/cgroup/trial"


def value(metric: str, sample: dict[str, Any]) -> float:
    """A metric (`class.makespan`, `others.wakeupLatency.p99`) of one run. KeyError when the run has no such figure."""
    group, name, *rest = metric.split(".")
    elapsed = sample["elapsed_ns"]
    if name == Metric.WAKEUP_LATENCY.value:
        return float(max(1, sample[f"{group}.late_{rest[0]}_ns"]))  # the clock's own step: there is no ln 0
    if name == Metric.THROUGHPUT.value:
        return float(sample[f"{group}.units"] * 1e9 / elapsed)
    if name == Metric.CPU_SHARE.value:
        return float(sample[f"{group}.cpu_ns"] / (elapsed * sample["cpus"]))
    if name == Metric.MAKESPAN.value:
        return float(elapsed)
    raise KeyError(metric)


def better(metric: str) -> int:
    """+1 for a metric of which more is better, -1 where less is."""
    return -1 if metric.split(".")[1] in _LOWER else 1


# ---- the arguments of each ----


def _units(sizes: Sizes, seconds: float) -> int:
    return max(2, round(sizes.units_per_s * seconds))


def _longtail(_spec: TrialSpec, sizes: Sizes, chance: random.Random) -> list[object]:
    jobs = 5 * sizes.cpus
    each = RUN_S * sizes.cpus / (jobs - 1 + sum(_LONG) / 2)
    return ["longtail", jobs, chance.randint(*_LONG), _units(sizes, each)]


def _mixed(spec: TrialSpec, sizes: Sizes, _chance: random.Random) -> list[object]:
    period_us, who = 3000, "wakers" if spec.metric is Metric.WAKEUP_LATENCY else "hogs"
    wakeups = round(RUN_S * 1e6 / period_us)
    return ["mixed", who, 2 * sizes.cpus, period_us, wakeups, _units(sizes, 1e-4), 2 * sizes.cpus]


def _messaging(_spec: TrialSpec, sizes: Sizes, _chance: random.Random) -> list[object]:
    return ["messaging", sizes.cpus, 8, round(250 * RUN_S)]


def _pipeline(_spec: TrialSpec, sizes: Sizes, _chance: random.Random) -> list[object]:
    lines, stages, items = sizes.cpus + 1, 4, round(80 * RUN_S)
    # Half of the time goes into switching, on an emulated CPU.
    return ["pipeline", lines, stages, items, _units(sizes, 0.5 * RUN_S * sizes.cpus / (lines * stages * items))]


def _build(_spec: TrialSpec, sizes: Sizes, _chance: random.Random) -> list[object]:
    jobs = 6 * sizes.cpus
    # Starting a program takes an emulated CPU longer than its work does.
    return ["build", 2 * sizes.cpus, jobs, _units(sizes, 0.4 * RUN_S * sizes.cpus / (1.25 * jobs))]


_ARGUMENTS: dict[str, Callable[[TrialSpec, Sizes, random.Random], list[object]]] = {
    "longtail": _longtail,
    "mixed": _mixed,
    "messaging": _messaging,
    "pipeline": _pipeline,
    "kernelbuild-like": _build,
}


# ---- twin: rt-app ----


def twin_document(text: str, loop_ns: float | None = None) -> str:
    """An rt-app document as the guest gets it: its logs where we read them, and the speed of the guest's CPUs.

    A document that leaves the calibration to rt-app ("CPU0") gets the number measured here, so that no run spends two
    seconds on it and all do the same work; one that names a number keeps it. InputError for what is no such document.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the rt-app document is no JSON: {error}", remedy="leave out comments") from error
    if not isinstance(document, dict) or not isinstance(document.get("tasks"), dict) or not document["tasks"]:
        raise InputError("the rt-app document has no tasks", remedy="see rt-app's tutorial")
    everything = document.get("global", {})
    if not isinstance(everything, dict):
        raise InputError("`global` of the rt-app document is no object")
    ours: dict[str, Any] = {"logdir": _TWIN_DIR, "log_basename": "twin", "gnuplot": False}
    if loop_ns is not None and not isinstance(everything.get("calibration"), int):
        ours["calibration"] = max(round(loop_ns), 1)
    return json.dumps({**document, "global": {**everything, **ours}})


def _rt_app(guest: Guest, document: str, timeout_s: float) -> str:
    """Runs a document in the guest; its logs, each after a `file` line."""
    guest.run(["sh", "-c", f"busybox rm -rf {_TWIN_DIR}; mkdir {_TWIN_DIR}"], timeout_s=RUN_TIMEOUT_S)
    guest.write_file(f"{_TWIN_DIR}/app.json", document)
    done = guest.run(["rt-app", f"{_TWIN_DIR}/app.json"], timeout_s=timeout_s)
    if done.timed_out:
        raise RunStuck("rt-app did not end")
    if done.rc != 0:
        raise GuestError(f"rt-app failed in the guest ({done.rc}): {(done.stderr or done.stdout).strip()[-300:]}")
    script = f'for f in {_TWIN_DIR}/*.log; do echo "file $f"; cat $f; done'
    return guest.run(["sh", "-c", script], timeout_s=RUN_TIMEOUT_S).stdout


def twin_sample(logs: str, comm: str, cpus: int) -> Sample:
    """rt-app's logs → a sample: turns done and wakeup latencies of the threads called `comm`, and of the others.

    Each log begins with a `file` line and a `#` line that names its columns; times are in microseconds. A turn that no
    timer ended (`c_period` 0) has no wakeup latency that rt-app knew of: it counts as work alone, unless no thread of
    its group has a timer.
    """
    late: dict[str, list[int]] = {"class": [], "others": []}
    untimed: dict[str, list[int]] = {"class": [], "others": []}
    turns = dict.fromkeys(late, 0)
    used = dict.fromkeys(late, 0)
    begin, end, group, columns = 1 << 62, 0, "class", list[str]()
    for line in logs.splitlines():
        words = line.split()
        if line.startswith("file "):
            name = re.sub(r"(^.*/twin-|-\d+\.log$)", "", words[1])
            group = "class" if fnmatch.fnmatchcase(name, comm) else "others"
        elif line.startswith("#"):
            columns = [word.lstrip("#") for word in words if word != "#"]
        elif columns and len(words) == len(columns) and words[0].isdigit():
            row = dict(zip(columns, map(int, words), strict=True))
            begin, end = min(begin, row["start"]), max(end, row["end"])
            turns[group] += 1
            used[group] += row["run"]
            (late if row["c_period"] else untimed)[group].append(max(0, row["wu_lat"]))
    if not turns["class"]:
        raise GuestError(f"rt-app logged no turns of a thread called {comm}", remedy="name its task so")
    sample: Sample = {"elapsed_ns": (end - begin) * 1000, "cpus": cpus}
    for name, timed in late.items():
        waits = timed or untimed[name]
        sample |= {f"{name}.units": turns[name], f"{name}.cpu_ns": used[name] * 1000}
        waits.sort()
        if waits:
            sample |= {f"{name}.late_p{p}_ns": 1000 * waits[(len(waits) - 1) * p // 100] for p in PERCENTILES}
    return sample


# ---- what the guest printed ----


def _json(done: CommandResult, what: str) -> dict[str, Any]:
    if done.timed_out:
        raise RunStuck(f"{what} did not end")
    if done.rc != 0:
        raise GuestError(f"{what} failed in the guest ({done.rc}): {done.stderr.strip()[:300]}", remedy="make setup")
    try:
        document = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError, RecursionError) as error:
        raise GuestError(f"{what} printed no result in the guest") from error
    if not isinstance(document, dict):
        raise GuestError(f"{what} printed no result in the guest")
    return document


def _whole(document: dict[str, Any], name: str) -> int:
    found = document.get(name)
    if isinstance(found, bool) or not isinstance(found, int) or found < 0:
        raise GuestError(f"a workload in the guest gave no whole number {name}")
    return found


def _flat(document: dict[str, Any]) -> Sample:
    """{"elapsed_ns": 5, "class": {"units": 2}} → {"elapsed_ns": 5, "class.units": 2}; only whole numbers are taken."""
    sample: Sample = {}
    for name, found in document.items():
        if isinstance(found, dict):
            sample |= {f"{name}.{inner}": _whole(found, inner) for inner in found}
        elif name != "workload":
            sample[name] = _whole(document, name)
    if not sample.get("elapsed_ns") or not sample.get("cpus"):
        raise GuestError("a workload in the guest took no time")
    return sample
