# SPDX-License-Identifier: Apache-2.0
"""Boots a kernel in a sealed micro-VM and talks to the agent inside it.

    with boot(kernel, VmShape(cores=2)) as guest:
        report = guest.load(object_bytes, timeout_ms=3000)
        guest.attach()
        lateness = guest.run(["schedload", "wakers", "4", "2000", "3"], timeout_s=30)

The guest has no disk, no network and no shared memory with this machine: a candidate scheduler runs there with full
rights over a kernel that is thrown away. Three socket pairs connect it: one virtio-serial port carrying a JSON document
a line both ways, the serial console, and QEMU's own monitor. Whatever comes through them is untrusted: each wait has a
deadline, each line a limit, and anything unexpected is a GuestError with the end of the console, never a verdict.
QEMU dies with this process (see machine.py). The one file a guest leaves is the snapshot of its freshly booted self, in
the cache (see snapshot.py).
"""

from __future__ import annotations

import base64
import json
import re
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from controller.errors import GuestError
from controller.kernel import initramfs, qemu, snapshot
from controller.kernel.bpf_object import LoadReport
from controller.kernel.guest_protocol import MAX_LINE, CommandResult, GuestFacts, error_from, revive
from controller.kernel.machine import Machine
from controller.kernel.schedext import SchedExtStatus
from controller.kernel.vmshape import VmShape

__all__ = ["EmulatorFault", "Guest", "GuestHung", "VmShape", "boot"]

_CMDLINE = "console=ttyS0 quiet panic=-1 oops=panic mitigations=off rdinit=/init"
_EMULATOR_FAULT = "Oops: int3"
_PANIC = re.compile(
    r"^.*(?:Kernel panic - not syncing|BUG: unable to handle|Out of memory: Killed process).*$", re.MULTILINE
)
_ENDED = "ended"
_POLL_S = 1.0
_RESUME_S = 30.0  # less than a boot on the same busy machine
_ANSWER_S = 60.0  # on top of what a request itself is allowed: the emulator on a busy machine is slow, not stuck

T = TypeVar("T")
Reporter = Callable[[str], None]


class EmulatorFault(GuestError):
    """QEMU's emulator broke the guest kernel (stale translated code): nobody's verdict, run it again."""


class GuestHung(GuestError):
    """It ran and did not answer: its agent is real-time, so a kernel that hangs, or a machine far too busy."""


def boot(
    kernel: Path, shape: VmShape | None = None, *, deadline_s: float = 90, reporter: Reporter | None = None
) -> Guest:
    """Boot the image `kernel` and return the guest once its agent has reported.

    Raises InputError when `kernel` is not a bootable image, ToolMissing without a usable QEMU, and GuestError
    (EmulatorFault when the emulator is to blame) when the guest dies or is not there after `deadline_s` seconds.
    """
    shape = shape or VmShape()
    tell = reporter or (lambda _text: None)
    emulator = qemu.find()
    qemu.check_image(kernel)
    image = initramfs.build()
    accelerator = qemu.accelerator(emulator, kernel)
    command = [*emulator.command(accelerator), *shape.options(), "-kernel", str(kernel), "-initrd", str(image)]
    command += ["-append", _CMDLINE, *Machine.CHANNELS]
    emulated = not qemu.is_kvm(accelerator)
    saved = snapshot.place(command, [emulator.binary, kernel]) if emulated else None
    if saved is not None and saved.exists():
        tell(f"resuming {kernel.name} with {shape.cpus} CPUs")
        try:
            options = snapshot.resume_options(saved)
            guest = _start([*command, *options], kernel, min(deadline_s, _RESUME_S), resumed=True)
            guest.repeatable = True
            guest._machine.keep_time()
            return guest
        except (GuestError, OSError):
            tell("the snapshot did not come up")
            snapshot.discard(saved)
    tell(f"booting {kernel.name} with {shape.cpus} CPUs ({accelerator[1].split(',')[0]})")
    guest = _start(command, kernel, deadline_s, resumed=False)
    if saved is not None:
        guest._save(saved)
    if emulated:
        guest._machine.keep_time()
    tell(f"Linux {guest.facts.release} is up")
    return guest


def _start(command: list[str], kernel: Path, allowed_s: float, *, resumed: bool) -> Guest:
    deadline = time.monotonic() + allowed_s
    guest = Guest(Machine(command), kernel)
    try:
        guest._await_hello(deadline, allowed_s, resumed=resumed)
    except BaseException:
        guest.close()
        raise
    return guest


