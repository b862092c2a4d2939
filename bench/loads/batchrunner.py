# SPDX-License-Identifier: Apache-2.0
"""Runs batches of jobs in a node VM, under the kernel's own scheduler or a given one; by bench/batch.py, as a script.

A request is a JSON document on stdin: `scripts` to run first, `runs`, each `{arm, jobs, seed}`, in groups of `block`,
for `seconds` at most (no group is begun later). `object` (base64) is the scheduler of arm `template`, `classes` the
number of the class that each group of jobs is. For each run one JSON line on stdout: nanoseconds from the start to each
job's end, and its CPU time.

The jobs of a group are in a cgroup of their own. It has no cpu controller: under the kernel's own scheduler all jobs of
the batch then share alike, as they do when a shell starts them. Every program is started under a name made of random
letters, new in each run, so that no scheduler can know a job by its name.
"""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CGROUP = Path("/sys/fs/cgroup/batch")
FOLDER = Path("/tmp/schedctl-batch")  # noqa: S108 - the guest's own
ENVIRONMENT = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "HOME": "/root", "GIT_CONFIG_NOSYSTEM": "1"}
CLASS_SET_BYTES = 32


def disguised(argv: list[str], chance: random.Random) -> tuple[str, list[str]]:
    """A link of a random name to the program, and the arguments. The kernel names a process after the link."""
    name = "x" + "".join(chance.choices("bdfhkmpqrtvw2345678", k=9))
    link = FOLDER / "bin" / name
    link.symlink_to(shutil.which(argv[0]) or argv[0])
    return str(link), [name, *argv[1:]]


def become(job: dict[str, Any], link: str, argv: list[str], number: int, gate: int, started: int, opened: int) -> None:
    """In the child: enter the cgroup, wait until all are let go at once, become the program."""
    os.close(opened)
    (CGROUP / job["group"] / "cgroup.procs").write_text("0")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.read(gate, 1)  # its other end is closed: nothing comes
    os.write(started, struct.pack("<IQ", number, time.process_time_ns()))
    os.execve(link, argv, ENVIRONMENT)  # noqa: S606


def run(jobs: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """All jobs at once; of each its group, when it ended, its CPU time as the program, and its exit code."""
    chance = random.Random(seed)
    shutil.rmtree(FOLDER / "bin", ignore_errors=True)
    (FOLDER / "bin").mkdir(parents=True)
    before = [job["before"] for job in jobs if job["before"]]
    if before:
        subprocess.run(["sh", "-ec", "\n".join(before)], check=True, env=ENVIRONMENT)
    gate, opened = os.pipe()
    told, started = os.pipe()
    numbers: dict[int, int] = {}
    for number, job in enumerate(jobs):
        link, argv = disguised(job["argv"], chance)
        pid = os.fork()
        if pid == 0:
            try:
                become(job, link, argv, number, gate, started, opened)
            finally:
                os._exit(127)
        numbers[pid] = number
    time.sleep(0.05)
    begun = time.monotonic_ns()
    os.close(opened)
    ended: dict[int, dict[str, Any]] = {}
    while len(ended) < len(jobs):
        pid, status, usage = os.wait4(-1, 0)
        if pid in numbers:
            at = time.monotonic_ns() - begun
            used = round(1e9 * (usage.ru_utime + usage.ru_stime))
            code = os.waitstatus_to_exitcode(status)
            ended[numbers[pid]] = {"group": jobs[numbers[pid]]["group"], "end_ns": at, "cpu_ns": used, "code": code}
    os.close(started)
    for number, earlier in struct.iter_unpack("<IQ", os.read(told, 1 << 16)):
        ended[number]["cpu_ns"] -= earlier
    os.close(told)
    os.close(gate)
    for job in FOLDER.glob("job*"):
        shutil.rmtree(job)
    return [ended[number] for number in range(len(jobs))]


def enter(scheduler: Any, classes: dict[str, int]) -> None:
    """Tell the scheduler, as a node does, which class each cgroup is."""
    for group, number in classes.items():
        key = struct.pack("<Q", (CGROUP / group).stat().st_ino)
        scheduler.map_update("schedctl_cgroups", key, (1 << number).to_bytes(CLASS_SET_BYTES, "little"))
    scheduler.map_update("schedctl_control", bytes(4), struct.pack("<Q", 1))


def main() -> None:
    """Serve one request."""
    request = json.load(sys.stdin)
    end = time.monotonic() + request["seconds"]
    FOLDER.mkdir(exist_ok=True)
    for group in {job["group"] for each in request["runs"] for job in each["jobs"]}:
        (CGROUP / group).mkdir(parents=True, exist_ok=True)
    for script in request["scripts"]:
        subprocess.run(["sh", "-ec", script], check=True, env=ENVIRONMENT)
    scheduler = None
    if request.get("object"):
        from controller.kernel.loader import Scheduler

        scheduler = Scheduler.load(base64.b64decode(request["object"]))
        enter(scheduler, request["classes"])
    for number, each in enumerate(request["runs"]):
        if number % request["block"] == 0 and time.monotonic() > end:
            break
        if scheduler is not None:
            if each["arm"] == "template" and not scheduler.attached:
                scheduler.attach()
            elif each["arm"] != "template":
                scheduler.detach()
        answer: dict[str, Any] = {"arm": each["arm"], "jobs": run(each["jobs"], each["seed"])}
        if scheduler is not None and scheduler.attached:
            status = scheduler.status()
            if status.exit is not None or not status.runs(scheduler.report.ops_name):
                answer["left"] = f"{status.exit}"
        print(json.dumps(answer), flush=True)
    if scheduler is not None:
        scheduler.close()


if __name__ == "__main__":
    main()
