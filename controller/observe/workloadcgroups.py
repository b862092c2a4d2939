# SPDX-License-Identifier: Apache-2.0
"""Which workloads are one cgroup's, and what that cgroup is given and took.

With cgroup v2 the observers know each task's path. On a v1 or hybrid host the v2 path says nothing of the cpu
controller, so the processes that still run are asked for theirs: a workload whose tasks have all ended by then has no
cgroup here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from controller.api.profile import WorkloadStats
from controller.observe import cgroupcpu, cgroups, procfs, selectors
from controller.observe.grouping import Grouped, fold
from controller.observe.sample import CgroupClock, Who


def describe(
    grouped: Grouped, opened: Mapping[bytes, CgroupClock], closed: Mapping[bytes, CgroupClock]
) -> tuple[WorkloadStats, ...]:
    """The workloads, those that are in one cgroup (and that not the root) with its figures."""
    where = cgroupcpu.hierarchy()
    v1 = _v1_paths(where) if where is not None and where.v1 else None
    described = []
    for stats in grouped.workloads:
        path = _common(grouped.members[stats.keyed_by, stats.name], v1)
        if path is not None and path != cgroups.ROOT:
            stats = stats.model_copy(update={"cgroup": cgroupcpu.describe(path, opened, closed, where)})
        described.append(stats)
    return tuple(described)


def _common(members: Iterable[Who], v1: Mapping[Who, set[bytes]] | None) -> bytes | None:
    """The one path that all of them have, or None."""
    paths: set[bytes | None] = set()
    for who in members:
        if v1 is None:
            paths.add(who.cgroup)
        else:
            paths |= v1.get(Who(fold(who.comm), who.cgroup, who.uid), {None})
    return paths.pop() if len(paths) == 1 else None


def _v1_paths(where: cgroupcpu.Hierarchy) -> dict[Who, set[bytes]]:
    """Who → paths within the cpu controller's hierarchy, of what runs now; threads share their process's."""
    found: dict[Who, set[bytes]] = {}
    seen: dict[int, tuple[bytes | None, bytes | None, int | None]] = {}
    for pid, _tid, folder in procfs.folders():
        if pid not in seen:
            process = folder.parent.parent
            path = cgroupcpu.path_of_process(process, where)
            seen[pid] = path, cgroups.of_process(process), selectors.real_uid(process)
        path, unified, uid = seen[pid]
        comm = procfs.comm(folder)
        if path is not None and comm is not None:
            found.setdefault(Who(fold(comm), unified, uid), set()).add(path)
    return found
