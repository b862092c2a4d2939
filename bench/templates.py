# SPDX-License-Identifier: Apache-2.0
"""What each template family does to each workload of the trial, against the kernel's own scheduler in the same boot.

One class of tasks, `job*`, is the intent's; all else is `others`. A block is four runs of equal work in the order
family, kernel's own, kernel's own, family (every other block the other way round), so that drift cancels; a ratio is
the trimmed mean of the blocks' log ratios, with its bootstrap-t interval at 95 %, turned so that above 1 is better. The
table shows each family on the load that it is for and on all others: where it is worst is part of the result. Beside it
the cost of having it: lines, compile time, size of the object, time to attach, and the gap in which the kernel's own
scheduler runs when one of them replaces itself (both through the guest's port, which adds about a millisecond).

Rows are added to bench/results/templates.json until each has --blocks of them, so that it can be run a few minutes at a
time. The tables go to stderr, JSON to stdout.

    python bench/templates.py --seconds 220
    python bench/templates.py --kernel oldest --cpus 4 --family latency-first
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics as plain
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controller.api import ClassMatch, Metric, PlannerRecord, Proposal, TaskClass, WorkloadSelector, now
from controller.api.template import ParameterValue
from controller.errors import CandidateRejected
from controller.kernel import clang, images, qemu
from controller.kernel.images import KernelImage
from controller.kernel.microvm import EmulatorFault, Guest, boot
from controller.kernel.vmshape import VmShape
from controller.paths import data_dir
from controller.render import builtin_templates, render, template_digest
from controller.verify.trial import TrialSpec, statistics
from controller.verify.trial.arms import GuestArms
from controller.verify.trial.design import BASELINE, CANDIDATE, run_seeds
from controller.verify.trial.spec import OBJECTIVES
from controller.verify.trial.workloads import better, value

RESULTS = Path(__file__).parent / "results" / "templates.json"
CONFIDENCE = 0.95
COMM = "job*"
WORKLOADS = ("longtail", "mixed", "messaging", "pipeline", "kernelbuild-like")


@dataclass(frozen=True, slots=True)
class Family:
    """How a family is filled: the class's metric and parameters, the workload that it is for."""

    metric: Metric
    home: str
    of_class: dict[str, ParameterValue] = field(default_factory=dict)
    parameters: dict[str, ParameterValue] = field(default_factory=dict)


FAMILIES = {
    "weighted-fair": Family(Metric.THROUGHPUT, "messaging"),
    "latency-first": Family(Metric.WAKEUP_LATENCY, "mixed"),
    "batch-order": Family(Metric.MAKESPAN, "longtail"),
    "throughput": Family(Metric.THROUGHPUT, "kernelbuild-like"),
    "locality": Family(Metric.THROUGHPUT, "kernelbuild-like"),
    "pipeline": Family(Metric.THROUGHPUT, "pipeline"),
    "background": Family(Metric.THROUGHPUT, "mixed", {"idle": True}),
    "partition": Family(Metric.CPU_SHARE, "mixed", {"reserve": "50%"}),
    "core-pack": Family(Metric.EXTERNAL, "messaging", {"spread": True}),
}


def built(name: str) -> tuple[bytes, dict[str, Any]]:
    """The object of a family, and what it costs to make."""
    template, how = next(t for t in builtin_templates() if t.name == name), FAMILIES[name]
    task_class = TaskClass(
        handle="c1", intent="bench/job", metric=how.metric, weight=100, match=ClassMatch(comm=(COMM,)),
        selector=WorkloadSelector(comm=(COMM,)), parameters=how.of_class,
    )  # fmt: skip
    proposal = Proposal(
        template=name, template_digest=template_digest(template), parameters=how.parameters, classes=(task_class,),
        planner=PlannerRecord(name="rules", version="bench"),
    )  # fmt: skip
    text, took = render(proposal, template).text, []
    for _ in range(3):
        begun = time.monotonic()
        made = clang.compile_bpf(text, data_dir("bpf") / "include")
        took.append(time.monotonic() - begun)
    cost = {"lines": text.count("\n"), "compile_s": round(plain.median(took), 3), "object_bytes": len(made.object)}
    return made.object, cost


def metrics_of(workload: str) -> list[str]:
    """What is compared on a workload: its objective, and what is left for the others."""
    objective = f"class.{OBJECTIVES[workload].value}" + (".p99" if workload == "mixed" else "")
    return [objective, "others.throughput"] if workload in ("longtail", "mixed") else [objective]


def one_block(arms: GuestArms, index: int, workload: str) -> dict[str, list[list[float]]]:
    """Metric → [two values under the family, two under the kernel's own]."""
    first, second = (CANDIDATE, BASELINE) if index % 2 == 0 else (BASELINE, CANDIDATE)
    seeds = run_seeds(1, "templates", index, 4)
    runs = [(arm, arms.sample(arm, *pair)) for arm, pair in zip((first, second, second, first), seeds, strict=True)]
    return {
        metric: [[value(metric, run) for arm, run in runs if arm == which] for which in (CANDIDATE, BASELINE)]
        for metric in metrics_of(workload)
    }


