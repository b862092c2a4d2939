# SPDX-License-Identifier: Apache-2.0
"""Which kfuncs a kernel image has, read from the BTF inside its vmlinuz without booting it; and what a BTF file says of
sched_ext.

A boot image is a small loader with the compressed kernel behind it, and the kernel's BTF marks each kfunc with the
declaration tag `bpf_kfunc` (since 6.10; all kernels with sched_ext that Debian builds have it). Unpacking takes 0.3 s,
so the names are kept in the cache under the image's digest. What cannot be read (another compression, no BTF, no tags)
is None: then only booting tells, and nobody is refused for it.
"""

from __future__ import annotations

import bz2
import ctypes
import functools
import gzip
import hashlib
import json
import lzma
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from controller.kernel import leftovers
from controller.kernel.images import KernelImage
from controller.paths import cache_dir

MAX_KERNEL = 512 << 20
_SETUP_SECTORS, _PAYLOAD = 0x1F1, 0x248
_STRUCT, _FUNC, _DECL_TAG = 4, 12, 17
_ENUM_SIZES = {6: 8, 19: 12}  # ENUM and ENUM64
# Bytes that follow a type's head of 12, as (for each of its count, fixed); kernel: Documentation/bpf/btf.rst.
_TAIL = {
    1: (0, 4), 3: (0, 12), 4: (12, 0), 5: (12, 0), 6: (8, 0), 13: (8, 0), 14: (0, 4), 15: (12, 0), 17: (0, 4),
    19: (12, 0),
}  # fmt: skip


@dataclass(frozen=True)
class SchedExt:
    """Names, sorted: members of struct sched_ext_ops, scx_bpf_* functions, SCX_OPS_* flags."""

    ops: tuple[str, ...]
    kfuncs: tuple[str, ...]
    flags: tuple[str, ...]


@functools.cache
def sched_ext(file: Path) -> SchedExt | None:
    """What raw BTF such as /sys/kernel/btf/vmlinux says of sched_ext; None when there is none to read.

    Asked once for each file: a running kernel's types do not change.
    """
    try:
        btf = file.read_bytes()
        ops, functions, flags = set[str](), set[str](), set[str]()
        for kind, name, members in _named(btf):
            if kind == _STRUCT and name == b"sched_ext_ops":
                ops.update(members(12))
            elif kind == _FUNC and name.startswith(b"scx_bpf_"):
                functions.add(name.decode("ascii"))
            elif kind in _ENUM_SIZES and name == b"scx_ops_flags":
                flags.update(each for each in members(_ENUM_SIZES[kind]) if each.startswith("SCX_OPS_"))
        tagged = _tagged(btf)
    except (OSError, ValueError, IndexError, struct.error):
        return None
    functions = functions & tagged or functions  # kernels before 6.10 tag none
    return SchedExt(tuple(sorted(ops)), tuple(sorted(functions)), tuple(sorted(flags - {"SCX_OPS_ALL_FLAGS"})))


def _named(btf: bytes) -> Iterator[tuple[int, bytes, Callable[[int], list[str]]]]:
    """Of each type that may speak of sched_ext: kind, name, and the names of its members of a given size."""
    header, type_at, type_length, string_at, string_length = struct.unpack_from("<IIIII", btf, 4)
    strings = btf[header + string_at : header + string_at + string_length]
    position, end = header + type_at, header + type_at + type_length

    def text(at: int) -> bytes:
        return strings[at : strings.index(b"\0", at)]

    while position < end:
        name, info, _refers = struct.unpack_from("<III", btf, position)
        kind, start, count = info >> 24 & 0x1F, position + 12, info & 0xFFFF

        def members(size: int, start: int = start, count: int = count) -> list[str]:
            names = (struct.unpack_from("<I", btf, start + size * index)[0] for index in range(count))
            return [text(at).decode("ascii") for at in names]

        if kind in (_STRUCT, _FUNC) or kind in _ENUM_SIZES:
            yield kind, text(name), members
        each, fixed = _TAIL.get(kind, (0, 0))
        position = start + each * count + fixed


