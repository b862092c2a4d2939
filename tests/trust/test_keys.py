# SPDX-License-Identifier: Apache-2.0
"""Keys: made once, readable by their owner alone, trusted only from the trusted folder."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from controller.errors import TrustError
from controller.trust import keys


def _public_pem(private) -> bytes:
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_the_first_use_makes_a_key_and_trusts_it(config):
    key = keys.ensure_signing_key()
    assert (config / "signing.key").stat().st_mode & 0o777 == 0o600
    assert [k.keyid for k in keys.list_trusted()] == [key.keyid]
    assert keys.ensure_signing_key().keyid == key.keyid
    assert key.keyid == hashlib.sha256(key.private.public_key().public_bytes_raw()).hexdigest()


def test_a_key_is_never_overwritten(key):
    with pytest.raises(TrustError, match="exists already"):
        keys.generate()
    assert keys.load_signing_key().keyid == key.keyid


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_a_signing_key_that_others_can_reach_is_refused(config, key, mode):
    (config / "signing.key").chmod(mode)
    with pytest.raises(TrustError, match=r"signing\.key \(mode .*by others.*chmod 600"):
        keys.load_signing_key()
    with pytest.raises(TrustError, match="by others"):
        keys.ensure_signing_key()


def test_on_a_full_disk_there_is_no_half_a_key(config):
    config.mkdir()
    code = "from controller.trust import keys\ntry:\n    keys.generate()\nexcept keys.TrustError as e:\n    print(e)"
    limited = f"ulimit -f 0; trap '' XFSZ; exec {sys.executable} -c '{code}'"
    said = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, timeout=60, check=False)
    assert "File too large" in said.stdout, said.stderr
    assert list(config.iterdir()) == []


def test_no_signing_key_is_said_with_its_path(config):
    with pytest.raises(TrustError, match=r"there is no .*signing\.key"):
        keys.load_signing_key()


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", b"\xff\0"])
def test_a_signing_key_that_is_no_key_is_refused(config, content):
    config.mkdir()
    (config / "signing.key").write_bytes(content)
    (config / "signing.key").chmod(0o600)
    with pytest.raises(TrustError, match="not an unencrypted PEM private key"):
        keys.load_signing_key()


def test_a_signing_key_of_another_kind_is_refused(config):
    config.mkdir()
    pem = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (config / "signing.key").write_bytes(pem)
    (config / "signing.key").chmod(0o600)
    with pytest.raises(TrustError, match="not an ed25519 key"):
        keys.load_signing_key()


def test_trusting_a_colleagues_key(tmp_path, key):
    file = tmp_path / "alice.pub"
    file.write_bytes(_public_pem(Ed25519PrivateKey.generate()))
    trusted = keys.trust(file)
    assert trusted.name == "alice"
    assert keys.trust(file).keyid == trusted.keyid
    assert sorted(k.name for k in keys.list_trusted()) == ["alice", "this-machine"]


def test_two_keys_of_one_name_are_both_kept(tmp_path):
    ids = set()
    for _ in range(2):
        file = tmp_path / "alice.pub"
        file.write_bytes(_public_pem(Ed25519PrivateKey.generate()))
        ids.add(keys.trust(file).keyid)
    assert {k.keyid for k in keys.list_trusted()} == ids
    assert len(ids) == 2


def test_what_is_not_a_public_key_is_not_trusted(tmp_path, key, config):
    secret = tmp_path / "oops.pub"
    secret.write_bytes((config / "signing.key").read_bytes())
    with pytest.raises(TrustError, match="private key"):
        keys.trust(secret)
    secret.write_bytes(_public_pem(rsa.generate_private_key(65537, 2048)))
    with pytest.raises(TrustError, match="not an ed25519 public key"):
        keys.trust(secret)
    secret.write_bytes(b"hello")
    with pytest.raises(TrustError, match="not a PEM public key"):
        keys.trust(secret)
    with pytest.raises(TrustError, match="not a regular file"):
        keys.trust(tmp_path)
    assert len(keys.list_trusted()) == 1


def test_a_fifo_in_place_of_a_key_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.pub")
    with pytest.raises(TrustError, match="not a regular file"):
        keys.trust(tmp_path / "pipe.pub")


def test_trust_that_others_can_write_is_no_trust(config, key):
    file = config / "trusted" / "this-machine.pub"
    file.chmod(0o666)
    with pytest.raises(TrustError, match=r"this-machine\.pub \(mode 0666\) can be written by others"):
        keys.list_trusted()
    file.chmod(0o644)
    (config / "trusted").chmod(0o777)
    with pytest.raises(TrustError, match="trusted can be written by others"):
        keys.list_trusted()


def test_a_broken_file_among_the_trusted_is_named(config, key):
    (config / "trusted" / "bad.pub").write_bytes(b"nonsense")
    (config / "trusted" / "bad.pub").chmod(0o644)
    with pytest.raises(TrustError, match=r"bad\.pub is not a PEM public key"):
        keys.list_trusted()


def test_a_signing_keys_repr_hides_the_secret(key):
    assert repr(key) == f"SigningKey({key.keyid[:16]})"
