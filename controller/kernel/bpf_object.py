# SPDX-License-Identifier: Apache-2.0
"""A BPF object that holds one sched_ext scheduler: opened, its ops found, its watchdog set, loaded into the kernel.

Loading stops before attaching: the BPF verifier has accepted every program, and nothing has changed yet.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from ctypes import byref, c_size_t, c_uint32
from dataclasses import dataclass
from pathlib import Path

from controller.errors import InputError, KernelError, LoadRefused
from controller.kernel import libbpf

OPS_STRUCT = "sched_ext_ops"
_LOG_SIZE = 256 * 1024
# With a buffer of its own for each program libbpf loads it once. Left to itself it verifies a refused program again and
# again, each time with a buffer twice as large, until the whole log fits: of an endless loop that is a minute's work.
_STATS = 4  # BPF_LOG_STATS: only the closing lines
_REASONS = 1  # BPF_LOG_LEVEL1; since 6.4 a full buffer keeps the log's end
# How long the verifier may look at all the programs; a pending signal makes it give up. An emulated one needs minutes
# to find that a loop exceeds its million of instructions, and 0.3 s for all of the programs of our own schedulers.
_PATIENCE_S = 60.0
_PATIENCE_FOR_REASONS_S = 3.0
_NOT_DONE = f"the BPF verifier is not done with it after {_PATIENCE_S:.0f} s"
_AGAIN_S = 0.2  # libbpf starts anew, five times
_STATES = re.compile(r"total_states (\d+) peak_states (\d+)")
_REFUSED = re.compile(r"prog '([^']+)': BPF program load failed")
_EM_BPF = (247).to_bytes(2, "little")
_COMPILE = "compile it with clang -g -O2 -target bpf"


@dataclass(frozen=True)
class ProgramStats:
    """One program as the BPF verifier saw it: instructions it has and instructions looked at, and the verifier's states
    (all, and the most at one time; None where the kernel did not tell).
    """

    name: str
    insns_total: int
    insns_verified: int
    states: int | None = None
    peak_states: int | None = None


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
            number = self._load(lambda _name: _STATS, _PATIENCE_S)
            if number != 0:
                self._explain(number, messages)
            return "".join(messages)

    def close(self) -> None:
        """Free it; may be called again."""
        if self.handle is not None:
            libbpf.library().bpf_object__close(self.handle)
            self.handle = None

    def _explain(self, number: int, messages: list[str]) -> None:
        """Asked for its figures alone the verifier does not say where: open the object afresh and let it explain.

        It need not come to its end again, for the log's last line in the source is in the loop that keeps it busy; what
        it said of that is in the first log. Raises LoadRefused or KernelError, unless it is loaded this time.
        """
        found = _REFUSED.search("".join(messages))
        refused = found[1] if found is not None else ""
        verdict = text_of(self.logs.get(refused)) if number != errno.EAGAIN else _NOT_DONE
        self.close()
        messages.clear()
        self._open(messages)
        patience = _PATIENCE_FOR_REASONS_S if refused else _PATIENCE_S
        second = self._load(lambda name: _REASONS if name == refused or not refused else _STATS, patience)
        if second == 0:
            return
        if second in (errno.EAGAIN, errno.ENOSPC) and refused:  # the latter: also, and more than the buffer holds
            self.logs[refused] = self.logs[refused].rstrip(b"\n") + b"\n" + verdict.encode()
        else:
            number = second
        raise self._refusal(number, self._with_logs(messages))

    def _refusal(self, number: int, log: str) -> KernelError:
        if number == errno.EAGAIN:
            return LoadRefused(f"this kernel refuses {self.name}: {_NOT_DONE}", log=log)
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
        names = {each: btf.struct_of_variable(text_of(lib.bpf_map__name(each))) or "" for each in struct_ops}
        # libbpf drops a suffix after three underscores, with which a scheduler may have members that a header lacks.
        found = [each for each, name in names.items() if name.split("___")[0] == OPS_STRUCT]
        if len(found) != 1 or len(struct_ops) != 1:
            raise InputError(
                f"{self.name} must hold exactly one struct {OPS_STRUCT} and no other struct_ops, "
                f"not {len(found)} of {len(struct_ops)}",
                remedy='define one with SEC(".struct_ops.link")',
            )
        self.ops_map = found[0]
        self._read_ops(btf, names[found[0]])

    def _read_ops(self, btf: libbpf.Btf, struct: str) -> None:
        """Take the name out of the ops, and shorten the watchdog in them."""
        size = c_size_t()
        address = libbpf.library().bpf_map__initial_value(self.ops_map, byref(size))
        name = btf.member(struct, "name")
        if not address or name is None or name.offset + name.size > size.value:
            raise InputError(f"the {OPS_STRUCT} of {self.name} has no name", remedy='set .name = "..." in it')
        self.ops_name = text_of(ctypes.string_at(address + name.offset, name.size).split(b"\0")[0])
        timeout = btf.member(struct, "timeout_ms")
        if timeout is None or timeout.size != 4 or timeout.offset + 4 > size.value:
            return
        field = c_uint32.from_address(address + timeout.offset)
        if self._lower_to is not None and (field.value == 0 or field.value > self._lower_to):
            field.value = self._lower_to
        self.timeout_ms = field.value

    def _load(self, level: Callable[[str], int], patience_s: float) -> int:
        """Load with a log of the level given for each program's name; returns 0, or the errno. The logs are kept."""
        lib = libbpf.library()
        buffers = {}
        for program in each_program(self.handle):
            name = text_of(lib.bpf_program__name(program))
            buffers[name] = ctypes.create_string_buffer(_LOG_SIZE)
            lib.bpf_program__set_log_buf(program, buffers[name], _LOG_SIZE)
            lib.bpf_program__set_log_level(program, level(name))
        with _no_longer_than(patience_s):
            number = 0 if lib.bpf_object__load(self.handle) == 0 else libbpf.last_error()
        for program in each_program(self.handle):  # the buffers die with this call
            lib.bpf_program__set_log_buf(program, None, 0)
        self.logs = {name: buffer.value for name, buffer in buffers.items()}
        return number

    def _with_logs(self, messages: list[str]) -> str:
        """libbpf's words with the refused program's log in its place, as libbpf prints it for a buffer of its own."""
        text = ""
        for message in messages:
            text += message
            refused = _REFUSED.search(message)
            log = text_of(self.logs.get(refused[1])) if refused is not None else ""
            if refused is not None and log:
                begin = f"libbpf: prog '{refused[1]}': -- BEGIN PROG LOAD LOG --\n"
                text += begin + log.rstrip("\n") + "\n-- END PROG LOAD LOG --\n"
        return text


@contextlib.contextmanager
def _no_longer_than(seconds: float) -> Iterator[None]:
    """Signals after `seconds`, which make system calls give up; without effect on any thread but the main one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = signal.signal(signal.SIGALRM, lambda _number, _frame: None)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


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
                int(states[2]) if states else None,
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
    """The BPF verifier's own words for its refusal: its report's title (7.3), else the line before its figures; or
    libbpf's first warning.
    """
    title = re.search(r"^Verification failed: (.+)$", log, re.MULTILINE)
    if title is not None:
        return title[1].strip()
    refusal = re.search(
        r"^(.+)\n(?:(?:cur state|old state|verification time|stack depth) ?.*\n)*processed \d+ insns", log, re.MULTILINE
    )
    if refusal is not None:
        return refusal[1].strip()
    return next((line.removeprefix("libbpf: ") for line in log.splitlines() if line.startswith("libbpf: ")), "")


def text_of(raw: bytes | None) -> str:
    return (raw or b"").decode(errors="replace")
