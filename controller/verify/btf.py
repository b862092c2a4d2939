# SPDX-License-Identifier: Apache-2.0
"""The part of BTF that an audit needs: types by number, and which variables lie in which section.

BTF is the type information that clang -g puts into a BPF object (kernel: Documentation/bpf/btf.rst). Maps, kfuncs and
the ops table are described there and nowhere else. The bytes are untrusted: every offset is checked against the length
and a wrong one is a ValueError.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

MAX_TYPES = 65536
MAX_NAME = 512
PTR, ARRAY, STRUCT, UNION, ENUM, FUNC, VAR, DATASEC = 2, 3, 4, 5, 6, 12, 14, 15
_MODIFIERS = frozenset((8, 9, 10, 11, 18))  # typedef, volatile, const, restrict, type tag
_EXTRA = {
    1: (0, 4),
    3: (0, 12),
    4: (12, 0),
    5: (12, 0),
    6: (8, 0),
    13: (8, 0),
    14: (0, 4),
    15: (12, 0),
    17: (0, 4),
    19: (12, 0),
}
_KINDS = 20


@dataclass(frozen=True, slots=True)
class Member:
    """A field of a struct; `offset` in bytes."""

    name: str
    type_id: int
    offset: int


@dataclass(frozen=True, slots=True)
class Type:
    """One type. `size` is bytes for what has a size; `refers`: the type that a pointer or variable refers to."""

    kind: int
    name: str
    size: int
    refers: int
    members: tuple[Member, ...] = ()
    count: int = 0
    """Of an array's elements."""


@dataclass(frozen=True, slots=True)
class Btf:
    """All types, the first at index 1 (0 is void)."""

    types: tuple[Type, ...]

    def type(self, number: int) -> Type:
        """The type, without typedefs and qualifiers. ValueError for a number that is none, or a circle."""
        for _ in range(32):
            if not 0 <= number < len(self.types):
                raise ValueError(f"no type {number}")
            found = self.types[number]
            if found.kind not in _MODIFIERS:
                return found
            number = found.refers
        raise ValueError("types refer to each other in a circle")

    def section(self, name: str) -> tuple[Type, ...]:
        """The variables and functions that lie in a section."""
        found = [t for t in self.types if t.kind == DATASEC and t.name == name]
        return tuple(self.types[m.type_id] for t in found for m in t.members if 0 <= m.type_id < len(self.types))

    def size_of(self, number: int) -> int:
        """Bytes of a type. ValueError for what has no size."""
        times = 1
        for _ in range(32):
            found = self.type(number)
            if found.kind == ARRAY:
                times *= found.count
                number = found.refers
            elif found.kind == PTR:
                return 8 * times
            else:
                return found.size * times
        raise ValueError("arrays of arrays without end")

    def struct_member(self, struct_type: Type, name: str) -> Member | None:
        """The field `name`, if the struct has it."""
        return next((m for m in struct_type.members if m.name == name), None)


def parse(data: bytes) -> Btf:
    """The BTF in a .BTF section. ValueError for anything else."""
    try:
        magic, version, _flags, header, type_at, type_len, string_at, string_len = struct.unpack_from("<HBBIIIII", data)
        if magic != 0xEB9F or version != 1 or header < 24:
            raise ValueError("not BTF")
        types = _slice(data, header + type_at, type_len)
        strings = _slice(data, header + string_at, string_len)
        return Btf((Type(0, "", 0, 0), *_types(types, strings)))
    except struct.error as error:
        raise ValueError("BTF ends in the middle") from error


def check_ext(data: bytes) -> None:
    """ValueError unless this is the line information of a .BTF.ext section, or nothing."""
    if not data:
        return
    try:
        magic, version, _flags, header, *parts = struct.unpack_from("<HBBIIIII", data)
    except struct.error as error:
        raise ValueError(".BTF.ext ends in the middle") from error
    if magic != 0xEB9F or version != 1 or header < 24:
        raise ValueError("its .BTF.ext is none")
    for start, length in (parts[:2], parts[2:]):
        _slice(data, header + start, length)


def _slice(data: bytes, start: int, length: int) -> bytes:
    if start + length > len(data):
        raise ValueError("BTF points outside itself")
    return data[start : start + length]


def _types(data: bytes, strings: bytes) -> list[Type]:
    found: list[Type] = []
    position = 0
    while position < len(data):
        if len(found) >= MAX_TYPES:
            raise ValueError(f"more than {MAX_TYPES} types")
        name_at, info, size_or_type = struct.unpack_from("<III", data, position)
        kind, count, flag = info >> 24 & 0x1F, info & 0xFFFF, bool(info >> 31)
        if not 0 < kind < _KINDS:
            raise ValueError(f"unknown kind of type {kind}")
        position += 12
        each, fixed = _EXTRA.get(kind, (0, 0))
        found.append(_type(data, position, strings, (kind, count, flag, _name(strings, name_at), size_or_type)))
        position += each * count + fixed
    if position != len(data):
        raise ValueError("BTF ends in the middle")
    return found


def _type(data: bytes, position: int, strings: bytes, head: tuple[int, int, bool, str, int]) -> Type:
    kind, count, flag, name, size_or_type = head
    if kind == ARRAY:
        element, _index, elements = struct.unpack_from("<III", data, position)
        return Type(kind, name, 0, element, count=elements)
    if kind in (STRUCT, UNION):
        fields = [struct.unpack_from("<III", data, position + 12 * i) for i in range(count)]
        bits = 0xFFFFFF if flag else 0xFFFFFFFF  # with the flag the upper byte is a bit-field's width
        return Type(
            kind, name, size_or_type, 0, tuple(Member(_name(strings, n), t, (o & bits) // 8) for n, t, o in fields)
        )
    if kind == DATASEC:
        entries = [struct.unpack_from("<III", data, position + 12 * i) for i in range(count)]
        return Type(kind, name, size_or_type, 0, tuple(Member("", t, o) for t, o, _size in entries))
    if kind in (1, 6, 16, 19):
        return Type(kind, name, size_or_type, 0)
    return Type(kind, name, 0, size_or_type)


def _name(strings: bytes, start: int) -> str:
    end = strings.find(b"\0", start, start + MAX_NAME)
    if end < 0:
        raise ValueError(f"a name is longer than {MAX_NAME} bytes or lies outside the strings")
    return strings[start:end].decode("utf-8", "replace")
