# SPDX-License-Identifier: Apache-2.0
"""A signature counts only when git exits 0 and says G; its other words do not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from controller.source import GitStore
from tests.conftest import missing
from tests.source.conftest import Git, intent


def key(folder: Path, name: str) -> Path:
    if shutil.which("ssh-keygen") is None:
        missing("ssh-keygen", "apt-get install openssh-client")
    file = folder / name
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", file], check=True, timeout=60)
    return file


def sign(repo: Git, signer: Path, weight: int) -> str:
    repo.write(intents__shop__web_y=intent(weight=weight))
    repo("add", "--all")
    repo("-c", "gpg.format=ssh", "-c", f"user.signingKey={signer}", "commit", "-qS", "-m", f"weight {weight}")
    return repo("rev-parse", "HEAD")


@pytest.fixture
def signers(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A trusted key, a stranger's key, and the file that allows the first."""
    trusted, stranger = key(tmp_path, "trusted"), key(tmp_path, "stranger")
    allowed = tmp_path / "allowed_signers"
    allowed.write_text(f"pat@example.org {trusted.with_suffix('.pub').read_text()}")
    return trusted, stranger, allowed


def test_only_a_trusted_signature_is_followed(repo: Git, signers: tuple[Path, Path, Path]) -> None:
    trusted, stranger, allowed = signers
    store = GitStore(repo.folder, require_signature=True, allowed_signers=allowed)
    state = store.read()
    assert (state.desired, state.reason) == (None, "SignatureBad")
    assert "unsigned" in state.problems[0]
    sign(repo, trusted, 200)
    state = store.read()
    assert state.reason == "Verified"
    assert state.desired is not None
    assert (state.desired.signature.state, state.desired.signature.signer) == ("good", "pat@example.org")
    for spoil, word in ((lambda: sign(repo, stranger, 300), "untrusted"), (lambda: repo.commit("plain"), "unsigned")):
        spoil()
        refused = store.read()
        assert (refused.reason, refused.desired) == ("SignatureBad", state.desired)
        assert word in refused.problems[0]
    sign(repo, trusted, 400)
    assert store.read().reason == "Verified"


def test_a_signature_moved_to_another_commit_is_bad(repo: Git, signers: tuple[Path, Path, Path]) -> None:
    trusted, _, allowed = signers
    raw = repo("cat-file", "commit", sign(repo, trusted, 200))
    forged = repo("hash-object", "-w", "-t", "commit", "--stdin", given=raw.replace("weight 200", "weight 201") + "\n")
    repo("update-ref", "refs/heads/main", forged)
    store = GitStore(repo.folder, require_signature=True, allowed_signers=allowed)
    assert store.read().reason == "SignatureBad"
    free = GitStore(repo.folder, allowed_signers=allowed).read()
    assert free.desired is not None
    assert free.desired.signature.state in ("bad", "untrusted")


def test_the_repository_cannot_name_its_own_signers_or_verifier(
    repo: Git, signers: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    _, stranger, _ = signers
    theirs = tmp_path / "theirs"
    theirs.write_text(f"pat@example.org {stranger.with_suffix('.pub').read_text()}")
    sign(repo, stranger, 200)
    repo("config", "gpg.ssh.allowedSignersFile", str(theirs))
    repo("config", "gpg.ssh.program", "true")
    repo("config", "gpg.program", "true")
    assert GitStore(repo.folder, require_signature=True).read().reason == "SignatureBad"
    Git(repo.folder)("config", "--global", "gpg.ssh.allowedSignersFile", str(theirs))
    assert GitStore(repo.folder, require_signature=True).read().reason == "Verified"


def test_a_list_of_signers_that_is_missing_trusts_nobody(repo: Git, signers: tuple[Path, Path, Path]) -> None:
    trusted, _, allowed = signers
    sign(repo, trusted, 200)
    allowed.unlink()
    assert GitStore(repo.folder, require_signature=True, allowed_signers=allowed).read().reason == "SignatureBad"
