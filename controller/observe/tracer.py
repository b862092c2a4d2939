# SPDX-License-Identifier: Apache-2.0
"""The bcc observer: has `probe_process` trace a window and puts what it counted together with what /proc knows.

The probe attributes a stay on a CPU when it ends. Here the ends of the window are mended: what is on a CPU when the
window closes gets its CPU time, a CPU that never switched gets its running task from /proc, and a task still waiting
for its first run counts with the wait so far (a lower bound: leaving it out would hide starvation).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from controller.observe import cgroups, procfs
from controller.observe.histogram import bucket_of
from controller.observe.names import printable
from controller.observe.sample import Observation, Sample, Unavailable, Who
from controller.paths import cache_dir, data_dir

TRACEFS = Path("/sys/kernel/tracing")
_DEBUG_TRACEFS = Path("/sys/kernel/debug/tracing")
_START_S = 120  # compiling takes 0.3 s on a plain machine and a hundred times that on a loaded, emulated one
_READ_S = 60
_NONE = (1 << 64) - 1
_LATENCY = 1
_GONE = Who(b"(gone)", None, None)
"""A task first seen at the very end of the window, that ended before it could be asked for its name."""


@dataclass(frozen=True)
class Capacity:
    """Entries the kernel's maps hold: 32768 threads, 4096 (name, cgroup, user) groups; some 12 MB of kernel memory."""

    tasks: int = 32768
    groups: int = 4096
    buckets: int = 65536


class Probes:
    """The probes, compiled at the first window and kept for the next ones; `close` gives the memory back.

    A window that fails ends the process; the next one starts it anew.
    """

    def __init__(self, capacity: Capacity | None = None) -> None:
        self._capacity = capacity or Capacity()
        self._process: subprocess.Popen[bytes] | None = None
        self._noise: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process

    def observe(self, seconds: float, ready: Callable[[], None] = lambda: None) -> Observation:
        """Trace this host for `seconds`, calling `ready` when the window opens. Raises Unavailable with a remedy."""
        environment = _requirements()
        tree = cgroups.paths(cgroups.mount())
        before = procfs.cpu_busy_ns()
        answer = self._trace(seconds, environment, ready)
        tree |= cgroups.paths(cgroups.mount())  # containers may have come and gone meanwhile
        return _Reader(answer, tree).observation(procfs.cpu_busy_ns(), before)

    def close(self) -> None:
        """End the process, and with it the probes."""
        if self._process is not None:
            self._process.kill()
            with self._process:
                self._process = None
        self._noise.close()

    def _trace(self, seconds: float, environment: dict[str, str], ready: Callable[[], None]) -> Any:
        process = self._process or self._start(environment)
        try:
            text = _converse(process, {"seconds": seconds}, seconds, ready)
        except TimeoutError:
            self._end()
            raise Unavailable("bcc did not answer in time; run on a less loaded machine") from None
        except BaseException:
            self._end()
            raise
        if not text:
            code = self._end()
            gist = _gist(self._noise, code)
            refused = "not permitted" in gist
            remedy = "grant CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN" if refused else "run `schedctl doctor`"
            raise Unavailable(f"bcc failed: {gist}; {remedy}")
        return json.loads(text)

    def _start(self, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        script = str(Path(__file__).with_name("probe_process.py"))
        self._noise.seek(0)
        self._noise.truncate()
        # -P: the script's folder stays off the module path, lest selectors.py stand for the standard library's.
        command = [sys.executable, "-P", script]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._noise
        )
        _send(self._process, {"text": str(data_dir("bpf") / "probes" / "sched.c"), **asdict(self._capacity)})
        return self._process

    def _end(self) -> int:
        """Kill what may still run; its exit status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)  # one that failed by itself says more with its own exit status
        process.kill()
        with process:
            pass
        return process.returncode


def observe(seconds: float, capacity: Capacity | None = None, ready: Callable[[], None] = lambda: None) -> Observation:
    """One window by probes of its own. Raises Unavailable, naming the remedy."""
    with contextlib.closing(Probes(capacity)) as probes:
        return probes.observe(seconds, ready)


def _requirements() -> dict[str, str]:
    """The environment to run bcc in. Raises Unavailable for the first thing that is missing."""
    if os.geteuid() != 0:
        raise Unavailable("tracing needs root; run schedctl as root")
    if importlib.util.find_spec("bcc") is None:
        raise Unavailable("bcc is not installed; run `make setup`, or install Debian's python3-bpfcc")
    environment = dict(os.environ)
    headers = _headers()
    if headers is not None:
        environment["BCC_KERNEL_SOURCE"] = str(headers)
    _mount_tracefs()
    return environment


def _headers() -> Path | None:
    """A kernel header tree for bcc to be told of; None when it finds this kernel's own."""
    given = os.environ.get("BCC_KERNEL_SOURCE")
    if given:
        if (Path(given) / "include").is_dir():
            return Path(given)
        raise Unavailable(f"BCC_KERNEL_SOURCE={given} is no kernel header tree; unset it, or run `make setup`")
    if (
        Path(f"/lib/modules/{os.uname().release}/build/include").is_dir()
        or Path("/sys/kernel/kheaders.tar.xz").exists()
    ):
        return None
    merged = cache_dir() / "headers"
    if (merged / "include").is_dir():
        return merged
    raise Unavailable(f"no kernel headers for bcc at {merged}; run `make setup`")


