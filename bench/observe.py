# SPDX-License-Identifier: Apache-2.0
"""What observing costs: an open window, continuous mode, and the observer's memory.

Three loads, each on one CPU: hackbench as it comes (400 tasks, 100 bytes a message); hackbench over pipes with 16 KiB a
message, which switches for each (an ordinary one passes many messages in one stay on a CPU); and `perf bench sched
pipe`, whose switches do no work at all, as the worst case. Pairs of runs, window shut and window open, in ABBA order so
that drift cancels; the ratio of each pair is resampled (bootstrap) for a 95 % interval. A/A pairs of the same length
show what the machine's own noise looks like. The load's CPU time is compared, not its wall time, which on a shared
machine says more about the neighbours; the probes run in the load's own context, so they are in it. Continuous mode
runs its windows at the default share of the time (5 s in 60 s), shortened to 1 s in 12 s unless --real is given. One
more run asks the kernel what each probe took (kernel.bpf_stats_enabled). The sizes run beside 10, 1,000 and 10,000
threads that wake ten times a second, but at most 10,000 times together. Memory is what the observing process and the
one that holds bcc have resident.

Needs root, bcc, bpftool, a C compiler, perf and rt-tests. The table goes to stderr, JSON to stdout and to
bench/results/observe-overhead.json.

    python bench/observe.py --pairs 12
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from controller.observe import Probes

RESULTS = Path(__file__).parent / "results" / "observe-overhead.json"
DUTY_S, PERIOD_S = 5.0, 60.0
SIZES = (10, 1_000, 10_000)

_AGENT = """
import sys, time
import controller.reconcile.agent
from controller.observe import Probes, profile
probes = Probes()
for _ in range(3):
    seen = profile(0.5, probes=probes, force_procfs=sys.argv[1] == "procfs")
print(seen.observer, seen.dropped, flush=True)
time.sleep(600)
"""

_SLEEPERS = r"""
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
static long pause_us;
static void *sleeper(void *nothing)
{
	for (;;)
		usleep(pause_us);
	return nothing;
}
int main(int count, char **words)
{
	pthread_attr_t small;
	pthread_t thread;
	long wanted = atol(words[1]);

	pause_us = wanted > 1000 ? wanted * 100 : 100000;
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 16384);
	for (long i = 0; i < wanted; i++)
		if (pthread_create(&thread, &small, sleeper, NULL))
			return 1;
	puts("up");
	fflush(stdout);
	pause();
	return count;
}
"""


def main() -> None:
    """Run the parts and print what they say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=8, help="pairs of runs, window shut and open")
    parser.add_argument("--loops", type=int, default=5_000, help="messages per sender and receiver of hackbench")
    parser.add_argument("--pipe-loops", type=int, default=100_000, help="round trips of perf bench sched pipe")
    parser.add_argument("--plain-loops", type=int, default=120, help="messages of hackbench as it comes")
    parser.add_argument("--duty-pairs", type=int, default=4, help="pairs of runs with and without continuous mode")
    parser.add_argument("--real", action="store_true", help="continuous mode of 5 s in 60 s, a minute a run")
    parser.add_argument(
        "--only", choices=("window", "duty", "sizes", "memory"), help="one part alone; the others' results are kept"
    )
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    result: dict[str, Any] = {"benchmark": "observe", "kernel": os.uname().release}
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "window": lambda: _window_part(arguments),
        "duty": lambda: _duty_part(arguments.duty_pairs, arguments.real),
        "sizes": lambda: {"sizes": [_size(tasks, arguments.loops) for tasks in SIZES]},
        "memory": lambda: {"rss_mb": {observer: _agent_rss(observer) for observer in ("bcc", "procfs")}},
    }
    for name, part in parts.items():
        if arguments.only in (None, name):
            result |= part()
    _table(result)
    print(json.dumps(result))
    known = json.loads(RESULTS.read_text()) if arguments.only is not None and RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(known | result) + "\n")


