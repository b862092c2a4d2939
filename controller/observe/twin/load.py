# SPDX-License-Identifier: Apache-2.0
"""A workload reduced to what a twin of it needs: how many tasks, what they run and sleep, and who wakes whom.

What a task runs between two sleeps is a turn. The histogram of bursts is that of turns where nothing preempts; where
bursts were cut by preemption, a turn is a sum of bursts, after each of which comes another if it was cut; that is the
likelier the longer it is, at a rate which the counts of switches give.
Draws are taken at equal steps of the distribution and then shuffled, so that few of them have its shape, and are scaled
to its mean, so that the CPU time comes out right.

By Little's law the number of tasks that take turns all the time is all the time they ran, waited and slept between
wakeups, over the window. Where sleeps were measured this tells the busy ones from those that hardly ever woke.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from controller.api.fingerprint import FEW
from controller.api.profile import Histogram, WorkloadProfile, WorkloadStats

NAME = 15
"""What the kernel keeps of a thread's name."""

_DIGITS = 4
"""Of which this many go to the number of the thread and the dash before it."""

_KERNEL = re.compile(
    r"^(kworker|ksoftirqd|migration|cpuhp|idle_inject|rcu[a-z_]*|irq|irq_work|backlog_napi|kcompactd|kswapd|khugepaged"
    r"|kdamond|jbd2|kthreadd|watchdog|kauditd|oom_reaper|writeback|scsi_eh|hwrng|ksmd|khungtaskd|kdevtmpfs)"
    r"([/:._ -]|\d|$)"
)
_SHORT_SLEEP_NS = 100_000
"""A sleep by a timer takes 50 µs longer than asked (the slack of ordinary tasks): shorter ones end by a wakeup."""

SATURATED = 0.85
"""The part of all CPUs in use from which on somebody is likely to wait for one."""

_PREEMPTED, _MANY = 0.05, 20
"""From how many preemptions a turn on it counts as cut, and of how many pieces on only their number matters."""

_LONGEST, _TRIED, _HALVINGS = 1000, 200, 60
"""Times the mean that a turn is at most; bursts that the rate of preemption is found from, and steps to it."""


