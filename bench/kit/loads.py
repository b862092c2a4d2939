# SPDX-License-Identifier: Apache-2.0
"""The loads that a family is compared on: those of the trial, an attack, and three that show what a scheduler costs.

Opening a load sizes it for the guest, under the kernel's own scheduler; each run then is the same work, or, for
`attack` and `cache`, the same time. What it gives are numbers by metric: of the class (the tasks called `job*`) and of
all others.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.kit.filled import COMM
from controller.api import Metric
from controller.errors import CandidateRejected, GuestError
from controller.kernel.guest_protocol import CommandResult
from controller.kernel.microvm import Guest
from controller.verify.trial import TrialSpec, workloads
from controller.verify.trial.spec import OBJECTIVES
from controller.verify.trial.workloads import RUN_TIMEOUT_S, RunStuck

Run = Callable[[int, int, float], dict[str, float]]
"""(seed of the work, seed of the names, seconds allowed) → value by metric."""

_RUN_S = 0.5
_WALK_KIB = 1024
_ATTACK_S, _LEAD_S = 1.0, 0.2
_COMM = COMM.replace("*", "bench")
_WORDS = {
    "makespan": "makespan",
    "cpuShare": "share of the CPUs",
    "throughput": "work",
    "wakeupLatency.p99": "p99 wakeup latency",
    "switches": "involuntary switches",
}
_FEWER = ("makespan", "wakeupLatency", "switches")


@dataclass(frozen=True, slots=True)
class Load:
    """One load: what it is, what is compared on it, and how it is opened in a guest."""

    name: str
    says: str
    metrics: tuple[str, ...]
    open: Callable[[Guest], Run]


def better(metric: str) -> int:
    """+1 for a metric of which more is better, -1 where less is."""
    return -1 if metric.split(".")[1] in _FEWER else 1


def words(metric: str) -> str:
    """A metric for a reader."""
    group, _, what = metric.partition(".")
    return _WORDS[what] + (" of the others" if group == "others" else "")


def finished(done: CommandResult, what: str) -> str:
    """What a command printed. CandidateRejected when it did not end, GuestError when it failed."""
    if done.timed_out:
        raise CandidateRejected("bench", f"{what} did not end")
    if done.rc != 0:
        raise GuestError(f"{what} failed in the guest ({done.rc}): {done.stderr.strip()[:300]}", remedy="make setup")
    return done.stdout


def _trial(workload: str, metric: Metric | None, metrics: tuple[str, ...]) -> Callable[[Guest], Run]:
    def opened(guest: Guest) -> Run:
        spec = TrialSpec(workload, metric or OBJECTIVES[workload], comm=COMM, others_comm="other*")
        sizes = workloads.calibrate(guest, workload)

        def run(work_seed: int, name_seed: int, allowed_s: float) -> dict[str, float]:
            try:
                sample = workloads.run(guest, spec, sizes, work_seed, name_seed, allowed_s)
            except RunStuck as error:
                raise CandidateRejected("bench", str(error)) from error
            return {each: workloads.value(each, sample) for each in metrics}

        return run

    return opened


def _pipe(guest: Guest) -> Run:
    def elapsed_s(trips: int, allowed_s: float) -> float:
        done = guest.run(["schedload", "--comm", _COMM, "pipe", str(trips)], timeout_s=allowed_s)
        return float(json.loads(finished(done, "pipe"))["elapsed_ns"]) / 1e9

    elapsed_s(200, RUN_TIMEOUT_S)
    trips = max(200, round(_RUN_S * 1000 / elapsed_s(1000, RUN_TIMEOUT_S)))
    return lambda _work, _names, allowed_s: {"class.throughput": trips / elapsed_s(trips, allowed_s)}


def _hackbench(guest: Guest) -> Run:
    program = f"/tmp/{_COMM}"  # noqa: S108 - in the guest: its name makes it one of the class
    finished(guest.run(["sh", "-c", f"busybox ln -sf /bin/hackbench {program}"], timeout_s=RUN_TIMEOUT_S), "ln")

    def elapsed_s(loops: int, allowed_s: float) -> float:
        argv = [program, "-g", str(guest.facts.cpus), "-f", "5", "-l", str(loops)]
        said = finished(guest.run(argv, timeout_s=allowed_s), "hackbench")
        return float(said.partition("Time: ")[2].split()[0])

    elapsed_s(10, RUN_TIMEOUT_S)
    loops = max(20, round(_RUN_S * 50 / elapsed_s(50, RUN_TIMEOUT_S)))
    return lambda _work, _names, allowed_s: {"class.throughput": loops / elapsed_s(loops, allowed_s)}


def _cache(guest: Guest) -> Run:
    command = ["schedload", "--comm", _COMM, "walk", str(2 * guest.facts.cpus), str(_WALK_KIB), str(_RUN_S)]

    def run(_work: int, _names: int, allowed_s: float) -> dict[str, float]:
        found = json.loads(finished(guest.run(command, timeout_s=allowed_s), "walk"))
        return {"class.throughput": found["units"] / _RUN_S, "class.switches": float(max(1, found["thrown_out"]))}

    return run


def _attack(guest: Guest) -> Run:
    cpus = guest.facts.cpus
    crowd = ["schedload", "--comm", "othercrowd", "spin", str(6 * cpus), "60"]
    storm = ["schedload", "--comm", "otherstorm", "forkstorm", "60"]
    command = ["schedload", "--comm", _COMM, "spin", str(cpus), str(_ATTACK_S)]

    def run(_work: int, _names: int, allowed_s: float) -> dict[str, float]:
        attackers = [guest.spawn(argv) for argv in (crowd, storm)]
        try:
            time.sleep(_LEAD_S)
            found = json.loads(finished(guest.run(command, timeout_s=allowed_s), "spin"))
        finally:
            for attacker in attackers:
                guest.kill(attacker)
                guest.wait(attacker, RUN_TIMEOUT_S)
        return {"class.cpuShare": sum(found["cpu_ns"]) / 1e9 / (_ATTACK_S * cpus)}

    return run


def _made(name: str, says: str, *metrics: str, workload: str = "", metric: Metric | None = None) -> Load:
    return Load(name, says, metrics, _trial(workload or name, metric, metrics))


LOADS = {
    load.name: load
    for load in (
        _made("longtail", "5 jobs a CPU released together, one of them 5 to 9 times as long as the rest",
              "class.makespan", "others.throughput", "others.wakeupLatency.p99"),
        _made("mixed", "2 tasks a CPU that sleep, wake every 3 ms and work a little, beside 2 hogs a CPU of the others",
              "class.wakeupLatency.p99", "others.throughput"),
        _made("hogs", "as mixed, but the class is half of the hogs", "class.throughput", "others.throughput",
              "others.wakeupLatency.p99", workload="mixed", metric=Metric.THROUGHPUT),
        _made("messaging", "hackbench in small groups, with two small periodic tasks of the others beside it",
              "class.throughput", "others.wakeupLatency.p99"),
        _made("pipeline", "lines of 4 processes joined by pipes, one line more than there are CPUs",
              "class.throughput", "others.wakeupLatency.p99"),
        _made("kernelbuild-like", "compile-like processes, 2 at a time a CPU, with what comes before and after them",
              "class.makespan", "others.wakeupLatency.p99"),
        Load("attack", "a hog of the class a CPU, attacked by the others with 6 hogs a CPU and a storm of forks",
             ("class.cpuShare",), _attack),
        Load("pipe", "two processes that hand a word to and fro through pipes, as `perf bench sched pipe` does",
             ("class.throughput",), _pipe),
        Load("hackbench", "one group of 10 tasks a CPU over sockets, and nothing else", ("class.throughput",),
             _hackbench),
        Load("cache", f"2 tasks a CPU that each go through {_WALK_KIB} KiB of their own again and again",
             ("class.throughput", "class.switches"), _cache),
    )
}  # fmt: skip
"""By name. The last three show what a scheduler costs, the others what it does."""

COSTS = ("pipe", "hackbench")
"""The loads on which a scheduler is only in the way."""
