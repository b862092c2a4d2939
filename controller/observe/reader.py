# SPDX-License-Identifier: Apache-2.0
"""What the probes counted, put together with what /proc knows.

The probes attribute a stay on a CPU when it ends. Here the ends of the window are mended: what is on a CPU when the
window closes gets its CPU time, a CPU that never switched gets its running task from /proc, and a task still waiting
for its first run counts with the wait so far (a lower bound: leaving it out would hide starvation).
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from controller.observe import procfs
from controller.observe.histogram import bucket_of
from controller.observe.sample import Observation, Reading, Sample, Who

GROUP_OWN = 1
KINDS = {1: "latency", 2: "burst", 3: "sleep"}
_EDGE = 4
_KIND_SHIFT, _GROUP_SHIFT = 28, 12  # as in bpf/probes/records.h
_MOVED = {1: "migrations", 2: "llc_migrations", 4: "numa_migrations"}
_PREEMPTED = 8
_WOKE_UNSEEN = 2
_GONE = Who(b"(gone)", None, None)
"""A task first seen at the very end of the window, that ended before it could be asked for its name."""


class _Task(NamedTuple):
    """A task at the window's end, as probe_process tells it: see `struct task` in bpf/probes/records.h."""

    address: int
    pid: int
    group: int
    seen: int
    ready: int
    waker: int
    woke: int
    waited: int
    rested: int
    slept: int
    moved: int


def observation(answer: Any, tree: dict[int, bytes], opened: Reading, closed: Reading) -> Observation:
    """The answer of `probe_process` as an Observation; `tree` is cgroup id → path, as far as known."""
    return _Reader(answer, tree).read(opened, closed)


class _Reader:
    def __init__(self, answer: Any, tree: dict[int, bytes]) -> None:
        self._answer = answer
        self._stop: int = answer["stop"]
        self._samples: dict[Who, Sample] = {}
        self._edges: Counter[tuple[Who | None, Who]] = Counter()
        self._tasks = [_Task(*task) for task in answer["tasks"]]
        self._on_cpu = {task.address: task for task in self._tasks}
        self._groups = {
            number: Who(comm.encode("latin-1"), tree.get(cgroup), uid)
            for number, comm, cgroup, uid, _counts in answer["groups"]
        }

    def read(self, opened: Reading, closed: Reading) -> Observation:
        window = self._stop - self._answer["start"]
        self._attributed()
        for cpu, (since, address) in enumerate(self._answer["stays"]):
            if since:
                self._unfinished(self._on_cpu.get(address), self._stop - since)
            elif cpu in opened.cpus and cpu in closed.cpus:
                self._never_switched(cpu, closed.cpus[cpu].tasks_ns - opened.cpus[cpu].tasks_ns)
        for task in self._tasks:
            if task.ready:
                self._waiting(task)
        return Observation(
            window,
            self._samples,
            opened,
            closed,
            start_ns=self._answer["start"],
            dropped=self._answer["dropped"],
            edges=self._edges,
            depth=self._depth(),
        )

    def _attributed(self) -> None:
        for number, _comm, _cgroup, _uid, counts in self._answer["groups"]:
            if not any(counts.values()):
                continue  # a number that two CPUs gave at once, or a name that only woke others
            sample = self._sample(self._groups[number])
            for name, value in counts.items():
                setattr(sample, name, getattr(sample, name) + value)
        for key, events in self._answer["cells"]:
            kind, group, rest = key >> _KIND_SHIFT, key >> _GROUP_SHIFT & 0xFFFF, key & 0xFFF
            if kind == _EDGE:
                self._edge(group, self._groups.get(rest), events)
            elif group in self._groups:
                getattr(self._sample(self._groups[group]), KINDS[kind])[rest] += events

    def _depth(self) -> dict[int, tuple[int, ...]]:
        """With the time since each CPU's last change."""
        found = {}
        for cpu, (since, depth, spent) in enumerate(self._answer["queues"]):
            if since:
                spent[min(depth, len(spent) - 1)] += max(self._stop - since, 0)
                while spent and not spent[-1]:
                    spent.pop()
                found[cpu] = tuple(spent)
        return found

    def _unfinished(self, task: _Task | None, ran: int) -> None:
        """What was on a CPU when the window closed; None is the idle task."""
        if task is None or self._is_own(task):
            return
        who, sample = self._of(task.pid, task)
        sample.cpu_ns += ran
        sample.cut.append(ran)
        for bit, name in _MOVED.items():
            if task.moved & bit:
                setattr(sample, name, getattr(sample, name) + 1)
        self._waited(sample, task.waited)
        if task.woke == _WOKE_UNSEEN:
            sample.wakeups = (sample.wakeups or 0) + 1
        elif task.woke:
            self._woken(who, sample, task, task.waited)

    def _never_switched(self, cpu: int, busy_ns: int) -> None:
        """A CPU without a switch in the whole window is idle or one task's own; /proc/stat says which."""
        window = self._stop - self._answer["start"]
        pid = procfs.running_on(cpu) if busy_ns > window // 2 else None
        if pid is not None:
            _who, sample = self._of(pid, None)
            sample.cpu_ns += min(busy_ns, window)
            sample.cut.append(min(busy_ns, window))

    def _waiting(self, task: _Task) -> None:
        """What was ready and not running when the window closed."""
        if self._is_own(task):
            return
        who, sample = self._of(task.pid, task)
        self._waited(sample, self._stop - task.ready)
        if not task.moved & _PREEMPTED:
            self._woken(who, sample, task, self._stop - task.ready)

    @staticmethod
    def _waited(sample: Sample, value: int) -> None:
        sample.wait_ns = (sample.wait_ns or 0) + value

    def _woken(self, who: Who, sample: Sample, task: _Task, latency: int) -> None:
        sample.wakeups = (sample.wakeups or 0) + 1
        sample.latency_ns += latency
        if sample.latency is not None:
            sample.latency[bucket_of(latency)] += 1
        if task.rested and sample.sleep is not None:
            sample.sleep[bucket_of(task.slept)] += 1
            sample.sleep_ns += task.slept
        self._edge(task.waker, who, 1)

    def _edge(self, waker: int, wakee: Who | None, events: int) -> None:
        """Wakeups by the observer itself are its own affair."""
        if wakee is not None and waker != GROUP_OWN:
            self._edges[self._groups.get(waker), wakee] += events

    def _is_own(self, task: _Task) -> bool:
        return task.group == GROUP_OWN or task.pid == self._answer["own"]

    def _of(self, pid: int, task: _Task | None) -> tuple[Who, Sample]:
        """Whose a thread is: what it was when it last left a CPU, else what /proc or its parent says."""
        who = self._groups.get(task.group) if task is not None else None
        counted = task is not None and task.seen and who is not None
        if not counted:
            who = procfs.who(pid) or who
        sample = self._sample(who or _GONE)
        sample.tasks += not counted
        return who or _GONE, sample

    def _sample(self, who: Who) -> Sample:
        return self._samples.setdefault(who, Sample.traced())
