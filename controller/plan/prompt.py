# SPDX-License-Identifier: Apache-2.0
"""What a model may be told: our own words, our own templates, and otherwise handles and numbers.

Everything that somebody else may have written (names of processes, cgroups, intents, policies, nodes and kernels,
labels, annotations, the texts of templates from a policy repository) stays here. The prompt speaks of workloads w1, w2,
…, intents i1, i2, … and templates t1, t2, …; `Prompt` keeps what they stand for. Names and descriptions go out only for
templates that equal one shipped with schedctl, byte for byte; of a committed template the model sees metrics, types,
ranges, and the parameter names that our own templates use too (any other name is p1, p2, …: a 63-letter identifier can
hold a sentence). Its holes are not offered, since choosing an expression takes their descriptions. Numbers are cut to
four digits, so they carry figures and nothing else.
"""

from __future__ import annotations

import contextlib
import functools
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
from controller.plan.values import ClassValue, Guarded, Node, Percentiles, Prior, Value, Wish, Workload
from controller.render import builtin_templates, check_template
from controller.render.holes import hole_names
from controller.render.parameters import number

MAX_WORKLOADS = 12
IDLE = 0.005
"""Of the node's CPU time: a workload that uses less, and that no intent speaks of, is not told. There are dozens on
each node (kernel threads, timers), each some 250 bytes that are paid for with each call of each role."""
MAX_TEMPLATES = 24
_LARGEST = 10**18
OWN_UNIT = "the workload's own"
_UNITS = {
    Metric.WAKEUP_LATENCY: "nanoseconds",
    Metric.MAKESPAN: "nanoseconds",
    Metric.CPU_SHARE: "fraction of the node's CPU time",
}
UNITS = frozenset({OWN_UNIT, *_UNITS.values()})


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
    """What the roles are given, typed, and what each handle stands for.

    `classes` maps an intent's handle to the index of its class in the proposal, `names` every handle to what a person
    calls it.
    """

    templates: Mapping[str, Entry]
    classes: Mapping[str, int]
    names: Mapping[str, str]
    node: Node
    workloads: tuple[Workload, ...]
    intents: tuple[Wish, ...]
    prior: Prior | None
    expressions: bool
    drafting: bool = False

    def workload(self, handle: str) -> Workload | None:
        """The figures of `handle`, if it was measured."""
        return next((w for w in self.workloads if w.workload == handle), None)


def build(
    profile: WorkloadProfile,
    intents: Sequence[SchedulingIntent],
    templates: Sequence[SchedulerTemplate],
    base: Proposal,
    *,
    expressions: bool,
    drafting: bool = False,
) -> Prompt:
    """What is known for one plan. `base` is the rules planner's proposal: its classes are the intents to plan for.

    `drafting`: a new template may be asked for.
    """
    entries = {entry.handle: entry for entry in _entries(templates, profile.kernel.release, expressions=expressions)}
    handles = {task_class.intent: f"i{i}" for i, task_class in enumerate(base.classes, start=1)}
    workloads = _workload_handles(profile, handles)
    names = {entry.handle: entry.template.name for entry in entries.values()}
    names |= {handle: intent for intent, handle in handles.items()}
    names |= {handle: w.name for handle, w in workloads if handle.startswith("w")}
    return Prompt(
        templates=entries,
        classes={handle: i for i, handle in enumerate(handles.values())},
        names=names,
        node=_node(profile),
        workloads=tuple(_workload(w, handle, profile.window_ns) for handle, w in workloads),
        intents=tuple(_intent(i, handles, profile) for i in intents if i.qualified_name in handles),
        prior=_prior(base, entries),
        expressions=expressions,
        drafting=drafting,
    )


def outline(entries: Iterable[Entry]) -> str:
    """The catalogue as the planner reads it: what each template is for and which way its parameters can go."""
    return _json([_outlined(entry) for entry in entries])


def page(entry: Entry) -> str:
    """One template as the executor reads it, with every range."""
    return _json(_catalogued(entry))


@functools.cache
def our_texts() -> frozenset[str]:
    """Every text and word that pages and outlines of the templates shipped with schedctl consist of."""
    ours = builtin_templates()
    found: set[str] = set()
    for entry in _entries(ours, "", expressions=True):
        _collect(_catalogued(entry), found)
        _collect(_outlined(entry), found)
        found.update(name for hole in entry.holes.values() for name in hole.names)
    return frozenset(found)


def _collect(value: Any, found: set[str]) -> None:
    if isinstance(value, str):
        found.add(value)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            found.add(key)
            _collect(each, found)
    elif isinstance(value, list):
        for each in value:
            _collect(each, found)


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


def _outlined(entry: Entry) -> dict[str, Any]:
    spec = entry.template.spec
    shown: dict[str, Any] = {"template": entry.handle, "suits": [metric.value for metric in spec.suits]}
    if entry.ours:
        shown |= {"name": entry.template.name, "summary": spec.summary}
    shown["parameters"] = {n: p.description if entry.ours else p.type for n, p in entry.parameters.items()}
    shown["classParameters"] = {n: p.description if entry.ours else p.type for n, p in entry.class_parameters.items()}
    if entry.holes:
        shown["holes"] = list(entry.holes)
    return shown


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


