# SPDX-License-Identifier: Apache-2.0
"""SchedulingIntent: one workload and what it wants from the CPU, written by an application team."""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from controller.api.base import (
    ApiModel,
    LabelMap,
    Percent,
    Resource,
    Status,
    parse_duration,
    parse_percent,
    sha256,
)

CommGlob = Annotated[str, Field(min_length=1, max_length=15, pattern=r"^[\x21-\x7e][\x20-\x7e]*$")]
"""A pattern over a kernel process name (TASK_COMM_LEN is 16 with its NUL): `*`, `?` and printable ASCII."""

CgroupGlob = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[\x21-\x7e]+$")]
UnitName = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[A-Za-z0-9:_.\\@*?-]+$")]
UserName = Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\$?$")]


class Metric(StrEnum):
    """What an objective may be stated in."""

    WAKEUP_LATENCY = "wakeupLatency"
    """Time from runnable to running, nanoseconds."""
    MAKESPAN = "makespan"
    """Time from the first start to the last end of the workload's jobs, nanoseconds."""
    THROUGHPUT = "throughput"
    """Work done a second, in the workload's own unit."""
    CPU_SHARE = "cpuShare"
    """CPU time received / CPU time the node had, 0 to 1."""
    EXTERNAL = "external"
    """The user's own number, read from `source`."""


class WorkloadSelector(ApiModel):
    """Which tasks an intent speaks of. Fields are ANDed, the entries of one field are ORed; at least one is needed."""

    comm: tuple[CommGlob, ...] = Field(default=(), max_length=64, description="Process name globs (15 characters).")
    cgroup: tuple[CgroupGlob, ...] = Field(
        default=(),
        max_length=64,
        description=(
            "cgroup v2 path globs; each takes in what is below it. Kubernetes: *pod<UID>* is a pod (the UID with _ "
            "for - where systemd makes the cgroups), *<container id>* a container."
        ),
    )
    unit: tuple[UnitName, ...] = Field(default=(), max_length=64, description="systemd units, such as nginx.service.")
    user: tuple[UserName, ...] = Field(default=(), max_length=64, description="User names or numeric ids.")
    pod_selector: LabelMap | None = Field(
        default=None,
        description="Labels of Kubernetes pods; matches nothing on a node that does not reach the Kubernetes API.",
    )

    @model_validator(mode="after")
    def _not_empty(self) -> WorkloadSelector:
        if not (self.comm or self.cgroup or self.unit or self.user or self.pod_selector):
            raise ValueError("at least one of comm, cgroup, unit, user, podSelector is required")
        return self


class PrometheusSource(ApiModel):
    """A Prometheus instant query that gives one value."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s]+$", max_length=2048)] = Field(description="Base URL.")
    query: Annotated[str, Field(min_length=1, max_length=4096)] = Field(description="PromQL with a scalar result.")


class ExternalSource(ApiModel):
    """Where the `external` metric is read: exactly one of the two."""

    prometheus: PrometheusSource | None = Field(default=None, description="A Prometheus query.")
    exec: tuple[Annotated[str, Field(min_length=1, max_length=4096)], ...] = Field(
        default=(), max_length=64, description="An argument list, run without a shell, that prints one value."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> ExternalSource:
        if (self.prometheus is None) == (not self.exec):
            raise ValueError("exactly one of prometheus, exec is required")
        return self


class Objective(ApiModel):
    """What is to be made better."""

    metric: Metric = Field(description="What is measured.")
    goal: Literal["minimize", "maximize"] = Field(description="Which direction is better.")
    percentile: Annotated[float, Field(gt=0, lt=100)] | None = Field(
        default=None, description="For wakeupLatency: which percentile; 99 when absent."
    )
    target: Annotated[str, Field(max_length=32)] | float | None = Field(
        default=None, description="Good enough: a duration (2ms), a percentage (40%) or a number, by the metric."
    )
    source: ExternalSource | None = Field(default=None, description="For external: where the value is read.")

    @model_validator(mode="after")
    def _consistent(self) -> Objective:
        if (self.metric is Metric.EXTERNAL) != (self.source is not None):
            raise ValueError("source is required with metric external, and only with it")
        if self.percentile is not None and self.metric is not Metric.WAKEUP_LATENCY:
            raise ValueError("percentile goes with metric wakeupLatency only")
        better = {Metric.WAKEUP_LATENCY: "minimize", Metric.MAKESPAN: "minimize"}
        better |= {Metric.THROUGHPUT: "maximize", Metric.CPU_SHARE: "maximize"}
        if better.get(self.metric, self.goal) != self.goal:
            raise ValueError(f"goal must be {better[self.metric]} for metric {self.metric.value}")
        return self

    @field_validator("target")
    @classmethod
    def _unit_of_target(cls, target: str | float | None, info: ValidationInfo) -> str | float | None:
        if target is not None and "metric" in info.data:
            _target_value(info.data["metric"], target)
        return target

    @property
    def target_value(self) -> float | None:
        """The target in the metric's base unit: nanoseconds, a fraction, or the plain number."""
        return None if self.target is None else _target_value(self.metric, self.target)


def _target_value(metric: Metric, target: str | float) -> float:
    if metric in (Metric.WAKEUP_LATENCY, Metric.MAKESPAN):
        if not isinstance(target, str):
            raise ValueError("must be a duration with a unit, such as 500us or 2ms")
        return parse_duration(target)
    if metric is Metric.CPU_SHARE:
        if not isinstance(target, str):
            raise ValueError("must be a percentage such as 40%")
        return parse_percent(target)
    if isinstance(target, str):
        raise ValueError("must be a plain number for this metric")
    return target


class Guardrail(ApiModel):
    """What must not get worse while the objective gets better."""

    workload: Annotated[str, Field(min_length=1, max_length=253)] = Field(
        description="`others`, or the NAME or NAMESPACE/NAME of another intent."
    )
    metric: Literal["wakeupLatency", "makespan", "throughput", "cpuShare"] = Field(description="What is guarded.")
    max_regression: Percent = Field(description="How much worse it may get.")


class IntentSpec(ApiModel):
    """What one workload wants."""

    workload: WorkloadSelector = Field(description="Which tasks.")
    objective: Objective = Field(description="What they want.")
    weight: Annotated[int, Field(ge=1, le=10000)] = Field(
        default=100, description="Share under contention, as cpu.weight: 1 to 10000."
    )
    guardrails: tuple[Guardrail, ...] = Field(default=(), max_length=32, description="What must not get worse.")


class IntentStatus(Status):
    """How the intent fares, as the controller sees it."""

    matched_tasks: int | None = Field(default=None, ge=0, description="Tasks matched over all nodes.")
    nodes: tuple[str, ...] = Field(default=(), description="Nodes on which it matched.")
    revision: str | None = Field(default=None, description="The SchedulerRevision that serves it.")


class SchedulingIntent(Resource):
    """One workload and what it wants from the CPU."""

    kind: Literal["SchedulingIntent"] = "SchedulingIntent"
    spec: IntentSpec = Field(description="What is wanted.")
    status: IntentStatus | None = Field(default=None, description="What is.")

    @property
    def qualified_name(self) -> str:
        """NAMESPACE/NAME, as profiles and proposals name an intent."""
        return f"{self.namespace or 'default'}/{self.name}"


def sought_digest(intents: Iterable[SchedulingIntent]) -> str:
    """`sha256:…` of what is looked for on a node: the intents' names and selectors, in order of precedence."""
    said = [[intent.qualified_name, intent.spec.workload.wire()] for intent in intents]
    return sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode())
