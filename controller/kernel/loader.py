# SPDX-License-Identifier: Apache-2.0
"""Loads a sched_ext scheduler into the running kernel, attaches it, and hands it over through bpffs.

    with Scheduler.load(Path("scheduler.bpf.o")) as scheduler:
        scheduler.attach()                                  # in charge, or KernelError says why not
        scheduler.pin(Path("/sys/fs/bpf/schedctl/r7"))      # stays when this process ends

The micro-VM and a node run this same module, so what was verified is what runs. An attached scheduler lives as long
as its link: held by this process it leaves with the process, pinned it stays until the pin is removed. The kernel
reports a successful attach even when `ops.init` then fails, so `attach` believes only sysfs.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from controller.errors import InputError, KernelError
from controller.kernel import libbpf, schedext
from controller.kernel.bpf_object import BpfObject, LoadReport, each_map, programs, read_object, text_of
from controller.kernel.schedext import ExitRecord, KmsgReader, SchedExtStatus

LINK_NAME = "link"
_DETACH_S = 10.0
_MESSAGE_S = 0.1


class Map:
    """A loaded BPF map, from a live object or from its pin. Keys and values are bytes, as long as the map's own."""

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd
        info = libbpf.map_info(fd)
        self.key_size, self.max_entries = int(info.key_size), int(info.max_entries)
        self._btf_id, self._value_type = int(info.btf_id), int(info.btf_value_type_id)
        per_cpu = info.type in libbpf.PER_CPU_MAP_TYPES
        copies = libbpf.library().libbpf_num_possible_cpus() if per_cpu else 1
        # A per-CPU map gives one value a possible CPU, each rounded up to 8 bytes.
        self.value_size = ((info.value_size + 7) // 8 * 8 if per_cpu else info.value_size) * copies

    def lookup(self, key: bytes) -> bytes | None:
        """The value under `key`, or None. Raises KernelError."""
        value = ctypes.create_string_buffer(self.value_size)
        if libbpf.library().bpf_map_lookup_elem(self.fd, self._sized(key, self.key_size, "key"), value) == 0:
            return value.raw
        if libbpf.last_error() == errno.ENOENT:
            return None
        raise KernelError(f"cannot read BPF map {self.name}: {libbpf.reason(libbpf.last_error())}")

    def update(self, key: bytes, value: bytes) -> None:
        """Put `value` under `key`. Raises KernelError."""
        sized_key, sized_value = self._sized(key, self.key_size, "key"), self._sized(value, self.value_size, "value")
        if libbpf.library().bpf_map_update_elem(self.fd, sized_key, sized_value, 0) != 0:
            raise KernelError(f"cannot write BPF map {self.name}: {libbpf.reason(libbpf.last_error())}")

    def delete(self, key: bytes) -> None:
        """Remove the entry under `key`; none is no error. Raises KernelError."""
        done = libbpf.library().bpf_map_delete_elem(self.fd, self._sized(key, self.key_size, "key"))
        if done != 0 and libbpf.last_error() != errno.ENOENT:
            raise KernelError(f"cannot empty a row of BPF map {self.name}: {libbpf.reason(libbpf.last_error())}")

    def all_keys(self) -> list[bytes]:
        """The keys of a hash map that nobody else changes meanwhile. Raises KernelError."""
        found: list[bytes] = []
        following = ctypes.create_string_buffer(self.key_size)
        while libbpf.library().bpf_map_get_next_key(self.fd, found[-1] if found else None, following) == 0:
            found.append(following.raw)
            if len(found) > self.max_entries:  # a deleted key starts the walk anew
                raise KernelError(f"the keys of BPF map {self.name} change while they are read")
        if libbpf.last_error() != errno.ENOENT:
            raise KernelError(f"cannot list BPF map {self.name}: {libbpf.reason(libbpf.last_error())}")
        return found

    def variables(self) -> dict[str, libbpf.Member]:
        """The global variables kept in this map: those of a section map such as .bss, else none."""
        if not self._btf_id or not self._value_type or self.max_entries != 1:
            return {}
        btf = libbpf.Btf.from_kernel(self._btf_id)
        return btf.variables(self._value_type) if btf.is_section(self._value_type) else {}

    def _sized(self, value: bytes, size: int, what: str) -> bytes:
        if len(value) != size:
            raise InputError(f"BPF map {self.name} has a {what} of {size} bytes, not {len(value)}")
        return value


class _Maps:
    """The maps of a scheduler by name, and its global variables through them."""

    def __init__(self, maps: dict[str, Map]) -> None:
        self.maps = maps
        self._places: dict[str, tuple[Map, libbpf.Member]] | None = None

    def map(self, name: str) -> Map:
        """The map called `name` in the source. Raises InputError."""
        try:
            return self.maps[name]
        except KeyError:
            raise InputError(
                f"the scheduler has no BPF map {name}", remedy=f"it has {', '.join(sorted(self.maps)) or 'none'}"
            ) from None

    def map_fd(self, name: str) -> int:
        """The map's descriptor."""
        return self.map(name).fd

    def map_lookup(self, name: str, key: bytes) -> bytes | None:
        """The value under `key` in the map `name`, or None."""
        return self.map(name).lookup(key)

    def map_update(self, name: str, key: bytes, value: bytes) -> None:
        """Put `value` under `key` in the map `name`."""
        self.map(name).update(key, value)

    def read_global(self, name: str) -> bytes:
        """The bytes of the global variable `name` (.bss, .data or .rodata). Raises InputError when there is none."""
        if self._places is None:
            self._places = {
                variable: (holder, member)
                for holder in self.maps.values()
                for variable, member in holder.variables().items()
            }
        if name not in self._places:
            raise InputError(f"the scheduler has no global variable {name}")
        holder, member = self._places[name]
        whole = holder.lookup(bytes(4)) or b""
        return whole[member.offset : member.offset + member.size]


class Scheduler(_Maps):
    """A scheduler this process has loaded. Closing it returns the node to the kernel's own scheduler, unless pinned."""

    def __init__(self, loaded: BpfObject, log: str) -> None:
        super().__init__(_maps(loaded.handle))
        self.report = LoadReport(loaded.ops_name, programs(loaded), log, loaded.timeout_ms)
        self._object: BpfObject | None = loaded
        self._link: int | None = None
        self._pinned_at: Path | None = None
        self._kmsg = KmsgReader()

    @classmethod
    def load(cls, source: Path | bytes, *, timeout_ms: int | None = None) -> Self:
        """Load the object; its watchdog is shortened to `timeout_ms` where it is longer.

        Raises InputError when it is not a BPF object with exactly one scheduler, KernelError without sched_ext, and
        LoadRefused with the whole log when libbpf or the BPF verifier refuses it.
        """
        name, image = read_object(source)
        schedext.require()
        loaded = BpfObject(name, image, timeout_ms)
        try:
            return cls(loaded, loaded.load())
        except BaseException:
            loaded.close()
            raise

    @property
    def attached(self) -> bool:
        """Whether this process holds the scheduler's link; the kernel may have ejected it since: see `status`."""
        return self._link is not None

    def attach(self, settle_s: float = 5.0) -> None:
        """Put the scheduler in charge and wait until the kernel says so, at most `settle_s` seconds.

        Raises KernelError, with the exit record in its words, when it did not get there or was ejected at once. Close
        the links of schedulers that are gone first: on 6.12 dropping one later throws out its successor.
        """
        if self._object is None or self._link is not None:
            raise KernelError(
                f"cannot attach scheduler {self.report.ops_name}: it is closed, or holds a link already",
                remedy="detach it first",
            )
        self._kmsg.close()
        self._kmsg = KmsgReader()
        with libbpf.listening() as messages:
            link = libbpf.library().bpf_map__attach_struct_ops(self._object.ops_map)
            failure = libbpf.last_error()
        if not link:
            raise self._attach_error(libbpf.reason(failure), failure, messages)
        self._link = link
        state = schedext.wait_for(("enabled", "disabled"), settle_s)
        if state != "enabled" or schedext.ops_name() != self.report.ops_name:
            record = self.exit_record(settle_s=1.0)
            self.detach()
            raise self._attach_error(_explain(record, state), 0, messages)

    def status(self) -> SchedExtStatus:
        """What the kernel says now, with this scheduler's exit if it has left."""
        return schedext.status(self.exit_record())

    def kmsg(self) -> list[str]:
        """The kernel log since the last attach (or since loading)."""
        return self._kmsg.lines()

    def exit_record(self, settle_s: float = 0.0) -> ExitRecord | None:
        """Why this scheduler left, or None while it has not; waits up to `settle_s` for the kernel to print it."""
        end = time.monotonic() + settle_s
        while True:
            record = schedext.parse_exit(self._kmsg.lines(), self.report.ops_name)
            if record is not None and record.is_error and not record.message:
                time.sleep(_MESSAGE_S)  # the message is a second line, and may not be in the log yet
                return schedext.parse_exit(self._kmsg.lines(), self.report.ops_name)
            if record is not None or time.monotonic() >= end:
                return record
            time.sleep(0.02)

    def pin(self, directory: Path) -> None:
        """Pin link and maps under `directory` in bpffs: the scheduler then outlives this process; or KernelError."""
        if self._link is None:
            raise KernelError(f"cannot pin {self.report.ops_name}: it is not attached")
        _pin(directory, libbpf.library().bpf_link__fd(self._link), self.maps)
        self._pinned_at = directory

    def unpin(self) -> None:
        """Remove the pins: this process alone holds the scheduler then, which stays in charge."""
        if self._pinned_at is not None:
            _unpin(self._pinned_at)
            self._pinned_at = None

    def detach(self) -> None:
        """Drop this process's link and, unless it is pinned, wait until the kernel's own scheduler is back."""
        if self._link is None:
            return
        libbpf.library().bpf_link__destroy(self._link)
        self._link = None
        if self._pinned_at is None:
            _await_gone(self.report.ops_name)

    def close(self) -> None:
        """Detach and free the object; may be called again."""
        self.detach()
        if self._object is not None:
            self._object.close()
            self._object = None
            self.maps = {}
        self._kmsg.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _attach_error(self, why: str, number: int, messages: list[str]) -> KernelError:
        remedy = ""
        if number == errno.EBUSY:
            remedy = f"another scheduler ({schedext.ops_name() or 'unnamed'}) is attached: detach it first"
        elif number == errno.EPERM:
            remedy = "run as root"
        said = next((line for line in reversed(self.kmsg()) if "sched_ext:" in line), "") if number else ""
        told = "; ".join(filter(None, [why, said, *(text.strip() for text in messages)]))
        return KernelError(f"cannot attach scheduler {self.report.ops_name}: {told}", remedy=remedy)


class Pinned(_Maps):
    """A scheduler that an earlier process pinned under `directory`."""

    def __init__(self, directory: Path, link_fd: int, maps: dict[str, Map]) -> None:
        super().__init__(maps)
        self.directory = directory
        self._link_fd = link_fd

    def pin(self, directory: Path) -> None:
        """Pin link and maps again, under `directory` in bpffs. Raises KernelError."""
        _pin(directory, self._link_fd, self.maps)
        self.directory = directory

    def unpin(self) -> None:
        """Remove the pins: this process alone holds the scheduler then, which stays in charge."""
        _unpin(self.directory)

    def detach(self) -> None:
        """Remove the pins, drop the link and wait until the kernel's own scheduler is back. Raises KernelError."""
        name = schedext.ops_name()
        _unpin(self.directory)
        self.close()
        _await_gone(name)

    def close(self) -> None:
        """Release the descriptors; what is pinned stays in charge."""
        for found in self.maps.values():
            os.close(found.fd)
        self.maps = {}
        if self._link_fd >= 0:
            os.close(self._link_fd)
            self._link_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def adopt(directory: Path) -> Pinned:
    """Open what `Scheduler.pin` left under `directory`. Raises KernelError when there is no pinned link."""
    link_fd = _open_pin(directory / LINK_NAME)
    maps: dict[str, Map] = {}
    try:
        for file in sorted(directory.iterdir()):
            if file.name != LINK_NAME:
                maps[file.name] = Map(file.name, _open_pin(file))
    except BaseException:
        Pinned(directory, link_fd, maps).close()
        raise
    return Pinned(directory, link_fd, maps)


def eject_all(bpffs_root: Path, *, wait_s: float = _DETACH_S) -> SchedExtStatus:
    """Remove every pin under `bpffs_root` and wait for the kernel's own scheduler; returns what the kernel then says.

    Needs neither libbpf nor any state of ours. A scheduler whose link another process holds stays attached: the
    caller sees it in the returned status, and has `schedext.sysrq_reset` as the last resort.
    """
    if bpffs_root.is_dir():
        for directory, _below, _files in os.walk(bpffs_root, topdown=False):
            _unpin(Path(directory))
    schedext.wait_for(("disabled", ""), wait_s)
    return schedext.status()


def _pin(directory: Path, link_fd: int, maps: dict[str, Map]) -> None:
    """The link comes last: a directory without one holds nothing in charge."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _pin_error(directory, error.strerror) from error
    for name, fd in (*((found.name, found.fd) for found in maps.values()), (LINK_NAME, link_fd)):
        if libbpf.library().bpf_obj_pin(fd, os.fsencode(directory / name)) != 0:
            raise _pin_error(directory / name, libbpf.reason(libbpf.last_error()))


def _unpin(directory: Path) -> None:
    try:
        files = [file for file in directory.iterdir() if not file.is_dir()]
        # The link goes first: the scheduler must leave even if the rest fails.
        for file in sorted(files, key=lambda each: each.name != LINK_NAME):
            file.unlink(missing_ok=True)
        directory.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT, errno.EPERM, errno.EBUSY):
            raise KernelError(
                f"cannot remove the pins under {directory}: {error.strerror}", remedy="run as root"
            ) from error


def _open_pin(file: Path) -> int:
    fd = libbpf.library().bpf_obj_get(os.fsencode(file))
    if fd < 0:
        why = libbpf.reason(libbpf.last_error())
        raise KernelError(f"cannot open the pinned {file}: {why}", remedy="attach the scheduler again")
    return int(fd)


def _await_gone(name: str) -> None:
    """Wait until `name` is no longer in charge: the kernel moves every task back before it says so."""
    end = time.monotonic() + _DETACH_S
    while schedext.state() in ("enabled", "disabling", "enabling") and schedext.ops_name() in (name, ""):
        if time.monotonic() > end:
            raise KernelError(f"scheduler {name} does not leave", remedy="press SysRq-S: echo S > /proc/sysrq-trigger")
        time.sleep(0.02)


def _pin_error(path: Path, why: str | None) -> KernelError:
    return KernelError(f"cannot pin at {path}: {why}", remedy="mount -t bpf bpf /sys/fs/bpf, and run as root")


def _maps(handle: int | None) -> dict[str, Map]:
    """The maps by name; a section's map by its section, `bss` or `data_foo` (bpffs allows no dot in a name), and those
    of bpf/include by the name they are documented under: .data.schedctl_knobs is `schedctl_knobs`.
    """
    lib = libbpf.library()
    maps = {}
    for found in each_map(handle):
        fd = lib.bpf_map__fd(found)
        if fd < 0 or lib.bpf_map__type(found) == libbpf.MAP_TYPE_STRUCT_OPS:
            continue
        name = text_of(lib.bpf_map__name(found))
        if lib.bpf_map__is_internal(found):
            name = name.partition(".")[2]
        name = name.replace(".", "_")
        name = name.removeprefix("data_") if name.startswith("data_schedctl_") else name
        maps[name] = Map(name, fd)
    return maps


def _explain(record: ExitRecord | None, state: str) -> str:
    if record is None:
        return f"the kernel did not enable it (state {state or 'unknown'})"
    return f"it left at once ({record.reason}){': ' if record.message else ''}{record.message}"
