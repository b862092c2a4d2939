# SPDX-License-Identifier: Apache-2.0
"""Sample: what either observer counted for tasks of one name, cgroup and user, before they are grouped to workloads."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

COUNTS = (
    "voluntary",
    "involuntary",
    "wait_ns",
    "wakeups",
    "migrations",
    "llc_migrations",
    "numa_migrations",
    "forks",
    "execs",
    "exits",
)
"""The counts of a Sample that may be unmeasured."""

HISTOGRAMS = ("latency", "burst", "sleep")


class Unavailable(Exception):
    """bcc cannot trace here: `args[0]` says why and how to mend it. Never leaves this package."""


@dataclass(frozen=True)
class Who:
    """Raw process name, v2 cgroup path (None where unknown) and real user id (None where unknown)."""

    comm: bytes
    cgroup: bytes | None
    uid: int | None


@dataclass
class Sample:
    """Counts over the window; None could not be measured. Histograms are bucket number → events.

    `cut` are the lengths of stays on a CPU that the window's end cut off: lower bounds, no bursts.
    """

    tasks: int = 0
    cpu_ns: int = 0
    voluntary: int | None = None
    involuntary: int | None = None
    wait_ns: int | None = None
    wakeups: int | None = None
    migrations: int | None = None
    llc_migrations: int | None = None
    numa_migrations: int | None = None
    forks: int | None = None
    execs: int | None = None
    exits: int | None = None
    latency: Counter[int] | None = None
    latency_ns: int = 0
    burst: Counter[int] | None = None
    burst_ns: int = 0
    sleep: Counter[int] | None = None
    sleep_ns: int = 0
    cut: list[int] = field(default_factory=list)

    @classmethod
    def traced(cls) -> Sample:
        """An empty sample of an observer that measures everything."""
        sample = cls(latency=Counter(), burst=Counter(), sleep=Counter())
        for name in COUNTS:
            setattr(sample, name, 0)
        return sample

    def add(self, other: Sample) -> None:
        """Add another sample's counts; what one could not measure the sum has not either."""
        self.tasks += other.tasks
        self.cpu_ns += other.cpu_ns
        for name in COUNTS:
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(self, name, None if mine is None or theirs is None else mine + theirs)
        for name in HISTOGRAMS:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine is not None and theirs is not None:
                mine.update(theirs)
            total = f"{name}_ns"
            setattr(self, total, getattr(self, total) + getattr(other, total))
        self.cut += other.cut


@dataclass(frozen=True)
class Reading:
    """The kernel's own meters at one moment (see `meters`).

    `cpus`: CPU → its clocks; `cgroups`: v2 or cpu-controller path → the cgroup's counts.
    """

    at_ns: int
    cpus: dict[int, CpuClock]
    cgroups: dict[bytes, CgroupClock]


@dataclass(frozen=True)
class CpuClock:
    """Nanoseconds since boot: on tasks, on anything (interrupts too), taken by the hypervisor, waited in its queue."""

    tasks_ns: int
    busy_ns: int
    steal_ns: int
    wait_ns: int | None


@dataclass(frozen=True)
class CgroupClock:
    """A cgroup's counts since it was made; None is not told here."""

    usage_ns: int | None = None
    periods: int | None = None
    throttled_periods: int | None = None
    throttled_ns: int | None = None


@dataclass
class Observation:
    """All samples of one window, and the meters read when it opened and when it closed."""

    window_ns: int
    samples: dict[Who, Sample]
    opened: Reading
    closed: Reading
    start_ns: int = 0
    """CLOCK_MONOTONIC when it opened."""

    dropped: int = 0
    created: int = 0
    """Tasks created on the node, from /proc/stat."""

    edges: Counter[tuple[Who | None, Who]] = field(default_factory=Counter)
    """Wakeups by who woke (None: an interrupt) and who was woken."""

    depth: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """CPU → nanoseconds with [i] tasks in its run queue or running."""
