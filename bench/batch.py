# SPDX-License-Identifier: Apache-2.0
"""How much earlier a batch with one long job ends under batch-order than under the kernel's own scheduler.

Eight batches (bench/loads/batchjobs.py) of real programs: five jobs a CPU, launched together, one of them 5 to 9 times
as long as the others. They run in a node VM, whose programs are this machine's. A block is four runs of equal work in
the order template, kernel's own, kernel's own, template (every other block the other way round), all in one boot; both
halves of a block launch their jobs in an order of their own, alike in its two runs. The ratio is template / kernel's
own of the makespans, below 1 is better: the trimmed mean of the log ratios of all pairs, with its bootstrap-t interval
at 95 %. Beside it stands the lowest ratio that any scheduler could reach with the CPU time that the jobs took under the
kernel's own (`bound_ratio`), and the latest end of any short job, as a part of the makespan under the kernel's own in
the same pair: the worst of all runs (`short_latest_ratio`).

Each program is started under a random name, so nothing can be told by names. How the long job is known:

    declared   two intents, which name the cgroups of the long job and of the others, as an operator or a cluster does
               for a nightly job; the rules planner fills in the length of either, which it takes from a profile of one
               run under the kernel's own scheduler
    unknown    one intent for the cgroup of the whole batch: the scheduler goes by what each job has used so far

Rows are added to bench/results/batch.json until each has --blocks of them, so that it can be run a few minutes at a
time; they keep the sizes of the jobs that their first boot found. A row of a template that was changed since is
measured anew, sizes and all. The table goes to stderr, JSON to stdout.

    python bench/batch.py --kernel newest --cpus 2
    python bench/batch.py --variant unknown --workload join
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.kit import filled
from bench.kit.store import Store
from bench.loads.batchjobs import LONG, SHORT, WORKLOADS, Fit, Workload, lowest, short_seconds
from controller.api import (
    IntentSpec,
    KernelFacts,
    Metric,
    Objective,
    ObjectMeta,
    PolicySpec,
    Proposal,
    SchedulerPolicy,
    SchedulingIntent,
    Topology,
    WorkloadProfile,
    WorkloadSelector,
    now,
)
from controller.api.profile import WorkloadStats
from controller.errors import GuestError, SchedctlError
from controller.kernel import clang, images, nodevm
from controller.kernel.images import KernelImage
from controller.kernel.nodevm import NodeVm
from controller.paths import data_dir
from controller.plan import rules
from controller.render import builtin_templates, render
from controller.verify.trial import statistics

RUNNER = Path(__file__).parent / "loads" / "batchrunner.py"
CONFIDENCE = 0.95
MAKESPAN_S = 2.5
"""About how long a run shall take under the kernel's own scheduler."""
OWN, TEMPLATE = "own", "template"
BLOCK = 4
MEMORY_MIB = 2048
START_S = 60.0
VARIANTS = {"declared": {LONG: "/batch/long", SHORT: "/batch/short"}, "unknown": {"all": "/batch"}}
"""Intent → the cgroup that it names. The class of a job is that of the intent whose cgroup it is in, or below."""


# ---- what is told to the planner, and what comes of it ----


def intent(name: str, cgroup: str) -> SchedulingIntent:
    """A batch whose last end counts."""
    spec = IntentSpec(
        workload=WorkloadSelector(cgroup=(cgroup,)), objective=Objective(metric=Metric.MAKESPAN, goal="minimize")
    )
    return SchedulingIntent(metadata=ObjectMeta(name=name, namespace="batch", generation=1), spec=spec)


def profile(release: str, cpus: int, run: Run) -> WorkloadProfile:
    """What an observer of one run of the batch would say of the two workloads: tasks and CPU time."""
    window = run.makespan_ns
    seen = []
    for group in (LONG, SHORT):
        used = [job["cpu_ns"] for job in run.jobs if job["group"] == group]
        share = min(1.0, sum(used) / (window * cpus))
        seen.append(WorkloadStats(name=f"batch/{group}", keyed_by="intent", tasks=len(used), cpu_share=share,
                                  cpu_ns=sum(used)))  # fmt: skip
    return WorkloadProfile(
        node="bench", taken_at=now(), window_ns=window, observer="procfs", workloads=tuple(seen),
        topology=Topology(cpus=cpus, topology_class=f"cpus{cpus}.pkg1.smt1.llc1.numa1"),
        kernel=KernelFacts(release=release, sched_ext=True),
    )  # fmt: skip


