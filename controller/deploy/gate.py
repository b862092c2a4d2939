# SPDX-License-Identifier: Apache-2.0
"""The gate: a node attaches only what was proven for it (DESIGN rule 1).

Every byte is checked against a digest in the committed manifest, the manifest against the signed passport, and the
passport against this kernel's BTF, this topology class and the clock. The first thing that does not fit is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from controller.api import Passport, RevisionBytes, SchedulerRevision, sha256
from controller.deploy.actual import Actual
from controller.errors import TrustError
from controller.kernel import knobs
from controller.trust import dsse, keys


@dataclass(frozen=True)
class Admitted:
    """A revision that may be attached here, with the bytes and the passport that say so."""

    revision: SchedulerRevision
    object: bytes
    passport: Passport


def prove(revision: SchedulerRevision, files: RevisionBytes) -> Passport:
    """The revision's passport, if a trusted key signed it and manifest, bytes and passport agree; else TrustError."""
    digests = revision.spec.digests
    given = {"source": files.source, "object": files.object, "passport": files.passport}
    for name, data in given.items():
        if sha256(data) != getattr(digests, name):
            raise TrustError(
                f"revision {revision.name}: the {name} is not the one that was committed with it",
                remedy="revert the change to revisions/, or delete the revision and let it be made again",
            )
    if digests.code is not None and digests.code != knobs.code_digest(files.object):
        raise TrustError(f"revision {revision.name}: its manifest says that it is other code than its object holds")
    if revision.spec.proposal.content_digest() != digests.proposal:
        raise TrustError(f"revision {revision.name}: the proposal was changed after it was verified")
    passport = dsse.verify(files.passport, keys.list_trusted())
    bound = {
        "source": (passport.source_digest, digests.source),
        "template": (passport.template_digest, digests.template),
        "proposal": (passport.proposal_digest, digests.proposal),
        "ops name": (passport.ops_name, revision.spec.ops_name),
    }
    if passport.workload != revision.spec.workload:
        raise TrustError(f"revision {revision.name}: its passport was earned for another workload")
    for name, (proven, committed) in bound.items():
        if proven != committed:
            raise TrustError(f"revision {revision.name}: its passport was earned by another {name}")
    return passport


def admit(revision: SchedulerRevision, files: RevisionBytes, actual: Actual, at: datetime) -> Admitted:
    """The revision, if it may be attached on this node at this moment; TrustError naming what does not fit."""
    digests = revision.spec.digests
    passport = prove(revision, files)
    if actual.kernel.btf_digest is None:
        raise TrustError(f"revision {revision.name}: this kernel has no BTF, so no passport can be bound to it")
    dsse.check(
        passport,
        object_digest=digests.object,
        btf_digest=actual.kernel.btf_digest,
        topology_class=actual.topology.topology_class,
        at=at,
    )
    held = actual.quarantined(digests.object, digests.passport)
    if held is not None:
        raise TrustError(
            f"revision {revision.name} is quarantined on this kernel: {held.reason}",
            remedy="change the intent or the policy so that another scheduler is planned and verified",
        )
    return Admitted(revision, files.object, passport)
