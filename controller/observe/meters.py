# SPDX-License-Identifier: Apache-2.0
"""The kernel's own meters, read when a window opens and when it closes: CPUs' and cgroups' clocks.

They run whether anybody looks or not, so both observers use them. Per CPU: /proc/stat (clock ticks; steal is what the
hypervisor took) and /proc/schedstat (waits in the run queue; only kernels with CONFIG_SCHEDSTATS). Per cgroup: see
`cgroupcpu`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from controller.api.profile import CpuStats
from controller.kernel import topology
from controller.observe import cgroupcpu
from controller.observe.sample import CpuClock, Reading

PROC = Path("/proc")
MOST_CPUS = 1024
"""What a profile can hold."""

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_RUN_DELAY = 7  # of a cpu line's numbers, in schedstat versions 15 to 17


def read(proc: Path = PROC) -> Reading:
    """All meters now."""
    at = time.monotonic_ns()
    return Reading(at, cpu_clocks(proc), cgroupcpu.clocks())


def cpu_clocks(proc: Path = PROC) -> dict[int, CpuClock]:
    """CPU → its clocks, of the CPUs now on line."""
    waits = _waits(proc / "schedstat")
    found = {}
    for line in (proc / "stat").read_bytes().splitlines():
        name, *ticks = line.split() or [b""]
        if name.startswith(b"cpu") and name != b"cpu":
            cpu = int(name[3:])
            user, nice, system, _idle, _iowait, irq, softirq, steal = (int(each) * _TICK_NS for each in ticks[:8])
            tasks = user + nice + system
            found[cpu] = CpuClock(tasks, tasks + irq + softirq, steal, waits.get(cpu))
    return found


def cpus(opened: Reading, closed: Reading, depth: Mapping[int, tuple[int, ...]]) -> tuple[CpuStats, ...]:
    """What the CPUs did between two readings; `depth` is CPU → nanoseconds with [i] tasks in its run queue."""
    span = max(closed.at_ns - opened.at_ns, 1)
    capacities = topology.capacities()
    stats = []
    for cpu in sorted(opened.cpus.keys() & closed.cpus.keys())[:MOST_CPUS]:
        then, now = opened.cpus[cpu], closed.cpus[cpu]
        waited = None if then.wait_ns is None or now.wait_ns is None else max(now.wait_ns - then.wait_ns, 0)
        stats.append(
            CpuStats(
                cpu=cpu,
                busy_share=_share(now.busy_ns - then.busy_ns, span),
                steal_share=_share(now.steal_ns - then.steal_ns, span),
                capacity=capacities.get(cpu),
                wait_ns=waited,
                depth=depth.get(cpu, ()),
            )
        )
    return tuple(stats)


def _share(part: int, span: int) -> float:
    """Ticks are coarse and the kernel lets some of them run backwards."""
    return min(max(part / span, 0.0), 1.0)


def _waits(file: Path) -> dict[int, int]:
    try:
        lines = file.read_bytes().splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        name, *numbers = line.split() or [b""]
        if name.startswith(b"cpu") and len(numbers) > _RUN_DELAY:
            found[int(name[3:])] = int(numbers[_RUN_DELAY])
    return found