def _mount_tracefs() -> None:
    """Mount tracefs if nobody did; it stays mounted, as systemd would have it."""
    if any((folder / "events" / "sched").is_dir() for folder in (_DEBUG_TRACEFS, TRACEFS)):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tracefs", os.fsencode(TRACEFS), b"tracefs", 0, None) != 0:
        why = os.strerror(ctypes.get_errno())
        raise Unavailable(f"tracefs cannot be mounted: {why}; run `mount -t tracefs tracefs {TRACEFS}`")
    if not (TRACEFS / "events" / "sched").is_dir():
        raise Unavailable("this kernel has no scheduler tracepoints; boot one built with CONFIG_EVENT_TRACING")


def _send(process: subprocess.Popen[bytes], request: Any) -> None:
    """Write one line; stdin stays open, since its end tells the process to stop."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()


def _converse(process: subprocess.Popen[bytes], request: Any, seconds: float, ready: Callable[[], None]) -> bytes:
    """Send a request and read the answer's line; empty when the process ended instead."""
    assert process.stdout is not None
    _send(process, request)
    deadline = time.monotonic() + _START_S
    text = b""
    while not text.startswith(b"ready\n"):
        chunk = _read(process.stdout, deadline)
        if not chunk:
            return b""
        text += chunk
    ready()
    text = text.removeprefix(b"ready\n")
    deadline = time.monotonic() + seconds + _READ_S
    while not text.endswith(b"\n"):
        chunk = _read(process.stdout, deadline)
        if not chunk:
            return b""
        text += chunk
    return text


def _read(pipe: IO[bytes], deadline: float) -> bytes:
    poll = select.poll()  # not select(): an agent's descriptors may pass 1024
    poll.register(pipe, select.POLLIN)
    if not poll.poll(max(deadline - time.monotonic(), 0) * 1000):
        raise TimeoutError
    return os.read(pipe.fileno(), 1 << 16)


def _gist(noise: IO[bytes], code: int) -> str:
    """The line of bcc's noise that says most: the compiler's or verifier's first error, else the last one."""
    noise.seek(0)
    lines = [line.strip() for line in noise.read(1 << 20).splitlines() if line.strip()]
    telling = [line for line in lines if b"error:" in line or b"Failed" in line or b"Error" in line]
    chosen = (telling or lines or [f"exit status {code}".encode()])[0 if telling else -1]
    return printable(chosen, 300)


