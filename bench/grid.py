# SPDX-License-Identifier: Apache-2.0
"""How good the offline planners' proposals are, against the kernel's own scheduler, in twelve fixed scenarios.

A scenario (bench/kit/scenarios.py) is an authored profile, one or two intents, and a load of the trial. Each planner
ends with one proposal for it, and that is measured beside the kernel's own scheduler in the same boot, on blocks that
it was not chosen by: 24, each four runs of equal work, ABBA or BAAB. The ratio is the trimmed mean of the blocks' log
ratios in the scenario's metric, with its bootstrap-t interval at 95 %, turned so that above 1 is better.

    rules     plan.propose with mode rules: nothing is measured
    search    the same with mode search: up to 6 candidates or 4 minutes in a micro-VM, on the scenario's load
    random    one point, drawn uniformly, of one template, drawn uniformly among those that suit
    grid      up to 24 points of all templates that suit, 3 blocks each: the best whose guardrails look kept

    better       the lower limit is above 1          not worse    it is above 1/1.05, so less than 5 % is lost
    worse        the upper limit is below 1          unclear      none of these: it counts as neither

A guardrail of the scenario that is shown broken (Holm, 5 %) makes any of them worse, and so does a proposal that does
not last through its runs. One that is refused before it runs, or none at all, leaves the kernel's own scheduler where
it is: ratio 1, not worse. What the verifier's liveness stage or a trial would have refused on the way to a node is
measured here all the same.

A row is one scenario and planner; rows are added to bench/results/grid.json, whole ones only: rules first, then search,
random and grid, last those whose scenario or template was changed since, or that were measured on a busy machine. No
row is begun that would not end within --seconds, going by the slowest one of its planner so far. The table goes to
stderr, JSON to stdout.

    python bench/grid.py --seconds 540
    python bench/grid.py --kernel oldest --cpus 4 --planner rules --scenario nightly-batch
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.kit import contenders, filled
from bench.kit.beside import Beside, Stays
from bench.kit.contenders import PLANNERS
from bench.kit.loads import better
from bench.kit.scenarios import SCENARIOS, Scenario, templates
from bench.kit.store import CONFIDENCE, RESULTS, Elsewhere, Store, busy, wilson
from controller.api import Proposal, now
from controller.errors import CandidateRejected, InputError, SchedctlError
from controller.kernel import images
from controller.kernel.images import KernelImage
from controller.kernel.vmshape import VmShape
from controller.plan.search import course
from controller.reconcile.measuring import Measuring
from controller.verify.trial import TrialRejected, statistics

BLOCKS = 24
"""With the noise between equal runs (sd 4 to 7 % a block, 17 % in latencies) that shows a tie to be not worse but for
latencies, whose gains are large."""
PICK_BLOCKS = 3
MARGIN = 0.05
"""What may be lost and still be called not worse."""
AIMS = {"not worse": 0.9, "better": 0.6}
VERDICTS = ("better", "not worse", "unclear", "worse")
SEARCH: dict[str, Any] = {"trials": 6, "time": "240s"}
_FIRST_S = {"rules": 100.0, "search": 400.0, "random": 100.0, "grid": 420.0}
"""About how long a row takes where none was measured."""


@dataclass(frozen=True)
class Job:
    """One row to measure."""

    release: str
    cpus: int
    scenario: Scenario
    planner: str

    @property
    def where(self) -> str:
        """Kernel and size."""
        return f"{self.release}/{self.cpus}"

    @property
    def key(self) -> str:
        """The row's key."""
        return f"{self.where}/{self.scenario.name}/{self.planner}"

    @cached_property
    def digest(self) -> str:
        """Of all that the row's figures depend on and that nothing has to be measured for."""
        asked = (self.scenario, self.release, self.cpus)
        base = contenders.by_rules(*asked)
        parts, templates_used = [repr(self.scenario.trial), base.substance()], {base.template}
        if self.planner == "search":
            space = contenders.space_on(self.scenario, templates()[base.template], self.release, self.cpus)
            parts += [repr(space.dimensions), repr(SEARCH)]
        elif self.planner == "random":
            point = contenders.by_chance(*asked)
            parts.append(point.substance())
            templates_used.add(point.template)
        elif self.planner == "grid":
            points = contenders.grid(*asked)
            parts += [point.substance() for point in points]
            templates_used.update(point.template for point in points)
        parts += [filled.current(name) for name in sorted(templates_used)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def planned(jobs: list[Job], rows: Mapping[str, Any]) -> list[Job]:
    """What is not measured yet: missing rows before those of something else, by planner, then in the order given."""
    waiting = [
        job for job in jobs
        if job.key not in rows or rows[job.key]["digest"] != job.digest or busy(rows[job.key])
    ]  # fmt: skip
    return sorted(waiting, key=lambda job: (job.key in rows, PLANNERS.index(job.planner)))


def expected_s(job: Job, rows: Mapping[str, Any]) -> float:
    """How long a row will take: as the slowest of its planner so far, else a guess."""
    took = [row["seconds"] for key, row in rows.items() if key.rpartition("/")[2] == job.planner]
    return max(took, default=_FIRST_S[job.planner])


# ---- measuring ----


def measure(job: Job, kernel: KernelImage) -> dict[str, Any]:
    """One whole row. SchedctlError when the machine fails it, which is nobody's result."""
    begun, machine = time.monotonic(), Elsewhere()
    row: dict[str, Any] = {"digest": job.digest, "proposal": None, "note": "", "stays": "", "broke": "", "blocks": {}}
    row |= {"objective": job.scenario.trial.objective}
    row |= {"rails": {rail.key: rail.max_regression for rail in job.scenario.trial.guardrails}}
    with Beside(job.scenario.trial, kernel, job.cpus) as beside:
        try:
            proposal = proposed(job, kernel, beside, row)
            row |= {"proposal": _said(proposal), "note": proposal.planner.note}
            row["blocks"] = beside.blocks(proposal, BLOCKS, f"grid/{job.scenario.name}")
        except Stays as why:
            row["stays"] = str(why)[:300]
        except TrialRejected as rejected:
            row["broke"] = rejected.message[:300]
    took = round(time.monotonic() - begun, 1)
    return row | {"seconds": took, "measured": now().isoformat(), "elsewhere": machine.share()}


def proposed(job: Job, kernel: KernelImage, beside: Beside, row: dict[str, Any]) -> Proposal:
    """The planner's one proposal. Stays where it has none; how a grid came to it is put into the row."""
    asked = (job.scenario, job.release, job.cpus)
    if job.planner == "random":
        return contenders.by_chance(*asked)
    if job.planner == "grid":
        return _best(contenders.grid(*asked), job, beside, row)
    try:
        if job.planner == "rules":
            return contenders.by_rules(*asked)
        policy = job.scenario.policy("search", **SEARCH)
        with Measuring(lambda: (kernel, VmShape.parse(str(job.cpus))), templates(), policy) as bench:
            return contenders.by_search(*asked, bench, **SEARCH)
    except InputError as error:
        raise Stays(f"nothing is proposed: {error.message}") from error


def _best(points: tuple[Proposal, ...], job: Job, beside: Beside, row: dict[str, Any]) -> Proposal:
    """The one that gains most, by the mean of a few blocks, among those that look as if they kept all guardrails."""
    tried: list[dict[str, Any]] = []
    row["tried"] = tried
    best: tuple[float, Proposal] | None = None
    for point in points:
        try:
            blocks = beside.blocks(point, PICK_BLOCKS, f"grid/{job.scenario.name}/pick")
        except (Stays, TrialRejected) as failed:
            why = failed.message if isinstance(failed, CandidateRejected) else str(failed)
            tried.append({**_said(point), "failed": why[:300]})
            continue
        gains = {metric: float(_gains(blocks, metric).mean()) for metric in blocks}
        kept = all(gains[metric] >= -math.log1p(allowed) for metric, allowed in row["rails"].items())
        tried.append({**_said(point), "ratio": _ratio(gains[row["objective"]]), "kept": kept})
        if kept and (best is None or gains[row["objective"]] > best[0]):
            best = gains[row["objective"]], point
    if best is None:
        raise Stays(f"nothing is proposed: of {len(points)} points none ran and kept the guardrails")
    return best[1]


def _said(proposal: Proposal) -> dict[str, Any]:
    """What a reader wants to know of it."""
    of_class = {c.handle: dict(c.parameters) for c in proposal.classes if c.parameters}
    return {
        "template": proposal.template, "parameters": proposal.parameters, "expressions": proposal.expressions,
        "classes": of_class, "by": proposal.planner.name,
    }  # fmt: skip


# ---- the result ----


def _gains(blocks: Mapping[str, Any], metric: str) -> statistics.Array:
    mine, own = ([block[side] for block in blocks[metric]] for side in (0, 1))
    return statistics.block_gains(mine, own, better(metric))


def _ratio(log_gain: float) -> float:
    return round(math.exp(min(max(log_gain, -50.0), 50.0)), 4)


def verdict(low: float, high: float, *, broken: bool = False) -> str:
    """Of a ratio's limits: better, not worse, unclear or worse; `broken`: a guardrail is shown broken."""
    if broken:
        return "worse"
    if low > 1:
        return "better"
    if low > 1 / (1 + MARGIN):
        return "not worse"
    return "worse" if high < 1 else "unclear"


def figures(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row's ratio with its limits, that of each guardrail, which of them are broken, and the verdict."""
    if row["stays"]:
        return {"ratio": [1.0, 1.0, 1.0], "guards": {}, "broken": [], "verdict": "not worse"}
    if row["broke"]:
        return {"ratio": None, "guards": {}, "broken": [], "verdict": "worse"}
    found = {metric: _gains(row["blocks"], metric) for metric in row["blocks"]}
    limits = {metric: statistics.interval(gains, CONFIDENCE, 1) for metric, gains in found.items()}
    ratios = {metric: [_ratio(x) for x in (each.center, each.low, each.high)] for metric, each in limits.items()}
    margins = {metric: math.log1p(allowed) for metric, allowed in row["rails"].items()}
    shown = statistics.holm([statistics.p_broken(found[metric], margin) for metric, margin in margins.items()])
    broken = [metric for metric, p in zip(margins, shown, strict=True) if p <= 1 - CONFIDENCE]
    ratio = ratios.pop(row["objective"])
    said = verdict(ratio[1], ratio[2], broken=bool(broken))
    return {"ratio": ratio, "guards": ratios, "broken": broken, "verdict": said}


def shares(verdicts: list[str]) -> dict[str, Any]:
    """How many of each, and the shares that are better, and at least not worse, with Wilson's intervals at 95 %."""
    hits = {"better": verdicts.count("better")}
    hits["not worse"] = hits["better"] + verdicts.count("not worse")
    found: dict[str, Any] = {"rows": len(verdicts), "of": len(SCENARIOS)}
    found["counts"] = {name: verdicts.count(name) for name in VERDICTS}
    for name, aim in AIMS.items():
        share = hits[name] / len(verdicts) if verdicts else 0.0
        limits = wilson(hits[name], len(verdicts))
        complete = len(verdicts) == len(SCENARIOS)
        found[name] = {
            "share": round(share, 4), "interval95": [round(x, 4) for x in limits], "aim": aim,
            "met": share >= aim if complete else None,
        }  # fmt: skip
    return found


def summarise(document: dict[str, Any]) -> None:
    """Work out every figure anew from the samples; shares by kernel and size, and planner."""
    together: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for key, row in document["rows"].items():
        where, scenario, planner = key.rsplit("/", 2)
        row.update(figures(row))
        if scenario in SCENARIOS:
            together.setdefault(where, {}).setdefault(planner, []).append(row)
    document["shares"] = {
        where: {
            planner: shares([row["verdict"] for row in by[planner]])
            | {"stays": sum(bool(row["stays"]) for row in by[planner])}
            for planner in PLANNERS
            if planner in by
        }
        for where, by in sorted(together.items())
    }


def lines(document: Mapping[str, Any]) -> Iterator[str]:
    """The table: a row for each scenario and planner, and the shares of each planner."""
    head = f"{'KERNEL/CPUS/SCENARIO':<54}{'PLANNER':<9}{'TEMPLATE':<15}"
    yield f"{head}{'RATIO':>7}  {'95 % INTERVAL':<17}{'VERDICT':<11}WHY"
    for key, row in sorted(document["rows"].items()):
        where, _, planner = key.rpartition("/")
        ratio, low, high = row["ratio"] or (math.nan, math.nan, math.nan)
        template = row["proposal"]["template"] if row["proposal"] else "–"
        why = row["stays"] or row["broke"] or ", ".join(row["broken"]) or row["note"]
        limits = f"{low:.3f} to {high:.3f}"
        yield f"{where:<54}{planner:<9}{template:<15}{ratio:>7.3f}  {limits:<17}{row['verdict']:<11}{why[:80]}".rstrip()
    for where, by in document.get("shares", {}).items():
        for planner, found in by.items():
            told = [_told(name, found[name]) for name in AIMS]
            yield f"{where:<54}{planner:<9}{found['rows']} of {found['of']} scenarios: {'; '.join(told)}"


def _told(name: str, found: Mapping[str, Any]) -> str:
    low, high = found["interval95"]
    met = {None: "", True: ", met", False: ", not met"}[found["met"]]
    return f"{name} {found['share']:.0%} ({low:.0%} to {high:.0%}; aim {found['aim']:.0%}{met})"


def main() -> None:
    """Measure what is missing, as long as there is time, and print all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", action="append", help="newest, oldest or a release; default: newest")
    parser.add_argument("--cpus", action="append", type=int, help="CPUs of the guest; default: 2")
    parser.add_argument("--planner", action="append", choices=PLANNERS, help="default: all")
    parser.add_argument("--scenario", action="append", choices=list(SCENARIOS), help="default: all")
    parser.add_argument("--seconds", type=float, default=540, help="begin nothing that would take longer than this")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="default: bench/results")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no guest stays behind
    end = time.monotonic() + arguments.seconds
    planners = arguments.planner or list(PLANNERS)
    try:
        if "search" in planners:
            course.optuna()  # without it nothing would be searched, and the rules' rows measured twice
        kernels = {image.release: image for image in map(images.resolve, arguments.kernel or ["newest"])}
    except SchedctlError as error:
        raise SystemExit(f"error: {error}") from None
    store = Store("grid", arguments.results)
    jobs = [
        Job(release, cpus, SCENARIOS[name], planner)
        for release in kernels
        for cpus in dict.fromkeys(arguments.cpus or [2])
        for planner in dict.fromkeys(planners)
        for name in dict.fromkeys(arguments.scenario or SCENARIOS)
    ]
    waiting = planned(jobs, store.rows)
    for job in waiting:
        if time.monotonic() + expected_s(job, store.rows) > end:
            continue
        print(f"measuring {job.key}", file=sys.stderr)
        try:
            store.rows[job.key] = measure(job, kernels[job.release])
        except SchedctlError as error:
            print(f"{job.key}: not measured: {error}", file=sys.stderr)
            continue
        store.conditions(kernels[job.release])
        summarise(store.document)
        store.keep()
    summarise(store.document)
    left = planned(jobs, store.rows)
    if left:
        next_s = expected_s(left[0], store.rows)
        print(f"{len(left)} rows are still to be measured; the next takes about {next_s:.0f} s", file=sys.stderr)
    print("\n".join(lines(store.document)), file=sys.stderr)
    print(json.dumps(store.document))


if __name__ == "__main__":
    main()