def planned(variant: str, seen: WorkloadProfile) -> tuple[Proposal, bytes, dict[str, int]]:
    """The rules planner's proposal for the variant's intents, its object, and the class of each group of jobs."""
    intents = [intent(name, cgroup) for name, cgroup in VARIANTS[variant].items()]
    policy = SchedulerPolicy(metadata=ObjectMeta(name="bench", generation=1), spec=PolicySpec())
    proposal = rules.propose(seen, intents, policy, builtin_templates())
    template = next(t for t in builtin_templates() if t.name == proposal.template)
    built = clang.compile_bpf(render(proposal, template).text, data_dir("bpf") / "include")
    numbers = {task_class.intent: int(task_class.handle[1:]) for task_class in proposal.classes}
    classes = {group: numbers.get(f"batch/{group}") or numbers["batch/all"] for group in (LONG, SHORT)}
    return proposal, built.object, classes


# ---- runs ----


@dataclass(frozen=True, slots=True)
class Run:
    """One run as the guest told it."""

    arm: str
    jobs: list[dict[str, Any]]

    @property
    def makespan_ns(self) -> int:
        """From the common start to the last end."""
        return max(int(job["end_ns"]) for job in self.jobs)

    @property
    def short_latest_ns(self) -> int:
        """The last end of a short job."""
        return max(int(job["end_ns"]) for job in self.jobs if job["group"] == SHORT)

    def kept(self, cpus: int) -> dict[str, Any]:
        """What the results file keeps of it."""
        used = {group: [int(job["cpu_ns"]) for job in self.jobs if job["group"] == group] for group in (LONG, SHORT)}
        return {
            "arm": self.arm, "makespan_ns": self.makespan_ns, "short_latest_ns": self.short_latest_ns,
            "lowest_ns": round(lowest(used[LONG] + used[SHORT], cpus)), "long_cpu_ns": used[LONG][0],
            "short_cpu_ns": round(sum(used[SHORT]) / len(used[SHORT])),
        }  # fmt: skip


def asked(node: NodeVm, request: dict[str, Any], timeout_s: float) -> list[Run]:
    """What the runner in the guest answers. GuestError when it or a job fails, or the scheduler leaves."""
    done = node.exec([sys.executable, str(RUNNER)], timeout_s=timeout_s, stdin=json.dumps(request).encode())
    if done.exit_code:
        raise GuestError(f"the runner in the guest failed: {done.stderr.decode(errors='replace')[-2000:]}")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for answer in answers:
        if answer.get("left"):
            raise GuestError(f"the kernel threw the scheduler out: {answer['left']}")
        if any(job["code"] for job in answer["jobs"]):
            raise GuestError(f"a job failed: {answer['jobs']} {done.stderr.decode(errors='replace')[-500:]}")
    return [Run(answer["arm"], answer["jobs"]) for answer in answers]


def sized(node: NodeVm, workload: Workload) -> tuple[int, int]:
    """Sizes of the short and the long job: each probe is run twice alone, and the first of it warms the caches."""
    runs = [{"arm": OWN, "jobs": [workload.job(SHORT, size)], "seed": turn} for turn in (1, 2)
            for size in workload.probes]  # fmt: skip
    request = {"scripts": [workload.script(size) for size in workload.probes], "runs": runs, "seconds": 60, "block": 1}
    warm = asked(node, request, START_S)[2:]
    fit = Fit.of(workload.probes, [run.jobs[0]["cpu_ns"] / 1e9 for run in warm])
    return fit.sizes(short_seconds(MAKESPAN_S, workload.times), workload.times, workload.most)


def block_runs(workload: Workload, cpus: int, sizes: tuple[int, int], index: int) -> list[dict[str, Any]]:
    """The four runs of a block. The two of a half are alike but for the programs' names."""
    first, second = (TEMPLATE, OWN) if index % 2 == 0 else (OWN, TEMPLATE)
    made = []
    for place, arm in enumerate((first, second, second, first)):
        order = random.Random(f"{workload.name} {index} {place // 2}")
        seed = 1_000_003 * index + place
        made.append({"arm": arm, "jobs": workload.batch(cpus, sizes, order), "seed": seed})
    return made


def is_stale(row: Mapping[str, Any]) -> bool:
    """Whether what was measured is of another version of its template."""
    return "template" in row and row.get("digest") != filled.current(row["template"])


