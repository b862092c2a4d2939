# SPDX-License-Identifier: Apache-2.0
"""PSI, as the profile states it."""

from __future__ import annotations

from pathlib import Path

from controller.api.profile import Pressure

PRESSURE = Path("/proc/pressure")


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
