# SPDX-License-Identifier: Apache-2.0
"""What the plans of a policy cost and save: of what its nodes have promoted, by the trials in the signed passports.

A revision counts once for what planning it cost, and once for each node that runs it for what it saves. Without a
trusted passport with a trial of the time that work takes, what it saves is unknown, and the policy's sum is of the
other nodes alone, with how many those are. The ends of intervals are added, which is wider than the interval of the sum
when trials err independently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from controller.api import Desired, NodeScheduler, SchedulerRevision, Store, Verdict
from controller.deploy import prove
from controller.errors import RepositoryError, TrustError
from controller.plan.payback import UNKNOWN, Payback, cost_text, measured, saved_text


@dataclass(frozen=True)
class PolicyPayback:
    """US dollars and model calls of the promoted plans (None: unknown), and CPU seconds saved an hour (low, mid, high)
    on `known` of the `nodes` that promoted one; `why` the others are not known.
    """

    nodes: int
    known: int
    usd: float | None
    calls: int | None
    saved: tuple[float, float, float] | None
    why: str = ""

    def cost_text(self) -> str:
        """`$0.0123 (2 model calls)`, or `unknown`."""
        return cost_text(self.usd, self.calls)

    def saved_text(self) -> str:
        """`96 CPU s/h [61, 128]`, and on how many of the nodes if not on all; or `unknown`."""
        if self.saved is None:
            return UNKNOWN
        part = f" on {self.known} of {self.nodes} nodes" if self.known < self.nodes else ""
        return f"{saved_text(self.saved)}{part}"


def by_policy(store: Store, desired: Desired, nodes: Sequence[NodeScheduler]) -> dict[str, PolicyPayback]:
    """For each policy of which some node has promoted a revision. Reads the passports of those."""
    made = {revision.name: revision for revision in desired.revisions}
    running: Counter[str] = Counter()
    for node in nodes:
        attached = node.status.attached if node.status is not None else None
        if attached is not None and attached.phase == "Promoted" and attached.revision in made:
            running[attached.revision] += 1
    found: dict[str, list[tuple[int, Payback]]] = {}
    for name, count in sorted(running.items()):
        revision = made[name]
        found.setdefault(revision.spec.policy, []).append((count, of_revision(store, revision, desired.commit)))
    return {policy: _sum(paid) for policy, paid in found.items()}


def of_revision(store: Store, revision: SchedulerRevision, commit: str) -> Payback:
    """By the trial in the passport that was committed with the revision, if a trusted key signed it."""
    try:
        passport = prove(revision, store.revision_bytes(revision, commit))
    except (TrustError, RepositoryError) as error:
        return measured(revision, None, why=error.message)
    target = revision.spec.target
    column = passport.column(target.btf_digest, target.topology_class)
    stages = column.stages if column is not None else ()
    trial = next((s for s in stages if s.stage == "trial" and s.verdict is Verdict.PASS), None)
    return measured(revision, trial.figures if trial is not None else None)


def _sum(paid: Sequence[tuple[int, Payback]]) -> PolicyPayback:
    usd = calls = None
    if all(one.usd is not None for _, one in paid):
        usd = sum(one.usd or 0.0 for _, one in paid)
    if all(one.calls is not None for _, one in paid):
        calls = sum(one.calls or 0 for _, one in paid)
    known = [(count, one.saved) for count, one in paid if one.saved is not None]
    saved = None
    if known:
        low, mid, high = (sum(count * ends[i] for count, ends in known) for i in range(3))
        saved = (low, mid, high)
    why = next((one.why for _, one in paid if one.saved is None), "")
    return PolicyPayback(sum(count for count, _ in paid), sum(count for count, _ in known), usd, calls, saved, why)
