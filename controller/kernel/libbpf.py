# SPDX-License-Identifier: Apache-2.0
"""libbpf through ctypes: the few functions the loader calls, what libbpf says meanwhile, and a reader for BTF.

The library is found at first use, so this module imports anywhere. libbpf never prints: its messages, among them the
BPF verifier's log, go to whoever is in `listening()`. libbpf before 1.2 skips the `.struct_ops.link` section, and an
object would fail to load with no reason given, so older ones are refused by name.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator
from ctypes import POINTER, byref, c_char_p, c_int, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from controller.errors import KernelError, ToolMissing

MINIMUM = (1, 2)
SONAME = "libbpf.so.1"

MAP_TYPE_STRUCT_OPS = 26
PER_CPU_MAP_TYPES = frozenset({5, 6, 10, 21})  # PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH, PERCPU_CGROUP_STORAGE

KIND_STRUCT, KIND_UNION, KIND_ENUM, KIND_FUNC, KIND_VAR, KIND_DATASEC, KIND_ENUM64 = 4, 5, 6, 12, 14, 15, 19

_PRINT_INFO = 1  # LIBBPF_WARN, LIBBPF_INFO, LIBBPF_DEBUG
_PrintFn = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)


class OpenOpts(ctypes.Structure):
    """The head of `struct bpf_object_open_opts`; libbpf takes what follows as zero."""

    _fields_ = (("sz", c_size_t), ("object_name", c_char_p))


class ProgInfo(ctypes.Structure):
    """`struct bpf_prog_info` up to `verified_insns` (5.16)."""

    _fields_ = (
        ("type", c_uint32), ("id", c_uint32), ("tag", ctypes.c_uint8 * 8),
        ("jited_prog_len", c_uint32), ("xlated_prog_len", c_uint32),
        ("jited_prog_insns", c_uint64), ("xlated_prog_insns", c_uint64), ("load_time", c_uint64),
        ("created_by_uid", c_uint32), ("nr_map_ids", c_uint32), ("map_ids", c_uint64), ("name", ctypes.c_char * 16),
        ("ifindex", c_uint32), ("gpl_compatible", c_uint32), ("netns_dev", c_uint64), ("netns_ino", c_uint64),
        ("nr_jited_ksyms", c_uint32), ("nr_jited_func_lens", c_uint32),
        ("jited_ksyms", c_uint64), ("jited_func_lens", c_uint64),
        ("btf_id", c_uint32), ("func_info_rec_size", c_uint32), ("func_info", c_uint64),
        ("nr_func_info", c_uint32), ("nr_line_info", c_uint32), ("line_info", c_uint64),
        ("jited_line_info", c_uint64), ("nr_jited_line_info", c_uint32), ("line_info_rec_size", c_uint32),
        ("jited_line_info_rec_size", c_uint32), ("nr_prog_tags", c_uint32), ("prog_tags", c_uint64),
        ("run_time_ns", c_uint64), ("run_cnt", c_uint64), ("recursion_misses", c_uint64),
        ("verified_insns", c_uint32), ("attach_btf_obj_id", c_uint32),
    )  # fmt: skip


class MapInfo(ctypes.Structure):
    """`struct bpf_map_info` up to the BTF ids of key and value."""

    _fields_ = (
        ("type", c_uint32), ("id", c_uint32), ("key_size", c_uint32), ("value_size", c_uint32),
        ("max_entries", c_uint32), ("map_flags", c_uint32), ("name", ctypes.c_char * 16),
        ("ifindex", c_uint32), ("btf_vmlinux_value_type_id", c_uint32), ("netns_dev", c_uint64),
        ("netns_ino", c_uint64), ("btf_id", c_uint32), ("btf_key_type_id", c_uint32),
        ("btf_value_type_id", c_uint32), ("btf_vmlinux_id", c_uint32),
    )  # fmt: skip


_PROTOTYPES: dict[str, tuple[object, tuple[object, ...]]] = {
    "libbpf_major_version": (c_uint32, ()),
    "libbpf_minor_version": (c_uint32, ()),
    "libbpf_set_print": (c_void_p, (_PrintFn,)),
    "libbpf_num_possible_cpus": (c_int, ()),
    "bpf_object__open_mem": (c_void_p, (c_char_p, c_size_t, c_void_p)),
    "bpf_object__load": (c_int, (c_void_p,)),
    "bpf_object__close": (None, (c_void_p,)),
    "bpf_object__btf": (c_void_p, (c_void_p,)),
    "bpf_object__next_map": (c_void_p, (c_void_p, c_void_p)),
    "bpf_object__next_program": (c_void_p, (c_void_p, c_void_p)),
    "bpf_map__name": (c_char_p, (c_void_p,)),
    "bpf_map__type": (c_int, (c_void_p,)),
    "bpf_map__fd": (c_int, (c_void_p,)),
    "bpf_map__is_internal": (ctypes.c_bool, (c_void_p,)),
    "bpf_map__initial_value": (c_void_p, (c_void_p, POINTER(c_size_t))),
    "bpf_map__attach_struct_ops": (c_void_p, (c_void_p,)),
    "bpf_program__name": (c_char_p, (c_void_p,)),
    "bpf_program__fd": (c_int, (c_void_p,)),
    "bpf_program__insn_cnt": (c_size_t, (c_void_p,)),
    "bpf_program__set_log_level": (c_int, (c_void_p, c_uint32)),
    "bpf_program__set_log_buf": (c_int, (c_void_p, c_void_p, c_size_t)),
    "bpf_prog_get_info_by_fd": (c_int, (c_int, c_void_p, POINTER(c_uint32))),
    "bpf_map_get_info_by_fd": (c_int, (c_int, c_void_p, POINTER(c_uint32))),
    "bpf_map_lookup_elem": (c_int, (c_int, c_void_p, c_void_p)),
    "bpf_map_update_elem": (c_int, (c_int, c_void_p, c_void_p, c_uint64)),
    "bpf_map_delete_elem": (c_int, (c_int, c_void_p)),
    "bpf_map_get_next_key": (c_int, (c_int, c_void_p, c_void_p)),
    "bpf_link__fd": (c_int, (c_void_p,)),
    "bpf_link__destroy": (c_int, (c_void_p,)),
    "bpf_obj_get": (c_int, (c_char_p,)),
    "bpf_obj_pin": (c_int, (c_int, c_char_p)),
    "btf__parse_raw": (c_void_p, (c_char_p,)),
    "btf__load_from_kernel_by_id": (c_void_p, (c_uint32,)),
    "btf__free": (None, (c_void_p,)),
    "btf__find_by_name_kind": (c_int32, (c_void_p, c_char_p, c_uint32)),
    "btf__type_by_id": (c_void_p, (c_void_p, c_uint32)),
    "btf__name_by_offset": (c_char_p, (c_void_p, c_uint32)),
    "btf__resolve_size": (ctypes.c_int64, (c_void_p, c_uint32)),
}


@cache
def library() -> ctypes.CDLL:
    """libbpf, checked and with its prototypes set. Raises ToolMissing."""
    try:
        lib = ctypes.CDLL(SONAME, use_errno=True)
        for name, (result, arguments) in _PROTOTYPES.items():
            function = getattr(lib, name)
            function.restype, function.argtypes = result, list(arguments)
    except (OSError, AttributeError) as error:
        raise ToolMissing(f"cannot load schedulers: no usable {SONAME}: {error}", remedy="make setup") from error
    version = lib.libbpf_major_version(), lib.libbpf_minor_version()
    if version < MINIMUM:
        raise ToolMissing(
            f"cannot load schedulers: libbpf {version[0]}.{version[1]} knows no .struct_ops.link sections, "
            f"{MINIMUM[0]}.{MINIMUM[1]} or newer is needed",
            remedy="make setup",
        )
    lib.libbpf_set_print(_hear)
    return lib


def version() -> str:
    """Such as `1.4`."""
    lib = library()
    return f"{lib.libbpf_major_version()}.{lib.libbpf_minor_version()}"


def library_path() -> Path:
    """The file this process loaded libbpf from."""
    library()
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.rpartition(" ")[2]
        if Path(path).name.startswith("libbpf.so"):
            return Path(path)
    raise ToolMissing(f"cannot find the file of {SONAME}", remedy="make setup")


def last_error() -> int:
    """The errno of the last libbpf call on this thread."""
    return ctypes.get_errno()


def reason(number: int) -> str:
    """An errno in words."""
    return os.strerror(number)


# ---- what libbpf says ---------------------------------------------------------------------------------------------

_heard = threading.local()


@contextlib.contextmanager
def listening() -> Iterator[list[str]]:
    """A list that gets libbpf's messages while the block runs, of this thread: libbpf prints where it is called."""
    outer: list[str] | None = getattr(_heard, "messages", None)
    messages: list[str] = []
    _heard.messages = messages
    try:
        yield messages
    finally:
        _heard.messages = outer


