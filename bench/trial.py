# SPDX-License-Identifier: Apache-2.0
"""How often a trial is wrong, and how often it finds what is there.

`--record` makes real A/A samples: runs of a workload under the kernel's own scheduler in a guest, kept in
bench/results/trial-aa.json; it adds to what is there, so that it can be done in pieces (`--seconds`, about 4 minutes).
Whenever there are samples, it then counts

    real          short A/A trials, of consecutive recorded blocks, 8 to a trial, each block used once and in its order
    simulated     trials whose blocks are drawn from the recorded blocks with replacement; equal arms for the false
                  positives, and one arm made 10 % better, run by run, for the power

and prints them as a table (stderr) and JSON (stdout). Simulated trials are simulations over recorded A/A samples: they
know the noise of one guest on one machine, in its own distribution but not in its own order.

    python bench/trial.py --record --seconds 200 --run-seconds 0.4
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from controller.api import now
from controller.kernel import images
from controller.kernel.microvm import EmulatorFault, boot
from controller.verify.trial import TrialSpec, statistics, workloads
from controller.verify.trial.arms import GuestArms
from controller.verify.trial.design import run_seeds
from controller.verify.trial.spec import BUDGET_S, OBJECTIVES
from controller.verify.trial.workloads import better, value

RESULTS = Path(__file__).parent / "results"
SAMPLES = RESULTS / "trial-aa.json"
AA = 10
CONFIDENCE, POWER, PLANTED, ALLOWED = 0.95, 0.9, 0.10, 0.10
ALSO = {"longtail": ["others.throughput"], "mixed": ["class.wakeupLatency.p50", "others.throughput"]}


def main() -> None:
    """Record, if asked to, and print what the samples say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="make more A/A samples first")
    parser.add_argument("--seconds", type=float, default=200, help="how long to record")
    parser.add_argument("--kernel", default="newest", help="as for schedctl verify")
    parser.add_argument("--workloads", default="longtail,mixed,messaging,pipeline,kernelbuild-like")
    parser.add_argument("--run-seconds", type=float, default=workloads.RUN_S, help="about how long one run is")
    parser.add_argument("--trials", type=int, default=1000, help="simulated trials of each kind")
    parser.add_argument("--mde", type=float, default=0.05, help="minimum detectable effect")
    arguments = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    kept: dict[str, Any] = json.loads(SAMPLES.read_text()) if SAMPLES.exists() else {"blocks": {}}
    if arguments.record:
        workloads.RUN_S = arguments.run_seconds
        record(kept, arguments.workloads.split(","), arguments.kernel, arguments.seconds)
    groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for name, blocks in kept["blocks"].items():
        for block in blocks:
            groups.setdefault((name, block["run_s"]), []).append(block)
    rows = [
        {"run_s": run_s} | row(name, metric, blocks, arguments.trials, arguments.mde)
        for (name, run_s), blocks in groups.items()
        for metric in [f"class.{OBJECTIVES[name].value}" + (".p99" if name == "mixed" else ""), *ALSO.get(name, [])]
        if len(blocks) >= AA
    ]
    result = {
        "benchmark": "trial", "measured": kept.get("measured"),
        "kernels": sorted({b["kernel"] for bs in kept["blocks"].values() for b in bs}),
        "confidence": CONFIDENCE, "power": POWER, "mde": arguments.mde, "planted": PLANTED,
        "trials": arguments.trials,
        "simulation": f"blocks drawn with replacement from the recorded A/A blocks, {arguments.trials} trials a row",
        "rows": rows,
    }  # fmt: skip
    show(rows)
    (RESULTS / f"trial-mde{round(100 * arguments.mde)}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


# ---- recording ----


def record(kept: dict[str, Any], names: list[str], kernel: str, seconds: float) -> None:
    """Blocks of four equal runs, workload by workload in turn, until the time is up; what was made is always kept."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with boot(images.resolve(kernel).path) as guest:
                arms = {name: GuestArms(guest, TrialSpec(name, OBJECTIVES[name]), {}) for name in names}
                for one in arms.values():
                    one.sample("baseline", 0, 0)
                while time.monotonic() < end:
                    for name, one in arms.items():
                        blocks = kept["blocks"].setdefault(name, [])
                        begin = time.monotonic()
                        seeds = run_seeds(1, "bench", len(blocks), 4)
                        runs = [one.sample("baseline", *pair) for pair in seeds]
                        took = round(time.monotonic() - begin, 3)
                        said = {"kernel": guest.facts.release, "run_s": workloads.RUN_S, "seconds": took}
                        blocks.append({**said, "runs": runs})
                    kept["measured"] = now().isoformat()
                    SAMPLES.write_text(json.dumps(kept, separators=(",", ":")))
        except EmulatorFault as error:
            print(f"the emulator broke the guest: {error}", file=sys.stderr)


# ---- counting ----


def row(name: str, metric: str, blocks: list[dict[str, Any]], trials: int, mde: float) -> dict[str, Any]:
    """What the recorded blocks of one workload say about one metric."""
    gains, rail = _gains(blocks, metric), _gains(blocks, "others.throughput")
    runs = np.array([[value(metric, run) for run in block["runs"]] for block in blocks])
    sigma, effect = statistics.noise(gains), math.log1p(mde)
    seconds = float(np.median([block["seconds"] for block in blocks]))
    afford = max(2, int((BUDGET_S - AA * seconds) / (1.15 * seconds)) // 2 * 2)
    chance = np.random.default_rng(1)
    equal = [_simulated(runs, gains, rail, chance, effect, 0.0, afford) for _ in range(trials)]
    planted = [_simulated(runs, gains, rail, chance, effect, math.log1p(PLANTED), afford) for _ in range(trials)]
    real = _real(gains, effect)
    return {
        "workload": name, "metric": metric, "blocks_recorded": len(blocks), "seconds_a_block": round(seconds, 2),
        "run_sd_log": round(float(np.log(runs).std(ddof=1)), 4), "block_noise_log": round(sigma, 4),
        "pairs_needed": 2 * statistics.blocks_needed(sigma, effect, CONFIDENCE, POWER),
        "pairs_in_budget": 2 * afford,
        "mde_in_budget": round(math.expm1(statistics.detectable(sigma, afford, CONFIDENCE, POWER)), 4),
        "false_positives": _part(equal, "better", "worse"), "equivalent": _part(equal, "equivalent"),
        "inconclusive": _part(equal, "inconclusive"),
        "too_noisy_to_run": _part(planted, "too noisy"),
        "planted_found": _part(planted, "better"),
        "planted_found_of_those_run": _part([one for one in planted if one != "too noisy"], "better"),
        "planted_called_worse": _part(planted, "worse"),
        "real_trials": len(real), "real_false_positives": sum(one in ("better", "worse") for one in real),
    }  # fmt: skip


def _gains(blocks: list[dict[str, Any]], metric: str) -> statistics.Array:
    """Runs 1 and 4 against 2 and 3, as in a block; every other block begins with the other arm."""
    mine, theirs = ([[value(metric, block["runs"][i]) for i in two] for block in blocks] for two in ((0, 3), (1, 2)))
    return statistics.block_gains(mine, theirs, better(metric)) * (-1.0) ** np.arange(len(blocks))


def _simulated(
    runs: statistics.Array, gains: statistics.Array, rail: statistics.Array, chance: np.random.Generator,
    effect: float, planted: float, afford: int,
) -> str:  # fmt: skip
    """One trial, guardrail and all: its A/A blocks and its own are drawn from the recorded ones, either way round."""
    sigma = statistics.noise(statistics.aa_contrasts(runs[chance.integers(len(runs), size=AA)].tolist()))
    if statistics.blocks_needed(statistics.hopeful(sigma, 3 * AA), effect, CONFIDENCE, POWER) > afford:
        return "too noisy"
    count = statistics.blocks_needed(statistics.cautious(sigma, 3 * AA), effect, CONFIDENCE, POWER)
    drawn = chance.integers(len(gains), size=min(count, afford))
    turned = chance.choice([-1.0, 1.0], len(drawn))
    if statistics.p_broken(rail[drawn] * turned, math.log1p(ALLOWED)) <= 1 - CONFIDENCE:
        return "worse"
    found = statistics.interval(gains[drawn] * turned + planted, CONFIDENCE, int(chance.integers(1 << 31)))
    return statistics.judge(found, effect)


def _real(gains: statistics.Array, effect: float) -> list[str]:
    """Trials in the order in which the blocks were recorded, none used twice. Short ones: how often equal arms are
    called different does not depend on the number of blocks, only what can be seen does."""
    length = statistics.MIN_BLOCKS
    parts = [gains[at : at + length] for at in range(0, len(gains) - length + 1, length)]
    return [statistics.judge(statistics.interval(part, CONFIDENCE, index), effect) for index, part in enumerate(parts)]


def _part(verdicts: list[str], *wanted: str) -> float:
    return round(sum(one in wanted for one in verdicts) / len(verdicts), 4) if verdicts else 0.0


def show(rows: list[dict[str, Any]]) -> None:
    """The table, on stderr."""
    heads = [
        "workload",
        "run",
        "metric",
        "blocks",
        "run sd",
        "noise",
        "pairs needed",
        "MDE in time",
        "false pos.",
        "power 10%",
        "if it ran",
        "real",
    ]
    print(("{:<18}{:>4} {:<26}" + "{:>13}" * 9).format(*heads), file=sys.stderr)
    for one in rows:
        cells = [
            one["blocks_recorded"], f"{one['run_sd_log']:.1%}", f"{one['block_noise_log']:.1%}", one["pairs_needed"],
            f"{one['mde_in_budget']:.1%}", f"{one['false_positives']:.1%}", f"{one['planted_found']:.1%}",
            f"{one['planted_found_of_those_run']:.1%}",
            f"{one['real_false_positives']}/{one['real_trials']}",
        ]  # fmt: skip
        print(
            f"{one['workload']:<18}{one['run_s']:>4} {one['metric']:<26}" + ("{:>13}" * 9).format(*cells),
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