@dataclass(frozen=True)
class Load:
    """One workload for one second on `cpus` CPUs; times in nanoseconds, rates a second.

    `steady` tasks live as long as the replay, `crowd` tasks a second come, wake `crowd_wakes` times each and go.
    `active` of the steady ones take turns all the time, `abreast` of the crowd want a CPU at a time. `chained` names
    who wakes it: workload → wakeups a second, itself among them; the rest of its wakeups come from timers. `cpu` are
    the CPUs that it used, `demand` those that it would have used if nobody had held it up: its waits included.
    `asleep` is the part of the time that it slept, its waits left out; 1 where sleeps were not measured.
    """

    name: str
    base: str
    steady: int
    active: int
    crowd: float
    crowd_wakes: float
    abreast: int
    wakes: float
    cpu: float
    demand: float
    turn_ns: float
    latency_ns: float
    nice: int = 0
    hog: bool = False
    asleep: float = 1.0
    chained: Mapping[str, float] = field(default_factory=dict)
    burst: Histogram | None = None
    sleep: Histogram | None = None
    pieces: float = 1.0
    """Bursts a turn, on the average."""

    def turns(self, count: int, chance: random.Random, skip: float = 0.0) -> list[float]:
        """`count` turns in nanoseconds, whose mean is the workload's; without the shortest, a part of `skip` of all."""
        drawn = self._drawn(math.ceil(count / (1 - skip)), chance)
        if not drawn:
            return [self.turn_ns] * count
        kept = sorted(drawn)[-count:]
        chance.shuffle(kept)
        return scaled(kept, self.turn_ns)

    def handed(self, count: int, chance: random.Random) -> list[float]:
        """`count` turns in nanoseconds of the shape of bursts: where tasks wake one another those cut them, as here."""
        return scaled(draws(self.burst, count, chance) or [1.0] * count, self.turn_ns)

    def sleeps(self, count: int, mean_ns: float, chance: random.Random) -> list[float]:
        """`count` sleeps in nanoseconds of the measured shape, or all alike where none was, with the mean given."""
        drawn = draws(self.sleep, count, chance)
        return scaled(drawn, mean_ns) if drawn else [mean_ns] * count

    def pauses(self, count: int, chance: random.Random, skip: float) -> list[float]:
        """`count` sleeps as they were measured, without the longest, a part of `skip` of all; 1 ms where none was."""
        drawn = sorted(draws(self.sleep, math.ceil(count / (1 - skip)), chance))[:count] or [1e6] * count
        chance.shuffle(drawn)
        return drawn

    def _drawn(self, count: int, chance: random.Random) -> list[float]:
        if self.pieces > _MANY:  # a geometric number of pieces, each small beside the sum: exponential
            return [chance.expovariate(1 / max(self.turn_ns, 1)) for _ in range(count)]
        if self.pieces <= 1 + _PREEMPTED or self.burst is None or not self.burst.count:
            return draws(self.burst, count, chance)
        hazard = self._hazard(chance)
        return [self._sum(hazard, chance) for _ in range(count)]

    def _sum(self, hazard: float, chance: random.Random) -> float:
        """One turn: bursts, after each of which another follows with the chance that it was cut off by then."""
        total = 0.0
        while total <= _LONGEST * self.turn_ns:
            (piece,) = draws(self.burst, 1, chance)
            total += piece
            if chance.random() < math.exp(-hazard * piece):
                break
        return total

    def _hazard(self, chance: random.Random) -> float:
        """Preemptions in a nanosecond of running: with it as many of the bursts end in one as did."""
        bursts = draws(self.burst, _TRIED, chance)
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            hazard = (low + high) / 2
            cut = sum(1 - math.exp(-hazard * burst) for burst in bursts) / len(bursts)
            low, high = (low, hazard) if cut > 1 - 1 / self.pieces else (hazard, high)
        return low


def draws(histogram: Histogram | None, count: int, chance: random.Random) -> list[float]:
    """Values of the histogram, one from each of `count` equal parts of it, shuffled; none of an empty one."""
    if histogram is None or not histogram.count or count < 1:
        return []
    found = [histogram.percentile(100 * (step + chance.random()) / count) for step in range(count)]
    chance.shuffle(found)
    return found


def scaled(values: list[float], mean: float) -> list[float]:
    """The values times what makes their mean `mean`."""
    is_ = sum(values) / len(values)
    return [value * mean / is_ for value in values] if is_ > 0 else [mean] * len(values)


def loads(profile: WorkloadProfile, workload: str | None, factor: float) -> list[Load]:
    """Those to twin, busiest first: the one named, or all but kernel threads, which come by themselves.

    `factor` is how many times as many CPUs the replay has: as many tasks of each workload are made.
    """
    chosen = [
        w
        for w in profile.workloads
        if (w.name == workload if workload is not None else not is_kernel(w)) and (w.cpu_ns or w.wakeups)
    ]
    bases = thread_names([w.name for w in chosen])
    return [_load(w, bases[w.name], profile, {c.name for c in chosen}, factor) for w in chosen]


def is_kernel(stats: WorkloadStats) -> bool:
    """Whether it is made of kernel threads: by name, since a profile says no more of them."""
    return stats.keyed_by == "comm" and _KERNEL.match(stats.name) is not None


def thread_names(names: Sequence[str]) -> dict[str, str]:
    """Workload → what its threads are called, before the number: plain letters, short, no two alike."""
    found: dict[str, str] = {}
    room = NAME - _DIGITS
    for name in names:
        last = name.rstrip("/").rpartition("/")[2].removesuffix(".service").removesuffix(".scope")
        plain = re.sub(r"[^A-Za-z0-9_.]", "_", last)[:room] or "task"
        base, number = plain, 2
        while base in found.values():
            base = f"{plain[: room - len(str(number))]}{number}"
            number += 1
        found[name] = base
    return found


