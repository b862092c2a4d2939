# SPDX-License-Identifier: Apache-2.0
"""PSI and what this kernel's sched_ext can do, as the profile states them."""

from __future__ import annotations

from pathlib import Path

from controller.api.profile import Pressure, SchedExtAbilities
from controller.kernel import kernel_btf, schedext

PRESSURE = Path("/proc/pressure")


def pressure(folder: Path = PRESSURE, suffix: str = "") -> Pressure:
    """PSI now, `avg10` of each resource, of the node or of a cgroup's folder (`suffix` .pressure).

    None where the kernel does not say: no PSI, booted with psi=0, or switched off for the cgroup.
    """
    cpu, memory, io = (_averages(folder / f"{name}{suffix}") for name in ("cpu", "memory", "io"))
    return Pressure(
        cpu=cpu.get("some"),
        memory=memory.get("some"),
        io=io.get("some"),
        memory_full=memory.get("full"),
        io_full=io.get("full"),
    )


def abilities() -> SchedExtAbilities | None:
    """What this kernel's BTF says of sched_ext; None without BTF. A kernel without sched_ext has empty lists."""
    found = kernel_btf.sched_ext(schedext.VMLINUX_BTF)
    if found is None:
        return None
    return SchedExtAbilities(ops=found.ops[:256], kfuncs=found.kfuncs[:512], flags=found.flags[:256])


def _averages(file: Path) -> dict[str, float]:
    """`some` and `full` → percent of the last 10 s."""
    found = {}
    try:
        lines = file.read_text().splitlines()
    except OSError:  # EOPNOTSUPP when PSI is built in and switched off
        return {}
    for line in lines:
        kind, *fields = line.split()
        for field in fields:
            name, _, value = field.partition("=")
            if name == "avg10" and value:
                found[kind] = float(value)
    return found
