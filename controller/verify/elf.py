# SPDX-License-Identifier: Apache-2.0
"""A reader of untrusted 64-bit little-endian relocatable ELF objects that does only what an audit needs.

General ELF libraries follow whatever a file says: they unpack compressed sections, walk tables of any length and make
Python raise anything. Here each number is checked against the length of the file before it is used, nothing is copied
twice, and sections may not overlap, so reading takes time and memory in proportion to the file and a broken one is a
ValueError with a sentence.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

EM_BPF = 247
SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOBITS, SHT_REL = 2, 3, 4, 8, 9
SHF_EXECINSTR, SHF_COMPRESSED = 4, 0x800
SHN_UNDEF = 0
STB_WEAK = 2
STT_FILE = 4
MAX_SECTIONS = 512
MAX_SYMBOLS = 16384
MAX_NAME = 512
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")


@dataclass(frozen=True, slots=True)
class Section:
    """One section header; `offset` and `size` lie inside the file unless the type is SHT_NOBITS."""

    name: str
    type: int
    flags: int
    offset: int
    size: int
    link: int

    @property
    def executable(self) -> bool:
        """Does it hold instructions?"""
        return bool(self.flags & SHF_EXECINSTR)


@dataclass(frozen=True, slots=True)
class Symbol:
    """One named entry of the symbol table."""

    name: str
    weak: bool
    undefined: bool
    type: int


@dataclass(frozen=True, slots=True)
class Elf:
    """The sections but for the empty first one, in the order of the file."""

    image: bytes
    sections: tuple[Section, ...]

    def data(self, section: Section) -> bytes:
        """A section's bytes; none of SHT_NOBITS."""
        return b"" if section.type == SHT_NOBITS else self.image[section.offset : section.offset + section.size]

    def symbols(self) -> tuple[Symbol, ...]:
        """The named symbols. ValueError without exactly one sound symbol table."""
        tables = [section for section in self.sections if section.type == SHT_SYMTAB]
        if len(tables) != 1:
            raise ValueError(f"it has {len(tables) or 'no'} symbol tables")
        table = tables[0]
        if table.size % _SYMBOL.size or table.size // _SYMBOL.size > MAX_SYMBOLS:
            raise ValueError(f"its symbol table is no table of at most {MAX_SYMBOLS} symbols")
        if not 0 < table.link <= len(self.sections) or self.sections[table.link - 1].type != SHT_STRTAB:
            raise ValueError("its symbols have no names")
        names = self.data(self.sections[table.link - 1])
        found = []
        for name_at, info, _other, index, _value, _size in _SYMBOL.iter_unpack(self.data(table)):
            name = _name(names, name_at) if name_at else ""
            if name:
                found.append(Symbol(name, info >> 4 == STB_WEAK, index == SHN_UNDEF, info & 15))
        if all(symbol.undefined for symbol in found):
            raise ValueError("it defines nothing")
        return tuple(found)


def parse(image: bytes) -> Elf:
    """The object in `image`. ValueError, with what is wrong, for anything but a relocatable BPF object."""
    if len(image) < _HEADER.size or image[:6] != b"\x7fELF\x02\x01":
        raise ValueError("this is not a 64-bit little-endian ELF object")
    head = _HEADER.unpack_from(image)
    kind, machine, table_at = head[1], head[2], head[6]
    entry, count, names_index = head[11:14]
    if machine != EM_BPF:
        raise ValueError("this is not a 64-bit little-endian BPF object")
    if kind != 1:
        raise ValueError("this is not a relocatable object")
    if not 0 < count <= MAX_SECTIONS or entry != _SECTION.size:
        raise ValueError(f"it has {count} sections of {entry} bytes, not up to {MAX_SECTIONS} of {_SECTION.size}")
    if table_at + count * entry > len(image):
        raise ValueError("its table of sections lies outside the file")
    rows = list(_SECTION.iter_unpack(image[table_at : table_at + count * entry]))
    if not 0 < names_index < count or rows[names_index][1] != SHT_STRTAB:
        raise ValueError("its sections have no names")
    names = _slice(image, rows[names_index][4], rows[names_index][5])
    sections = tuple(Section(_name(names, row[0]), row[1], row[2], row[4], row[5], row[6]) for row in rows[1:])
    stored = [section for section in sections if section.type != SHT_NOBITS]
    for section in stored:
        _slice(image, section.offset, section.size)
    if sum(section.size for section in stored) > len(image):
        raise ValueError("its sections overlap")
    return Elf(image, sections)


def _slice(image: bytes, start: int, length: int) -> bytes:
    if start + length > len(image):
        raise ValueError("a section lies outside the file")
    return image[start : start + length]


def _name(strings: bytes, start: int) -> str:
    end = strings.find(b"\0", start, start + MAX_NAME)
    if end < 0:
        raise ValueError(f"a name is longer than {MAX_NAME} bytes or lies outside the table of names")
    return strings[start:end].decode("ascii", "backslashreplace")
