# SPDX-License-Identifier: Apache-2.0
"""Whether template partition keeps what a class has reserved, whatever others do.

The class computes with one task a CPU, `others` with four times as many, at 10,000 times its weight, so that what it
gets it gets by its reservation. Three attacks: on a reservation of whole CPUs; on one that is less than a CPU; and by
tasks that are bound to the class's own CPU, where its own tasks are bound then, too. Its share is the CPU time that the
kernel accounts to its tasks (getrusage, not the scheduler's counters) of the time that the CPUs had, while the
attackers began before and end after it. The figure is share / reservation: the mean of the repeats with its t interval
at 95 %, and in the same boot the share under the kernel's own scheduler. Above 1 is what nobody else took.

A table goes to stderr, JSON to stdout and to bench/results/partition.json.

    python bench/partition.py
    python bench/partition.py --kernel newest --cpus 4 --repeats 10
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.kit.store import Store
from controller.api import ClassMatch, Metric, PlannerRecord, Proposal, TaskClass, WorkloadSelector
from controller.kernel import clang, images
from controller.kernel.microvm import Guest, boot
from controller.kernel.vmshape import VmShape
from controller.paths import data_dir
from controller.render import builtin_templates, render, template_digest

SECONDS = 2.0
BEFORE_S, AFTER_S = 0.4, 0.8


@dataclass(frozen=True, slots=True)
class Attack:
    """What is reserved, in whole percent by the number of CPUs, and whether the attackers are bound to an owned CPU."""

    name: str
    reserve: dict[int, int]
    bound: bool = False


ATTACKS = (
    Attack("whole CPUs", {2: 50, 4: 50}),
    Attack("part of a CPU", {2: 30, 4: 20}),
    Attack("bound attackers", {2: 50, 4: 25}, bound=True),
)


def built(percent: int) -> bytes:
    """The object for one class that reserves so much."""
    template = next(t for t in builtin_templates() if t.name == "partition")
    mine = TaskClass(
        handle="c1", intent="bench/owner", metric=Metric.CPU_SHARE, weight=1, match=ClassMatch(comm=("owner",)),
        selector=WorkloadSelector(comm=("owner",)), parameters={"reserve": f"{percent}%"},
    )  # fmt: skip
    proposal = Proposal(
        template="partition", template_digest=template_digest(template), parameters={"others_weight": 10_000},
        classes=(mine,), planner=PlannerRecord(name="rules", version="bench"),
    )  # fmt: skip
    return clang.compile_bpf(render(proposal, template).text, data_dir("bpf") / "include").object


def share(guest: Guest, bound: bool) -> float:
    """The part of the CPUs' time that the owner's tasks had, amid the attackers."""
    cpus = guest.facts.cpus
    attack = ["schedload", "--comm", "other", "spin", str(4 * cpus), f"{BEFORE_S + SECONDS + AFTER_S:g}"]
    place = ["taskset", f"{1 << (cpus - 1):x}"] if bound else []
    others = guest.spawn([*place, *attack])
    time.sleep(BEFORE_S)
    done = guest.run([*place, "schedload", "--comm", "owner", "spin", str(cpus), f"{SECONDS:g}"], timeout_s=60)
    guest.wait(others, 60)
    return float(sum(json.loads(done.stdout)["cpu_ns"]) / (SECONDS * 1e9 * cpus))


def interval(values: list[float]) -> list[float]:
    """Mean, and the limits of its t interval at 95 %."""
    from scipy.stats import t

    mean = statistics.fmean(values)
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return [round(mean, 4), round(mean - half, 4), round(mean + half, 4)]


def rows(kernel: images.KernelImage, cpus: int, repeats: int) -> Iterator[dict[str, Any]]:
    """One row for each attack, all in one boot."""
    with boot(kernel.path, VmShape.parse(str(cpus))) as guest:
        for attack in ATTACKS:
            percent = attack.reserve[cpus]
            guest.load(built(percent))
            guest.attach()
            shares = [share(guest, attack.bound) for _ in range(repeats)]
            guest.detach()
            yield {
                "kernel": kernel.release, "cpus": cpus, "attack": attack.name, "reserve": percent / 100,
                "shares": [round(one, 4) for one in shares],
                "kept": interval([one / (percent / 100) for one in shares]),
                "kernels_own": round(share(guest, attack.bound), 4),
            }  # fmt: skip


def lines(found: list[dict[str, Any]]) -> Iterator[str]:
    """The table."""
    yield f"{'KERNEL':<30}{'CPUS':>5}  {'ATTACK':<17}{'RESERVED':>9}{'SHARE':>8}  SHARE / RESERVED, 95 %   KERNEL'S OWN"
    for row in found:
        mean, low, high = row["kept"]
        yield (
            f"{row['kernel']:<30}{row['cpus']:>5}  {row['attack']:<17}{row['reserve']:>9.0%}"
            f"{statistics.fmean(row['shares']):>8.1%}  {mean:.3f} ({low:.3f} to {high:.3f}){row['kernels_own']:>13.1%}"
        )


def main() -> None:
    """Measure every attack on every kernel and size, and print all that is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", action="append", help="newest, oldest or a release; default: both")
    parser.add_argument("--cpus", action="append", type=int, choices=(2, 4), help="default: 2 and 4")
    parser.add_argument("--repeats", type=int, default=4, help="runs a row")
    arguments = parser.parse_args()
    store = Store("partition")
    for which in arguments.kernel or ["newest", "oldest"]:
        kernel = images.resolve(which)
        for cpus in arguments.cpus or [2, 4]:
            for row in rows(kernel, cpus, arguments.repeats):
                store.rows[f"{row['kernel']}/{cpus}/{row['attack']}"] = row
            store.conditions(kernel)
            store.keep()
    print("\n".join(lines(list(store.rows.values()))), file=sys.stderr)
    print(json.dumps(store.document))


if __name__ == "__main__":
    main()
