# SPDX-License-Identifier: Apache-2.0
"""The observer under churn: minutes of forks, execs and cgroups that come and go, window after window.

A load forks at least 200 processes a second, some of which exec, while others are made and emptied in fresh cgroups;
beside it two workloads live all the time, one by name and one by cgroup. Kept probes take windows of 5 s one after the
other, as an agent that never rests would. Shown are

  memory    resident, of the observing process and of the one that holds bcc: the last quarter's median over the second
            quarter's (the first one warms up), flat within 3 % and 4 MB
  lost      windows in which a workload that lived was not in the profile, or had no figures
  counted   forks that the profiles hold against those the load made, within 2 %, and what was dropped
  crashes   windows that failed or fell back to /proc
  killed    after `kill -9` of the observing process, in the middle of a window: seconds until none of its programs
            is loaded or attached any more, and whether any event of tracefs is enabled that was not before

Needs root, bcc and bpftool. The table goes to stderr, JSON to stdout and to bench/results/churn.json. Exit status 1 if
a bar is not met.

    python bench/churn.py --minutes 10
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from controller.observe import cgroups
from tests.observe.loads import LATE, running

RESULTS = Path(__file__).parent / "results" / "churn.json"
WINDOW_S = 5.0
FORKS_PER_S = 200

_FORKS = """
import os, sys, time
rate, made, told = float(sys.argv[1]), 0, time.monotonic()
begin = told
while True:
    child = os.fork()
    if child == 0:
        if made % 10 == 0:
            os.execv("/bin/true", ["churn-exec"])
        os._exit(0)
    os.waitpid(child, 0)
    made += 1
    if made % 20 == 0:
        print(made, time.monotonic_ns(), flush=True)
    time.sleep(max(begin + made / rate - time.monotonic(), 0))
"""

_CGROUPS = """
import os, subprocess, sys
root, number = sys.argv[1], 0
while True:
    number += 1
    group = f"{root}/churn-{number}.service"
    os.mkdir(group)
    child = subprocess.Popen(["sleep", "0.05"])
    with open(f"{group}/cgroup.procs", "w") as file:
        try:
            file.write(str(child.pid))
        except OSError:
            pass
    child.wait()
    os.rmdir(group)
"""

_OBSERVER = """
import json, sys, time
from controller.observe import Probes, profile
probes = Probes()
while True:
    began = time.monotonic_ns()
    seen = profile(float(sys.argv[1]), probes=probes)
    names = {w.name: w.wakeups for w in seen.workloads}
    forks = sum(w.forks or 0 for w in seen.workloads if "churn-forks" in w.comms or w.name == "churn-forks")
    said = [seen.observer, seen.degraded, seen.dropped, forks, names, began, time.monotonic_ns()]
    print(json.dumps(said), flush=True)
"""


def main() -> None:
    """Churn, watch, kill, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--forks", type=float, default=300.0, help="processes a second, if the machine keeps up")
    arguments = parser.parse_args()
    root = cgroups.mount()
    if root is None or os.geteuid() != 0:
        raise SystemExit("a cgroup v2 hierarchy and root are needed")
    home = root / f"schedctl-churn-{os.getpid()}"
    home.mkdir()
    lasting = home / "lasting.service"
    lasting.mkdir()
    try:
        with running(b"churn-byname", LATE), running(b"churn-bygroup", LATE) as inside:
            (lasting / "cgroup.procs").write_text(str(inside.pid))
            result = _watch(arguments.minutes * 60, arguments.forks, home)
    finally:
        _remove(home)
    _table(result)
    text = json.dumps(result)
    print(text)
    RESULTS.write_text(text + "\n")
    raise SystemExit(0 if result["met"] else 1)


