# SPDX-License-Identifier: Apache-2.0
"""A BPF object that holds one sched_ext scheduler: opened, its ops found, its watchdog set, loaded into the kernel.

Loading stops before attaching: the BPF verifier has accepted every program, and nothing has changed yet.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from collections.abc import Callable
from ctypes import byref, c_size_t, c_uint32
from dataclasses import dataclass
from pathlib import Path

from controller.errors import InputError, KernelError, LoadRefused
from controller.kernel import libbpf

OPS_STRUCT = "sched_ext_ops"
_STATS_LOG_SIZE = 16 * 1024
_STATS_LEVEL = 4  # BPF_LOG_STATS: only the closing lines
_STATES = re.compile(r"total_states (\d+)")
_EM_BPF = (247).to_bytes(2, "little")
_COMPILE = "compile it with clang -g -O2 -target bpf"


@dataclass(frozen=True)
class ProgramStats:
    """One program as the BPF verifier saw it; `states` is None where the kernel did not tell."""

    name: str
    insns_total: int
    insns_verified: int
    states: int | None = None


@dataclass(frozen=True)
class LoadReport:
    """What was loaded: the ops' name, each program, the watchdog's timeout (0: the kernel's own) and libbpf's words."""

    ops_name: str
    programs: tuple[ProgramStats, ...]
    log: str
    timeout_ms: int = 0


class BpfObject:
    """One open BPF object: what libbpf and the verifier make of it. Closed by hand, for libbpf owns the memory."""

    def __init__(self, name: str, image: bytes, timeout_ms: int | None) -> None:
        self.name = name
        self.handle: int | None = None
        self.ops_map = 0
        self.ops_name = ""
        self.timeout_ms = 0
        self.logs: dict[str, bytes] = {}
        self._image = image  # libbpf may point into these bytes while the object lives
        self._lower_to = timeout_ms

    def load(self) -> str:
        """Load it and return what libbpf said. Raises InputError, LoadRefused, or KernelError without the right to."""
        with libbpf.listening() as messages:
            self._open(messages)
            if not self._load_with_statistics():
                # Asked for its figures alone the verifier gives no reasons: open it afresh and let it explain.
                self.close()
                messages.clear()
                self._open(messages)
                if libbpf.library().bpf_object__load(self.handle) != 0:
                    raise self._refusal(libbpf.last_error(), "".join(messages))
            return "".join(messages)

    def close(self) -> None:
        """Free it; may be called again."""
        if self.handle is not None:
            libbpf.library().bpf_object__close(self.handle)
            self.handle = None

    def _refusal(self, number: int, log: str) -> KernelError:
        if number == errno.EPERM and os.geteuid() != 0:
            return KernelError(f"cannot load {self.name}: {libbpf.reason(number)}", remedy="run as root")
        return LoadRefused(f"this kernel refuses {self.name}: {_verdict(log) or libbpf.reason(number)}", log=log)

    def _open(self, messages: list[str]) -> None:
        options = libbpf.OpenOpts(ctypes.sizeof(libbpf.OpenOpts), b"schedctl")
        self.handle = libbpf.library().bpf_object__open_mem(self._image, len(self._image), byref(options))
        if not self.handle:
            why = "".join(messages).strip() or libbpf.reason(libbpf.last_error())
            self.handle = None
            raise InputError(f"{self.name} is not a BPF object that libbpf can read: {why}", remedy=_COMPILE)
        self._find_ops()

    def _find_ops(self) -> None:
        lib = libbpf.library()
        pointer = lib.bpf_object__btf(self.handle)
        if not pointer:
            raise InputError(f"{self.name} has no BTF", remedy=_COMPILE)
        btf = libbpf.Btf(pointer, owned=False)
        struct_ops = [
            found for found in each_map(self.handle) if lib.bpf_map__type(found) == libbpf.MAP_TYPE_STRUCT_OPS
        ]
        found = [each for each in struct_ops if btf.struct_of_variable(text_of(lib.bpf_map__name(each))) == OPS_STRUCT]
        if len(found) != 1 or len(struct_ops) != 1:
            raise InputError(
                f"{self.name} must hold exactly one struct {OPS_STRUCT} and no other struct_ops, "
                f"not {len(found)} of {len(struct_ops)}",
                remedy='define one with SEC(".struct_ops.link")',
            )
        self.ops_map = found[0]
        self._read_ops(btf)

    def _read_ops(self, btf: libbpf.Btf) -> None:
        """Take the name out of the ops, and shorten the watchdog in them."""
        size = c_size_t()
        address = libbpf.library().bpf_map__initial_value(self.ops_map, byref(size))
        name = btf.member(OPS_STRUCT, "name")
        if not address or name is None or name.offset + name.size > size.value:
            raise InputError(f"the {OPS_STRUCT} of {self.name} has no name", remedy='set .name = "..." in it')
        self.ops_name = text_of(ctypes.string_at(address + name.offset, name.size).split(b"\0")[0])
        timeout = btf.member(OPS_STRUCT, "timeout_ms")
        if timeout is None or timeout.size != 4 or timeout.offset + 4 > size.value:
            return
        field = c_uint32.from_address(address + timeout.offset)
        if self._lower_to is not None and (field.value == 0 or field.value > self._lower_to):
            field.value = self._lower_to
        self.timeout_ms = field.value

    def _load_with_statistics(self) -> bool:
        lib = libbpf.library()
        buffers = {}
        for program in each_program(self.handle):
            buffer = ctypes.create_string_buffer(_STATS_LOG_SIZE)
            lib.bpf_program__set_log_buf(program, buffer, _STATS_LOG_SIZE)
            lib.bpf_program__set_log_level(program, _STATS_LEVEL)
            buffers[text_of(lib.bpf_program__name(program))] = buffer
        loaded = lib.bpf_object__load(self.handle) == 0
        for program in each_program(self.handle):  # the buffers die with this call
            lib.bpf_program__set_log_buf(program, None, 0)
        self.logs = {name: buffer.value for name, buffer in buffers.items()} if loaded else {}
        return bool(loaded)


def programs(loaded: BpfObject) -> tuple[ProgramStats, ...]:
    lib = libbpf.library()
    programs = []
    for program in each_program(loaded.handle):
        fd = lib.bpf_program__fd(program)
        if fd < 0:
            continue
        name = text_of(lib.bpf_program__name(program))
        info = libbpf.ProgInfo()
        told = lib.bpf_prog_get_info_by_fd(fd, byref(info), byref(c_uint32(ctypes.sizeof(info)))) == 0
        states = _STATES.search(text_of(loaded.logs.get(name, b"")))
        programs.append(
            ProgramStats(
                name,
                int(lib.bpf_program__insn_cnt(program)),
                int(info.verified_insns) if told else 0,
                int(states[1]) if states else None,
            )
        )
    return tuple(programs)


def read_object(source: Path | bytes) -> tuple[str, bytes]:
    if isinstance(source, bytes):
        name, image = "the object", source
    else:
        name = str(source)
        try:
            image = source.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {source}: {error.strerror}") from error
    if not image.startswith(b"\x7fELF") or len(image) < 20 or image[18:20] != _EM_BPF:
        raise InputError(f"{name} is not a BPF object", remedy=_COMPILE)
    return name, image


def each_map(handle: int | None) -> list[int]:
    return _each(libbpf.library().bpf_object__next_map, handle)


def each_program(handle: int | None) -> list[int]:
    return _each(libbpf.library().bpf_object__next_program, handle)


def _each(step: Callable[[int | None, int | None], int | None], handle: int | None) -> list[int]:
    found: list[int] = []
    while (following := step(handle, found[-1] if found else None)) is not None:
        found.append(following)
    return found


def _verdict(log: str) -> str:
    """The BPF verifier's own words for its refusal: the line before its figures (or libbpf's last warning)."""
    refusal = re.search(r"^(.+)\n(?:verification time .*\n|stack depth .*\n)*processed \d+ insns", log, re.MULTILINE)
    if refusal is not None:
        return refusal[1].strip()
    return next((line.removeprefix("libbpf: ") for line in log.splitlines() if line.startswith("libbpf: ")), "")


def text_of(raw: bytes | None) -> str:
    return (raw or b"").decode(errors="replace")
