# SPDX-License-Identifier: Apache-2.0
"""What this kernel says about sched_ext: its state, who is attached, and why the last scheduler left.

Attaching a scheduler may succeed and the scheduler be gone a moment later, so nothing here remembers what we did: each
call reads sysfs or the kernel log again. Only the standard library and `controller.errors` are used, because the guest
of the micro-VM runs this same module.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from controller.errors import KernelError
from controller.kernel import libbpf

SYSFS = Path("/sys/kernel/sched_ext")
VMLINUX_BTF = Path("/sys/kernel/btf/vmlinux")
NO_SCHED_EXT = "boot a kernel built with CONFIG_SCHED_CLASS_EXT (6.12 or newer), or use `schedctl node start`"

# include/linux/sched/ext.h, enum scx_exit_kind, with the words scx_exit_reason() prints for each (6.12 to 7.x).
EXIT_KINDS = {
    0: ("SCX_EXIT_NONE", ""),
    1: ("SCX_EXIT_DONE", ""),
    64: ("SCX_EXIT_UNREG", "unregistered from user space"),
    65: ("SCX_EXIT_UNREG_BPF", "unregistered from BPF"),
    66: ("SCX_EXIT_UNREG_KERN", "unregistered from the main kernel"),
    67: ("SCX_EXIT_SYSRQ", "disabled by sysrq-S"),
    1024: ("SCX_EXIT_ERROR", "runtime error"),
    1025: ("SCX_EXIT_ERROR_BPF", "scx_bpf_error"),
    1026: ("SCX_EXIT_ERROR_STALL", "runnable task stall"),
}
_KMSG_LINES = 20_000
_UNREG_KERN = 66
_KIND_OF_REASON = {reason: kind for kind, (_name, reason) in EXIT_KINDS.items() if reason}

# enum scx_exit_code: why the kernel asked a scheduler to leave, and that it may come straight back.
ECODE_RSN_HOTPLUG = 1 << 32
ECODE_ACT_RESTART = 1 << 48
_DISABLED = re.compile(r'sched_ext: BPF scheduler "(?P<name>[^"]*)" disabled \((?P<reason>[^)]*)\)')


@dataclass(frozen=True)
class ExitRecord:
    """Why a scheduler left. `kind` is the kernel's number, `kind_name` its name, `message` what it said besides.

    `code` is the exit code where it is known (a scheduler's own exit code is only in its own exit record), else 0.
    """

    kind: int
    kind_name: str
    code: int
    reason: str
    message: str

    @property
    def is_error(self) -> bool:
        """Whether the kernel or the scheduler called it an error, as opposed to being asked to leave."""
        return self.kind >= 1024 or self.kind == 0

    @property
    def wants_restart(self) -> bool:
        """Whether the kernel expects the same scheduler to be attached again (CPU hotplug)."""
        return bool(self.code & ECODE_ACT_RESTART)


@dataclass(frozen=True)
class SchedExtStatus:
    """What the kernel says now: `state`, the attached ops' name ("" when none) and the last exit, if one was seen."""

    state: str
    ops: str
    exit: ExitRecord | None = None

    def runs(self, name: str) -> bool:
        """Whether the scheduler called `name` is the one in charge."""
        return self.state == "enabled" and self.ops == name


def supported() -> bool:
    """Whether this kernel has sched_ext."""
    return (SYSFS / "state").exists()


def require() -> None:
    """Raises KernelError unless this kernel has sched_ext."""
    if not supported():
        raise KernelError(f"this kernel ({os.uname().release}) has no sched_ext", remedy=NO_SCHED_EXT)


def state() -> str:
    """`enabled`, `enabling`, `disabling` or `disabled`, or "" on a kernel without sched_ext."""
    return _read(SYSFS / "state")


def ops_name() -> str:
    """The attached scheduler's name, or "" when there is none."""
    return _read(SYSFS / "root" / "ops")


def status(exit_record: ExitRecord | None = None) -> SchedExtStatus:
    """State and name together; the name is dropped when the scheduler left between the two reads."""
    name = ops_name()
    now = state()
    return SchedExtStatus(now, name if now == "enabled" else "", exit_record)


def enable_seq() -> int:
    """How many schedulers were ever enabled since boot: moves even when one came and went unseen."""
    return _number(SYSFS / "enable_seq")


def nr_rejected() -> int:
    """How many tasks were refused entry to sched_ext since boot."""
    return _number(SYSFS / "nr_rejected")


def hotplug_seq() -> int:
    """How many CPUs went on or off line since boot."""
    return _number(SYSFS / "hotplug_seq")


def events() -> dict[str, int]:
    """The attached scheduler's own event counters, SCX_EV_* → count; empty without one, or before 6.15."""
    fields = (line.split() for line in _read(SYSFS / "root" / "events").splitlines())
    return {each[0]: int(each[1]) for each in fields if len(each) == 2 and each[1].isdigit()}


def btf_digest() -> str:
    """sha256 of the kernel's own BTF: the same for two kernels only if their types and kfuncs are the same."""
    try:
        return hashlib.sha256(VMLINUX_BTF.read_bytes()).hexdigest()
    except OSError as error:
        raise KernelError(
            f"cannot read {VMLINUX_BTF}: {error.strerror}", remedy="boot a kernel built with CONFIG_DEBUG_INFO_BTF"
        ) from error


def wait_for(wanted: Sequence[str], deadline_s: float) -> str:
    """Wait until the state is one of `wanted`; returns the last state seen, wanted or not."""
    end = time.monotonic() + deadline_s
    while (now := state()) not in wanted and time.monotonic() < end:
        time.sleep(0.02)
    return now


def sysrq_reset() -> None:
    """Press SysRq-S: the kernel throws out any sched_ext scheduler, whoever holds it. Raises KernelError."""
    try:
        Path("/proc/sysrq-trigger").write_text("S")
    except OSError as error:
        raise KernelError(f"cannot press SysRq-S: {error.strerror}", remedy="run as root") from error


class KmsgReader:
    """The kernel log from a mark on: made at the mark, `lines()` gives what was logged since.

    `from_start=True` puts the mark at the oldest record that the kernel still has.

    Needs the right to read /dev/kmsg (root, or CAP_SYSLOG); without it there are simply no lines.
    """

    def __init__(self, *, from_start: bool = False) -> None:
        self._lines: list[str] = []
        self._fd = -1
        with contextlib.suppress(OSError):
            self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._fd, 0, os.SEEK_SET if from_start else os.SEEK_END)

    def lines(self) -> list[str]:
        """Every message since the mark, oldest first, without the log's prefix fields."""
        while self._fd >= 0:
            try:
                record = os.read(self._fd, 8192)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.EPIPE:  # the ring overtook us: go on with the oldest record that is left
                    continue
                break
            _prefix, _, text = record.decode(errors="replace").partition(";")
            self._lines.append(text.split("\n", 1)[0])
            del self._lines[:-_KMSG_LINES]  # a flood of them costs no memory
        return list(self._lines)

    def close(self) -> None:
        """Release the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()


def parse_exit(lines: Sequence[str], ops: str) -> ExitRecord | None:
    """The last exit of the scheduler `ops` in these kernel log lines, or None.

    The kernel prints `sched_ext: BPF scheduler "NAME" disabled (REASON)` and, with an error, `sched_ext: NAME: MESSAGE`
    below it (the wording is the same from 6.12 to 7.3).
    """
    for index in range(len(lines) - 1, -1, -1):
        match = _DISABLED.search(lines[index])
        if match is not None and match["name"] == ops:
            return _record(match["reason"], _message(lines[index + 1 :], ops))
    return None


def _message(lines: Sequence[str], ops: str) -> str:
    prefix = f"sched_ext: {ops}: "
    for line in lines:
        if _DISABLED.search(line):
            break
        _before, found, message = line.partition(prefix)
        if found:
            return message.strip()
    return ""


def _record(reason: str, message: str) -> ExitRecord:
    kind = _KIND_OF_REASON.get(reason, 0)
    # The kernel itself asks a root scheduler to leave for one reason, CPU hotplug (6.12 to 7.3), and prints no code.
    code = ECODE_RSN_HOTPLUG | ECODE_ACT_RESTART if kind == _UNREG_KERN else 0
    return ExitRecord(kind, EXIT_KINDS[kind][0], code, reason, message)


class Abilities:
    """Which ops, kfuncs and flags a kernel has, asked of its BTF (this kernel's, or a file's)."""

    def __init__(self, btf: libbpf.Btf) -> None:
        self._btf = btf

    def has_op(self, name: str) -> bool:
        """Whether `struct sched_ext_ops` has a member `name`."""
        return self._btf.member("sched_ext_ops", name) is not None

    def has_kfunc(self, name: str) -> bool:
        """Whether the kernel has a function `name` that BPF could call."""
        return self._btf.find(name, libbpf.KIND_FUNC) is not None

    def flag(self, name: str) -> int | None:
        """The value of an `enum scx_ops_flags` constant such as SCX_OPS_SWITCH_PARTIAL, or None if it is not there."""
        return self._btf.enum_values("scx_ops_flags").get(name)


def abilities(btf_file: Path | None = None) -> Abilities:
    """The abilities of this kernel, or of the one whose raw BTF is in `btf_file`. Raises KernelError without BTF."""
    return Abilities(libbpf.Btf.from_file(btf_file or VMLINUX_BTF))


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:  # not there: no sched_ext, or the scheduler has just left
        return ""


def _number(file: Path) -> int:
    text = _read(file)
    return int(text) if text.isdigit() else 0
