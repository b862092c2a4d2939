# SPDX-License-Identifier: Apache-2.0
"""Two planners, one key, a lease in Git: how often both plan it.

Two processes start each round together, on one bare repository or on a clone each of it, and go on until a revision is
committed. Each has state, keys and caches of its own, as on two machines. Verifying takes a while, in which the other
comes upon the lease. The same without a lease shows what the rounds would find if there were none.

    python -m bench.planning.race SECONDS [no-lease]      one planner: a repository's folder a line, its answer a line
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.planning.fleet import Authored, Quiet, homes, repository
from bench.planning.questions import Question, of_scenario
from controller.api import RevisionTarget
from controller.reconcile import keys
from controller.reconcile.node import plan_outcomes
from controller.reconcile.planner import Planner
from controller.source import GitStore

ROUNDS, CONTROL_ROUNDS = 40, 6
VERIFYING_S = 0.4
QUESTION = of_scenario("service-beside-reports", "rules")
NO_LEASE = "no-lease"
_ROOT = Path(__file__).resolve().parents[2]
_MOST_S = 120.0
_MET = "another planner works on a plan"


class Nobody:
    """A lease that anybody gets."""

    def confirm(self) -> bool:
        """Always."""
        return True

    def release(self) -> None:
        """There is nothing to release."""


def one_round(folder: Path, target: RevisionTarget, seconds: float, *, leased: bool) -> dict[str, int]:
    """As one of the planners: candidates verified, and times that the other one was met."""
    store, told = GitStore(folder), Quiet()
    if not leased:
        store.lease = lambda key: Nobody()  # type: ignore[assignment,method-assign,return-value] # noqa: ARG005
    examine = Authored([target], seconds)
    planner = Planner(store, reporter=told, examine=examine)
    end = time.monotonic() + _MOST_S
    while time.monotonic() < end:
        planner.step()
        desired = store.read().desired
        if desired is not None and desired.revisions:
            break
        time.sleep(random.uniform(0, 0.02))
    return {"verified": examine.count, "met": sum(line.startswith(_MET) for line in told.lines)}


@contextmanager
def _planners(seconds: float, *, leased: bool) -> Iterator[list[subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "bench.planning.race", str(seconds), *([] if leased else [NO_LEASE])]
    environment = os.environ | {"PYTHONPATH": str(_ROOT)}
    with ExitStack() as stack:
        started = []
        for _ in range(2):
            process = subprocess.Popen(
                command, cwd=_ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            stack.callback(_ended, process)
            assert process.stdout is not None
            process.stdout.readline()  # it is ready
            started.append(process)
        yield started


def _ended(process: subprocess.Popen[str]) -> None:
    """Its input at an end is its end."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(timeout=2 * _MOST_S)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _at_once(processes: Sequence[subprocess.Popen[str]], folders: Sequence[Path]) -> list[dict[str, int]]:
    for process, folder in zip(processes, folders, strict=True):
        assert process.stdin is not None
        process.stdin.write(f"{folder}\n")
        process.stdin.flush()
    said = [process.stdout.readline() for process in processes if process.stdout is not None]
    return [json.loads(line) for line in said]


def measure(folder: Path, rounds: int = ROUNDS, *, leased: bool = True, seconds: float = VERIFYING_S) -> dict[str, Any]:
    """Rounds, those in which the planners met at the lease, and those in which both planned, or none did."""
    met = twice = never = left = 0
    with homes(folder / "homes"), _planners(seconds, leased=leased) as processes:
        for number in range(rounds):
            bare, folders = _repositories(folder / str(number), QUESTION, clones=bool(number % 2))
            said = _at_once(processes, folders)
            store = GitStore(bare)
            desired = store.read().desired
            revisions = len(desired.revisions) if desired is not None else 0
            planned = max(sum(each["verified"] for each in said), revisions, len(plan_outcomes(store.statuses())))
            met += any(each["met"] for each in said)
            twice += planned > 1
            never += planned < 1 or not revisions
            left += bool(store.repository.refs("refs/schedctl/lease"))
    return {
        "rounds": rounds, "met_at_the_lease": met, "planned_twice": twice, "never_planned": never, "leases_left": left,
    }  # fmt: skip


def _repositories(folder: Path, question: Question, *, clones: bool) -> tuple[Path, list[Path]]:
    """A bare repository with one node's profile, and where each planner works on it."""
    folder.mkdir(parents=True)
    bare = repository(folder, question, bare=True)
    GitStore(bare).put_status("n1", [question.node("n1")])
    if not clones:
        return bare, [bare, bare]
    own = [folder / "one", folder / "other"]
    for each in own:
        subprocess.run(["git", "clone", "-q", str(bare), str(each)], check=True, timeout=60)
    return bare, own


def main(arguments: Sequence[str]) -> int:
    """One planner, until its input ends."""
    seconds, leased = float(arguments[0]), NO_LEASE not in arguments[1:]
    target = keys.target_of(QUESTION.node("n1"))
    assert target is not None
    with tempfile.TemporaryDirectory() as own, homes(Path(own)):
        print("ready", flush=True)
        for line in sys.stdin:
            print(json.dumps(one_round(Path(line.strip()), target, seconds, leased=leased)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
