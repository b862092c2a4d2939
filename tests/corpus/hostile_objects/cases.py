# SPDX-License-Identifier: Apache-2.0
"""Objects with one thing wrong each, made from a good one; the audit refuses all of them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

from tests.corpus.hostile_objects import layout as at

CASES: dict[str, Callable[[bytes], bytes]] = {}


def case(name: str, make: Callable[[bytes], bytes]) -> None:
    assert name not in CASES, name
    CASES[name] = make


def _type(kind: int, count: int = 0, name: int = 0, refers: int = 0, tail: bytes = b"") -> bytes:
    return struct.pack("<III", name, kind << 24 | count, refers) + tail


def _with_types(good: bytes, more: bytes) -> bytes:
    return at.replaced(good, ".BTF", at.btf(at.btf_types(good) + more, at.btf_strings(good)))


def _only_types(good: bytes, types: bytes, strings: bytes = b"\0") -> bytes:
    return at.replaced(good, ".BTF", at.btf(types, strings))


def _string(good: bytes, text: bytes) -> int:
    return at.btf_strings(good).index(b"\0" + text + b"\0") + 1


def _no_names(image: bytes, name: str) -> bytes:
    start, size = at.content(image, name)
    return image[:start] + b"A" * size + image[start + size :]


def _bomb(good: bytes) -> bytes:
    data = struct.pack("<IIQQ", 1, 0, 64 << 20, 1) + zlib.compress(b"\0" * (64 << 20))
    return at.section(at.replaced(good, ".BTF", data), ".BTF", "flags", 0x800)


def _many_sections(good: bytes, count: int) -> bytes:
    rows = b"".join(good[row : row + 64] for row in at.table(good))
    extra = rows[64:128] * (count - len(rows) // 64)
    return at.header(at.header(good + rows + extra, "shoff", len(good)), "shnum", count)


def _symbols(good: bytes, count: int, *, name: int, index: int = 0) -> bytes:
    return at.replaced(good, ".symtab", struct.pack("<IBBHQQ", name, 0x10, 0, index, 0, 0) * count)


def _all_cover_all(good: bytes) -> bytes:
    for name in list(at.names(good)):
        if name != ".strtab":
            good = at.section(at.section(good, name, "offset", 0), name, "size", len(good))
    return good


def _maps(good: bytes, count: int, fields: int) -> bytes:
    """`count` variables in .maps, all of one struct with `fields` fields."""
    first = at_types(good)
    strings = at.btf_strings(good) + b".maps\0"
    named = len(strings) - 6
    struct_type = _type(4, fields, refers=8, tail=struct.pack("<III", 1, 1, 0) * fields)
    variable = _type(14, name=1, refers=first, tail=struct.pack("<I", 1))
    section = _type(15, count, name=named, refers=8 * count, tail=struct.pack("<III", first + 1, 0, 8) * count)
    return at.replaced(good, ".BTF", at.btf(at.btf_types(good) + struct_type + variable + section, strings))


def at_types(good: bytes) -> int:
    """The number that the next type of the good object's BTF would have."""
    from controller.verify import btf

    start, size = at.content(good, ".BTF")
    return len(btf.parse(good[start : start + size]).types)


def _retyped(good: bytes, kind: int) -> bytes:
    """Every function of the BTF points at itself through a chain of kind `kind`."""
    types = at.btf_types(good)
    count = at_types(good)
    chain = b"".join(_type(kind, refers=count + (index + 1) % 40) for index in range(40))
    data = bytearray(types + chain)
    position = 0
    tails = {1: (0, 4), 3: (0, 12), 4: (12, 0), 5: (12, 0), 6: (8, 0), 13: (8, 0), 14: (0, 4), 15: (12, 0),
             17: (0, 4), 19: (12, 0)}  # fmt: skip
    while position < len(types):
        _name, info, _refers = struct.unpack_from("<III", data, position)
        if info >> 24 & 31 == 14:
            struct.pack_into("<I", data, position + 8, count)
        each, fixed = tails.get(info >> 24 & 31, (0, 0))
        position += 12 + each * (info & 0xFFFF) + fixed
    return at.replaced(good, ".BTF", at.btf(bytes(data), at.btf_strings(good)))


for length in (0, 1, 4, 16, 52, 63, 64, 65, 128, 1000):
    case(f"truncated to {length} bytes", lambda good, length=length: good[:length])
