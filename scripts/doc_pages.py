# SPDX-License-Identifier: Apache-2.0
"""What the pages of docs/ that are written from the code and from bench/results share: tables, results, the command.

A page has two halves. What comes from the code is checked: a test fails while the committed page says something else.
What was measured is not, for figures change with every run; a figure that is not there is said to be missing, and none
is made up. A page is replaced as a whole or not at all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller.errors import InputError, SchedctlError
from controller.kernel import leftovers

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
MEASURED = "<!-- measured: from bench/results -->"
NOT_MEASURED = "**not measured**"


def read_document(path: Path) -> dict[str, Any]:
    """A bench's result, {} when there is none. InputError for a file that is no JSON object."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"reading {path}: {error}", remedy="measure it again, or delete it") from None
    if not isinstance(document, dict):
        raise InputError(f"reading {path}: it is not a JSON object", remedy="measure it again, or delete it")
    return document


def cell(value: object) -> str:
    """A value that cannot break out of its table cell."""
    return " ".join(str(value).replace("|", "\\|").split()) or "–"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(map(cell, row)) + " |" for row in rows)])


def yes_no(met: bool | None) -> str:
    """Whether a bar is held; None where that could not be told."""
    return "–" if met is None else "yes" if met else "**no**"


@dataclass(frozen=True, slots=True)
class Page:
    """docs/NAME.md: `from_code` is the half that needs no measurement, `measured` makes the other from a folder of
    results; it may raise any of KeyError, TypeError, AttributeError, ValueError, IndexError for a file of another form
    than its bench writes."""

    name: str
    from_code: Callable[[], str]
    measured: Callable[[Path], str]

    @property
    def path(self) -> Path:
        """The committed page."""
        return ROOT / "docs" / f"{self.name}.md"

    def document(self, results: Path) -> str:
        """The whole page. InputError for a results file that is broken or has another form than its bench writes."""
        try:
            return f"{self.from_code()}\n{MEASURED}\n\n{self.measured(results)}"
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            raise InputError(
                f"a file of {results} has another form than its bench writes: {type(error).__name__}: {error}",
                remedy="measure it again, or delete it",
            ) from error

    def differs(self, doc: Path) -> str:
        """ "" when the half that comes from the code is what `doc` says, else a sentence."""
        try:
            text = doc.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            return f"{doc.name} cannot be read: {error}"
        there = text.partition(MEASURED)[0].splitlines()
        now = (self.from_code() + "\n").splitlines()
        for number in range(max(len(there), len(now))):
            old, new = (lines[number] if number < len(lines) else "" for lines in (there, now))
            if old != new:
                return f"{doc.name}:{number + 1} is not what the code says: {new[:100] or 'nothing'}"
        return ""

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Write the page, or check it; 0 done or current, 1 not."""
        parser = argparse.ArgumentParser(description=f"Write docs/{self.name}.md from the code and bench/results.")
        parser.add_argument(
            "--check", action="store_true", help="write nothing; say whether the half from the code is current"
        )
        parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="default: bench/results")
        parser.add_argument(
            "--output", type=Path, default=self.path, metavar="FILE", help=f"default: docs/{self.name}.md"
        )
        arguments = parser.parse_args(argv)
        if arguments.check:
            problem = self.differs(arguments.output)
            if problem:
                print(f"error: {problem} (run: make {self.name}-doc)", file=sys.stderr)
            return 1 if problem else 0
        try:
            text = self.document(arguments.results)
            leftovers.write(arguments.output, text.encode())
        except (SchedctlError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        missing = text.count(NOT_MEASURED)
        print(
            f"wrote {arguments.output.name}" + f"; {missing} places say that a figure was not measured" * bool(missing)
        )
        return 0
