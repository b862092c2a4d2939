# SPDX-License-Identifier: Apache-2.0
"""What a trial is to show: workload, objective, guardrails, how sure one must be, and how long it may take.

For a proposal all of it follows from its classes and the policy: the class of the greatest weight whose metric a
workload here can measure is the class under test, and the workload's processes are made so that it matches them.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass

from controller.api import Metric, Proposal
from controller.api.policy import VerificationSpec
from controller.errors import InputError

BUDGET_S = 260.0
PERCENTILES = (50, 90, 95, 99)
OBJECTIVES = {
    "longtail": Metric.MAKESPAN,
    "mixed": Metric.WAKEUP_LATENCY,
    "messaging": Metric.THROUGHPUT,
    "pipeline": Metric.THROUGHPUT,
    "kernelbuild-like": Metric.MAKESPAN,
    "twin": Metric.WAKEUP_LATENCY,
}
"""Each workload, and the metric that it is asked for when none is named."""

MEASURES: dict[str, tuple[Metric, ...]] = {
    "longtail": (Metric.MAKESPAN, Metric.THROUGHPUT),
    "mixed": (Metric.WAKEUP_LATENCY, Metric.CPU_SHARE, Metric.THROUGHPUT),
    "messaging": (Metric.THROUGHPUT, Metric.MAKESPAN),
    "pipeline": (Metric.THROUGHPUT, Metric.MAKESPAN, Metric.WAKEUP_LATENCY),
    "kernelbuild-like": (Metric.MAKESPAN, Metric.THROUGHPUT),
    "twin": (Metric.WAKEUP_LATENCY, Metric.THROUGHPUT, Metric.MAKESPAN),
}
"""What each can measure of the class under test. For `pipeline` the latency is an item's way through the stages."""

_WORKLOAD_OF = {
    Metric.MAKESPAN: "longtail",
    Metric.WAKEUP_LATENCY: "mixed",
    Metric.THROUGHPUT: "messaging",
    Metric.CPU_SHARE: "mixed",
}
_ALLOWED = 0.10
_NAME = 15


@dataclass(frozen=True, slots=True)
class Guardrail:
    """What the candidate may not make worse by more than `max_regression` (a fraction): of all others, as a rule."""

    metric: Metric
    max_regression: float
    percentile: int = 99
    group: str = "others"

    @property
    def key(self) -> str:
        """As samples are asked for it: `others.throughput`."""
        return key_of(self.group, self.metric, self.percentile)


@dataclass(frozen=True, slots=True)
class TrialSpec:
    """One trial. `mde` is a fraction, `budget_s` seconds for all runs in one guest.

    `comm` names the processes of the class under test (`*` becomes letters that differ from process to process),
    `uid` is their user, `cgroup_class` the class number that their cgroup is entered with into the candidate's map.
    `incumbent` is the object that runs now; `twin` an rt-app document (JSON text), for the workload of that name.
    """

    workload: str
    metric: Metric
    percentile: int = 99
    mde: float = 0.05
    confidence: float = 0.95
    power: float = 0.9
    budget_s: float = BUDGET_S
    seed: int = 1
    guardrails: tuple[Guardrail, ...] = ()
    incumbent: bytes | None = None
    comm: str = "*"
    others_comm: str = "*"
    uid: int | None = None
    cgroup_class: int | None = None
    twin: str = ""

    def __post_init__(self) -> None:
        if self.workload not in OBJECTIVES:
            raise InputError(f'unknown workload "{self.workload}"', remedy=f"one of {', '.join(OBJECTIVES)}")
        if self.metric not in MEASURES[self.workload]:
            known = ", ".join(metric.value for metric in MEASURES[self.workload])
            raise InputError(f"workload {self.workload} does not measure {self.metric.value}", remedy=f"it has {known}")
        if self.percentile not in PERCENTILES:
            raise InputError(f"a trial knows no percentile {self.percentile}", remedy=f"one of {PERCENTILES}")
        if not 0 < self.mde <= 1 or not 0.5 <= self.confidence < 1 or not 0.5 <= self.power < 1:
            raise InputError("a trial needs 0 < mde <= 1 and confidence and power from 0.5 to 1")
        if (self.workload == "twin") != bool(self.twin):
            raise InputError("the workload twin, and only it, needs an rt-app document", remedy="give --twin FILE")

    @property
    def objective(self) -> str:
        """As samples are asked for it: `class.makespan`, `class.wakeupLatency.p99`."""
        return key_of("class", self.metric, self.percentile)


