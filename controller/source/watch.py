# SPDX-License-Identifier: Apache-2.0
"""Sleep until a ref moves: inotify where it works, a look at the ref files every second behind it.

inotify sees nothing of another machine's writes on virtiofs or NFS, and may be out of watches; the look costs a few
small reads and no process. Either only wakes a question to Git, and Git's answer decides.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from controller.source.repository import Repository

Fingerprint = tuple[tuple[str, bytes], ...]
"""Name and content of each file that can hold a ref."""

POLL_S = 1.0
_REFS = ("refs/heads", "refs/remotes", "refs/schedctl/status")  # not the leases: nobody waits for those
_MOST_FOLDERS = 32  # each costs a thread
_QUIET_S = 0.05
_LONGEST_DEBOUNCE_S = 0.12
_FULL_LOOK_EVERY = 10
"""Looks after which Git is asked although no file changed: caches of network file systems, storages not known here."""


class Watch:
    """Waiting on one repository. Its observer starts with the first wait and ends with this object or the process."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._noticed = threading.Event()
        self._stop: weakref.finalize[[], Watch] | None = None
        self._asked_at: Fingerprint | None = None
        self._looks = 0

    def wait(self, changed: Callable[[], bool], timeout_s: float) -> bool:
        """True as soon as `changed()` says so, False after `timeout_s`, asked when ref files are not as before."""
        until = time.monotonic() + timeout_s
        if self._stop is None:
            self._stop = weakref.finalize(self, _observe(self._repository, self._noticed))
        self._noticed.clear()
        if self._look(changed):
            return True
        while (left := until - time.monotonic()) > 0:
            if self._noticed.wait(min(left, POLL_S)):
                _settle(self._noticed, until)
            if self._look(changed):
                return True
        return False

    def close(self) -> None:
        """End the observer; a later wait starts another."""
        if self._stop is not None:
            self._stop()
            self._stop = None

    def _look(self, changed: Callable[[], bool]) -> bool:
        now = _fingerprint(self._repository)
        self._looks += 1
        if now == self._asked_at and self._looks % _FULL_LOOK_EVERY:
            return False
        self._asked_at = now  # taken before asking: what moves meanwhile is seen by the next look
        return changed()


def _observe(repository: Repository, noticed: threading.Event) -> Callable[[], None]:
    """Set `noticed` whenever a file that can hold a ref, or the lock of one, is written or removed. Returns the end."""
    from watchdog.events import (
        FileClosedEvent,
        FileDeletedEvent,
        FileModifiedEvent,
        FileSystemEvent,
        FileSystemEventHandler,
    )
    from watchdog.observers import Observer

    class Handler(FileSystemEventHandler):
        def on_any_event(self, _: FileSystemEvent) -> None:
            noticed.set()

    # Git writes a lock, closes it and renames it onto the ref at once: the writing is watched and not the rename, which
    # watchdog (7.1) may hold back for 0.5 s to pair its two halves. Opening and reading is not watched either: asking
    # Git must not wake the one who asked.
    kinds = [FileModifiedEvent, FileClosedEvent, FileDeletedEvent]
    observer = Observer()
    with contextlib.suppress(OSError, RuntimeError):  # no inotify here, or no watch left: the poll is enough
        for folder in _watchable(repository):
            observer.schedule(Handler(), str(folder), recursive=False, event_filter=kinds)
        observer.start()

    def end() -> None:
        with contextlib.suppress(RuntimeError):  # collected in one of the observer's own threads
            observer.stop()

    return end


def _watchable(repository: Repository) -> list[Path]:
    """The folders that hold refs, each watched for itself; in one that appears later the poll sees what moves.

    Git makes and removes the folder of a ref with the ref, as it does with that of the leases. A recursive observer of
    watchdog (7.1) that sees such a folder come and go may end with a KeyError in its own thread.
    """
    common = repository.common_dir
    refs = (folder for name in _REFS for folder, _, _ in os.walk(common / name))
    return [folder for folder in (common, common / "reftable", *map(Path, refs)) if folder.is_dir()][:_MOST_FOLDERS]


def _settle(noticed: threading.Event, until: float) -> None:
    """Let a burst of changes end, but not for long: a push moves several refs within milliseconds."""
    latest = min(until, time.monotonic() + _LONGEST_DEBOUNCE_S)
    while (left := latest - time.monotonic()) > 0:
        noticed.clear()
        if not noticed.wait(min(_QUIET_S, left)):
            return
    noticed.clear()


def _fingerprint(repository: Repository) -> Fingerprint:
    """A ref file holds its commit id, packed refs are one file, a reftable lists its parts in one."""
    common = repository.common_dir
    files = [common / "packed-refs", common / "reftable" / "tables.list"]
    for name in _REFS:  # os.walk and not rglob, which raises for a folder that goes while it is listed (Python 3.11)
        for folder, _, names in os.walk(common / name):
            files += [Path(folder, each) for each in sorted(names)]
    return tuple(sorted((str(file), _content(file)) for file in files))


def _content(file: Path) -> bytes:
    try:
        status = file.stat()
        return b"%d %d" % (status.st_mtime_ns, status.st_ino) if status.st_size > 4096 else file.read_bytes()
    except OSError:
        return b""
