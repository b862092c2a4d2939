# SPDX-License-Identifier: Apache-2.0
"""How fast rt-app's loop is here: what its `run` events are counted in.

rt-app calibrates itself when a document says "CPU0", which takes two seconds each time, gives whole nanoseconds (8 for
8.9) and, on a busy machine, a number that is too small. Here a document with a known number is run and its log read:
what the same work took is the loop's length, to a part of a percent.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

TASK = "calibrate"
_STEP_NS = 10
_WORK_US = 1000
_TIMES = 300


def calibration_document() -> dict[str, Any]:
    """A document of one thread, called TASK, that does the same work again and again; it ends by itself."""
    return {
        "global": {"duration": -1, "calibration": _STEP_NS, "log_size": 1, "lock_pages": False},
        "tasks": {TASK: {"loop": 1, "phases": {"work": {"loop": _TIMES, "run": _WORK_US}}}},
    }


def loop_ns(rows: Sequence[str]) -> float | None:
    """Nanoseconds of a loop, from the rows of that thread's log; None when it has fewer than two.

    The lower quartile of many short runs: rt-app's times are the clock's, and where it shares its CPU those that were
    preempted are longer by whole slices.
    """
    took = [int(fields[2]) for row in rows if len(fields := row.split()) > 2 and fields[0].isdigit()]
    return _STEP_NS * statistics.quantiles(took, n=4, method="inclusive")[0] / _WORK_US if len(took) > 1 else None
