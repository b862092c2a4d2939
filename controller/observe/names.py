# SPDX-License-Identifier: Apache-2.0
"""Names that others chose: process names and cgroup paths, made safe to show and matched without surprises.

A process may call itself anything, so what leaves this package is printable ASCII of bounded length, and a pattern is
matched in time linear in pattern × name: a regular expression made from `*a*a*a*…` would not be.
"""

from __future__ import annotations

COMM_BYTES = 15
"""TASK_COMM_LEN without its NUL."""

PATH_CHARACTERS = 1000

_CUT = "..."


def printable(raw: bytes, limit: int = PATH_CHARACTERS) -> str:
    r"""`raw` as printable ASCII: other bytes become `\xNN`, what is longer than `limit` ends in `...`.

    >>> printable(b"a\n\xff")
    'a\\x0a\\xff'
    """
    text = "".join(chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}" for byte in raw)
    return text if len(text) <= limit else text[: limit - len(_CUT)] + _CUT


def glob(pattern: bytes, name: bytes) -> bool:
    """Whether `name` matches `pattern` whole: `*` is any run of bytes (`/` too), `?` any one, all else itself."""
    p = n = 0
    star = resume = -1
    while n < len(name):
        if p < len(pattern) and pattern[p : p + 1] == b"*":
            star, resume = p, n
            p += 1
        elif p < len(pattern) and (pattern[p : p + 1] == b"?" or pattern[p] == name[n]):
            p += 1
            n += 1
        elif star >= 0:
            resume += 1
            p, n = star + 1, resume
        else:
            return False
    return pattern[p:].strip(b"*") == b""
