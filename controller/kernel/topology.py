# SPDX-License-Identifier: Apache-2.0
"""The shape of this machine's CPUs, read from sysfs, and the class a passport is bound to.

A scheduler proved on one shape says nothing about another: caches, packages and hyper-threads decide where tasks may
go. The class is coarse on purpose (CPUs are rounded up to a power of two, from 16 on they count as one), so that a
micro-VM can present it with `-smp` and like nodes share a passport.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from controller.errors import KernelError

SYSFS = Path("/sys/devices/system")
_CAP = 16


@dataclass(frozen=True)
class Topology:
    """Online CPUs and how they hang together; `cores_per_package` and `threads_per_core` are the largest found."""

    cpus: int
    packages: int
    cores_per_package: int
    threads_per_core: int
    llcs: int
    numa_nodes: int

    @property
    def klass(self) -> str:
        """Such as `cpus2.pkg1.smt1.llc1.numa1`."""
        size = 1 << (self.cpus - 1).bit_length()
        cpus = f"{_CAP}+" if size >= _CAP else str(size)
        shape = f"pkg{self.packages}.smt{self.threads_per_core}.llc{self.llcs}.numa{self.numa_nodes}"
        return f"cpus{cpus}.{shape}"


def read(sysfs: Path = SYSFS) -> Topology:
    """This machine's topology, of the CPUs now on line. Raises KernelError when sysfs does not say."""
    try:
        cpus = parse_list((sysfs / "cpu" / "online").read_text())
    except (OSError, ValueError) as error:
        raise KernelError(f"cannot read {sysfs}/cpu/online: {error}", remedy="mount sysfs at /sys") from error
    places = {cpu: _place(sysfs / "cpu" / f"cpu{cpu}", cpu) for cpu in cpus}
    cores: dict[int, set[int]] = {}
    threads: dict[tuple[int, int], int] = {}
    for package, core, _llc in places.values():
        cores.setdefault(package, set()).add(core)
        threads[package, core] = threads.get((package, core), 0) + 1
    return Topology(
        cpus=len(cpus),
        packages=len(cores),
        cores_per_package=max(len(found) for found in cores.values()),
        threads_per_core=max(threads.values()),
        llcs=len({llc for _package, _core, llc in places.values()}),
        numa_nodes=_numa_nodes(sysfs),
    )


@dataclass(frozen=True)
class Place:
    """Where a CPU is: its last-level cache and its NUMA node, as numbers that are equal for CPUs that share them."""

    llc: int
    node: int


def places(sysfs: Path = SYSFS) -> list[Place]:
    """Place by CPU number, for every CPU that may come on line; one that does not tell is on cache and node 0."""
    try:
        possible: Iterable[int] = parse_list(_text(sysfs / "cpu" / "possible"))
    except ValueError:
        possible = range(os.cpu_count() or 1)
    caches: dict[str, int] = {}
    nodes = _node_of_cpus(sysfs)
    found = []
    for cpu in range(max(possible) + 1):
        _package, _core, llc = _place(sysfs / "cpu" / f"cpu{cpu}", cpu)
        found.append(Place(caches.setdefault(llc, len(caches)), nodes.get(cpu, 0)))
    return found


def capacities(sysfs: Path = SYSFS) -> dict[int, int]:
    """CPU → capacity of 1024, where the kernel tells; else empty."""
    found = {}
    for file in sysfs.glob("cpu/cpu[0-9]*/cpu_capacity"):
        capacity = _number(file, 0)
        if capacity:
            found[int(file.parent.name.removeprefix("cpu"))] = capacity
    return found


def parse_list(text: str) -> list[int]:
    """The numbers of a kernel list such as `0-3,8`. Raises ValueError."""
    numbers: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    if not numbers:
        raise ValueError("an empty list")
    return numbers


def _place(cpu_dir: Path, cpu: int) -> tuple[int, int, str]:
    """Package, core, and the CPUs that share this one's last-level cache (its package where caches are not told)."""
    package = _number(cpu_dir / "topology" / "physical_package_id", 0)
    core = _number(cpu_dir / "topology" / "core_id", cpu)
    deepest, shared = -1, f"package {package}"
    for index in cpu_dir.glob("cache/index*"):
        level = _number(index / "level", -1)
        cpus = _text(index / "shared_cpu_list")
        if level > deepest and cpus:
            deepest, shared = level, cpus
    return package, core, shared


def _node_of_cpus(sysfs: Path) -> dict[int, int]:
    found = {}
    for file in sysfs.glob("node/node[0-9]*/cpulist"):
        try:
            cpus = parse_list(_text(file))
        except ValueError:  # a node of memory alone
            continue
        found.update(dict.fromkeys(cpus, int(file.parent.name.removeprefix("node"))))
    return found


def _numa_nodes(sysfs: Path) -> int:
    try:
        return len(parse_list((sysfs / "node" / "online").read_text()))
    except (OSError, ValueError):  # a kernel without CONFIG_NUMA is one node
        return 1


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _number(file: Path, otherwise: int) -> int:
    try:
        return int(_text(file))
    except ValueError:
        return otherwise
