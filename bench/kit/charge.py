# SPDX-License-Identifier: Apache-2.0
"""One family in a guest: put in charge, taken away, and asked whether it is in charge still."""

from __future__ import annotations

import statistics
import time

from controller.errors import CandidateRejected, GuestError, KernelError
from controller.kernel.microvm import Guest
from controller.verify.load import load

_LEAVING_S = 10.0


class InCharge:
    """A loaded scheduler. CandidateRejected when it does not load, does not attach, or is thrown out."""

    def __init__(self, guest: Guest, image: bytes) -> None:
        self._guest = guest
        self._ops = load(guest, image).ops_name
        self._on = False

    def switch(self, on: bool) -> None:
        """Have it in charge, or the kernel's own scheduler."""
        if on == self._on:
            return
        if on:
            try:
                self._guest.attach()
            except KernelError as error:
                raise CandidateRejected("bench", error.message) from error
            self._on = True
            self.check()
            return
        self._on = False
        self._guest.detach()
        end = time.monotonic() + _LEAVING_S
        while (state := self._guest.status().state) != "disabled":
            if time.monotonic() > end:
                raise GuestError(f"after detaching the kernel is still {state}")
            time.sleep(0.05)

    def check(self) -> None:
        """Complain when it should be in charge and is not."""
        status = self._guest.status()
        if self._on and (status.exit is not None or not status.runs(self._ops)):
            left = status.exit
            said = f"{left.reason}: {left.message}" if left else f"state {status.state}"
            raise CandidateRejected("bench", f"the kernel threw it out: {said}")

    def replacement(self, times: int = 5) -> dict[str, float]:
        """Seconds to attach what is loaded, and from letting it go until it is in charge again; medians."""
        attach, gap = [], []
        self.switch(False)
        for _ in range(times):
            begun = time.monotonic()
            self._guest.attach()
            attach.append(time.monotonic() - begun)
            begun = time.monotonic()
            self._guest.detach()
            self._guest.attach()
            gap.append(time.monotonic() - begun)
            self._guest.detach()
        return {"attach_s": round(statistics.median(attach), 4), "gap_s": round(statistics.median(gap), 4)}