def _receive(level: int, template: bytes, arguments: int) -> int:
    messages: list[str] | None = getattr(_heard, "messages", None)
    if messages is None or level > _PRINT_INFO:
        return 0
    text = c_void_p()
    if _libc().vasprintf(byref(text), template, c_void_p(arguments)) >= 0 and text.value:
        messages.append(ctypes.string_at(text.value).decode(errors="replace"))
        _libc().free(text)
    return 0


_hear = _PrintFn(_receive)  # libbpf keeps the pointer: this object must live as long as the process


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


# ---- maps ---------------------------------------------------------------------------------------------------------


def map_info(fd: int) -> MapInfo:
    """What the kernel knows of the map behind `fd`. Raises KernelError."""
    info = MapInfo()
    size = c_uint32(ctypes.sizeof(info))
    if library().bpf_map_get_info_by_fd(fd, byref(info), byref(size)) < 0:
        raise KernelError(f"cannot ask the kernel about a BPF map: {reason(last_error())}", remedy="run as root")
    return info


# ---- BTF ----------------------------------------------------------------------------------------------------------


class _Type(ctypes.Structure):
    _fields_ = (("name_off", c_uint32), ("info", c_uint32), ("size_or_type", c_uint32))


@dataclass(frozen=True)
class Member:
    """A struct's member or a section's variable: where it is and how long, in bytes."""

    offset: int
    size: int


