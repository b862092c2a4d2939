# SPDX-License-Identifier: Apache-2.0
"""What the model is told: our own words, our own templates, and otherwise handles and numbers.

Everything that somebody else may have written (names of processes, cgroups, intents, policies, nodes and kernels,
labels, annotations, the texts of templates from a policy repository) stays here. The prompt speaks of workloads w1, w2,
…, intents i1, i2, … and templates t1, t2, …; `Prompt` keeps what they stand for. Names and descriptions go out only for
templates that equal one shipped with schedctl, byte for byte; of a committed template the model sees metrics, types,
ranges, and the parameter names that our own templates use too (any other name is p1, p2, …: a 63-letter identifier can
hold a sentence). Its holes are not offered, since choosing an expression takes their descriptions. Numbers are cut to
four digits, so they carry figures and nothing else.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controller.api import (
    Histogram,
    Hole,
    Metric,
    Parameter,
    Proposal,
    SchedulerTemplate,
    SchedulingIntent,
    WorkloadProfile,
    WorkloadStats,
    format_duration,
    format_percent,
)
from controller.api.template import ParameterValue
from controller.errors import TemplateError
from controller.render import builtin_templates, check_template
from controller.render.holes import hole_names
from controller.render.parameters import number

MAX_WORKLOADS = 12
MAX_TEMPLATES = 24
_LARGEST = 10**18
_UNITS = {
    Metric.WAKEUP_LATENCY: "nanoseconds",
    Metric.MAKESPAN: "nanoseconds",
    Metric.CPU_SHARE: "fraction of the node's CPU time",
}

_ROLE = """\
You plan CPU schedulers for Linux nodes (sched_ext, eBPF). You are given a catalogue of scheduler templates, what was
measured on one node, and what its workloads want. Choose one template and fill it so that every intent is served as
its metric, target and weight ask, while `others` (all tasks without an intent) is never starved and the guardrails
hold. Your answer is data: it is checked against the catalogue, rendered to C, verified on a real kernel and measured
against the kernel's own scheduler before a node may run it.

How to decide
- Start from the figures. Tasks that sleep often and run short bursts want low wakeup latency; tasks whose bursts
  reach the slice are CPU-bound. A wakeup latency p99 far above the bursts of its workload means it waits behind others.
- A template suits the metrics it lists; for intents of several metrics prefer the template that suits the metric of the
  heaviest intent. Weights are as in cgroup v2 cpu.weight (default 100) and are already part of each class.
- Shorter slices lower latency and cost switches; longer ones help throughput and caches. Change a default only
  for a reason you can state from the figures.
- `rulesPlanner` is what a fixed rule set would do with the same input. Keep it where you have no better reason.

How to answer
- `template`: a handle of the catalogue. Parameters you leave out keep their defaults.
- Values are strings written as in the catalogue: durations with a unit (500us, 2ms, 1s), percentages (5%), whole
  numbers, true or false; within the range the catalogue gives, ends included.
- `classes`: class parameters, each for one intent handle.
- `reasons`: one to five short sentences, each naming the figure it rests on, with handles for workloads and intents.
"""

_EXPRESSIONS = """\
- `expressions`: may replace a hole's default. Whole numbers from 0 to 2^63 - 1: decimal literals, the names of the
  hole, + - * / % << >> (a - b is 0 where b is larger, a / 0 is a / 1), one comparison (< <= > >= == !=), && || !,
  c ? a : b, min(a, b), max(a, b), clamp(a, low, high) and parentheses; at most 400 characters. Over the ranges given
  with the names no sum, product or shift may exceed 2^63 - 1: divide before you multiply.
"""


@dataclass(frozen=True)
class Entry:
    """A template as the model sees it, parameters by the name shown. `ours`: shipped with schedctl."""

    handle: str
    template: SchedulerTemplate
    ours: bool
    parameters: Mapping[str, Parameter]
    class_parameters: Mapping[str, Parameter]
    holes: Mapping[str, Hole]


@dataclass(frozen=True)
class Prompt:
    """The texts to send, the JSON schema of the answer, and what each handle stands for.

    `classes` maps an intent's handle to the index of its class in the proposal, `names` every handle to what a person
    calls it.
    """

    system: str
    findings: str
    schema: dict[str, Any]
    templates: Mapping[str, Entry]
    classes: Mapping[str, int]
    names: Mapping[str, str]


def build(
    profile: WorkloadProfile,
    intents: Sequence[SchedulingIntent],
    templates: Sequence[SchedulerTemplate],
    base: Proposal,
    *,
    expressions: bool,
) -> Prompt:
    """The prompt for one plan. `base` is the rules planner's proposal: its classes are the intents to plan for."""
    entries = {entry.handle: entry for entry in _entries(templates, profile.kernel.release, expressions=expressions)}
    handles = {task_class.intent: f"i{i}" for i, task_class in enumerate(base.classes, start=1)}
    workloads = _workload_handles(profile, handles)
    findings = {
        "node": _node(profile),
        "workloads": [_workload(w, handle, profile.window_ns) for handle, w in workloads],
        "intents": [_intent(i, handles, profile) for i in intents if i.qualified_name in handles],
        "rulesPlanner": _prior(base, entries),
    }
    names = {entry.handle: entry.template.name for entry in entries.values()}
    names |= {handle: intent for intent, handle in handles.items()}
    names |= {handle: w.name for handle, w in workloads if handle.startswith("w")}
    catalogue = [_catalogued(entry) for entry in entries.values()]
    return Prompt(
        system=_ROLE + (_EXPRESSIONS if expressions else "") + "\nCatalogue\n" + _json(catalogue),
        findings=_json(findings),
        schema=_schema(list(entries), list(handles.values()), expressions=expressions),
        templates=entries,
        classes={handle: i for i, handle in enumerate(handles.values())},
        names=names,
    )