class _Reader:
    """Makes an Observation of the probe's answer."""

    def __init__(self, answer: Any, tree: dict[int, bytes]) -> None:
        self._answer = answer
        self._tree = tree
        self._stop: int = answer["stop"]
        self._samples: dict[Who, Sample] = {}
        self._dropped: int = answer["dropped"]
        self._known = {
            pid: (self._who(comm, cgroup, uid), known)
            for pid, comm, cgroup, uid, known, _woken, _wakeups in answer["tasks"]
            if known or comm
        }

    def observation(self, after: dict[int, int], before: dict[int, int]) -> Observation:
        """All of it; `before` and `after` are CPU → busy nanoseconds around the window."""
        self._groups()
        for cpu, stay in enumerate(self._answer["stays"]):
            if stay["since"]:
                self._unfinished(stay)
            else:
                self._never_switched(cpu, after.get(cpu, 0) - before.get(cpu, 0))
        for pid, _comm, _cgroup, _uid, _known, woken, wakeups in self._answer["tasks"]:
            if wakeups:
                self._waiting(pid, woken, wakeups)
        return Observation(self._stop - self._answer["start"], self._samples, self._dropped)

    def _groups(self) -> None:
        for comm, cgroup, uid, counts in self._answer["groups"]:
            sample = self._sample(self._who(comm, cgroup, uid))
            for name, value in counts.items():
                setattr(sample, name, getattr(sample, name) + value)
        for comm, cgroup, uid, slot, events in self._answer["buckets"]:
            sample = self._sample(self._who(comm, cgroup, uid))
            histogram = sample.latency if slot >> 16 == _LATENCY else sample.burst
            if histogram is not None:
                histogram[slot & 0xFFFF] += events

    def _unfinished(self, stay: dict[str, int]) -> None:
        """What was on a CPU when the window closed."""
        pid, ran = stay["pid"], self._stop - stay["since"]
        if pid in (0, self._answer["own"]):
            return
        sample = self._sample_of(pid)
        sample.cpu_ns += ran
        sample.cut.append(ran)
        for name in ("wakeups", "migrations", "forks"):
            setattr(sample, name, getattr(sample, name) + stay[name])
        if stay["latency"] != _NONE:
            self._latency(sample, stay["latency"])

    def _never_switched(self, cpu: int, busy_ns: int) -> None:
        """A CPU without a switch in the whole window is idle or one task's own; /proc/stat says which."""
        window = self._stop - self._answer["start"]
        pid = procfs.running_on(cpu) if busy_ns > window // 2 else None
        if pid is not None:
            sample = self._sample_of(pid)
            sample.cpu_ns += min(busy_ns, window)
            sample.cut.append(min(busy_ns, window))

    def _waiting(self, pid: int, woken: int, wakeups: int) -> None:
        """What was woken and had not run when the window closed."""
        if pid == self._answer["own"]:
            return
        sample = self._sample_of(pid)
        sample.wakeups = (sample.wakeups or 0) + wakeups
        if woken:
            self._latency(sample, self._stop - woken)

    @staticmethod
    def _latency(sample: Sample, value: int) -> None:
        sample.latency_ns += value
        if sample.latency is not None:
            sample.latency[bucket_of(value)] += 1

    def _sample_of(self, pid: int) -> Sample:
        """The sample a thread belongs to: what it was when it last left a CPU, else what /proc or its parent says."""
        who, counted = self._known.get(pid, (None, False))
        if not counted:
            who = procfs.who(pid) or who or _GONE
        sample = self._sample(who or _GONE)
        sample.tasks += not counted
        return sample

    def _sample(self, who: Who) -> Sample:
        return self._samples.setdefault(who, Sample.traced())

    def _who(self, comm: str, cgroup: int, uid: int) -> Who:
        return Who(comm.encode("latin-1"), self._tree.get(cgroup), uid)
