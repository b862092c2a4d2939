# SPDX-License-Identifier: Apache-2.0
"""This machine's kernel and topology as API values: what a profile states and what a passport is bound to.

Observe and deploy must say the same, so both ask here. The guest's modules, which have no pydantic, do not import this.
"""

from __future__ import annotations

import os

from controller.api.profile import KernelFacts, Topology
from controller.errors import KernelError
from controller.kernel import schedext, topology


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
