# SPDX-License-Identifier: Apache-2.0
"""The values that pass between the planning roles: handles, enumerations and numbers, and nothing that anybody wrote.

What a role is given and what it says are both models here, so that a role filled by rules and one filled by a model are
the same to the next. `given` values are made by controller.plan.prompt; `said` values come from a model as JSON and are
held to these models before anything else looks at them. Wire names are camelCase.

    observer   Observed                        → Findings
    planner    Question (with Findings, Lessons) → Strategy
    executor   Task (with the Strategy)        → Filling
    learner    History                         → Lessons
    author     Commission                      → Draft
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from controller.api import Metric, Verdict
from controller.api.profile import WorkloadClass

Number = int | float
Text = Annotated[str, Field(max_length=400)]
Long = Annotated[str, Field(max_length=4000)]
Stage = Literal["schema", "render", "lint", "build", "audit", "load", "liveness", "trial"]
Kind = Literal[
    "missesTarget", "meetsTarget", "waits", "interactive", "cpuBound", "migrates", "preempted", "spawns", "dominates",
    "idle", "contended", "spare", "absent",
]  # fmt: skip
KINDS: dict[Kind, str] = {
    "missesTarget": "its measured latency is above its target",
    "meetsTarget": "its measured latency is within its target",
    "waits": "it waits for a CPU longer than it then runs",
    "interactive": "it wakes often and runs shortly",
    "cpuBound": "it seldom sleeps, or runs long without sleeping",
    "migrates": "it often runs on another CPU than before",
    "preempted": "it is preempted more often than it sleeps",
    "spawns": "it starts many tasks",
    "dominates": "no intent speaks of it, and it takes much of the CPU time",
    "idle": "it hardly runs",
    "contended": "the CPUs are all but fully used",
    "spare": "CPU time is left",
    "absent": "nothing was measured of it",
}
"""What a finding can say, and what it means."""
Advice = Literal["otherTemplate", "nearDefaults", "smallerStep", "otherDirection", "noExpressions", "keep"]
ADVICE: dict[Advice, str] = {
    "otherTemplate": "another template",
    "nearDefaults": "the same template with its parameters near their defaults",
    "smallerStep": "the same change, half as far",
    "otherDirection": "the opposite change",
    "noExpressions": "the same without expressions",
    "keep": "the same again: it was good",
}
"""What a lesson can say to do next, and what it means."""
Gap = Literal["nothing", "order", "placement", "preemption", "limit", "together", "other"]
GAPS: dict[Gap, str] = {
    "nothing": "some template of the catalogue does what the intents want",
    "order": "which task of a class goes first",
    "placement": "which CPUs a task runs on",
    "preemption": "when a running task gives way",
    "limit": "how much time a class gets in a period",
    "together": "which tasks run at the same time",
    "other": "something else that no template decides",
}
"""What a strategy can say that every template lacks, and what it means."""


class Given(BaseModel):
    """Given to a role: ours."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True, allow_inf_nan=False
    )

    def json_text(self) -> str:
        """As it goes into a request: ASCII, no white space, nothing that is absent."""
        import json

        return json.dumps(self.model_dump(mode="json", by_alias=True, exclude_none=True), separators=(",", ":"))


class Said(BaseModel):
    """Said by a role: JSON of exactly this form."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, alias_generator=to_camel, populate_by_name=True, allow_inf_nan=False
    )


class Node(Given):
    """The machine. `kernel` is MAJOR.MINOR."""

    cpus: Number
    threads_per_core: Number
    last_level_caches: Number
    numa_nodes: Number
    kernel: str
    cpu_pressure_percent: Number | None = None
    observer: Literal["bcc", "procfs"]
    window_seconds: Number


class Percentiles(Given):
    """Of a distribution, nanoseconds."""

    p50: Number
    p90: Number
    p99: Number


class Workload(Given):
    """What was measured of one workload; absent: could not be measured. Rates are a second."""

    workload: str
    kind: WorkloadClass | None = None
    tasks: Number
    cpu_share: Number
    wakeups_per_second: Number | None = None
    sleeps_per_second: Number | None = None
    preemptions_per_second: Number | None = None
    migrations_per_second: Number | None = None
    forks_per_second: Number | None = None
    wakeup_latency_ns: Percentiles | None = None
    burst_ns: Percentiles | None = None


class Guarded(Given):
    """A guardrail."""

    workload: str
    metric: Literal["wakeupLatency", "makespan", "throughput", "cpuShare"]
    max_regression_percent: Number


class Wish(Given):
    """What one intent wants. `target` is in `target_unit`."""

    intent: str
    metric: Metric
    goal: Literal["minimize", "maximize"]
    weight: int
    tasks: Number | None = None
    percentile: Number | None = None
    target: Number | None = None
    target_unit: str | None = None
    guardrails: tuple[Guarded, ...] = ()


class Value(Said):
    """A parameter of the whole scheduler, written as in the catalogue."""

    name: Text
    value: Text


class ClassValue(Said):
    """A parameter of one intent's class."""

    intent: Text
    name: Text
    value: Text


