# SPDX-License-Identifier: Apache-2.0
"""cgroup v2: which cgroups there are, their ids, and where a process is.

The kernel knows a cgroup by a 64-bit id, which is the inode number of its folder. Only the v2 hierarchy counts here,
since bpf_get_current_cgroup_id() and a scheduler's own lookups see no other: on a hybrid host that keeps its
processes in v1 controllers every task is in the v2 root, and a v1 host has no v2 hierarchy at all (`mount()` is None).
Paths are bytes, absolute from the hierarchy's root, `/` for the root itself.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = b"/"
_UNIT = re.compile(rb"\.(service|scope|slice|socket|mount|swap)$")
_SESSION = re.compile(rb"(^|/)(session-[^/]+\.scope|init\.scope)(/|$)")
_DELETED = b" (deleted)"
_OCTAL = re.compile(r"\\([0-7]{3})")


def mount(mountinfo: Path = Path("/proc/self/mountinfo")) -> Path | None:
    """Where the v2 hierarchy is mounted, or None."""
    try:
        lines = mountinfo.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    for line in lines:
        left, _, right = line.partition(" - ")
        fields = left.split()
        # A container may see only a branch mounted: its folders are no paths from the root of /proc/PID/cgroup.
        if right.startswith("cgroup2 ") and len(fields) > 4 and fields[3] == "/":
            return Path(_OCTAL.sub(lambda m: chr(int(m[1], 8)), fields[4]))
    return None


def paths(root: Path | None) -> dict[int, bytes]:
    """Every cgroup under `root` (a v2 mount): id → path. Cgroups that vanish on the way are left out."""
    if root is None:
        return {}
    found: dict[int, bytes] = {}
    try:
        found[root.stat().st_ino] = ROOT
    except OSError:
        return {}
    pending = [(os.fsencode(root), b"")]
    while pending:
        folder, path = pending.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        found[entry.inode()] = below = path + b"/" + entry.name
                        pending.append((entry.path, below))
        except OSError:
            continue
    return found


def of_process(folder: Path) -> bytes | None:
    """The v2 path of the process whose /proc folder is given; None when it is gone or the host has no v2."""
    try:
        lines = (folder / "cgroup").read_bytes().splitlines()
    except OSError:
        return None
    line = next((line for line in lines if line.startswith(b"0::")), None)
    return None if line is None else line[3:].removesuffix(_DELETED) or ROOT


def lineage(path: bytes) -> list[bytes]:
    """`path` and its ancestors, root first: `/a/b` → `/`, `/a`, `/a/b`."""
    parts = [part for part in path.split(b"/") if part]
    return [ROOT] + [b"/" + b"/".join(parts[: i + 1]) for i in range(len(parts))]


def units(path: bytes) -> list[bytes]:
    """The systemd units `path` lies in, outermost first: `/system.slice/web.service/x` → slice, service."""
    return [part for part in path.split(b"/") if _UNIT.search(part)]


def names_workload(path: bytes) -> bool:
    """Whether the path says what runs: not the root, and not a login session or init, which hold unrelated commands."""
    return path != ROOT and not _SESSION.search(path)
