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

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from controller.api.intent import SchedulingIntent
from controller.api.profile import WorkloadStats
from controller.observe import cgroups, histogram
from controller.observe.names import printable
from controller.observe.sample import Observation, Sample, Who
from controller.observe.selectors import Matcher, intent_key

MAX_WORKLOADS = 64
MOST = 512
"""What a profile can hold, should there be more intents than MAX_WORKLOADS."""

MAX_COMMS = 8
OTHERS = "others"
_PER_CPU = re.compile(rb"^(kworker|ksoftirqd|migration|cpuhp|idle_inject|rcuo[a-z]|irq_work|backlog_napi)/.+$")

Keying = Literal["intent", "cgroup", "comm", "others"]
Key = tuple[Keying, str]


@dataclass
class _Workload:
    """The sum of the samples of one workload; `comms` is process name → CPU nanoseconds."""

    sample: Sample | None = None
    comms: Counter[str] = field(default_factory=Counter)

    def add(self, comms: Counter[str], sample: Sample) -> None:
        self.comms.update(comms)
        if self.sample is None:
            self.sample = sample
        else:
            self.sample.add(sample)


def workloads(seen: Observation, intents: Sequence[SchedulingIntent], cpus: int) -> tuple[WorkloadStats, ...]:
    """The observation by workload, busiest first; consumes the samples. Shares add up to at most 1."""
    matchers = [(intent_key(intent), Matcher(intent.spec.workload)) for intent in intents]
    found: dict[Key, _Workload] = {}
    for who, sample in seen.samples.items():
        comms = Counter({printable(fold(who.comm)): sample.cpu_ns})
        found.setdefault(key_of(who, matchers), _Workload()).add(comms, sample)
    kept, rest = _busiest(found)
    for _, workload in rest:
        if workload.sample is not None:
            kept.setdefault(("others", OTHERS), _Workload()).add(workload.comms, workload.sample)
    # /proc is not read in one instant, so its sum may pass what the CPUs had.
    had = max(cpus * seen.window_ns, sum(w.sample.cpu_ns for w in kept.values() if w.sample is not None))
    stats = [_stats(key, w.comms, w.sample, had) for key, w in kept.items() if w.sample is not None]
    return tuple(sorted(stats, key=lambda s: (s.keyed_by == "others", -s.cpu_ns, s.name)))


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
        return keying != "intent", -(workload.sample.cpu_ns if workload.sample else 0), name

    ranked = sorted(found.items(), key=rank)
    if len(ranked) <= MAX_WORKLOADS:
        return dict(ranked), []
    intents = sum(keying == "intent" for keying, _ in found)
    room = min(max(MAX_WORKLOADS - 1, intents), MOST - 1)
    return dict(ranked[:room]), ranked[room:]


def _stats(key: Key, comms: Counter[str], sample: Sample, had_ns: int) -> WorkloadStats:
    burst, burst_ns = sample.burst, sample.burst_ns
    if burst is not None and not burst.total() and sample.cut:
        # It never left its CPU inside the window: the stays the window cut off are all there is, and lower bounds.
        burst, burst_ns = Counter(histogram.bucket_of(ran) for ran in sample.cut), sum(sample.cut)
    return WorkloadStats(
        name=key[1],
        keyed_by=key[0],
        tasks=sample.tasks,
        comms=tuple(comm for comm, _ in comms.most_common(MAX_COMMS)),
        cpu_share=min(sample.cpu_ns / had_ns, 1.0),
        cpu_ns=sample.cpu_ns,
        wakeups=sample.wakeups,
        voluntary_switches=sample.voluntary,
        involuntary_switches=sample.involuntary,
        migrations=sample.migrations,
        forks=sample.forks,
        wakeup_latency=None if sample.latency is None else histogram.build(sample.latency, sample.latency_ns),
        burst=None if burst is None else histogram.build(burst, burst_ns),
    )