def _watch(seconds: float, rate: float, home: Path) -> dict[str, Any]:
    lasting, events = f"/{home.name}/lasting.service", _events()
    windows, memory = [], []
    with (
        running(
            b"churn-forks", f"sys.argv = ['', '{rate}']\n" + _FORKS.replace("import os, sys, time\n", "")
        ) as forker,
        _script(_CGROUPS, str(home)),
        _script(_OBSERVER, str(WINDOW_S), stdout=subprocess.PIPE, text=True) as observer,
    ):
        assert forker.stdout is not None
        assert observer.stdout is not None
        os.set_blocking(forker.stdout.fileno(), False)
        told: list[tuple[int, int]] = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            line = observer.stdout.readline()
            if not line:
                break
            windows.append(json.loads(line))
            memory.append([_rss_mb(pid) for pid in _family(observer.pid)])
            told += _told(forker)
        programs = {program for pid in _family(observer.pid) for program in _programs(pid)}
        before = _left(programs)
        gone_s = _kill(observer, programs)
        left = _left(programs) + sorted(_events() - events)
    settled = windows[1:]
    made = _made(told, settled)
    counted = sum(window[3] for window in settled)
    lost = sum(not (window[4].get("churn-byname") and window[4].get(lasting)) for window in settled)
    quarters = _quarters([sum(each) for each in memory])
    spent = (settled[-1][6] - settled[0][5]) / 1e9 if settled else 1.0
    result = {
        "benchmark": "churn",
        "kernel": os.uname().release,
        "minutes": seconds / 60,
        "windows": len(windows),
        "forks_per_s": made / spent,
        "forks_made_in_windows": made,
        "forks_counted": counted,
        "dropped": sum(window[2] for window in windows),
        "rss_mb_first": quarters[0],
        "rss_mb_last": quarters[1],
        "rss_mb": memory[-1] if memory else [],
        "windows_that_lost_a_workload": lost,
        "windows_not_by_bcc": sum(window[0] != "bcc" for window in windows),
        "left_before_kill": before,
        "left_after_kill": left,
        "gone_after_kill_s": gone_s,
    }
    flat = quarters[1] <= quarters[0] * 1.03 + 4
    result["met"] = bool(
        settled
        and flat
        and not lost
        and not result["windows_not_by_bcc"]
        and result["forks_per_s"] >= FORKS_PER_S
        and before
        and gone_s is not None
        and not left
    )
    return result


@contextlib.contextmanager
def _script(body: str, *words: str, **more: Any) -> Iterator[subprocess.Popen[Any]]:
    with subprocess.Popen([sys.executable, "-c", body, *words], **more) as process:
        try:
            yield process
        finally:
            process.kill()


def _told(forker: subprocess.Popen[bytes]) -> list[tuple[int, int]]:
    """What the forker said since it was last asked: forks made, and when."""
    assert forker.stdout is not None
    text = b""
    with contextlib.suppress(BlockingIOError):
        while chunk := os.read(forker.stdout.fileno(), 1 << 16):
            text += chunk
    pairs = (line.split() for line in text.splitlines())
    return [(int(pair[0]), int(pair[1])) for pair in pairs if len(pair) == 2]


def _made(told: list[tuple[int, int]], windows: list[Any]) -> int:
    """Forks made inside the windows: the profile call is longer than its window, which is what it ends with."""
    if len(told) < 2 or not windows:
        return 0
    (first, began), (last, ended) = told[0], told[-1]
    return round((last - first) * 1e9 / (ended - began) * WINDOW_S * len(windows))


def _family(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]
    return [pid]


def _rss_mb(pid: int) -> float:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) / 1024
    return 0.0


def _quarters(values: list[float]) -> tuple[float, float]:
    """Medians of the second and the last quarter."""
    size = max(len(values) // 4, 1)
    return statistics.median(values[size : 2 * size] or [0.0]), statistics.median(values[-size:] or [0.0])


def _programs(pid: int) -> set[int]:
    """The BPF programs that a process holds, by the kernel's id."""
    found = set()
    for file in Path(f"/proc/{pid}/fdinfo").glob("*"):
        with contextlib.suppress(OSError):
            found |= {int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith("prog_id:")}
    return found


def _left(programs: set[int]) -> list[str]:
    """Which of the programs are still loaded, linked or attached to a perf event."""
    found = []
    for kind, key in (("prog", "id"), ("link", "prog_id"), ("perf", "prog_id")):
        shown = subprocess.run(["bpftool", "-j", kind, "show"], capture_output=True, text=True)
        found += [f"{kind} {each[key]}" for each in json.loads(shown.stdout or "[]") if each.get(key) in programs]
    return found


def _events() -> set[str]:
    """The events that are enabled in tracefs."""
    return set(Path("/sys/kernel/tracing/set_event").read_text().split())


def _kill(observer: subprocess.Popen[Any], programs: set[int]) -> float | None:
    """kill -9 in the middle of a window; seconds until nothing of it is left, None when that took over 30."""
    time.sleep(WINDOW_S / 2)
    observer.send_signal(signal.SIGKILL)
    began = time.monotonic()
    while time.monotonic() < began + 30:
        if not _left(programs):
            return time.monotonic() - began
        time.sleep(0.05)
    return None


def _remove(folder: Path) -> None:
    for _attempt in range(100):
        with contextlib.suppress(OSError):
            for below in [path for path in folder.iterdir() if path.is_dir()]:
                below.rmdir()
            folder.rmdir()
            return
        time.sleep(0.1)


def _table(result: dict[str, Any]) -> None:
    for name, value in result.items():
        if isinstance(value, float):
            value = f"{value:.2f}"
        elif isinstance(value, list):
            value = len(value) if value and isinstance(value[0], str) else [round(each, 1) for each in value]
        print(f"{name:<30}{value}", file=sys.stderr)


if __name__ == "__main__":
    main()