for part in (2, 3, 4, 8, 100):
    case(f"its last {part}th missing", lambda good, part=part: good[: -(len(good) // part)])
case("zeros", lambda good: bytes(len(good)))
case("ones", lambda good: b"\xff" * len(good))
case("magic and ones", lambda good: good[:16] + b"\xff" * (len(good) - 16))
case("larger than the limit", lambda good: good + bytes(2 << 20))
case("a shell script", lambda good: b"#!/bin/sh\ntouch /tmp/owned\n")
case("an archive", lambda good: b"!<arch>\n" + good)
case("32-bit", lambda good: good[:4] + b"\x01" + good[5:])
case("big-endian", lambda good: good[:5] + b"\x02" + good[6:])
for machine, number in (("x86-64", 62), ("arm64", 183), ("none", 0), ("all bits", 0xFFFF)):
    case(f"for machine {machine}", lambda good, number=number: at.header(good, "machine", number))
for kind in (0, 2, 3, 4, 0xFFFF):
    case(f"of ELF type {kind}", lambda good, kind=kind: at.header(good, "type", kind))
for value in (0, 1, 63, 4096, 0xFFFF):
    case(f"section headers of {value} bytes", lambda good, value=value: at.header(good, "shentsize", value))
for value in (0, 1, 512, 0xFEFF, 0xFFFF):
    case(f"{value} sections claimed", lambda good, value=value: at.header(good, "shnum", value))
for value in (0, 200, 0xFFFF):
    case(f"names in section {value}", lambda good, value=value: at.header(good, "shstrndx", value))
for value in (0, 1, 1 << 31, 1 << 63, (1 << 64) - 64):
    case(f"section table at {value:#x}", lambda good, value=value: at.header(good, "shoff", value))
for name in (".BTF", ".symtab", ".strtab", "license", ".struct_ops.link"):
    for field, value in (("offset", 1 << 40), ("offset", (1 << 64) - 8), ("size", 1 << 30), ("size", (1 << 64) - 1)):
        case(f"{name} has {field} {value:#x}", lambda good, n=name, f=field, v=value: at.section(good, n, f, v))
for name in (".BTF", "license", ".struct_ops.link", ".symtab"):
    case(f"{name} is empty", lambda good, n=name: at.section(good, n, "size", 0))
    case(f"{name} has no bytes in the file", lambda good, n=name: at.section(good, n, "type", 8))
    case(f"{name} is compressed", lambda good, n=name: at.section(good, n, "flags", 0x800))
case("a bomb of zeros in .BTF", _bomb)
case("20000 sections", lambda good: _many_sections(good, 20000))
case("500 sections of one name", lambda good: _many_sections(good, 500))
case("each section covers the whole file", _all_cover_all)
case("two symbol tables", lambda good: at.section(good, "license", "type", 2))
case("symbols named by themselves", lambda good: at.section(good, ".symtab", "link", 1 << 31))
case("symbols of an odd size", lambda good: at.section(good, ".symtab", "size", 25))
case("40000 symbols", lambda good: _symbols(good, 40000, name=1))
case("16000 unknown symbols", lambda good: _symbols(good, 16000, name=1))
case("a symbol's name outside", lambda good: _symbols(good, 1, name=1 << 31))
case("names without an end", lambda good: _no_names(good, ".strtab"))
case("programs of odd size", lambda good: at.section(good, "struct_ops/fifo_enqueue", "size", 12))
case("a call through a register", lambda good: at.replaced(good, "struct_ops/fifo_enqueue", b"\x8d" + bytes(7)))
case(
    "a helper that no scheduler needs",
    lambda good: at.replaced(good, "struct_ops/fifo_enqueue", struct.pack("<BBhi", 0x85, 0, 0, 58)),
)
case("helper -1", lambda good: at.replaced(good, "struct_ops/fifo_enqueue", struct.pack("<BBhi", 0x85, 0, 0, -1)))
case(
    "100000 calls through registers",
    lambda good: at.replaced(good, "struct_ops/fifo_enqueue", (b"\x8d" + bytes(7)) * 100_000),
)
case("a second executable section", lambda good: at.section(good, "license", "flags", 4))
case("another licence", lambda good: good.replace(b"GPL\0", b"MIT\0", 1) if b"GPL\0" in good else b"")
case("a licence hidden behind a NUL", lambda good: at.replaced(good, "license", b"\0GPL\0"))
case("a licence without an end", lambda good: at.replaced(good, "license", b"GPL" * 1000))
case("a licence of other letters", lambda good: at.replaced(good, "license", "GРL".encode() + b"\0"))
for field in at.BTF:
    for value in (0, 0x7FFFFFFF, 0xFFFFFFFF):

        def _field(good: bytes, field: str = field, value: int = value) -> bytes:
            offset, kind = at.BTF[field]
            return at.put(good, at.content(good, ".BTF")[0] + offset, kind, value)

        if (field, value) not in (("type_at", 0),):
            case(f"BTF {field} = {value:#x}", _field)
case("BTF of 80000 types", lambda good: _only_types(good, _type(7) * 80000))
case("BTF of a struct with 65535 fields and no room", lambda good: _with_types(good, _type(4, 65535)))
case("BTF of an unknown kind", lambda good: _with_types(good, _type(31)))
case("BTF of kind 0", lambda good: _with_types(good, _type(0)))
case("BTF that ends in a head", lambda good: _with_types(good, b"\0" * 7))
case(
    "BTF names without an end", lambda good: at.replaced(good, ".BTF", at.btf(_type(7, name=1) * 30000, b"A" * 600_000))
)
case("BTF typedefs in a circle", lambda good: _retyped(good, 8))
case("BTF pointers in a circle", lambda good: _retyped(good, 2))
case("BTF arrays in a circle", lambda good: _retyped(good, 3)[:-1])
case("60000 maps of 1000 fields", lambda good: _maps(good, 60000, 1000))
case("one map of 60000 fields", lambda good: _maps(good, 1, 60000))
case("257 maps", lambda good: _maps(good, 257, 1))
case(
    "two tables of operations",
    lambda good: _with_types(
        good, _type(15, 1, name=_string(good, b".struct_ops.link"), refers=8, tail=struct.pack("<III", 1, 0, 8))
    ),
)
case("relocations of nothing", lambda good: at.section(good, ".strtab", "type", 9))