class Btf:
    """Type information of an object, a loaded map or a kernel. `owned` ones are freed with the instance."""

    def __init__(self, pointer: int, *, owned: bool) -> None:
        self._pointer = pointer
        self._owned = owned
        self._lib = library()

    @classmethod
    def from_file(cls, file: Path) -> Btf:
        """Raw BTF such as /sys/kernel/btf/vmlinux. Raises KernelError."""
        pointer = library().btf__parse_raw(os.fsencode(file))
        if not pointer:
            raise KernelError(
                f"cannot read BTF from {file}: {reason(last_error())}",
                remedy="boot a kernel built with CONFIG_DEBUG_INFO_BTF",
            )
        return cls(pointer, owned=True)

    @classmethod
    def from_kernel(cls, btf_id: int) -> Btf:
        """The BTF the kernel keeps under `btf_id`. Raises KernelError."""
        pointer = library().btf__load_from_kernel_by_id(btf_id)
        if not pointer:
            raise KernelError(f"cannot read BTF {btf_id} from the kernel: {reason(last_error())}", remedy="run as root")
        return cls(pointer, owned=True)

    def __del__(self) -> None:
        if self._owned:
            self._lib.btf__free(self._pointer)

    def find(self, name: str, kind: int) -> int | None:
        """The id of the type called `name`, or None."""
        found: int = self._lib.btf__find_by_name_kind(self._pointer, name.encode(), kind)
        return found if found > 0 else None

    def member(self, struct: str, field: str) -> Member | None:
        """The member `field` of `struct`, or None when either is not there."""
        struct_id = self.find(struct, KIND_STRUCT)
        if struct_id is None:
            return None
        for name_off, type_id, offset in self._records(struct_id, 3):
            if self._name(name_off) == field:
                bits = offset & 0xFFFFFF if self._type(struct_id).info >> 31 else offset
                return Member(bits // 8, self._lib.btf__resolve_size(self._pointer, type_id))
        return None

    def is_section(self, type_id: int) -> bool:
        """Whether the type is a DATASEC: a section of global variables."""
        return self._kind(type_id) == KIND_DATASEC

    def variables(self, section_id: int) -> dict[str, Member]:
        """The variables of the DATASEC `section_id`, by name."""
        found = {}
        for type_id, offset, size in self._records(section_id, 3):
            found[self._name(self._type(type_id).name_off)] = Member(offset, size)
        return found

    def struct_of_variable(self, variable: str) -> str:
        """The name of the struct that the global `variable` is of, or ""."""
        variable_id = self.find(variable, KIND_VAR)
        if variable_id is None:
            return ""
        target = self._type(variable_id).size_or_type
        return self._name(self._type(target).name_off) if self._kind(target) == KIND_STRUCT else ""

    def enum_values(self, enum: str) -> dict[str, int]:
        """The constants of `enum` (32 or 64 bit wide); empty when it is not there."""
        if (narrow := self.find(enum, KIND_ENUM)) is not None:
            return {self._name(name): value for name, value in self._records(narrow, 2)}
        if (wide := self.find(enum, KIND_ENUM64)) is not None:
            return {self._name(name): high << 32 | low for name, low, high in self._records(wide, 3)}
        return {}

    def _records(self, type_id: int, words: int) -> list[tuple[int, ...]]:
        address = self._lib.btf__type_by_id(self._pointer, type_id)
        count = self._type(type_id).info & 0xFFFF
        raw = (c_uint32 * (count * words)).from_address(address + ctypes.sizeof(_Type))
        return [tuple(raw[start : start + words]) for start in range(0, count * words, words)]

    def _kind(self, type_id: int) -> int:
        return int(self._type(type_id).info) >> 24 & 0x1F

    def _type(self, type_id: int) -> _Type:
        address = self._lib.btf__type_by_id(self._pointer, type_id)
        if not address:
            raise KernelError(f"BTF has no type {type_id}", remedy="compile the object again with -g")
        return _Type.from_address(address)

    def _name(self, offset: int) -> str:
        return (self._lib.btf__name_by_offset(self._pointer, offset) or b"").decode(errors="replace")
