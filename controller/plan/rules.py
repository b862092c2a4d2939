# SPDX-License-Identifier: Apache-2.0
"""The offline planner: from what was measured and what is wanted to a proposal, by rules a person can check.

Deterministic: equal arguments give an equal proposal. It chooses the template that serves most of the intents' weight,
makes each intent a class (in order of NAMESPACE/NAME), and derives a parameter only where a measurement or a wish of
the user says something about it; everything else stays at the template's default. Each derivation leaves a reason.
A value is bent into the range that the template declares, so that what is proposed is always accepted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from controller import __version__
from controller.api import (
    ClassMatch,
    Metric,
    Parameter,
    PlannerRecord,
    Proposal,
    SchedulerPolicy,
    SchedulerTemplate,
    SchedulingIntent,
    TaskClass,
    WorkloadProfile,
    WorkloadStats,
    format_duration,
    format_percent,
)
from controller.api.template import ParameterValue
from controller.errors import InputError
from controller.render import parameters as ranges
from controller.render import template_digest

MAX_CLASSES = 255
_US = 1_000
_DEFAULT_REGRESSION = 0.05
"""What others may lose when no guardrail says: room for bursts above the measured share."""
_FILLED, _HALF = 0.8, 0.5
"""Of a CPU. Latency tasks that use about all of it have only each other to go before, and others would wait until none
of them is left; with half of it, others that are rarely there come first."""


@dataclass
class _Draft:
    """What has been decided so far."""

    template: SchedulerTemplate
    parameters: dict[str, ParameterValue] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def propose(self, name: str, value: float, why: str) -> None:
        """Give the parameter `name` a value in its base unit, if the template has it; the reason names the result."""
        declared = next((p for p in self.template.spec.parameters if p.name == name), None)
        if declared is not None:
            fitted = fit(declared, value)
            if fitted != declared.default:
                low, high = ranges.bounds(declared, f"parameter {name}")
                if high is not None and value > high:
                    why += "; the template allows at most that"
                elif low is not None and value < low:
                    why += "; the template allows no less"
                self.parameters[name] = fitted
                self.reasons.append(f"{name} = {fitted}: {why}")


def propose(
    profile: WorkloadProfile,
    intents: Sequence[SchedulingIntent],
    policy: SchedulerPolicy,
    templates: Sequence[SchedulerTemplate],
) -> Proposal:
    """A proposal for `intents` (those that count on the node) from `templates` (those that the policy allows).

    InputError when there is no intent, no template that suits any of them, or a selector that no class can express.
    """
    ordered = sorted(intents, key=lambda i: (i.namespace, i.name))
    if not ordered:
        raise InputError("there is no intent to plan for", remedy="commit a SchedulingIntent that matches a task")
    if len(ordered) > MAX_CLASSES:
        raise InputError(f"{len(ordered)} intents count on one node, at most {MAX_CLASSES} can", remedy="merge some")
    template, why = choose(ordered, policy, templates)
    draft = _Draft(template, reasons=[why])
    _latency(draft, ordered, profile)
    _batch(draft, ordered, profile)
    lengths = _lengths(draft, ordered, profile)
    return Proposal(
        template=template.name,
        template_digest=template_digest(template),
        parameters=draft.parameters,
        classes=tuple(_task_class(n, i, template, lengths) for n, i in enumerate(ordered, start=1)),
        planner=PlannerRecord(name="rules", version=__version__),
        reasons=tuple(reason[:1000] for reason in draft.reasons),
    )


def choose(
    intents: Sequence[SchedulingIntent], policy: SchedulerPolicy, templates: Sequence[SchedulerTemplate]
) -> tuple[SchedulerTemplate, str]:
    """The template that suits most of the intents' weight, then one that is not special, then the one that names their
    main metric earliest.
    """
    wanted: dict[Metric, int] = {}
    for intent in intents:
        wanted[intent.spec.objective.metric] = wanted.get(intent.spec.objective.metric, 0) + intent.spec.weight
    main = max(sorted(wanted), key=lambda metric: wanted[metric])

    def merit(template: SchedulerTemplate) -> tuple[int, int, bool, int]:
        suits = template.spec.suits
        served = sum(weight for metric, weight in wanted.items() if metric in suits)
        place = suits.index(main) if main in suits else len(suits)
        return (served, wanted[main] if main in suits else 0, not template.spec.special, -place)

    ranked = sorted(sorted(templates, key=lambda t: t.name), key=merit, reverse=True)
    metrics = ", ".join(sorted(m.value for m in wanted))
    if not ranked or merit(ranked[0])[0] == 0:
        names = ", ".join(sorted(t.name for t in templates)) or "none"
        raise InputError(
            f"no template that policy {policy.name} allows ({', '.join(policy.spec.templates.allow)}) "
            f"suits {metrics}; available under it: {names}",
            remedy="allow a fitting template in spec.templates.allow, or change the intent's objective",
        )
    best = ranked[0]
    left_out = sorted(m.value for m in wanted if m not in best.spec.suits)
    note = f", but does nothing special for {', '.join(left_out)}" if left_out else ""
    return best, f"template {best.name} suits most of the weight of what is wanted ({metrics}){note}"


def fit(parameter: Parameter, value: float) -> ParameterValue:
    """`value` (nanoseconds, a fraction or a number) bent into the declared range, written as the parameter is."""
    low, high = ranges.bounds(parameter, f"parameter {parameter.name}")
    if low is not None:
        value = max(value, low)
    if high is not None:
        value = min(value, high)
    if parameter.type == "duration":
        whole = round(value / (10 * _US)) * 10 * _US if value >= 10 * _US else round(value)
        return format_duration(whole)
    if parameter.type == "percent":
        return format_percent(round(value, 3))
    return round(value)


def _latency(draft: _Draft, intents: Sequence[SchedulingIntent], profile: WorkloadProfile) -> None:
    """Budget, slices and share for classes that want low wakeup latency."""
    mine = [i for i in intents if i.spec.objective.metric is Metric.WAKEUP_LATENCY]
    if not mine:
        return
    seen = [w for i in mine if (w := _measured(profile, i)) is not None]
    allowed = [
        g.max_regression
        for i in mine
        for g in i.spec.guardrails
        if g.workload == "others" and g.metric in ("throughput", "cpuShare", "makespan")
    ]
    room = min(allowed) if allowed else _DEFAULT_REGRESSION
    if seen:
        used = sum(w.cpu_share for w in seen)
        # A CPU's budget is its own: all of the classes' work may meet on one CPU.
        on_one = min(used * profile.topology.cpus, 1.0)
        source = "the guardrail for others allows" if allowed else "kept for bursts:"
        part, told = on_one + room, f"the latency classes used {format_percent(round(on_one, 3))} of one CPU; "
        if part > _FILLED:
            part, told = _HALF, f"{told}they fill it, and others must not wait until none of them is left"
        else:
            told += f"{source} {format_percent(room)} more"
        draft.propose("latency_share", part, told)
    bursts = [w.burst.percentile(99) for w in seen if w.burst is not None and w.burst.count]
    if bursts:
        longest = max(bursts)
        draft.propose(
            "latency_slice", 2 * longest, f"twice the p99 burst of the latency classes, {format_duration(_us(longest))}"
        )
    targets = [t for i in mine if (t := i.spec.objective.target_value) is not None]
    if targets:
        tightest = min(targets)
        draft.propose(
            "slice",
            tightest,
            f"a waker that may not preempt waits for one slice of another task; the target is "
            f"{format_duration(_us(tightest))}",
        )


def _batch(draft: _Draft, intents: Sequence[SchedulingIntent], profile: WorkloadProfile) -> None:
    """Slices for classes whose last job's end counts."""
    mine = [i for i in intents if i.spec.objective.metric is Metric.MAKESPAN]
    waiting = [
        w.wakeup_latency.percentile(99)
        for w in profile.workloads
        if w.keyed_by != "others" and w.wakeup_latency is not None and w.wakeup_latency.count
        and w.name not in {i.qualified_name for i in mine}
    ]  # fmt: skip
    if mine and waiting and draft.template.spec.suits[0] is Metric.MAKESPAN:
        draft.propose(
            "batch_slice",
            10_000_000 if max(waiting) < 10_000_000 else 5_000_000,
            f"others wait up to {format_duration(_us(max(waiting)))} (p99) for a CPU that a batch task holds",
        )


