# SPDX-License-Identifier: Apache-2.0
"""Envelopes: every changed byte and field is noticed, and a good passport speaks of one object on one kernel."""

from __future__ import annotations

import base64
import json
from datetime import timedelta

import pytest

from controller.api import Verdict
from controller.errors import TrustError
from controller.trust import dsse, keys
from tests.trust.conftest import BTF, CLASS, ISSUED, OBJECT, stage


@pytest.fixture
def envelope(passport, key) -> bytes:
    return dsse.sign(passport, key).canonical()


def _resign(key, **changes) -> bytes:
    """An envelope with a good signature over a statement of another form."""
    statement = {"_type": dsse.STATEMENT_TYPE, "predicateType": dsse.PREDICATE_TYPE, "subject": [], "predicate": {}}
    payload = json.dumps(statement | changes).encode()
    signature = base64.b64encode(key.sign(dsse.pae(dsse.PAYLOAD_TYPE, payload))).decode()
    return json.dumps({
        "payloadType": dsse.PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": key.keyid, "sig": signature}],
    }).encode()  # fmt: skip


def test_what_was_signed_comes_back(passport, key, envelope):
    assert dsse.verify(envelope, keys.list_trusted()) == passport
    statement = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert {s["name"]: s["digest"]["sha256"] for s in statement["subject"]} == {
        "scheduler.bpf.o": "a" * 64,
        "scheduler.bpf.c": "b" * 64,
    }


def test_the_signature_is_over_the_dsse_encoding():
    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_signing_is_deterministic(passport, key):
    assert dsse.sign(passport, key).canonical() == dsse.sign(passport, key).canonical()


def test_every_changed_byte_is_noticed(envelope):
    trusted = keys.list_trusted()
    for position in range(len(envelope)):
        for flip in (0x01, 0x20):
            changed = bytearray(envelope)
            changed[position] ^= flip
            with pytest.raises(TrustError):
                dsse.verify(bytes(changed), trusted)


def test_every_shortened_envelope_is_noticed(envelope):
    trusted = keys.list_trusted()
    for length in range(0, len(envelope), 7):
        with pytest.raises(TrustError):
            dsse.verify(envelope[:length], trusted)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is not JSON"),
        (b"{" * 100_000, "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[1]", "not a JSON object"),
        (b"{}", "payloadType None"),
        (b'{"payloadType":"text/plain"}', "payloadType 'text/plain'"),
        (b'{"payloadType":"application/vnd.in-toto+json","payload":"","signatures":[]}', "not DSSE: signatures"),
        (b'{"payloadType":"application/vnd.in-toto+json","payload":1,"signatures":1}', "not DSSE"),
        (b" " * (9 << 20), "more than any passport"),
    ],
)
def test_what_is_no_envelope_is_said(data, says, key):
    with pytest.raises(TrustError, match=says):
        dsse.verify(data, keys.list_trusted())


def test_a_stranger_is_named(envelope, key, tmp_path, monkeypatch):
    monkeypatch.setenv("SCHEDCTL_CONFIG", str(tmp_path / "other"))
    keys.ensure_signing_key()
    with pytest.raises(TrustError, match=f"no trusted key signed the passport.*{key.keyid[:16]}"):
        dsse.verify(envelope, keys.list_trusted())
    with pytest.raises(TrustError, match="0 keys are trusted here"):
        dsse.verify(envelope, ())


def test_a_signature_under_a_trusted_id_by_another_key_is_bad(passport, key, tmp_path, monkeypatch):
    mine = keys.list_trusted()
    monkeypatch.setenv("SCHEDCTL_CONFIG", str(tmp_path / "other"))
    forged = json.loads(dsse.sign(passport, keys.ensure_signing_key()).canonical())
    forged["signatures"][0]["keyid"] = key.keyid
    with pytest.raises(TrustError, match="does not match: the passport or its signature was changed"):
        dsse.verify(json.dumps(forged).encode(), mine)