def canonical(parameter: Parameter, value: ParameterValue) -> str:
    """`value` in one spelling: `1.5ms` → `1500us`. TemplateError if it is not of the parameter's type."""
    base = number(parameter, value, "catalogue")
    if parameter.type == "duration":
        return format_duration(int(base))
    if parameter.type == "percent":
        return format_percent(base)
    return str(base).lower()


def _entries(templates: Sequence[SchedulerTemplate], release: str, *, expressions: bool) -> Iterable[Entry]:
    """Ours first, then the committed ones, by name; those that are broken or need a newer kernel are left out."""
    ours = {template.name: template for template in builtin_templates()}
    vocabulary = {p.name for t in ours.values() for p in (*t.spec.parameters, *t.spec.class_parameters)}
    kernel = _version(release)
    usable = [t for t in templates if _sound(t) and (not kernel or _version(t.spec.kernel_floor) <= kernel)]
    usable.sort(key=lambda t: (not _is_ours(t, ours), t.name))
    for i, template in enumerate(usable[:MAX_TEMPLATES], start=1):
        own = _is_ours(template, ours)
        spec = template.spec
        yield Entry(
            handle=f"t{i}",
            template=template,
            ours=own,
            parameters=_shown(spec.parameters, None if own else vocabulary, "p"),
            class_parameters=_shown(spec.class_parameters, None if own else vocabulary, "k"),
            holes={hole.name: hole for hole in spec.holes} if own and expressions else {},
        )


def _is_ours(template: SchedulerTemplate, ours: Mapping[str, SchedulerTemplate]) -> bool:
    return template.name in ours and ours[template.name].spec == template.spec


def _sound(template: SchedulerTemplate) -> bool:
    try:
        check_template(template)
    except (TemplateError, ValueError):
        return False
    return True


def _shown(parameters: Sequence[Parameter], vocabulary: set[str] | None, letter: str) -> dict[str, Parameter]:
    return {
        p.name if vocabulary is None or p.name in vocabulary else f"{letter}{i}": p
        for i, p in enumerate(parameters, start=1)
    }


def _version(text: str) -> tuple[int, ...]:
    found = re.match(r"([0-9]{1,3})\.([0-9]{1,3})", text, re.ASCII)
    return (int(found[1]), int(found[2])) if found else ()


def _catalogued(entry: Entry) -> dict[str, Any]:
    spec = entry.template.spec
    shown: dict[str, Any] = {"template": entry.handle, "suits": [metric.value for metric in spec.suits]}
    if entry.ours:
        shown |= {"name": entry.template.name, "summary": spec.summary}
    shown["parameters"] = [_parameter(n, p, ours=entry.ours) for n, p in entry.parameters.items()]
    shown["classParameters"] = [_parameter(n, p, ours=entry.ours) for n, p in entry.class_parameters.items()]
    if entry.holes:
        shown["holes"] = [
            {
                "hole": n,
                "default": h.default,
                "names": [f"{each.name}: {each.shown}" for each in hole_names(entry.template, h)],
                "description": h.description,
            }
            for n, h in entry.holes.items()
        ]
    return shown


def _parameter(name: str, parameter: Parameter, *, ours: bool) -> dict[str, Any]:
    shown = {"name": name, "type": parameter.type, "default": canonical(parameter, parameter.default)}
    if parameter.minimum is not None:
        shown["minimum"] = canonical(parameter, parameter.minimum)
    if parameter.maximum is not None:
        shown["maximum"] = canonical(parameter, parameter.maximum)
    return shown | ({"description": parameter.description} if ours else {})


def _prior(base: Proposal, entries: Mapping[str, Entry]) -> dict[str, Any] | None:
    entry = next((e for e in entries.values() if e.template.name == base.template), None)
    if entry is None:
        return None
    classes = [
        {"intent": f"i{i}", "name": name, "value": value}
        for i, task_class in enumerate(base.classes, start=1)
        for name, value in _values(entry.class_parameters, task_class.parameters)
    ]
    chosen = [{"name": name, "value": value} for name, value in _values(entry.parameters, base.parameters)]
    return {"template": entry.handle, "parameters": chosen, "classes": classes}


