# SPDX-License-Identifier: Apache-2.0
"""Running a twin on this host: rt-app's speed measured, its document run, and a profile taken meanwhile."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from controller.api.profile import WorkloadProfile
from controller.api.report import Reporter, Silent
from controller.errors import InputError, ToolMissing
from controller.kernel import rtapp as speed_of
from controller.observe import tracer, window
from controller.observe.names import printable
from controller.observe.twin.document import rtapp

SETTLE_S = 0.5
_GRACE_S = 60
_BY_HAND = "run rt-app with the document by hand and see why"
_SILENT = Silent()


def calibrate() -> float:
    """Nanoseconds that a loop of rt-app takes on this host now; a third of a second. ToolMissing without rt-app."""
    with tempfile.TemporaryDirectory(prefix="schedctl-twin-") as folder:
        _finish(_start(speed_of.calibration_document(), Path(folder), ()), Path(folder), _GRACE_S)
        rows = (Path(folder) / f"twin-{speed_of.TASK}-0.log").read_text(encoding="ascii").splitlines()
    found = speed_of.loop_ns(rows)
    if found is None:
        raise InputError("rt-app logged nothing to measure its speed by", remedy=_BY_HAND)
    return found


def rehearse(
    profile: WorkloadProfile,
    seconds: float,
    *,
    workload: str | None = None,
    seed: int = 0,
    cpus: int | None = None,
    enter: Sequence[str] = (),
    probes: tracer.Probes | None = None,
    reporter: Reporter = _SILENT,
) -> tuple[dict[str, Any], WorkloadProfile]:
    """Measures rt-app's speed, twins the profile for this host and replays it: the document and its profile.

    `cpus` as for `rtapp`, the others as for `replay`, whose errors and those of `rtapp` are raised.
    """
    reporter.step("measuring rt-app's speed")
    speed = calibrate()

    def made_for(length: float) -> dict[str, Any]:
        return rtapp(profile, workload=workload, seed=seed, cpus=cpus, seconds=length, loop_ns=speed)

    made = made_for(seconds)
    if not comes_and_goes(made, seconds):
        made = made_for(seconds + 2 * SETTLE_S)
    reporter.step(f"running the twin for {seconds:g}s")
    return made, replay(made, seconds, enter=enter, probes=probes, reporter=reporter)


def replay(
    document: dict[str, Any],
    seconds: float,
    *,
    enter: Sequence[str] = (),
    probes: tracer.Probes | None = None,
    reporter: Reporter = _SILENT,
) -> WorkloadProfile:
    """Runs the document and profiles `seconds` of it.

    The window opens SETTLE_S after the threads have started, so the document should be that much longer; except where
    most threads come and go: then at the start, since that is when rt-app makes them. `enter` is a command that starts
    rt-app in another place (`chrt -b 0`, a wrapper that enters a cgroup). ToolMissing without rt-app, InputError when
    it fails.
    """
    own = probes or tracer.Probes()
    try:
        window.profile(window.MIN_SECONDS, probes=own)  # compiles the probes, so that the next window opens at once
        with tempfile.TemporaryDirectory(prefix="schedctl-twin-") as folder:
            process = _start(document, Path(folder), enter)
            try:
                if not comes_and_goes(document, seconds):
                    time.sleep(SETTLE_S)
                seen = window.profile(seconds, reporter=reporter, probes=own)
            finally:
                killed = process.poll() is None  # its work was not done when the window closed
                if killed:
                    process.kill()
                process.wait(_GRACE_S)
            if not killed and process.returncode != 0:
                raise InputError(f"rt-app failed: {_gist(process, Path(folder))}", remedy=_BY_HAND)
    finally:
        if probes is None:
            own.close()
    return seen


def comes_and_goes(document: dict[str, Any], seconds: float) -> bool:
    """Whether most threads of the document live for less than half of the time."""
    lives = [_life_us(task) for task in document["tasks"].values()]
    return 2 * sum(life < 5e5 * seconds for life in lives) > len(lives)


def _life_us(task: dict[str, Any]) -> float:
    """How long a thread lives once it has begun, if nothing holds it up; one of a pair lives as long as its partner."""
    life = 0
    for phase in task["phases"].values():
        if "sync" in phase or "barrier" in phase:
            return math.inf
        once = phase["timer"]["period"] if "timer" in phase else phase.get("run", 0) + phase.get("sleep", 0)
        life += int(phase.get("loop", 1)) * int(once)
    return float(int(task["loop"]) * life)


def _start(document: dict[str, Any], folder: Path, enter: Sequence[str]) -> subprocess.Popen[str]:
    program = shutil.which("rt-app")
    if program is None:
        raise ToolMissing("cannot run a twin: no rt-app", remedy="apt-get install rt-app")
    everything = {**document["global"], "logdir": str(folder), "log_basename": "twin"}
    path = folder / "twin.json"
    path.write_text(json.dumps({**document, "global": everything}), encoding="utf-8")
    with (folder / "output").open("w") as output:
        return subprocess.Popen(
            [*enter, program, str(path)], stdin=subprocess.DEVNULL, stdout=output, stderr=output, text=True
        )


def _finish(process: subprocess.Popen[str], folder: Path, seconds: float) -> None:
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise InputError("rt-app did not end", remedy=_BY_HAND) from None
    if code != 0:
        raise InputError(f"rt-app failed: {_gist(process, folder)}", remedy=_BY_HAND)


def _gist(process: subprocess.Popen[str], folder: Path) -> str:
    """The last line that rt-app printed."""
    lines = (folder / "output").read_text(encoding="utf-8", errors="replace").split("\n")
    return next(
        (printable(line.encode(), 300) for line in reversed(lines) if line.strip()), f"exit status {process.returncode}"
    )
