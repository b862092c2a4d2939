#!/usr/bin/python3 -IBS
# SPDX-License-Identifier: Apache-2.0
"""PID 1 of a node VM: makes a machine of the host's user space, then becomes the exec server.

The root is the host's own, over virtiofs and read-only. On top come the kernel's file systems, empty tmpfs
where a node writes, and the shares at the paths they have on the host. What the node needs and a tmpfs
would hide (a project below /tmp or /root) is bound back. The kernel passes the configuration's path as
SCHEDCTL_NODE; see controller/kernel/nodevm.py for its fields. Anything that fails is printed on the console
and ends the VM: a half-made node is no node.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import socket
import struct
import sys
from pathlib import Path

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_BIND = 1, 2, 4, 4096
MNT_DETACH = 2
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
HOST_ROOT = "/run/host-root"

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str = "none", flags: int = 0, options: str = "") -> None:
    words = (word.encode() for word in (source, target, kind))
    if _libc.mount(*words, ctypes.c_ulong(flags), options.encode()):
        code = ctypes.get_errno()
        raise OSError(code, f"mounting {source} ({kind}) on {target}: {os.strerror(code)}")


def mount_kernel_file_systems() -> None:
    quiet = MS_NOSUID | MS_NODEV
    mount("proc", "/proc", "proc", quiet)
    mount("sysfs", "/sys", "sysfs", quiet)
    try:
        mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755")
    except OSError as error:
        if error.errno != errno.EBUSY:  # CONFIG_DEVTMPFS_MOUNT did it already
            raise
    for name, kind, options in (("pts", "devpts", "mode=0620,ptmxmode=0666"), ("shm", "tmpfs", "mode=1777")):
        Path("/dev", name).mkdir(exist_ok=True)
        mount(kind, f"/dev/{name}", kind, MS_NOSUID, options)
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        Path("/dev", name).symlink_to(f"/proc/self/{target}")
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", quiet)
    mount("bpf", "/sys/fs/bpf", "bpf", quiet, "mode=0700")
    mount("tracefs", "/sys/kernel/tracing", "tracefs", quiet)
    mount("debugfs", "/sys/kernel/debug", "debugfs", quiet)


def enable_controllers() -> None:
    cgroup = Path("/sys/fs/cgroup")
    offered = (cgroup / "cgroup.controllers").read_text().split()
    (cgroup / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in offered))


def mount_scratch(scratch: list[str], keep: list[str]) -> None:
    """Empty tmpfs over `scratch`; the paths of `keep` that this hides come back, read-only, from the root below."""
    mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
    Path(HOST_ROOT).mkdir()
    mount("/", HOST_ROOT, flags=MS_BIND)
    for target in scratch:
        if Path(target).is_dir():
            mode = "mode=0700" if target == "/root" else "mode=1777" if Path(target).name == "tmp" else "mode=0755"
            mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, mode)
    for path in keep:
        if any(Path(path).is_relative_to(target) for target in scratch):
            kept = Path(HOST_ROOT + path)
            if kept.is_dir():
                Path(path).mkdir(parents=True, exist_ok=True)
            else:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                Path(path).touch()
            mount(str(kept), path, flags=MS_BIND)
    if _libc.umount2(HOST_ROOT.encode(), MNT_DETACH):
        raise OSError(ctypes.get_errno(), f"unmounting {HOST_ROOT}")
    Path(HOST_ROOT).rmdir()


def mount_shares(shares: list[dict[str, str]]) -> None:
    for share in shares:
        Path(share["path"]).mkdir(parents=True, exist_ok=True)
        mount(share["tag"], share["path"], "virtiofs")


def loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


def main() -> None:
    config = json.loads(Path(os.environ["SCHEDCTL_NODE"]).read_text())
    server = Path(config["server"]).read_text()  # its file may be below a path that a tmpfs hides
    os.umask(0)
    mount_kernel_file_systems()
    mount_scratch(config["scratch"], config["keep"])
    mount_shares(config["shares"])
    os.umask(0o022)
    enable_controllers()
    loopback_up()
    socket.sethostname(config["name"])
    os.environ.clear()
    os.environ.update(config["env"])
    exec(compile(server, config["server"], "exec"), {"__name__": "__main__"})  # noqa: S102 - node-exec.py, read above


if __name__ == "__main__":
    try:
        main()
    except BaseException as error:
        print(f"node-init: {error}", file=sys.stderr, flush=True)
        raise
