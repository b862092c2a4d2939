# SPDX-License-Identifier: Apache-2.0
"""One small case for the tests of the claude planner: a profile, two intents, the built-in templates, a good answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controller.api import (
    Histogram,
    IntentSpec,
    Objective,
    ObjectMeta,
    PlannerRecord,
    Proposal,
    SchedulingIntent,
    TaskClass,
    WorkloadProfile,
    WorkloadSelector,
    WorkloadStats,
)
from controller.plan.ledger import Usage
from controller.plan.messages import Reply
from controller.plan.testing import Scripted, answer
from controller.render import builtin_templates, template_digest
from tests import builders

KEY = "sk-ant-authored-key-4711"
TEMPLATES = builtin_templates()


def template_handle(name: str) -> str:
    """The handle a built-in template has when all of them and no others are given."""
    return f"t{[t.name for t in TEMPLATES].index(name) + 1}"


def intent(name: str, metric: str, *, comm: str, **objective: Any) -> SchedulingIntent:
    goal = "minimize" if metric in ("wakeupLatency", "makespan") else "maximize"
    spec = IntentSpec(
        workload=WorkloadSelector(comm=(comm,)), objective=Objective(metric=metric, goal=goal, **objective), weight=300
    )
    return SchedulingIntent(metadata=ObjectMeta(name=name, namespace="shop", generation=1), spec=spec)


INTENTS = (
    intent("checkout", "wakeupLatency", comm="web", target="2ms"),
    intent("reports", "throughput", comm="crunch"),
)


def workload(name: str, keyed_by: str, **figures: Any) -> WorkloadStats:
    latency = Histogram(edges=(1000, 4000), widths=(1000, 4000), counts=(90, 10), total_ns=200_000)
    plain = {"tasks": 4, "cpu_share": 0.25, "cpu_ns": 10**9, "wakeups": 5000, "wakeup_latency": latency}
    return WorkloadStats(name=name, keyed_by=keyed_by, **(plain | figures))


def profile(*workloads: WorkloadStats, **changes: Any) -> WorkloadProfile:
    status = builders.node(matched=tuple(f"shop/{i.name}" for i in INTENTS)).status
    assert status is not None
    assert status.profile is not None
    seen = workloads or (workload("shop/checkout", "intent"), workload("shop/reports", "intent"))
    return status.profile.model_copy(update={"workloads": seen} | changes)


def base(intents: tuple[SchedulingIntent, ...] = INTENTS, template: str = "weighted-fair") -> Proposal:
    """A proposal as the rules planner makes them, by hand: these tests are of what the model may change about it."""
    found = next(t for t in TEMPLATES if t.name == template)
    classes = tuple(
        TaskClass(
            handle=f"c{number}",
            intent=i.qualified_name,
            metric=i.spec.objective.metric,
            weight=i.spec.weight,
            match={"comm": i.spec.workload.comm},
            selector=i.spec.workload,
        )
        for number, i in enumerate(intents, start=1)
    )
    return Proposal(
        template=template,
        template_digest=template_digest(found),
        classes=classes,
        planner=PlannerRecord(name="rules", version="1"),
        reasons=("by hand",),
    )


def strategy(**changes: Any) -> dict[str, Any]:
    """A planner's answer that is right in everything that `changes` does not change."""
    return {
        "template": template_handle("latency-first"),
        "aims": [
            {"parameter": "slice", "intent": "", "direction": "lower", "because": "waits"},
            {"parameter": "deadline", "intent": "i1", "direction": "lower", "because": "waits"},
        ],
        "holes": ["deadline"],
        "reasons": ["i1 waits."],
    } | changes


def filling(**changes: Any) -> dict[str, Any]:
    """An executor's answer to that strategy that is right in everything that `changes` does not change."""
    return {
        "parameters": [{"name": "slice", "value": "1.5ms"}],
        "classes": [{"intent": "i1", "name": "deadline", "value": "500us"}],
        "expressions": [],
        "reasons": ["i1 waits 4 us at p99."],
    } | changes


def good() -> list[Scripted]:
    """A whole plan: one answer of the planner, one of the executor."""
    return [answer(strategy()), answer(filling())]


@dataclass
class Authored:
    """A transport whose answers are authored, for tests that need no HTTP; `asked` holds what was asked."""

    answers: Iterable[object]
    model: str = ""
    billed: bool = True
    patience_s: float | None = None
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def send(self, role: str, request: Mapping[str, Any], timeout_s: float) -> Reply:
        self.asked.append((role, dict(request)))
        said = next(iter(self.answers)) if not isinstance(self.answers, list) else self.answers.pop(0)
        return Reply(said if isinstance(said, str) else json.dumps(said), "end_turn", Usage(1200, 300), "req_authored")


def lines(state: Path, phase: str = "") -> list[dict[str, Any]]:
    """The ledger's lines, those of one phase if it is given; `state` is SCHEDCTL_STATE."""
    found = [json.loads(line) for line in (state / "planner-ledger.jsonl").read_text().splitlines()]
    return [line for line in found if not phase or line["phase"] == phase]
