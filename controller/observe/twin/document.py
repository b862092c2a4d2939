# SPDX-License-Identifier: Apache-2.0
"""The rt-app document of a twin: every thread, its turns, its sleeps and its partner. For rt-app 1.0 and later.

A thread is one of these:

- clocked: turns of the measured lengths, each followed by a timer; the timer's periods are a turn and a sleep of the
  measured shape, so that the rate of wakeups is kept however long a turn takes, and rt-app logs how late each was.
- paired: a wake chain. Two threads of the workloads that wake one another hand each other the turn: each locks,
  signals, waits and unlocks (rt-app's `sync`). The thread that signals holds the lock until it waits, so no wakeup can
  be lost; with `suspend` and `resume` one that comes before its thread sleeps is, and a chain of them stands still.
  Of such a pair one always sleeps. So of a workload that wakes itself as many pairs are made as were asleep, by what it
  ran and slept (how long it waited for a CPU is the scheduler's), and the rest are hogs. Where hardly one was, as
  of two programs with a pipe between them that holds much, both run their turns and then wait for one another.
- hog: runs without sleeping, for as long as the original ran or waited for a CPU.
- crowd: one of those that come and go: waits for its moment and for one of as many locks as tasks wanted a CPU at a
  time, takes its turns, ends. Without the locks a make of two jobs would be two hundred threads that each start when
  their time comes, and long turns would be cut by all that have piled up behind them. Unless every CPU is wanted, the
  lock is given back before the last sleep: a compiler's driver sleeps while the compiler runs. rt-app 1.0 cannot fork,
  so all are made at the start: about as many in the window, but not spread over it.
- idle: takes one turn at some moment.

The amount of work is fixed (loops, no duration), so a scheduler can only change how long it takes, as a trial needs it;
and because rt-app's own ending of a run by its duration can lose a thread that is about to wait. At the end of a pair
each wakes the other for a tenth of a second, so none waits for ever for a partner that has ended.

`run` is work, counted in loops of `calibration` nanoseconds. rt-app's own calibration ("CPU0") takes two seconds and is
cut to whole nanoseconds (8 for 8.9). Give `loop_ns` as `calibrate` measures it, and the lengths come out right; left
out, the document says "CPU0" and fits any machine, and the trial measures the guest's once and puts it in.
"""

from __future__ import annotations

import math
import random
from typing import Any

from controller.api.profile import WorkloadProfile
from controller.errors import InputError
from controller.observe.twin.load import SATURATED, Load, loads

SECONDS = 5.0
MAX_THREADS = 512
"""rt-app keeps a log file open for each thread, and 1024 files is what a process usually may open."""

_OVERHEAD_NS = 6_000
"""What waking, rt-app's clocks and records and going to sleep take of a turn besides the work."""

_HANDED_NS = 3_000
"""The same where no timer is set and a partner wakes it."""

_HAND_OVER_NS = 10_000
"""From a signal to the partner's run, on an idle CPU."""

_SLACK_NS = 60_000
"""How much longer a sleep takes than asked: 50 µs by the timer slack of ordinary tasks, the rest until it runs."""

_BEGINNING, _LEAST, _LEAST_HELD = 3, 3, 1

_VALUES = 32
"""Different turns of a clocked thread, and of all a paired thread's phases."""

_BOTH_WAYS = 0.25
_OVERLAP = 0.1
"""Threads that wake one another but sleep less than this part of the time work at the same time."""

_CHUNK_NS = 10_000_000
_CLOSING = {"loop": 20, "sleep": 5000}
_NAP_NS = 500_000
"""A pair that is to go slower than it can sleeps this long now and then, which is seldom beside its wakeups."""


def rtapp(
    profile: WorkloadProfile,
    *,
    workload: str | None = None,
    seed: int = 0,
    cpus: int | None = None,
    seconds: float = SECONDS,
    loop_ns: float | None = None,
) -> dict[str, Any]:
    """The rt-app document that does for about `seconds` what the workload, or all of the profile's, did.

    On `cpus` CPUs (the profile's own number otherwise) as much of each; the same `seed` gives the same document.
    Threads are called after their workload with a number. InputError for a workload that is not in the profile, or
    a profile of which nothing can be twinned.
    """
    if (cpus is not None and cpus < 1) or not 0.05 <= seconds <= 3600:
        raise InputError("a twin needs at least one CPU and 0.05 to 3600 seconds")
    if workload is not None and profile.workload(workload) is None:
        known = ", ".join(w.name for w in profile.workloads[:8]) or "none"
        raise InputError(f"the profile has no workload {workload}", remedy=f"it has: {known}")
    chosen = loads(profile, workload, (cpus or profile.topology.cpus) / profile.topology.cpus)
    if not chosen:
        raise InputError("nothing ran in the profile that a twin could do", remedy="observe again while the load runs")
    writer = _Writer(chosen, seconds, random.Random(seed), profile.topology.cpus if cpus is None else cpus)  # noqa: S311
    tasks = writer.tasks()
    calibration: int | str = "CPU0"
    if loop_ns is not None:
        calibration = max(round(loop_ns), 1)
        _recalibrate(tasks, calibration / loop_ns)
    return {
        "global": {
            "duration": -1,
            "calibration": calibration,
            "default_policy": "SCHED_OTHER",
            "lock_pages": False,
            "gnuplot": False,
            "log_size": _log_megabytes(tasks),
        },
        "tasks": tasks,
    }


