# SPDX-License-Identifier: Apache-2.0
"""`init`: a policy repository that starts from the sample shipped with schedctl."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from controller import paths
from controller.errors import RepositoryError, SchedctlError
from controller.source.commit import Message, commit_changes
from controller.source.manifests import Loaded, load
from controller.source.remote import Remote
from controller.source.repository import Repository, git_variables, last_line, open_repository, run_git
from controller.source.snapshot import Files, open_commit

BRANCH = "main"


@dataclass(frozen=True)
class Initialized:
    """Where the repository is, its newest commit, and whether this call made it."""

    path: Path
    commit: str
    created: bool


def init(directory: Path | str) -> Initialized:
    """Create a policy repository in `directory` (made if missing) with one commit, or find the one that is there.

    RepositoryError for a folder that holds anything else: nothing in it is touched.
    """
    path = Path(directory).expanduser().absolute()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        existing = _existing(path)
        if existing.commit:
            return existing
    else:
        _git_init(path)
    repository = open_repository(path)
    sample = _sample()

    def build(_: Files, __: Loaded) -> Mapping[str, bytes | None]:
        return sample

    message = Message("Start a policy repository from the sample")
    commit = commit_changes(Remote(repository, present=False), repository.head_branch(), build, lambda: message)
    return Initialized(path, commit, created=True)


def _existing(path: Path) -> Initialized:
    """The policy repository that `path` is; without a commit if it is a Git repository that has nothing in it yet."""
    refusal = f'"{path}" is not empty and not a policy repository, so nothing was done'
    remedy = "name a new or an empty folder"
    try:
        repository = open_repository(path)
        head = repository.ref(f"refs/heads/{repository.head_branch()}")
        with open_commit(repository, head) as files:
            loaded = load(files)
    except SchedctlError as error:
        raise RepositoryError(f"{refusal}: {error.message}", remedy=remedy) from None
    if head is None:
        if _has_content(repository):
            raise RepositoryError(f"{refusal}: it has files but no commit", remedy=remedy)
        return Initialized(path, "", created=False)
    if loaded.problems or not loaded.documents:
        why = loaded.problems[0] if loaded.problems else "its newest commit holds no manifest"
        raise RepositoryError(f"{refusal}: {why}", remedy=remedy)
    return Initialized(path, head, created=False)


def _has_content(repository: Repository) -> bool:
    tree = repository.work_tree
    return bool(repository.refs("refs/heads")) or (tree is not None and any(f.name != ".git" for f in tree.iterdir()))


def _git_init(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    command = ["git", "-c", f"init.defaultBranch={BRANCH}", "init", "--quiet", "--template=", "--object-format=sha1"]
    result = run_git([*command, str(path)], _environment(path), b"", 30, path)
    if result.code != 0:
        raise RepositoryError(f"{path}: git init failed: {last_line(result.stderr)}")


def _environment(path: Path) -> dict[str, str]:
    return Repository(path, path / ".git", path / ".git", path).environment() | git_variables(path)


def _sample() -> dict[str, bytes | None]:
    root = paths.data_dir("policies.git")
    files = sorted(file for file in root.rglob("*") if file.is_file())
    relative = {file: file.relative_to(root) for file in files}
    sample: dict[str, bytes | None] = {
        r.as_posix(): file.read_bytes() for file, r in relative.items() if not any(p.startswith(".") for p in r.parts)
    }
    if not sample:
        raise RepositoryError(f"the sample repository is missing from {root}", remedy="install schedctl again")
    return sample
