# SPDX-License-Identifier: Apache-2.0
"""Ed25519 keys: the one that signs here, and those whose signature this machine believes.

    config/signing.key     PKCS#8 PEM, mode 0600; made at the first signature on this machine
    config/trusted/*.pub   SubjectPublicKeyInfo PEM, one key a file; what is not there is not trusted

A key's id is the SHA-256 of its 32 raw public bytes, so it can be neither chosen nor shared by two keys. Files that
somebody else on the machine could read (the secret) or write (the trust) are refused rather than repaired: whoever
could have touched them may have done so already.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from controller.errors import TrustError
from controller.paths import config_dir

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_MAX_KEY_BYTES = 16384


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key whose signatures count; `name` is the file's name without `.pub`."""

    keyid: str
    name: str
    public: Ed25519PublicKey

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether `signature` over `message` was made with this key's secret half."""
        from cryptography.exceptions import InvalidSignature

        try:
            self.public.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def pem(self) -> bytes:
        """The key as `config/trusted/*.pub` holds it."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return self.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The secret half; its repr shows the id alone."""

    keyid: str
    private: Ed25519PrivateKey

    def sign(self, message: bytes) -> bytes:
        """64 bytes of signature."""
        return self.private.sign(message)

    def trusted(self, name: str = "this-machine") -> TrustedKey:
        """The public half."""
        return TrustedKey(self.keyid, name, self.private.public_key())

    def __repr__(self) -> str:
        return f"SigningKey({self.keyid[:16]})"


def signing_key_path() -> Path:
    """Where this machine's signing key lies."""
    return config_dir() / "signing.key"


def trusted_dir() -> Path:
    """Where the public keys this machine believes lie."""
    return config_dir() / "trusted"


def keyid_of(public: Ed25519PublicKey) -> str:
    """SHA-256 of the raw public key, 64 hexadecimal digits."""
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()


def generate() -> SigningKey:
    """Make this machine's signing key; TrustError when there is one, which is never overwritten."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    path = signing_key_path()
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _make_dir(path.parent)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _write_secret(part, pem)
        os.link(part, path)  # whole, and never over one that is there
    except FileExistsError as error:
        raise TrustError(
            f"making a signing key: {path} exists already", remedy=f"move it away first: mv {path} {path}.old"
        ) from error
    except OSError as error:
        raise TrustError(f"making a signing key at {path}: {error.strerror}", remedy="set SCHEDCTL_CONFIG") from error
    finally:
        part.unlink(missing_ok=True)
    return SigningKey(keyid_of(private.public_key()), private)


def load_signing_key() -> SigningKey:
    """This machine's signing key; TrustError when it is missing, no ed25519 key, or readable by others."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    path = signing_key_path()
    data = _read(path, forbidden=0o077, doing="reading the signing key", remedy=f"chmod 600 {path}")
    try:
        private = load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise TrustError(
            f"reading the signing key: {path} is not an unencrypted PEM private key", remedy=f"mv {path} {path}.old"
        ) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise TrustError(f"reading the signing key: {path} is not an ed25519 key", remedy=f"mv {path} {path}.old")
    return SigningKey(keyid_of(private.public_key()), private)


def ensure_signing_key() -> SigningKey:
    """This machine's signing key, made and trusted here at first use."""
    if os.path.lexists(signing_key_path()):
        return load_signing_key()
    key = generate()
    _install(key.trusted())
    return key


def trust(file: Path) -> TrustedKey:
    """Believe the public key in `file` from now on; TrustError when it holds none. Trusting twice changes nothing."""
    data = _read(file, forbidden=0, doing="reading the public key", remedy="give a .pub file that schedctl wrote")
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", file.name.removesuffix(".pub")).strip(".-") or "key"
    key = _parse_public(data, name, file)
    known = next((k for k in list_trusted() if k.keyid == key.keyid), None)
    if known is not None:
        return known
    if (trusted_dir() / f"{name}.pub").exists():
        key = TrustedKey(key.keyid, f"{name}-{key.keyid[:12]}", key.public)
    _install(key)
    return key


def list_trusted() -> tuple[TrustedKey, ...]:
    """The keys this machine believes, by file name; TrustError naming a file that is no key or that others can write.

    One bad file refuses them all: it is a sign that somebody else can change whom this machine believes.
    """
    folder = trusted_dir()
    if not folder.is_dir():
        return ()
    if folder.stat().st_mode & 0o022:
        raise TrustError(f"{folder} can be written by others", remedy=f"check its files, then chmod 755 {folder}")
    keys = []
    for path in sorted(folder.glob("*.pub")):
        data = _read(path, forbidden=0o022, doing="reading the trusted key", remedy=f"chmod 644 {path}")
        keys.append(_parse_public(data, path.name.removesuffix(".pub"), path))
    return tuple(keys)


def _parse_public(data: bytes, name: str, path: Path) -> TrustedKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    remedy = "give the .pub file that schedctl wrote beside its signing key's trust"
    if b"PRIVATE KEY" in data:
        raise TrustError(f"{path} holds a private key, which must not be handed around", remedy=remedy)
    try:
        public = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TrustError(f"{path} is not a PEM public key", remedy=remedy) from error
    if not isinstance(public, Ed25519PublicKey):
        raise TrustError(f"{path} is not an ed25519 public key", remedy=remedy)
    return TrustedKey(keyid_of(public), name, public)


def _install(key: TrustedKey) -> None:
    folder = trusted_dir()
    _make_dir(folder)
    target = folder / f"{key.name}.pub"
    partial = folder / f".{key.name}.{os.getpid()}"
    try:
        partial.write_bytes(key.pem())
        partial.chmod(0o644)
        partial.replace(target)  # whoever lists keys sees the whole file or none
    except OSError as error:
        raise TrustError(f"writing the trusted key {target}: {error.strerror}", remedy="set SCHEDCTL_CONFIG") from error


def _write_secret(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)  # of a process of the same number that was killed
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _make_dir(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise TrustError(f"making {folder}: {error.strerror}", remedy="set SCHEDCTL_CONFIG") from error


def _read(path: Path, *, forbidden: int, doing: str, remedy: str) -> bytes:
    """The bytes of a regular file; the mode that is judged is that of the very file that is read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise TrustError(
            f"{doing}: there is no {path}", remedy="schedctl verify makes one when it first signs"
        ) from error
    except OSError as error:
        raise TrustError(f"{doing} {path}: {error.strerror}", remedy=remedy) from error
    try:
        _judge(os.fstat(descriptor), path, forbidden=forbidden, doing=doing, remedy=remedy)
        data = os.read(descriptor, _MAX_KEY_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > _MAX_KEY_BYTES:
        raise TrustError(f"{doing}: {path} is too large to be a key", remedy=remedy)
    return data


def _judge(info: os.stat_result, path: Path, *, forbidden: int, doing: str, remedy: str) -> None:
    if not stat.S_ISREG(info.st_mode):
        raise TrustError(f"{doing}: {path} is not a regular file", remedy=remedy)
    if info.st_mode & forbidden:
        can = "read or written" if forbidden & 0o044 else "written"
        raise TrustError(f"{doing}: {path} (mode {info.st_mode & 0o777:04o}) can be {can} by others", remedy=remedy)
    if forbidden and info.st_uid not in (0, os.geteuid()):
        raise TrustError(f"{doing}: {path} belongs to user {info.st_uid}", remedy=f"chown it, then {remedy}")
