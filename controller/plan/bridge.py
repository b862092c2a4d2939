# SPDX-License-Identifier: Apache-2.0
"""The file bridge: each question is a file in a folder, and so is its answer; whoever writes it is the planner.

    DIR/01-planner-1f0a….request.json   what is asked: role, the request as the Messages API would get it, the schema
                                        in it, and the name of the file that is waited for
    DIR/01-planner-1f0a….answer.json    the JSON object that the schema asks for, and nothing around it

The name holds the number of the question in this plan and a digest of its bytes, so the same question has the same
files: an answer that is already there is taken at once, and a plan that was given up goes on where it stopped. Answers
pass the same checks as a model's. The folder may be somebody else's: all names are opened relative to it, no symbolic
link is followed, what is no regular file or is larger than an answer may be is refused, and requests are written under
another name and then renamed. An answer should be renamed into place, too; one that is no whole JSON yet is looked at
again for SETTLE_S.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controller.api import sha256
from controller.errors import InputError
from controller.plan.messages import MAX_ANSWER_CHARS, CallFailed, Reply

MODEL = "bridge"
SETTLE_S = 2.0
POLL_S = 0.1


@dataclass
class Bridge:
    """A transport over `folder`. InputError if that is no folder of its own."""

    folder: Path
    patience_s: float | None = 600.0
    model: str = MODEL
    billed: bool = False
    _asked: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        with self._opened():
            pass

    def send(self, role: str, request: Mapping[str, Any], timeout_s: float) -> Reply:
        """Write the question and wait for its answer. Raises CallFailed."""
        self._asked += 1
        body = json.dumps({"role": role, "request": request}, sort_keys=True)
        stem = f"{self._asked:02d}-{role}-{sha256(body.encode())[7:17]}"
        told = {"role": role, "answerFile": f"{stem}.answer.json", "waitsSeconds": round(timeout_s), "request": request}
        until = time.monotonic() + timeout_s
        try:
            with self._opened() as folder:
                _write(folder, f"{stem}.request.json", json.dumps(told, indent=1).encode())
                return Reply(_awaited(folder, f"{stem}.answer.json", until), "end_turn", None, "")
        except InputError as error:
            raise CallFailed(error.message, free=True) from None
        except OSError as error:
            raise CallFailed(f"the bridge's folder cannot be used: {error.strerror}", free=True) from None

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(self.folder, flags)
        except OSError as error:
            no_folder = error.errno in (errno.ELOOP, errno.ENOTDIR)
            told = "it is a symbolic link or no folder" if no_folder else error.strerror
            raise InputError(
                f"the bridge {self.folder} cannot be opened: {told}",
                remedy="make it with `mkdir -m 700`",
            ) from None
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _write(folder: int, name: str, data: bytes) -> None:
    """Whole or not at all, and on disk."""
    part = f".{name}.{secrets.token_hex(4)}"
    descriptor = os.open(
        part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder
    )
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part, dir_fd=folder)
        raise


def _awaited(folder: int, name: str, until: float) -> str:
    """The text of the answer, once it is there whole."""
    settled = 0.0
    while True:
        text = _read(folder, name)
        now = time.monotonic()
        if text is not None:
            settled = settled or now + SETTLE_S
            if _is_whole(text) or now >= settled:
                return text
        if now >= until:
            raise CallFailed(f"no answer in {name} in time", free=True)
        time.sleep(min(POLL_S, max(until - now, 0.001)))


def _is_whole(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _read(folder: int, name: str) -> str | None:
    """None while it is not there. CallFailed for what cannot be an answer."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        told = "is a symbolic link" if error.errno == errno.ELOOP else f"cannot be read: {error.strerror}"
        raise CallFailed(f"the answer {name} {told}", free=True) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CallFailed(f"the answer {name} is no regular file", free=True)
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(MAX_ANSWER_CHARS + 1)
    if len(data) > MAX_ANSWER_CHARS:
        raise CallFailed(f"the answer {name} is larger than {MAX_ANSWER_CHARS} bytes", free=True)
    return data.decode("utf-8", "replace")
