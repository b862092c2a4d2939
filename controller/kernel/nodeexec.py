# SPDX-License-Identifier: Apache-2.0
"""This machine's half of running commands in a node VM; bpf/guest/node-exec.py, the guest's, has the protocol.

A `Channel` is one of the VM's virtio-serial ports, ours while we hold the lock on its file. A port may
still carry what a client before us left behind: answers count only with our own random id, and a line that
is not JSON is skipped.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from controller.errors import CouldNotTell, DeadlineExceeded, InputError

PORTS = 12  # commands that can run at once in one VM
_CHUNK = 1 << 15
_START_S = 60.0  # for the guest to answer that a command runs; the emulator on a busy machine is slow
_KILLED_S = 10.0

Output = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class ExecResult:
    """How a command in a node VM ended; `stdout` and `stderr` are empty for what a callback took."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class PortClosed(Exception):
    """QEMU closed the port: it is gone."""


class Channel:
    """One port to the guest. Any method may raise PortClosed."""

    def __init__(self, connection: socket.socket, node: str) -> None:
        self._socket = connection
        self._node = node
        self._id = secrets.token_hex(8)
        self._received = bytearray()

    @classmethod
    @contextlib.contextmanager
    def open(cls, directory: Path, node: str) -> Iterator[Self]:
        """Take a free port of the node whose state is in `directory`; CouldNotTell when there is none."""
        for port in range(PORTS):
            lock = os.open(directory / f"exec{port}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if _lock_at_once(lock):
                    with _connect(directory, port) as connection:
                        yield cls(connection, node)
                    return
            finally:
                os.close(lock)
        raise CouldNotTell(
            f"all {PORTS} command ports of node {node} are taken", remedy="wait for a command there to end"
        )

    def ping(self, timeout_s: float) -> None:
        """Return once the guest's server answers. DeadlineExceeded."""
        self._send(op="ping")
        self._receive(time.monotonic() + timeout_s, "starting")

    def power_off(self, timeout_s: float) -> None:
        """Ask the guest to end its processes and then itself; returns once QEMU is gone. DeadlineExceeded."""
        self._send(op="poweroff")
        with contextlib.suppress(PortClosed):
            while True:
                self._receive(time.monotonic() + timeout_s, "powering off")

    def start_detached(self, argv: Sequence[str], *, log: str, env: Mapping[str, str], cwd: str) -> int:
        """Start a command that outlives this channel; its pid in the guest. InputError when it cannot be started."""
        self._send(op="exec", argv=list(argv), env=dict(env), cwd=cwd, log=log)
        answer = self._receive(time.monotonic() + _START_S, f"starting {argv[0]}")
        if answer["ev"] == "error":
            raise InputError(
                f"starting {argv[0]} on node {self._node}: {answer['message']}", remedy="check its name and folder"
            )
        return int(answer["pid"])

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float | None,
        stdin: bytes | None,
        output: tuple[Output | None, Output | None],
        env: Mapping[str, str],
        cwd: str,
    ) -> ExecResult:
        """See NodeVm.exec."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        doing = f"running {argv[0]}"
        collected = {1: bytearray(), 2: bytearray()}
        sinks = {1: output[0] or collected[1].extend, 2: output[1] or collected[2].extend}
        self._send(op="exec", argv=list(argv), env=dict(env), cwd=cwd, stdin=stdin is not None)
        if stdin is not None:
            self._send_input(stdin)
        while True:
            try:
                answer = self._receive(deadline, doing)
            except DeadlineExceeded:
                self._kill()
                raise
            match answer["ev"]:
                case "out":
                    sinks[answer["fd"]](base64.b64decode(answer["data"]))
                case "exit":
                    return ExecResult(int(answer["code"]), bytes(collected[1]), bytes(collected[2]))
                case "error":
                    message = f"{answer['message']}\n".encode()
                    sinks[2](message)
                    return ExecResult(int(answer["code"]), b"", bytes(collected[2]))

    def _send_input(self, data: bytes) -> None:
        for start in range(0, len(data), _CHUNK):
            self._send(op="stdin", data=base64.b64encode(data[start : start + _CHUNK]).decode())
        self._send(op="eof")

    def _kill(self) -> None:
        """End the command and wait for that, so that nothing of it runs on when the caller hears of the deadline."""
        self._send(op="signal", signo=int(signal.SIGKILL))
        with contextlib.suppress(DeadlineExceeded):
            while self._receive(time.monotonic() + _KILLED_S, "ending it")["ev"] != "exit":
                pass

    def _send(self, **request: object) -> None:
        self._socket.settimeout(_START_S)
        # The new line in front ends what a client that was killed may have sent in part.
        try:
            self._socket.sendall(b"\n" + json.dumps({"id": self._id, **request}).encode() + b"\n")
        except ConnectionError as error:
            raise PortClosed from error
        except TimeoutError as error:
            raise CouldNotTell(
                f"node {self._node} takes no command", remedy=f"schedctl node stop {self._node}"
            ) from error

    def _receive(self, deadline: float | None, doing: str) -> dict[str, Any]:
        """The next answer to us."""
        while True:
            line, newline, rest = self._received.partition(b"\n")
            if newline:
                self._received = rest
                with contextlib.suppress(ValueError):
                    answer = json.loads(line)
                    if isinstance(answer, dict) and answer.get("id") == self._id:
                        return answer
                continue
            left = None if deadline is None else deadline - time.monotonic()
            try:
                if left is not None and left <= 0:
                    raise TimeoutError
                self._socket.settimeout(left)
                data = self._socket.recv(1 << 16)
            except TimeoutError as error:
                raise DeadlineExceeded(
                    f"{doing} on node {self._node} took longer than it may", remedy="allow more time"
                ) from error
            except ConnectionError as error:
                raise PortClosed from error
            if not data:
                raise PortClosed
            self._received += data


def _lock_at_once(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _connect(directory: Path, port: int) -> socket.socket:
    """Through the folder's descriptor: a socket's path may be too long for connect()."""
    connection = socket.socket(socket.AF_UNIX)
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        connection.connect(f"/proc/self/fd/{folder}/exec{port}.sock")
    except OSError as error:
        connection.close()
        raise PortClosed from error
    finally:
        os.close(folder)
    return connection
