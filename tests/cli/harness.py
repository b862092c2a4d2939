# SPDX-License-Identifier: Apache-2.0
"""Running `schedctl` inside the test, on real repositories, and comparing what it says with golden transcripts.

A transcript holds, for each command, the command line, its stdout, its stderr (each line behind `! `) and its exit
code. SCHEDCTL_UPDATE_GOLDEN=1 writes them anew: read the difference before committing it.
"""

from __future__ import annotations

import io
import os
import shlex
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from controller.cli.context import Context
from controller.cli.main import main

GOLDEN = Path(__file__).parent / "golden"
T0 = datetime(2026, 1, 1, tzinfo=UTC)
NOW = T0 + timedelta(days=3, hours=4)


@dataclass(frozen=True)
class Said:
    """What one command line came to."""

    code: int
    out: str
    err: str


class Terminal(io.StringIO):
    """A stderr that is a terminal."""

    def isatty(self) -> bool:
        return True


def run(
    *argv: str, repo: Path | None = None, stdin: bytes = b"", now: datetime = NOW, tty: bool = False, **env: str
) -> Said:
    """One command line, as the console script would run it."""
    out, err = io.StringIO(), Terminal() if tty else io.StringIO()
    environ = {**({"SCHEDCTL_REPO": str(repo)} if repo else {}), **env}
    context = Context(stdin=io.BytesIO(stdin), stdout=out, stderr=err, environ=environ, now=lambda: now)
    return Said(main(list(argv), context), out.getvalue(), err.getvalue())


def transcript(
    lines: list[str], repo: Path | None, *, stdin: bytes = b"", hide: tuple[tuple[str, str], ...] = ()
) -> str:
    """What the command lines say, one after the other. `hide` replaces what differs from run to run."""
    text = ""
    for line in lines:
        said = run(*shlex.split(line), repo=repo, stdin=stdin)
        text += f"$ schedctl {line}\n{said.out}"
        text += "".join(f"! {err}\n" for err in said.err.splitlines())
        text += f"[exit {said.code}]\n\n"
    for secret, shown in hide:
        text = text.replace(secret, shown)
    return text


def check_golden(name: str, text: str) -> None:
    """Compare with tests/cli/golden/NAME.txt, to the letter."""
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("SCHEDCTL_UPDATE_GOLDEN") == "1":
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"no golden file {path.name}: SCHEDCTL_UPDATE_GOLDEN=1 writes it"
    assert text == path.read_text(encoding="utf-8")


def commit(repo: Path, files: dict[str, str | bytes], message: str, at: datetime) -> None:
    """Write files and commit everything, dated `at`."""
    for name, content in files.items():
        path = repo / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    git(repo, "add", "-A")
    git(repo, "commit", "--quiet", "--allow-empty", "-m", message, at=at)


def git(repo: Path, *arguments: str, at: datetime = T0) -> str:
    """A git command in `repo`, as one fixed person at a fixed time."""
    date = at.isoformat()
    who = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER")
           for what, value in (("NAME", "Ada"), ("EMAIL", "ada@example.org"), ("DATE", date))}  # fmt: skip
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1", **who}
    done = subprocess.run(["git", "-C", str(repo), *arguments], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def head(repo: Path) -> str:
    """The newest commit."""
    return git(repo, "rev-parse", "HEAD").strip()
