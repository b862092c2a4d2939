# SPDX-License-Identifier: Apache-2.0
"""The shape of a micro-VM: how many packages, cores, threads and NUMA nodes, and how much memory.

A passport is bound to the topology class that the guest found itself on (topology.py), so a shape can be made from a
class, and from what a person writes on the command line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from controller.errors import CouldNotTell, InputError

_CLASS = re.compile(r"cpus(\d+)\+?\.pkg([1-9]\d*)\.smt([1-9]\d*)\.llc([1-9]\d*)\.numa([1-9]\d*)")
_LABEL = re.compile(r"(\d{1,3})(?:x(\d{1,3})x(\d{1,3}))?")
_MOST_CPUS = 16
_BASE_MIB = 384
_MIB_PER_CPU = 64


@dataclass(frozen=True)
class VmShape:
    """What the guest finds: packages (each with one last-level cache), cores a package, threads a core, and memory.

    The CPUs and the memory are divided evenly between `numa_nodes`.
    """

    packages: int = 1
    cores: int = 2
    threads: int = 1
    memory_mib: int = 512
    numa_nodes: int = 1

    @property
    def cpus(self) -> int:
        """How many CPUs that is."""
        return self.packages * self.cores * self.threads

    @property
    def label(self) -> str:
        """As `schedctl verify --topology` takes it: `2`, or `2x2x2`."""
        plain = self.packages == self.threads == 1
        return str(self.cores) if plain else f"{self.packages}x{self.cores}x{self.threads}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The shape for a number of CPUs, or for PACKAGESxCORESxTHREADS (cores a package, threads a core).

        Each CPU brings memory of its own. Raises InputError for anything else, and for more than 16 CPUs.
        """
        match = _LABEL.fullmatch(text)
        if match is None:
            raise InputError(f'"{text}" is not a topology', remedy="such as 4, or 2x2x2 for packages x cores x threads")
        packages, cores, threads = (1, int(match[1]), 1) if match[2] is None else map(int, match.groups())
        cpus = packages * cores * threads
        if not 1 <= cpus <= _MOST_CPUS:
            raise InputError(f"a micro-VM has 1 to {_MOST_CPUS} CPUs, not {cpus}", remedy="such as 4, or 2x2x2")
        return cls(packages, cores, threads, _BASE_MIB + _MIB_PER_CPU * cpus)

    @classmethod
    def of_class(cls, klass: str, memory_mib: int = 512) -> Self:
        """The shape that presents topology class `klass` (see topology.py).

        Raises InputError for what is no class, and CouldNotTell for one that QEMU's CPUs cannot form: uneven parts, or
        several last-level caches a package (QEMU 10 takes `dies=` but its CPUID does not tell the guest so).
        """
        match = _CLASS.fullmatch(klass)
        if match is None:
            raise InputError(f"{klass} is not a topology class", remedy="such as cpus2.pkg1.smt1.llc1.numa1")
        cpus, packages, threads, llcs, nodes = map(int, match.groups())
        cores = cpus // (packages * threads)
        if packages * cores * threads != cpus or packages != llcs or cpus % nodes:
            raise CouldNotTell(f"a micro-VM cannot present topology class {klass}", remedy="verify on such a machine")
        return cls(packages, cores, threads, max(memory_mib, _MIB_PER_CPU * cpus), nodes)

    def options(self) -> list[str]:
        """QEMU's arguments for it."""
        parts = f"sockets={self.packages},cores={self.cores},threads={self.threads}"
        options = ["-smp", f"cpus={self.cpus},{parts}", "-m", str(self.memory_mib)]
        share = self.cpus // self.numa_nodes
        for node in range(self.numa_nodes) if self.numa_nodes > 1 else ():
            size = self.memory_mib // self.numa_nodes
            options += ["-object", f"memory-backend-ram,id=node{node},size={size}M"]
            options += ["-numa", f"node,memdev=node{node},cpus={node * share}-{(node + 1) * share - 1}"]
        return options
