# SPDX-License-Identifier: Apache-2.0
"""Where the fields of an ELF object and of its BTF lie, to change one of them and leave the rest as it is."""

from __future__ import annotations

import struct

HEADER = {"type": (16, "H"), "machine": (18, "H"), "version": (20, "I"), "shoff": (40, "Q"), "shentsize": (58, "H"),
          "shnum": (60, "H"), "shstrndx": (62, "H")}  # fmt: skip
SECTION = {"name": (0, "I"), "type": (4, "I"), "flags": (8, "Q"), "addr": (16, "Q"), "offset": (24, "Q"),
           "size": (32, "Q"), "link": (40, "I"), "info": (44, "I"), "align": (48, "Q"), "entsize": (56, "Q"),
           }  # fmt: skip
BTF = {"magic": (0, "H"), "version": (2, "B"), "header": (4, "I"), "type_at": (8, "I"), "type_length": (12, "I"),
       "string_at": (16, "I"), "string_length": (20, "I")}  # fmt: skip


def get(image: bytes, at: int, kind: str) -> int:
    return int(struct.unpack_from(f"<{kind}", image, at)[0])


def put(image: bytes, at: int, kind: str, value: int) -> bytes:
    """With one field changed; a value that is too large for it is cut to size."""
    size = struct.calcsize(f"<{kind}")
    return image[:at] + (value & (1 << 8 * size) - 1).to_bytes(size, "little") + image[at + size :]


def header(image: bytes, field: str, value: int) -> bytes:
    at, kind = HEADER[field]
    return put(image, at, kind, value)


def table(image: bytes) -> list[int]:
    """Offsets of the section headers."""
    start, count = get(image, 40, "Q"), get(image, 60, "H")
    return [start + 64 * index for index in range(count)]


def names(image: bytes) -> dict[str, int]:
    """Section name → offset of its header."""
    rows = table(image)
    strings = get(image, rows[get(image, 62, "H")] + 24, "Q")
    found = {}
    for row in rows[1:]:
        start = strings + get(image, row, "I")
        found[image[start : image.index(b"\0", start)].decode()] = row
    return found


def section(image: bytes, name: str, field: str, value: int) -> bytes:
    at, kind = SECTION[field]
    return put(image, names(image)[name] + at, kind, value)


def content(image: bytes, name: str) -> tuple[int, int]:
    """Offset and size of a section's bytes."""
    row = names(image)[name]
    return get(image, row + 24, "Q"), get(image, row + 32, "Q")


def replaced(image: bytes, name: str, data: bytes) -> bytes:
    """The section holds `data`, which lies at the end of the file."""
    return section(section(image + data, name, "offset", len(image)), name, "size", len(data))


def btf_types(image: bytes) -> bytes:
    start, _size = content(image, ".BTF")
    begin = start + get(image, start + 4, "I") + get(image, start + 8, "I")
    return image[begin : begin + get(image, start + 12, "I")]


def btf_strings(image: bytes) -> bytes:
    start, _size = content(image, ".BTF")
    begin = start + get(image, start + 4, "I") + get(image, start + 16, "I")
    return image[begin : begin + get(image, start + 20, "I")]


def btf(types: bytes, strings: bytes) -> bytes:
    """A .BTF section of these parts."""
    return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)) + types + strings
