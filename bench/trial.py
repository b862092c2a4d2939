# SPDX-License-Identifier: Apache-2.0
"""How often a trial is wrong, and how often it finds what is there.

`--record` makes real A/A samples: runs of a workload under the kernel's own scheduler in a guest, kept in
bench/results/trial-aa.json; it adds to what is there, so that it can be done in pieces (`--seconds`, about 4 minutes).
Whenever there are samples, it then counts

    real          whole A/A trials made of consecutive recorded runs, each run used once: calibration, blocks by its
                  noise, comparison, just as a trial goes
    simulated     trials whose blocks are drawn from the recorded blocks with replacement; equal arms for the false
                  positives, and one arm made 10 % better, run by run, for the power

and prints them as a table (stderr) and JSON (stdout). Simulated trials are simulations over recorded A/A samples: they
know the noise of one guest on one machine, in its own distribution but not in its own order.

    python bench/trial.py --record --seconds 200
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

from controller.kernel import images
from controller.kernel.microvm import EmulatorFault, boot
from controller.verify.trial import TrialSpec, statistics
from controller.verify.trial.arms import GuestArms
from controller.verify.trial.design import run_seeds
from controller.verify.trial.spec import OBJECTIVES
from controller.verify.trial.workloads import better, value

RESULTS = Path(__file__).parent / "results"
SAMPLES = RESULTS / "trial-aa.json"
AA = 10
CONFIDENCE, POWER, PLANTED, CAP = 0.95, 0.8, 0.10, 60
ALSO = {"longtail": ["others.throughput"], "mixed": ["class.wakeupLatency.p50", "others.throughput"]}


def main() -> None:
    """Record, if asked to, and print what the samples say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="make more A/A samples first")
    parser.add_argument("--seconds", type=float, default=200, help="how long to record")
    parser.add_argument("--kernel", default="newest", help="as for schedctl verify")
    parser.add_argument("--workloads", default="longtail,mixed,messaging,pipeline,kernelbuild-like")
    parser.add_argument("--trials", type=int, default=1000, help="simulated trials of each kind")
    parser.add_argument("--mde", type=float, default=0.05, help="minimum detectable effect")
    arguments = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    kept: dict[str, Any] = json.loads(SAMPLES.read_text()) if SAMPLES.exists() else {"blocks": {}}
    if arguments.record:
        record(kept, arguments.workloads.split(","), arguments.kernel, arguments.seconds)
    rows = [
        row(name, metric, blocks, arguments.trials, arguments.mde)
        for name, blocks in kept["blocks"].items()
        for metric in [f"class.{OBJECTIVES[name].value}" + (".p99" if name == "mixed" else ""), *ALSO.get(name, [])]
        if len(blocks) >= AA
    ]
    result = {
        "benchmark": "trial", "kernels": sorted({b["kernel"] for bs in kept["blocks"].values() for b in bs}),
        "confidence": CONFIDENCE, "power": POWER, "mde": arguments.mde, "planted": PLANTED,
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
                        blocks.append({"kernel": guest.facts.release, "seconds": took, "runs": runs})
                    SAMPLES.write_text(json.dumps(kept, separators=(",", ":")))
        except EmulatorFault as error:
            print(f"the emulator broke the guest: {error}", file=sys.stderr)


# ---- counting ----


def row(name: str, metric: str, blocks: list[dict[str, Any]], trials: int, mde: float) -> dict[str, Any]:
    """What the recorded blocks of one workload say about one metric."""
    values = np.log([[value(metric, run) for run in block["runs"]] for block in blocks]) * better(metric)
    runs = values.reshape(-1)
    # Runs 1 and 4 against 2 and 3, as in a block; every other block begins with the other arm.
    gains = (values[:, [0, 3]].mean(axis=1) - values[:, [1, 2]].mean(axis=1)) * (-1.0) ** np.arange(len(values))
    sigma = statistics.noise(gains)
    effect = math.log1p(mde)
    seconds = float(np.median([block["seconds"] for block in blocks]))
    afford = max(2, int((200 - AA * seconds) / (1.15 * seconds)) // 2 * 2)
    chance = np.random.default_rng(1)
    equal = [_simulated(gains, chance, effect, 0.0) for _ in range(trials)]
    planted = [_simulated(gains, chance, effect, math.log1p(PLANTED)) for _ in range(trials)]
    real = _real(gains, effect)
    return {
        "workload": name, "metric": metric, "blocks_recorded": len(blocks), "seconds_a_block": round(seconds, 2),
        "run_sd_log": round(float(runs.std(ddof=1)), 4), "block_noise_log": round(sigma, 4),
        "pairs_needed": 2 * statistics.blocks_needed(sigma, effect, CONFIDENCE, POWER),
        "pairs_in_200_s": 2 * afford,
        "mde_in_200_s": round(math.expm1(statistics.detectable(sigma, afford, CONFIDENCE, POWER)), 4),
        "false_positives": _part(equal, "better", "worse"), "equivalent": _part(equal, "equivalent"),
        "planted_found": _part(planted, "better"), "planted_called_worse": _part(planted, "worse"),
        "real_trials": len(real), "real_false_positives": sum(one in ("better", "worse") for one in real),
    }  # fmt: skip


def _simulated(gains: statistics.Array, chance: np.random.Generator, effect: float, planted: float) -> str:
    """One trial: its A/A blocks and its own are drawn from the recorded ones, either way round."""

    def draw(count: int) -> statistics.Array:
        return np.asarray(chance.choice(gains, count) * chance.choice([-1, 1], count))

    count = _blocks(draw(AA), effect)
    return statistics.judge(
        statistics.interval(draw(count) + planted, CONFIDENCE, int(chance.integers(1 << 31))), effect
    )


def _blocks(aa: statistics.Array, effect: float) -> int:
    sigma = statistics.cautious(statistics.noise(aa), len(aa))
    return min(CAP, statistics.blocks_needed(sigma, effect, CONFIDENCE, POWER))


def _real(gains: statistics.Array, effect: float) -> list[str]:
    """Trials in the order in which the blocks were recorded, none used twice: short ones, 4 to calibrate and 6 to judge
    (how often equal arms are called different does not depend on the length, only what can be seen does)."""
    length = 4 + statistics.MIN_BLOCKS
    parts = [gains[at : at + length] for at in range(0, len(gains) - length + 1, length)]
    return [
        statistics.judge(statistics.interval(part[4:], CONFIDENCE, index), effect) for index, part in enumerate(parts)
    ]


def _part(verdicts: list[str], *wanted: str) -> float:
    return round(sum(one in wanted for one in verdicts) / len(verdicts), 4)


def show(rows: list[dict[str, Any]]) -> None:
    """The table, on stderr."""
    heads = [
        "workload",
        "metric",
        "blocks",
        "run sd",
        "noise",
        "pairs needed",
        "MDE/200 s",
        "false pos.",
        "power 10%",
        "real",
    ]
    print(("{:<18}{:<26}" + "{:>13}" * 8).format(*heads), file=sys.stderr)
    for one in rows:
        cells = [
            one["blocks_recorded"], f"{one['run_sd_log']:.1%}", f"{one['block_noise_log']:.1%}", one["pairs_needed"],
            f"{one['mde_in_200_s']:.1%}", f"{one['false_positives']:.1%}", f"{one['planted_found']:.1%}",
            f"{one['real_false_positives']}/{one['real_trials']}",
        ]  # fmt: skip
        print(f"{one['workload']:<18}{one['metric']:<26}" + ("{:>13}" * 8).format(*cells), file=sys.stderr)


if __name__ == "__main__":
    main()