def _window_part(arguments: argparse.Namespace) -> dict[str, Any]:
    pairs = arguments.pairs
    found: dict[str, Any] = {"pairs": pairs}
    loads = {
        "hackbench_plain": lambda: _cost(["hackbench", "-l", str(arguments.plain_loops)]),
        "hackbench": lambda: hackbench(arguments.loops),
        "sched_pipe": lambda: sched_pipe(arguments.pipe_loops),
    }
    for name, load in loads.items():
        load()  # warm-up
        with contextlib.closing(Windows()) as windows:
            noise, cost, extra = [], [], []
            for pair in range(pairs):
                noise.append(_pair(load, contextlib.nullcontext, swap=pair % 2 == 1)[0])
                ratio, each = _pair(load, windows.open, swap=pair % 2 == 1)
                cost.append(ratio)
                extra.append(each)
            found[name] = {
                "shut_over_shut": interval(noise),
                "open_over_shut": interval(cost),
                "extra_ns_per_switch": interval(extra),
                "probe_ns": windows.probe_ns(load),
            }
    return found


def _duty_part(pairs: int, real: bool) -> dict[str, Any]:
    scale = 1.0 if real else 0.2
    window, period = DUTY_S * scale, PERIOD_S * scale
    with contextlib.closing(Windows()) as windows:
        with windows.open():
            pass  # compiled once, as the agent does
        each = hackbench(2_000)[0] / 2_000
        loops = int(period / each)

        @contextlib.contextmanager
        def continuous() -> Iterator[None]:
            stop = threading.Event()

            def work() -> None:
                while not stop.is_set():
                    began = time.monotonic()
                    windows.take(window)
                    stop.wait(max(period - (time.monotonic() - began), 0))

            thread = threading.Thread(target=work)
            thread.start()
            yield
            stop.set()
            thread.join()

        ratios = [_pair(lambda: hackbench(loops), continuous, swap=pair % 2 == 1)[0] for pair in range(pairs)]
    return {"continuous": {"window_s": window, "period_s": period, "on_over_off": interval(ratios)}}


def _size(tasks: int, loops: int) -> dict[str, Any]:
    """Figures beside `tasks` threads that wake now and then."""
    with _sleepers(tasks), contextlib.closing(Windows()) as windows:
        with windows.open():
            pass
        ratios = [_pair(lambda: hackbench(loops), windows.open, swap=pair % 2 == 1)[0] for pair in range(5)]
        seen, took = windows.take(2.0)
    return {
        "tasks": tasks,
        "open_over_shut": interval(ratios),
        "tasks_seen": seen["tasks"],
        "dropped": seen["dropped"],
        "beside_the_window_s": took - 2.0,
    }


@contextlib.contextmanager
def _sleepers(tasks: int) -> Iterator[None]:
    compiler = next(filter(None, map(shutil.which, ("cc", "clang", "clang-19"))), None)
    if compiler is None:
        raise SystemExit("a C compiler is needed; run `make setup`")
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder) / "sleepers.c", Path(folder) / "bench-sleepers"
        source.write_text(_SLEEPERS)
        subprocess.run([compiler, "-O1", "-pthread", "-w", "-o", program, source], check=True)
        with subprocess.Popen([program, str(tasks)], stdout=subprocess.PIPE, text=True) as process:
            try:
                if process.stdout is None or process.stdout.readline() != "up\n":
                    raise SystemExit(f"{tasks} threads could not be made")
                yield
            finally:
                process.kill()


class Windows:
    """Observation windows of kept probes, opened and closed around a load."""

    def __init__(self) -> None:
        self._probes = Probes()
        self._length = 1.0

    def take(self, seconds: float) -> tuple[dict[str, int], float]:
        """One whole window: what it saw, and how long the call took."""
        began = time.monotonic()
        seen = self._probes.observe(seconds)
        took = time.monotonic() - began
        return {"tasks": sum(sample.tasks for sample in seen.samples.values()), "dropped": seen.dropped}, took

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """A window that is open for all of the body; its length is that of the body before, and some."""
        opened, began = threading.Event(), 0.0
        thread = threading.Thread(target=self._probes.observe, args=(self._length, opened.set))
        thread.start()
        if not opened.wait(120):
            raise SystemExit("no window could be opened; see `schedctl observe`")
        began = time.monotonic()
        yield
        took = time.monotonic() - began
        if took > self._length:
            print(f"window of {self._length:.1f} s closed before the load ended ({took:.1f} s)", file=sys.stderr)
        if took > 0.05:
            self._length = took * 1.3 + 0.2
        thread.join()

    def probe_ns(self, load: Callable[[], object]) -> dict[str, tuple[float, int]]:
        """Probe → nanoseconds a run and number of runs, by the kernel's own clock (which adds some 50 ns to each)."""
        switch = Path("/proc/sys/kernel/bpf_stats_enabled")
        was = switch.read_text()
        switch.write_text("1")
        try:
            before = _probe_stats()
            with self.open():
                load()
            after = _probe_stats()
        finally:
            switch.write_text(was)
        found = {}
        for number, (name, time_ns, runs) in after.items():
            _name, time_then, runs_then = before.get(number, (name, 0, 0))
            if runs > runs_then:
                found[name] = ((time_ns - time_then) / (runs - runs_then), runs - runs_then)
        return dict(sorted(found.items()))

    def close(self) -> None:
        """End the probes."""
        self._probes.close()


