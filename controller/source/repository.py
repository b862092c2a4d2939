# SPDX-License-Identifier: Apache-2.0
"""One Git directory, opened on an explicit path: reading objects, reading refs and moving one ref by compare-and-swap.

GitPython opens the repository and reads the object database; everything else is a git plumbing command with an
argument list made here, a scrubbed environment, no hooks, no prompts and a deadline. Nothing a caller, a manifest or a
remote says becomes an option, a URL or a path on a command line. Naming the Git directory with `--git-dir` is what
makes another owner's repository readable (git's own safe.directory check is for directories found by searching).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from controller import apikey
from controller.errors import CouldNotTell, DeadlineExceeded, RepositoryError, SchedctlError, ToolMissing

if TYPE_CHECKING:
    import git

NO_COMMIT = "0" * 40
"""The old value that says: this ref must not exist yet."""

LOCAL_DEADLINE_S = 30.0
"""For a plumbing command on local files."""

_CONFIG = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "protocol.ext.allow": "never",
    "core.filesRefLockTimeout": "2000",
    "core.packedRefsTimeout": "5000",
    "core.quotePath": "false",
    "advice.detachedHead": "false",
    "gc.auto": "0",
}
_LOCK_RETRIES = 5
_BRANCH = re.compile(r"(?!-)[^\x00-\x20\x7f~^:?*\[\\]+")


@dataclass(frozen=True)
class Result:
    """What a git command said. `code` is its exit status."""

    code: int
    stdout: bytes
    stderr: str


@dataclass(frozen=True)
class Repository:
    """Where the repository lies. `work_tree` is None for a bare one; `common_dir` holds refs and objects."""

    path: Path
    git_dir: Path
    common_dir: Path
    work_tree: Path | None

    def environment(self, *, system_config: bool = False) -> dict[str, str]:
        """The environment of a git command: the caller's, without what would point git elsewhere, and without a key.

        ssh, credential helpers and whatever else git starts inherit it.
        """
        kept = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") and k != apikey.VARIABLE}
        return kept | git_variables(self.path, system_config=system_config)

    def run(
        self,
        *arguments: str,
        given: bytes = b"",
        extra: Mapping[str, str] | None = None,
        deadline_s: float = LOCAL_DEADLINE_S,
        check: bool = True,
        system_config: bool = False,
        in_work_tree: bool = False,
    ) -> Result:
        """Run one git command. RepositoryError when it fails and `check`, DeadlineExceeded past the deadline."""
        command = ["git", f"--git-dir={self.git_dir}"]
        if in_work_tree and self.work_tree is not None:
            command.append(f"--work-tree={self.work_tree}")
        environment = self.environment(system_config=system_config) | dict(extra or {})
        result = run_git([*command, *arguments], environment, given, deadline_s, self.work_tree or self.git_dir)
        if check and result.code != 0:
            raise RepositoryError(f"{self.path}: git {arguments[0]} failed: {last_line(result.stderr)}")
        return result

    @contextlib.contextmanager
    def objects(self) -> Iterator[git.Repo]:
        """A GitPython repository for reading objects; whatever goes wrong inside is a RepositoryError."""
        import git  # loaded here: the CLI's start-up does not pay for it
        from git.exc import ODBError

        try:
            with git.Repo(self.git_dir, expand_vars=False) as repo:
                # Values of our own beat those of a hook or a shell that schedctl was started from.
                repo.git.update_environment(
                    GIT_DIR=str(self.git_dir),
                    GIT_COMMON_DIR=str(self.common_dir),
                    GIT_OBJECT_DIRECTORY=str(self.common_dir / "objects"),
                    GIT_ALTERNATE_OBJECT_DIRECTORIES="",
                    GIT_CONFIG_PARAMETERS="",
                    **{apikey.VARIABLE: ""},
                    **git_variables(self.path),
                )
                timer = threading.Timer(LOCAL_DEADLINE_S, _kill_readers, [repo])
                timer.daemon = True
                timer.start()
                try:
                    yield repo
                finally:
                    timer.cancel()
        except SchedctlError:
            raise
        except (git.GitError, ODBError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RepositoryError(
                f"{self.path}: reading an object failed: {type(error).__name__}: {error}",
                remedy=f"check it with: git -C {self.path} fsck",
            ) from None

    def refs(self, *prefixes: str) -> dict[str, str]:
        """Full ref name → commit id of every ref that is one of `prefixes` or below it."""
        result = self.run("for-each-ref", "--format=%(objectname) %(refname)", *prefixes)
        lines = result.stdout.decode("utf-8", "replace").split("\n")
        return {name: commit for commit, _, name in (line.partition(" ") for line in lines) if name}

    def ref(self, name: str) -> str | None:
        """The commit a full ref name points at."""
        return self.refs(name).get(name)

    def move_ref(self, name: str, new: str, old: str | None, why: str) -> bool:
        """Point `name` at `new` if it still is `old` (None: if it does not exist); False when somebody was faster."""
        for attempt in range(_LOCK_RETRIES):
            result = self.run("update-ref", "-m", why, name, new, old or NO_COMMIT, check=False)
            if result.code == 0:
                return True
            if self.ref(name) != old:
                return False
            time.sleep(0.05 * (attempt + 1))
        raise RepositoryError(
            f"{self.path}: moving {name} failed: {last_line(result.stderr)}",
            remedy="check that the repository is writable; if no git command is running, remove the stale .lock file",
        )

    def is_ancestor(self, old: str, new: str) -> bool:
        """Whether `new` was built on `old`. False too when `old` is no longer in the repository."""
        return self.run("merge-base", "--is-ancestor", old, new, check=False).code == 0

    def head_branch(self) -> str:
        """The branch that HEAD names, which need not have a commit yet."""
        result = self.run("symbolic-ref", "-q", "HEAD", check=False)
        name = result.stdout.decode("utf-8", "replace").strip()
        if result.code != 0 or not name.startswith("refs/heads/"):
            raise RepositoryError(
                f"{self.path}: HEAD names no branch (it is detached)", remedy="name the branch to follow"
            )
        return name.removeprefix("refs/heads/")

    def check_branch(self, branch: str) -> str:
        """`branch` if git accepts it as a branch name, else RepositoryError."""
        good = _BRANCH.fullmatch(branch) is not None
        if not good or self.run("check-ref-format", f"refs/heads/{branch}", check=False).code != 0:
            raise RepositoryError(f'"{branch}" is not a branch name', remedy="use a name such as main")
        return branch


def open_repository(path: Path) -> Repository:
    """The repository at exactly `path` (a work tree, a bare repository or a `.git`): parents are not searched."""
    try:
        import git
        from git.exc import InvalidGitRepositoryError, NoSuchPathError
    except ImportError as error:
        raise ToolMissing(f"git is not usable: {error}", remedy="apt-get install git") from None
    path = path.expanduser().absolute()
    remedy = f"create one: schedctl init {path}"
    try:
        with git.Repo(path, expand_vars=False) as repo:
            git_dir = Path(repo.git_dir).absolute()
            work_tree = None if repo.bare or repo.working_tree_dir is None else Path(repo.working_tree_dir).absolute()
    except NoSuchPathError:
        raise RepositoryError(f'the policy repository "{path}" does not exist', remedy=remedy) from None
    except InvalidGitRepositoryError:
        raise RepositoryError(f'"{path}" is not a Git repository', remedy=remedy) from None
    except (OSError, ValueError, git.GitError) as error:
        raise RepositoryError(f'the policy repository "{path}" cannot be opened: {error}') from None
    opened = Repository(path, git_dir, git_dir, work_tree)
    said = opened.run("rev-parse", "--path-format=absolute", "--git-common-dir", "--show-object-format")
    common, _, object_format = said.stdout.decode("utf-8", "surrogateescape").strip().rpartition("\n")
    if object_format != "sha1":
        raise RepositoryError(
            f'"{path}" uses {object_format} object names, which cannot be read',
            remedy="make the repository with: git init --object-format=sha1",
        )
    return Repository(path, git_dir, Path(common), work_tree)


def run_git(
    command: list[str], environment: Mapping[str, str], given: bytes, deadline_s: float, folder: Path
) -> Result:
    """Run `command` in a session of its own, so that the deadline also ends ssh and whatever else git started."""
    if not folder.is_dir():
        raise RepositoryError(f'the policy repository "{folder}" is gone', remedy="restore it or clone it again")
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            cwd=folder,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise ToolMissing("git is not installed", remedy="apt-get install git") from None
    except (OSError, ValueError) as error:
        raise CouldNotTell(f"git could not be started: {error}") from None
    try:
        stdout, stderr = process.communicate(given, timeout=deadline_s)
    except subprocess.TimeoutExpired:
        raise DeadlineExceeded(f"{' '.join(command[:3])} did not end within {deadline_s:g} s") from None
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
    return Result(process.returncode, stdout, stderr.decode("utf-8", "replace"))


def git_variables(path: Path, *, system_config: bool = False) -> dict[str, str]:
    """The GIT_* variables of every git command. Configuration given this way outranks every file."""
    settings = [*_CONFIG.items(), ("safe.directory", str(path)), ("safe.directory", str(path / ".git"))]
    variables = {
        "LC_ALL": "C",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_CONFIG_COUNT": str(len(settings)),
    }
    for i, (key, value) in enumerate(settings):
        variables |= {f"GIT_CONFIG_KEY_{i}": key, f"GIT_CONFIG_VALUE_{i}": value}
    if not system_config:
        variables["GIT_CONFIG_NOSYSTEM"] = "1"
    return variables


def last_line(text: str) -> str:
    """The last line git printed that says something, bounded, in printable characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = next((line for line in lines if line.startswith(("fatal:", "error:"))), lines[-1] if lines else "no message")
    return printable(told)[:400]


def printable(text: str) -> str:
    """`text` with control characters and bytes that are not UTF-8 escaped: file names reach terminals and statuses."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _kill_readers(repo: git.Repo) -> None:
    for reader in (repo.git.cat_file_all, repo.git.cat_file_header):
        process = getattr(reader, "proc", None)
        if process is not None:
            process.kill()
