# SPDX-License-Identifier: Apache-2.0
"""Has an emulated guest's timers fire on time while its CPUs are busy.

Without KVM it is QEMU's main thread that raises a guest's timer interrupts, and each of the guest's CPUs is a thread
that computes as long as anything runs there. On a host with no more CPUs than the guest has, the main thread waits its
turn among them: 3 to 4 ms, one turn in a hundred (Linux 6.18, two CPUs), which is more than what a wakeup waits for in
the guest, and is counted with it. So that thread is real-time, of the lowest priority; the CPUs are not.

How much the thread has to do is up to the guest, and the guest is not trusted. The kernel ends QEMU when the thread
runs for RT_LIMIT_S without a sleep, and `check`, which whoever keeps QEMU calls every CHECK_S, makes it an ordinary
thread again for good once it took more than MOST of a CPU (it takes a tenth). Without the right to do so (CAP_SYS_NICE,
or RT_GROUP_SCHED without a budget) all stays as it is, and wakeup latencies keep their noise.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from pathlib import Path

RT_LIMIT_S = 0.5
CHECK_S = 1.0
MOST = 0.5


class Punctual:
    """The main thread of one emulator."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._seen = time.monotonic(), self._used_s()
        self.active = self._begin()
        """Whether it is real-time now."""

    def check(self) -> None:
        """Put an end to it when the thread took too much since the last call, or since it began."""
        if not self.active:
            return
        then, used = self._seen
        self._seen = time.monotonic(), self._used_s()
        if self._seen[1] - used > MOST * (self._seen[0] - then):
            self.active = False
            with contextlib.suppress(OSError):  # it has ended
                os.sched_setscheduler(self._pid, os.SCHED_OTHER, os.sched_param(0))

    def _begin(self) -> bool:
        limit = round(RT_LIMIT_S * 1e6)
        try:
            resource.prlimit(self._pid, resource.RLIMIT_RTTIME, (limit, limit))
            # Threads that it makes from now on are ordinary ones.
            os.sched_setscheduler(self._pid, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
        except OSError:
            return False
        return True

    def _used_s(self) -> float:
        """CPU time of the thread so far; 0 once it has ended."""
        try:
            return int(Path(f"/proc/{self._pid}/task/{self._pid}/schedstat").read_text().split()[0]) / 1e9
        except (OSError, ValueError, IndexError):
            return 0.0