def key_of(group: str, metric: Metric, percentile: int) -> str:
    """The name of a metric of a group of processes."""
    suffix = f".p{percentile}" if metric is Metric.WAKEUP_LATENCY else ""
    return f"{group}.{metric.value}{suffix}"


def default_guardrails(workload: str, metric: Metric, allowed: float = _ALLOWED) -> tuple[Guardrail, ...]:
    """What everybody else may lose when nobody said: a tenth of the work done, or of what their wakeups wait.

    Where the class is to have more CPU, others do less work by intent: then only their wakeups count. A wakeup's
    median is taken, at ten times the allowance, because a few late ones say nothing in runs of a second.
    """
    late = Guardrail(Metric.WAKEUP_LATENCY, 10 * allowed, percentile=50)
    if workload == "twin":
        return ()
    return (late,) if metric is Metric.CPU_SHARE else (Guardrail(Metric.THROUGHPUT, allowed),)


def spec_for(
    proposal: Proposal,
    verification: VerificationSpec,
    *,
    guardrails: tuple[Guardrail, ...] | None = None,
    incumbent: bytes | None = None,
    budget_s: float = BUDGET_S,
) -> TrialSpec:
    """The trial that a proposal has to stand under a policy. InputError when no class has a metric of a trial."""
    measurable = [one for one in proposal.classes if one.metric in _WORKLOAD_OF and not one.match.tgid]
    if not measurable:
        raise InputError(
            "no class of the proposal can be measured by a trial: that takes another metric than external, and none is "
            "matched by tgid, for the guest has no process of this node"
        )
    chosen = max(measurable, key=lambda one: one.weight)
    workload = _WORKLOAD_OF[chosen.metric]
    taken = [glob for one in proposal.classes for glob in one.match.comm]
    return TrialSpec(
        workload=workload,
        metric=chosen.metric,
        mde=verification.minimum_detectable_effect,
        confidence=verification.confidence,
        budget_s=budget_s,
        seed=int(proposal.content_digest()[-8:], 16),
        guardrails=default_guardrails(workload, chosen.metric) if guardrails is None else guardrails,
        incumbent=incumbent,
        comm=pattern_of(chosen.match.comm[0]) if chosen.match.comm else "*",
        others_comm=_others_pattern(taken),
        uid=chosen.match.uid[0] if chosen.match.uid else None,
        cgroup_class=int(chosen.handle[1:]) if chosen.match.cgroup else None,
    )


def pattern_of(glob: str) -> str:
    """A name that `glob` matches, with at most one `*` for letters to be filled in: `php*` stays, `w[ab]?` → `wax`."""
    text = re.sub(r"\[([^\]!])[^\]]*\]", r"\1", glob).replace("?", "x")
    head, star, tail = text.partition("*")
    tail = tail.replace("*", "")
    plain = f"{head}{tail}"[:_NAME]
    if not star or len(head) + 6 + len(tail) > _NAME:
        return plain if fnmatch.fnmatchcase(plain, glob) else head[:_NAME]
    return f"{head}*{tail}"


def _others_pattern(globs: list[str]) -> str:
    """A name for all others that no class wants."""
    for head in ("other", "rest", "misc", "z9", "_"):
        if not any(fnmatch.fnmatchcase(f"{head}abcdef", glob) for glob in globs):
            return f"{head}*"
    return "*"
