# SPDX-License-Identifier: Apache-2.0
"""WorkloadProfile: what ran on a node during one window, measured, with units, bounded in size."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from controller.api.base import ApiModel, Digest, Timestamp

Count = Annotated[int, Field(ge=0)]
Label = Annotated[str, Field(max_length=1024)]
Share = Annotated[float, Field(ge=0, le=1)]


class Histogram(ApiModel):
    """Counts over log2-linear buckets of nanoseconds, ascending; a bucket without events is left out.

    Bucket i holds `counts[i]` values from `edges[i]` up to, but not with, `edges[i] + widths[i]`.
    """

    edges: tuple[Count, ...] = Field(default=(), max_length=1024, description="Lower edges, nanoseconds.")
    widths: tuple[Count, ...] = Field(default=(), max_length=1024, description="Widths, nanoseconds.")
    counts: tuple[Count, ...] = Field(default=(), max_length=1024, description="Events in each bucket.")
    total_ns: Count = Field(default=0, description="Sum of all values, nanoseconds.")

    @model_validator(mode="after")
    def _consistent(self) -> Histogram:
        if not len(self.edges) == len(self.widths) == len(self.counts):
            raise ValueError("edges, widths and counts must have the same length")
        ends = [low + width for low, width in zip(self.edges, self.widths, strict=True)]
        if any(end > low for end, low in zip(ends, self.edges[1:], strict=False)) or 0 in self.widths:
            raise ValueError("buckets must ascend, must not overlap, and must not be empty intervals")
        return self

    @property
    def count(self) -> int:
        """Number of events."""
        return sum(self.counts)

    def percentile(self, percent: float) -> float:
        """The value, in nanoseconds, below which `percent` of the events lie; linear inside a bucket, 0 if empty."""
        wanted = self.count * percent / 100
        seen = 0
        value = 0.0
        for low, width, events in zip(self.edges, self.widths, self.counts, strict=True):
            if events and seen + events >= wanted:
                return low + width * max(wanted - seen, 0) / events
            seen += events
            value = float(low + width)
        return value


class Topology(ApiModel):
    """The CPUs of a node; `topology_class` is what a passport is bound to."""

    cpus: Annotated[int, Field(ge=1)] = Field(description="Online logical CPUs.")
    packages: Annotated[int, Field(ge=1)] = 1
    cores_per_package: Annotated[int, Field(ge=1)] = 1
    threads_per_core: Annotated[int, Field(ge=1)] = 1
    llcs: Annotated[int, Field(ge=1)] = Field(default=1, description="Last-level caches.")
    numa_nodes: Annotated[int, Field(ge=1)] = 1
    topology_class: str = Field(description="Such as cpus2.pkg1.smt1.llc1.numa1.")


class SchedExtAbilities(ApiModel):
    """What this kernel's BTF says its sched_ext can do; names as the kernel has them, sorted."""

    ops: tuple[Label, ...] = Field(default=(), max_length=256, description="Members of struct sched_ext_ops.")
    kfuncs: tuple[Label, ...] = Field(default=(), max_length=512, description="scx_bpf_* functions.")
    flags: tuple[Label, ...] = Field(default=(), max_length=256, description="SCX_OPS_* flags.")


class KernelFacts(ApiModel):
    """The kernel a node runs."""

    release: Label = Field(description="uname -r.")
    btf_digest: Digest | None = Field(default=None, description="Of /sys/kernel/btf/vmlinux.")
    sched_ext: bool = Field(description="Whether this kernel can attach a sched_ext scheduler.")


class Pressure(ApiModel):
    """PSI over the last 10 s, percent of time; absent when the kernel has no PSI.

    `some`: at least one task waited for the resource. `full`: nobody ran for it; there is none for the CPU.
    """

    cpu: float | None = None
    memory: float | None = None
    io: float | None = None
    memory_full: float | None = None
    io_full: float | None = None


