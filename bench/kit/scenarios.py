# SPDX-License-Identifier: Apache-2.0
"""Twelve fixed scenarios for planners: what was seen on a node, what is wanted there, and the load to measure on.

The profiles are authored, not measured: round figures of the size that an observer would give of the trial's workloads
under the kernel's own scheduler, so that planning needs no guest and is the same everywhere. The loads are those of the
trial (verify.trial.workloads). The heaviest intent's tasks are the class under test; where there is a second intent,
the load's other tasks are called as it wants, so that they are of its class, and not of nobody's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from controller.api import (
    Histogram,
    IntentSpec,
    KernelFacts,
    Metric,
    ObjectMeta,
    PolicySpec,
    SchedulerPolicy,
    SchedulerTemplate,
    SchedulingIntent,
    Topology,
    WorkloadProfile,
    WorkloadStats,
)
from controller.api.base import parse_percent
from controller.render import builtin_templates
from controller.verify.trial import Guardrail, TrialSpec

NAMESPACE = "bench"
SEED = 1
"""Of every draw: order and work of the runs, random points, the search."""
_WINDOW_NS = 10_000_000_000
_AUTHORED = datetime(2026, 1, 1, tzinfo=UTC)
_OTHERS_PERCENTILE = 50
"""Of the wakeups of others, as in the trial: a few late ones say nothing in runs of a second."""
_LOWER = (Metric.WAKEUP_LATENCY, Metric.MAKESPAN)
_NOBODY = "other*"


@dataclass(frozen=True, slots=True)
class Seen:
    """Authored figures of one workload: its part of all CPUs, tasks a CPU, and the p99s of its bursts and of its waits
    for a CPU."""

    share: float
    tasks: int
    burst_us: int
    wait_us: int


@dataclass(frozen=True, slots=True)
class Want:
    """One intent, with what was seen of its tasks; their names begin with `name`. `rails` are (metric, most that all
    others may lose of it)."""

    name: str
    metric: Metric
    seen: Seen
    weight: int = 100
    target: str | None = None
    percentile: int | None = None
    rails: tuple[tuple[Metric, str], ...] = ()

    @property
    def comm(self) -> str:
        """What its tasks are called."""
        return f"{self.name}*"

    @property
    def intent(self) -> SchedulingIntent:
        """As a team would commit it."""
        objective: dict[str, Any] = {"metric": self.metric, "goal": "minimize" if self.metric in _LOWER else "maximize"}
        objective |= {"target": self.target} if self.target else {}
        objective |= {"percentile": self.percentile} if self.percentile else {}
        rails = [{"workload": "others", "metric": metric, "maxRegression": most} for metric, most in self.rails]
        spec = {
            "workload": {"comm": [self.comm]}, "objective": objective, "weight": self.weight, "guardrails": rails
        }  # fmt: skip
        meta = ObjectMeta(name=self.name, namespace=NAMESPACE, generation=1)
        return SchedulingIntent(metadata=meta, spec=IntentSpec.model_validate(spec))


@dataclass(frozen=True, slots=True)
class Scenario:
    """One question to a planner. `wants[0]` is the heaviest; `unnamed` is what was seen of tasks of no intent."""

    name: str
    says: str
    workload: str
    wants: tuple[Want, ...]
    unnamed: Seen | None = None

    @property
    def intents(self) -> tuple[SchedulingIntent, ...]:
        """All of them."""
        return tuple(want.intent for want in self.wants)

    @property
    def trial(self) -> TrialSpec:
        """How whatever is proposed is measured: load, deciding metric, guardrails, and what tasks are called."""
        main = self.wants[0]
        rails = tuple(Guardrail(metric, parse_percent(most), _OTHERS_PERCENTILE) for metric, most in main.rails)
        return TrialSpec(
            self.workload, main.metric, percentile=main.percentile or 99, seed=SEED, guardrails=rails, comm=main.comm,
            others_comm=self.wants[1].comm if len(self.wants) > 1 else _NOBODY,
        )  # fmt: skip

    def profile(self, release: str, cpus: int) -> WorkloadProfile:
        """The authored profile, as of a node with that kernel and so many CPUs."""
        seen = [_stats(want.intent.qualified_name, "intent", want.seen, cpus) for want in self.wants]
        seen += [_stats("others", "others", self.unnamed, cpus)] if self.unnamed is not None else []
        return WorkloadProfile(
            node="bench", taken_at=_AUTHORED, window_ns=_WINDOW_NS, observer="procfs", workloads=tuple(seen),
            topology=Topology(cpus=cpus, topology_class=f"cpus{cpus}.pkg1.smt1.llc1.numa1"),
            kernel=KernelFacts(release=release, sched_ext=True),
        )  # fmt: skip

    def policy(self, mode: str, **search: Any) -> SchedulerPolicy:
        """One that allows everything; `search`: what a search may do, on this scenario's load."""
        planner = {"mode": mode, "search": {"workload": self.workload, "seed": SEED, **search}}
        spec = PolicySpec.model_validate({"planner": planner})
        return SchedulerPolicy(metadata=ObjectMeta(name="bench", generation=1), spec=spec)

    def suiting(self) -> tuple[SchedulerTemplate, ...]:
        """Every template that says that it suits the deciding metric, by name."""
        return tuple(t for t in templates().values() if self.wants[0].metric in t.spec.suits)


