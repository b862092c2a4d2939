# SPDX-License-Identifier: Apache-2.0
"""Which commit was last good, across restarts.

It is a file in the reader's own state folder, not a ref: the repository may be read-only, and several nodes that share
one repository may have got differently far. The commit itself is additionally held by a local ref once the branch no
longer leads to it, so that Git's housekeeping cannot drop what a node still runs; that is done where it can be.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from controller.errors import SchedctlError
from controller.source.repository import Repository

HOLD_REF = "refs/schedctl/last-good"
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class LastGood:
    """`commit` is the last good one; a new head must descend from `anchor`, which `accept` moves on its own."""

    commit: str = ""
    anchor: str = ""


@dataclass(frozen=True)
class Memory:
    """The file for one branch of one repository; without a folder nothing outlives the process."""

    file: Path | None

    @classmethod
    def of(cls, state: Path | None, repository: Repository, branch: str) -> Memory:
        """The memory under `state` for this repository and branch."""
        if state is None:
            return cls(None)
        name = hashlib.sha256(f"{repository.common_dir}\0{branch}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
        return cls(state / "source" / f"{name}.json")

    def load(self) -> LastGood:
        """What was remembered; nothing if there is no file or it is damaged."""
        if self.file is None:
            return LastGood()
        try:
            known = json.loads(self.file.read_text())
            commit, anchor = known["commit"], known["anchor"]
        except (OSError, ValueError, KeyError, TypeError):
            return LastGood()
        good = all(isinstance(value, str) and _COMMIT.fullmatch(value) for value in (commit, anchor) if value != "")
        return LastGood(commit, anchor) if good else LastGood()

    def save(self, last: LastGood) -> str:
        """Remember, atomically. Returns what went wrong, empty if nothing did: reading goes on without a memory."""
        if self.file is None:
            return ""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(prefix=".last-good-", dir=self.file.parent)
            try:
                with os.fdopen(descriptor, "w") as opened:
                    json.dump({"commit": last.commit, "anchor": last.anchor}, opened)
                    opened.flush()
                    os.fsync(opened.fileno())
                Path(temporary).replace(self.file)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            return f"the last good commit could not be remembered in {self.file}: {error}"
        return ""


def hold(repository: Repository, commit: str) -> None:
    """Keep `commit` from being pruned, where the repository can be written."""
    with contextlib.suppress(SchedctlError):
        now = repository.ref(HOLD_REF)
        if now != commit:
            repository.move_ref(HOLD_REF, commit, now, "hold the last good commit")
