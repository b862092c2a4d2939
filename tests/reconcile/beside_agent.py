# SPDX-License-Identifier: Apache-2.0
"""A program: the agent in role all, with halves that only write down what they see, into the folder named first.

The planner's step lasts until there is a file `go`, and its step after that until the program is told to end. Nothing
else of the agent is another: its lock, its processes, its signals.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from controller import apikey
from controller.cli.context import LineReporter
from controller.reconcile import agent

FOLDER = Path(sys.argv[1])


def facts() -> str:
    """Of this process: its id, whether it holds a key, its nice value."""
    return f"{os.getpid()} {bool(apikey.hold())} {os.getpriority(os.PRIO_PROCESS, 0)}"


class Store:
    """Nothing ever happens in it."""

    def wait(self, timeout_s: float) -> bool:
        """All of the time."""
        time.sleep(min(timeout_s, 0.05))
        return False


class Planner:
    """Steps that last."""

    trouble = ""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._steps = 0

    def step(self) -> bool:
        """Until there is `go`."""
        self._steps += 1
        (FOLDER / "planner").write_text(facts())
        try:
            while not (FOLDER / "go").exists():
                time.sleep(0.02)
        finally:
            (FOLDER / f"planned-{self._steps}").touch()
        if (FOLDER / "fail").exists():
            raise ValueError("a fault")
        return False


class Node:
    """Steps that are counted."""

    behind = False
    has_news = False

    def __init__(self, *_: Any, **__: Any) -> None:
        self._steps = 0

    def step(self) -> None:
        """One more."""
        self._steps += 1
        (FOLDER / "node.new").write_text(f"{self._steps} {facts()}")
        (FOLDER / "node.new").rename(FOLDER / "node")

    def close(self) -> None:
        """Told."""
        (FOLDER / "closed").touch()


def main() -> int:
    """The agent's exit code."""
    apikey.hold()
    agent._planner = Planner  # type: ignore[assignment]
    agent._node = Node  # type: ignore[assignment]
    try:
        return agent.run(
            Store,  # type: ignore[arg-type]
            role="all", node_name="n", labels={}, once=False, interval_s=0.05, observe_s=1, observe_every_s=1,
            reporter=LineReporter(sys.stderr, enabled=True),
        )  # fmt: skip
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