def measure(node: NodeVm, kernel: KernelImage, cpus: int, row: dict[str, Any], wanted: int, left_s: float) -> None:
    """Add blocks to a row, for about `left_s` seconds and until it has `wanted`."""
    end = time.monotonic() + left_s
    workload = next(w for w in WORKLOADS if w.name == row["workload"])
    if "sizes" not in row:
        row["sizes"] = list(sized(node, workload))
    sizes = (int(row["sizes"][0]), int(row["sizes"][1]))
    first = {"arm": OWN, "jobs": workload.batch(cpus, sizes, random.Random(0)), "seed": 0}
    request: dict[str, Any] = {"scripts": [workload.script(s) for s in sizes], "runs": [first], "block": 1}
    seen = asked(node, request | {"seconds": 60}, 2 * START_S)[-1]
    proposal, image, classes = planned(row["variant"], profile(kernel.release, cpus, seen))
    row["template"], row["digest"] = proposal.template, filled.current(proposal.template)
    row["lengths"] = {c.intent: c.parameters["length"] for c in proposal.classes if "length" in c.parameters}
    runs = [run for index in range(len(row["samples"]), wanted) for run in block_runs(workload, cpus, sizes, index)]
    request |= {
        "runs": runs, "block": BLOCK, "object": base64.b64encode(image).decode(), "classes": classes,
        "seconds": max(1.0, end - time.monotonic() - 10), "scripts": [],
    }  # fmt: skip
    done = [run.kept(cpus) for run in asked(node, request, request["seconds"] + 2 * START_S)]
    row["samples"] += [done[at : at + BLOCK] for at in range(0, len(done), BLOCK)]


# ---- the result ----


