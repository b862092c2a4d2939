# SPDX-License-Identifier: Apache-2.0
"""What a node is, as the profile states it: topology, kernel, pressure."""

from __future__ import annotations

import os
from pathlib import Path

from controller.api.profile import KernelFacts, Pressure, Topology
from controller.errors import KernelError
from controller.kernel import schedext, topology

PRESSURE = Path("/proc/pressure")


def node_topology() -> Topology:
    """The CPUs on line now."""
    found = topology.read()
    return Topology(
        cpus=found.cpus,
        packages=found.packages,
        cores_per_package=found.cores_per_package,
        threads_per_core=found.threads_per_core,
        llcs=found.llcs,
        numa_nodes=found.numa_nodes,
        topology_class=found.klass,
    )


def kernel() -> KernelFacts:
    """The running kernel; no digest where it was built without BTF."""
    try:
        digest = f"sha256:{schedext.btf_digest()}"
    except KernelError:
        digest = None
    return KernelFacts(release=os.uname().release, btf_digest=digest, sched_ext=schedext.supported())


def pressure(folder: Path = PRESSURE) -> Pressure:
    """PSI now: `some avg10` of each resource, None where the kernel does not say (no PSI, or booted with psi=0)."""
    return Pressure(cpu=_some(folder / "cpu"), memory=_some(folder / "memory"), io=_some(folder / "io"))


def _some(file: Path) -> float | None:
    try:
        fields = file.read_text().split()
    except OSError:  # EOPNOTSUPP when PSI is built in and switched off
        return None
    value = next((field for field in fields if field.startswith("avg10=")), "")
    return float(value.removeprefix("avg10=")) if value else None
