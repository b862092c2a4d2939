# SPDX-License-Identifier: Apache-2.0
"""How kubectl lays out text: elastic tab stops, ages, and cells that cannot write to the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from difflib import get_close_matches

_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86400, 86400 * 365


def align(rows: Sequence[Sequence[str]], *, padding: int = 3, minimum: int = 0) -> str:
    """Rows of cells as lines. A column is as wide as its widest cell among *neighbouring* rows that go on after it,
    so that a heading without cells starts a new column, as Go's tabwriter does. The last cell of a row is not padded.
    """
    padded = [list(row) for row in rows]
    _pad(padded, 0, len(padded), 0, padding, minimum)
    return "".join("".join(row) + "\n" for row in padded)


def _pad(rows: list[list[str]], start: int, end: int, column: int, padding: int, minimum: int) -> None:
    row = start
    while row < end:
        if len(rows[row]) <= column + 1:
            row += 1
            continue
        last = row
        while last < end and len(rows[last]) > column + 1:
            last += 1
        width = max(minimum, *(len(rows[i][column]) + padding for i in range(row, last)))
        for i in range(row, last):
            rows[i][column] = rows[i][column].ljust(width)
        _pad(rows, row, last, column + 1, padding, minimum)
        row = last


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, headers: bool = True) -> str:
    """A kubectl table: UPPERCASE header, three spaces between columns, no borders."""
    cells = [[cell(value) for value in row] for row in rows]
    return align([list(header), *cells] if headers else cells, padding=3, minimum=6)


def cell(value: str) -> str:
    """`value` on one line with every control character spelt out: names of processes are not ours to trust."""
    first, newline, _ = value.rstrip("\n").partition("\n")
    return printable(first) + ("..." if newline else "")


def one_line(value: str) -> str:
    """All of `value` on one line, for places that are not a table's."""
    return printable(" ".join(value.split()))


def printable(value: str) -> str:
    """`value` with control characters, which could drive the terminal, as escapes; tabs and newlines stay."""
    if value.isprintable():
        return value
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in value)


def age(since: datetime | None, now: datetime) -> str:
    """The time from `since` to `now` as kubectl writes it: 12s, 5m3s, 3h, 2d4h, 3y10d; `<unknown>` without a start."""
    if since is None:
        return "<unknown>"
    seconds = int((now - since).total_seconds())
    if seconds < 0:
        return "0s" if seconds >= -1 else "<invalid>"
    if seconds < 2 * _MINUTE:
        return f"{seconds}s"
    # Each row: below this age, in this unit, with the rest in that smaller one.
    steps = (
        (10 * _MINUTE, _MINUTE, "m", 1, "s"),
        (3 * _HOUR, _MINUTE, "m", 0, ""),
        (8 * _HOUR, _HOUR, "h", _MINUTE, "m"),
        (2 * _DAY, _HOUR, "h", 0, ""),
        (8 * _DAY, _DAY, "d", _HOUR, "h"),
        (2 * _YEAR, _DAY, "d", 0, ""),
        (8 * _YEAR, _YEAR, "y", _DAY, "d"),
    )
    for limit, unit, name, small, small_name in steps:
        if seconds < limit:
            rest = seconds % unit // small if small else 0
            return f"{seconds // unit}{name}" + (f"{rest}{small_name}" if rest else "")
    return f"{seconds // _YEAR}y"


def suggestion(word: str, known: Sequence[str]) -> str:
    """kubectl's `Did you mean this?` block for a mistyped word; empty when nothing is near."""
    near = get_close_matches(word, known, n=3, cutoff=0.6)
    return "\n\nDid you mean this?\n" + "\n".join(f"\t{name}" for name in near) if near else ""
