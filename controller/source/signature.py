# SPDX-License-Identifier: Apache-2.0
"""Who signed a commit, and whether that counts.

`git verify-commit` prints `Good "git" signature` even for a key nobody trusts, so its words decide nothing: `good` is
exit status 0 together with `%G?` = G. The verifying programs and the list of allowed signers are set here, never taken
from the policy repository's own configuration.
"""

from __future__ import annotations

from pathlib import Path

from controller.api import Signature
from controller.source.repository import Repository, printable

_BAD = "BXYR"
"""`%G?`: wrong, expired, by an expired key, by a revoked key."""


def verify(repository: Repository, commit: str, allowed_signers: Path | None = None) -> Signature:
    """The signature of `commit`.

    With `allowed_signers` (ssh-keygen's ALLOWED SIGNERS format) only ssh signatures of those keys are good; without,
    the user's own git configuration names the file and the OpenPGP keyring is used too.
    """
    kind = _kind(repository, commit)
    if not kind:
        return Signature(state="unsigned")
    signers = str(allowed_signers.absolute()) if allowed_signers is not None else _configured_signers(repository)
    trust = [
        "-c", "gpg.program=gpg",
        "-c", "gpg.ssh.program=ssh-keygen",
        "-c", "gpg.x509.program=gpgsm",
        "-c", f"gpg.ssh.allowedSignersFile={signers}",
    ]  # fmt: skip
    verified = repository.run(*trust, "verify-commit", commit, check=False).code == 0
    asked = repository.run(*trust, "log", "-1", "--no-show-signature", "--format=%G?%n%GS", commit, "--", check=False)
    letter, _, signer = asked.stdout.decode("utf-8", "replace").strip().partition("\n")
    signer = printable(signer.strip())[:200]
    if letter in _BAD and letter:
        return Signature(state="bad", signer=signer)
    counts = kind == "ssh" or allowed_signers is None
    good = verified and letter == "G" and counts
    return Signature(state="good" if good else "untrusted", signer=signer)


def _kind(repository: Repository, commit: str) -> str:
    """`ssh`, `other`, or empty for a commit that carries no signature."""
    header = repository.run("cat-file", "commit", commit).stdout.split(b"\n\n", 1)[0]
    for line in header.split(b"\n"):
        if line.startswith((b"gpgsig ", b"gpgsig-sha256 ")):
            return "ssh" if b"BEGIN SSH SIGNATURE" in line else "other"
    return ""


def _configured_signers(repository: Repository) -> str:
    result = repository.run("config", "--global", "--type=path", "--get", "gpg.ssh.allowedSignersFile", check=False)
    return result.stdout.decode("utf-8", "surrogateescape").strip() or "/dev/null"
