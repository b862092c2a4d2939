# SPDX-License-Identifier: Apache-2.0
"""Drift: the load that a revision was planned and verified for is no longer the load that is there.

The planner alone decides that, from the profiles that nodes publish, and remembers in the policy's status what it has
seen: one odd profile is noise, three in a row beyond `verification.maxDrift` are another load, and it takes one within
80 % of the limit to begin counting anew. Then the same key is planned and verified once more. A node never detaches a
scheduler for drift: what it runs is still verified to be safe, only no longer known to be the best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from controller.api import Desired, Drift, NodeScheduler, SchedulerPolicy, fingerprint_of
from controller.api.fingerprint import distance
from controller.reconcile import keys

IN_A_ROW = 3
_BACK = 0.8
_KEPT = 256


def seen(desired: Desired, nodes: Sequence[NodeScheduler], before: Sequence[Drift]) -> tuple[Drift, ...]:
    """The drifts that go on or begin with the nodes' newest profiles. A profile that was counted counts once."""
    known = {(drift.node, drift.revision): drift for drift in before}
    found = [drift for node in nodes if (drift := _of(node, desired, known)) is not None]
    return tuple(sorted(found, key=lambda d: (d.revision, d.node))[:_KEPT])


def drifted(drifts: Sequence[Drift]) -> Mapping[str, Drift]:
    """Revision → the drift that says it is time to plan it anew."""
    return {drift.revision: drift for drift in drifts if drift.profiles >= IN_A_ROW}


def _of(node: NodeScheduler, desired: Desired, known: Mapping[tuple[str, str], Drift]) -> Drift | None:
    policy, status = keys.governing(desired.policies, node.spec.labels), node.status
    target, intents = keys.target_of(node), keys.counted_intents(desired, node)
    usable = isinstance(policy, SchedulerPolicy) and status is not None and status.profile is not None and intents
    if not usable or target is None:
        return None
    assert isinstance(policy, SchedulerPolicy)
    assert status is not None
    assert status.profile is not None
    wanted = keys.newest(desired.revisions, keys.plan_key(policy, intents, target))
    if wanted is None or wanted.spec.workload is None:
        return None
    taken = status.profile.taken_at
    old = known.get((node.name, wanted.name))
    if old is not None and old.last >= taken:
        return old
    now_ = fingerprint_of(status.profile, (i.qualified_name for i in intents))
    apart = distance(now_, wanted.spec.workload)
    limit = policy.spec.verification.max_drift
    if apart <= (limit if old is None else _BACK * limit):
        return None
    count = (old.profiles if old is not None else 0) + (apart > limit)
    return Drift(
        node=node.name, revision=wanted.name, profiles=count, distance=round(apart, 4),
        since=old.since if old is not None else taken, last=taken,
    )  # fmt: skip
