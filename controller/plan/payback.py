# SPDX-License-Identifier: Apache-2.0
"""Payback: what a plan cost and what its scheduler saves in CPU time, as far as that is known, and no further.

The cost is that of the model calls of all attempts, by the dated prices (a plan of the rules costs no call, a recalled
revision neither). The saving follows from a trial and the revision: a trial that measured how much longer or less long
the same work takes (makespan, throughput) gives a gain with an interval, the fingerprint how much of the machine that
work uses, the topology class how many CPUs there are:

    saved CPU seconds an hour = CPU share × CPUs × 3600 × gain / (1 + gain)

A trial of latency says nothing about CPU time, and without a trial nothing is known: then it is `unknown`, with why.
`payback` takes the trial from the revision's manifest; controller.reconcile.payback from the signed passport, and adds
up what a policy's nodes have promoted (`schedctl budget`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from controller.api import Metric, SchedulerRevision, Verdict

UNKNOWN = "unknown"
_GAIN = re.compile(r"baseline\.class\.(makespan|throughput)\.(gain|low|high)_percent")
_CPUS = re.compile(r"cpus([1-9][0-9]{0,5})\b")


@dataclass(frozen=True)
class Payback:
    """US dollars (None: unknown), and CPU seconds saved an hour on one node: (low, mid, high), or None and why."""

    usd: float | None
    calls: int | None
    saved: tuple[float, float, float] | None
    why: str = ""

    def cost_text(self) -> str:
        """`$0.0123 (2 calls)`, or `unknown`."""
        return cost_text(self.usd, self.calls)

    def saved_text(self) -> str:
        """`96 CPU s/h [61, 128]`, or `unknown`."""
        return UNKNOWN if self.saved is None else saved_text(self.saved)


def cost_text(usd: float | None, calls: int | None) -> str:
    """Dollars and model calls for people."""
    if calls is None:
        return UNKNOWN
    told = f"{calls} model call{'' if calls == 1 else 's'}"
    return f"{UNKNOWN} ({told})" if usd is None else f"${usd:.4f} ({told})"


def saved_text(saved: tuple[float, float, float]) -> str:
    """An interval of CPU seconds an hour for people."""
    low, mid, high = (f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}" for value in saved)
    return f"{mid} CPU s/h [{low}, {high}]"


def payback(revision: SchedulerRevision) -> Payback:
    """What a revision says of its own cost and saving: by the lesson of its trial, which is in its manifest."""
    lessons = reversed(revision.spec.lessons)
    tried = next((o for o in lessons if o.stage == "trial" and o.verdict is Verdict.PASS), None)
    return measured(revision, tried.figures if tried is not None else None)


def measured(revision: SchedulerRevision, trial: Mapping[str, object] | None, *, why: str = "") -> Payback:
    """What a revision cost and what follows from the figures of a trial that it passed; `why` there is none."""
    cost = revision.spec.cost
    saved, told = _saved(revision, trial) if trial is not None else (None, why or "no trial measured it")
    return Payback(cost.usd if cost is not None else None, cost.calls if cost is not None else None, saved, told)


def _saved(revision: SchedulerRevision, trial: Mapping[str, object]) -> tuple[tuple[float, float, float] | None, str]:
    spec = revision.spec
    found: dict[str, float] = {}
    metric = ""
    for name, value in trial.items():
        match = _GAIN.fullmatch(name)
        if match is not None and isinstance(value, int | float):
            metric, found[match[2]] = match[1], float(value) / 100
    if found.keys() != {"gain", "low", "high"}:
        return None, "the trial was of another objective than the time that work takes"
    classes = [c for c in spec.proposal.classes if c.metric == Metric(metric)]
    vector = spec.workload.of(max(classes, key=lambda c: c.weight).intent) if spec.workload and classes else None
    cpus = _CPUS.match(spec.target.topology_class)
    share = vector.features[0] if vector is not None else None
    if share is None or cpus is None:
        return None, "how much CPU time the workload takes was not measured"
    seconds = share * int(cpus[1]) * 3600
    low, mid, high = (seconds * gain / (1 + gain) for gain in (found["low"], found["gain"], found["high"]))
    return (low, mid, high), ""
