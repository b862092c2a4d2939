# SPDX-License-Identifier: Apache-2.0
"""One commit a call, made with plumbing: objects first, then one ref by compare-and-swap, then the work tree.

Until the ref moves, nothing that anybody reads has changed, so a kill at any moment leaves either the old commit or
the new one. When somebody else moved the branch meanwhile, the change is built again on the new tip. The tree is read
and checked as a whole before the ref moves.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from controller.errors import RepositoryError
from controller.source import manifests, worktree
from controller.source.remote import Remote
from controller.source.repository import Repository, last_line, printable
from controller.source.snapshot import Files, Overlay, open_commit

Changes = Mapping[str, bytes | None]
"""Path → new bytes, or None to remove the file."""

Build = Callable[[Files, manifests.Loaded], Changes]
"""What to change, given the files and resources of the tip. Called again after a lost race: free of side effects."""

WRITER_TRAILER = "Schedctl-Writer"
_ATTEMPTS = 12
_SIGNING_DEADLINE_S = 60.0
_EMPTY_TREE_INDEX = "index"


@dataclass(frozen=True)
class Identity:
    """Author and committer, and whether they sign."""

    name: str
    email: str
    signs: bool = False


SCHEDCTL = Identity("schedctl", "schedctl@localhost")
"""Who commits when nobody else is named, and who writes statuses."""


@dataclass(frozen=True)
class Message:
    """A commit message; `writer` becomes the trailer by which the controller knows its own commits."""

    text: str
    writer: str = ""

    @property
    def reason(self) -> str:
        """One line for the reflog, in printable characters: it is an argument of a git command."""
        return printable(self.text.strip().partition("\n")[0])[:200] or "schedctl"

    def encoded(self) -> bytes:
        """The bytes of the message. A NUL would end it early in Git's own tools."""
        body = self.text.replace("\0", "").strip() or "Change scheduling policy"
        trailer = f"\n\n{WRITER_TRAILER}: {self.writer}" if self.writer else ""
        return f"{body}{trailer}\n".encode("utf-8", "replace")


def commit_changes(
    remote: Remote, branch: str, build: Build, describe: Callable[[], Message], *, base: str = "", dry_run: bool = False
) -> str:
    """Commit what `build` asks for on `branch` and return the new commit, or the tip if nothing is to change.

    `describe` is asked for the message after `build` has run.
    With `base`, the commit is built on that branch's tip instead and `branch` is set to it. RepositoryError when the
    result would not decode, when the work tree has changes of its own on these paths, or when races never end.
    """
    repository = remote.repository
    for attempt in range(_ATTEMPTS):
        if attempt == 0:
            remote.fetch()
        else:
            time.sleep(random.uniform(0, 0.02 * attempt))  # noqa: S311 - spreads writers, keeps no secret
        old = repository.ref(remote.tracking(branch))
        tip = repository.ref(remote.tracking(base)) if base else old
        _refuse_unpushed(remote, base or branch, tip)
        with open_commit(repository, tip) as files:
            changes = build(files, manifests.load(files))
            _refuse_bad(Overlay(files, changes))
            changes = {path: new for path, new in changes.items() if not _same(files, path, new)}
            if not changes or dry_run:
                return tip or ""
            before: Changes = {}
            synced = not base and worktree.follows(repository, branch, old)
            if synced:
                before = worktree.require_clean(repository, files, changes)
            message = describe()
            new = _write(repository, tip, changes, files, message)
        if remote.publish(f"refs/heads/{branch}", new, old, remote.tracking(branch), message.reason):
            _follow(remote, branch, new, old, changes if synced else {}, before)
            return new
    raise RepositoryError(
        f"{repository.path}: other writers moved {branch} {_ATTEMPTS} times in a row", remedy="try again"
    )


