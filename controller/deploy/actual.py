# SPDX-License-Identifier: Apache-2.0
"""Actual: what this kernel says now, with what the journal remembers, as one value for the pure diff."""

from __future__ import annotations

from typing import Literal

from controller.api import ApiModel, Attachment, KernelFacts, Quarantined, Topology


class Death(ApiModel):
    """A scheduler of ours that is gone without our asking.

    `fault` is the scheduler's: `Scheduler` (it stalled or erred, so its digest is quarantined), `Agent` (the link died
    with the agent on probation) or `Operator` (somebody unregistered it).
    """

    revision: str
    object_digest: str
    passport_digest: str
    fault: Literal["Scheduler", "Agent", "Operator"]
    reason: str


class Actual(ApiModel):
    """The node as it is."""

    kernel: KernelFacts
    topology: Topology
    state: str
    """/sys/kernel/sched_ext/state, or `unsupported`."""
    attached: Attachment | None = None
    pinned: bool = False
    code: str = ""
    """Digest of what is loaded but for its knobs: a revision with this `digests.code` needs no detach. "" without knobs
    that could be changed."""
    died: Death | None = None
    ejected: bool = False
    last_good: str | None = None
    """The revision last promoted: what to go back to."""
    quarantine: tuple[Quarantined, ...] = ()

    def quarantined(self, object_digest: str, passport_digest: str) -> Quarantined | None:
        """Why this object may not be attached on this kernel; a new passport lifts it (DESIGN rule 5)."""
        wanted = (object_digest, passport_digest, self.kernel.btf_digest)
        return next(
            (q for q in self.quarantine if (q.object_digest, q.passport_digest, q.btf_digest) == wanted),
            None,
        )
