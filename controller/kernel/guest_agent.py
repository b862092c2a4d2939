# SPDX-License-Identifier: Apache-2.0
"""The agent inside the micro-VM: answers the host's requests over the virtio-serial port, one at a time.

It knows nothing of scenarios or verdicts. It runs under SCHED_FIFO, out of reach of the candidate scheduler, and starts
every command through `schedload other`, which returns to the normal class only after it was executed: a starving
candidate can hold back the command, never the agent. When the host goes away the agent ends, and the guest with it.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import resource
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from controller.errors import InputError, KernelError, SchedctlError
from controller.kernel import libbpf, schedext, topology
from controller.kernel.guest_protocol import MAX_LINE, MAX_TEXT, CommandResult, GuestFacts, clip, error_document
from controller.kernel.loader import Scheduler
from controller.kernel.schedext import KmsgReader, SchedExtStatus

_PRIORITY = 50
_OUTPUT_LIMIT = 16 * 1024 * 1024
_KILL_GRACE_S = 2.0
_OOM_AGENT, _OOM_COMMAND = -1000, 500  # a guest without memory loses what fills it, never the one who tells us


class _Command:
    """A running command; its output goes to files, so that it never waits for us."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        self._began = time.monotonic()
        try:
            self._process = subprocess.Popen(
                ["schedload", "other", *argv],
                stdin=subprocess.DEVNULL,
                stdout=self._out,
                stderr=self._err,
                start_new_session=True,
            )
        except OSError as error:
            raise InputError(f"cannot start {argv[0]} in the guest: {error.strerror}") from error
        _prefer_for_oom(self._process.pid, _OOM_COMMAND)

    def kill(self) -> None:
        """Send SIGKILL to it and whatever it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self, timeout_s: float) -> CommandResult:
        """Its end, or `timed_out` after `timeout_s` seconds, with what it printed so far."""
        timed_out = False
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            timed_out = True
        seconds = time.monotonic() - self._began
        rc = -1 if self._process.returncode is None else self._process.returncode
        return CommandResult(rc, self._text(self._out), self._text(self._err), round(seconds, 4), timed_out)

    @staticmethod
    def _text(file: IO[bytes]) -> str:
        raw = os.pread(file.fileno(), _OUTPUT_LIMIT, 0)
        return clip(raw.decode(errors="replace"), MAX_TEXT // 2)


class Agent:
    """The requests by name; each takes JSON values and returns one."""

    def __init__(self) -> None:
        self._scheduler: Scheduler | None = None
        self._commands: dict[int, _Command] = {}
        self._next = 1
        self._kmsg = KmsgReader()
        self.calls: dict[str, Callable[..., Any]] = {
            "facts": self.facts,
            "load": self.load,
            "attach": self.attach,
            "detach": self.detach,
            "status": self.status,
            "read_global": self.read_global,
            "map_lookup": self.map_lookup,
            "map_update": self.map_update,
            "run": self.run,
            "spawn": self.spawn,
            "wait": self.wait,
            "kill": self.kill,
            "read_file": self.read_file,
            "write_file": self.write_file,
            "kmsg": self.kmsg,
        }

    def facts(self) -> GuestFacts:
        """What we run on."""
        shape = topology.read()
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return GuestFacts(
            release=os.uname().release,
            btf_digest=schedext.btf_digest() if schedext.VMLINUX_BTF.exists() else "",
            topology_class=shape.klass,
            cpus=shape.cpus,
            memory_mib=pages // (1024 * 1024),
            sched_ext=schedext.supported(),
            libbpf=libbpf.version(),
        )

    def load(self, image: str, timeout_ms: int | None) -> Any:
        """Load a scheduler in place of the one held before."""
        if self._scheduler is not None:
            self._scheduler.close()
            self._scheduler = None
        self._kmsg.close()
        self._kmsg = KmsgReader()
        self._scheduler = Scheduler.load(base64.b64decode(image), timeout_ms=timeout_ms)
        return dataclasses.replace(self._scheduler.report, log=clip(self._scheduler.report.log))

    def attach(self, settle_s: float) -> None:
        """Put it in charge."""
        self._held().attach(settle_s)

    def detach(self) -> None:
        """Return to the kernel's own scheduler; the object stays loaded."""
        if self._scheduler is not None:
            self._scheduler.detach()

    def status(self) -> SchedExtStatus:
        """What the kernel says now."""
        return self._scheduler.status() if self._scheduler is not None else schedext.status()

    def read_global(self, variable: str) -> str:
        """A global variable's bytes, base64."""
        return base64.b64encode(self._held().read_global(variable)).decode()

    def map_lookup(self, map_name: str, key: str) -> str | None:
        """A map's value, base64, or None."""
        value = self._held().map_lookup(map_name, base64.b64decode(key))
        return None if value is None else base64.b64encode(value).decode()

    def map_update(self, map_name: str, key: str, value: str) -> None:
        """Write a map's value."""
        self._held().map_update(map_name, base64.b64decode(key), base64.b64decode(value))

    def run(self, argv: list[str], timeout_s: float) -> CommandResult:
        """Run a command to its end; it is killed after `timeout_s`."""
        command = _Command(argv)
        result = command.wait(timeout_s)
        if result.timed_out:
            command.kill()
            command.wait(_KILL_GRACE_S)  # a candidate that never runs it cannot let it die either
        return result

    def spawn(self, argv: list[str]) -> int:
        """Start a command and return its number."""
        number, self._next = self._next, self._next + 1
        self._commands[number] = _Command(argv)
        return number

    def wait(self, command: int, timeout_s: float) -> CommandResult:
        """The end of a spawned command; `timed_out` leaves it running."""
        result = self._spawned(command).wait(timeout_s)
        if not result.timed_out:
            del self._commands[command]
        return result

    def kill(self, command: int) -> None:
        """Kill a spawned command; `wait` then collects it."""
        self._spawned(command).kill()

    def read_file(self, path: str) -> str:
        """A file's text."""
        try:
            with Path(path).open("rb") as file:
                return clip(file.read(2 * MAX_TEXT).decode(errors="replace"))
        except OSError as error:
            raise KernelError(f"cannot read {path} in the guest: {error.strerror}") from error

    def write_file(self, path: str, text: str) -> None:
        """Write a file in one write, as sysfs and cgroups want it."""
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise KernelError(f"cannot write {path} in the guest: {error.strerror}") from error

    def kmsg(self) -> list[str]:
        """The kernel log since the last load."""
        lines = self._kmsg.lines()
        return clip("\n".join(lines)).split("\n") if lines else []

    def answer(self, line: bytes) -> dict[str, Any]:
        """One request's answer document."""
        request = json.loads(line)
        try:
            return {"id": request["id"], "result": self.calls[request["call"]](**request["with"])}
        except SchedctlError as error:
            return {"id": request["id"], "error": error_document(error)}

    def _held(self) -> Scheduler:
        if self._scheduler is None:
            raise InputError("no scheduler is loaded in the guest")
        return self._scheduler

    def _spawned(self, number: int) -> _Command:
        if number not in self._commands:
            raise InputError(f"the guest runs no command {number}")
        return self._commands[number]


