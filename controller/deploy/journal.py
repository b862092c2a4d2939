# SPDX-License-Identifier: Apache-2.0
"""The node's journal: one JSON file, replaced atomically, read back by the next agent.

It is written before an action (so that a crash in the middle is seen) and after it. A journal that cannot be read is
moved aside and the node is held on the kernel's own scheduler: a lost quarantine must not let a bad scheduler return.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from controller.api import ApiModel, ExitReport, NodeEvent, Quarantined, now
from controller.api.base import Timestamp

_FILE = "journal.json"
_MAX_EVENTS = 50
_MAX_OF_A_REASON = 10
"""A load that goes to and fro, or a revision refused again and again, must not push out what else happened."""
_MAX_QUARANTINE = 256


class Record(ApiModel):
    """What was attached, by whom and how far it came."""

    revision: str
    object_digest: str
    passport_digest: str
    ops_name: str
    since: Timestamp
    phase: Literal["Attaching", "Probation", "Promoted"]
    boot_id: str
    code: str = ""
    """Digest of the loaded object without its knobs' values; "" when it has none."""
    knobs: str = ""
    """The values of its knobs now, in hexadecimal."""
    loaded: str | None = None
    """The revision whose object is loaded, after the knobs of `revision` were written into it."""
    tuning: str | None = None
    """The revision whose knobs are being written: found by the next agent, it means that this one died meanwhile."""


class Entries(ApiModel):
    """The journal's content."""

    attached: Record | None = None
    last_good: str | None = None
    quarantine: tuple[Quarantined, ...] = ()
    last_exit: ExitReport | None = None
    events: tuple[NodeEvent, ...] = ()


def peek(directory: Path) -> Record | None:
    """What is attached by the journal there, for who only looks: nothing is moved, and no journal is no error.

    Raises OSError if it cannot be read.
    """
    try:
        return Entries.model_validate_json((directory / _FILE).read_bytes()).attached
    except (FileNotFoundError, ValidationError):
        return None


class Journal:
    """The file. `entries` is the last state written or read."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _FILE
        self.unreadable = ""
        self.entries = self._load()

    def update(self, **changes: object) -> None:
        """Write the journal with `changes` applied; durable when this returns."""
        self.entries = self.entries.model_copy(update=changes)
        self._save()

    def event(self, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Remember that something happened; a repetition of the newest event is not written twice.

        Of one reason the newest 10 are kept, of all the newest 50.
        """
        last = self.entries.events[-1] if self.entries.events else None
        if last is not None and (last.type, last.reason, last.message) == (kind, reason, message):
            return
        event = NodeEvent(at=now(), type=kind, reason=reason, message=message)
        alike = [each for each in self.entries.events if each.reason == reason]
        pushed_out = alike[: -(_MAX_OF_A_REASON - 1)]
        kept = tuple(each for each in self.entries.events if each not in pushed_out)
        self.update(events=(*kept, event)[-_MAX_EVENTS:])

    def quarantine(self, entry: Quarantined) -> None:
        """Never attach this digest under this passport on this kernel again."""
        kept = [q for q in self.entries.quarantine if q.object_digest != entry.object_digest]
        self.update(quarantine=(*kept, entry)[-_MAX_QUARANTINE:])

    def _load(self) -> Entries:
        try:
            return Entries.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return Entries()
        except (ValidationError, OSError) as error:
            aside = self._path.with_suffix(".unreadable")
            self.unreadable = f"{self._path} could not be read ({type(error).__name__}); it is kept as {aside.name}"
            if self._path.exists():
                self._path.replace(aside)
            return Entries()

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".new")
        with temporary.open("wb") as file:
            file.write(self.entries.canonical())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
