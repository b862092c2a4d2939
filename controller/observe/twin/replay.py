# SPDX-License-Identifier: Apache-2.0
"""Running a twin on this host: rt-app's speed measured, its document run, and a profile taken meanwhile."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from controller.api.profile import WorkloadProfile
from controller.api.report import Reporter, Silent
from controller.errors import InputError, ToolMissing
from controller.kernel import rtapp
from controller.observe import tracer, window
from controller.observe.names import printable

_GRACE_S = 60
_BY_HAND = "run rt-app with the document by hand and see why"
_SILENT = Silent()


def calibrate() -> float:
    """Nanoseconds that a loop of rt-app takes on this host now; a third of a second. ToolMissing without rt-app."""
    with tempfile.TemporaryDirectory(prefix="schedctl-twin-") as folder:
        _finish(_start(rtapp.calibration_document(), Path(folder), ()), Path(folder), _GRACE_S)
        rows = (Path(folder) / f"twin-{rtapp.TASK}-0.log").read_text(encoding="ascii").splitlines()
    found = rtapp.loop_ns(rows)
    if found is None:
        raise InputError("rt-app logged nothing to measure its speed by", remedy=_BY_HAND)
    return found


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
            process.wait(_GRACE_S)
            if process.returncode not in (
                0,
                -signal.SIGKILL,
            ):  # killed here: its work was not done when the window closed
                raise InputError(f"rt-app failed: {_gist(process, Path(folder))}", remedy=_BY_HAND)
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