def _probe_stats() -> dict[str, tuple[str, int, int]]:
    """Program id → name, nanoseconds, runs of the probes that are loaded."""
    shown = subprocess.run(["bpftool", "-j", "prog", "show"], check=True, capture_output=True)
    found = {}
    for program in json.loads(shown.stdout):
        if program.get("type") == "raw_tracepoint":
            name = str(program["name"]).removeprefix("raw_tracepoint__")
            found[str(program["id"])] = name, int(program.get("run_time_ns", 0)), int(program.get("run_cnt", 0))
    return found


def _pair(
    load: Callable[[], tuple[float, int]], second: Callable[[], contextlib.AbstractContextManager[None]], *, swap: bool
) -> tuple[float, float]:
    """CPU time of the run inside `second` over the other's, and the extra nanoseconds a switch, of one pair."""
    runs = {}
    for run in (1, 0) if swap else (0, 1):
        with second() if run == 1 else contextlib.nullcontext():
            runs[run] = load()
    (shut, _), (opened, switches) = runs[0], runs[1]
    return opened / shut, (opened - shut) * 1e9 / switches


def hackbench(loops: int) -> tuple[float, int]:
    """CPU seconds and context switches of one run and its children."""
    # A message of 16 KiB fills a pipe after four: smaller ones go in batches, with hardly a switch.
    return _cost(["hackbench", "--pipe", "-s", "16384", "-g", "1", "-f", "5", "-l", str(loops)])


def sched_pipe(loops: int) -> tuple[float, int]:
    """The same of perf bench sched pipe: two processes that pass a word to and fro."""
    return _cost(["perf", "bench", "sched", "pipe", "-l", str(loops)])


def _cost(command: list[str]) -> tuple[float, int]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, after.ru_nvcsw + after.ru_nivcsw - before.ru_nvcsw - before.ru_nivcsw


def _agent_rss(observer: str) -> float:
    """MB resident in a process with the agent's modules that took three windows, and in its children."""
    command = [sys.executable, "-c", _AGENT, observer]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None or not process.stdout.readline().startswith(observer):
                raise SystemExit(f"no window by {observer}; see `schedctl observe`")
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            return sum(_rss_mb(pid) for pid in [str(process.pid), *children])
        finally:
            process.kill()


def _rss_mb(pid: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def interval(values: list[float]) -> tuple[float, float, float]:
    """Low, median and high of the bootstrapped median at 95 %."""
    dice = random.Random(1)
    medians = sorted(statistics.median(dice.choices(values, k=len(values))) for _ in range(2000))
    return medians[50], statistics.median(values), medians[1949]


def _table(result: dict[str, Any]) -> None:
    def line(name: str, values: tuple[float, float, float]) -> None:
        low, middle, high = values
        print(f"{name:<36}{middle:>10.3f}   95% [{low:.3f}, {high:.3f}]", file=sys.stderr)

    for load in ("hackbench_plain", "hackbench", "sched_pipe"):
        for name, values in result.get(load, {}).items():
            if name == "probe_ns":
                for probe, (each, runs) in values.items():
                    print(f"  {probe:<34}{each:>10.0f}   ns a run, {runs} runs", file=sys.stderr)
            else:
                line(f"{load} {name}", values)
    if "continuous" in result:
        line("continuous on_over_off", result["continuous"]["on_over_off"])
    for size in result.get("sizes", ()):
        line(f"{size['tasks']} tasks open_over_shut", size["open_over_shut"])
        seen, dropped, beside = size["tasks_seen"], size["dropped"], size["beside_the_window_s"]
        print(f"  {seen} tasks seen, {dropped} dropped, {beside:.2f} s beside the window", file=sys.stderr)
    for observer, megabytes in result.get("rss_mb", {}).items():
        print(f"{'agent RSS, ' + observer:<36}{megabytes:>10.1f}   MB", file=sys.stderr)


if __name__ == "__main__":
    main()
