# SPDX-License-Identifier: Apache-2.0
"""What can be examined: a proposal with its template, C text, or a built object."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from controller.api import Proposal, SchedulerTemplate
from controller.errors import InputError

MAX_FILE = 8 << 20
_REMEDY = "give a .bpf.c or a .bpf.o file"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A scheduler that nothing is known of yet. Exactly one of `proposal`, `source` and `image` is set."""

    proposal: Proposal | None = None
    template: SchedulerTemplate | None = None
    source: str | None = None
    image: bytes | None = None

    @classmethod
    def from_proposal(cls, proposal: Proposal, template: SchedulerTemplate) -> Candidate:
        """A filled template, its text inline."""
        return cls(proposal=proposal, template=template)

    @classmethod
    def from_source(cls, source: str) -> Candidate:
        """C text."""
        return cls(source=source)

    @classmethod
    def from_object(cls, image: bytes) -> Candidate:
        """The bytes of a .bpf.o."""
        return cls(image=image)

    @classmethod
    def from_file(cls, path: Path) -> Candidate:
        """A file: what begins as ELF or is called `*.o` is an object, all else is text. InputError if unreadable."""
        try:
            if not path.is_file():
                reason = "is not a regular file" if path.exists() else "does not exist"
                raise InputError(f'the path "{path}" {reason}', remedy=_REMEDY)
            with path.open("rb") as file:
                data = file.read(MAX_FILE + 1)
        except OSError as error:
            raise InputError(f'reading "{path}": {error.strerror}', remedy=_REMEDY) from error
        if len(data) > MAX_FILE:
            raise InputError(f'"{path}" is larger than {MAX_FILE >> 20} MiB, more than any scheduler', remedy=_REMEDY)
        if path.suffix == ".o" or data.startswith(b"\x7fELF"):
            return cls.from_object(data)
        try:
            return cls.from_source(data.decode())
        except UnicodeDecodeError as error:
            raise InputError(f'"{path}" is neither C text nor a BPF object', remedy=_REMEDY) from error
