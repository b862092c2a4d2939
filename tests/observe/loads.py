# SPDX-License-Identifier: Apache-2.0
"""Real loads with known figures, each a process of its own under a name of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NAMED = """
import ctypes, os, sys, time
ctypes.CDLL(None).prctl(15, {name!r}, 0, 0, 0)  # PR_SET_NAME
print("up", flush=True)
"""


def waker(period_ns: int, burst_ns: int) -> str:
    """Wakes in each period and runs for the burst."""
    return f"""
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))  # so that no burst is cut in two by other tests
at = time.monotonic()
while True:
    at += {period_ns / 1e9}
    time.sleep(max(at - time.monotonic(), 0))
    end = time.monotonic_ns() + {burst_ns}
    while time.monotonic_ns() < end:
        pass
"""


WAKER = waker(10_000_000, 1_000_000)

LATE = """
os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # a waking batch task preempts nobody
while True:
    time.sleep(0.002)
"""
"""Sleeps and wakes without work: beside a hog on its CPU it waits for its turn each time."""

HOG = "while True: pass"

FORKER = """
sys.stdin.readline()
for _ in range(40):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
time.sleep(60)
"""
"""Forks 40 children when told to by a line on stdin."""

MOVER = """
cpus = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cpus[0]})
sys.stdin.readline()
for turn in range(30):
    os.sched_setaffinity(0, {cpus[(turn + 1) % 2]})
time.sleep(60)
"""
"""Moves itself to another CPU 30 times when told to by a line on stdin."""

SLEEPER = "time.sleep(60)"

PAIR = """
read, write = os.pipe()
if os.fork() == 0:
    ctypes.CDLL(None).prctl(15, b"edge-child", 0, 0, 0)
    os.close(write)
    while os.read(read, 1):
        pass
    os._exit(0)
while True:
    time.sleep(0.005)
    os.write(write, b"x")
"""
"""Wakes its child, which calls itself edge-child, every 5 ms."""

EXECER = """
program = sys.stdin.readline().strip()
for _ in range(20):
    if os.fork() == 0:
        os.execv(program, [program])
    os.wait()
time.sleep(60)
"""
"""Runs the program that a line on stdin names 20 times."""


@contextmanager
def running(name: bytes, body: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process called `name` that runs `body`, ready when this yields, gone afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", _NAMED.format(name=name) + body], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            yield process
        finally:
            process.kill()


def waited_ns(pid: int) -> int:
    """Time a single-threaded process was runnable and did not run, by the kernel's own account."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])


def cpu_ns(pid: int) -> int:
    """CPU time of a single-threaded process, by the kernel's own account."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