@cache
def templates() -> dict[str, SchedulerTemplate]:
    """The catalogue, by name."""
    return {template.name: template for template in sorted(builtin_templates(), key=lambda t: t.name)}


def _stats(name: str, keyed_by: Any, seen: Seen, cpus: int) -> WorkloadStats:
    used = round(seen.share * cpus * _WINDOW_NS)
    bursts = max(1, used // (seen.burst_us * 500))  # most are half as long as the longest
    return WorkloadStats(
        name=name, keyed_by=keyed_by, tasks=seen.tasks * cpus, cpu_share=seen.share, cpu_ns=used, wakeups=bursts,
        voluntary_switches=bursts, wakeup_latency=_histogram(seen.wait_us), burst=_histogram(seen.burst_us),
    )  # fmt: skip


def _histogram(p99_us: int) -> Histogram:
    """Nine in ten about half as long as the p99, the others about as long."""
    half, width = p99_us * 500, max(1, p99_us * 50)
    return Histogram(
        edges=(half, 2 * half - width), widths=(width, width + width // 9), counts=(90, 10), total_ns=110 * half
    )


_JOBS = Seen(share=0.9, tasks=5, burst_us=20_000, wait_us=12_000)
_COMPILERS = Seen(share=0.85, tasks=6, burst_us=8_000, wait_us=8_000)
_PERIODIC = Seen(share=0.03, tasks=1, burst_us=300, wait_us=2_500)
_WAKERS = Seen(share=0.07, tasks=2, burst_us=150, wait_us=3_500)
_HOGS = Seen(share=0.9, tasks=2, burst_us=6_000, wait_us=9_000)
_HALF_OF_HOGS = Seen(share=0.46, tasks=1, burst_us=6_000, wait_us=9_000)
_MESSENGERS = Seen(share=0.9, tasks=16, burst_us=120, wait_us=6_000)
_STAGES = Seen(share=0.9, tasks=6, burst_us=400, wait_us=4_000)

_LATENCY, _MAKESPAN, _WORK, _SHARE = Metric.WAKEUP_LATENCY, Metric.MAKESPAN, Metric.THROUGHPUT, Metric.CPU_SHARE
_TENTH, _TWENTIETH, _WAKEUPS = (_WORK, "10%"), (_WORK, "5%"), (_LATENCY, "100%")

_ALL = (
    Scenario("nightly-batch", "a batch with one long job", "longtail",
             (Want("job", _MAKESPAN, _JOBS, rails=(_TENTH,)),), _PERIODIC),
    Scenario("batch-beside-web", "the same, weight 300, beside a named service that shall wait 5 ms at most",
             "longtail",
             (Want("job", _MAKESPAN, _JOBS, weight=300, rails=(_WAKEUPS,)),
              Want("web", _LATENCY, _PERIODIC, target="5ms"))),
    Scenario("tight-service", "a service that shall wait 1 ms at most, weight 300, beside hogs", "mixed",
             (Want("web", _LATENCY, _WAKERS, weight=300, target="1ms", rails=(_TENTH,)),), _HOGS),
    Scenario("easy-service", "the same load: p95 of 10 ms, weight 100, and hogs may lose 5 %", "mixed",
             (Want("web", _LATENCY, _WAKERS, target="10ms", percentile=95, rails=(_TWENTIETH,)),), _HOGS),
    Scenario("service-beside-reports", "a service that shall wait 2 ms at most, weight 400, beside named hogs", "mixed",
             (Want("web", _LATENCY, _WAKERS, weight=400, target="2ms", rails=(_TENTH,)), Want("report", _WORK, _HOGS))),
    Scenario("paid-share", "half of the hogs want CPU time, weight 300", "mixed",
             (Want("paid", _SHARE, _HALF_OF_HOGS, weight=300, rails=(_WAKEUPS,)),), _HALF_OF_HOGS),
    Scenario("urgent-work", "half of the hogs want work done, weight 400", "mixed",
             (Want("urgent", _WORK, _HALF_OF_HOGS, weight=400, rails=(_WAKEUPS,)),), _HALF_OF_HOGS),
    Scenario("messages", "groups of tasks that send each other messages", "messaging",
             (Want("chat", _WORK, _MESSENGERS, rails=(_TENTH,)),), _PERIODIC),
    Scenario("pipes", "lines of processes joined by pipes, work wanted", "pipeline",
             (Want("line", _WORK, _STAGES, rails=(_TENTH,)),), _PERIODIC),
    Scenario("quick-pipes", "the same lines, weight 200: an item shall be through soon, 20 ms at p90", "pipeline",
             (Want("line", _LATENCY, _STAGES, weight=200, target="20ms", percentile=90, rails=(_TENTH,)),), _PERIODIC),
    Scenario("build", "a build, nothing else named", "kernelbuild-like",
             (Want("build", _MAKESPAN, _COMPILERS, rails=(_TENTH,)),), _PERIODIC),
    Scenario("build-beside-web", "a build, weight 200, beside a named service that shall wait 3 ms at most",
             "kernelbuild-like",
             (Want("build", _MAKESPAN, _COMPILERS, weight=200, rails=(_WAKEUPS,)),
              Want("web", _LATENCY, _PERIODIC, target="3ms"))),
)  # fmt: skip

SCENARIOS = {scenario.name: scenario for scenario in _ALL}
"""By name, in the order in which they are measured."""
