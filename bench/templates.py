# SPDX-License-Identifier: Apache-2.0
"""What each template family does to each load, against the kernel's own scheduler in the same boot, and what it costs.

One class of tasks, `job*`, is the intent's; all else is `others`. A block is four runs of equal work in the order
family, kernel's own, kernel's own, family (every other block the other way round), so that drift cancels; a ratio is
the trimmed mean of the blocks' log ratios, with its bootstrap-t interval at 95 %, turned so that above 1 is better.
Each family is run on the load that it is for and on all others: where it is worst is part of the result. `pipe` and
`hackbench` show what it costs per switch, beside lines, compile time, size of the object, time to attach, and the gap
in which the kernel's own scheduler runs when one of them replaces itself (both through the guest's port, which adds
about a millisecond).

Rows are added to bench/results/templates.json until each has --blocks of them, so that it can be run a few minutes at a
time: what weighted-fair costs first, then each family on its own load, then all else. A family that was changed since
is measured anew, last, and so is a row of a busy machine. With --costs no rows are added: what each family costs to
compile, to attach and to replace is measured anew. The tables go to stderr, JSON to stdout.

    python bench/templates.py --seconds 220
    python bench/templates.py --costs --seconds 600
    python bench/templates.py --kernel oldest --cpus 4 --family latency-first --load mixed
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.kit import filled
from bench.kit.charge import InCharge
from bench.kit.loads import COSTS, LOADS, Load, Run
from bench.kit.store import RESULTS, Blocks, Elsewhere, Store, busy, ratios
from controller.api import now
from controller.errors import CandidateRejected, GuestError
from controller.kernel import images
from controller.kernel.images import KernelImage
from controller.kernel.microvm import EmulatorFault, Guest, boot
from controller.kernel.vmshape import VmShape
from controller.verify.trial.design import run_seeds
from controller.verify.trial.workloads import RUN_TIMEOUT_S

LEAST_TIMEOUT_S, PATIENCE = 15.0, 12.0
FAMILY, OWN = 0, 1


@dataclass(frozen=True, slots=True)
class Job:
    """One row to measure."""

    kernel: KernelImage
    cpus: int
    family: str
    load: Load

    @property
    def where(self) -> str:
        """Kernel, size and family."""
        return f"{self.kernel.release}/{self.cpus}/{self.family}"

    @property
    def key(self) -> str:
        """The row's key."""
        return f"{self.where}/{self.load.name}"


def planned(jobs: list[Job], rows: dict[str, Any], wanted: int) -> list[Job]:
    """What is still to be measured, in the order of what one wants to know first; equal ones in the order given."""

    def place(job: Job) -> tuple[bool, int]:
        cost = job.family == "weighted-fair" and job.load.name in COSTS
        return _stale(job, rows), 0 if cost else 1 if job.load.name == filled.home(job.family) else 2

    def complete(job: Job) -> bool:
        row = rows.get(job.key, {})
        return not _stale(job, rows) and (bool(row.get("left")) or _done(row) >= wanted)

    return sorted((job for job in jobs if not complete(job)), key=place)


def _stale(job: Job, rows: dict[str, Any]) -> bool:
    row = rows.get(job.key)
    if row is None:
        return False
    return busy(row) or "punctual" not in row or bool(row["digest"] != filled.current(job.family))


def _done(row: dict[str, Any]) -> int:
    return len(next(iter(row.get("blocks", {}).values()), []))


class Timed:
    """Runs of one load in a guest, with the family in charge or without it."""

    def __init__(self, guest: Guest, load: Load, charge: InCharge) -> None:
        self._charge = charge
        self._slowest_s = 0.0
        self._run: Run = load.open(guest)
        self.sample(OWN, 0, 0)

    def sample(self, arm: int, work_seed: int, name_seed: int) -> dict[str, float]:
        """One run. CandidateRejected when the family is thrown out or holds it up for ever."""
        self._charge.switch(arm == FAMILY)
        allowed = max(LEAST_TIMEOUT_S, PATIENCE * self._slowest_s) if arm == FAMILY else RUN_TIMEOUT_S
        begun = time.monotonic()
        found = self._run(work_seed, name_seed, allowed)
        if arm == OWN:
            self._slowest_s = max(self._slowest_s, time.monotonic() - begun)
        self._charge.check()
        return {metric: float(f"{value:.6g}") for metric, value in found.items()}

    def block(self, index: int) -> dict[str, list[list[float]]]:
        """Metric → [two values under the family, two under the kernel's own]."""
        first = index % 2
        arms = (first, 1 - first, 1 - first, first)
        seeds = run_seeds(1, "templates", index, 4)
        runs = [(arm, self.sample(arm, *pair)) for arm, pair in zip(arms, seeds, strict=True)]
        return {
            metric: [[run[metric] for arm, run in runs if arm == which] for which in (FAMILY, OWN)]
            for metric in runs[0][1]
        }


