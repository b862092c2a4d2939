# SPDX-License-Identifier: Apache-2.0
"""Where a scenario takes place: the guest, loads in it, and the candidate in charge of it, if there is one.

What comes out of the guest is untrusted: a load that prints anything but its numbers is a GuestError, one that does not
end is Stuck, and what that means (a candidate that starves it, or a machine that is too busy) is for liveness to say.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from controller.errors import GuestError
from controller.kernel.guest_protocol import CommandResult
from controller.kernel.microvm import Guest

Numbers = dict[str, float]

_ENDS_WITHIN_S = 40.0
_NO_SUCH_PROGRAM = 127


class Stuck(Exception):
    """A load did not end, or not as it should."""


class InCharge(Protocol):
    """The candidate, for the scenarios that attach and detach it. Each call rejects it when it does not obey."""

    def attach(self) -> None:
        """Put it in charge and read that back from the kernel."""
        ...

    def detach(self) -> None:
        """Return to the kernel's own scheduler and read that back."""
        ...

    def come_back(self) -> bool:
        """Attach it again if the kernel threw it out and expects it back (CPU hotplug); whether that was so."""
        ...


@dataclass
class Arena:
    """The guest; `candidate` is None while the kernel's own scheduler is measured.

    `detached_at` (monotonic seconds) is when a scheduler last left, for what must not follow that closely.
    """

    guest: Guest
    candidate: InCharge | None = None
    detached_at: float = 0.0
    watchdog_s: float = 3.0

    @property
    def cpus(self) -> int:
        """The guest's CPUs."""
        return self.guest.facts.cpus

    def seconds(self, on_two: float) -> str:
        """A load's length: `on_two` seconds on one or two CPUs, a little less where they outnumber this machine's."""
        return f"{on_two if self.cpus <= 2 else 0.8 * on_two:g}"

    def busy(self, each: int) -> str:
        """How many computing tasks make `each` of them a CPU; fewer where the emulated CPUs are many."""
        return str(max(2, each * self.cpus if self.cpus <= 4 else each * self.cpus // 2))

    def since_detach(self, seconds: float) -> None:
        """Wait until the last detach is that long ago."""
        time.sleep(max(0.0, self.detached_at + seconds - time.monotonic()))

    def load(self, *argv: str, timeout_s: float = _ENDS_WITHIN_S) -> dict[str, Any]:
        """Run one load to its end; its document."""
        done = self.guest.run(list(argv), timeout_s=timeout_s)
        if done.timed_out:
            raise Stuck(f"`{' '.join(argv)}` did not end within {timeout_s:.0f} s")
        return _document(argv, done)

    def together(self, commands: Sequence[Sequence[str]]) -> tuple[list[dict[str, Any]], float]:
        """Several loads at once: what each found, and how long the slowest took from its start, in seconds.

        A load measures from when its own tasks are there. One that gets no CPU until the others are done finds nothing
        amiss, and shows only in that it took so long.
        """
        with self.running(commands) as numbers:
            return self.results(commands, numbers)

    def results(self, commands: Sequence[Sequence[str]], numbers: Sequence[int]) -> tuple[list[dict[str, Any]], float]:
        """As `together`, of loads that were started with `running`."""
        ends = [self.end_of(argv, number) for argv, number in zip(commands, numbers, strict=True)]
        documents = [_document(argv, done) for argv, done in zip(commands, ends, strict=True)]
        return documents, round(max(done.seconds for done in ends), 3)

    def end_of(self, argv: Sequence[str], number: int) -> CommandResult:
        """The end of a command that was started; Stuck when there is none."""
        done = self.guest.wait(number, _ENDS_WITHIN_S)
        if done.timed_out:
            raise Stuck(f"`{' '.join(argv)}` did not end within {_ENDS_WITHIN_S:.0f} s")
        return done

    def amid(
        self, loads: Sequence[Sequence[str]], late: Sequence[str], after_s: float = 0.25
    ) -> tuple[list[dict[str, Any]], float]:
        """As `together`, with one more load that starts when the others have been at it for `after_s` seconds."""
        with self.running(loads) as numbers:
            time.sleep(after_s)
            numbers.append(self.guest.spawn(list(late)))
            return self.results([*loads, late], numbers)

    @contextmanager
    def running(self, commands: Sequence[Sequence[str]]) -> Iterator[list[int]]:
        """Start the commands; when the block is left by an error they are killed."""
        numbers: list[int] = []
        try:
            for argv in commands:
                numbers.append(self.guest.spawn(list(argv)))
            yield numbers
        except Stuck:
            for number in numbers:
                self.guest.kill(number)
            raise

    @contextmanager
    def beside(self, commands: Sequence[Sequence[str]]) -> Iterator[None]:
        """Commands that run as long as the block, for the load they make; a tool that is not here is left out."""
        numbers = [self.guest.spawn(list(argv)) for argv in commands]
        try:
            yield
        finally:
            for number in numbers:
                self.guest.kill(number)
        for argv, number in zip(commands, numbers, strict=True):
            self.end_of(argv, number)

    def printed(self, argv: Sequence[str], number: int) -> str | None:
        """What a foreign tool printed until its end, or None where it is not installed."""
        done = self.end_of(argv, number)
        if done.rc == _NO_SUCH_PROGRAM:
            return None
        if done.rc != 0:
            raise GuestError(f"`{' '.join(argv)}` failed in the guest ({done.rc}): {done.stderr.strip()[:300]}")
        return done.stdout


def number(document: dict[str, Any], name: str) -> float:
    """A number in a load's document."""
    value = document.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise GuestError(f"a load in the guest gave no number {name}")
    return float(value)


def numbers(document: dict[str, Any], name: str) -> list[float]:
    """A list of at least one number in a load's document."""
    values = document.get(name)
    if not isinstance(values, list) or not values:
        raise GuestError(f"a load in the guest gave no numbers {name}")
    return [number({"each": value}, "each") for value in values]


def _document(argv: Sequence[str], done: CommandResult) -> dict[str, Any]:
    if done.rc != 0:
        raise GuestError(f"`{' '.join(argv)}` failed in the guest ({done.rc}): {done.stderr.strip()[:300]}")
    try:
        document = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError, RecursionError) as error:
        raise GuestError(f"`{' '.join(argv)}` printed no result in the guest") from error
    if not isinstance(document, dict):
        raise GuestError(f"`{' '.join(argv)}` printed no result in the guest")
    return document
