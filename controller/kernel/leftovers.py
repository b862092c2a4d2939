# SPDX-License-Identifier: Apache-2.0
"""Knows what this process has lying about, so that a process which is told to stop leaves nothing behind.

A signal may come at any moment, between making a thing and entering the `try` that removes it, or in the very middle of
removing it. So each thing is noted before it is made and forgotten after it is gone, and whoever catches the signal
calls `sweep`. Folders also carry the pid of their maker: what a process left that was killed outright, the next one
that makes such a folder removes.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

_undo: dict[object, Callable[[], None]] = {}


def note(thing: object, undo: Callable[[], None]) -> None:
    """`thing` is about to be made; `undo` removes it, also when it is half made, and may be called again."""
    _undo[thing] = undo


def forget(thing: object) -> None:
    """`thing` is gone."""
    _undo.pop(thing, None)


def sweep() -> None:
    """Remove all that is noted. No error: what cannot be removed has to stay."""
    for thing, undo in list(_undo.items()):
        with contextlib.suppress(Exception):
            undo()
        forget(thing)


@contextlib.contextmanager
def folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder of ours in `parent` (which is made), removed at the end with all that is in it. Raises OSError."""
    parent.mkdir(parents=True, exist_ok=True)
    _remove_orphans(parent, prefix)
    path = parent / f"{prefix}{os.getpid()}-{secrets.token_hex(4)}"
    note(path, lambda: shutil.rmtree(path, ignore_errors=True))
    try:
        path.mkdir(mode=0o700)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        forget(path)


def write(file: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write `file`, whole or not at all. Raises OSError."""
    with folder(file.parent, ".writing-") as scratch:
        part = scratch / file.name
        part.write_bytes(data)
        part.chmod(mode)
        part.replace(file)


def _remove_orphans(parent: Path, prefix: str) -> None:
    for path in parent.glob(f"{prefix}*"):
        pid = path.name.removeprefix(prefix).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(path, ignore_errors=True)