class _Writer:
    """Writes the threads of all loads; `made` counts those of each, for their numbers."""

    def __init__(self, chosen: list[Load], seconds: float, chance: random.Random, cpus: int) -> None:
        self._loads = chosen
        self._seconds = seconds
        self._chance = chance
        self._saturated = sum(load.cpu for load in chosen) > SATURATED * cpus
        self._tasks: dict[str, Any] = {}
        self._made: dict[str, int] = {}
        # Beyond what rt-app can open, every workload keeps its part of the threads.
        threads = sum(load.steady + load.crowd * seconds for load in chosen)
        self._fit = min(MAX_THREADS / max(threads, 1), 1.0)

    def tasks(self) -> dict[str, Any]:
        """The `tasks` of the document."""
        paired, handed = self._pairs()
        for load in self._loads:
            share = 1 - min(handed.get(load.name, 0.0) / load.wakes, 1.0) if load.wakes else 1.0
            if load.hog:
                self._hogs(load)
                continue
            if load.crowd:
                self._crowd(load)
                continue
            used = paired.get(load.name, 0)
            clocked = max(round(load.active * share), 1) if share > 0.02 or not used else 0
            if clocked:
                self._clocked(load, clocked, load.wakes * max(share, 0.02))
            self._idle(load, self._count(load.steady) - self._made.get(load.base, 0))
        return self._tasks

    # ---- one kind each ----

    def _hogs(self, load: Load) -> None:
        """Work for as long as they wanted a CPU: what they were kept from doing they will do where there is room."""
        threads = self._count(load.steady)
        each_ns = load.demand * self._seconds * 1e9 / threads
        for _ in range(threads):
            self._hog(load, each_ns)

    def _hog(self, load: Load, work_ns: float) -> None:
        chunks = max(round(work_ns / _CHUNK_NS), 1)
        self._add(load, {"phases": {"run": {"loop": chunks, "run": _us(work_ns / chunks)}}})

    def _crowd(self, load: Load) -> None:
        """Those that come and go, and the few that stay, which take as many turns as each of the others.

        A thread of rt-app wakes three times and sleeps twice before its first turn, which the tasks it stands for may
        hardly do in all. So it needs _LEAST sleeps of its own to have their shape: fewer threads wake more often each,
        half way (in ratios) between as many tasks and as many wakeups. The beginning's short turns and long sleeps
        stand for the shortest and the longest, which are not drawn. Where the machine is full, they sleep waiting for
        the lock, too, and _LEAST_HELD suffice.
        """
        wanted = load.crowd * self._seconds + load.steady
        least = _LEAST_HELD if self._saturated and load.abreast < wanted / 2 else _LEAST
        part = min(max(math.sqrt(load.crowd_wakes / (_BEGINNING + least)), 0.5), 1.0)
        threads = self._count(wanted * part)
        lanes = [0.0] * load.abreast if load.abreast < threads else []
        sleeps = max(round(load.crowd_wakes * wanted / threads) - _BEGINNING, least)
        turns = min(sleeps + 1, _VALUES)
        loop = max(round((sleeps + 1) / turns), 1)
        drawn = load.turns(threads * turns, self._chance, skip=2 / (2 + turns))
        # All its CPU time is in these turns, whatever number of them there is.
        factor = load.cpu * self._seconds * 1e9 / (loop * sum(drawn)) if sum(drawn) else 0.0
        pauses = load.pauses(threads * turns, self._chance, skip=2 / (2 + sleeps))
        for number in range(threads):
            phases: dict[str, Any] = {}
            mine = drawn[number * turns : (number + 1) * turns]
            if lanes:  # without a lock in the last one, so that is the shortest
                mine.append(mine.pop(mine.index(min(mine))))
            for turn in range(turns):
                at = number * turns + turn
                phases[f"t{turn}"] = _turn(mine[turn] * factor)
                if turn < sleeps or loop > 1:
                    phases[f"t{turn}"]["sleep"] = _us(pauses[at] - _SLACK_NS)
            if lanes:  # the one with the least to do, so that none ends early and leaves its CPU idle
                lane = lanes.index(min(lanes))
                lanes[lane] += loop * sum(mine)
                _hold(phases, f"{load.base}.{lane}", to_the_end=self._saturated)
            # Where every CPU is wanted all the time, the locks alone say whose moment it is: they are woken by tasks.
            delay = {} if lanes and self._saturated else {"delay": _us(number / threads * self._seconds * 1e9)}
            self._add(load, {"loop": loop, **delay, "phases": phases})

    def _clocked(self, load: Load, threads: int, wakes: float) -> None:
        threads = self._count(threads)
        cycle = threads / wakes * 1e9 if wakes > 0 else self._seconds * 1e9
        times = max(self._seconds * 1e9 / cycle, 1)
        for _ in range(threads):
            values = max(min(_VALUES, math.floor(times)), 1)
            turns = load.turns(values, self._chance)
            sleeps = load.sleeps(values, max(cycle - load.turn_ns, 1000), self._chance)
            phases = {
                f"t{n}": {**_turn(turn), "timer": {"ref": "unique", "period": _us(turn + nap)}}
                for n, (turn, nap) in enumerate(zip(turns, sleeps, strict=True))
            }
            body = {"loop": max(round(times / values), 1), "phases": phases}
            self._add(load, {"delay": _us(self._chance.random() * min(cycle, self._seconds * 5e8)), **body})

    def _idle(self, load: Load, threads: int) -> None:
        for _ in range(threads):
            delay = _us(self._chance.random() * self._seconds * 1e9)
            self._add(load, {"delay": delay, "phases": {"once": {"loop": 1, **_turn(load.turns(1, self._chance)[0])}}})

    def _pairs(self) -> tuple[dict[str, int], dict[str, float]]:
        """Writes the threads that wake one another; workload → how many are its own, and their wakeups a second."""
        by_name = {load.name: load for load in self._loads if not load.hog and not load.crowd}
        used: dict[str, int] = {}
        handed: dict[str, float] = {}
        done: set[frozenset[str]] = set()
        for load in by_name.values():
            for waker in sorted(load.chained):
                peer, key = by_name.get(waker), frozenset((load.name, waker))
                if peer is None or key in done:
                    continue
                done.add(key)
                # Both are woken once a round; in a workload that wakes itself both are its own.
                rate = (load.chained[waker] + (peer.chained.get(load.name, 0) if peer is not load else 0)) / 2
                back = peer.chained.get(load.name, 0)
                # One way alone is no chain that can be handed back, or a timer that broke into the other by chance.
                if min(load.chained[waker], back) < _BOTH_WAYS * max(load.chained[waker], back):
                    continue
                if rate < 1 or rate < 0.05 * min(load.wakes, peer.wakes):
                    continue
                if peer is load:
                    used[load.name] = used.get(load.name, 0) + self._within(load, 2 * rate)
                    handed[load.name] = handed.get(load.name, 0.0) + 2 * rate
                    continue
                pairs = self._count(min(_threads_for(load, waker), _threads_for(peer, load.name)))
                for number in range(pairs):
                    self._pair(load, peer, rate / pairs, f"{load.base}.{peer.base}.{number}")
                for one in (load, peer):
                    used[one.name] = used.get(one.name, 0) + pairs
                    handed[one.name] = handed.get(one.name, 0.0) + rate
        return used, handed

    def _within(self, load: Load, wakes: float) -> int:
        """Writes the threads of one workload that wake one another, `wakes` times a second in all; how many."""
        threads = self._count(_threads_for(load, load.name))
        overlap = threads > 1 and load.asleep < _OVERLAP
        asleep = threads if overlap else math.ceil(threads * load.asleep)
        pairs = max(min(asleep, threads // 2), 1)
        got = load.cpu / load.demand if load.demand else 1.0
        awake = max(threads - 2 * pairs, 0)
        for _ in range(awake):
            self._hog(load, got * self._seconds * 1e9)
        part = max(1 - awake * got / load.cpu, 0.0) if load.cpu else 1.0
        for number in range(pairs):
            ref = f"{load.base}.{load.base}.{number}"
            if overlap:
                self._meet(load, wakes / pairs, ref, part)
            else:
                self._pair(load, load, wakes / 2 / pairs, ref, part)
        return 2 * pairs + awake

    def _pair(self, one: Load, other: Load, rate: float, ref: str, part: float = 1.0) -> None:
        """Two threads that hand each other the turn; a round, of which there are `rate` a second, wakes each once."""
        rounds = max(round(rate * self._seconds), 1)
        values = min(_VALUES, rounds)
        loop = max(round(rounds / values), 1)
        busy = one.turn_ns + other.turn_ns + 2 * _HAND_OVER_NS
        spare = 0.0 if self._saturated else max(1e9 / rate - busy, 0.0) * loop
        # Who waits for timers more is the one that sets the pace.
        slow, quick = sorted((one, other), key=lambda load: sum(load.chained.values()) / max(load.wakes, 1))
        for load, naps in ((slow, True), (quick, False)):
            phases: dict[str, Any] = {}
            owed = 0.0
            for n, turn in enumerate(load.handed(values, self._chance)):
                phases[f"t{n}"] = {"loop": loop, **_turn(turn * part, _HANDED_NS), **_hand_over(ref)}
                owed += spare
                if naps and owed >= _NAP_NS:
                    phases[f"n{n}"] = {"loop": 1, "sleep": _us(owed)}
                    owed = 0.0
            phases["close"] = {**_CLOSING, "lock": ref, "broad": ref, "unlock": ref}
            self._add(load, {"loop": 1, "phases": phases})

    def _meet(self, load: Load, rate: float, ref: str, part: float) -> None:
        """Two threads whose turns are alike; after each, of which there are `rate` a second, one sleeps till both did.

        So a turn of the workload's, from one sleep to the next, is done by both. Each barrier has a name of its own,
        since rt-app waits for as many threads as name it.
        """
        rounds = max(round(rate * self._seconds), 1)
        values = min(_VALUES, rounds)
        phases = {
            f"t{n}": {**_turn(turn * part / 2, _HANDED_NS), "barrier": f"{ref}.{n}"}
            for n, turn in enumerate(load.handed(values, self._chance))
        }
        for _ in range(2):
            self._add(load, {"loop": max(round(rounds / values), 1), "phases": phases})

    # ---- names and numbers ----

    def _count(self, threads: float) -> int:
        return max(round(threads * self._fit), 1)

    def _add(self, load: Load, body: dict[str, Any]) -> None:
        number = self._made.get(load.base, 0)
        self._made[load.base] = number + 1
        priority = {"priority": load.nice} if load.nice else {}
        self._tasks[f"{load.base}-{number}"] = {"loop": 1, **priority, **body}


def _threads_for(load: Load, waker: str) -> int:
    """Of the active ones, the part whose wakeups come from `waker`."""
    return max(round(load.active * min(load.chained.get(waker, 0) / load.wakes, 1.0)), 1) if load.wakes else 1


def _hand_over(ref: str) -> dict[str, Any]:
    return {"lock": ref, "sync": {"ref": ref, "mutex": ref}, "unlock": ref}


def _hold(phases: dict[str, Any], lock: str, *, to_the_end: bool) -> None:
    """The lock is taken before the first turn, and given back before the last sleep or after all.

    Where every CPU is wanted, one who goes on without it would cut the turns of those who have it.
    """
    names = list(phases)
    phases[names[0]] = {"lock": lock, **phases[names[0]]}
    last = names[-1] if to_the_end else [name for name in names if "sleep" in phases[name]][-1]
    nap = {} if to_the_end else {"sleep": phases[last].pop("sleep")}
    phases[last] = {**phases[last], "unlock": lock, **nap}


def _turn(ns: float, overhead_ns: float = _OVERHEAD_NS) -> dict[str, int]:
    """The work of a turn: what is left of it after waking and going to sleep."""
    work = round((ns - overhead_ns) / 1000)
    return {"run": work} if work > 0 else {}


def _us(ns: float) -> int:
    return max(round(ns / 1000), 1)


def _recalibrate(tasks: dict[str, Any], factor: float) -> None:
    """Lengths of runs in units of the calibration's whole nanoseconds."""
    for task in tasks.values():
        for phase in task["phases"].values():
            if "run" in phase:
                phase["run"] = max(round(phase["run"] * factor), 1)


def _log_megabytes(tasks: dict[str, Any]) -> int:
    """Room for the rows of the thread that writes most: rt-app logs one of about 100 bytes a phase."""
    rows = (int(task["loop"]) * sum(int(p.get("loop", 1)) for p in task["phases"].values()) for task in tasks.values())
    return min(max(math.ceil(max(rows) * 100 / (1 << 20)), 1), 8)
