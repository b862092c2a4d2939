# SPDX-License-Identifier: Apache-2.0
"""The exec server of a node VM, PID 1 after node-init: runs commands for `schedctl node exec`.

Each virtio-serial port named schedctl.exec.N carries JSON lines and serves one client of the host at a
time, so that as many commands run at once as there are ports. Requests (host to guest), each with the
client's random `id`:

    {"id", "op": "ping"} {"id", "op": "exec", "argv", "env", "cwd", "stdin": bool, "log": path or null}
    log: run detached, output to that file {"id", "op": "stdin", "data": base64}   {"id", "op": "eof"}
    {"id", "op": "signal", "signo"}   {"op": "poweroff"}

and answers: {"id", "ev": "pong"|"started", "pid"}, {"id", "ev": "out", "fd": 1|2, "data": base64}, {"id",
"ev": "exit", "code"}, {"id", "ev": "error", "code", "message"}. A client that goes away takes its command
with it, a detached one stays. One loop does it all: a port whose client is gone is parked until SIGIO tells
that one came, because poll() would report its hang-up for ever.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path

# Above this much unsent output of a port its command's pipes are not read: the command blocks, as on any full pipe.
OUTPUT_LIMIT = 1 << 20
CHUNK = 1 << 15
TERMINATE_S = 2.0
# The kernel learns of a client's coming and going apart from its data, and later: the next client's command may run
# already when the hang-up of the one before is seen. Only a hang-up that lasts is the end of a command.
GRACE_S = 1.0
POWER_OFF = 0x4321FEDC


class Command:
    """A foreground command of a port: its process group and our ends of its pipes."""

    def __init__(self, request: dict) -> None:
        self.id = request["id"]
        pipe = subprocess.PIPE
        self.process = spawn(request, pipe if request.get("stdin") else subprocess.DEVNULL, pipe, pipe)
        self.outputs = {self.process.stdout.fileno(): 1, self.process.stderr.fileno(): 2}
        self.stdin = self.process.stdin.fileno() if self.process.stdin else None
        self.pending = bytearray()
        self.input_ended = False
        for fd in (*self.outputs, *(() if self.stdin is None else (self.stdin,))):
            os.set_blocking(fd, False)

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def feed(self) -> None:
        """Write what the pipe takes; a reader that went away ends the input."""
        if self.stdin is None:
            return
        try:
            while self.pending:
                del self.pending[: os.write(self.stdin, self.pending[:CHUNK])]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.pending.clear()
            self.input_ended = True
        if self.input_ended:
            self.process.stdin.close()
            self.stdin = None

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()


class Port:
    """One virtio-serial port: a line buffer each way and at most one foreground command."""

    def __init__(self, device: str) -> None:
        self.fd = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.fcntl(self.fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(self.fd, fcntl.F_SETFL, fcntl.fcntl(self.fd, fcntl.F_GETFL) | os.O_ASYNC)
        self.gone_at: float | None = None  # when its client was seen to be gone; such a port is parked
        self.received = bytearray()
        self.unsent = bytearray()
        self.command: Command | None = None

    def send(self, **answer: object) -> None:
        self.unsent += json.dumps(answer).encode() + b"\n"

    def flush(self) -> None:
        with contextlib.suppress(BlockingIOError, InterruptedError):
            while self.unsent:
                del self.unsent[: os.write(self.fd, self.unsent[:CHUNK])]

    def receive(self) -> None:
        with contextlib.suppress(BlockingIOError, InterruptedError):
            while data := os.read(self.fd, CHUNK):
                self.received += data
        *lines, rest = self.received.split(b"\n")
        self.received = bytearray(rest)
        for line in lines:
            with contextlib.suppress(ValueError):  # the torn line of a client that went away
                self.handle(json.loads(line))

    def handle(self, request: dict) -> None:
        match request.get("op"):
            case "ping":
                self.send(id=request["id"], ev="pong", pid=os.getpid())
            case "exec":
                self.drop()
                self.start(request)
            case "poweroff":
                power_off()
            case operation if self.command and self.command.id == request.get("id"):
                if operation == "stdin":
                    self.command.pending += base64.b64decode(request["data"])
                elif operation == "eof":
                    self.command.input_ended = True
                elif operation == "signal":
                    self.command.signal(request["signo"])
                self.command.feed()

    def start(self, request: dict) -> None:
        try:
            if request.get("log"):
                pid = start_detached(request)
            else:
                self.command = Command(request)
                pid = self.command.process.pid
        except OSError as error:
            code = 127 if isinstance(error, FileNotFoundError) else 126
            self.send(id=request["id"], ev="error", code=code, message=f"{error.filename}: {error.strerror}")
        else:
            self.send(id=request["id"], ev="started", pid=pid)

    def read_output(self, fd: int) -> bool:
        """Forward one piece; False when there is no more for now or for ever."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        if data:
            text = base64.b64encode(data).decode()
            self.send(id=self.command.id, ev="out", fd=self.command.outputs[fd], data=text)
            return True
        del self.command.outputs[fd]
        return False

    def finish(self, code: int) -> None:
        """The command ended: what it left in the pipes, then how it ended. Descendants that hold those lose them."""
        for fd in list(self.command.outputs):
            while self.read_output(fd):
                pass
        self.send(id=self.command.id, ev="exit", code=code)
        self.command.close()
        self.command = None

    def drop(self) -> None:
        """The client is gone, or there is a new one: the command ends, and nobody wants what is left to say.

        A line may have been sent in part: the new line ends it for the next client.
        """
        if self.command:
            self.command.signal(signal.SIGKILL)
            self.command.process.returncode = -signal.SIGKILL  # reap() collects it, not Popen
            self.command.close()
            self.command = None
        self.unsent = bytearray(b"\n")


