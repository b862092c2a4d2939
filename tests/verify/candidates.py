# SPDX-License-Identifier: Apache-2.0
"""The templates that come with schedctl, filled for two classes."""

from __future__ import annotations

from controller.api import ClassMatch, Metric, PlannerRecord, Proposal, SchedulerTemplate, TaskClass, WorkloadSelector
from controller.render import builtin_templates, template_digest


def proposal_for(template: SchedulerTemplate) -> Proposal:
    """Two classes by name, all else as the template has it."""
    classes = tuple(
        TaskClass(
            handle=f"c{index}",
            intent=f"shop/class-{index}",
            metric=Metric.WAKEUP_LATENCY,
            weight=weight,
            match=ClassMatch(comm=(name,)),
            selector=WorkloadSelector(comm=(name,)),
        )
        for index, (name, weight) in enumerate((("web*", 300), ("batch", 50)), start=1)
    )
    return Proposal(
        template=template.name,
        template_digest=template_digest(template),
        classes=classes,
        planner=PlannerRecord(name="rules", version="test"),
    )


def filled() -> list[tuple[SchedulerTemplate, Proposal]]:
    """Each built-in template with its proposal."""
    return [(template, proposal_for(template)) for template in builtin_templates()]
