# SPDX-License-Identifier: Apache-2.0
"""A terminal for a view that redraws itself: the alternate screen, keys as they are typed, and the way back.

Plain ANSI, which every terminal of the last decades understands and which needs no terminfo on the node. Whatever ends
the view (a key, a signal, an error, a terminal that closes), `Screen` puts the terminal back as it was: as a context
manager, for the exceptions, and with handlers for the signals that would otherwise kill the process in between. All
waiting is one `select`, which signals and other threads interrupt through a pipe.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import termios
import tty
from collections.abc import Sequence
from types import FrameType, TracebackType

ENDED = "ended"
"""What `wait` gives when the view shall end: a signal asked for it, or the terminal is gone."""

_STOPPED = "stopped"
_ENTER = b"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"  # alternate screen, no cursor, no wrap
_LEAVE = b"\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.|)")
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_REVERSE, _PLAIN = "\x1b[7m", "\x1b[0m"


class Screen:
    """The terminal at `keys` (read) and `out` (written), two file descriptors, while the context lasts."""

    def __init__(self, keys: int, out: int) -> None:
        self._keys, self._out = keys, out
        self._before: list[object] | None = None
        self._asked: set[str] = set()
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._handlers: dict[int, object] = {}
        self._old_wakeup = -1

    def __enter__(self) -> Screen:
        for number in (*_ENDING, signal.SIGTSTP, signal.SIGWINCH):
            self._handlers[number] = signal.signal(number, self._signalled)
        self._old_wakeup = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        self._before = termios.tcgetattr(self._keys)
        self._show()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hide()
        signal.set_wakeup_fd(self._old_wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        os.close(self._woken)
        os.close(self._wake)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows now; 80 × 24 where the terminal does not say."""
        with contextlib.suppress(OSError):
            columns, rows = os.get_terminal_size(self._out)
            if columns > 0 and rows > 0:
                return columns, rows
        return 80, 24

    def wake(self) -> None:
        """End a `wait` from another thread."""
        with contextlib.suppress(OSError):  # full: it will wake anyway; closed: the view has ended
            os.write(self._wake, b"\0")

    def wait(self, seconds: float) -> str:
        """Wait for at most so long. The keys that were typed, "" if none, or ENDED."""
        if ENDED in self._asked:
            return ENDED
        ready, _, _ = select.select([self._keys, self._woken], [], [], max(seconds, 0))
        if self._woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._woken, 4096)
        if _STOPPED in self._asked:
            self._stop()
        if ENDED in self._asked:
            return ENDED
        return self._typed() if self._keys in ready else ""

    def draw(self, lines: Sequence[str], reverse: Sequence[int] = ()) -> None:
        """Show the lines, cut to the screen; those whose numbers are in `reverse` in reverse video."""
        columns, rows = self.size
        text = ""
        for number, line in enumerate(lines[:rows]):
            shown = f"{_REVERSE}{line[:columns].ljust(columns)}{_PLAIN}" if number in reverse else line[:columns]
            text += f"\x1b[{number + 1};1H{shown}\x1b[K"
        text += "\x1b[J"
        self._write(text.encode(errors="replace"))

    def _typed(self) -> str:
        try:
            data = os.read(self._keys, 256)
        except OSError:  # EIO: the terminal was closed
            data = b""
        if not data:
            self._asked.add(ENDED)
            return ENDED
        # Arrows and the like come as escape sequences: none of them is a key of ours.
        return _SEQUENCE.sub(b"", data).decode("ascii", "ignore")

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._out, data) :]
        except OSError:
            self._asked.add(ENDED)

    def _show(self) -> None:
        with contextlib.suppress(termios.error):
            tty.setcbreak(self._keys)
        self._write(_ENTER)

    def _hide(self) -> None:
        self._write(_LEAVE)
        with contextlib.suppress(termios.error):
            if self._before is not None:
                termios.tcsetattr(self._keys, termios.TCSANOW, self._before)  # type: ignore[arg-type]

    def _stop(self) -> None:
        """Ctrl-Z: the terminal is the shell's until we are continued."""
        self._asked.discard(_STOPPED)
        self._hide()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._show()

    def _signalled(self, number: int, _frame: FrameType | None) -> None:
        if number in _ENDING:
            self._asked.add(ENDED)
        elif number == signal.SIGTSTP:
            self._asked.add(_STOPPED)
