# SPDX-License-Identifier: Apache-2.0
"""What an open observation window costs a load that does little else than switch (hackbench over pipes, on one CPU).

Pairs of runs, window shut and window open, in ABBA order so that drift cancels; the ratio of each pair is resampled
(bootstrap) for a 95 % interval. A/A pairs of the same length show what the machine's own noise looks like. The load's
CPU time is compared, not its wall time, which on a shared machine says more about the neighbours; the probes run in the
load's own context, so they are in it. One more run asks the kernel what each probe took (kernel.bpf_stats_enabled).
Needs root, bcc, bpftool and rt-tests. The table goes to stderr, JSON to stdout.

    python bench/observe.py --pairs 12
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_WINDOW = """
from controller.observe.tracer import observe
observe(3600, ready=lambda: print("open", flush=True))
"""


def main() -> None:
    """Run the pairs and print what they say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=12, help="pairs of runs")
    parser.add_argument("--loops", type=int, default=8_000, help="messages per sender and receiver of hackbench")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    hackbench(arguments.loops)  # warm-up
    noise, cost, switches = [], [], []
    for pair in range(arguments.pairs):
        noise.append(_ratio(arguments.loops, second_open=False, swap=pair % 2 == 1)[0])
        ratio, extra = _ratio(arguments.loops, second_open=True, swap=pair % 2 == 1)
        cost.append(ratio)
        switches.append(extra)
    result = {
        "benchmark": "observe",
        "kernel": os.uname().release,
        "pairs": arguments.pairs,
        "loops": arguments.loops,
        "window_shut_over_shut": interval(noise),
        "window_open_over_shut": interval(cost),
        "extra_ns_per_switch": interval(switches),
        "probe_ns": probe_ns(arguments.loops),
    }
    for name in ("window_shut_over_shut", "window_open_over_shut", "extra_ns_per_switch"):
        low, middle, high = result[name]
        print(f"{name:<24}{middle:>10.3f}   95% [{low:.3f}, {high:.3f}]", file=sys.stderr)
    for name, (each, runs) in result["probe_ns"].items():
        print(f"{name:<24}{each:>10.0f}   ns a run, {runs} runs", file=sys.stderr)
    print(json.dumps(result))


def _ratio(loops: int, *, second_open: bool, swap: bool) -> tuple[float, float]:
    """CPU time of the second run over the first's, and the extra nanoseconds a switch, of one pair."""
    runs = {}
    for run in (1, 0) if swap else (0, 1):
        with window() if run == 1 and second_open else contextlib.nullcontext():
            runs[run] = hackbench(loops)
    (shut, _), (opened, switches) = runs[0], runs[1]
    return opened / shut, (opened - shut) * 1e9 / switches


def hackbench(loops: int) -> tuple[float, int]:
    """CPU seconds and context switches of one run and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # A message of 16 KiB fills a pipe after four: smaller ones go in batches, with hardly a switch.
    command = ["hackbench", "--pipe", "-s", "16384", "-g", "1", "-f", "5", "-l", str(loops)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, after.ru_nvcsw + after.ru_nivcsw - before.ru_nvcsw - before.ru_nivcsw


def probe_ns(loops: int) -> dict[str, tuple[float, int]]:
    """Probe → nanoseconds a run and number of runs, by the kernel's own clock (which adds some 50 ns to each)."""
    switch = Path("/proc/sys/kernel/bpf_stats_enabled")
    was = switch.read_text()
    with window() as process:
        switch.write_text("1")
        try:
            hackbench(loops)
            return dict(sorted(_probe_stats(process.pid).items()))
        finally:
            switch.write_text(was)


def _probe_stats(observer: int) -> dict[str, tuple[float, int]]:
    (child,) = Path(f"/proc/{observer}/task/{observer}/children").read_text().split()
    found = {}
    for info in Path(f"/proc/{child}/fdinfo").iterdir():
        fields = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        if int(fields.get("run_cnt", "0")):
            runs = int(fields["run_cnt"])
            found[_probe_name(fields["prog_id"].strip())] = int(fields["run_time_ns"]) / runs, runs
    return found


def _probe_name(number: str) -> str:
    shown = subprocess.run(["bpftool", "-j", "prog", "show", "id", number], check=True, capture_output=True)
    return str(json.loads(shown.stdout)["name"]).removeprefix("tracepoint__sched__")


@contextlib.contextmanager
def window() -> Iterator[subprocess.Popen[str]]:
    """An observation window, open when this yields."""
    with subprocess.Popen([sys.executable, "-c", _WINDOW], stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None or process.stdout.readline() != "open\n":
                raise SystemExit("no window could be opened; see `schedctl observe`")
            yield process
        finally:
            process.kill()


def interval(values: list[float]) -> tuple[float, float, float]:
    """Low, median and high of the bootstrapped median at 95 %."""
    dice = random.Random(1)
    medians = sorted(statistics.median(dice.choices(values, k=len(values))) for _ in range(2000))
    return medians[50], statistics.median(values), medians[1949]


if __name__ == "__main__":
    main()