detached: list[subprocess.Popen] = []  # kept so that no Popen waits for its own process behind our back


def spawn(request: dict, stdin: int, stdout: object, stderr: object) -> subprocess.Popen:
    return subprocess.Popen(
        request["argv"],
        env=dict(os.environ) | request.get("env", {}),
        cwd=request.get("cwd") or "/",
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


def start_detached(request: dict) -> int:
    log = Path(request["log"])
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = spawn(request, subprocess.DEVNULL, output, output)
    detached.append(process)
    return process.pid


def reap(ports: list[Port]) -> None:
    """Collect every ended process, orphans included, and finish the commands among them."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        code = os.waitstatus_to_exitcode(status)
        for process in [process for process in detached if process.pid == pid]:
            process.returncode = code
            detached.remove(process)
        for port in ports:
            if port.command and port.command.process.pid == pid:
                port.command.process.returncode = code
                port.finish(code if code >= 0 else 128 - code)


def power_off() -> None:
    """Ask every process to end, then end them, then the machine."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, number)
        deadline = time.monotonic() + TERMINATE_S
        with contextlib.suppress(ChildProcessError):
            while time.monotonic() < deadline:
                if os.waitpid(-1, os.WNOHANG) == (0, 0):
                    time.sleep(0.02)
    os.sync()
    ctypes.CDLL(None).reboot(POWER_OFF)


def turn(ports: list[Port], wakeup: int) -> None:
    """One round of the loop: wait for anything, then serve what came."""
    poller = select.poll()
    owner: dict[int, Port] = {}
    poller.register(wakeup, select.POLLIN)
    for port in ports:
        if port.gone_at is None:
            poller.register(port.fd, select.POLLIN | (select.POLLOUT if port.unsent else 0))
        if port.command:
            if len(port.unsent) < OUTPUT_LIMIT:
                for fd in port.command.outputs:
                    owner[fd] = port
                    poller.register(fd, select.POLLIN)
            if port.command.stdin is not None and port.command.pending:
                owner[port.command.stdin] = port
                poller.register(port.command.stdin, select.POLLOUT)
    waiting = [port.gone_at + GRACE_S for port in ports if port.gone_at is not None and port.command]
    events = dict(poller.poll(max(0, min(waiting) - time.monotonic()) * 1000 + 1 if waiting else None))
    for fd, port in owner.items():
        if fd in events and port.command:
            if fd in port.command.outputs:
                port.read_output(fd)
            elif fd == port.command.stdin:
                port.command.feed()
    for port in ports:
        seen = events.get(port.fd, 0)
        if seen & select.POLLHUP:
            port.gone_at = time.monotonic()
            continue
        if seen & select.POLLIN:
            port.receive()
        if seen & select.POLLOUT:
            port.flush()
    if wakeup in events:
        with contextlib.suppress(BlockingIOError):
            os.read(wakeup, 4096)
        reap(ports)
    unpark(ports)
    for port in ports:
        if port.gone_at is not None and port.command and time.monotonic() >= port.gone_at + GRACE_S:
            port.drop()


def unpark(ports: list[Port]) -> None:
    for port in ports:
        if port.gone_at is not None:
            probe = select.poll()
            probe.register(port.fd, select.POLLIN)
            if not any(seen & select.POLLHUP for _, seen in probe.poll(0)):
                port.gone_at = None


def open_ports() -> list[Port]:
    ports = []
    for entry in Path("/sys/class/virtio-ports").iterdir():
        if (entry / "name").read_text().startswith("schedctl.exec."):
            ports.append(Port(f"/dev/{entry.name}"))
    return ports


def main() -> None:
    wakeup, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGIO):
        signal.signal(number, lambda *_: None)
    ports = open_ports()
    while True:
        turn(ports, wakeup)


if __name__ == "__main__":
    main()
