# SPDX-License-Identifier: Apache-2.0
"""The files of one commit, from the object database, within limits.

Only regular blobs are files here. Symbolic links could point out of the repository once somebody checks it out,
submodules name URLs, and a tree can be built that unfolds into billions of entries: all three are refused by name or
by count before any content is read. Entries whose name starts with a dot are not looked at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from controller.errors import RepositoryError
from controller.source.repository import Repository, printable

if TYPE_CHECKING:
    import git

MAX_FILE_BYTES = 1 << 20
MAX_FILES = 20_000
_MAX_DEPTH = 32
_REGULAR = (0o100644, 0o100755)
_SYMLINK, _SUBMODULE, _TREE = 0o120000, 0o160000, 0o040000


@dataclass(frozen=True)
class Entry:
    """One regular file of a commit: `mode` as in Git's tree, `size` in bytes."""

    path: str
    mode: int
    blob: str
    size: int


class Files(Protocol):
    """Files by path, and what could not be taken as a file."""

    problems: list[str]

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Every regular file by its path."""
        ...

    def read(self, path: str) -> bytes:
        """The bytes of one entry."""
        ...


@dataclass
class CommitFiles:
    """The files of one commit; valid only inside `open_commit`."""

    repo: git.Repo
    entries: dict[str, Entry] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def read(self, path: str) -> bytes:
        """The bytes of `path` (KeyError if there is no such file)."""
        return read_blob(self.repo, self.entries[path].blob)


@dataclass
class Overlay:
    """`base` with some files replaced, added (bytes) or removed (None), as a commit that is not made yet."""

    base: Files
    changes: Mapping[str, bytes | None]
    entries: Mapping[str, Entry] = field(init=False)
    problems: list[str] = field(init=False)

    def __post_init__(self) -> None:
        entries = {path: entry for path, entry in self.base.entries.items() if path not in self.changes}
        self.problems = list(self.base.problems)
        for path, content in self.changes.items():
            if content is None:
                continue
            if len(content) > MAX_FILE_BYTES:
                self.problems.append(f"{printable(path)}: the file is larger than 1 MiB")
            old = self.base.entries.get(path)
            entries[path] = Entry(path, old.mode if old else 0o100644, "", len(content))
        self.entries = entries

    def read(self, path: str) -> bytes:
        """The bytes of `path`, changed or not."""
        changed = self.changes.get(path)
        return self.base.read(path) if changed is None else changed


@dataclass
class NoFiles:
    """The files of a branch that has no commit yet."""

    entries: dict[str, Entry] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def read(self, path: str) -> bytes:
        """There is nothing to read."""
        raise RepositoryError(f"{printable(path)}: no such file")


@contextlib.contextmanager
def open_commit(repository: Repository, commit: str | None, *, limit: int = MAX_FILE_BYTES) -> Iterator[Files]:
    """The files of `commit` (none for None), each at most `limit` bytes."""
    if commit is None:
        yield NoFiles()
        return
    with repository.objects() as repo:
        files = CommitFiles(repo)
        _walk(files, repo.commit(commit).tree, limit)
        yield files


def read_blob(repo: git.Repo, blob: str) -> bytes:
    """A blob's bytes."""
    data: bytes = repo.odb.stream(bytes.fromhex(blob)).read()
    return data


def _walk(files: CommitFiles, root: git.Tree, limit: int) -> None:
    stack = [(root, 0)]
    seen = 0
    while stack:
        tree, depth = stack.pop()
        for item in tree:
            seen += 1
            if seen > MAX_FILES:
                files.problems.append(f"the commit holds more than {MAX_FILES} files and folders")
                return
            path = str(item.path)
            if item.mode == _SUBMODULE:
                files.problems.append(f"{printable(path)}: submodules are refused: commit the files themselves")
            elif item.name.startswith("."):
                continue
            elif item.type == "tree":
                if depth >= _MAX_DEPTH:
                    files.problems.append(f"{printable(path)}: folders are nested more than {_MAX_DEPTH} deep")
                else:
                    stack.append((item, depth + 1))
            else:
                _add(files, item, path, limit)


def _add(files: CommitFiles, item: git.Blob, path: str, limit: int) -> None:
    shown = printable(path)
    if item.mode == _SYMLINK:
        files.problems.append(f"{shown}: symbolic links are refused: commit the file itself")
    elif item.mode not in _REGULAR:
        files.problems.append(f"{shown}: file mode {item.mode:o} is refused: only regular files are read")
    elif path in files.entries:
        files.problems.append(f"{shown}: the tree holds this name twice")
    elif item.size > limit:
        files.problems.append(f"{shown}: the file is larger than {limit >> 20} MiB ({item.size} bytes)")
    else:
        files.entries[path] = Entry(path, item.mode, item.hexsha, item.size)
