# SPDX-License-Identifier: Apache-2.0
"""Raw events → samples, by the definitions in bpf/probes/sched.c: the same figures from another source.

What the probes add up in the kernel, event by event, is done here again afterwards, from what the kernel's own trace
has, in the plainest way that there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from controller.observe.histogram import bucket_of
from controller.observe.sample import Observation, Sample
from loads.trace import Event, Value

_STATES = 0xFF
"""The bits of prev_state that say how it sleeps: 0 ran on, the next one is set for a task that was preempted."""


@dataclass
class _State:
    waking: int = 0
    asleep: int = 0
    early: bool = False
    since: int = 0
    wait: int | None = None
    woke: bool = False
    slept: int | None = None


class Raw:
    """`samples`: those of a window, by process name."""

    def __init__(self, events: Sequence[Event], seen: Observation) -> None:
        self.samples: dict[str, Sample] = {}
        self._states: dict[int, _State] = {}
        for event in events:
            if seen.start_ns <= event.at < seen.start_ns + seen.window_ns:
                if event.name == "sched_switch":
                    self._switched(event.at, event.fields)
                else:
                    self._waking(event.at, int(event.fields["pid"]))

    def _waking(self, at: int, pid: int) -> None:
        state = self._states.setdefault(pid, _State())
        if state.since:
            state.early = True
        elif not state.waking:
            state.waking = at
            state.slept = at - state.asleep if state.asleep else None

    def _switched(self, at: int, fields: dict[str, Value]) -> None:
        comm, pid, following = str(fields["prev_comm"]), int(fields["prev_pid"]), int(fields["next_pid"])
        sleeps = bool(int(fields["prev_state"]) & _STATES)
        if pid:
            state = self._states.setdefault(pid, _State())
            sample = self.samples.setdefault(comm, Sample.traced())
            if state.since:
                self._add(sample, "burst", at - state.since)
                sample.wakeups = (sample.wakeups or 0) + state.woke
                if state.wait is not None:
                    self._add(sample, "latency", state.wait)
                if state.slept is not None:
                    self._add(sample, "sleep", state.slept)
            elif state.waking or state.asleep:  # who leaves had come, though the trace does not have it
                sample.wakeups = (sample.wakeups or 0) + 1
            self._states[pid] = _State(asleep=at if sleeps else 0, early=state.early and sleeps)
        if following:
            state = self._states.setdefault(following, _State())
            state.wait = None
            if state.waking:
                state.wait = at - state.waking
            elif state.asleep and state.early:
                state.wait, state.slept = at - state.asleep, 0
            else:
                state.slept = None
            state.woke = state.wait is not None or state.asleep > 0
            state.since, state.waking, state.asleep, state.early = at, 0, 0, False

    @staticmethod
    def _add(sample: Sample, name: str, value: int) -> None:
        getattr(sample, name)[bucket_of(value)] += 1
        setattr(sample, f"{name}_ns", getattr(sample, f"{name}_ns") + value)