def _prior(base: Proposal, entries: Mapping[str, Entry]) -> Prior | None:
    entry = next((e for e in entries.values() if e.template.name == base.template), None)
    if entry is None:
        return None
    return Prior(
        template=entry.handle,
        parameters=shown_values(entry, base.parameters),
        classes=shown_class_values(entry, {c.handle: c.parameters for c in base.classes}),
    )


def shown_values(entry: Entry, given: Mapping[str, ParameterValue]) -> tuple[Value, ...]:
    """Values of a proposal from the entry's template under the names shown; what no longer fits is left out."""
    return tuple(Value(name=name, value=value) for name, value in _values(entry.parameters, given))


def shown_class_values(entry: Entry, given: Mapping[str, Mapping[str, ParameterValue]]) -> tuple[ClassValue, ...]:
    """The same of classes, by their handles: class c1 is the intent i1."""
    return tuple(
        ClassValue(intent=f"i{handle[1:]}", name=name, value=value)
        for handle, values in sorted(given.items(), key=lambda item: int(item[0][1:]))
        for name, value in _values(entry.class_parameters, values)
    )


def _values(shown: Mapping[str, Parameter], given: Mapping[str, ParameterValue]) -> Iterable[tuple[str, str]]:
    for name, parameter in shown.items():
        if parameter.name in given:
            with contextlib.suppress(TemplateError):  # its type may have changed since
                yield name, canonical(parameter, given[parameter.name])


def _node(profile: WorkloadProfile) -> Node:
    topology = profile.topology
    return Node(
        cpus=figure(topology.cpus),
        threads_per_core=figure(topology.threads_per_core),
        last_level_caches=figure(topology.llcs),
        numa_nodes=figure(topology.numa_nodes),
        kernel=".".join(map(str, _version(profile.kernel.release))),
        cpu_pressure_percent=_figure(profile.pressure.cpu),
        observer=profile.observer,
        window_seconds=figure(profile.window_ns / 1e9),
    )


def _workload_handles(profile: WorkloadProfile, handles: Mapping[str, str]) -> list[tuple[str, WorkloadStats]]:
    """Intents under their own handles, `others` as itself, and the busiest of the rest, if not idle, as w1, w2, …"""
    found: list[tuple[str, WorkloadStats]] = []
    seen = 0
    for workload in profile.workloads:
        if workload.keyed_by == "others":
            found.append(("others", workload))
        elif workload.keyed_by == "intent" and workload.name in handles:
            found.append((handles[workload.name], workload))
        elif seen < MAX_WORKLOADS and workload.cpu_share >= IDLE:
            seen += 1
            found.append((f"w{seen}", workload))
    return found


def _workload(workload: WorkloadStats, handle: str, window_ns: int) -> Workload:
    def rate(count: int | None) -> float | None:
        return None if count is None else _figure(min(count, _LARGEST) / (window_ns / 1e9))

    return Workload(
        workload=handle,
        kind=workload.classification.kind if workload.classification is not None else None,
        tasks=figure(workload.tasks),
        cpu_share=figure(workload.cpu_share),
        wakeups_per_second=rate(workload.wakeups),
        sleeps_per_second=rate(workload.voluntary_switches),
        preemptions_per_second=rate(workload.involuntary_switches),
        migrations_per_second=rate(workload.migrations),
        forks_per_second=rate(workload.forks),
        wakeup_latency_ns=_percentiles(workload.wakeup_latency),
        burst_ns=_percentiles(workload.burst),
    )


def _percentiles(histogram: Histogram | None) -> Percentiles | None:
    if histogram is None or not histogram.count:
        return None
    try:
        p50, p90, p99 = (figure(histogram.percentile(percent)) for percent in (50, 90, 99))
    except OverflowError:  # counts have no upper bound on the wire
        return None
    return Percentiles(p50=p50, p90=p90, p99=p99)


def _intent(intent: SchedulingIntent, handles: Mapping[str, str], profile: WorkloadProfile) -> Wish:
    objective = intent.spec.objective
    tasks = next((match.tasks for match in profile.matches if match.intent == intent.qualified_name), None)
    latency, aimed = objective.metric is Metric.WAKEUP_LATENCY, objective.target is not None
    return Wish(
        intent=handles[intent.qualified_name],
        metric=objective.metric,
        goal=objective.goal,
        weight=intent.spec.weight,
        tasks=_figure(tasks),
        percentile=round(objective.percentile or 99, 3) if latency else None,
        target=_figure(objective.target_value),
        target_unit=_UNITS.get(objective.metric, OWN_UNIT) if aimed else None,
        guardrails=tuple(
            Guarded(workload=handle, metric=g.metric, max_regression_percent=figure(g.max_regression * 100))
            for g in intent.spec.guardrails
            if (handle := _guarded(g.workload, intent, handles)) is not None
        ),
    )


def _guarded(workload: str, intent: SchedulingIntent, handles: Mapping[str, str]) -> str | None:
    if workload == "others":
        return workload
    return handles.get(workload if "/" in workload else f"{intent.namespace}/{workload}")


def figure(value: float) -> float:
    """Four significant digits, within ±10^18; 0 for what is no number."""
    if isinstance(value, float) and not math.isfinite(value):
        return 0
    rounded = float(f"{max(-_LARGEST, min(_LARGEST, value)):.4g}")
    return int(rounded) if rounded.is_integer() else rounded


def _figure(value: float | None) -> float | None:
    return None if value is None or (isinstance(value, float) and not math.isfinite(value)) else figure(value)


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
