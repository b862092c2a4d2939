# SPDX-License-Identifier: Apache-2.0
"""What cgroups are given of the CPU and what they took: weight, quota, usage, throttling, pressure; v1, v2 and hybrid.

On a v2 host all is in one folder (cpu.weight, cpu.max, cpu.stat, cpu.pressure). On a v1 host the cpu controller has
cpu.shares, cpu.cfs_quota_us and cpu.stat with the throttling, and cpuacct the usage; the two are mostly mounted
together. A hybrid host has both: the cpu controller is where it is mounted, v1 before v2, and there a process's path is
the one in the controller's line of /proc/PID/cgroup. Shares are turned into weights as the kernel's defaults have it,
1024 shares are a weight of 100; that is how systemd turns them, too.

A host with very many cgroups is not read whole: past MOST their counts are not told.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from controller.api.profile import CgroupCpu, Pressure
from controller.observe import cgroups, containers, facts
from controller.observe.names import printable
from controller.observe.sample import CgroupClock

MOST = 4096
MIN_WEIGHT, MAX_WEIGHT = 1, 10_000
_DEFAULT_SHARES, _DEFAULT_WEIGHT = 1024, 100
_US = 1000
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Hierarchy:
    """Where the cpu controller's and the accounting's folders are; `v1` says which files they have."""

    cpu: Path
    usage: Path
    v1: bool


def hierarchy(mountinfo: Path = Path("/proc/self/mountinfo")) -> Hierarchy | None:
    """Where this host's CPU cgroups are; None without any."""
    cpu, cpuacct = (_v1_mount(mountinfo, controller) for controller in (b"cpu", b"cpuacct"))
    if cpu is not None:
        return Hierarchy(cpu, cpuacct or cpu, v1=True)
    unified = cgroups.mount(mountinfo)
    return None if unified is None else Hierarchy(unified, unified, v1=False)


def path_of_process(folder: Path, where: Hierarchy) -> bytes | None:
    """The path of the process in its /proc folder within the cpu controller's hierarchy; None when it is gone."""
    if not where.v1:
        return cgroups.of_process(folder)
    try:
        lines = (folder / "cgroup").read_bytes().splitlines()
    except OSError:
        return None
    for line in lines:
        _number, controllers, path = [*line.split(b":", 2), b"", b""][:3]
        if b"cpu" in controllers.split(b","):
            return path or cgroups.ROOT
    return None


def clocks(where: Hierarchy | None = None) -> dict[bytes, CgroupClock]:
    """Path → counts of every cgroup but the root; empty where there are more than MOST of them."""
    where = where or hierarchy()
    if where is None:
        return {}
    paths = [path for path in cgroups.paths(where.cpu).values() if path != cgroups.ROOT]
    return {path: _clock(where, path) for path in paths} if len(paths) <= MOST else {}


def describe(
    path: bytes, opened: Mapping[bytes, CgroupClock], closed: Mapping[bytes, CgroupClock], where: Hierarchy | None
) -> CgroupCpu:
    """The cgroup at `path` in the cpu controller's hierarchy, its counts between two readings.

    A cgroup made inside the window counts from its making.
    """
    container = containers.identify(path)
    then, now = opened.get(path, CgroupClock(0, 0, 0, 0)), closed.get(path, CgroupClock())
    counts = {name: _grown(getattr(then, name), getattr(now, name)) for name in CgroupClock.__dataclass_fields__}
    folder = None if where is None else _folder(where.cpu, path)
    return CgroupCpu(
        path=printable(path),
        weight=None if folder is None or where is None else _weight(folder, v1=where.v1),
        quota=None if folder is None or where is None else _quota(folder, v1=where.v1),
        pressure=None if folder is None else _pressure(folder),
        container=container.container,
        pod=container.pod,
        qos=container.qos,
        **counts,
    )


def weight_of_shares(shares: int) -> int:
    """cpu.shares as cpu.weight: 1024 are 100."""
    return min(max(round(shares * _DEFAULT_WEIGHT / _DEFAULT_SHARES), MIN_WEIGHT), MAX_WEIGHT)


def _clock(where: Hierarchy, path: bytes) -> CgroupClock:
    stat = _fields(_folder(where.cpu, path) / "cpu.stat")
    if where.v1:
        usage = _number(_folder(where.usage, path) / "cpuacct.usage")
        throttled_ns = stat.get("throttled_time")
    else:
        usage = _times(stat.get("usage_usec"), _US)
        throttled_ns = _times(stat.get("throttled_usec"), _US)
    return CgroupClock(usage, stat.get("nr_periods"), stat.get("nr_throttled"), throttled_ns)


def _weight(folder: Path, *, v1: bool) -> int | None:
    number = _number(folder / ("cpu.shares" if v1 else "cpu.weight"))
    if number is None:
        return None
    return weight_of_shares(number) if v1 else min(max(number, MIN_WEIGHT), MAX_WEIGHT)


def _quota(folder: Path, *, v1: bool) -> float | None:
    """CPUs; None without a limit."""
    if v1:
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    else:
        first, _, second = _text(folder / "cpu.max").partition(" ")
        quota, period = _int(first), _int(second)
    return quota / period if quota and period and quota > 0 else None


def _pressure(folder: Path) -> Pressure | None:
    found = facts.pressure(folder, suffix=".pressure")
    return found if found != Pressure() else None


def _v1_mount(mountinfo: Path, controller: bytes) -> Path | None:
    try:
        lines = mountinfo.read_bytes().splitlines()
    except OSError:
        return None
    for line in lines:
        left, _, right = line.partition(b" - ")
        fields, kind = left.split(), right.split()
        if len(fields) > 4 and len(kind) > 2 and kind[0] == b"cgroup" and controller in kind[2].split(b","):
            raw = os.fsdecode(fields[4])
            return Path(_OCTAL.sub(lambda match: chr(int(match[1], 8)), raw)) if fields[3] == b"/" else None
    return None


def _folder(root: Path, path: bytes) -> Path:
    return root / os.fsdecode(path.lstrip(b"/"))


def _fields(file: Path) -> dict[str, int]:
    found = {}
    for line in _text(file).splitlines():
        name, _, value = line.partition(" ")
        number = _int(value)
        if number is not None:
            found[name] = number
    return found


def _number(file: Path) -> int | None:
    return _int(_text(file))


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:  # not this controller, not this kernel, or gone
        return ""


def _int(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def _times(value: int | None, factor: int) -> int | None:
    return None if value is None else value * factor


def _grown(then: int | None, now: int | None) -> int | None:
    return None if now is None else max(now - (then or 0), 0)