class Expression(Said):
    """What fills a hole."""

    hole: Text
    expression: Text


class Prior(Given):
    """What the rules planner would do."""

    template: str
    parameters: tuple[Value, ...] = ()
    classes: tuple[ClassValue, ...] = ()


class Attempt(Given):
    """What became of an earlier proposal for the same question. Figures are the stage's own, by name.

    Of holes that an expression filled the names are shown: its text was somebody's answer.
    """

    attempt: int
    template: str
    verdict: Verdict
    stage: Stage | None = None
    rule: str | None = None
    parameters: tuple[Value, ...] = ()
    classes: tuple[ClassValue, ...] = ()
    holes: tuple[str, ...] = ()
    figures: dict[str, bool | int | float] = {}


class Observed(Given):
    """For the observer."""

    node: Node
    workloads: tuple[Workload, ...]
    intents: tuple[Wish, ...]


class Finding(Said):
    """One thing that the figures show of a workload or of the node."""

    subject: Text
    kind: Kind


class Findings(Said):
    """What the observer says."""

    findings: Annotated[tuple[Finding, ...], Field(max_length=128)]


class Lesson(Said):
    """What to do after one earlier attempt, by its number."""

    attempt: int
    advice: Advice


class Lessons(Said):
    """What the learner says."""

    lessons: Annotated[tuple[Lesson, ...], Field(max_length=32)] = ()


class History(Given):
    """For the learner."""

    intents: tuple[Wish, ...]
    attempts: tuple[Attempt, ...]


class Question(Given):
    """For the planner."""

    node: Node
    workloads: tuple[Workload, ...]
    intents: tuple[Wish, ...]
    findings: tuple[Finding, ...]
    rules_planner: Prior | None = None
    attempts: tuple[Attempt, ...] = ()
    lessons: tuple[Lesson, ...] = ()


class Aim(Said):
    """Which way a parameter goes from its default. `intent` "" for one of the whole scheduler."""

    parameter: Text
    intent: Text
    direction: Literal["raise", "lower", "keep"]
    because: Kind


class Strategy(Said):
    """What the planner says: the template, which way its parameters go, which of its holes are to be filled."""

    template: Text
    aims: Annotated[tuple[Aim, ...], Field(max_length=64)]
    holes: Annotated[tuple[Text, ...], Field(max_length=16)] = ()
    lacks: Gap = "nothing"
    reasons: Annotated[tuple[Long, ...], Field(max_length=32)]


class Task(Given):
    """For the executor; of the workloads those that the intents speak of."""

    template: str
    aims: tuple[Aim, ...]
    holes: tuple[str, ...] = ()
    workloads: tuple[Workload, ...]
    intents: tuple[Wish, ...]
    rules_planner: Prior | None = None
    attempts: tuple[Attempt, ...] = ()
    lessons: tuple[Lesson, ...] = ()


class Filling(Said):
    """What the executor says."""

    parameters: Annotated[tuple[Value, ...], Field(max_length=64)]
    classes: Annotated[tuple[ClassValue, ...], Field(max_length=4096)]
    expressions: Annotated[tuple[Expression, ...], Field(max_length=16)] = ()
    reasons: Annotated[tuple[Long, ...], Field(max_length=32)]


class Commission(Given):
    """For the author: what is wanted, what no template does about it, and the template that comes nearest."""

    lacks: Gap
    template: str
    node: Node
    workloads: tuple[Workload, ...]
    intents: tuple[Wish, ...]
    findings: tuple[Finding, ...]


class Declared(Said):
    """A parameter of a new template; bounds are "" for a boolean."""

    name: Text
    type: Literal["duration", "percent", "integer", "boolean"]
    default: Text
    minimum: Text
    maximum: Text
    live: bool
    description: Text


class Draft(Said):
    """What the author says: a template's metadata, its Jinja text and its README."""

    name: Text
    summary: Text
    suits: Annotated[tuple[Text, ...], Field(min_length=1, max_length=8)]
    parameters: Annotated[tuple[Declared, ...], Field(max_length=32)]
    class_parameters: Annotated[tuple[Declared, ...], Field(max_length=32)]
    source: str
    readme: str
