# SPDX-License-Identifier: Apache-2.0
"""Boots a guest once and starts it from memory from then on: a guest that is ready is stopped and written to a file.

The file is taken before any candidate was near the guest, and belongs to one command line, QEMU, kernel image and
guest image; another of any of them is another file. It is a cache: a file that cannot be written, or does not come up,
costs a boot and nothing else. Only the emulator uses it, for with KVM a boot is as quick. All guests of one file are of
one boot and have its boot id, so what was measured in one of them (see `note`) holds for the next.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from controller.errors import GuestError
from controller.kernel import leftovers
from controller.kernel.initramfs import keep_newest
from controller.paths import cache_dir

_KEEP = 10  # files of 100 to 200 MB each: two kernels in the shapes that are verified
_KEEP_NOTES = 24  # files of a few KB
_SAVE_DEADLINE_S = 60.0
_ANSWER_S = 20.0
_BANDWIDTH = 1 << 40  # bytes a second: the default would throttle writing to a file


def place(command: list[str], inputs: list[Path]) -> Path:
    """Where the snapshot for this command line and these files belongs (the guest image's name is its digest)."""
    parts = ["has its boot id", *command]  # raise it when what is done before writing changes
    for path in inputs:
        about = path.stat()
        parts.append(f"{path.resolve()} {about.st_size} {about.st_mtime_ns}")
    return _folder() / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}.vm"


def resume_options(file: Path) -> list[str]:
    """QEMU's arguments to start from `file`, which is marked as used."""
    os.utime(file)
    return ["-incoming", f"file:{file}"]


def save(monitor: Monitor, file: Path) -> bool:
    """Write the guest to `file` and let it go on. False when that did not work; the guest goes on all the same."""
    with leftovers.folder(file.parent, ".saving-") as scratch:
        target = scratch / file.name
        monitor.execute("migrate-set-parameters", {"max-bandwidth": _BANDWIDTH})
        monitor.execute("stop")
        saved = _write(monitor, target)
        monitor.execute("cont")
        if saved:
            target.chmod(0o600)
            target.replace(file)
    keep_newest(file.parent, "*.vm", _KEEP)
    return saved


def go_on(monitor: Monitor, deadline: float) -> None:
    """Let a guest that was started with `resume_options` run, once its memory is in. Raises GuestError."""
    while monitor.execute("query-status")["status"] == "inmigrate":
        if time.monotonic() > deadline:
            raise GuestError("the snapshot was not read in time")
        time.sleep(0.01)
    monitor.execute("cont")  # it was stopped when it was written, and remembers that


def note(boot_id: str, about: str) -> Path:
    """Where to keep what was found out about every guest of the boot `boot_id`, in a file called after `about`."""
    return _folder() / f"{boot_id}.{about}.json"


def keep_note(file: Path, text: str) -> bool:
    """Write such a file; False when that did not work (it is a cache). Old ones of other boots are deleted."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        leftovers.write(file, text.encode())
        keep_newest(file.parent, "*.json", _KEEP_NOTES)
    except OSError:
        return False
    return True


def discard(file: Path) -> None:
    """Forget a snapshot that did not come up."""
    file.unlink(missing_ok=True)


class Monitor:
    """QEMU's monitor (QMP) on a socket. Raises GuestError when it does not answer."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._pending = bytearray()
        self._ready = False

    def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """The command's return value. Raises GuestError with QEMU's words when it refuses."""
        deadline = time.monotonic() + _ANSWER_S
        if not self._ready:
            self._receive(deadline)  # the greeting
            self._ready = True
            self.execute("qmp_capabilities")
        with contextlib.suppress(OSError):
            self._stream.sendall(json.dumps({"execute": command, "arguments": arguments or {}}).encode() + b"\n")
        while True:
            answer = self._receive(deadline)
            if "error" in answer:
                raise GuestError(f"QEMU refuses {command}: {answer['error'].get('desc')}")
            if "return" in answer:
                return answer["return"]

    def close(self) -> None:
        """Close the socket."""
        self._stream.close()

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._pending:
            try:
                self._stream.settimeout(max(deadline - time.monotonic(), 0.001))
                chunk = self._stream.recv(64 * 1024)
            except OSError:
                chunk = b""
            if not chunk:
                raise GuestError("QEMU's monitor does not answer")
            self._pending += chunk
        line, _, rest = bytes(self._pending).partition(b"\n")
        self._pending[:] = rest
        document: dict[str, Any] = json.loads(line)
        return document


def _write(monitor: Monitor, target: Path) -> bool:
    deadline = time.monotonic() + _SAVE_DEADLINE_S
    monitor.execute("migrate", {"uri": f"file:{target}"})
    while time.monotonic() < deadline:
        status = monitor.execute("query-migrate").get("status")
        if status in ("completed", "failed", "cancelled"):
            return bool(status == "completed")
        time.sleep(0.02)
    monitor.execute("migrate_cancel")
    return False


def _folder() -> Path:
    return cache_dir() / "guest" / "snapshots"
