# SPDX-License-Identifier: Apache-2.0
"""Eject: back to the kernel's own scheduler now, and stay there (DESIGN rule 10).

Nothing else has to work: no agent, no Git, no planner, no readable journal. The hold is written first, so that an agent
that is alive does not attach again; then our pins are removed; and if a scheduler still runs (an agent on probation
holds its link, or it is somebody else's), SysRq-S makes the kernel itself drop it.
"""

from __future__ import annotations

from pathlib import Path

from controller.errors import KernelError
from controller.kernel import loader, schedext

PINS = Path("/sys/fs/bpf/schedctl")
_GONE = ("disabled", "")


def hold_file(state: Path) -> Path:
    """The file whose presence keeps this node on the kernel's own scheduler."""
    return state / "eject.hold"


def is_held(state: Path) -> bool:
    """Whether `schedctl eject` is in force."""
    return hold_file(state).exists()


def eject(state: Path, *, reason: str = "schedctl eject", pins: Path = PINS, deadline_s: float = 10.0) -> str:
    """Hold, unpin, and make sure. Returns the scheduler that was attached, "" if none. KernelError if it stays."""
    state.mkdir(parents=True, exist_ok=True)
    hold_file(state).write_text(reason + "\n")
    before = schedext.ops_name()
    if loader.eject_all(pins, wait_s=1.0).state not in _GONE:
        schedext.sysrq_reset()
    if schedext.wait_for(_GONE, deadline_s) not in _GONE:
        raise KernelError(
            f"the kernel still reports the scheduler {schedext.ops_name()}",
            remedy="press Alt-SysRq-S on the console, or reboot",
        )
    return before


def release(state: Path) -> bool:
    """Lift the hold; the agent converges again. False if there was none."""
    held = is_held(state)
    hold_file(state).unlink(missing_ok=True)
    return held