@dataclass
class _Port:
    """The host's port as lines. The host's end may not be there yet, or not any more: both read as an end of file."""

    fd: int
    pending: bytes = b""

    def receive(self) -> bytes | None:
        """The next line, or None when the host is gone."""
        while b"\n" not in self.pending:
            select.select([self.fd], [], [])
            chunk = os.read(self.fd, 1 << 20)
            if not chunk or len(self.pending) > MAX_LINE:
                return None
            self.pending += chunk
        line, _, self.pending = self.pending.partition(b"\n")
        return line

    def send(self, document: dict[str, Any]) -> None:
        """Write one document, whole."""
        rest = json.dumps(document, default=dataclasses.asdict).encode() + b"\n"
        while rest:
            rest = rest[os.write(self.fd, rest) :]


def _prefer_for_oom(pid: int, score: int) -> None:
    with contextlib.suppress(OSError):  # it may be gone already
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(score))


def serve(port_device: Path) -> None:
    """Answer requests from `port_device` until the host goes away."""
    _prefer_for_oom(os.getpid(), _OOM_AGENT)
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_OUTPUT_LIMIT, _OUTPUT_LIMIT))  # no load fills the guest's memory
    agent = Agent()
    port = _Port(os.open(port_device, os.O_RDWR | os.O_CLOEXEC))
    port.send({"hello": agent.facts()})
    while (line := port.receive()) is not None:
        port.send(agent.answer(line))


def find_port(name: str, sysfs: Path = Path("/sys/class/virtio-ports")) -> Path:
    """The device of the virtio-serial port called `name`. Raises KernelError."""
    for entry in sysfs.glob("*/name"):
        if entry.read_text().strip() == name:
            return Path("/dev") / entry.parent.name
    raise KernelError(
        f"the guest has no virtio-serial port {name}", remedy="boot a kernel with CONFIG_VIRTIO_CONSOLE=y"
    )


def main(port_name: str) -> None:
    """Entry point of the guest's init."""
    serve(find_port(port_name))
