# SPDX-License-Identifier: Apache-2.0
"""Continuous observation: one window every so often, for as long as the agent lives, at a bounded price.

Windows begin `every_s` apart, and on a node where one takes long, as many seconds after the last one as that took.
Each window's profile goes into the ring on disk and its fingerprint into the watch for change points; what is worth
telling comes back as news. When bcc cannot trace any more (it is gone, or its headers or rights are) the windows come
from /proc, and bcc is tried again ever later, from one period to an hour: compiling probes that fail each minute would
cost more than observing does. The two observers see different things, so each has a watch of its own: a change of
observer is no change of load.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from controller.api.fingerprint import fingerprint_of
from controller.api.intent import SchedulingIntent, sought_digest
from controller.api.profile import WorkloadProfile
from controller.errors import SchedctlError
from controller.observe import compare, shifts, window
from controller.observe.ring import MOST, Ring
from controller.observe.tracer import Probes

LONGEST_BACKOFF_S = 3600.0
_TOLD, _TOLD_LENGTH = 3, 600
"""Changes that the news of a change names, and their length."""

_REMEMBERED = shifts.BASELINE + shifts.LEARNT
"""Profiles read back after a restart: more than these change nothing about the watch."""


@dataclass(frozen=True)
class News:
    """Something to tell: an event's type, reason and message."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Steadiness:
    """Whether the load is another one than shortly before; `changed` is None while there are too few windows."""

    changed: bool | None
    reason: str
    message: str = ""


@dataclass(frozen=True)
class Seen:
    """One window: its profile (None if not even /proc could be read), and what is new with it."""

    profile: WorkloadProfile | None
    news: tuple[News, ...]


@dataclass
class _Backoff:
    """When bcc may be tried again, and why it is not now."""

    period_s: float
    why: str = ""
    failures: int = 0
    until: float = 0.0

    def wait_s(self) -> float:
        """How long after the newest failure."""
        return min(self.period_s * 2.0 ** min(self.failures - 1, 32), LONGEST_BACKOFF_S) if self.failures else 0.0

    def failed(self, why: str, now: float) -> None:
        self.failures += 1
        self.why, self.until = why, now + self.wait_s()

    def worked(self) -> None:
        self.failures, self.why, self.until = 0, "", 0.0


