# SPDX-License-Identifier: Apache-2.0
"""Guests that schedulers are tried in: of a kernel that takes them, and another one when a guest ended under nobody.

A guest that the emulator broke says nothing about a scheduler, and neither does one that hung once: this machine may
just have been busy. Hanging again with the same scheduler in charge is that scheduler's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from controller.errors import GuestError, SchedctlError, ToolMissing
from controller.kernel import microvm
from controller.kernel.images import KernelImage
from controller.kernel.microvm import EmulatorFault, Guest, GuestHung
from controller.kernel.vmshape import VmShape

ATTEMPTS = 3
"""How often the same thing is tried, each time in another guest."""


def boot(
    kernel: KernelImage, shape: VmShape, *, deadline_s: float = 90, reporter: Callable[[str], None] | None = None
) -> Guest:
    """A guest of this kernel. ToolMissing for a kernel without sched_ext; else raises as `microvm.boot` does."""
    if kernel.has_sched_ext is False:
        raise _without_sched_ext(kernel.release)
    guest = microvm.boot(kernel.path, shape, deadline_s=deadline_s, reporter=reporter)
    if not guest.facts.sched_ext:  # everything would fail to load, and that would be no scheduler's fault
        guest.close()
        raise _without_sched_ext(guest.facts.release)
    return guest


def _without_sched_ext(release: str) -> ToolMissing:
    return ToolMissing(
        f"kernel {release} is built without sched_ext (CONFIG_SCHED_CLASS_EXT)", remedy="schedctl kernel pull newest"
    )


class Attempts:
    """The attempts at one thing: how many are left, and whether a hang is a scheduler's by now. `say` is told of each.

    Schedulers are told apart by the caller's names for them, where there are several.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._number = 1
        self._hung: Counter[str] = Counter()

    def blame(self, error: GuestError, scheduler: str = "") -> str:
        """Why `scheduler` is to blame for this end of a guest; "" when it is not, or not yet."""
        if not (isinstance(error, GuestHung) and error.in_charge and self._hung[scheduler]):
            return ""
        times = self._hung[scheduler] + 1
        return f"with it in charge the kernel hangs, {times} times out of {times}: {error.message}"

    def again(self, error: SchedctlError, scheduler: str = "") -> bool:
        """Note how an attempt ended; whether there is another one."""
        if isinstance(error, GuestHung) and error.in_charge:
            self._hung[scheduler] += 1
        if self._number == ATTEMPTS:
            return False
        self._number += 1
        why = "the emulator broke the guest" if isinstance(error, EmulatorFault) else error.message
        self._say(f"{why}; attempt {self._number} of {ATTEMPTS}")
        return True
