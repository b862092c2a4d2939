# SPDX-License-Identifier: Apache-2.0
"""Every error schedctl raises on purpose.

    SchedctlError                 anything a user can be told in a sentence; never shown as a traceback
    ├── InputError                what the user gave is wrong (exit 1)
    │   ├── ManifestError         a YAML document: file, document index, line, field
    │   ├── RepositoryError       not a Git repository, no such branch, history rewritten, refused content
    │   └── TemplateError         a template or its parameters
    ├── CandidateRejected         the scheduler is bad; carries stage and evidence (exit 1)
    ├── ToolMissing               a program, library or kernel image is not there; carries the mending command (exit 2)
    ├── CouldNotTell              the environment failed, so there is no verdict (exit 2)
    │   ├── GuestError            the micro-VM died, hung or answered nonsense
    │   └── DeadlineExceeded      a step outlived its deadline
    ├── KernelError               this kernel refused: no sched_ext, no permission, attach failed
    │   └── LoadRefused           the kernel's BPF verifier or libbpf refused an object; carries the log
    └── TrustError                a passport, key or signature is not good enough

    Interrupted                   we were asked to stop; no SchedctlError: nothing that handles those shall hold it up

Each message says what was being done, to which file or object, and what to do next (`remedy`).
This module uses the standard library alone: the loader inside the micro-VM imports it.
"""

from __future__ import annotations


class SchedctlError(Exception):
    """Base of the tree. `remedy` is one sentence or command that mends it; `exit_code` is what a face exits with."""

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class InputError(SchedctlError):
    """What the user gave is wrong."""


class ManifestError(InputError):
    """One document of one file is wrong.

    `text` is the kubectl-worded message (it may span lines), `where` is `file`, 1-based `document` and `line`.
    """

    def __init__(self, text: str, *, file: str = "", document: int = 0, line: int = 0, remedy: str = "") -> None:
        place = file
        if place and line:
            place += f":{line}"
        if place and document:
            place += f" (document {document})"
        super().__init__(f"{place}: {text}" if place else text, remedy=remedy)
        self.text = text
        self.file = file
        self.document = document
        self.line = line


class RepositoryError(InputError):
    """The policy repository cannot be read as one."""


class TemplateError(InputError):
    """A template, its parameters or its holes do not fit together."""


class CandidateRejected(SchedctlError):
    """The candidate scheduler failed `stage`; `evidence` is the text that shows it."""

    def __init__(self, stage: str, message: str, *, evidence: str = "", remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.stage = stage
        self.evidence = evidence


class ToolMissing(SchedctlError):
    """A program, library or kernel image that a step needs is not on this machine."""

    exit_code = 2


class CouldNotTell(SchedctlError):
    """The environment failed before a verdict: never a pass, never the candidate's fault."""

    exit_code = 2


class GuestError(CouldNotTell):
    """The micro-VM died, hung or spoke nonsense; `console` is the tail of what it printed.

    `in_charge` tells whether a candidate was attached then: only in that case can it be to blame.
    """

    def __init__(self, message: str, *, console: str = "", remedy: str = "", in_charge: bool = False) -> None:
        super().__init__(message, remedy=remedy)
        self.console = console
        self.in_charge = in_charge


class DeadlineExceeded(CouldNotTell):
    """A step outlived its deadline."""


class KernelError(SchedctlError):
    """The running kernel refused."""


class LoadRefused(KernelError):
    """libbpf or the kernel's BPF verifier refused the object; `log` is what they said."""

    def __init__(self, message: str, *, log: str = "", remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.log = log


class Interrupted(KeyboardInterrupt):
    """A signal asks us to stop (its name is the argument): clean up, and come to no verdict."""


class TrustError(SchedctlError):
    """A passport, key or signature is not good enough to act on."""
