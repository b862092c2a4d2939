# SPDX-License-Identifier: Apache-2.0
"""Sample: what either observer counted for tasks of one name, cgroup and user, before they are grouped to workloads."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


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
    wakeups: int | None = None
    migrations: int | None = None
    forks: int | None = None
    latency: Counter[int] | None = None
    latency_ns: int = 0
    burst: Counter[int] | None = None
    burst_ns: int = 0
    cut: list[int] = field(default_factory=list)

    @classmethod
    def traced(cls) -> Sample:
        """An empty sample of an observer that measures everything."""
        return cls(0, 0, 0, 0, 0, 0, 0, Counter(), 0, Counter(), 0)

    def add(self, other: Sample) -> None:
        """Add another sample's counts; what one could not measure the sum has not either."""
        self.tasks += other.tasks
        self.cpu_ns += other.cpu_ns
        for name in ("voluntary", "involuntary", "wakeups", "migrations", "forks"):
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(self, name, None if mine is None or theirs is None else mine + theirs)
        if self.latency is not None and other.latency is not None:
            self.latency.update(other.latency)
        if self.burst is not None and other.burst is not None:
            self.burst.update(other.burst)
        self.latency_ns += other.latency_ns
        self.burst_ns += other.burst_ns
        self.cut += other.cut


@dataclass
class Observation:
    """All samples of one window."""

    window_ns: int
    samples: dict[Who, Sample]
    dropped: int = 0
    created: int = 0
    """Tasks created on the node, from /proc/stat."""
