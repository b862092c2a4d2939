# SPDX-License-Identifier: Apache-2.0
"""WorkloadProfile: what ran on a node during one window, measured, with units, bounded in size."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from controller.api.base import ApiModel, Digest, Timestamp

Count = Annotated[int, Field(ge=0)]
Label = Annotated[str, Field(max_length=1024)]


class Histogram(ApiModel):
    """Counts over log2-linear buckets of nanoseconds.

    `edges[i]` is the lower edge of bucket i, ascending; bucket i ends at `edges[i + 1]`, the last one at `upper`.
    Empty buckets are left out by the observer only at both ends.
    """

    edges: tuple[Count, ...] = Field(default=(), max_length=1024, description="Lower edges, nanoseconds.")
    counts: tuple[Count, ...] = Field(default=(), max_length=1024, description="Events in each bucket.")
    upper: Count = Field(default=0, description="Upper edge of the last bucket, nanoseconds.")
    total_ns: Count = Field(default=0, description="Sum of all values, nanoseconds.")

    @model_validator(mode="after")
    def _consistent(self) -> Histogram:
        if len(self.edges) != len(self.counts):
            raise ValueError("edges and counts must have the same length")
        if any(a >= b for a, b in zip(self.edges, (*self.edges[1:], self.upper), strict=False)):
            raise ValueError("edges must ascend and upper must close the last bucket")
        return self

    @property
    def count(self) -> int:
        """Number of events."""
        return sum(self.counts)

    def percentile(self, percent: float) -> float:
        """The value, in nanoseconds, below which `percent` of the events lie; linear inside a bucket, 0 if empty."""
        wanted = self.count * percent / 100
        seen = 0
        for i, (low, events) in enumerate(zip(self.edges, self.counts, strict=True)):
            if events and seen + events >= wanted:
                high = self.edges[i + 1] if i + 1 < len(self.edges) else self.upper
                return low + (high - low) * max(wanted - seen, 0) / events
            seen += events
        return float(self.upper)


class Topology(ApiModel):
    """The CPUs of a node; `topology_class` is what a passport is bound to."""

    cpus: Annotated[int, Field(ge=1)] = Field(description="Online logical CPUs.")
    packages: Annotated[int, Field(ge=1)] = 1
    cores_per_package: Annotated[int, Field(ge=1)] = 1
    threads_per_core: Annotated[int, Field(ge=1)] = 1
    llcs: Annotated[int, Field(ge=1)] = Field(default=1, description="Last-level caches.")
    numa_nodes: Annotated[int, Field(ge=1)] = 1
    topology_class: str = Field(description="Such as cpus2.pkg1.smt1.llc1.numa1.")


class KernelFacts(ApiModel):
    """The kernel a node runs."""

    release: Label = Field(description="uname -r.")
    btf_digest: Digest | None = Field(default=None, description="Of /sys/kernel/btf/vmlinux.")
    sched_ext: bool = Field(description="Whether this kernel can attach a sched_ext scheduler.")


class Pressure(ApiModel):
    """PSI `some` over the last 10 s, percent of time; absent when the kernel has no PSI."""

    cpu: float | None = None
    memory: float | None = None
    io: float | None = None


class WorkloadStats(ApiModel):
    """One workload during the window. Counts are events in the window; absent figures could not be measured."""

    name: Label = Field(description="NAMESPACE/NAME of an intent, a cgroup path, or a process name, by `keyed_by`.")
    keyed_by: Literal["intent", "cgroup", "comm", "others"] = Field(description="What `name` is.")
    tasks: Count = Field(description="Distinct tasks seen.")
    comms: tuple[Label, ...] = Field(default=(), max_length=8, description="Busiest process names in it.")
    cpu_share: Annotated[float, Field(ge=0)] = Field(description="CPU time / (CPUs × window), 0 to 1.")
    cpu_ns: Count = Field(description="CPU time, nanoseconds.")
    wakeups: Count | None = None
    voluntary_switches: Count | None = Field(default=None, description="Left the CPU by sleeping.")
    involuntary_switches: Count | None = Field(default=None, description="Was preempted.")
    migrations: Count | None = Field(default=None, description="Ran on another CPU than before.")
    forks: Count | None = None
    wakeup_latency: Histogram | None = Field(default=None, description="Runnable → running.")
    burst: Histogram | None = Field(default=None, description="On-CPU time between switches.")


class IntentMatch(ApiModel):
    """How many tasks an intent's selector matched at the end of the window."""

    intent: Label = Field(description="NAMESPACE/NAME.")
    tasks: Count
    unresolved: Label = Field(default="", description="Why a selector field could not be evaluated here, if so.")


class WorkloadProfile(ApiModel):
    """What ran on a node during one window."""

    node: Label
    taken_at: Timestamp = Field(description="End of the window.")
    window_ns: Annotated[int, Field(gt=0)] = Field(description="Length of the window, nanoseconds.")
    observer: Literal["bcc", "procfs"] = Field(description="bcc: traced in the kernel; procfs: sampled from /proc.")
    degraded: Label = Field(default="", description="Why the observer is not bcc, and what is missing for it.")
    topology: Topology
    kernel: KernelFacts
    pressure: Pressure = Field(default_factory=Pressure)
    workloads: tuple[WorkloadStats, ...] = Field(default=(), max_length=512, description="Busiest first.")
    matches: tuple[IntentMatch, ...] = Field(default=(), max_length=512)
    dropped: Count = Field(default=0, description="Events that found a map full: counted, not attributed.")

    def workload(self, name: str) -> WorkloadStats | None:
        """The workload called `name`, if it ran."""
        return next((w for w in self.workloads if w.name == name), None)
