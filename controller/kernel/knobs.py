# SPDX-License-Identifier: Apache-2.0
"""The live knobs in a scheduler's object: their first values, and what the object is without them.

bpf/include/schedctl_knob.bpf.h keeps all knobs in one section, which is the BPF map `schedctl_knobs`. Two objects that
are equal but for that section and for the name of the scheduler hold the same programs and the same tables: to go from
one to the other it is enough to write the section of the second into the map of the first. `code_digest` is what they
have in common. Sections that are never loaded (DWARF) are left out; they name the source.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator

from controller.errors import InputError

MAP = "schedctl_knobs"
SECTION = ".data.schedctl_knobs"
_OPS_SECTION = ".struct_ops.link"
_OUR_NAME = re.compile(rb"schedctl_[0-9a-f]{12}(?=\0)")
_NOT_LOADED = re.compile(r"(?:\.rela?)?\.debug_\w+|\.llvm_addrsig|\.comment")
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_NOBITS = 8


def image(obj: bytes) -> bytes:
    """The values that the knobs of the object start with: what the whole map holds after loading. b"" without knobs."""
    return next((data for name, _how, data in _sections(obj) if name == SECTION), b"")


def code_digest(obj: bytes) -> str:
    """`sha256:…` of the object without its knobs' values and its name; "" for an object without knobs."""
    digest = hashlib.sha256()
    has_knobs = False
    for name, how, data in _sections(obj):
        if _NOT_LOADED.fullmatch(name):
            continue
        if name == SECTION:
            has_knobs, data = True, bytes(len(data))
        elif name == _OPS_SECTION:
            data = _OUR_NAME.sub(lambda found: bytes(len(found[0])), data)
        digest.update(f"{name}\n{how}\n{len(data)}\n".encode() + data)
    return f"sha256:{digest.hexdigest()}" if has_knobs else ""


def _sections(obj: bytes) -> Iterator[tuple[str, tuple[int, ...], bytes]]:
    """(name, what else its header says, contents) of each section, in order. InputError when it is no ELF of BPF."""
    if obj[:6] != b"\x7fELF\x02\x01" or len(obj) < _HEADER.size:
        raise InputError("the object is not a BPF object", remedy="compile it with clang -g -O2 -target bpf")
    *_, table, _flags, _size, _phsize, _phnum, entry, count, names_at = _HEADER.unpack_from(obj)
    if entry != _SECTION.size or table + count * entry > len(obj) or names_at >= count:
        raise InputError("the object's table of sections is broken", remedy="compile it again")
    rows = [_SECTION.unpack_from(obj, table + i * entry) for i in range(count)]
    names = obj[rows[names_at][4] : rows[names_at][4] + rows[names_at][5]]
    for name_at, kind, flags, _address, offset, size, link, info, align, entry_size in rows:
        if kind != _NOBITS and offset + size > len(obj):
            raise InputError("a section of the object lies outside it", remedy="compile it again")
        name = names[name_at:].split(b"\0", 1)[0].decode("ascii", "replace")
        how = (kind, flags, link, info, align, entry_size, size)
        yield name, how, b"" if kind == _NOBITS else obj[offset : offset + size]
