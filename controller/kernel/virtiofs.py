# SPDX-License-Identifier: Apache-2.0
"""Finds virtiofsd and starts one server for one shared folder.

There are two programs of that name: QEMU's own in C (until QEMU 7.2; options behind `-o`) and its successor in Rust. A
server runs inside bubblewrap with this machine's files read-only, except the folder it may write: the guest's `ro`
mount is the guest's promise, this is ours. This machine's signing key is not among the files it sees. It ends by itself
when QEMU closes its end of the socket.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from controller.errors import CouldNotTell, ToolMissing
from controller.kernel.processes import Process
from controller.paths import cache_dir, config_dir

_SYSTEM_CONFIG = Path("/etc/schedctl")  # also when SCHEDCTL_CONFIG names another
# Off the PATH by design: Debian 13's package, Debian 12's qemu-system-common 7.2 when it is installed.
_PLACES = (Path("/usr/libexec/virtiofsd"), Path("/usr/lib/qemu/virtiofsd"))


@dataclass(frozen=True, slots=True)
class Virtiofsd:
    """One usable virtiofsd; `rust` tells the successor, whose options differ."""

    binary: Path
    version: str
    rust: bool

    def arguments(self, folder: Path, listening_fd: int, *, coherent: bool) -> list[str]:
        """Serve `folder` on an already listening socket.

        Coherent: the guest never answers from its own cache. Otherwise it sees a change after a second at most. The
        C server's `auto` makes the guest read a file anew each time it is opened, which triples the time that
        Python and bcc take to start there; `always` keeps what was read, and with a timeout still sees changes.
        """
        common = [str(self.binary), f"--fd={listening_fd}"]
        if self.rust:
            return [*common, f"--shared-dir={folder}", "--sandbox=chroot", f"--cache={'never' if coherent else 'auto'}"]
        cache = "cache=none" if coherent else "cache=always,timeout=1"
        return [*common, "-o", f"source={folder}", "-o", f"sandbox=chroot,{cache}"]


def find() -> Virtiofsd:
    """SCHEDCTL_VIRTIOFSD when set, else the PATH, the distribution's places, and what setup unpacked."""
    named = os.environ.get("SCHEDCTL_VIRTIOFSD")
    places = [Path(named)] if named else [*_PLACES, cache_dir() / "tools" / "virtiofsd"]
    on_path = None if named else shutil.which("virtiofsd")
    for binary in [*([Path(on_path)] if on_path else []), *places]:
        if os.access(binary, os.X_OK):
            return _inspect(binary)
    raise ToolMissing(
        f"sharing files with a node VM: no virtiofsd{f' at {named}' if named else ''}", remedy="make setup"
    )


def serve(folder: Path, listener: socket.socket, log: Path, *, writable: bool) -> list[Process]:
    """Start a server for `folder` on `listener`; returns its sandbox and itself.

    A writable share is coherent, because host and guest both change it. The processes outlive this one.
    """
    virtiofsd = find()
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise ToolMissing("sharing files with a node VM: no bubblewrap (bwrap)", remedy="make setup")
    # /run is where the C server keeps its lock; the capabilities are those it serves any user's files with.
    sandbox = [bwrap, "--ro-bind", "/", "/", "--dev-bind", "/dev", "/dev", "--tmpfs", "/run", "--cap-add", "ALL"]
    if writable:
        sandbox += ["--bind", str(folder), str(folder)]
    for config in {config_dir(), _SYSTEM_CONFIG}:
        sandbox += _without_secrets(config)
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as info:
        try:
            command = [*sandbox, "--info-fd", str(write_end), "--"]
            command += virtiofsd.arguments(folder, listener.fileno(), coherent=writable)
            pid = _spawn(command, (listener.fileno(), write_end), log)
        finally:
            os.close(write_end)
        said = info.read()
    child = re.search(rb'"child-pid": *(\d+)', said)
    if child is None:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise CouldNotTell(
            f"sharing {folder} with a node VM: {lines[-1] if lines else 'bubblewrap did not start virtiofsd'}",
            remedy="schedctl doctor",
        )
    return [process for process in map(Process.of, (pid, int(child[1]))) if process]


def _without_secrets(config: Path) -> list[str]:
    """bubblewrap's arguments that hide all of the configuration folder but the public keys in its `trusted`."""
    try:
        config = config.resolve(strict=True)
    except OSError:  # there is none, and so nothing to hide
        return []
    hide = ["--tmpfs", str(config)]
    trusted = config / "trusted"
    if trusted.is_dir():
        hide += ["--ro-bind", str(trusted), str(trusted)]
    return [*hide, "--remount-ro", str(config)]


def _spawn(command: list[str], fds: tuple[int, ...], log: Path) -> int:
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, pass_fds=fds, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    process.returncode = 0  # it outlives us: Popen must neither wait for it nor warn that it still runs
    return process.pid


def _inspect(binary: Path) -> Virtiofsd:
    try:
        done = subprocess.run([str(binary), "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolMissing(f"{binary} does not run: {error}", remedy="make setup") from error
    version = re.search(r"virtiofsd (version )?(\d[\d.]*)", done.stdout)
    if version is None:
        raise ToolMissing(f"{binary} does not call itself virtiofsd", remedy="make setup")
    return Virtiofsd(binary, version[2].rstrip("."), rust=version[1] is None)
