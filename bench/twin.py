# SPDX-License-Identifier: Apache-2.0
"""How near a twin's replay comes to its original, against how far different loads are from one another.

Each load is profiled twice on this host (bcc, a cgroup of its own), twinned from the first profile, and its twin run by
rt-app from the moment a third window opens. A replay is near enough when its distance from the original is at most half
the smallest distance between any two different loads; the distance of the two profiles of the same load shows what
chance alone does; with --scheduling a further profile, of the load as SCHED_BATCH (whose wakeups preempt nobody), shows
what another way of scheduling the same load does. How a twin is made was tried out on LOADS and LATER; those of FRESH
were chosen and run only after that, and are judged by the same distance. With --guest all of it, but LOADS alone for
want of time, happens in a node VM on the newest sched_ext kernel. Needs root, bcc, rt-app and the loads' programs (and
QEMU for --guest); the tables go to stderr, JSON to stdout and to bench/results/twin.json or twin-guest.json (--name
another).

    python bench/twin.py --seconds 5
    python bench/twin.py --guest
    python bench/twin.py --keep DIR        # the profiles and documents as well
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shlex
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from classify import FRESH as CLASSIFIED
from loads import Program, conditions, group, guest, other_load, root, running

from controller.api.base import now
from controller.api.fingerprint import FEATURES, WorkloadVector, apart, differences, vector_of
from controller.api.profile import WorkloadProfile
from controller.observe import Probes, profile, twin

RESULTS = Path(__file__).parent / "results"
_GUEST_S = 205.0
CLIENT = """python3 -c '
import time, urllib.request
while True:
    urllib.request.urlopen("http://127.0.0.1:8767/page").read(); time.sleep(0.005)'"""
SOUND = """python3 -c '
import sys, threading, time
def play(period, work):
    at = time.monotonic()
    while True:
        at += period; time.sleep(max(at - time.monotonic(), 0))
        sum(i * i for i in range(work))
for period, work in ((0.0107, 3000), (0.0213, 9000), (0.0333, 20000)):
    threading.Thread(target=play, args=(period, work)).start()'"""
SMALL = (
    "for i in $(seq 40); do printf 'int f%d(int x){int s=0;for(int i=0;i<x;i++)s+=i*%d^s;return s;}\\n' $i $i; done"
    " > small.c"
)

LOADS = (
    Program("web", "python3 -m http.server --bind 127.0.0.1 8767", needs=("python3",), prepare="echo hi > page",
            peer=CLIENT),
    Program("hogs", "for i in 1 2 3; do sha256sum /dev/zero & done; wait", needs=("sha256sum",)),
    Program("messaging", "hackbench --pipe -g 1 -f 4 -l 100000000", needs=("hackbench",)),
    Program("compile", "yes small.c | xargs -P 2 -n 1 gcc -O1 -c -o /dev/null", needs=("gcc",), prepare=SMALL),
    Program("pipeline", "cat /dev/zero | tr '\\0' a | cksum", needs=("tr", "cksum")),
    Program("sound", SOUND, needs=("python3",)),
)  # fmt: skip

LATER = tuple(program for program, _, _ in CLASSIFIED if program.name in ("clang", "stress-pipe"))
"""Fresh ones once, which then showed what to do better."""

FRESH = tuple(
    program for program, _, _ in CLASSIFIED if program.name in ("game", "postgres-calm", "lz4-stream", "git-repack")
)
"""Not looked at when the twin was made; a load that the twin is changed for moves to LATER."""


def main() -> None:
    """Profile, twin and replay each load, and print the distances."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5, help="length of a window")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this load alone; no results kept")
    parser.add_argument("--known", action="store_true", help="the first six loads alone")
    parser.add_argument("--scheduling", action="store_true", help="profile each load as SCHED_BATCH as well")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where to write profiles and documents")
    parser.add_argument("--guest", action="store_true", help="run it in a node VM on the newest sched_ext kernel")
    parser.add_argument("--name", default="", help="file in bench/results, without .json")
    arguments = parser.parse_args()
    result = in_guest(arguments) if arguments.guest else here(arguments)
    show(result)
    if not arguments.only and arguments.name != guest.PRINT_ALONE:
        name = arguments.name or ("twin-guest" if arguments.guest else "twin")
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=None if arguments.name == guest.PRINT_ALONE else 1))


def in_guest(arguments: argparse.Namespace) -> dict[str, Any]:
    """The result of the same program in a node VM."""
    passed = ["--seconds", str(arguments.seconds), "--seed", str(arguments.seed)]
    passed += ["--scheduling"] * arguments.scheduling + ["--known"]
    passed += [word for name in arguments.only for word in ("--only", name)]
    return guest.run(Path(__file__), passed, timeout_s=_GUEST_S)


def here(arguments: argparse.Namespace) -> dict[str, Any]:
    """All loads measured on this machine."""
    everything = LOADS if arguments.known else LOADS + LATER + FRESH
    chosen = [load for load in everything if not arguments.only or load.name in arguments.only]
    lacking = {load.name: load.missing() for load in chosen if load.missing()}
    if lacking:
        raise SystemExit(f"programs are missing: {lacking}; install them and run again")
    before = other_load()
    probes = Probes()
    first, again, replayed, loop_ns, otherwise = {}, {}, {}, {}, {}
    try:
        for load in chosen:
            first[load.name], again[load.name], document, seen, vector = measured(
                load, arguments.seconds, arguments.seed, probes
            )
            replayed[load.name] = vector
            loop_ns[load.name] = document["global"]["calibration"]
            print(f"{load.name}: {apart(first[load.name], vector):.3f}", file=sys.stderr)
            keep(arguments.keep, load.name, document, seen)
            if arguments.scheduling and load in LOADS:
                otherwise[load.name] = as_batch(load, arguments.seconds, probes)
    finally:
        probes.close()
    result = judged(first, again, replayed) | {
        "benchmark": "twin", "measured": now().isoformat(), "kernel": os.uname().release, "cpus": os.cpu_count(),
        "seconds": arguments.seconds, "features": FEATURES, "loop_ns": loop_ns,
        "conditions": conditions(before, other_load()),
    }  # fmt: skip
    for name, vector in otherwise.items():
        result["loads"][name] |= {
            "as_batch": round(apart(first[name], vector), 4),
            "differences_as_batch": {k: round(v, 3) for k, v in differences(first[name], vector).items()},
        }
    return result


def measured(
    load: Program, seconds: float, seed: int, probes: Probes
) -> tuple[WorkloadVector, WorkloadVector, dict[str, Any], list[WorkloadProfile], WorkloadVector]:
    """The load's vector twice, its twin's document, the three profiles and the replay's vector."""
    with tempfile.TemporaryDirectory(prefix="schedctl-bench-") as folder, running(load, Path(folder)) as name:
        seen = [profile(seconds, probes=probes) for _ in range(2)]
    with group("twin") as where:
        enter = ("sh", "-c", f'echo $$ > {root()}{where}/cgroup.procs && exec "$@"', "enter")
        document, replayed = twin.rehearse(seen[0], seconds, workload=name, seed=seed, enter=enter, probes=probes)
    seen.append(replayed)
    vectors = [whole(load.name, each, at) for each, at in zip(seen, (name, name, where), strict=True)]
    return vectors[0], vectors[1], document, seen, vectors[2]


