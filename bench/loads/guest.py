# SPDX-License-Identifier: Apache-2.0
"""A bench inside a node VM: the same program on the newest sched_ext kernel, its JSON brought back.

The guest has this machine's file system, read-only, so the bench finds all it needs; it is told to print its result
alone, and whoever started it keeps the file.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from controller.errors import SchedctlError
from controller.kernel import images, nodevm
from loads import conditions, other_load

PRINT_ALONE = "-"
"""As --name: keep no file."""


def run(script: Path, arguments: Sequence[str], *, timeout_s: float) -> dict[str, Any]:
    """What the bench prints when it runs in a node VM with these arguments; the VM is gone afterwards.

    `conditions` of the result then are this machine's, on which the guest's CPUs are threads. SystemExit where there is
    no VM to be had, or the bench prints no result there.
    """
    before = other_load()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # not to leave a VM behind
    try:
        node = nodevm.start(f"bench-{os.getpid()}", kernel=images.resolve("newest"), reporter=_say)
        try:
            command = [sys.executable, str(script.resolve()), *arguments, "--name", PRINT_ALONE]
            done = node.exec(command, timeout_s=timeout_s, stderr=_pass_on, cwd=str(script.resolve().parents[1]))
        finally:
            node.stop()
    except SchedctlError as error:
        raise SystemExit(f"no result from a guest: {error}") from error
    lines = done.stdout.decode().splitlines()
    try:
        result = json.loads(lines[-1])
    except (IndexError, ValueError):
        raise SystemExit(f"{script.name} printed no result in the guest (exit status {done.exit_code})") from None
    assert isinstance(result, dict)
    return result | {"conditions": f"on the host of the guest, {conditions(before, other_load())}"}


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _pass_on(chunk: bytes) -> None:
    sys.stderr.buffer.write(chunk)
    sys.stderr.flush()