class CpuStats(ApiModel):
    """One logical CPU during the window. Shares are of the window, 0 to 1; absent figures could not be measured."""

    cpu: Count
    busy_share: Share
    steal_share: Share | None = Field(default=None, description="Taken by the hypervisor (/proc/stat).")
    capacity: Count | None = Field(default=None, description="Of 1024, where the kernel tells (sysfs cpu_capacity).")
    wait_ns: Count | None = Field(default=None, description="Sum of all waits in its run queue (/proc/schedstat).")
    depth: tuple[Count, ...] = Field(
        default=(), max_length=64, description="[i]: nanoseconds with i tasks runnable or running; the last: or more."
    )


class CgroupCpu(ApiModel):
    """cpu.weight, cpu.max and cpu.stat of a workload's cgroup; counts are of the window, absent: not told here."""

    path: Label
    weight: Annotated[int, Field(ge=1, le=10_000)] | None = None
    quota: Annotated[float, Field(gt=0)] | None = Field(default=None, description="CPUs that cpu.max allows.")
    usage_ns: Count | None = None
    periods: Count | None = Field(default=None, description="Enforcement periods that passed.")
    throttled_periods: Count | None = None
    throttled_ns: Count | None = None
    pressure: Pressure | None = None
    container: Label = Field(default="", description="Container id, where the path names one.")
    pod: Label = Field(default="", description="Kubernetes pod UID, where the path names one.")
    qos: Literal["", "Guaranteed", "Burstable", "BestEffort"] = Field(default="", description="The pod's QoS class.")


WorkloadClass = Literal["latency", "throughput", "batch", "background"]


class Classification(ApiModel):
    """What kind of load a workload is, with what speaks for it."""

    kind: WorkloadClass
    confidence: Share = Field(description="0.5: could as well be the next likely; 1: nothing speaks against it.")
    because: tuple[Label, ...] = Field(default=(), max_length=8, description="The features that decided, in words.")


class WakeEdge(ApiModel):
    """Wakeups by which tasks of one workload woke those of another, both by name; `waker` "" is an interrupt."""

    waker: Label
    wakee: Label
    wakeups: Count


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
    wait_ns: Count | None = Field(default=None, description="Ready to run and not running, nanoseconds, all tasks.")
    migrations: Count | None = Field(default=None, description="Ran on another CPU than before.")
    llc_migrations: Count | None = Field(default=None, description="Migrations to another last-level cache.")
    numa_migrations: Count | None = Field(default=None, description="Migrations to another NUMA node.")
    forks: Count | None = None
    execs: Count | None = None
    exits: Count | None = None
    wakeup_latency: Histogram | None = Field(default=None, description="Runnable → running.")
    burst: Histogram | None = Field(default=None, description="On-CPU time between switches.")
    sleep: Histogram | None = Field(default=None, description="From leaving a CPU to sleep until the next wakeup.")
    cgroup: CgroupCpu | None = Field(default=None, description="Of the cgroup that all of it is in, if it is one.")
    classification: Classification | None = None


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
    abilities: SchedExtAbilities | None = Field(default=None, description="Absent where there is no BTF to ask.")
    pressure: Pressure = Field(default_factory=Pressure)
    workloads: tuple[WorkloadStats, ...] = Field(default=(), max_length=512, description="Busiest first.")
    matches: tuple[IntentMatch, ...] = Field(default=(), max_length=512)
    sought: Digest | None = Field(
        default=None, description="Digest of the intents' names and selectors that were looked for; absent: not known."
    )
    cpus: tuple[CpuStats, ...] = Field(default=(), max_length=1024, description="By number.")
    wake_edges: tuple[WakeEdge, ...] = Field(default=(), max_length=256, description="Most wakeups first.")
    dropped: Count = Field(default=0, description="Events that found a map full: counted, not attributed.")

    def workload(self, name: str) -> WorkloadStats | None:
        """The workload called `name`, if it ran."""
        return next((w for w in self.workloads if w.name == name), None)