def measure(job: Job, store: Store, wanted: int, more: Callable[[], bool]) -> None:
    """Blocks for one row, until it has `wanted` or time is up. GuestError when the guest breaks."""
    if _stale(job, store.rows):
        del store.rows[job.key]
    digest = filled.current(job.family)
    row = store.rows.setdefault(job.key, {"digest": digest, "blocks": {}, "ratios": {}, "left": ""})
    made, blocks, machine = filled.built(job.family), row["blocks"], Elsewhere()
    try:
        with boot(job.kernel.path, VmShape.parse(str(job.cpus))) as guest:
            row["punctual"] = guest.punctual
            charge = InCharge(guest, made.object)
            _add_blocks(Timed(guest, job.load, charge), blocks, wanted, more)
            if store.document.get("costs", {}).get(job.where, {}).get("digest") != digest:
                _keep_costs(job, store, charge)
    except CandidateRejected as error:  # it does not even stay: that is the row's result
        row["left"] = error.message
    finally:  # what was measured before the guest broke is as good as ever
        row |= {"ratios": ratios(blocks), "measured": now().isoformat(), "elsewhere": machine.share()}
        if not blocks and not row["left"]:
            del store.rows[job.key]


def measure_costs(job: Job, store: Store) -> None:
    """What the family of the job costs, whatever its load. GuestError when the guest breaks."""
    with boot(job.kernel.path, VmShape.parse(str(job.cpus))) as guest:
        _keep_costs(job, store, InCharge(guest, filled.built(job.family).object))


def _keep_costs(job: Job, store: Store, charge: InCharge) -> None:
    cost = {**filled.built(job.family).cost, **charge.replacement()}
    store.document.setdefault("costs", {})[job.where] = {"digest": filled.current(job.family), **cost}


def _add_blocks(timed: Timed, blocks: Blocks, wanted: int, more: Callable[[], bool]) -> None:
    done = len(next(iter(blocks.values()), []))
    while done < wanted and more():
        for metric, values in timed.block(done).items():
            blocks.setdefault(metric, []).append(values)
        done += 1


def lines(result: dict[str, Any]) -> Iterator[str]:
    """The table: a row for each kernel, size, family, load and metric, and the costs."""
    yield f"{'KERNEL/CPUS/FAMILY':<46}{'LOAD':<18}{'METRIC':<28}{'RATIO':>8}  95 % INTERVAL   BLOCKS"
    for key, row in sorted(result["rows"].items()):
        where, _, load = key.rpartition("/")
        if row["left"]:
            yield f"{where:<46}{load:<18}{row['left'][:80]}"
        for metric, (ratio, low, high) in row["ratios"].items():
            count = len(row["blocks"][metric])
            yield f"{where:<46}{load:<18}{metric:<28}{ratio:>8.3f}  {low:.3f} to {high:.3f}  {count:>5}"
    yield f"{'KERNEL/CPUS/FAMILY':<46}{'LINES':>6}{'COMPILE':>9}{'BYTES':>8}{'ATTACH':>9}{'GAP':>9}"
    for key, cost in sorted(result.get("costs", {}).items()):
        times = f"{cost['attach_s'] * 1e3:>7.1f}ms{cost['gap_s'] * 1e3:>7.1f}ms"
        yield f"{key:<46}{cost['lines']:>6}{cost['compile_s']:>8.2f}s{cost['object_bytes']:>8}{times}"


def main() -> None:
    """Measure what is missing, as long as there is time, and print all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", action="append", help="newest, oldest or a release; default: both")
    parser.add_argument("--cpus", action="append", type=int, help="CPUs of the guest; default: 2 and 4")
    parser.add_argument("--family", action="append", choices=filled.names(), help="default: all")
    parser.add_argument("--load", action="append", choices=list(LOADS), help="default: all")
    parser.add_argument("--costs", action="store_true", help="measure what each family costs, and add no rows")
    parser.add_argument("--blocks", type=int, default=12, help="blocks of four runs a row")
    parser.add_argument("--seconds", type=float, default=220, help="stop after about as long, and go on next time")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="default: bench/results")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    store = Store("templates", arguments.results)
    kernels = list(dict.fromkeys(images.resolve(name) for name in arguments.kernel or ("newest", "oldest")))
    jobs = [
        Job(kernel, cpus, family, LOADS[load])
        for cpus in arguments.cpus or (2, 4)
        for kernel in kernels
        for family in arguments.family or filled.names()
        for load in arguments.load or LOADS
    ]

    def take(job: Job) -> None:
        if arguments.costs:
            measure_costs(job, store)
        else:
            measure(job, store, arguments.blocks, lambda: time.monotonic() < end)

    once_a_place = {job.where: job for job in jobs}.values()
    for job in once_a_place if arguments.costs else planned(jobs, store.rows, arguments.blocks):
        if time.monotonic() > end - 5:  # booting and sizing a load takes a few seconds
            break
        print(f"measuring {job.where if arguments.costs else job.key}", file=sys.stderr)
        try:
            try:
                take(job)
            except EmulatorFault:  # nobody's fault: once more
                take(job)
        except (GuestError, CandidateRejected) as error:
            print(f"{job.key}: {error}", file=sys.stderr)
        store.conditions(job.kernel)
        store.keep()
    print("\n".join(lines(store.document)), file=sys.stderr)
    print(json.dumps(store.document))


if __name__ == "__main__":
    main()
