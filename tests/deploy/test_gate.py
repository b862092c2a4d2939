# SPDX-License-Identifier: Apache-2.0
"""DESIGN rule 1: a node attaches only what was proven for it. Each way of not being proven is named."""

from __future__ import annotations

import pytest

from controller.api import (
    Fingerprint,
    KernelColumn,
    Passport,
    Quarantined,
    RevisionBytes,
    SchedulerRevision,
    StageResult,
    Verdict,
    sha256,
)
from controller.api.passport import STAGES
from controller.deploy import admit, gate
from controller.errors import TrustError
from controller.trust import dsse, keys
from tests.builders import BTF, T0, TOPOLOGY, actual, digest, intent, later, policy, revision

SOURCE, OBJECT = b"int x;", b"\x7fELF object"
COMMON, ON_KERNEL = STAGES[:5], STAGES[5:7]


@pytest.fixture(autouse=True)
def _own_config(tmp_path, monkeypatch):
    monkeypatch.setenv("SCHEDCTL_CONFIG", str(tmp_path / "config"))


def passed(stages: tuple[str, ...]) -> tuple[StageResult, ...]:
    return tuple(StageResult(stage=s, verdict=Verdict.PASS, summary="ok") for s in stages)


def passport_for(made: SchedulerRevision, **changes: object) -> Passport:
    column = KernelColumn(
        release="7.3.4-test", btf_digest=BTF, topology_class=TOPOLOGY.topology_class, stages=passed(ON_KERNEL)
    )
    passport = Passport(
        verdict=Verdict.PASS,
        object_digest=sha256(OBJECT),
        source_digest=sha256(SOURCE),
        template_digest=made.spec.digests.template,
        proposal_digest=made.spec.digests.proposal,
        ops_name=made.spec.ops_name,
        stages=passed(COMMON),
        kernels=(column,),
        issued_at=T0,
        expires_at=later(3600),
    )
    return passport.model_copy(update=changes)


def committed(**changes: object) -> tuple[SchedulerRevision, RevisionBytes]:
    """A revision and its files, signed by this machine's key; `changes` are made to the passport before signing."""
    made = revision("default-1", policy(), (intent(),))
    envelope = dsse.sign(passport_for(made, **changes), keys.ensure_signing_key()).canonical()
    files = RevisionBytes(source=SOURCE, object=OBJECT, passport=envelope)
    digests = made.spec.digests.model_copy(
        update={"source": sha256(SOURCE), "object": sha256(OBJECT), "passport": sha256(envelope)}
    )
    return made.model_copy(update={"spec": made.spec.model_copy(update={"digests": digests})}), files


def refused(made: SchedulerRevision, files: RevisionBytes, actual_=None, at=None) -> str:
    with pytest.raises(TrustError) as caught:
        admit(made, files, actual_ or actual(), at or later(60))
    return str(caught.value)


def test_what_was_proven_here_is_admitted():
    made, files = committed()
    assert admit(made, files, actual(), later(60)).object == OBJECT


def test_a_manifest_that_calls_it_other_code_is_refused(monkeypatch):
    made, files = committed()
    monkeypatch.setattr(gate.knobs, "code_digest", lambda _object: digest("a"))
    for code, good in ((digest("a"), True), (digest("b"), False)):
        digests = made.spec.digests.model_copy(update={"code": code})
        claims = made.model_copy(update={"spec": made.spec.model_copy(update={"digests": digests})})
        if good:
            assert admit(claims, files, actual(), later(60)).object == OBJECT
        else:
            assert "other code than its object holds" in refused(claims, files)


@pytest.mark.parametrize("name", ["source", "object", "passport"])
def test_one_changed_byte_is_refused_by_name(name):
    made, files = committed()
    changed = bytearray(getattr(files, name))
    changed[len(changed) // 2] ^= 1
    assert name in refused(made, files.model_copy(update={name: bytes(changed)}))


def test_a_changed_proposal_is_refused():
    made, files = committed()
    other = made.spec.proposal.model_copy(update={"parameters": {"slice": "9ms"}})
    made = made.model_copy(update={"spec": made.spec.model_copy(update={"proposal": other})})
    assert "proposal" in refused(made, files)


def test_a_manifest_that_was_redirected_to_other_bytes_is_refused():
    made, files = committed()
    evil = b"\x7fELF evil"
    digests = made.spec.digests.model_copy(update={"object": sha256(evil)})
    made = made.model_copy(update={"spec": made.spec.model_copy(update={"digests": digests})})
    assert "object" in refused(made, files.model_copy(update={"object": evil}))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"verdict": Verdict.REJECTED}, "rejected"),
        ({"verdict": Verdict.ERROR}, "error"),
        ({"ops_name": "schedctl_ffffffffffff"}, "ops name"),
        ({"source_digest": digest("9")}, "source"),
        ({"template_digest": digest("9")}, "template"),
        ({"proposal_digest": digest("9")}, "proposal"),
        ({"kernels": ()}, "kernel"),
        ({"workload": Fingerprint()}, "workload"),
    ],
)
def test_a_passport_for_something_else_is_refused(changes, word):
    made, files = committed(**changes)
    assert word in refused(made, files)


def test_a_failed_stage_is_refused_whatever_the_verdict_says():
    bad = (*passed(COMMON[:-1]), StageResult(stage="audit", verdict=Verdict.REJECTED, summary="no"))
    made, files = committed(stages=bad)
    assert "audit" in refused(made, files)


def test_another_kernel_another_shape_another_time():
    made, files = committed()
    other_btf = actual(kernel=actual().kernel.model_copy(update={"btf_digest": digest("9")}))
    assert "kernel" in refused(made, files, other_btf)
    four = actual(topology=TOPOLOGY.model_copy(update={"topology_class": "cpus4.pkg1.smt1.llc1.numa1"}))
    assert "topology" in refused(made, files, four)
    assert "expired" in refused(made, files, at=later(3601))
    no_btf = actual(kernel=actual().kernel.model_copy(update={"btf_digest": None}))
    assert "no BTF" in refused(made, files, no_btf)


def test_a_key_that_is_not_trusted_here_is_refused(tmp_path, monkeypatch):
    made, files = committed()
    monkeypatch.setenv("SCHEDCTL_CONFIG", str(tmp_path / "another-node"))
    assert "trusted" in refused(made, files)


def test_quarantined_is_refused_until_there_is_a_new_passport():
    made, files = committed()
    entry = Quarantined(
        object_digest=sha256(OBJECT),
        btf_digest=BTF,
        passport_digest=sha256(files.passport),
        reason="it stalled",
        at=T0,
    )
    assert "it stalled" in refused(made, files, actual(quarantine=(entry,)))
    old = entry.model_copy(update={"passport_digest": digest("9")})
    assert admit(made, files, actual(quarantine=(old,)), later(60))
