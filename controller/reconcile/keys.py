# SPDX-License-Identifier: Apache-2.0
"""Who governs a node, which intents count there, and the key under which a plan for them is known.

Node and planner compute these from the same commit and the same NodeScheduler status, so they agree without talking:
the repository is all that is between them. The key holds what decides which scheduler is wanted (the policy's say, the
intents, the kernel's BTF, the topology class) and nothing that changes by itself, so that a thousand equal nodes share
one plan. What may change the result without changing what is wanted (template texts) is in the planner's `inputs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from controller.api import (
    Desired,
    NodeScheduler,
    RevisionTarget,
    SchedulerPolicy,
    SchedulerRevision,
    SchedulerTemplate,
    SchedulingIntent,
    sha256,
)
from controller.api.base import ApiModel


class Conflict(ApiModel):
    """Two policies of equal priority select the node: an error on both, and on the node."""

    policies: tuple[str, ...]


def selects(policy: SchedulerPolicy, labels: Mapping[str, str]) -> bool:
    """Whether the policy's nodeSelector matches these labels; an empty selector matches every node."""
    return all(labels.get(key) == value for key, value in policy.spec.node_selector.items())


def governing(policies: Iterable[SchedulerPolicy], labels: Mapping[str, str]) -> SchedulerPolicy | Conflict | None:
    """The policy of highest priority that selects the node; a Conflict on a tie; None if none selects it."""
    selecting = [p for p in policies if selects(p, labels)]
    if not selecting:
        return None
    top = max(p.spec.priority for p in selecting)
    first = sorted((p for p in selecting if p.spec.priority == top), key=lambda p: p.name)
    return first[0] if len(first) == 1 else Conflict(policies=tuple(p.name for p in first))


def target_of(node: NodeScheduler) -> RevisionTarget | None:
    """The kernel and topology class a revision for this node must be made for; None while they are not known."""
    status = node.status
    if status is None or status.kernel is None or status.topology is None or status.kernel.btf_digest is None:
        return None
    return RevisionTarget(
        kernel_release=status.kernel.release,
        btf_digest=status.kernel.btf_digest,
        topology_class=status.topology.topology_class,
    )


def counted_intents(desired: Desired, node: NodeScheduler) -> tuple[SchedulingIntent, ...]:
    """The intents that count on this node, ordered by NAMESPACE/NAME.

    An intent counts when it matched a task in the node's latest profile, or when the attached revision already serves
    it: a batch that ends must not swap the scheduler, and swap it again at the next run.
    """
    status = node.status
    if status is None:
        return ()
    matched = {m.intent for m in status.profile.matches if m.tasks} if status.profile else set()
    attached = status.attached.revision if status.attached else None
    serving = next((r for r in desired.revisions if r.name == attached), None)
    if serving is not None:
        matched |= {c.intent for c in serving.spec.proposal.classes}
    return tuple(
        sorted((i for i in desired.intents if i.qualified_name in matched), key=lambda intent: intent.qualified_name)
    )


def plan_key(policy: SchedulerPolicy, intents: Iterable[SchedulingIntent], target: RevisionTarget) -> str:
    """Digest of what is wanted. Rollout, approval and suspension say how it comes, not what, and are left out."""
    spec = policy.spec.wire()
    said = {key: spec[key] for key in ("planner", "templates", "verification")}
    if policy.spec.planner.mode != "search":
        said["planner"].pop("search", None)  # nobody looks at it
    said["verification"].pop("maxDrift", None)  # when to look again is no part of what is wanted
    parts = [policy.name, repr(sorted(said.items())), target.btf_digest, target.topology_class]
    parts += [f"{i.qualified_name}={i.spec.content_digest()}" for i in intents]
    return sha256("\n".join(parts).encode())


def plan_inputs(key: str, templates: Iterable[SchedulerTemplate], version: str) -> str:
    """Digest of everything that may change the result of planning for `key`."""
    texts = sorted(f"{t.name}={t.spec.content_digest()}" for t in templates)
    return sha256("\n".join([key, version, *texts]).encode())


def newest(revisions: Sequence[SchedulerRevision], key: str) -> SchedulerRevision | None:
    """The revision that counts for a plan key: the one that was made last."""
    made = [r for r in revisions if r.spec.plan_key == key]
    return max(made, key=lambda r: (r.spec.created_at, r.name), default=None)
