# SPDX-License-Identifier: Apache-2.0
"""What a verb gets beside its arguments: streams, clock, environment, and what is built from them on demand.

A verb never touches `sys`: data goes to `out`, warnings to `warn`, progress to `reporter`, which speaks only to a
terminal. That is what makes the golden tests exact and lets a verb run inside another program.
"""

from __future__ import annotations

import io
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

from controller.errors import InputError

if TYPE_CHECKING:
    from controller.api import Desired, Reporter
    from controller.source import GitStore


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Context:
    """One invocation's surroundings."""

    # A stream that the caller closed is None in Python: then there is nothing to read, and nobody to write to.
    stdin: BinaryIO = field(default_factory=lambda: sys.stdin.buffer if sys.stdin else io.BytesIO())
    stdout: TextIO = field(default_factory=lambda: sys.stdout or io.StringIO())
    stderr: TextIO = field(default_factory=lambda: sys.stderr or io.StringIO())
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    now: Callable[[], datetime] = _utc_now
    _said: set[str] = field(default_factory=set)

    def out(self, text: str) -> None:
        """Data; a newline is added unless there is one."""
        self.stdout.write(text if text.endswith("\n") or not text else text + "\n")

    def warn(self, text: str) -> None:
        """A line on stderr for people."""
        self.stderr.write(text.rstrip("\n") + "\n")

    def out_bytes(self, data: bytes) -> None:
        """Data of another program, as it is, at once."""
        _write_bytes(self.stdout, data)

    def err_bytes(self, data: bytes) -> None:
        """What another program says on its stderr."""
        _write_bytes(self.stderr, data)

    @property
    def reporter(self) -> Reporter:
        """Progress on stderr, silent unless that is a terminal."""
        return LineReporter(self.stderr, enabled=self.stderr.isatty())

    @property
    def log(self) -> Reporter:
        """Progress that is wanted in a log too: for programs that run unattended."""
        return LineReporter(self.stderr, enabled=True)

    def repository(self, args: Namespace) -> Path:
        """--repo, SCHEDCTL_REPO, or the current folder."""
        return Path(args.repo or self.environ.get("SCHEDCTL_REPO") or ".")

    def store(self, args: Namespace, state: Path | None = None) -> GitStore:
        """The policy repository as a Store; with `state` the last good commit is remembered there.

        RepositoryError if it is not one.
        """
        from controller.source import GitStore

        return GitStore(self.repository(args), state=state)

    def desired(self, store: GitStore) -> Desired:
        """The newest good desired state; warns when a newer commit is not good; InputError if there never was one."""
        state = store.read()
        problems = list(state.problems)
        if state.desired is None:
            what = f"no usable commit in {store.repository.path}: {state.reason}"
            raise InputError(": ".join([what, *problems[:1]]), remedy="commit a policy with `schedctl apply -f FILE`")
        for problem in problems:
            self._warn_once(f"Warning: {state.reason}: {problem}")
        if problems:
            self._warn_once(f"Warning: showing the last good commit, {state.desired.commit[:12]}")
        return state.desired

    def _warn_once(self, text: str) -> None:
        """A verb that waits reads again and again: what has been said is not said again."""
        if text not in self._said:
            self._said.add(text)
            self.warn(text)


def _write_bytes(stream: TextIO, data: bytes) -> None:
    stream.flush()
    raw = getattr(stream, "buffer", None)
    if raw is None:
        stream.write(data.decode(errors="backslashreplace"))
    else:
        raw.write(data)
        raw.flush()


class LineReporter:
    """Flux's marks, a line each: ► began, ✔ went well, ✗ did not."""

    def __init__(self, stream: TextIO, *, enabled: bool) -> None:
        self._stream = stream
        self._enabled = enabled

    def step(self, text: str) -> None:
        """Something began."""
        self._line("►", text)

    def done(self, text: str) -> None:
        """Something went well."""
        self._line("✔", text)

    def failed(self, text: str) -> None:
        """Something did not."""
        self._line("✗", text)

    def _line(self, mark: str, text: str) -> None:
        if self._enabled:
            self._stream.write(f"{mark} {text}\n")
            self._stream.flush()