def write_tree(repository: Repository, base: str | None, changes: Changes, modes: Mapping[str, int]) -> str:
    """Write the tree of `base` (a commit or tree, None for nothing) with `changes` applied, on an index of its own."""
    with tempfile.TemporaryDirectory(prefix="schedctl-") as folder:
        extra = {"GIT_INDEX_FILE": str(Path(folder) / _EMPTY_TREE_INDEX)}
        if base is not None:
            repository.run("read-tree", base, extra=extra)
        blobs = _write_blobs(repository, changes, Path(folder))
        lines = [worktree.index_line(path, blobs.get(path), modes.get(path, 0o100644)) for path in changes]
        repository.run("update-index", "-z", "--index-info", given=b"".join(lines), extra=extra)
        return repository.run("write-tree", extra=extra).stdout.decode().strip()


def write_commit(repository: Repository, tree: str, parent: str | None, message: bytes, identity: Identity) -> str:
    """Write a commit object and return its id."""
    who = {"NAME": identity.name, "EMAIL": identity.email}
    extra = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in who.items()}
    options = (["-S"] if identity.signs else []) + (["-p", parent] if parent else [])
    deadline_s = _SIGNING_DEADLINE_S
    result = repository.run(
        "commit-tree", *options, "-F", "-", tree,
        given=message, extra=extra, check=False, system_config=True, deadline_s=deadline_s,
    )  # fmt: skip
    if result.code != 0:
        remedy = "commit.gpgSign is set: check that signing works without a prompt" if identity.signs else ""
        raise RepositoryError(f"{repository.path}: committing failed: {last_line(result.stderr)}", remedy=remedy)
    return result.stdout.decode().strip()


def user_identity(repository: Repository) -> Identity:
    """Whoever git's configuration says commits here, or schedctl where it says nothing."""
    wanted = r"^(user\.name|user\.email|commit\.gpgsign)$"
    result = repository.run("config", "-z", "--get-regexp", wanted, check=False, system_config=True)
    said = dict(pair.split("\n", 1) for pair in result.stdout.decode("utf-8", "replace").split("\0") if "\n" in pair)
    signs = said.get("commit.gpgsign", "").lower() in ("true", "yes", "on", "1")
    return Identity(said.get("user.name") or SCHEDCTL.name, said.get("user.email") or SCHEDCTL.email, signs)


def _write(repository: Repository, tip: str | None, changes: Changes, files: Files, message: Message) -> str:
    modes = {path: files.entries[path].mode for path in changes if path in files.entries}
    tree = write_tree(repository, tip, changes, modes)
    return write_commit(repository, tree, tip, message.encoded(), user_identity(repository))


def _write_blobs(repository: Repository, changes: Changes, folder: Path) -> dict[str, str]:
    written = {path: content for path, content in changes.items() if content is not None}
    names = []
    for number, content in enumerate(written.values()):
        file = folder / str(number)
        file.write_bytes(content)
        names.append(f"{file}\n")
    said = repository.run("hash-object", "-w", "--no-filters", "--stdin-paths", given="".join(names).encode())
    return dict(zip(written, said.stdout.decode().split(), strict=True))


def _same(files: Files, path: str, new: bytes | None) -> bool:
    if path not in files.entries:
        return new is None
    return new is not None and files.read(path) == new


def _refuse_bad(files: Files) -> None:
    problems = manifests.load(files).problems
    if problems:
        raise RepositoryError(
            "the repository would not be valid with this change, so nothing was committed:\n" + "\n".join(problems),
            remedy="mend these files first",
        )


def _refuse_unpushed(remote: Remote, branch: str, tip: str | None) -> None:
    local = remote.repository.ref(f"refs/heads/{branch}") if remote.present else None
    if local is not None and (tip is None or not remote.repository.is_ancestor(local, tip)):
        raise RepositoryError(
            f"{remote.repository.path}: branch {branch} has commits that origin does not have",
            remedy=f"push them (git push origin {branch}) or drop them first",
        )


def _follow(remote: Remote, branch: str, new: str, old: str | None, changes: Changes, before: Changes) -> None:
    """Bring the local branch along if it was where origin was, and the work tree with it."""
    repository = remote.repository
    if remote.present:
        local = repository.ref(f"refs/heads/{branch}")
        if local != old or (local is None and not changes):
            return
        repository.move_ref(f"refs/heads/{branch}", new, local, "follow origin")
    if changes:
        worktree.update(repository, new, changes, before)
