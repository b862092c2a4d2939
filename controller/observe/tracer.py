# SPDX-License-Identifier: Apache-2.0
"""The bcc observer: has `probe_process` trace a window; `reader` makes an Observation of what it counted."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from controller.errors import KernelError, ToolMissing
from controller.kernel import libbpf, schedext, topology
from controller.observe import cgroups, meters, reader
from controller.observe.names import printable
from controller.observe.sample import Observation, Reading, Unavailable
from controller.paths import cache_dir, data_dir

_START_S = 120  # compiling takes 0.3 s on a plain machine and a hundred times that on a loaded, emulated one
_READ_S = 60
PARTS = ("records.h", "queue.h", "sched.c")
"""The probes' text: bcc rewrites one text and no header, so these are put together in this order."""

_MOST_BYTES = 32 << 20
_CELL_BYTES, _GROUP_BYTES = 8, 96


@dataclass(frozen=True)
class Capacity:
    """Entries the kernel's maps hold. The memory is all taken while the probes are loaded.

    32768 threads in slots of 64 bytes (a power of two; as many as a quarter of them more spill into a hash map), 4096
    (name, cgroup, user) groups of 96 bytes and 65536 histogram cells of 8 bytes (a power of two) for each CPU: 3.4 MB
    and 0.9 MB for each CPU. From 64 CPUs on there are fewer cells, from 86 on fewer groups, so that each of the two
    stays within 32 MB.
    """

    tasks: int = 32768
    groups: int = 4096
    cells: int = 65536

    def sizes(self, cpus: int) -> dict[str, int]:
        """What the probes' text is compiled with, for `cpus` possible CPUs."""
        cells = self.cells
        while cells > 1024 and cells * cpus * _CELL_BYTES > _MOST_BYTES:
            cells //= 2
        groups = min(self.groups, max(_MOST_BYTES // (cpus * _GROUP_BYTES), 64))
        return {
            "tasks": self.tasks,
            "spilled": max(self.tasks // 4, 1),
            "groups": groups,
            "cells": cells,
            "cpus": cpus,
        }


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
        readings: list[Reading] = []

        def opened() -> None:
            readings.append(meters.read())
            ready()

        answer = self._trace(seconds, environment, opened, lambda: readings.append(meters.read()))
        tree |= cgroups.paths(cgroups.mount())  # containers may have come and gone meanwhile
        return reader.observation(answer, tree, *readings)

    def interrupt(self) -> None:
        """End the process under the thread that has a window open with it, which finds that out by itself."""
        if (process := self._process) is not None:
            process.kill()

    def close(self) -> None:
        """End the process, and with it the probes. No window may be open."""
        if self._process is not None:
            self._process.kill()
            with self._process:
                self._process = None
        self._noise.close()

    def _trace(
        self, seconds: float, environment: dict[str, str], opened: Callable[[], None], closed: Callable[[], None]
    ) -> Any:
        process = self._process or self._start(environment)
        try:
            text = _converse(process, seconds, opened, closed)
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
        places = topology.places()
        sizes = self._capacity.sizes(len(places))
        pairs = [[place.llc, place.node] for place in places]
        _send(self._process, {"text": _text(), "defines": _offsets(), "sizes": sizes, "places": pairs})
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


def _offsets() -> dict[str, int]:
    """Where the kernel has a thread's number and CPU, from its own BTF. Raises Unavailable without BTF."""
    try:
        btf = libbpf.Btf.from_file(schedext.VMLINUX_BTF)
    except (KernelError, ToolMissing) as error:
        raise Unavailable(f"tracing needs the kernel's BTF: {error.message}; {error.remedy}") from None
    pid, info, cpu = (
        btf.member("task_struct", "pid"),
        btf.member("task_struct", "thread_info"),
        btf.member("thread_info", "cpu"),
    )
    if pid is None or info is None or cpu is None:
        raise Unavailable("this kernel's BTF does not say where a thread's number and CPU are; boot another kernel")
    return {"PID_OFFSET": pid.offset, "CPU_OFFSET": info.offset + cpu.offset}


def _text() -> str:
    """The probes, each part's lines numbered as in its own file."""
    folder = data_dir("bpf") / "probes"
    return "".join(f'#line 1 "{part}"\n{(folder / part).read_text()}\n' for part in PARTS)


def _send(process: subprocess.Popen[bytes], request: Any) -> None:
    """Write one line; stdin stays open, since its end tells the process to stop."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()


def _converse(
    process: subprocess.Popen[bytes], seconds: float, opened: Callable[[], None], closed: Callable[[], None]
) -> bytes:
    """Ask for a window and read the answer's line; empty when the process ended instead."""
    assert process.stdout is not None
    _send(process, {"seconds": seconds})
    lines = _Lines(process.stdout)
    if not lines.next(time.monotonic() + _START_S):
        return b""
    opened()
    deadline = time.monotonic() + seconds + _READ_S
    if not lines.next(deadline):
        return b""
    closed()
    return lines.next(deadline)


class _Lines:
    """The lines of a pipe, each within a deadline."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._held = b""
        self._poll = select.poll()  # not select(): an agent's descriptors may pass 1024
        self._poll.register(pipe, select.POLLIN)

    def next(self, deadline: float) -> bytes:
        """The next line, whole; empty when the pipe ended before it did. Raises TimeoutError."""
        chunks = [self._held]
        while b"\n" not in chunks[-1]:
            if not self._poll.poll(max(deadline - time.monotonic(), 0) * 1000):
                raise TimeoutError
            chunk = os.read(self._pipe.fileno(), 1 << 16)
            if not chunk:
                return b""
            chunks.append(chunk)
        line, _, self._held = b"".join(chunks).partition(b"\n")
        return line


def _gist(noise: IO[bytes], code: int) -> str:
    """The line of bcc's noise that says most: the compiler's or verifier's first error, else the last one."""
    noise.seek(0)
    lines = [line.strip() for line in noise.read(1 << 20).splitlines() if line.strip()]
    telling = [line for line in lines if b"error:" in line or b"Failed" in line or b"Error" in line]
    chosen = (telling or lines or [f"exit status {code}".encode()])[0 if telling else -1]
    return printable(chosen, 300)
