# SPDX-License-Identifier: Apache-2.0
"""What liveness does to a scheduler: small loads in the guest, each with the question it asks of the result.

No threshold is a number of its own: the kernel's own scheduler ran the same load in the same boot, and a candidate is
compared with that, with an allowance for what an emulated CPU on a busy machine adds. The bounds are wide on purpose. A
scheduler may well be slower than the kernel's; what is asked here is whether anybody was forgotten. Importing a family
(`wakeups`, `shares`, …) registers its scenarios; SCENARIOS is the order in which they run.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from controller.verify.scenarios import churn, crowds, disturbances, shares, wakeups
from controller.verify.scenarios.arena import Arena, InCharge, Numbers, Stuck
from controller.verify.scenarios.registry import STARVED, Complaint, Limit, Scenario, registered

__all__ = [
    "SCENARIOS", "STARVED", "Arena", "Complaint", "InCharge", "Limit", "Numbers", "Scenario", "Stuck", "digest", "get",
]  # fmt: skip

_FAMILIES = (wakeups, shares, churn, disturbances, crowds)  # importing them registers their scenarios

# Cheap ones that catch much come first. Reloading comes well after hotplug (see disturbances.py), the soak last.
_ORDER = (
    "idle-wakeup", "affinity-churn", "fork-storm", "exec-churn", "weighted-shares", "cgroup-shares", "late-waker",
    "long-sleeper", "pinned-floating", "yield-storm", "wakeup-storm", "rt-hog", "hotplug", "kworker-latency",
    "many-tasks", "reload", "soak",
)  # fmt: skip

SCENARIOS: tuple[Scenario, ...] = tuple(registered()[name] for name in _ORDER)


def get(name: str) -> Scenario | None:
    """The scenario `liveness/NAME` (the prefix may be left out), or None."""
    return registered().get(name.removeprefix("liveness/"))


def digest() -> str:
    """Of everything that says what a scenario does and measures: another digest, other baselines."""
    text = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return hashlib.sha256(text).hexdigest()
