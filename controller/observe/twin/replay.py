# SPDX-License-Identifier: Apache-2.0
"""Running a twin on this host: rt-app's speed measured, its document run, and a profile taken meanwhile."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from controller.api.profile import WorkloadProfile
from controller.api.report import Reporter, Silent
from controller.errors import InputError, ToolMissing
from controller.observe import tracer, window

_STEP = 10
_WORK_US = 20_000
_TIMES = 25
_GRACE_S = 60
_SILENT = Silent()


def calibrate() -> float:
    """Nanoseconds that one of rt-app's loops takes on this host now; half a second. ToolMissing without rt-app."""
    document = {
        "global": {"duration": -1, "calibration": _STEP, "log_size": 1, "lock_pages": False},
        "tasks": {"work": {"loop": 1, "phases": {"work": {"loop": _TIMES, "run": _WORK_US}}}},
    }
    with tempfile.TemporaryDirectory(prefix="schedctl-twin-") as folder:
        process = _start(document, Path(folder), ())
        _finish(process, _GRACE_S)
        rows = (Path(folder) / "twin-work-0.log").read_text(encoding="ascii").splitlines()
    return loop_ns(rows, _STEP, _WORK_US)


def loop_ns(rows: Sequence[str], step: int, work_us: int) -> float:
    """From the rows of rt-app's log for runs of `work_us` with a calibration of `step`: nanoseconds a loop.

    The median: on a machine that does other things as well a mean would take them for work.
    """
    took = [int(row.split()[2]) for row in rows if row.split() and row.split()[0].isdigit()]
    if not took:
        raise InputError("rt-app logged nothing to measure its speed by", remedy="run rt-app by hand and see why")
    return step * statistics.median(took) / work_us


def replay(
    document: dict[str, Any],
    seconds: float,
    *,
    enter: Sequence[str] = (),
    probes: tracer.Probes | None = None,
    reporter: Reporter = _SILENT,
) -> WorkloadProfile:
    """Runs the document from the moment a window of `seconds` opens, and gives the window's profile.

    `enter` is a command that starts rt-app in another place (`chrt -b 0`, a wrapper that enters a cgroup). ToolMissing
    without rt-app, InputError when it fails.
    """
    with tempfile.TemporaryDirectory(prefix="schedctl-twin-") as folder:
        started: list[subprocess.Popen[str]] = []
        begin = _AtOpening(reporter, lambda: started.append(_start(document, Path(folder), enter)))
        try:
            seen = window.profile(seconds, reporter=begin, probes=probes)
        finally:
            for process in started:
                if process.poll() is None:
                    process.kill()
        for process in started:
            if process.wait(_GRACE_S) not in (0, -9):
                raise InputError(f"rt-app failed: {_gist(process)}", remedy="run rt-app with the document by hand")
    return seen


class _AtOpening:
    """A reporter that passes everything on, and calls `then` when the window opens."""

    def __init__(self, reporter: Reporter, then: Callable[[], None]) -> None:
        self._reporter = reporter
        self._then = then

    def step(self, text: str) -> None:
        """The window announces that it is open, by whichever observer."""
        self._reporter.step(text)
        if text.startswith(("tracing", "reading /proc")):
            self._then()

    def done(self, text: str) -> None:
        """Passed on."""
        self._reporter.done(text)

    def failed(self, text: str) -> None:
        """Passed on."""
        self._reporter.failed(text)


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


def _finish(process: subprocess.Popen[str], seconds: float) -> None:
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise InputError("rt-app did not end", remedy="run it by hand and see why") from None
    if code != 0:
        raise InputError(f"rt-app failed: {_gist(process)}", remedy="run it by hand and see why")


def _gist(process: subprocess.Popen[str]) -> str:
    return f"exit status {process.returncode}"