def kfuncs(image: KernelImage) -> frozenset[str] | None:
    """The names of the kernel's kfuncs, or None when the image does not tell."""
    try:
        data = image.path.read_bytes()
    except OSError:
        return None
    kept = cache_dir() / "kfuncs" / f"{hashlib.sha256(data).hexdigest()}.json"
    try:
        return frozenset(json.loads(kept.read_text(encoding="utf-8"))) or None
    except (OSError, ValueError, TypeError):
        pass
    try:
        names = _tagged(_section(_unpacked(data), b".BTF"))
    except (ValueError, IndexError, OverflowError, struct.error, OSError, EOFError, lzma.LZMAError):
        names = frozenset()
    _keep(kept, names)
    return names or None


def _keep(file: Path, names: frozenset[str]) -> None:
    try:
        leftovers.write(file, json.dumps(sorted(names)).encode())
    except OSError:  # a cache that cannot be written costs 0.3 s the next time
        pass


def _unpacked(image: bytes) -> bytes:
    """The ELF kernel in a boot image (kernel: Documentation/arch/x86/boot.rst, payload_offset)."""
    if image.startswith(b"\x7fELF"):
        return image
    at, length = struct.unpack_from("<II", image, _PAYLOAD)
    start = ((image[_SETUP_SECTORS] or 4) + 1) * 512 + at
    payload = image[start : start + length]
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        return _zstd(payload)
    if payload.startswith(b"\x1f\x8b"):
        return gzip.decompress(payload[:-4])
    if payload.startswith(b"\xfd7zXZ"):
        return lzma.LZMADecompressor().decompress(payload, MAX_KERNEL)
    if payload.startswith(b"BZh"):
        return bz2.BZ2Decompressor().decompress(payload, MAX_KERNEL)
    raise ValueError("packed in a way unknown here")


def _zstd(payload: bytes) -> bytes:
    """Through the C library that dpkg itself needs: Python has zstd only from 3.14 on."""
    (size,) = struct.unpack_from("<I", payload, len(payload) - 4)  # the kernel's build appends it
    if size > MAX_KERNEL:
        raise ValueError("larger than any kernel")
    library = ctypes.CDLL("libzstd.so.1")
    library.ZSTD_decompress.restype = ctypes.c_size_t
    library.ZSTD_decompress.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t)
    buffer = ctypes.create_string_buffer(size)
    if library.ZSTD_decompress(buffer, size, payload[:-4], len(payload) - 4) != size:
        raise ValueError("it does not unpack")
    return buffer.raw


def _section(kernel: bytes, name: bytes) -> bytes:
    (table,) = struct.unpack_from("<Q", kernel, 40)
    count, names_index = struct.unpack_from("<HH", kernel, 60)
    rows = [struct.unpack_from("<IIQQQQ", kernel, table + 64 * index) for index in range(count)]
    names = rows[names_index][4]
    for row in rows:
        if kernel.startswith(name + b"\0", names + row[0]):
            return kernel[row[4] : row[4] + row[5]]
    raise ValueError("no such section")


def _tagged(btf: bytes) -> frozenset[str]:
    """The functions that a declaration tag `bpf_kfunc` names. 120,000 types take 0.1 s."""
    header, type_at, type_length, string_at, string_length = struct.unpack_from("<IIIII", btf, 4)
    strings = btf[header + string_at : header + string_at + string_length]
    position, end = header + type_at, header + type_at + type_length
    functions: dict[int, int] = {}
    tags: list[tuple[int, int]] = []
    number = 1
    while position < end:
        name, info, refers = struct.unpack_from("<III", btf, position)
        kind = info >> 24 & 0x1F
        if kind == _FUNC:
            functions[number] = name
        elif kind == _DECL_TAG:
            tags.append((name, refers))
        each, fixed = _TAIL.get(kind, (0, 0))
        position += 12 + each * (info & 0xFFFF) + fixed
        number += 1
    wanted = {name for name, _refers in tags if strings.startswith(b"bpf_kfunc\0", name)}
    found = {functions[refers] for name, refers in tags if name in wanted and refers in functions}
    return frozenset(strings[name : strings.index(b"\0", name)].decode("ascii") for name in found)
