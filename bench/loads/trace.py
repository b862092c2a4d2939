# SPDX-License-Identifier: Apache-2.0
"""The kernel's own record of scheduler events: a private tracefs instance, read as the kernel wrote it.

Of the ways to record raw events this disturbs what it records least: some 100 ns an event and nobody who wakes up to
write a file, where perf takes microseconds when its code has left the caches, which then are part of what the next
observer measures. The text form of a trace has microseconds; the pages of the ring buffer have nanoseconds
(Documentation/trace/ring-buffer-design.rst, tracefs's events/header_page and header_event).

A trace can lack events without saying so: in one virtual machine with a 6.18 kernel neither it nor perf ever had a
switch that CPU 1 made when it was idle, while BPF programs at the same tracepoint had all. `whole` says on which CPUs
the trace is to be believed.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path

TRACING = Path("/sys/kernel/tracing")
_BUFFER_KB = 16384
_WAKES = 200
_PAGE = 4096
_SIZE_MASK = (1 << 20) - 1
_PADDING, _TIME_EXTEND, _TIME_STAMP = 29, 30, 31
_DELTA_SHIFT = 27
_FIELD = re.compile(r"field:[^;]*?(\w+)(\[\d+\])?;\toffset:(\d+);\tsize:(\d+);")

Value = int | str


@dataclass(frozen=True)
class Event:
    """One event: CLOCK_MONOTONIC in nanoseconds, CPU, name and fields; text where the kernel has characters."""

    at: int
    cpu: int
    name: str
    fields: dict[str, Value]


@dataclass(frozen=True)
class _Kind:
    """How an event of one number is laid out: field → offset, size, and whether it is text."""

    name: str
    fields: dict[str, tuple[int, int, bool]]

    def read(self, at: int, cpu: int, data: bytes) -> Event:
        found: dict[str, Value] = {}
        for name, (offset, size, text) in self.fields.items():
            raw = data[offset : offset + size]
            found[name] = raw.partition(b"\0")[0].decode("latin-1") if text else int.from_bytes(raw, "little")
        return Event(at, cpu, self.name, found)


@dataclass
class Recording:
    """What was recorded, once it has ended: all events in the order of time, and how many were lost."""

    events: list[Event] = field(default_factory=list)
    lost: int = 0


def mount() -> None:
    """Mount tracefs in its usual place unless it is there: without systemd it is only where somebody asked."""
    if not (TRACING / "instances").is_dir():
        subprocess.run(["mount", "-t", "tracefs", "tracefs", TRACING], check=False)


@contextlib.contextmanager
def recorded(names: Sequence[str]) -> Iterator[Recording]:
    """Record these events of `sched` on all CPUs while this is open, to be read then. SystemExit without tracefs."""
    mount()
    instance = TRACING / "instances" / f"schedctl-bench-{os.getpid()}"
    try:
        instance.mkdir()
    except OSError as error:
        raise SystemExit(f"cannot record raw events in {instance}: {error.strerror}; mount tracefs, as root") from None
    recording = Recording()
    record_names = TRACING / "options" / "record-cmd"  # for all instances; has probes of its own in each switch
    recorded_names = record_names.read_text()
    try:
        record_names.write_text("0")
        (instance / "tracing_on").write_text("0")
        (instance / "trace_clock").write_text("mono")
        (instance / "buffer_size_kb").write_text(str(_BUFFER_KB))
        kinds = {}
        for name in names:
            folder = instance / "events" / "sched" / name
            (folder / "enable").write_text("1")
            kinds[int((folder / "id").read_text())] = _Kind(name, _layout((folder / "format").read_text()))
        (instance / "tracing_on").write_text("1")
        yield recording
        (instance / "tracing_on").write_text("0")
        for cpu in instance.glob("per_cpu/cpu[0-9]*"):
            recording.events += _read(cpu / "trace_pipe_raw", int(cpu.name.removeprefix("cpu")), kinds)
            stats = (cpu / "stats").read_text()
            recording.lost += sum(map(int, re.findall(r"(?:overrun|dropped events): (\d+)", stats)))
        recording.events.sort(key=attrgetter("at"))
    finally:
        (instance / "events" / "enable").write_text("0")
        instance.rmdir()
        record_names.write_text(recorded_names)


def whole(cpus: Sequence[int]) -> list[int]:
    """Those of the CPUs whose trace has every switch from their idle task to another."""
    with recorded(("sched_switch",)) as recording:
        sleepers = [threading.Thread(target=_wake_often, args=(cpu,)) for cpu in cpus]
        for thread in sleepers:
            thread.start()
        for thread in sleepers:
            thread.join()
    running: dict[int, Value] = {}
    lacking: Counter[int] = Counter()
    for event in recording.events:
        if running.get(event.cpu) == 0 and event.fields["prev_pid"] != 0:
            lacking[event.cpu] += 1
        running[event.cpu] = event.fields["next_pid"]
    return [cpu for cpu in cpus if not lacking[cpu]]


def _wake_often(cpu: int) -> None:
    os.sched_setaffinity(threading.get_native_id(), {cpu})
    for _ in range(_WAKES):
        time.sleep(0.002)


def _layout(text: str) -> dict[str, tuple[int, int, bool]]:
    fields = {name: (int(at), int(size), bool(many)) for name, many, at, size in _FIELD.findall(text)}
    return {name: where for name, where in fields.items() if not name.startswith("common_")}


def _read(file: Path, cpu: int, kinds: dict[int, _Kind]) -> Iterator[Event]:
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while page := _next_page(descriptor):
            yield from _events(page, cpu, kinds)
    finally:
        os.close(descriptor)


def _next_page(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, _PAGE)
    except BlockingIOError:
        return b""


def _events(page: bytes, cpu: int, kinds: dict[int, _Kind]) -> Iterator[Event]:
    """The events of one page of the ring buffer: its time, the bytes in use, events with the time since the last."""
    now, used = struct.unpack_from("=QQ", page)
    at, end = 16, 16 + (used & _SIZE_MASK)
    while at + 4 <= end:
        (head,) = struct.unpack_from("=I", page, at)
        kind, delta = head & 0x1F, head >> 5
        at += 4
        if kind == _PADDING and not delta:
            return
        if kind in (_TIME_EXTEND, _TIME_STAMP):
            (upper,) = struct.unpack_from("=I", page, at)
            since = (upper << _DELTA_SHIFT) + delta
            now = now + since if kind == _TIME_EXTEND else since
            at += 4
            continue
        length = 4 * kind
        if kind in (0, _PADDING):  # the length is in the first word, and counts it
            (length,) = struct.unpack_from("=I", page, at)
        now += delta
        data = page[at + 4 : at + length] if kind == 0 else page[at : at + length]
        at += length
        known = kinds.get(int.from_bytes(data[:2], "little")) if kind != _PADDING else None
        if known is not None:
            yield known.read(now, cpu, data)