def _lengths(
    draft: _Draft, intents: Sequence[SchedulingIntent], profile: WorkloadProfile
) -> dict[str, dict[str, ParameterValue]]:
    """How long one job of each batch class is, by intent: only where there are several to order, all of them measured.

    Of one class alone the scheduler learns more from each task's own bursts than from their average.
    """
    declared = next((p for p in draft.template.spec.class_parameters if p.name == "length"), None)
    mine = {i.qualified_name: _measured(profile, i) for i in intents if i.spec.objective.metric is Metric.MAKESPAN}
    known = {name: w.cpu_ns / w.tasks for name, w in mine.items() if w is not None and w.tasks and w.cpu_ns}
    if declared is None or len(mine) < 2 or len(known) < len(mine):
        return {}
    fitted = {name: fit(declared, length) for name, length in known.items()}
    listed = ", ".join(f"{name} {format_duration(_us(length))}" for name, length in known.items())
    draft.reasons.append(f"length of each batch class from its CPU time a task in the window: {listed}")
    return {name: {declared.name: value} for name, value in fitted.items()}


def _task_class(
    number: int,
    intent: SchedulingIntent,
    template: SchedulerTemplate,
    lengths: dict[str, dict[str, ParameterValue]],
) -> TaskClass:
    selector = intent.spec.workload
    chosen = dict(lengths.get(intent.qualified_name, {}))
    target = intent.spec.objective.target_value
    deadline = next((p for p in template.spec.class_parameters if p.name == "deadline"), None)
    if deadline is not None and target is not None and intent.spec.objective.metric is Metric.WAKEUP_LATENCY:
        chosen["deadline"] = fit(deadline, target)
    return TaskClass(
        handle=f"c{number}",
        intent=intent.qualified_name,
        metric=intent.spec.objective.metric,
        weight=intent.spec.weight,
        match=ClassMatch(
            comm=selector.comm,
            uid=tuple(_uid(user, intent) for user in selector.user),
            cgroup=bool(selector.cgroup or selector.unit or selector.pod_selector),
        ),
        selector=selector,
        parameters=chosen,
    )


def _uid(user: str, intent: SchedulingIntent) -> int:
    """User ids are the node's; the planner knows only root's name."""
    if user == "root":
        return 0
    if user.isdigit():
        return int(user)
    raise InputError(
        f"intent {intent.qualified_name}: user {user!r} is a name, and only the node knows its number",
        remedy="write the numeric user id in spec.workload.user",
    )


def _measured(profile: WorkloadProfile, intent: SchedulingIntent) -> WorkloadStats | None:
    return profile.workload(intent.qualified_name)


def _us(nanoseconds: float) -> int:
    """Rounded to whole microseconds, for sentences."""
    return round(nanoseconds / _US) * _US
