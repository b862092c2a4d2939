# SPDX-License-Identifier: Apache-2.0
"""Refuses C that asks the compiler for more than compiling, before any compiler sees it.

The sandbox of `clang.py` is the wall; this is the sentence in front of it: a candidate that tries `#include "/etc/…"`,
`.incbin` or a pragma that crashes the compiler is told so with a line, instead of failing obscurely or using up the
sandbox's limits. The scanner reads the text as the C standard orders its translation (splices, comments, literals,
directives), so that neither a comment nor a line splice hides a directive. What macros build by pasting tokens shows
only after preprocessing, so `screen_expanded` looks at that text too, and that text is what is compiled.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from controller.errors import CandidateRejected

MAX_SOURCE_BYTES = 1 << 20
MAX_UNROLL = 64

_DIRECTIVES = frozenset(
    ("include", "define", "undef", "if", "ifdef", "ifndef", "elif", "else", "endif", "error", "warning", "pragma", "")
)
_INCLUDE = re.compile(r'^(?:"([^"<>]+)"|<([^"<>]+)>)$')
_PRAGMA = re.compile(
    r"once|GCC diagnostic\b.*|unroll(?:\s*\(?\s*(\d+)\s*\)?)?|"
    r"clang attribute (?:pop|push ?\( ?__attribute__ ?\(\( ?preserve_access_index ?\)\) ?, ?apply_to ?= ?record ?\))"
)
_FORBIDDEN_WORDS = {
    "asm": "inline assembly can pull files in (.incbin)",
    "__asm": "inline assembly can pull files in (.incbin)",
    "__asm__": "inline assembly can pull files in (.incbin)",
    "__has_include": "it probes for files",
    "__has_include_next": "it probes for files",
    "__has_embed": "it probes for files",
    "__include_level__": "it tells about the include path",
    "_Pragma": "it is a pragma that hides in a macro",
    "__pragma": "it is a pragma that hides in a macro",
    "opencl_unroll_hint": "it unrolls loops without bound",
    "__DATE__": "the object would differ each time",
    "__TIME__": "the object would differ each time",
    "__TIMESTAMP__": "the object would differ each time",
}
_WORD = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")
# The second half turns the order of reading round, so that a person sees other code than the compiler.
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]|[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SPLICE = re.compile(r"\\[ \t\v\f]*\r?\n")
_TOKEN = re.compile(
    r"""(?P<block>/\*.*?\*/) | (?P<line>//[^\n]*) | (?P<raw>(?:u8|[uUL])?R"[^"\n]{0,16}\() |
        (?P<text>(?:u8|[uUL])?(?:"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')) | (?P<open>/\*|["'][^\n]*)""",
    re.VERBOSE | re.DOTALL,
)
_NO_UNWIND_TABLES = re.compile(r'"\.cfi_sections\\n%0 = 0" : "=r"\(zero\)\)')
"""The one directive that bpf/include gives the assembler: it names no file and writes nothing. Without an instruction
beside it two lines would be told of one instruction, which the kernel refuses."""
_DIGRAPH = {"%:": "#", "<:": "[", ":>": "]", "<%": "{", "%>": "}"}


@dataclass(frozen=True, slots=True)
class _Line:
    """One logical line: 1-based number of its first physical line, text without comments, text without literals."""

    number: int
    text: str
    bare: str


class BuildRejected(CandidateRejected):
    """The build stage's refusal; `line` is 1-based in the candidate, None when it is about no one line."""

    def __init__(self, message: str, line: int | None = None, *, evidence: str = "", remedy: str = "") -> None:
        super().__init__("build", f"line {line}: {message}" if line else message, evidence=evidence, remedy=remedy)
        self.line = line


def screen(source: str, headers: Collection[str]) -> None:
    """Raise BuildRejected for the first construct in `source` that is not allowed.

    `headers` are the names, relative to the one include folder, that may be included.
    """
    if len(source.encode("utf-8", "surrogatepass")) > MAX_SOURCE_BYTES:
        raise BuildRejected(f"the source is larger than {MAX_SOURCE_BYTES >> 20} MiB")
    control = _CONTROL.search(source)
    if control:
        line = source.count("\n", 0, control.start()) + 1
        raise BuildRejected(f"the control character {control.group()!r} has no place in C", line)
    for logical in _logical_lines(source):
        _screen_line(logical, headers)


def screen_expanded(text: str) -> None:
    """The same for preprocessed text: what macros can build there is pragmas and assembler directives."""
    for line in _logical_lines(text):
        stripped = line.bare.strip()
        if stripped.startswith("#"):
            name, _, rest = stripped[1:].strip().partition(" ")
            if name == "pragma" and not _pragma_allowed(rest):
                raise BuildRejected(f"a macro expands to #pragma {rest.strip()[:60]}, which is not allowed")
    for body in _asm_bodies(text):
        _screen_asm(body)


def _screen_line(line: _Line, headers: Collection[str]) -> None:
    bare = line.bare.lstrip()
    for digraph in ("%:", "#"):
        if bare.startswith(digraph):
            _screen_directive(line, line.text.lstrip()[len(digraph) :].strip(), headers)
    for match in _WORD.finditer(line.bare):
        why = _FORBIDDEN_WORDS.get(match.group())
        if why:
            raise BuildRejected(f"{match.group()} is not allowed: {why}", line.number, remedy="take it out")


def _screen_directive(line: _Line, text: str, headers: Collection[str]) -> None:
    match = _WORD.match(text)
    name = match.group() if match else text[:1]
    rest = text[len(name) :].strip()
    if name not in _DIRECTIVES:
        raise BuildRejected(f"the directive #{name} is not allowed", line.number, remedy="take it out")
    if name == "include":
        _screen_include(line, rest, headers)
    elif name == "pragma" and not _pragma_allowed(rest):
        raise BuildRejected(
            f"#pragma {rest[:60]} is not allowed", line.number, remedy=f"allowed: once, unroll N (N ≤ {MAX_UNROLL})"
        )


def _screen_include(line: _Line, rest: str, headers: Collection[str]) -> None:
    match = _INCLUDE.match(rest)
    if match is None:
        raise BuildRejected("#include must name a header, not a macro", line.number, remedy="write the name out")
    name = match[1] or match[2]
    if name not in headers:
        raise BuildRejected(
            f"#include of {name!r:.100} is not allowed", line.number, remedy=f"allowed: {', '.join(sorted(headers))}"
        )


def _pragma_allowed(text: str) -> bool:
    match = _PRAGMA.fullmatch(" ".join(text.split()))
    return match is not None and (match[1] is None or int(match[1]) <= MAX_UNROLL)


def _logical_lines(source: str) -> Iterator[_Line]:
    """Translation phases 2 and 3: splice lines, then replace each comment by a space."""
    starts: list[int] = []  # offset in the spliced text at which each further physical line begins
    parts: list[str] = []
    length = 0
    last = 0
    for splice in _SPLICE.finditer(source):
        parts.append(source[last : splice.start()])
        length += splice.start() - last
        starts.append(length)
        last = splice.end()
    spliced = "".join((*parts, source[last:]))
    text, bare = _without_comments(spliced)
    offset = 0
    number = 1
    passed = 0
    for full, plain in zip(text.split("\n"), bare.split("\n"), strict=True):
        while passed < len(starts) and starts[passed] < offset:
            passed += 1
        yield _Line(number + passed, full, plain)
        offset += len(full) + 1
        number += 1


def _without_comments(spliced: str) -> tuple[str, str]:
    """Same length and same line breaks: without comments, and without literals' contents as well."""
    text: list[str] = []
    bare: list[str] = []
    last = 0
    for match in _TOKEN.finditer(spliced):
        between = spliced[last : match.start()]
        text.append(between)
        bare.append(between)
        found = match.group()
        blank = re.sub(r"[^\n]", " ", found)
        line = spliced.count("\n", 0, match.start()) + 1
        if match.lastgroup == "raw":
            raise BuildRejected("raw string literals are not allowed", line, remedy="use an ordinary string")
        if match.lastgroup == "open" and found == "/*":
            raise BuildRejected("a comment is not closed", line)
        # A lone quote (an apostrophe in #error) makes clang skip the rest of its line; here that stays in sight.
        lone = match.lastgroup == "open"
        text.append(found if lone or match.lastgroup == "text" else blank)
        bare.append(found if lone else blank)
        last = match.end()
    text.append(spliced[last:])
    bare.append(spliced[last:])
    return "".join(text), "".join(bare)


def _asm_bodies(text: str) -> Iterator[str]:
    """The parenthesised part of each asm statement that is there after preprocessing."""
    for match in re.finditer(r"\b(?:asm|__asm__|__asm)\b[^(;{]*\(", text):
        depth = 1
        position = match.end()
        while position < len(text) and depth:
            token = re.compile(r'"(?:\\.|[^"\\\n])*"|[()]|[^"()]+|"', re.DOTALL).match(text, position)
            if token is None:
                break
            depth += {"(": 1, ")": -1}.get(token.group(), 0)
            position = token.end()
        yield text[match.end() : position]


def _screen_asm(body: str) -> None:
    """Only instructions, as bpf/include uses them: an assembler directive starts with a dot, and nothing is escaped."""
    if _NO_UNWIND_TABLES.fullmatch(body.strip()):
        return
    template = "".join(re.findall(r'"((?:\\.|[^"\\\n])*)"', body))
    if re.search(r"\\[^nt\"]", template) or re.search(r"(?:^|\\n|\\t|[;\s])\s*\.[A-Za-z]", template) or "#" in template:
        raise BuildRejected("inline assembly with an assembler directive is not allowed", remedy="take it out")
