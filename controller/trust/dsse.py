# SPDX-License-Identifier: Apache-2.0
"""Passports in signed envelopes, and the question a node asks before it attaches anything.

The signed form is an in-toto Statement v1 (subjects: the object's and the source's digest; predicate: the passport)
in a DSSE envelope with an ed25519 signature over the pre-authentication encoding of the payload's exact bytes. `verify`
answers "who says so, and is it unchanged", `check` answers "does it speak of this object, on this kernel, today"; each
names the first thing that does not hold, and neither ever gives a weaker yes.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from controller.api import DsseSignature, Envelope, Passport, Verdict
from controller.errors import TrustError
from controller.trust.keys import SigningKey, TrustedKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://schedctl.dev/passport/v1"
NEEDED_STAGES = ("audit", "load", "liveness")
"""A passport made with fewer stages may be a pass, and still lets nothing onto a node."""

_MAX_ENVELOPE_BYTES = 8 << 20
_CLOCK_SKEW = timedelta(minutes=5)
_VERIFY = "verify the scheduler again: schedctl verify"


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE v1 pre-authentication encoding: what is signed, so that type and payload cannot be told apart wrongly."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def sign(passport: Passport, key: SigningKey) -> Envelope:
    """The passport in an envelope; commit `envelope.canonical()`. TrustError for a passport without an object."""
    if passport.object_digest is None:
        raise TrustError("signing a passport: it names no object", remedy="only an object that was built can be signed")
    subjects = [_subject("scheduler.bpf.o", passport.object_digest)]
    if passport.source_digest is not None:
        subjects.append(_subject("scheduler.bpf.c", passport.source_digest))
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": subjects,
        "predicateType": PREDICATE_TYPE,
        "predicate": passport.wire(),
    }
    payload = json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
    signature = key.sign(pae(PAYLOAD_TYPE, payload))
    return Envelope(
        payload_type=PAYLOAD_TYPE,
        payload=base64.b64encode(payload).decode(),
        signatures=(DsseSignature(keyid=key.keyid, sig=base64.b64encode(signature).decode()),),
    )


def verify(envelope: bytes, trusted: Iterable[TrustedKey]) -> Passport:
    """The passport in `envelope` (the committed bytes), if a trusted key signed exactly these bytes.

    TrustError names what is wrong: not JSON, not an envelope, no trusted key, a changed payload or signature, a
    statement of another type, subjects that disagree with the passport.
    """
    parsed = _envelope(envelope)
    payload = _base64(parsed.payload, "payload")
    _authenticate(parsed, payload, {key.keyid: key for key in trusted})
    return _passport(_json(payload, "the signed payload"))


def check(passport: Passport, *, object_digest: str, btf_digest: str, topology_class: str, at: datetime) -> None:
    """Whether the passport lets this object onto this kernel at the time `at`; TrustError names what does not match."""
    check_verdict(passport)
    if passport.object_digest != object_digest:
        raise TrustError(
            f"the passport is for object {passport.object_digest}, this object is {object_digest}", remedy=_VERIFY
        )
    check_time(passport, at)
    check_kernel(passport, btf_digest, topology_class)


def claimed(envelope: bytes) -> Passport:
    """The passport in `envelope`, whoever signed it: for showing it to a person, never for acting on it."""
    return _passport(_json(_base64(_envelope(envelope).payload, "payload"), "the payload"))


def signers(envelope: bytes) -> tuple[str, ...]:
    """The ids of the keys that an envelope says it was signed by, true or not. TrustError for what is no envelope."""
    return tuple(signature.keyid for signature in _envelope(envelope).signatures)


def check_verdict(passport: Passport) -> None:
    """Whether the passport's verdict is a pass."""
    if passport.verdict is not Verdict.PASS:
        raise TrustError(f"the passport's verdict is {passport.verdict.value}, not pass", remedy=_VERIFY)


def check_time(passport: Passport, at: datetime) -> None:
    """Whether the passport is valid at the time `at`."""
    if at >= passport.expires_at:
        raise TrustError(f"the passport expired at {passport.expires_at.isoformat()}", remedy=_VERIFY)
    if at + _CLOCK_SKEW < passport.issued_at:
        raise TrustError(
            f"the passport was issued at {passport.issued_at.isoformat()}, in the future",
            remedy="set this machine's clock",
        )


