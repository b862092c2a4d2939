# SPDX-License-Identifier: Apache-2.0
"""Every artefact a passport is bound to, with a byte changed, taken out or put in anywhere: refused by its name."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.api import EvidenceFile, Passport, sha256
from controller.trust import dsse, keys
from controller.trust.inspection import Given, inspect
from tests.trust.conftest import BTF, CLASS, ISSUED

OBJECT = bytes(range(256)) * 4
SOURCE = b"int scheduler;\n" * 20
LOG = b"Linux version 7.3\nsched_ext: enabled\n" * 8


@pytest.fixture
def whole(passport) -> Passport:
    """A passport that speaks of real bytes."""
    files = (EvidenceFile(name="dmesg-6.18.1.txt", digest=sha256(LOG), size=len(LOG)),)
    return passport.model_copy(
        update={
            "object_digest": sha256(OBJECT),
            "source_digest": sha256(SOURCE),
            "template_digest": sha256(b"template"),
            "proposal_digest": sha256(b"proposal"),
            "attachments": files,
        }
    )


def given_all(**changes: bytes) -> Given:
    parts = {"object": OBJECT, "source": SOURCE, "template": b"template", "proposal": b"proposal"} | changes
    log = parts.pop("log", LOG)
    digests = {name: sha256(data) for name, data in parts.items()}
    return Given(ISSUED, digests, {"dmesg-6.18.1.txt": log, "stray.txt": b"not ours"}, BTF, CLASS)


def results(whole: Passport, key, given: Given) -> dict[str, str]:
    _, checks = inspect(dsse.sign(whole, key).canonical(), keys.list_trusted(), given)
    return {check.what: check.result for check in checks}


def test_everything_at_hand_is_looked_at(whole, key):
    found = results(whole, key, given_all())
    assert set(found.values()) == {"ok"}
    assert list(found) == [
        "signature", "object", "source", "template", "proposal", "evidence dmesg-6.18.1.txt", "stages", "validity",
        "kernel",
    ]  # fmt: skip


def test_what_is_not_at_hand_is_skipped_and_never_a_yes(whole, key):
    found = results(whole, key, Given(ISSUED))
    assert {what for what, result in found.items() if result == "skipped"} == {
        "object", "source", "template", "proposal", "evidence", "kernel",
    }  # fmt: skip
    assert "refused" not in found.values()


def mutated(data: bytes, rng: random.Random, position: int) -> bytes:
    kind = rng.choice(["flip", "drop", "insert"])
    if kind == "flip":
        return data[:position] + bytes([data[position] ^ 1 << rng.randrange(8)]) + data[position + 1 :]
    if kind == "drop":
        return data[:position] + data[position + 1 :]
    return data[:position] + bytes([data[position] ^ 0x55]) + data[position:]


@pytest.mark.parametrize(
    ("name", "check"), [("object", "object"), ("source", "source"), ("log", "evidence dmesg-6.18.1.txt")]
)
def test_a_byte_changed_anywhere_in_a_file_names_that_file(whole, key, name, check):
    rng = random.Random(1)
    data = {"object": OBJECT, "source": SOURCE, "log": LOG}[name]
    envelope, trusted = dsse.sign(whole, key).canonical(), keys.list_trusted()
    for position in range(0, len(data), 3):
        _, checks = inspect(envelope, trusted, given_all(**{name: mutated(data, rng, position)}))
        assert [c.what for c in checks if c.result == "refused"] == [check], position


def test_a_byte_changed_anywhere_in_the_envelope_is_refused(whole, key):
    rng = random.Random(2)
    envelope, trusted = dsse.sign(whole, key).canonical(), keys.list_trusted()
    for position in range(0, len(envelope), 5):
        changed = mutated(envelope, rng, position)
        passport, checks = inspect(changed, trusted, given_all())
        refused = [c.what for c in checks if c.result == "refused"]
        # White space between the members is no part of what is signed: then the same passport must come out.
        assert refused == ["signature"] or (passport == whole and not refused), position


@pytest.mark.parametrize("part", ["object", "source", "template", "proposal"])
def test_another_part_is_refused_by_its_name(whole, key, part):
    found = results(whole, key, given_all(**{part: b"another"}))
    assert [what for what, result in found.items() if result == "refused"] == [part]


def test_a_part_that_the_passport_does_not_speak_of_is_not_covered_by_it(whole, key):
    bare = whole.model_copy(update={"source_digest": None})
    assert results(bare, key, given_all())["source"] == "refused"


def test_missing_evidence_is_refused(whole, key):
    given = Given(ISSUED, evidence={})
    assert results(whole, key, given)["evidence dmesg-6.18.1.txt"] == "refused"


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400))
def test_bytes_that_are_no_envelope_are_one_refusal(data):
    passport, checks = inspect(data, (), Given(ISSUED))
    assert passport is None
    assert [(c.what, c.result) for c in checks] == [("signature", "refused")]