def test_one_good_signature_among_strangers_is_enough(passport, key, envelope):
    both = json.loads(envelope)
    both["signatures"].insert(0, {"keyid": "0" * 64, "sig": "AAAA"})
    assert dsse.verify(json.dumps(both).encode(), keys.list_trusted()) == passport


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"_type": "https://in-toto.io/Statement/v0.1"}, "has _type"),
        ({"predicateType": "https://slsa.dev/provenance/v1"}, "is about 'https://slsa.dev"),
        ({"predicate": {"verdict": "pass"}}, "another form"),
        ({"predicate": None}, "another form"),
    ],
)
def test_a_signed_statement_of_another_kind_is_no_passport(key, changes, says):
    with pytest.raises(TrustError, match=says):
        dsse.verify(_resign(key, **changes), keys.list_trusted())


@pytest.mark.parametrize("subject", [None, [], [3], [{"digest": None}], [{"digest": {"sha256": "d" * 64}}]])
def test_subjects_must_be_the_passports_own(passport, key, subject):
    data = _resign(key, predicate=passport.wire(), subject=subject)
    with pytest.raises(TrustError, match="subjects are not"):
        dsse.verify(data, keys.list_trusted())


def test_a_passport_without_an_object_is_not_signed(passport, key):
    with pytest.raises(TrustError, match="names no object"):
        dsse.sign(passport.model_copy(update={"object_digest": None}), key)


_GOOD = {"object_digest": OBJECT, "btf_digest": BTF, "topology_class": CLASS, "at": ISSUED}


def test_a_good_passport_lets_its_object_on(passport):
    dsse.check(passport, **_GOOD)
    dsse.check(passport, **_GOOD | {"at": passport.expires_at - timedelta(seconds=1)})


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"object_digest": "sha256:" + "9" * 64}, "is for object sha256:aaaa"),
        ({"btf_digest": "sha256:" + "9" * 64}, r"BTF sha256:9+ was never verified \(kernels in the passport: 6.18.1\)"),
        ({"topology_class": "cpus4.pkg1.smt2.llc1.numa1"}, "topology class cpus4.* was never verified, only cpus2"),
        ({"at": ISSUED + timedelta(days=30)}, "expired at 2026-02-01"),
        ({"at": ISSUED - timedelta(hours=1)}, "issued at 2026-01-02.*in the future"),
    ],
)
def test_what_does_not_match_is_named(passport, asked, says):
    with pytest.raises(TrustError, match=says):
        dsse.check(passport, **_GOOD | asked)


@pytest.mark.parametrize("verdict", [Verdict.REJECTED, Verdict.ERROR, Verdict.NOT_RUN])
def test_only_a_pass_is_a_pass(passport, verdict):
    with pytest.raises(TrustError, match=f"verdict is {verdict.value}"):
        dsse.check(passport.model_copy(update={"verdict": verdict}), **_GOOD)


@pytest.mark.parametrize("verdict", [Verdict.REJECTED, Verdict.ERROR])
def test_a_stage_that_failed_is_never_outvoted(passport, verdict):
    stages = (stage("lint", verdict), *passport.stages[1:])
    with pytest.raises(TrustError, match=f"stage lint of the passport says {verdict.value}"):
        dsse.check(passport.model_copy(update={"stages": stages}), **_GOOD)


@pytest.mark.parametrize("lacking", dsse.NEEDED_STAGES)
def test_a_passport_of_fewer_stages_lets_nothing_on(passport, lacking):
    column = passport.kernels[0]
    kept = tuple(s for s in column.stages if s.stage != lacking)
    less = passport.model_copy(
        update={
            "stages": tuple(s for s in passport.stages if s.stage != lacking),
            "kernels": (column.model_copy(update={"stages": kept}),),
        }
    )
    with pytest.raises(TrustError, match=f"lacks the stages {lacking}"):
        dsse.check(less, **_GOOD)
