# SPDX-License-Identifier: Apache-2.0
"""Reads a guest's serial console on a thread of its own, keeping its beginning and its end.

The console is drained always, so a guest never blocks on it and a flood costs no memory; how much came is counted.
"""

from __future__ import annotations

import socket
import threading

_HEAD = 256 * 1024
_TAIL = 768 * 1024
FLOOD = 64 * 1024 * 1024


class Console:
    """What came through `stream` so far. `flooded` is true once it is more than any sane guest prints."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._head = bytearray()
        self._tail = bytearray()
        self._seen = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._drain, name="console", daemon=True)
        self._thread.start()

    @property
    def flooded(self) -> bool:
        """Whether more than FLOOD bytes came."""
        return self._seen > FLOOD

    def text(self) -> str:
        """Beginning and end, with a line saying how much is left out between."""
        with self._lock:
            head, tail, seen = bytes(self._head), bytes(self._tail), self._seen
        left_out = seen - len(head) - len(tail)
        middle = f"\n[... {left_out} bytes left out ...]\n" if left_out else ""
        return (head.decode(errors="replace") + middle + tail.decode(errors="replace")).replace("\r", "")

    def tail(self, lines: int = 120) -> str:
        """The last `lines` lines."""
        return "\n".join(self.text().rstrip().split("\n")[-lines:])

    def finish(self, deadline_s: float) -> None:
        """Wait for the writer's end of the stream, so that the last words are in."""
        self._thread.join(deadline_s)

    def close(self) -> None:
        """Stop reading; what came stays readable."""
        # A shutdown wakes the reading thread; closing the descriptor under it would not.
        try:
            self._stream.shutdown(socket.SHUT_RDWR)
        except OSError:  # the other end is gone already
            pass
        self._thread.join()
        self._stream.close()

    def _drain(self) -> None:
        while True:
            try:
                chunk = self._stream.recv(64 * 1024)
            except OSError:
                return
            if not chunk:
                return
            with self._lock:
                self._seen += len(chunk)
                room = _HEAD - len(self._head)
                self._head += chunk[:room] if room > 0 else b""
                self._tail += chunk[max(room, 0) :]
                if len(self._tail) > 2 * _TAIL:
                    del self._tail[:-_TAIL]
