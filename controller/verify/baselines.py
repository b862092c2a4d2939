# SPDX-License-Identifier: Apache-2.0
"""What the kernel's own scheduler makes of each scenario, in the same boot that the candidate is measured in.

A guest that comes from a snapshot is of the same boot as every other one from it, so the baselines are measured once
for a snapshot and kept beside it, with the machine's speed at that time: found much different later, they are measured
anew. One that a busy machine blew up, so that nearly anything would be within the limits, is measured again at once,
and the calmest counts. They come from a guest of their own where there can be one, so that no candidate was ever near
what others are judged by. Without a snapshot (KVM) they are measured in the candidate's guest, before it is attached.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence

from controller.api import Reporter
from controller.errors import GuestError, KernelError
from controller.kernel import snapshot
from controller.kernel.microvm import EmulatorFault, Guest
from controller.verify.load import WATCHDOG_MS
from controller.verify.scenarios import SCENARIOS, Arena, Numbers, Scenario, Stuck, digest
from controller.verify.scenarios.arena import number

FASTER_OR_SLOWER = 1.6
"""This machine's speed now and then may differ by this factor before baselines are measured anew: the limits are wider
than that, and what a candidate is held to is measured again beside it before it counts."""

_TRIES = 3
"""How often a baseline is measured until it is calm."""

_SPEED_S = 0.3
_AUTOGROUP = "/proc/sys/kernel/sched_autogroup_enabled"


class Bench:
    """A guest, and what the kernel's own scheduler makes of each scenario in its boot, measured once.

    `again` boots another guest of the same kernel and shape. Make the bench before a candidate is loaded.
    """

    def __init__(self, guest: Guest, again: Callable[[], Guest] | None = None) -> None:
        self.guest = guest
        self.detached_at = 0.0
        self._again = again
        self._baselines: dict[str, Numbers] = {}
        self._boot_id = guest.boot_id() if again is not None and guest.repeatable else ""
        _even(guest)

    def detached(self) -> None:
        """Remember that a scheduler left now."""
        self.detached_at = time.monotonic()

    def prepare(self, scenarios: Sequence[Scenario], reporter: Reporter) -> None:
        """Have a baseline for each of `scenarios`: kept from before, or measured now. No candidate may be attached."""
        wanted = [s for s in scenarios if s.compared and s.name not in self._baselines]
        if not wanted or (self._boot_id and self._recall(wanted)):
            return
        with contextlib.ExitStack() as stack:
            guest = self._one_of_its_own(stack) or self.guest
            before = _speed(guest) if self._boot_id else 0.0
            for scenario in wanted:
                reporter.step(f"liveness: {scenario.name} under the kernel's own scheduler")
                self._baselines[scenario.name] = self._measure(scenario, guest)
            after = _speed(guest) if self._boot_id else 0.0
        if self._boot_id and _alike(before, after):  # else they say how busy this machine was, and hold for this run
            document = {"units_per_ms": after, "baselines": {s.name: self._baselines[s.name] for s in wanted}}
            snapshot.keep_note(snapshot.note(self._boot_id, digest()[:16]), json.dumps(document))

    def baseline(self, scenario: Scenario, *, anew: bool = False) -> Numbers:
        """The kernel's own scheduler on this scenario; no candidate may be attached unless it was measured before.

        GuestError if even the kernel's own scheduler does not get through it.
        """
        if anew or scenario.name not in self._baselines:
            self._baselines[scenario.name] = self._measure(scenario, self.guest)
        return self._baselines[scenario.name]

    def _measure(self, scenario: Scenario, guest: Guest) -> Numbers:
        """The calmest of at most three tries."""
        tries: list[Numbers] = []
        while not tries or (scenario.loosened(tries[-1]) > 1 and len(tries) < _TRIES):
            tries.append(self._measure_once(scenario, guest))
        return min(tries, key=scenario.loosened)

    def _measure_once(self, scenario: Scenario, guest: Guest) -> Numbers:
        detached_at = self.detached_at if guest is self.guest else 0.0
        try:
            return scenario.measure(Arena(guest, None, detached_at, WATCHDOG_MS / 1000))
        except Stuck as error:
            raise GuestError(
                f"the kernel's own scheduler did not get through {scenario.name}: {error}",
                console=guest.console_tail(),
                remedy="run it again when this machine is less busy",
            ) from error

    def _one_of_its_own(self, stack: contextlib.ExitStack) -> Guest | None:
        """A fresh guest of the same boot, where there can be one."""
        if not self._boot_id or self._again is None:
            return None
        try:
            guest = stack.enter_context(self._again())
        except EmulatorFault:
            raise
        except GuestError:  # this machine has no room for two
            return None
        if guest.boot_id() != self._boot_id:  # somebody else replaced the snapshot meanwhile
            self._boot_id = ""
            return None
        _even(guest)
        return guest

    def _recall(self, wanted: Sequence[Scenario]) -> bool:
        """Whether what was kept for this boot has all that is wanted and still fits this machine's speed."""
        try:
            document = json.loads(snapshot.note(self._boot_id, digest()[:16]).read_text())
            kept = {name: {k: float(v) for k, v in n.items()} for name, n in document["baselines"].items()}
            speed = float(document["units_per_ms"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return False
        if any(scenario.name not in kept for scenario in wanted):
            return False
        if not _alike(speed, _speed(self.guest)):
            return False
        self._baselines.update({scenario.name: kept[scenario.name] for scenario in wanted})
        return True


def warm(boot: Callable[[], Guest], reporter: Reporter) -> bool:
    """Have the snapshot and the baselines of a kernel and shape before the first candidate comes; `boot` boots them.

    False where nothing can be kept (KVM, or no room): then each verification measures them itself.
    """
    with boot() as guest:
        if not guest.repeatable:
            return False
        cpus = guest.facts.cpus
        Bench(guest, again=boot).prepare([s for s in SCENARIOS if not s.not_here(cpus)], reporter)
    return True


def _even(guest: Guest) -> None:
    """Switch off autogroups: with them, nice values count only within one session."""
    with contextlib.suppress(KernelError):  # a kernel without autogroups needs none switched off
        guest.write_file(_AUTOGROUP, "0")


def _speed(guest: Guest) -> float:
    """Work units a millisecond of all CPUs together (one alone finds a free core on a machine that is half busy)."""
    found = Arena(guest).load("schedload", "spin", str(guest.facts.cpus), str(_SPEED_S))
    return number(found, "total_units") / (_SPEED_S * 1e3)


def _alike(one: float, other: float) -> bool:
    return max(one, other) <= FASTER_OR_SLOWER * min(one, other)
