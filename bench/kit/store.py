# SPDX-License-Identifier: Apache-2.0
"""A file of results that a bench adds to a few minutes at a time, and the arithmetic of its rows."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.kit.loads import better
from controller.api import now
from controller.kernel import leftovers, qemu
from controller.kernel.images import KernelImage

RESULTS = Path(__file__).resolve().parents[1] / "results"
CONFIDENCE = 0.95
Z95 = 1.959964
MOST_ELSEWHERE = 0.2
"""Of the machine's CPU time, to what is not the bench's. With 0.3 to 0.7 a p99 that is 6 times lower looked 1.5 times
lower."""
LEAST = 6
"""With fewer blocks there is no interval worth its name."""

Blocks = dict[str, list[list[list[float]]]]
"""Metric → blocks of [two values under the family, two under the kernel's own scheduler]."""


class Store:
    """`bench/results/NAME.json`: what was measured so far, written whole after each row."""

    def __init__(self, name: str, folder: Path = RESULTS) -> None:
        self.path = folder / f"{name}.json"
        try:
            self.document: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.document = {"benchmark": name, "rows": {}}

    @property
    def rows(self) -> dict[str, Any]:
        """The rows by key."""
        found: dict[str, Any] = self.document["rows"]
        return found

    def keep(self) -> None:
        """Write it."""
        self.path.parent.mkdir(exist_ok=True)
        leftovers.write(self.path, (json.dumps(self.document, indent=1) + "\n").encode())

    def conditions(self, kernel: KernelImage) -> None:
        """Note where this is measured."""
        emulator = qemu.find()
        self.document |= {
            "measured": now().isoformat(),
            "cpus": os.cpu_count(),
            "qemu": ".".join(map(str, emulator.version)),
            "accelerator": qemu.accelerator(emulator, kernel.path)[1].split(",")[0],
        }


class Elsewhere:
    """How much of this machine's CPU time went to what is not ours since this was made; guests must have ended."""

    def __init__(self) -> None:
        self._begun = self._now()

    def share(self) -> float:
        """0 to 1."""
        busy, total, ours = (after - before for after, before in zip(self._now(), self._begun, strict=True))
        return round(max(0.0, busy - ours) / total, 3) if total > 0 else 0.0

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Seconds of CPU time used by all, there to be used, and used by us and the children that ended."""
        with Path("/proc/stat").open(encoding="ascii") as file:
            fields = [int(word) / os.sysconf("SC_CLK_TCK") for word in file.readline().split()[1:9]]
        times = os.times()
        ours = times.user + times.system + times.children_user + times.children_system
        return sum(fields) - fields[3] - fields[4], sum(fields), ours


def busy(row: Mapping[str, Any]) -> bool:
    """Whether the machine had other things to do: all arms wait longer then, and ratios of latencies shrink."""
    return bool(row.get("elsewhere", 0.0) > MOST_ELSEWHERE)


def wilson(hits: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a rate; (0, 1) of nothing."""
    if of == 0:
        return 0.0, 1.0
    rate, z2 = hits / of, Z95 * Z95
    middle = (rate + z2 / (2 * of)) / (1 + z2 / of)
    half = Z95 * math.sqrt(rate * (1 - rate) / of + z2 / (4 * of * of)) / (1 + z2 / of)
    return max(0.0, middle - half), min(1.0, middle + half)


def ratios(blocks: Blocks) -> dict[str, list[float]]:
    """Metric → ratio (above 1: the family is better), its low and its high limit; {} of too few blocks."""
    from controller.verify.trial import statistics

    found = {}
    for metric, values in blocks.items():
        if len(values) >= LEAST:
            mine, theirs = ([block[arm] for block in values] for arm in (0, 1))
            interval = statistics.interval(statistics.block_gains(mine, theirs, better(metric)), CONFIDENCE, 1)
            found[metric] = [round(math.exp(min(x, 50)), 4) for x in (interval.center, interval.low, interval.high)]
    return found
