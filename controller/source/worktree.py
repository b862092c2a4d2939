# SPDX-License-Identifier: Apache-2.0
"""Keeping a checked-out work tree in step with a commit made behind its back, and never losing what is in it.

A path is written only if index and file are exactly what the old tip holds; anything else is somebody's work and
stops the commit before it is made. Files are written here and not by `git checkout`, which would run filters.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from controller.errors import RepositoryError
from controller.source.repository import Repository, printable
from controller.source.snapshot import Files


def follows(repository: Repository, branch: str, tip: str | None) -> bool:
    """Whether there is a work tree, on `branch`, that was checked out and stands at `tip`."""
    if repository.work_tree is None:
        return False
    head = repository.run("symbolic-ref", "-q", "HEAD", check=False).stdout.decode("utf-8", "replace").strip()
    if head != f"refs/heads/{branch}" or repository.ref(head) != tip:
        return False
    return tip is None or (repository.git_dir / "index").exists()


def require_clean(
    repository: Repository, tip: Files, changes: Mapping[str, bytes | None]
) -> Mapping[str, bytes | None]:
    """What the files of `changes` hold now; RepositoryError, naming them, if index or file differ from `tip`."""
    index = _index(repository, list(changes))
    before: dict[str, bytes | None] = {}
    dirty = []
    for path, new in changes.items():
        entry = tip.entries.get(path)
        committed = tip.read(path) if entry else None
        staged = [(f"{entry.mode:06o}", entry.blob, "0")] if entry else []
        found = before[path] = _read(repository, path)
        untouched = index.get(path, []) == staged and found == committed
        already_there = entry is None and not index.get(path) and found is not None and found == new
        if not untouched and not already_there:
            dirty.append(printable(path))
    if dirty:
        raise RepositoryError(
            f"{repository.work_tree}: uncommitted changes in {', '.join(dirty)} would be overwritten",
            remedy="commit them (git commit) or drop them (git restore --staged --worktree FILE), then try again",
        )
    if (repository.git_dir / "index.lock").exists():
        raise RepositoryError(
            f"{repository.work_tree}: another git command holds {repository.git_dir / 'index.lock'}",
            remedy="wait for it, or remove the file if no git command is running",
        )
    return before


def index_line(path: str, blob: str | None, mode: int) -> bytes:
    """One line of `update-index -z --index-info`; without a blob the path is removed."""
    entry = f"{mode:o} {blob}" if blob else f"0 {'0' * 40}"
    return f"{entry}\t{path}\0".encode("utf-8", "surrogateescape")


def update(
    repository: Repository, commit: str, changes: Mapping[str, bytes | None], before: Mapping[str, bytes | None]
) -> None:
    """Write `changes` of `commit` into the work tree and the index. The commit stands whatever happens here.

    A file that no longer holds what it held in `before` was edited meanwhile and is left alone: Git shows the edit.
    """
    said = repository.run("ls-tree", "-r", "-z", "--full-tree", commit, "--", *_literal(changes)).stdout
    blobs: dict[str, tuple[str, int]] = {}
    for line in filter(None, said.decode("utf-8", "surrogateescape").split("\0")):
        about, _, path = line.partition("\t")
        mode, _, blob = about.split(" ")
        blobs[path] = (blob, int(mode, 8))
    lines = [index_line(path, *blobs.get(path, (None, 0))) for path in changes]
    try:
        for path, content in changes.items():
            if _read(repository, path) == before[path]:
                _put(repository, path, content, blobs.get(path, ("", 0o100644))[1])
        repository.run("update-index", "-z", "--index-info", given=b"".join(lines), in_work_tree=True)
    except (OSError, RepositoryError) as error:
        raise RepositoryError(
            f"committed as {commit}, but the work tree could not be updated: {error}",
            remedy=f"bring it up to date: git -C {repository.path} restore --staged --worktree .",
        ) from None


def _index(repository: Repository, paths: list[str]) -> dict[str, list[tuple[str, str, str]]]:
    said = repository.run("ls-files", "-s", "-z", "--full-name", "--", *_literal(paths), in_work_tree=True).stdout
    entries: dict[str, list[tuple[str, str, str]]] = {}
    for line in filter(None, said.decode("utf-8", "surrogateescape").split("\0")):
        about, _, path = line.partition("\t")
        mode, blob, stage = about.split(" ")
        entries.setdefault(path, []).append((mode, blob, stage))
    return entries


def _literal(paths: Mapping[str, bytes | None] | list[str]) -> list[str]:
    return [f":(top,literal){path}" for path in paths]


def _file(repository: Repository, path: str) -> Path:
    """The file of `path`; RepositoryError if a folder on the way is a symbolic link, which could lead anywhere."""
    assert repository.work_tree is not None
    folder = repository.work_tree
    *folders, name = path.split("/")
    for part in folders:
        folder = folder / part
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise RepositoryError(f"{folder} is not a folder", remedy="move it away")
    return folder / name


def _read(repository: Repository, path: str) -> bytes | None:
    """What is in the work tree: None for nothing, and never equal to a file's bytes for anything but a file."""
    file = _file(repository, path)
    try:
        status = file.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise RepositoryError(f"{file} is not a regular file", remedy="move it away")
    return file.read_bytes()


def _put(repository: Repository, path: str, content: bytes | None, mode: int) -> None:
    file = _file(repository, path)
    if content is None:
        file.unlink(missing_ok=True)
        folder = file.parent
        while folder != repository.work_tree and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=".schedctl-", dir=file.parent)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(content)
            os.fchmod(opened.fileno(), 0o755 if mode == 0o100755 else 0o644)
        Path(temporary).replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