class Guest:
    """A booted micro-VM. Every method is one request: it ends in time, with an answer or with an error.

    Errors of the loader in the guest (InputError, KernelError, LoadRefused) come out as themselves. GuestError means
    the guest itself is gone or talks nonsense; it is closed then, and each later call says the same.
    """

    def __init__(self, machine: Machine, kernel: Path) -> None:
        self._machine = machine
        self._kernel = kernel
        self._pending = bytearray()
        self._requests = 0
        self._fault: GuestError | None = None
        self._in_charge = False
        self.facts: GuestFacts
        self.repeatable = False
        """Whether the next `boot` of the same kernel and shape gives this same boot once more, from its snapshot."""

    @property
    def pid(self) -> int:
        """The process id of its QEMU."""
        return self._machine.pid

    @property
    def punctual(self) -> bool:
        """Whether its timers are kept on time by a real-time thread (see punctual.py): only in the emulator."""
        return self._machine.punctual is not None and self._machine.punctual.active

    def load(self, image: bytes, *, timeout_ms: int | None = None) -> LoadReport:
        """Load a BPF object, its watchdog shortened to `timeout_ms`; one loaded before is closed first.

        Raises LoadRefused with the verifier's log, InputError for what is no scheduler, KernelError without sched_ext.
        """
        answer = self._call("load", 120, image=base64.b64encode(image).decode(), timeout_ms=timeout_ms)
        return self._as(LoadReport, answer)

    def attach(self, settle_s: float = 5.0) -> None:
        """Put the loaded scheduler in charge; KernelError says why it did not get or stay there."""
        self._in_charge = True  # from here on it may be to blame
        self._call("attach", settle_s, settle_s=settle_s)

    def detach(self) -> None:
        """Return to the kernel's own scheduler; the object stays loaded and can be attached again."""
        self._call("detach", 10)
        self._in_charge = False

    def status(self) -> SchedExtStatus:
        """What the guest's kernel says now, with the loaded scheduler's exit record once it has left."""
        return self._as(SchedExtStatus, self._call("status"))

    def read_global(self, name: str) -> bytes:
        """The bytes of the loaded scheduler's global variable `name`. Raises InputError when there is none."""
        return self._bytes(self._call("read_global", variable=name))

    def map_lookup(self, name: str, key: bytes) -> bytes | None:
        """The value under `key` in the scheduler's map `name`, or None."""
        value = self._call("map_lookup", map_name=name, key=base64.b64encode(key).decode())
        return None if value is None else self._bytes(value)

    def map_update(self, name: str, key: bytes, value: bytes) -> None:
        """Put `value` under `key` in the scheduler's map `name`."""
        sent = [base64.b64encode(each).decode() for each in (key, value)]
        self._call("map_update", map_name=name, key=sent[0], value=sent[1])

    def run(self, argv: Sequence[str], *, timeout_s: float) -> CommandResult:
        """Run a command under the scheduler in charge; after `timeout_s` it is killed and `timed_out` set."""
        return self._as(CommandResult, self._call("run", timeout_s, argv=list(argv), timeout_s=timeout_s))

    def spawn(self, argv: Sequence[str]) -> int:
        """Start a command and return its number for `wait` and `kill`."""
        return self._as(int, self._call("spawn", argv=list(argv)))

    def wait(self, command: int, timeout_s: float) -> CommandResult:
        """The end of a spawned command; with `timed_out` it still runs, and can be waited for again."""
        return self._as(CommandResult, self._call("wait", timeout_s, command=command, timeout_s=timeout_s))

    def kill(self, command: int) -> None:
        """Send SIGKILL to a spawned command and its children; `wait` collects it."""
        self._call("kill", command=command)

    def read_file(self, path: str) -> str:
        """A guest file's text, at most 1 MiB. Raises KernelError."""
        return self._as(str, self._call("read_file", path=path))

    def write_file(self, path: str, text: str) -> None:
        """Write a guest file (a cgroup's weight, a CPU's `online`) in one write. Raises KernelError."""
        self._call("write_file", path=path, text=text)

    def boot_id(self) -> str:
        """The kernel's name for this boot, the same for all guests of one snapshot."""
        return self._revived(lambda: str(uuid.UUID(self.read_file("/proc/sys/kernel/random/boot_id").strip())))

    def kmsg(self) -> list[str]:
        """The guest's kernel log since the last load (since boot before the first)."""
        return self._as(list[str], self._call("kmsg"))

    def console_tail(self) -> str:
        """The end of what the guest printed on its serial console."""
        return self._machine.console.tail()

    def console(self) -> str:
        """All of it, but for the middle of very much (see console.py); also once the guest is gone."""
        return self._machine.console.text()

    def close(self) -> None:
        """End the guest; may be called again."""
        self._machine.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # ---- the port ----

    def _await_hello(self, deadline: float, allowed_s: float, *, resumed: bool = False) -> None:
        too_late = f"did not come up within {allowed_s:.0f} s"
        if resumed:  # it said hello before it was written to the file
            snapshot.go_on(self._machine.monitor, deadline)
            self.facts = self._as(GuestFacts, self._call("facts", deadline=deadline, too_late=too_late))
        else:
            self.facts = self._as(GuestFacts, self._receive(deadline, too_late).get("hello"))

    def _save(self, file: Path) -> None:
        self.boot_id()  # made up when first read: before the guest is written, or each gets its own
        try:
            self.repeatable = snapshot.save(self._machine.monitor, file)
        except OSError:  # no room for it: the next boot is a boot
            return
        except GuestError as error:
            raise self._broken(f"could not be written to a file: {error.message}") from error

    def _call(
        self, name: str, allowed_s: float = 0.0, *, deadline: float = 0.0, too_late: str = "", **arguments: Any
    ) -> Any:
        if self._fault is not None:
            raise self._fault
        self._requests += 1
        line = json.dumps({"id": self._requests, "call": name, "with": arguments}).encode() + b"\n"
        try:
            answer = self._answer(name, line, deadline or time.monotonic() + allowed_s + _ANSWER_S, too_late, allowed_s)
        except KeyboardInterrupt:  # half a request is on its way, or half an answer
            self._fault = GuestError(f"the micro-VM of {self._kernel.name} was left while it did `{name}`")
            raise
        if answer.get("id") != self._requests or not {"result", "error"} & answer.keys():
            raise self._broken(f"answered something else than `{name}`")
        if "error" in answer:
            raise self._revived(lambda: error_from(answer["error"]))
        return answer["result"]

    def _answer(self, name: str, line: bytes, deadline: float, too_late: str, allowed_s: float) -> dict[str, Any]:
        too_late = too_late or f"did not answer `{name}` within {allowed_s + _ANSWER_S:.0f} s"
        try:
            self._machine.port.settimeout(_ANSWER_S)
            self._machine.port.sendall(line)
        except TimeoutError as error:
            raise self._broken(f"took no request (`{name}`) within {_ANSWER_S:.0f} s", GuestHung) from error
        except OSError as error:
            raise self._broken(_ENDED) from error
        return self._receive(deadline, too_late)

    def _receive(self, deadline: float, too_late: str) -> dict[str, Any]:
        """The next document of the guest."""
        searched = 0
        while (end := self._pending.find(b"\n", searched)) < 0:
            searched = len(self._pending)
            if searched > MAX_LINE:
                raise self._broken(f"sent a line of more than {MAX_LINE} bytes")
            self._pending += self._more(deadline, too_late)
        line = bytes(self._pending[:end])
        del self._pending[: end + 1]
        try:
            document = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise self._broken("sent something that is not JSON") from error
        if not isinstance(document, dict):
            raise self._broken("sent something that is not an answer")
        return document

    def _more(self, deadline: float, too_late: str) -> bytes:
        port = self._machine.port
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._broken(too_late, GuestHung)
            port.settimeout(min(left, _POLL_S))
            try:
                chunk = port.recv(256 * 1024)
            except TimeoutError:
                if self._machine.console.flooded:
                    raise self._broken("flooded its console") from None
                continue
            except OSError:  # QEMU is gone, with a request of ours unread
                chunk = b""
            if not chunk:
                raise self._broken(_ENDED)
            return chunk

    def _as(self, wanted: type[T], value: Any) -> T:
        return self._revived(lambda: revive(wanted, value))

    def _bytes(self, value: Any) -> bytes:
        return self._revived(lambda: base64.b64decode(revive(str, value), validate=True))

    def _revived(self, make: Callable[[], T]) -> T:
        try:
            return make()
        except ValueError as error:
            raise self._broken(f"sent an answer that makes no sense: {error}") from error

    def _broken(self, what: str, kind: type[GuestError] = GuestError) -> GuestError:
        """End the guest and say what it did, with the end of its console and the emulator's or kernel's own fault."""
        console = self._machine.console
        if what is _ENDED:
            console.finish(2.0)
        self._machine.kill()
        text = console.text()
        message = f"the micro-VM of {self._kernel.name} {what}"
        panic = _PANIC.search(text)
        if panic is not None:
            message += f": {panic[0].strip()}"
        elif what is _ENDED and text.strip():  # also where QEMU says why it does not start
            message += f": {text.strip().splitlines()[-1][:300]}"
        remedy = "see its console"
        if _EMULATOR_FAULT in text:
            kind, message, remedy = EmulatorFault, f"{message} (a fault of QEMU's emulator)", "run it again"
        self._fault = kind(message, console=console.tail(), remedy=remedy, in_charge=self._in_charge)
        return self._fault
