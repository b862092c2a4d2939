# SPDX-License-Identifier: Apache-2.0
"""The arms in a guest that stays from block to block, for who measures many candidates and not one in a whole trial.

The guest is booted when the first block is asked for. After anything that went wrong in it, it is thrown away: the next
block, or the same one anew, comes in another guest (from the snapshot, in about a second). A block is always of one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from controller.errors import GuestError
from controller.kernel.guests import Attempts
from controller.kernel.microvm import Guest
from controller.verify.trial.arms import GuestArms
from controller.verify.trial.design import BASELINE
from controller.verify.trial.outcome import TrialRejected
from controller.verify.trial.spec import TrialSpec

T = TypeVar("T")


class KeptArms:
    """Blocks of runs under `spec` in guests that `boot` boots; `say` is told why a block is begun anew."""

    def __init__(
        self, spec: TrialSpec, boot: Callable[[], Guest], say: Callable[[str], None] = lambda _text: None
    ) -> None:
        self.spec = spec
        self.guest: Guest | None = None
        self._boot, self._say = boot, say
        self._arms: GuestArms | None = None

    def close(self) -> None:
        """End the guest; may be called again. The next block boots another one."""
        guest, self.guest, self._arms = self.guest, None, None
        if guest is not None:
            guest.close()

    def block(self, runs: Callable[[GuestArms], T]) -> T:
        """What `runs` makes of the arms, begun anew when a guest ends under nobody, or does not let go of a scheduler.

        TrialRejected, with the arm, for what a candidate does, hanging the kernel again among it; GuestError when all
        attempts ended under nobody. What else `boot` and `runs` raise passes through.
        """
        attempts = Attempts(self._say)
        while True:
            try:
                return runs(self._ready())
            except TrialRejected as rejected:
                self.close()
                # A scheduler that stays after detaching may be one of an earlier block: another guest has none of it.
                if rejected.finding.rule != "trial/detach" or not attempts.again(rejected):
                    raise
            except GuestError as error:
                arm = self._arms.loaded if self._arms is not None else ""
                self.close()
                blame = attempts.blame(error, arm)
                if blame:
                    raise TrialRejected("hung", blame, evidence=error.console, arm=arm) from error
                if not attempts.again(error, arm):
                    raise
            except BaseException:
                self.close()
                raise

    def _ready(self) -> GuestArms:
        """Warmed up: how long a run takes that nothing holds up is what candidates are allowed."""
        if self._arms is None:
            self.guest = self._boot()
            self._arms = GuestArms(self.guest, self.spec, {})
            self._arms.sample(BASELINE, 0, 0)
        return self._arms
