# SPDX-License-Identifier: Apache-2.0
"""The last profiles of a node, kept in its state folder so that a restarted agent goes on with them.

A file a profile, numbered upwards, each written whole or not at all; the oldest go when there are too many or they take
too much room. Only their sizes are held in memory. What cannot be read back (a disk that was full, a crash, another
version's profile) is removed: a lost profile costs a node nothing but the memory of one window.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from controller.api.profile import WorkloadProfile
from controller.kernel import leftovers

MOST = 120
"""Profiles: two hours of one a minute."""

MOST_BYTES = 16 << 20
_NAME = re.compile(r"(\d{12})\.json")


class Ring:
    """The folder's profiles, at most `most` of them and `most_bytes` in all; the newest stays whatever its size."""

    def __init__(self, folder: Path, *, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self._folder, self._most, self._most_bytes = folder, most, most_bytes
        self._sizes = dict(sorted(_found(folder)))

    def __len__(self) -> int:
        return len(self._sizes)

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(self._sizes.values())

    def add(self, profile: WorkloadProfile) -> None:
        """Keep one more. Raises OSError if it cannot be written; the ring is then as it was."""
        number = max(self._sizes, default=0) + 1
        data = profile.canonical()
        leftovers.write(self._file(number), data)
        self._sizes[number] = len(data)
        while len(self._sizes) > 1 and (len(self._sizes) > self._most or self.size > self._most_bytes):
            self._remove(min(self._sizes))

    def profiles(self, newest: int = MOST) -> Iterator[WorkloadProfile]:
        """The newest so many, oldest first, one at a time."""
        for number in sorted(self._sizes)[-newest:]:
            try:
                yield WorkloadProfile.model_validate_json(self._file(number).read_bytes())
            except (OSError, ValidationError):
                self._remove(number)

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:012d}.json"

    def _remove(self, number: int) -> None:
        del self._sizes[number]
        try:
            self._file(number).unlink(missing_ok=True)
        except OSError:  # a folder that cannot be written: `add` says so
            pass


def _found(folder: Path) -> Iterator[tuple[int, int]]:
    try:
        entries = list(folder.iterdir())
    except OSError:  # not there yet
        return
    for entry in entries:
        name = _NAME.fullmatch(entry.name)
        if name is not None and entry.is_file():
            yield int(name[1]), entry.stat().st_size
