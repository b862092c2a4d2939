# SPDX-License-Identifier: Apache-2.0
"""What a policy's status keeps of the plans' outcomes: those that nodes look for before those that none does."""

from __future__ import annotations

from collections.abc import Sequence

from controller.api import NodeScheduler, PlanOutcome, PolicyStatus, sha256
from controller.reconcile import keys
from controller.reconcile.statuses import policy_status
from tests.builders import TOPOLOGY, digest, intent, later, node, policy, source

POLICY, INTENT = policy(), intent()


def nodes(count: int) -> list[NodeScheduler]:
    """Nodes that each want a plan of their own."""
    made = []
    for number in range(1, count + 1):
        plain = node(f"n{number}")
        assert plain.status is not None
        topology = TOPOLOGY.model_copy(update={"cpus": number, "topology_class": f"cpus{number}"})
        made.append(plain.model_copy(update={"status": plain.status.model_copy(update={"topology": topology})}))
    return made


def failed(key: str, at: float) -> PlanOutcome:
    return PlanOutcome(
        plan_key=key, inputs=digest("a"), outcome="Rejected", reason="Refused", message="m", attempts=3, at=later(at)
    )


def kept(
    on: Sequence[NodeScheduler], before: Sequence[PlanOutcome], done: Sequence[PlanOutcome] = ()
) -> tuple[PlanOutcome, ...]:
    """The outcomes in the next status, after one that held `before`."""
    desired = source(POLICY, INTENT).desired
    assert desired is not None
    old = POLICY.model_copy(update={"status": PolicyStatus(plans=tuple(before))})
    outcomes = {outcome.plan_key: outcome for outcome in (*before, *done)}
    made = policy_status(POLICY, desired, on, outcomes, {POLICY.key: old}, None).status
    assert made is not None
    return PolicyStatus.model_validate(made.wire()).plans


def wanted(on: Sequence[NodeScheduler]) -> list[str]:
    targets = [keys.target_of(each) for each in on]
    return [keys.plan_key(POLICY, (INTENT,), target) for target in targets if target is not None]


def test_a_failure_that_a_node_still_meets_outlives_those_that_none_does() -> None:
    on = nodes(10)
    current = [failed(key, at) for at, key in enumerate(wanted(on))]
    gone = [failed(sha256(b"%d" % number), 100 + number) for number in range(247)]
    found = kept(on, [*current[:9], *gone], current[9:])
    assert found[:10] == tuple(current), "or each of them would be planned, and paid for, again"
    assert found[10:] == tuple(gone[1:]), "the newest of the others, newest last"


def test_as_many_current_failures_are_kept_as_a_status_may_hold() -> None:
    on = nodes(200)
    current = [failed(key, at) for at, key in enumerate(wanted(on))]
    assert len({outcome.plan_key for outcome in current}) == 200
    assert kept(on, current) == tuple(current)