def _load(stats: WorkloadStats, base: str, profile: WorkloadProfile, twinned: set[str], factor: float) -> Load:
    seconds = profile.window_ns / 1e9
    sleeps = stats.voluntary_switches if stats.voluntary_switches is not None else stats.wakeups or 0
    wakes = (stats.wakeups if stats.wakeups is not None else sleeps) / seconds
    forks, tasks = stats.forks or 0, max(stats.tasks, 1)
    come_and_go = min(forks, tasks - 1) if 2 * forks > tasks else 0
    steady = tasks - come_and_go
    turn = stats.cpu_ns / max(sleeps, 1)
    latency = _mean(stats.wakeup_latency) or 0.0
    hog = not come_and_go and sleeps < steady
    nap = _mean(stats.sleep) if stats.sleep is not None and stats.sleep.count >= FEW else None
    active, asleep = steady, 1.0
    if nap is not None and stats.sleep is not None and not hog:
        waited = stats.wait_ns if stats.wait_ns is not None else latency * (stats.wakeups or sleeps)
        active = min(max(round((stats.cpu_ns + waited + stats.sleep.total_ns) / profile.window_ns), 1), steady)
        asleep = stats.sleep.total_ns / max(stats.sleep.total_ns + stats.cpu_ns, 1)
    preempted = stats.involuntary_switches or 0
    return Load(
        name=stats.name,
        base=base,
        steady=max(round(steady * factor), 1),
        active=max(round(active * factor), 1),
        crowd=come_and_go * factor / seconds,
        crowd_wakes=wakes * seconds / tasks if come_and_go else 0.0,
        abreast=max(round(_demand(stats, profile) * factor), 1),
        wakes=wakes * factor,
        cpu=stats.cpu_ns / profile.window_ns * factor,
        demand=_demand(stats, profile) * factor,
        turn_ns=turn,
        latency_ns=latency,
        nice=_nice(stats),
        hog=hog,
        asleep=asleep,
        chained=_chained(stats, profile, twinned, wakes * factor, factor / seconds, active),
        burst=stats.burst,
        sleep=stats.sleep,
        pieces=(sleeps + preempted) / max(sleeps, 1),
    )


def _chained(
    stats: WorkloadStats, profile: WorkloadProfile, twinned: set[str], wakes: float, to_rate: float, active: int
) -> dict[str, float]:
    edges = {e.waker: e.wakeups * to_rate for e in profile.wake_edges if e.wakee == stats.name}
    if edges:
        return {waker: rate for waker, rate in edges.items() if waker in twinned}
    # Nobody counted who wakes whom: sleeps that no timer can make were ended by a peer.
    gap = active * 1e9 / wakes - stats.cpu_ns / max(stats.voluntary_switches or 1, 1) if wakes else _SHORT_SLEEP_NS
    return {stats.name: wakes} if gap < _SHORT_SLEEP_NS else {}


def _demand(stats: WorkloadStats, profile: WorkloadProfile) -> float:
    if stats.wait_ns is not None:
        return (stats.cpu_ns + stats.wait_ns) / profile.window_ns
    full = sum(w.cpu_share for w in profile.workloads) > SATURATED
    return max(stats.cpu_ns / profile.window_ns, stats.tasks if full else 0)


def _mean(histogram: Histogram | None) -> float | None:
    return histogram.total_ns / histogram.count if histogram is not None and histogram.count else None


def _nice(stats: WorkloadStats) -> int:
    """The nice value that has about the weight of its cgroup: a step is a factor of 1.25."""
    weight = stats.cgroup.weight if stats.cgroup is not None else None
    nice = 0
    while weight is not None and -20 < nice < 19 and not 0.89 < weight / 100 * 1.25**nice < 1.12:
        nice += 1 if weight / 100 * 1.25**nice < 1 else -1
    return nice
