# SPDX-License-Identifier: Apache-2.0
"""Proposals for the built-in templates, and how to compile them."""

from __future__ import annotations

from functools import cache
from typing import Any

from controller.api import ClassMatch, PlannerRecord, Proposal, SchedulerTemplate, TaskClass, WorkloadSelector
from controller.kernel.clang import CompiledObject, compile_bpf
from controller.paths import data_dir
from controller.render import builtin_templates, render, template_digest

TEMPLATES = {template.name: template for template in builtin_templates()}
LIVE = sorted(
    name for name, t in TEMPLATES.items() if any(p.live for p in (*t.spec.parameters, *t.spec.class_parameters))
)
"""The templates with knobs."""
_METRICS = ("wakeupLatency", "cpuShare", "makespan", "throughput", "external")


def task_class(number: int, metric: str = "cpuShare", *, weight: int = 100, **how: Any) -> TaskClass:
    """Class `number`; `how` holds comm, uid, cgroup, tgid for its match, and `parameters`."""
    parameters = how.pop("parameters", {})
    match = ClassMatch.model_validate(how)
    selector = WorkloadSelector(comm=match.comm or ("any",))
    return TaskClass(
        handle=f"c{number}",
        intent=f"demo/app{number}",
        metric=metric,
        weight=weight,
        match=match,
        selector=selector,
        parameters=parameters,
    )


def proposal(template: SchedulerTemplate, *classes: TaskClass, **filled: Any) -> Proposal:
    """A proposal for `template` with these classes; `filled` holds parameters and expressions."""
    return Proposal(
        template=template.name,
        template_digest=template_digest(template),
        classes=classes,
        planner=PlannerRecord(name="rules", version="test"),
        **filled,
    )


def mixed(count: int) -> tuple[TaskClass, ...]:
    """`count` classes that use every metric and every way of matching."""
    made = []
    for number in range(1, count + 1):
        how: dict[str, Any] = {"comm": (f"app{number}*", f"?pp-{number}")} if number % 3 else {"cgroup": True}
        if number % 4 == 0:
            how["uid"] = (number, 65534)
        made.append(task_class(number, _METRICS[(number - 1) % 5], weight=number * 30, **how))
    return tuple(made)


def source(template: str, *classes: TaskClass, **filled: Any) -> str:
    """The C of a built-in template."""
    made = TEMPLATES[template]
    return render(proposal(made, *classes, **filled), made).text


@cache
def built(text: str) -> CompiledObject:
    """The object that the verifier would build of the C, by the same compiler in the same sandbox; each text once."""
    return compile_bpf(text, data_dir("bpf") / "include")


def compiled(template: str, *classes: TaskClass, **filled: Any) -> CompiledObject:
    """The object of a built-in template."""
    return built(source(template, *classes, **filled))
