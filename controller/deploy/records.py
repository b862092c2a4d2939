# SPDX-License-Identifier: Apache-2.0
"""What a scheduler of ours leaves in its maps: that it decides (the heartbeat), and why it ended (the exit record).

The maps are those of bpf/include/schedctl.bpf.h, read from the object that this process holds or from its pins; they
are still there after the kernel has thrown the scheduler out. Another scheduler has none of them, and then there is
nothing to tell. The text is the kernel's, with names of processes in it: whatever is not printable is replaced.
"""

from __future__ import annotations

import re
import struct
import time

from controller.api import ExitReport, Pulse, now
from controller.errors import InputError, KernelError
from controller.kernel import loader

_HEARTBEAT = "schedctl_heartbeat"
_EXIT = "schedctl_exit"
_DUMP = "schedctl_exit_dump"
_BEAT = struct.Struct("<QQ")
_RECORD = struct.Struct("<Qq64s256s")
_FIRST = bytes(4)


def pulse(maps: loader.Scheduler | loader.Pinned) -> Pulse | None:
    """How many decisions all CPUs have taken, and how long ago the last one was; None without a heartbeat."""
    raw = _value(maps, _HEARTBEAT)
    if len(raw) < _BEAT.size or len(raw) % _BEAT.size:
        return None
    beats = list(_BEAT.iter_unpack(raw))
    last = max(at for _, at in beats)
    # bpf_ktime_get_ns is CLOCK_MONOTONIC, as time.monotonic_ns is.
    age = max(time.monotonic_ns() - last, 0) // 1000 * 1000 if last else None
    return Pulse(decisions=sum(count for count, _ in beats), last_decision=age)


def exit_report(maps: loader.Scheduler | loader.Pinned, revision: str) -> ExitReport | None:
    """Why the scheduler ended by its own record; None while it runs, and without a record."""
    raw = _value(maps, _EXIT)
    if len(raw) != _RECORD.size:
        return None
    kind, code, reason, message = _RECORD.unpack(raw)
    if not kind:
        return None
    return ExitReport(
        revision=revision,
        at=now(),
        kind=kind,
        code=code,
        reason=_text(reason),
        message=_text(message),
        dump=_text(_value(maps, _DUMP)),
    )


def _value(maps: loader.Scheduler | loader.Pinned, name: str) -> bytes:
    try:
        return maps.map_lookup(name, _FIRST) or b""
    except (InputError, KernelError):  # no map of that name or shape: not one of ours
        return b""


def _text(raw: bytes) -> str:
    text = raw.split(b"\0", 1)[0].decode("utf-8", "replace").replace("\t", "    ")
    return re.sub(r"[^\n -~]", "?", text)[:4096]
