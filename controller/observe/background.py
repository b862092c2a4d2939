# SPDX-License-Identifier: Apache-2.0
"""Continuous observation beside whatever else the agent does.

A window takes its length, and on a loaded machine up to two minutes more while bcc compiles: just when a scheduler may
have to be taken away. So each has a thread of its own and the agent only asks, at every pass, what has been seen since.
Nothing but the window runs in that thread: what comes of it is taken in by the one that asks.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from controller.api.intent import SchedulingIntent, sought_digest
from controller.observe.continuous import Continuous, Seen, Steadiness

_LET_GO_S = 1.0
"""A thread whose process was killed is away from its pipes in milliseconds; one that reads /proc holds nothing."""


class Background:
    """Windows of `watch`, one at a time. For one thread."""

    def __init__(self, watch: Continuous) -> None:
        self._watch = watch
        self._open: _Window | None = None
        self._covered: str | None = None
        self.steadiness: Steadiness = watch.steadiness
        """As of the newest window that was taken in."""

    def poll(self, node: str, intents: Sequence[SchedulingIntent]) -> Seen | None:
        """What the window has seen that closed since the last call, if one has; one that is due is opened.

        Whatever an observation could not cope with itself is raised here.
        """
        seen = None
        if self.closed:
            assert self._open is not None
            window, self._open = self._open, None
            seen = window.seen()
            self._covered, self.steadiness = window.wanted, self._watch.steadiness
        if self._open is None and self._watch.due(intents):
            self._open = _Window(self._watch, node, tuple(intents))
            self._open.start()
        return seen

    def covers(self, intents: Sequence[SchedulingIntent]) -> bool:
        """Whether the newest window that was taken in looked for just these intents."""
        return self._covered == sought_digest(intents)

    def seeks(self, intents: Sequence[SchedulingIntent]) -> bool:
        """Whether a window is open that looks for just these intents."""
        return self._open is not None and self._open.wanted == sought_digest(intents)

    @property
    def closed(self) -> bool:
        """Whether a window has closed that `poll` will tell of."""
        return self._open is not None and not self._open.is_alive()

    def close(self) -> None:
        """Let the probes go, also amid a window, of which nobody is told any more. A second at most."""
        if self._open is not None:
            self._watch.interrupt()
            self._open.join(_LET_GO_S)
        self._watch.close()


class _Window(threading.Thread):
    """One window. A daemon: a process that ends does not wait for it."""

    def __init__(self, watch: Continuous, node: str, intents: Sequence[SchedulingIntent]) -> None:
        super().__init__(name="observe", daemon=True)
        self.wanted = sought_digest(intents)
        self._watch, self._node, self._intents = watch, node, intents
        self._seen: Seen | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """In the thread."""
        try:
            self._seen = self._watch.observe(self._node, self._intents)
        except BaseException as error:  # noqa: BLE001 - whoever asks gets it
            self._error = error

    def seen(self) -> Seen:
        """What it has seen, once it is over."""
        if self._error is not None:
            raise self._error
        assert self._seen is not None
        return self._seen
