# SPDX-License-Identifier: Apache-2.0
"""Replace, remove, append or take out one document of a YAML text, leaving every other byte where it is.

People keep comments, anchors and their own layout in these files, so they are edited as text: the parser only tells
where each document's content begins and ends. Documents are counted from 1 as `controller.api.decode` counts them.
"""

from __future__ import annotations

from dataclasses import dataclass

import yaml


@dataclass(frozen=True)
class Span:
    """Offsets of one document: its `---` (or directives), its content, its closing `...` if it has one."""

    opened: int
    start: int
    end: int
    closed: int


def spans(text: str) -> list[Span]:
    """Where each document of a text that parses lies. Content ends with the end of its last line."""
    found: list[Span] = []
    opened = start = end = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        begins, ends = _marks(event)
        if isinstance(event, yaml.DocumentStartEvent):
            opened, start, end = begins, -1, 0
        elif isinstance(event, yaml.DocumentEndEvent):
            content_end = _end_of_line(text, end)
            closed = _end_of_line(text, ends) if event.explicit else content_end
            found.append(Span(opened, _start_of_line(text, start), content_end, max(closed, content_end)))
        elif isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent):
            start = begins if start < 0 else start
            # Block collections open and close with marks of no length, or at their first key: only text counts.
            if not isinstance(event, yaml.CollectionStartEvent):
                closes_nothing = isinstance(event, yaml.CollectionEndEvent) and begins == ends
                end = end if closes_nothing else max(end, ends)
    return found


def replace(text: str, index: int, content: str) -> str:
    """`text` with the content of document `index` replaced; comments before and after it stay."""
    span = spans(text)[index - 1]
    before = text[: span.start]
    if before and not before.endswith(("\n", "\ufeff")):  # the content begins on the line of its `---`
        before = before.rstrip(" \t") + "\n"
    return before + _ended(content) + text[span.end :]


def remove(text: str, index: int) -> str:
    """`text` without document `index`. Empty if it was the only one."""
    found = spans(text)
    if len(found) == 1:
        return ""
    span = found[index - 1]
    return text[: span.opened] + text[span.closed :]


def append(text: str, content: str) -> str:
    """`text` with one more document at its end."""
    if not text.strip("\ufeff \t\r\n"):
        return _ended(content)
    return _ended(text) + "---\n" + _ended(content)


def content_of(text: str, index: int) -> str:
    """Only the content of document `index`: what `replace` puts in place of another."""
    span = spans(text)[index - 1]
    return _ended(text[span.start : span.end])


def document_of(text: str, index: int) -> str:
    """Document `index` with the comments that stand before it, as the text of a file of its own."""
    span = spans(text)[index - 1]
    before = text[span.opened : span.start] if index > 1 else text[: span.start]
    comments = [line for line in before.splitlines() if not line.strip() or line.lstrip().startswith("#")]
    return _ended("\n".join([*comments, ""]).lstrip("\n") + text[span.start : span.end])


def _marks(event: yaml.Event) -> tuple[int, int]:
    assert event.start_mark is not None
    assert event.end_mark is not None
    return event.start_mark.index, event.end_mark.index


def _start_of_line(text: str, at: int) -> int:
    line = text.rfind("\n", 0, at) + 1
    return line if not text[line:at].strip(" ") else at


def _end_of_line(text: str, at: int) -> int:
    if at and text[at - 1] == "\n":
        return at
    line = text.find("\n", at)
    return len(text) if line < 0 else line + 1


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"
