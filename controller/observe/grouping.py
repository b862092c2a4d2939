# SPDX-License-Identifier: Apache-2.0
"""Samples → workloads. A task belongs to the first of these that applies:

1. the first intent, in the order given, whose selector matches it: keyed NAMESPACE/NAME;
2. its cgroup, when the path says what runs: not the root, not `init.scope`, not a login session (`session-*.scope`),
   which hold whatever was started there;
3. its process name. Kernel threads are here, and on hosts that do not use cgroup v2 everything. Per-CPU kernel
   threads (`ksoftirqd/3`) count under the name before the slash.

The busiest 64 are kept, intents always; the rest are added up in `others`.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from controller.api.intent import SchedulingIntent
from controller.api.profile import Histogram, WakeEdge, WorkloadStats
from controller.observe import cgroups, histogram
from controller.observe.names import printable
from controller.observe.sample import Observation, Sample, Who
from controller.observe.selectors import Matcher

MAX_WORKLOADS = 64
MOST = 512
"""What a profile can hold, should there be more intents than MAX_WORKLOADS."""

MAX_COMMS = 8
MAX_EDGES = 256
OTHERS = "others"
_PER_CPU = re.compile(rb"^(kworker|ksoftirqd|migration|cpuhp|idle_inject|rcuo[a-z]|irq_work|backlog_napi)/.+$")

Keying = Literal["intent", "cgroup", "comm", "others"]
Key = tuple[Keying, str]


class _Workload:
    """The sum of the samples of one workload, and who they are; `comms` is process name → CPU nanoseconds."""

    def __init__(self) -> None:
        self.sample = Sample()
        self.members: list[tuple[Who, Sample]] = []
        self.comms: Counter[str] = Counter()

    def add(self, who: Who, sample: Sample) -> None:
        self.comms[printable(fold(who.comm))] += sample.cpu_ns
        if self.members:
            self.sample.add(sample)
        else:
            self.sample = copy.deepcopy(sample)
        self.members.append((who, sample))


@dataclass(frozen=True)
class Grouped:
    """Workloads, busiest first, with shares that add up to at most 1; wake edges between them; who belongs to each."""

    workloads: tuple[WorkloadStats, ...]
    edges: tuple[WakeEdge, ...]
    members: dict[Key, tuple[Who, ...]]


def group(seen: Observation, intents: Sequence[SchedulingIntent], cpus: int) -> Grouped:
    """The observation by workload; consumes the samples."""
    matchers = [(intent.qualified_name, Matcher(intent.spec.workload)) for intent in intents]
    keys = {who: key_of(who, matchers) for who in [*seen.samples, *_edge_ends(seen)]}
    found: dict[Key, _Workload] = {}
    for who, sample in seen.samples.items():
        found.setdefault(keys[who], _Workload()).add(who, sample)
    kept, rest = _busiest(found)
    others: Key = ("others", OTHERS)
    for _, workload in rest:
        for who, sample in workload.members:
            kept.setdefault(others, _Workload()).add(who, sample)
    # /proc is not read in one instant, so its sum may pass what the CPUs had.
    had = max(cpus * seen.window_ns, sum(w.sample.cpu_ns for w in kept.values()))
    stats = [_stats(key, workload, had) for key, workload in kept.items()]
    return Grouped(
        tuple(sorted(stats, key=lambda s: (s.keyed_by == "others", -s.cpu_ns, s.name))),
        _edges(seen, {who: key if key in kept else others for who, key in keys.items()}),
        {key: tuple(who for who, _ in workload.members) for key, workload in kept.items()},
    )


def _edge_ends(seen: Observation) -> set[Who]:
    return {end for edge in seen.edges for end in edge if end is not None}


def _edges(seen: Observation, keys: dict[Who, Key]) -> tuple[WakeEdge, ...]:
    """Most wakeups first; a workload's name is as in its stats."""
    counts: Counter[tuple[str, str]] = Counter()
    for (waker, wakee), wakeups in seen.edges.items():
        counts["" if waker is None else keys[waker][1], keys[wakee][1]] += wakeups
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_EDGES]
    return tuple(WakeEdge(waker=waker, wakee=wakee, wakeups=wakeups) for (waker, wakee), wakeups in ranked)


def key_of(who: Who, matchers: Sequence[tuple[str, Matcher]]) -> Key:
    """Which workload tasks of this name, cgroup and user belong to."""
    for key, matcher in matchers:
        if matcher.matches(who.comm, who.cgroup, who.uid):
            return "intent", key
    if who.cgroup is not None and cgroups.names_workload(who.cgroup):
        return "cgroup", printable(who.cgroup)
    return "comm", printable(fold(who.comm))


def fold(comm: bytes) -> bytes:
    """A per-CPU kernel thread's name without its CPU; other names as they are."""
    match = _PER_CPU.match(comm)
    return match[1] if match else comm


def _busiest(found: dict[Key, _Workload]) -> tuple[dict[Key, _Workload], list[tuple[Key, _Workload]]]:
    def rank(item: tuple[Key, _Workload]) -> tuple[bool, int, str]:
        (keying, name), workload = item
        return keying != "intent", -workload.sample.cpu_ns, name

    ranked = sorted(found.items(), key=rank)
    if len(ranked) <= MAX_WORKLOADS:
        return dict(ranked), []
    intents = sum(keying == "intent" for keying, _ in found)
    room = min(max(MAX_WORKLOADS - 1, intents), MOST - 1)
    return dict(ranked[:room]), ranked[room:]


def _stats(key: Key, workload: _Workload, had_ns: int) -> WorkloadStats:
    sample = workload.sample
    burst, burst_ns = sample.burst, sample.burst_ns
    if burst is not None and not burst.total() and sample.cut:
        # It never left its CPU inside the window: the stays the window cut off are all there is, and lower bounds.
        burst, burst_ns = Counter(histogram.bucket_of(ran) for ran in sample.cut), sum(sample.cut)
    return WorkloadStats(
        name=key[1],
        keyed_by=key[0],
        tasks=sample.tasks,
        comms=tuple(comm for comm, _ in workload.comms.most_common(MAX_COMMS)),
        cpu_share=min(sample.cpu_ns / had_ns, 1.0),
        cpu_ns=sample.cpu_ns,
        wakeups=sample.wakeups,
        voluntary_switches=sample.voluntary,
        involuntary_switches=sample.involuntary,
        wait_ns=sample.wait_ns,
        migrations=sample.migrations,
        llc_migrations=sample.llc_migrations,
        numa_migrations=sample.numa_migrations,
        forks=sample.forks,
        execs=sample.execs,
        exits=sample.exits,
        wakeup_latency=_histogram(sample.latency, sample.latency_ns),
        burst=_histogram(burst, burst_ns),
        sleep=_histogram(sample.sleep, sample.sleep_ns),
    )


def _histogram(counts: Counter[int] | None, total_ns: int) -> Histogram | None:
    return None if counts is None else histogram.build(counts, total_ns)
