# SPDX-License-Identifier: Apache-2.0
"""A half of the agent in a process of its own, forked before this one has threads or has touched the kernel.

It ends after its step when this process asks it to, or dies in whatever way: both are the end of a pipe. A second
signal to this process ends it amid its step; what it had begun is put away. Signals that reach every process at once
come to the same: Ctrl-C says nothing to the half that the other does not say, and a service manager's SIGTERM ends it
after its step.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import FrameType, TracebackType
from typing import Self

from controller.api import Reporter
from controller.errors import SchedctlError

_SOON_S = 0.5


class Beside:
    """`half`, given what tells it to stop, in a process of its own; its exit code is what `half` returns."""

    def __init__(self, half: Callable[[Callable[[], bool]], int], reporter: Reporter) -> None:
        forking = multiprocessing.get_context("fork")
        theirs, self._ours = forking.Pipe(duplex=False)
        self._reporter = reporter
        self._process = forking.Process(target=_run, args=(half, theirs, self._ours, reporter), name="planner")
        self._process.start()
        theirs.close()

    @property
    def ended(self) -> bool:
        """Whether the process is over."""
        return not self._process.is_alive()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ask it to end, and wait until it has."""
        self._ours.close()
        if kind is KeyboardInterrupt:
            self._cut_off()
            return
        try:
            self._process.join(_SOON_S)
            if not self.ended:
                self._reporter.step("the planner ends after what it is doing now; a second signal ends it at once")
                self._process.join()
        except KeyboardInterrupt:
            self._cut_off()
            raise

    def _cut_off(self) -> None:
        if not self.ended and self._process.pid is not None:
            os.kill(self._process.pid, signal.SIGINT)
        self._process.join()


def _run(half: Callable[[Callable[[], bool]], int], ending: Connection, others: Connection, reporter: Reporter) -> None:
    """In the process."""
    others.close()
    received: list[int] = []
    cut_off: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        """The first SIGTERM asks; Ctrl-C means this process only when the other has asked. Nothing cuts it off twice:
        what it had begun is being put away then.
        """
        if number == signal.SIGTERM and not received:
            received.append(number)
        elif (number == signal.SIGTERM or ending.poll()) and not cut_off:
            cut_off.append(number)
            raise KeyboardInterrupt

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, note)
        code = half(lambda: bool(received) or ending.poll())
    except SchedctlError as error:
        reporter.failed(str(error))
        code = 1
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