def as_batch(load: Program, seconds: float, probes: Probes) -> WorkloadVector:
    """The vector of the load when it, and not its peer, is of SCHED_BATCH."""
    other = replace(load, name=f"{load.name}-batch", command=f"chrt -b 0 sh -c {shlex.quote(load.command)}")
    with tempfile.TemporaryDirectory(prefix="schedctl-bench-") as folder, running(other, Path(folder)) as name:
        return whole(load.name, profile(seconds, probes=probes), name)


def whole(name: str, seen: WorkloadProfile, workload: str) -> WorkloadVector:
    """The vector of one workload of a profile. SystemExit when it is not there or was not traced."""
    stats = seen.workload(workload)
    if stats is None or seen.observer != "bcc":
        raise SystemExit(f"{name} did not run, or bcc cannot trace: {seen.degraded or 'run its command by hand'}")
    return vector_of(name, [stats], seen)


def keep(folder: Path | None, name: str, document: dict[str, Any], seen: list[WorkloadProfile]) -> None:
    """Write the profiles and the document of a load."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.rtapp.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    for which, each in zip(("first", "again", "replay"), seen, strict=True):
        (folder / f"{name}.{which}.json").write_text(json.dumps(each.wire()), encoding="utf-8")


def judged(
    first: dict[str, WorkloadVector], again: dict[str, WorkloadVector], replayed: dict[str, WorkloadVector]
) -> dict[str, Any]:
    """All distances, and whether each replay is near enough: by the distances between those that are not fresh."""
    fresh = {load.name for load in FRESH}
    known = [name for name in first if name not in fresh]
    between = {f"{a} — {b}": round(apart(first[a], first[b]), 4) for a, b in itertools.combinations(known, 2)}
    smallest = min(between.values(), default=0.0)
    loads = {
        name: {
            "fresh": name in fresh,
            "replay": round(apart(one, replayed[name]), 4),
            "same_load_again": round(apart(one, again[name]), 4),
            "near_enough": apart(one, replayed[name]) <= smallest / 2,
            "original_features": one.features,
            "replay_features": replayed[name].features,
            "differences": {k: round(v, 3) for k, v in differences(one, replayed[name]).items()},
            "differences_same_load": {k: round(v, 3) for k, v in differences(one, again[name]).items()},
        }
        for name, one in first.items()
    }
    return {
        "loads": loads, "between": between, "smallest_between": smallest, "limit": round(smallest / 2, 4),
        "largest_replay": max(load["replay"] for load in loads.values()),
        "met": all(loads[name]["near_enough"] for name in known),
    }  # fmt: skip


def show(result: dict[str, Any]) -> None:
    """The tables, on stderr."""
    print(f"{'LOAD':<12}{'REPLAY':>8}{'AGAIN':>8}{'BATCH':>8}   MOST DIFFERENT", file=sys.stderr)
    for name, load in result["loads"].items():
        worst = sorted(load["differences"].items(), key=lambda item: -item[1])[:4]
        batch = f"{load['as_batch']:.3f}" if "as_batch" in load else "-"
        told = ", ".join(f"{feature} {value:.2f}" for feature, value in worst)
        print(f"{name:<12}{load['replay']:>8.3f}{load['same_load_again']:>8.3f}{batch:>8}   {told}", file=sys.stderr)
    nearest = sorted(result["between"].items(), key=lambda item: item[1])[:4]
    print("nearest loads: " + ", ".join(f"{pair} {value:.3f}" for pair, value in nearest), file=sys.stderr)
    print(
        f"largest replay distance {result['largest_replay']:.3f}, limit {result['limit']:.3f} (half the smallest "
        f"between loads): {'met' if result['met'] else 'NOT met'}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
