# SPDX-License-Identifier: Apache-2.0
"""A cgroup of its own for something that is to be observed as one workload, for as long as it runs."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from controller.observe import cgroups

_GONE_S = 5.0


@dataclass(frozen=True)
class Place:
    """`workload` is what a profile calls it, `enter` a command that runs the words after it there."""

    workload: str
    enter: tuple[str, ...]


@contextlib.contextmanager
def own_cgroup(name: str) -> Iterator[Place | None]:
    """A new v2 cgroup, whose processes are killed at the end; None where none can be made (no v2, no right to it)."""
    mounted = cgroups.mount()
    folder = mounted / f"{name}-{os.getpid()}" if mounted is not None else None
    try:
        if folder is not None:
            folder.mkdir()
    except OSError:
        folder = None
    if folder is None:
        yield None
        return
    try:
        enter = ("sh", "-c", 'echo $$ > "$0" && exec "$@"', str(folder / "cgroup.procs"))
        yield Place(f"/{folder.name}", enter)
    finally:
        end = time.monotonic() + _GONE_S
        with contextlib.suppress(OSError):  # cgroup.kill is there from 5.14 on; without it the group has to be empty
            (folder / "cgroup.kill").write_text("1")
        while folder.exists() and time.monotonic() < end:
            with contextlib.suppress(OSError):
                folder.rmdir()
                break
            time.sleep(0.02)