def replacement(guest: Guest, times: int = 5) -> dict[str, float]:
    """Seconds to attach what is loaded, and from letting it go until it is in charge again."""
    attach, gap = [], []
    for _ in range(times):
        begun = time.monotonic()
        guest.attach()
        attach.append(time.monotonic() - begun)
        begun = time.monotonic()
        guest.detach()
        guest.attach()
        gap.append(time.monotonic() - begun)
        guest.detach()
    return {"attach_s": round(plain.median(attach), 4), "gap_s": round(plain.median(gap), 4)}


def summary(blocks: dict[str, list[list[list[float]]]]) -> dict[str, list[float]]:
    """Metric → ratio (above 1: the family is better), its low and its high limit."""
    found = {}
    for metric, values in blocks.items():
        mine, theirs = ([block[arm] for block in values] for arm in (0, 1))
        interval = statistics.interval(statistics.block_gains(mine, theirs, better(metric)), CONFIDENCE, 1)
        found[metric] = [round(math.exp(min(x, 50)), 4) for x in (interval.center, interval.low, interval.high)]
    return found


def measure(kernel: KernelImage, cpus: int, families: list[str], wanted: int, result: dict[str, Any],
            more: Callable[[], bool]) -> None:  # fmt: skip
    """Blocks for the rows of one kernel and size, round robin, until all have `wanted` or time is up."""
    where = f"{kernel.release}/{cpus}"
    for name in families:
        image, cost = built(name)
        for workload in WORKLOADS:
            row = result["rows"].setdefault(f"{where}/{name}/{workload}", {"blocks": {}, "left": ""})
            done = len(next(iter(row["blocks"].values()), []))
            if row["left"] or done >= wanted or not more():
                continue
            with boot(kernel.path, VmShape.parse(str(cpus))) as guest:
                spec = TrialSpec(workload, OBJECTIVES[workload], comm=COMM, others_comm="other*")
                arms = GuestArms(guest, spec, {CANDIDATE: image})
                arms.sample(BASELINE, 0, 0)
                try:
                    while done < wanted and more():
                        for metric, values in one_block(arms, done, workload).items():
                            row["blocks"].setdefault(metric, []).append(values)
                        done += 1
                    arms.finish()
                    key = f"{where}/{name}"
                    if done and key not in result["costs"]:
                        result["costs"][key] = cost | replacement(guest)
                except CandidateRejected as error:  # it does not even stay: that is the row's result
                    row["left"] = error.message
            if row["blocks"]:
                row["ratios"] = summary(row["blocks"])
            keep(result)


def keep(result: dict[str, Any]) -> None:
    """Keep what there is."""
    result["measured"] = now().isoformat()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def kept() -> dict[str, Any]:
    """The results so far."""
    try:
        found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"benchmark": "templates", "rows": {}, "costs": {}}
    return found


def lines(result: dict[str, Any]) -> Iterator[str]:
    """The table: a row for each kernel, size and family; a column for each workload and metric."""
    yield f"{'KERNEL/CPUS/FAMILY':<46}{'WORKLOAD':<18}{'METRIC':<28}{'RATIO':>8}  95 % INTERVAL   BLOCKS"
    for key, row in sorted(result["rows"].items()):
        where, _, workload = key.rpartition("/")
        if row["left"]:
            yield f"{where:<46}{workload:<18}{row['left'][:80]}"
        for metric, (ratio, low, high) in row.get("ratios", {}).items():
            count = len(row["blocks"][metric])
            yield f"{where:<46}{workload:<18}{metric:<28}{ratio:>8.3f}  {low:.3f} to {high:.3f}  {count:>5}"
    yield f"{'KERNEL/CPUS/FAMILY':<46}{'LINES':>6}{'COMPILE':>9}{'BYTES':>8}{'ATTACH':>9}{'GAP':>9}"
    for key, cost in sorted(result["costs"].items()):
        times = f"{cost['attach_s'] * 1e3:>7.1f}ms{cost['gap_s'] * 1e3:>7.1f}ms"
        yield f"{key:<46}{cost['lines']:>6}{cost['compile_s']:>8.2f}s{cost['object_bytes']:>8}{times}"


def main() -> None:
    """Measure what is missing, as long as there is time, and print all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", action="append", help="newest, oldest or a release; default: both")
    parser.add_argument("--cpus", action="append", type=int, help="CPUs of the guest; default: 2 and 4")
    parser.add_argument("--family", action="append", choices=sorted(FAMILIES), help="default: all")
    parser.add_argument("--blocks", type=int, default=12, help="blocks of four runs a row")
    parser.add_argument("--seconds", type=float, default=600, help="stop after about as long, and go on next time")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    result = kept()
    result["qemu"], result["cpus"] = ".".join(map(str, qemu.find().version)), os.cpu_count()
    for which in arguments.kernel or ["newest", "oldest"]:
        kernel = images.resolve(which)
        result["accelerator"] = qemu.accelerator(qemu.find(), kernel.path)[1].split(",")[0]
        for cpus in arguments.cpus or [2, 4]:
            try:
                measure(kernel, cpus, arguments.family or list(FAMILIES), arguments.blocks, result,
                        lambda: time.monotonic() < end)  # fmt: skip
            except EmulatorFault as error:
                print(f"the emulator broke the guest: {error}", file=sys.stderr)
    keep(result)
    print("\n".join(lines(result)), file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