def _values(shown: Mapping[str, Parameter], given: Mapping[str, ParameterValue]) -> Iterable[tuple[str, str]]:
    return ((name, canonical(p, given[p.name])) for name, p in shown.items() if p.name in given)


def _node(profile: WorkloadProfile) -> dict[str, Any]:
    topology = profile.topology
    return {
        "cpus": _figure(topology.cpus),
        "threadsPerCore": _figure(topology.threads_per_core),
        "lastLevelCaches": _figure(topology.llcs),
        "numaNodes": _figure(topology.numa_nodes),
        "kernel": ".".join(map(str, _version(profile.kernel.release))),
        "cpuPressurePercent": _figure(profile.pressure.cpu),
        "observer": profile.observer,
        "windowSeconds": _figure(profile.window_ns / 1e9),
    }


def _workload_handles(profile: WorkloadProfile, handles: Mapping[str, str]) -> list[tuple[str, WorkloadStats]]:
    """Intents under their own handles, `others` as itself, and the busiest of the rest as w1, w2, …"""
    found: list[tuple[str, WorkloadStats]] = []
    seen = 0
    for workload in profile.workloads:
        if workload.keyed_by == "others":
            found.append(("others", workload))
        elif workload.keyed_by == "intent" and workload.name in handles:
            found.append((handles[workload.name], workload))
        elif seen < MAX_WORKLOADS:
            seen += 1
            found.append((f"w{seen}", workload))
    return found


def _workload(workload: WorkloadStats, handle: str, window_ns: int) -> dict[str, Any]:
    def rate(count: int | None) -> float | None:
        return None if count is None else _figure(min(count, _LARGEST) / (window_ns / 1e9))

    figures = {
        "tasks": _figure(workload.tasks),
        "cpuShare": _figure(workload.cpu_share),
        "wakeupsPerSecond": rate(workload.wakeups),
        "sleepsPerSecond": rate(workload.voluntary_switches),
        "preemptionsPerSecond": rate(workload.involuntary_switches),
        "migrationsPerSecond": rate(workload.migrations),
        "forksPerSecond": rate(workload.forks),
        "wakeupLatencyNs": _percentiles(workload.wakeup_latency),
        "burstNs": _percentiles(workload.burst),
    }
    return {"workload": handle} | {name: value for name, value in figures.items() if value is not None}


def _percentiles(histogram: Histogram | None) -> dict[str, float | None] | None:
    if histogram is None or not histogram.count:
        return None
    try:
        return {f"p{percent}": _figure(histogram.percentile(percent)) for percent in (50, 90, 99)}
    except OverflowError:  # counts have no upper bound on the wire
        return None


def _intent(intent: SchedulingIntent, handles: Mapping[str, str], profile: WorkloadProfile) -> dict[str, Any]:
    objective = intent.spec.objective
    tasks = next((match.tasks for match in profile.matches if match.intent == intent.qualified_name), None)
    shown: dict[str, Any] = {
        "intent": handles[intent.qualified_name],
        "metric": objective.metric.value,
        "goal": objective.goal,
        "weight": intent.spec.weight,
        "tasks": _figure(tasks),
    }
    if objective.metric is Metric.WAKEUP_LATENCY:
        shown["percentile"] = round(objective.percentile or 99, 3)
    if objective.target is not None:
        shown["target"] = _figure(objective.target_value)
        shown["targetUnit"] = _UNITS.get(objective.metric, "the workload's own")
    shown["guardrails"] = [
        {"workload": handle, "metric": g.metric, "maxRegressionPercent": _figure(g.max_regression * 100)}
        for g in intent.spec.guardrails
        if (handle := _guarded(g.workload, intent, handles)) is not None
    ]
    return shown


def _guarded(workload: str, intent: SchedulingIntent, handles: Mapping[str, str]) -> str | None:
    if workload == "others":
        return workload
    return handles.get(workload if "/" in workload else f"{intent.namespace}/{workload}")


def _figure(value: float | None) -> float | None:
    """Four significant digits, within ±10^18; None for what is no number."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    bounded = max(-_LARGEST, min(_LARGEST, value))
    rounded = float(f"{bounded:.4g}")
    return int(rounded) if rounded.is_integer() else rounded


def _schema(templates: list[str], intents: list[str], *, expressions: bool) -> dict[str, Any]:
    """The API enforces no ranges or lengths and takes no optional fields: controller.plan.claude checks those."""
    text = {"type": "string"}
    properties: dict[str, Any] = {
        "template": {"type": "string", "enum": templates},
        "parameters": _array(name=text, value=text),
        "classes": _array(intent={"type": "string", "enum": intents}, name=text, value=text),
    }
    if expressions:
        properties["expressions"] = _array(hole=text, expression=text)
    properties["reasons"] = {"type": "array", "items": text}
    return _object(properties)


def _array(**properties: Any) -> dict[str, Any]:
    return {"type": "array", "items": _object(properties)}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    required = list(properties)
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