class Continuous:
    """Windows of `seconds` every `every_s`, profiles kept in `folder`; `close` lets the probes go.

    `take` observes one window (window.profile) and `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seconds: float,
        every_s: float,
        force_procfs: bool = False,
        take: Callable[..., WorkloadProfile] = window.profile,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ring = Ring(folder)
        self._probes = Probes()
        self._seconds, self._every_s, self._force_procfs = seconds, every_s, force_procfs
        self._take, self._clock = take, clock
        self._backoff = _Backoff(every_s)
        self._watches: dict[str, shifts.Watch] = {}
        self._names: tuple[str, ...] | None = None
        self._started = self._ended = -every_s
        self._wanted = ""
        self._unwritten = ""
        self.steadiness = Steadiness(None, "Learning")

    def due(self, intents: Sequence[SchedulingIntent]) -> bool:
        """Whether a window is due: it is time, or there are other intents than in the last one."""
        at, took = self._clock(), self._ended - self._started
        return at >= max(self._started + self._every_s, self._ended + took) or sought_digest(intents) != self._wanted

    def observe(self, node: str, intents: Sequence[SchedulingIntent]) -> Seen:
        """One window now; returns when it has closed. Whatever breaks in it, the agent goes on."""
        self._started, self._wanted = self._clock(), sought_digest(intents)
        try:
            return self._look(node, intents)
        finally:
            self._ended = self._clock()

    def _look(self, node: str, intents: Sequence[SchedulingIntent]) -> Seen:
        news: list[News] = []
        try:
            profile = self._profile(node, intents, news)
        except (SchedctlError, OSError, ValueError, RuntimeError) as error:
            news.append(News("Warning", "ObserveFailed", f"no profile of this window: {type(error).__name__}: {error}"))
            return Seen(None, tuple(news))
        self._remember(intents)
        self._keep(profile, news)
        self._follow(profile, news)
        return Seen(profile, tuple(news))

    def interrupt(self) -> None:
        """Let the probes go under a thread that is in `observe`; it goes on without them."""
        self._probes.interrupt()

    def close(self) -> None:
        """Let the probes go; the ring stays."""
        self._probes.close()

    def _profile(self, node: str, intents: Sequence[SchedulingIntent], news: list[News]) -> WorkloadProfile:
        now = self._clock()
        if self._force_procfs:
            return self._take(self._seconds, node=node, intents=intents, force_procfs=True)
        if now < self._backoff.until:
            why = f"{self._backoff.why}; bcc is tried again in {self._backoff.until - now:.0f}s"
            return self._take(self._seconds, node=node, intents=intents, force_procfs=True, because=why)
        try:
            profile = self._take(self._seconds, node=node, intents=intents, probes=self._probes)
            why = profile.degraded.partition("; from /proc:")[0] if profile.observer != "bcc" else ""
        except Exception as error:  # noqa: BLE001 - a tracer that breaks in any way leaves /proc to look at
            why = f"tracing failed: {type(error).__name__}: {error}"
            profile = self._take(self._seconds, node=node, intents=intents, force_procfs=True, because=why)
        if why:
            if not self._backoff.failures:
                news.append(News("Warning", "ObserverDegraded", f"observing with /proc: {why}"))
            self._backoff.failed(why, self._clock())
        elif self._backoff.failures:
            self._backoff.worked()
            news.append(News("Normal", "ObserverRestored", "observing with bcc again"))
        return profile

    def _remember(self, intents: Sequence[SchedulingIntent]) -> None:
        """The watches as the profiles on disk leave them: at the start, and when other intents count."""
        names = tuple(sorted(intent.qualified_name for intent in intents))
        if names == self._names:
            return
        self._names, self._watches = names, {}
        for profile in self._ring.profiles(newest=min(_REMEMBERED, MOST)):
            if {match.intent for match in profile.matches} == set(names):
                self._step(profile)

    def _keep(self, profile: WorkloadProfile, news: list[News]) -> None:
        try:
            self._ring.add(profile)
        except OSError as error:
            why = f"the profile cannot be kept: {error.strerror or error}"
            if why != self._unwritten:
                news.append(News("Warning", "ProfileNotKept", why))
            self._unwritten = why
        else:
            self._unwritten = ""

    def _follow(self, profile: WorkloadProfile, news: list[News]) -> None:
        shift = self._step(profile)
        watch = self._watches[profile.observer]
        if shift is not None:
            news.append(self._told(shift, profile))
            self.steadiness = Steadiness(shift.kind == "changed", news[-1].reason, news[-1].message)
        elif watch.learning:
            self.steadiness = Steadiness(None, "Learning", f"{len(watch.baseline)} of {shifts.LEARNT} windows are seen")
        elif self.steadiness.changed is not watch.changed:
            self.steadiness = Steadiness(watch.changed, "LoadChanged" if watch.changed else "Steady")

    def _told(self, shift: shifts.Shift, profile: WorkloadProfile) -> News:
        apart = f"{shift.distance:.2f} away from what it was, most of all {shift.name} ({shift.apart:.2f})"
        match shift.kind:
            case "changed":
                words = "".join(f"; {text}" for text in self._words(profile, shift.name))
                return News("Normal", "LoadChanged", f"the load is {apart}{words}")
            case "settled":
                return News("Normal", "LoadSettled", f"the load is steady again, {apart}")
            case "returned":
                return News("Normal", "LoadReturned", "the load is what it was before again")

    def _words(self, profile: WorkloadProfile, name: str) -> list[str]:
        """What changed most, with `name` if it is there, since the window before those that told of it."""
        kept = [each for each in self._ring.profiles(newest=shifts.NEWEST + 1) if each.observer == profile.observer]
        found = [change for change in compare.changes(next(iter(kept), profile), profile) if change.what != "distance"]
        chosen = ([change for change in found if change.workload == name] or found)[:_TOLD]
        return compare.words(chosen)[:_TOLD_LENGTH].splitlines() if chosen else []

    def _step(self, profile: WorkloadProfile) -> shifts.Shift | None:
        before = self._watches.get(profile.observer, shifts.Watch())
        self._watches[profile.observer], shift = shifts.step(before, fingerprint_of(profile, self._names or ()))
        return shift