def pairs(samples: list[list[dict[str, Any]]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(under the template, under the kernel's own) of each half of each block."""
    for block in samples:
        for half in (block[:2], block[2:]):
            by_arm = {run["arm"]: run for run in half}
            yield by_arm[TEMPLATE], by_arm[OWN]


def figures(row: dict[str, Any]) -> dict[str, Any]:
    """A row's ratio and its limits, bound, latest short job, and how long its jobs and runs were."""
    found = list(pairs(row["samples"]))
    mine, own = ([[float(pair[arm]["makespan_ns"])] for pair in found] for arm in (0, 1))
    interval = statistics.interval(statistics.block_gains(mine, own, 1), CONFIDENCE, 1)
    bounds = [math.log(run["lowest_ns"] / run["makespan_ns"]) for _, run in found]
    return {
        "ratio": [round(math.exp(min(max(x, -5), 5)), 4) for x in (interval.center, interval.low, interval.high)],
        "bound_ratio": round(math.exp(sum(bounds) / len(bounds)), 4),
        "blocks": len(row["samples"]),
        "short_latest_ratio": round(max(one["short_latest_ns"] / run["makespan_ns"] for one, run in found), 4),
        "times": round(sum(run["long_cpu_ns"] / run["short_cpu_ns"] for _, run in found) / len(found), 2),
        "makespan_s": round(sum(run["makespan_ns"] for _, run in found) / len(found) / 1e9, 2),
    }


def means(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Over the workloads of one kernel, size and variant: means, and whether what must be shown is shown. The interval
    of the mean takes the workloads for independent."""
    centers = [row["ratio"][0] for row in rows]
    center = sum(centers) / len(rows)
    half = math.sqrt(sum(((row["ratio"][2] - row["ratio"][1]) / 2) ** 2 for row in rows)) / len(rows)
    bound = sum(row["bound_ratio"] for row in rows) / len(rows)
    latest = max(row["short_latest_ratio"] for row in rows)
    return {
        "workloads": len(rows), "ratio": [round(x, 4) for x in (center, center - half, center + half)],
        "bound_ratio": round(bound, 4), "short_latest_ratio": latest,
        "within_noise": sum(row["ratio"][1] <= 1 <= row["ratio"][2] for row in rows),
        "met": len(rows) == len(WORKLOADS) and (center <= 0.75 or center - bound <= 0.03) and latest <= 1,
    }  # fmt: skip


def summarise(result: dict[str, Any]) -> None:
    """Work out every figure anew from the samples."""
    together: dict[str, list[dict[str, Any]]] = {}
    for key, row in result["rows"].items():
        row.update(figures(row))
        together.setdefault(key.rpartition("/")[0], []).append(row)
    result["means"] = {where: means(rows) for where, rows in together.items()}


def lines(result: dict[str, Any]) -> Iterator[str]:
    """The table: a row for each kernel, size, variant and workload, and their means."""
    head = f"{'KERNEL/CPUS/VARIANT':<40}{'WORKLOAD':<14}{'OWN':>7}{'LONG':>7}{'RATIO':>8}  {'95 % INTERVAL':<16}"
    yield head + f"{'BOUND':>6}{'SHORT':>7}{'BLOCKS':>8}"
    for key, row in sorted(result["rows"].items()):
        where, _, workload = key.rpartition("/")
        ratio, low, high = row["ratio"]
        yield (f"{where:<40}{workload:<14}{row['makespan_s']:>6.2f}s{row['times']:>6.1f}x{ratio:>8.3f}  "
               f"{f'{low:.3f} to {high:.3f}':<16}{row['bound_ratio']:>6.3f}{row['short_latest_ratio']:>7.3f}"
               f"{row['blocks']:>8}")  # fmt: skip
    for where, mean in sorted(result["means"].items()):
        ratio, low, high = mean["ratio"]
        told = "met" if mean["met"] else "not met"
        yield (f"{where:<40}{'mean of ' + str(mean['workloads']):<28}{ratio:>8.3f}  {f'{low:.3f} to {high:.3f}':<16}"
               f"{mean['bound_ratio']:>6.3f}{mean['short_latest_ratio']:>7.3f}{told:>8}")  # fmt: skip


def one_boot(kernel: KernelImage, cpus: int, rows: dict[str, dict[str, Any]], wanted: int, end: float,
             store: Store) -> None:  # fmt: skip
    """Rows of one kernel and size, in one node VM, as long as there is time; those that got samples are kept."""
    node = nodevm.start(f"bench-batch-{os.getpid()}", kernel=kernel, cpus=cpus, memory_mib=MEMORY_MIB)
    try:
        for key, row in rows.items():
            if time.monotonic() < end - 20:
                measure(node, kernel, cpus, row, wanted, end - time.monotonic())
                if row["samples"]:
                    store.rows[key] = row
                store.conditions(kernel)
                summarise(store.document)
                store.keep()
    finally:
        node.stop()


def main() -> None:
    """Measure what is missing, as long as there is time, and print all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", action="append", help="newest, oldest or a release; default: both")
    parser.add_argument("--cpus", action="append", type=int, help="CPUs of the guest; default: 2 and 4")
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="default: declared")
    parser.add_argument("--workload", action="append", choices=[w.name for w in WORKLOADS], help="default: all")
    parser.add_argument("--blocks", type=int, default=6, help="blocks of four runs a row")
    parser.add_argument("--seconds", type=float, default=220, help="stop after about as long, and go on next time")
    arguments = parser.parse_args()
    lacking = sorted({tool for workload in WORKLOADS for tool in workload.missing()})
    if lacking:
        raise SystemExit(f"programs are missing: {', '.join(lacking)}; make setup, and run again")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the node VM does not stay behind
    end = time.monotonic() + arguments.seconds
    store = Store("batch")
    for which in arguments.kernel or ["newest", "oldest"]:
        kernel = images.resolve(which)
        for cpus in arguments.cpus or [2, 4]:
            rows: dict[str, dict[str, Any]] = {}
            for variant in arguments.variant or ["declared"]:
                for name in arguments.workload or [w.name for w in WORKLOADS]:
                    key = f"{kernel.release}/{cpus}/{variant}/{name}"
                    fresh: dict[str, Any] = {"samples": []}
                    fresh |= {"workload": name, "kernel": kernel.release, "cpus": cpus, "variant": variant}
                    row = store.rows.get(key, fresh)
                    if is_stale(row):
                        row = fresh
                    if len(row["samples"]) < arguments.blocks:
                        rows[key] = row
            if not rows or time.monotonic() > end - 30:
                continue
            try:
                one_boot(kernel, cpus, rows, arguments.blocks, end, store)
            except SchedctlError as error:
                print(f"{kernel.release} with {cpus} CPUs: {error}", file=sys.stderr)
    summarise(store.document)
    print("\n".join(lines(store.document)), file=sys.stderr)
    print(json.dumps(store.document))


if __name__ == "__main__":
    main()