def check_kernel(passport: Passport, btf_digest: str, topology_class: str) -> None:
    """Whether every needed stage passed on this kernel and topology class."""
    column = passport.column(btf_digest, topology_class)
    if column is None:
        same_kernel = sorted({k.topology_class for k in passport.kernels if k.btf_digest == btf_digest})
        if same_kernel:
            raise TrustError(
                f"topology class {topology_class} was never verified, only {', '.join(same_kernel)}", remedy=_VERIFY
            )
        known = ", ".join(k.release for k in passport.kernels) or "none"
        raise TrustError(
            f"the kernel with BTF {btf_digest} was never verified (kernels in the passport: {known})", remedy=_VERIFY
        )
    stages = (*passport.stages, *column.stages)
    bad = next((s for s in stages if s.verdict not in (Verdict.PASS, Verdict.NOT_RUN)), None)
    if bad is not None:
        raise TrustError(f"stage {bad.stage} of the passport says {bad.verdict.value}: {bad.summary}", remedy=_VERIFY)
    passed = {s.stage for s in stages if s.verdict is Verdict.PASS}
    lacking = [name for name in NEEDED_STAGES if name not in passed]
    if lacking:
        raise TrustError(f"the passport lacks the stages {', '.join(lacking)}", remedy=_VERIFY)


def _envelope(data: bytes) -> Envelope:
    if len(data) > _MAX_ENVELOPE_BYTES:
        raise TrustError(f"the passport's envelope is {len(data)} bytes, more than any passport", remedy=_VERIFY)
    document = _json(data, "the passport's envelope")
    if document.get("payloadType") != PAYLOAD_TYPE:
        raise TrustError(
            f"the passport's envelope has payloadType {document.get('payloadType')!r:.80}, not {PAYLOAD_TYPE!r}",
            remedy=_VERIFY,
        )
    try:
        return Envelope.model_validate(document)
    except ValidationError as error:
        raise TrustError(f"the passport's envelope is not DSSE: {_first(error)}", remedy=_VERIFY) from error


def _authenticate(envelope: Envelope, payload: bytes, trusted: dict[str, TrustedKey]) -> None:
    """One good signature of a trusted key is enough; a trusted key's bad one is said before a stranger's."""
    message = pae(envelope.payload_type, payload)
    named = [(trusted[s.keyid], s) for s in envelope.signatures if s.keyid in trusted]
    if not named:
        signers = ", ".join(s.keyid[:16] for s in envelope.signatures)
        raise TrustError(
            f"no trusted key signed the passport (signed by {signers}; {len(trusted)} keys are trusted here)",
            remedy="if you believe the signer: schedctl key trust FILE.pub, with the signer's public key",
        )
    for key, signature in named:
        if key.verifies(_base64(signature.sig, "signature"), message):
            return
    key = named[0][0]
    raise TrustError(
        f"the signature by key {key.name} ({key.keyid[:16]}) does not match: "
        "the passport or its signature was changed after signing",
        remedy=_VERIFY,
    )


def _passport(statement: dict[str, Any]) -> Passport:
    if statement.get("_type") != STATEMENT_TYPE:
        raise TrustError(f"the signed payload has _type {statement.get('_type')!r:.80}, not {STATEMENT_TYPE}")
    if statement.get("predicateType") != PREDICATE_TYPE:
        raise TrustError(
            f"the signed statement is about {statement.get('predicateType')!r:.80}, not {PREDICATE_TYPE}",
            remedy=_VERIFY,
        )
    try:
        passport = Passport.model_validate(statement.get("predicate"))
    except ValidationError as error:
        raise TrustError(
            f"the signed passport has another form than this schedctl's: {_first(error)}", remedy=_VERIFY
        ) from error
    wanted = {d for d in (passport.object_digest, passport.source_digest) if d is not None}
    if passport.object_digest is None or _subject_digests(statement.get("subject")) != wanted:
        raise TrustError("the signed statement's subjects are not the passport's object and source", remedy=_VERIFY)
    return passport


def _subject(name: str, digest: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}


def _subject_digests(subjects: object) -> set[str]:
    if not isinstance(subjects, list):
        return set()
    digests = [s.get("digest") if isinstance(s, dict) else None for s in subjects]
    return {f"sha256:{d.get('sha256')}" if isinstance(d, dict) else "" for d in digests}


def _json(data: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise TrustError(f"{what} is not JSON", remedy=_VERIFY) from error
    if not isinstance(document, dict):
        raise TrustError(f"{what} is not a JSON object", remedy=_VERIFY)
    return document


def _base64(text: str, what: str) -> bytes:
    """Strict: only the one spelling that encodes the bytes, so that no two envelopes carry the same signature."""
    try:
        data = base64.b64decode(text.encode(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise TrustError(f"the envelope's {what} is not base64", remedy=_VERIFY) from error
    if base64.b64encode(data).decode() != text:
        raise TrustError(f"the envelope's {what} is not canonical base64: it was changed after signing", remedy=_VERIFY)
    return data


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in problem['loc']) or 'document'}: {problem['msg']}"
