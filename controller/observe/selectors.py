# SPDX-License-Identifier: Apache-2.0
"""Which tasks an intent speaks of, on this node, now.

The fields of a selector are ANDed and the entries of one field ORed. Patterns know `*` and `?` alone and mind case.

    comm    the thread's own name, 15 bytes
    cgroup  a v2 path from the hierarchy's root, leading `/` optional; `*` crosses `/`
    unit    a systemd unit, found as a component of the v2 path
    user    a name or number, against the process's real user id
    podSelector   needs the Kubernetes API: never evaluated here, and as fields are ANDed such an intent matches nothing
            (a pod's UID and a container's id are in the v2 path, where `cgroup` finds them)

A cgroup or unit is selected with all that is below it, as with `cpu.weight`, and as the scheduler in the kernel walks
from a task's cgroup up to the root.
"""

from __future__ import annotations

import pwd
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from controller.api.intent import SchedulingIntent, WorkloadSelector
from controller.observe import cgroups
from controller.observe.names import glob as matches_glob
from controller.observe.names import printable

PROC = Path("/proc")


@dataclass(frozen=True)
class Task:
    """One thread. `comm` and `cgroup` are printable; `cgroup_id` is None where the host has no cgroup v2."""

    pid: int
    tid: int
    comm: str
    uid: int
    cgroup: str
    cgroup_id: int | None


@dataclass(frozen=True)
class Thread:
    """One thread as /proc has it: raw name and v2 path (None where unknown); `folder` is its process's."""

    pid: int
    tid: int
    comm: bytes
    uid: int
    path: bytes | None
    folder: Path
    cgroup_id: int | None = None

    @property
    def task(self) -> Task:
        """The same, safe to show."""
        shown = "" if self.path is None else printable(self.path)
        return Task(self.pid, self.tid, printable(self.comm), self.uid, shown, self.cgroup_id)


@dataclass(frozen=True)
class IntentTasks:
    """What `intent` (NAMESPACE/NAME) matched; `unresolved` says which field could not be evaluated here, and why."""

    intent: str
    tasks: tuple[Task, ...]
    unresolved: str = ""


class Matcher:
    """A selector made ready for this node: users looked up, patterns as bytes."""

    FIELDS = ("comm", "cgroup", "unit", "user", "podSelector")

    def __init__(self, selector: WorkloadSelector) -> None:
        self._comm = [pattern.encode() for pattern in selector.comm]
        self._cgroup = [pattern.strip("/").encode() for pattern in selector.cgroup]
        self._unit = [pattern.encode() for pattern in selector.unit]
        found = {user: _uid(user) for user in selector.user}
        self._uids = {uid for uid in found.values() if uid is not None} if selector.user else None
        self._has_pods = selector.pod_selector is not None
        self.unknown_users = tuple(user for user, uid in found.items() if uid is None)
        self._places: dict[bytes, bool] = {}
        self.by_cgroup = bool(selector.cgroup or selector.unit)
        self.unresolved = self._why_unresolved()

    def _why_unresolved(self) -> str:
        reasons = []
        if self._has_pods:
            reasons.append(
                "podSelector: the labels of pods are known to the Kubernetes API alone, which is not reached from "
                "here, so nothing matches; cgroup can select a pod by its UID"
            )
        if self.unknown_users:
            reasons.append(f"user {', '.join(self.unknown_users)[:200]} is not known on this node")
        if self.by_cgroup and cgroups.mount() is None:
            reasons.append("cgroup and unit need cgroup v2, which is not mounted on this node")
        return "; ".join(reasons)

    def comm(self, raw: bytes) -> bool:
        """Whether a thread's name, as the kernel has it, fits."""
        return not self._comm or any(matches_glob(pattern, raw) for pattern in self._comm)

    def user(self, uid: int | None) -> bool:
        """Whether a real user id fits."""
        return self._uids is None or uid in self._uids

    def fields(self, comm: bytes, path: bytes | None, uid: int | None) -> dict[str, bool]:
        """Whether each field that the selector has fits, in the order of FIELDS."""
        fits: dict[str, bool] = {}
        if self._comm:
            fits["comm"] = self.comm(comm)
        if self._cgroup:
            fits["cgroup"] = path is not None and self._in_cgroup(path)
        if self._unit:
            fits["unit"] = path is not None and self._in_unit(path)
        if self._uids is not None:
            fits["user"] = self.user(uid)
        if self._has_pods:
            fits["podSelector"] = False
        return fits

    def place(self, path: bytes | None) -> bool:
        """Whether a v2 path, or a cgroup above it, fits the cgroup and the unit field."""
        if not self.by_cgroup:
            return True
        if path is None:
            return False
        if path not in self._places:
            self._places[path] = self._in_cgroup(path) and self._in_unit(path)
        return self._places[path]

    def matches(self, comm: bytes, path: bytes | None, uid: int | None) -> bool:
        """Whether a task fits every field."""
        if self._has_pods or not self.user(uid):
            return False
        return self.comm(comm) and self.place(path)

    def ids(self, tree: dict[int, bytes]) -> set[int]:
        """The ids in `tree` (id → path) whose tasks fit the cgroup and unit fields; none if it has neither."""
        if not self.by_cgroup or self._has_pods:
            return set()
        return {number for number, path in tree.items() if self.place(path)}

    def _in_cgroup(self, path: bytes) -> bool:
        if not self._cgroup:
            return True
        above = [each.strip(b"/") for each in cgroups.lineage(path)]
        return any(matches_glob(pattern, each) for pattern in self._cgroup for each in above)

    def _in_unit(self, path: bytes) -> bool:
        if not self._unit:
            return True
        return any(matches_glob(pattern, unit) for pattern in self._unit for unit in cgroups.units(path))


