# SPDX-License-Identifier: Apache-2.0
"""What a plan is made from: the load, the allowed templates, kernels to verify on, and a bench to measure in."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from controller.api import (
    Desired,
    Fingerprint,
    Reporter,
    RevisionTarget,
    SchedulerPolicy,
    SchedulerTemplate,
    WorkloadProfile,
    fingerprint_of,
)
from controller.kernel import images
from controller.kernel.images import KernelImage
from controller.kernel.microvm import VmShape
from controller.plan.recall import Question
from controller.reconcile import keys
from controller.reconcile.diff import PlanTask
from controller.reconcile.measuring import Measuring
from controller.source import all_templates


def question_of(task: PlanTask, templates: Sequence[SchedulerTemplate]) -> Question:
    """The task as recall asks it."""
    target = keys.target_of(task.node)
    assert target is not None
    return Question(task.policy, task.intents, target, workload_of(task), tuple(templates))


def profile_of(task: PlanTask) -> WorkloadProfile:
    """What the task's node observed; a task is made only for a node that has."""
    status = task.node.status
    assert status is not None
    assert status.profile is not None
    return status.profile


def workload_of(task: PlanTask) -> Fingerprint:
    """The load that is planned for."""
    return fingerprint_of(profile_of(task), (i.qualified_name for i in task.intents))


def allowed_templates(policy: SchedulerPolicy, desired: Desired) -> tuple[SchedulerTemplate, ...]:
    """Built-in and committed templates whose names the policy allows, by name."""
    allow = policy.spec.templates.allow
    found = all_templates(desired)
    return tuple(found[n] for n in sorted(found) if any(fnmatch.fnmatchcase(n, glob) for glob in allow))


def bench_for(
    policy: SchedulerPolicy, target: RevisionTarget, templates: Sequence[SchedulerTemplate], reporter: Reporter
) -> Measuring:
    """What measures for mode search: a guest of the first kernel the policy asks for, in the node's shape."""

    def where() -> tuple[KernelImage, VmShape]:
        return verification_kernels(policy, target.kernel_release)[0], VmShape.of_class(target.topology_class)

    return Measuring(where, {t.name: t for t in templates}, policy, reporter)


def verification_kernels(policy: SchedulerPolicy, node_release: str) -> tuple[KernelImage, ...]:
    """The images the policy asks for; `node` is the image of the node's own release. ToolMissing if one is not here."""
    wanted = [node_release if name == "node" else name for name in policy.spec.verification.kernels]
    return tuple(images.resolve(name) for name in dict.fromkeys(wanted))
