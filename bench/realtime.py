# SPDX-License-Identifier: Apache-2.0
"""How near latency-first comes to real-time priority, on the load that it is for.

Under SCHED_FIFO the class of `mixed` has a CPU as soon as the kernel can give it one, whatever the others do. What that
reaches in a guest, and what it takes from the others, is as much as the guest lets be seen: its timers, what a switch
costs on an emulated CPU, and the machine's own scheduling are in both. So it stands beside the bars that latency-first
is held to. A block is six runs of equal work in one boot: kernel's own, the class under SCHED_FIFO beside it,
latency-first, and the same backwards; every other block begins with latency-first. Ratios to the kernel's own are made
as in bench/templates.py.

Rows are added to bench/results/realtime.json until each has --blocks of them; one of another version of latency-first
is measured anew. The table goes to stderr, JSON to stdout.

    python bench/realtime.py --seconds 220
    python bench/realtime.py --kernel newest --cpus 4
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.kit import filled
from bench.kit.charge import InCharge
from bench.kit.store import Elsewhere, Store, ratios
from controller.api import now
from controller.errors import CandidateRejected, GuestError
from controller.kernel import images
from controller.kernel.images import KernelImage
from controller.kernel.microvm import boot
from controller.kernel.vmshape import VmShape
from controller.verify.trial import TrialSpec, workloads
from controller.verify.trial.design import run_seeds
from controller.verify.trial.spec import OBJECTIVES

LOAD, FAMILY = "mixed", "latency-first"
OWN, REAL_TIME = "kernel's own", "SCHED_FIFO"
ARMS = (OWN, REAL_TIME, FAMILY)
METRICS = ("class.wakeupLatency.p99", "others.throughput")
PATIENCE_S = 15.0

Samples = list[dict[str, list[dict[str, float]]]]
"""Blocks of {arm: two runs, each value by metric}."""


def order(index: int) -> tuple[str, ...]:
    """The arms of a block, in the order in which they are run."""
    first = ARMS if index % 2 == 0 else ARMS[::-1]
    return (*first, *first[::-1])


def compared(samples: Samples) -> dict[str, dict[str, list[float]]]:
    """Arm → metric → ratio to the kernel's own with its limits, above 1 is better; {} of too few blocks."""

    def blocks(metric: str, arm: str) -> list[list[list[float]]]:
        return [[[run[metric] for run in block[each]] for each in (arm, OWN)] for block in samples]

    return {arm: ratios({metric: blocks(metric, arm) for metric in METRICS}) for arm in (REAL_TIME, FAMILY)}


def is_stale(row: Mapping[str, Any]) -> bool:
    """Whether it is of another version of the template."""
    return bool(row["digest"] != filled.current(FAMILY))


def measure(kernel: KernelImage, cpus: int, row: dict[str, Any], wanted: int, more: Callable[[], bool]) -> None:
    """Add blocks to a row. CandidateRejected when the family does not stay in charge, GuestError for a broken guest."""
    spec = TrialSpec(LOAD, OBJECTIVES[LOAD], comm=filled.COMM, others_comm="other*")
    with boot(kernel.path, VmShape.parse(str(cpus))) as guest:
        charge = InCharge(guest, filled.built(FAMILY).object)
        sizes = workloads.calibrate(guest, LOAD)

        def run(arm: str, work_seed: int, name_seed: int) -> dict[str, float]:
            charge.switch(arm == FAMILY)
            sample = workloads.run(guest, spec, sizes, work_seed, name_seed, PATIENCE_S, real_time=arm == REAL_TIME)
            charge.check()
            return {metric: float(f"{workloads.value(metric, sample):.6g}") for metric in METRICS}

        run(OWN, 0, 0)
        while len(row["samples"]) < wanted and more():
            index = len(row["samples"])
            arms = order(index)
            block: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
            for arm, seeds in zip(arms, run_seeds(1, "realtime", index, len(arms)), strict=True):
                block[arm].append(run(arm, *seeds))
            row["samples"].append(block)


def lines(rows: Mapping[str, Any]) -> Iterator[str]:
    """The table."""
    yield f"{'KERNEL/CPUS':<34}{'CLASS UNDER':<16}{'METRIC':<26}{'RATIO':>8}  95 % INTERVAL   BLOCKS"
    for key, row in rows.items():
        for arm, found in compared(row["samples"]).items():
            for metric, (ratio, low, high) in found.items():
                count = len(row["samples"])
                yield f"{key:<34}{arm:<16}{metric:<26}{ratio:>8.3f}  {low:.3f} to {high:.3f}  {count:>5}"


def main() -> None:
    """Measure what is missing, as long as there is time, and print all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", action="append", help="newest, oldest or a release; default: both")
    parser.add_argument("--cpus", action="append", type=int, help="CPUs of the guest; default: 2 and 4")
    parser.add_argument("--blocks", type=int, default=12, help="blocks of six runs a row")
    parser.add_argument("--seconds", type=float, default=220, help="stop after about as long, and go on next time")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    store = Store("realtime")
    for kernel in dict.fromkeys(images.resolve(name) for name in arguments.kernel or ("newest", "oldest")):
        for cpus in arguments.cpus or (2, 4):
            key = f"{kernel.release}/{cpus}"
            row = store.rows.get(key)
            if row is None or is_stale(row):
                row = {"digest": filled.current(FAMILY), "samples": []}
            if len(row["samples"]) >= arguments.blocks or time.monotonic() > end - 10:
                continue
            machine = Elsewhere()
            try:
                measure(kernel, cpus, row, arguments.blocks, lambda: time.monotonic() < end)
            except (CandidateRejected, GuestError, workloads.RunStuck) as error:
                print(f"{key}: {error}", file=sys.stderr)
            if row["samples"]:
                store.rows[key] = row | {"measured": now().isoformat(), "elsewhere": machine.share()}
                store.conditions(kernel)
                store.keep()
    print("\n".join(lines(store.rows)), file=sys.stderr)
    print(json.dumps(store.document))


if __name__ == "__main__":
    main()