def match(intents: Sequence[SchedulingIntent], *, proc: Path = PROC) -> tuple[IntentTasks, ...]:
    """The tasks of this node each intent matches, in the order given; a task may match several intents.

    One walk over /proc for all intents. Tasks that vanish during the walk are left out; threads are taken to share
    their process's user and cgroup.
    """
    matchers = [(intent.qualified_name, Matcher(intent.spec.workload)) for intent in intents]
    tasks: dict[str, list[Task]] = {key: [] for key, _ in matchers}
    for thread in threads(proc) if matchers else ():
        for key, matcher in matchers:
            if matcher.matches(thread.comm, thread.path, thread.uid):
                tasks[key].append(thread.task)
    return tuple(IntentTasks(key, tuple(tasks[key]), matcher.unresolved) for key, matcher in matchers)


def threads(proc: Path = PROC) -> Iterator[Thread]:
    """Every thread of this node, a process's together. Those that vanish during the walk are left out."""
    tree = {path: number for number, path in cgroups.paths(cgroups.mount()).items()}
    for pid, folder in _processes(proc):
        uid, path = real_uid(folder), cgroups.of_process(folder)
        if uid is None:
            continue
        number = tree.get(path) if path is not None else None
        for tid, comm in _threads(folder):
            yield Thread(pid, tid, comm, uid, path, folder, number)


def cgroup_ids(selector: WorkloadSelector) -> set[int]:
    """Ids of the cgroups the selector's cgroup and unit fields select: what fills the BPF map `schedctl_cgroups`.

    Empty when it has neither field, when a podSelector is beside them (not evaluated here), or without cgroup v2.
    """
    return Matcher(selector).ids(cgroups.paths(cgroups.mount()))


def real_uid(folder: Path) -> int | None:
    """The real user id of the process whose /proc folder is given; None when it is gone."""
    try:
        status = (folder / "status").read_bytes()
    except OSError:
        return None
    line = next((line for line in status.splitlines() if line.startswith(b"Uid:")), b"")
    fields = line.split()
    return int(fields[1]) if len(fields) > 1 else None


def _processes(proc: Path) -> Iterator[tuple[int, Path]]:
    for folder in proc.iterdir():
        if folder.name.isdecimal():
            yield int(folder.name), folder


def _threads(folder: Path) -> Iterator[tuple[int, bytes]]:
    try:
        threads = list((folder / "task").iterdir())
    except OSError:
        return
    for thread in threads:
        try:
            comm = (thread / "comm").read_bytes()
        except OSError:
            continue
        yield int(thread.name), comm.removesuffix(b"\n")


def _uid(user: str) -> int | None:
    if user.isdecimal():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None
