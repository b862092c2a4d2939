# SPDX-License-Identifier: Apache-2.0
"""The ledger survives `kill -9` at any point: a real planner process kills itself at many lines of its way.

One process imports everything and forks for each point. The fork counts the lines that it executes in the modules which
ask and account, in each of its threads, and at the chosen one it is killed by SIGKILL: no handler, no flush.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from controller.plan.ledger import Ledger, Usage, cost
from controller.plan.testing import MessagesServer
from tests.plan import claude_case as case

POINTS = 45
ZYGOTE = """
import os, signal, sys, tempfile, threading
from pathlib import Path
import anthropic, httpx2
from controller.plan import claude
from controller.plan.messages import Settings
from tests import builders
from tests.plan import claude_case as case

WATCHED = ("ledger.py", "messages.py", "asking.py")
lines, point = 0, 0

def watch(frame, event, argument):
    if not frame.f_code.co_filename.endswith(WATCHED):
        return None
    global lines
    lines += event == "line"
    if lines == point:
        os.kill(os.getpid(), signal.SIGKILL)
    return watch

def plan(url, state):
    os.environ["SCHEDCTL_STATE"] = state
    threading.settrace(watch)
    sys.settrace(watch)
    ask(Settings(key=case.KEY, base_url=url))
    sys.settrace(None)
    Path(state, "lines").write_text(str(lines))

def ask(transport):
    return claude.propose(case.profile(), case.INTENTS, builders.policy(), case.TEMPLATES, case.base(), transport)

with tempfile.TemporaryDirectory() as folder:  # what is loaded once is loaded before the forks
    os.environ["SCHEDCTL_STATE"] = folder
    ask(case.Authored([case.strategy(), case.filling()]))

for order in sys.stdin:
    url, state, point = order.split()
    point = int(point)
    child = os.fork()
    if not child:
        try:
            plan(url, state)
        finally:
            os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def zygote() -> Iterator[subprocess.Popen[str]]:
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        [sys.executable, "-c", ZYGOTE], env=environment, cwd=root, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    yield process
    assert process.stdin is not None
    process.stdin.close()
    process.wait(timeout=60)
    _pipe(process.stdout).close()


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def _run(zygote: subprocess.Popen[str], state: Path, point: int) -> tuple[int, int]:
    """How the planner that dies at `point` ended, and how many requests it made."""
    state.mkdir()
    with MessagesServer(case.good()) as server:
        _pipe(zygote.stdin).write(f"{server.base_url} {state} {point}\n")
        _pipe(zygote.stdin).flush()
        code = int(_pipe(zygote.stdout).readline())
        return code, len(server.requests)


def test_no_call_is_lost_wherever_the_planner_is_killed(zygote: subprocess.Popen[str], tmp_path: Path) -> None:
    code, requests = _run(zygote, tmp_path / "whole", -1)
    assert (code, requests) == (0, 2)
    lines = int((tmp_path / "whole" / "lines").read_text())
    assert lines > 3 * POINTS
    billed = cost("claude-haiku-5-5", Usage(1200, 300))
    assert billed is not None
    seen: set[tuple[int, int]] = set()
    for point in range(1, lines, lines // POINTS):
        state = tmp_path / str(point)
        code, requests = _run(zygote, state, point)
        assert code == -9, f"it was killed at line {point} of {lines}"
        ledger = Ledger(state / "planner-ledger.jsonl")
        calls = ledger.calls()
        assert len(calls) >= requests, f"killed at line {point}: a request was made that is not in the ledger"
        assert sum(call.counted_usd for call in calls) >= billed * requests
        assert case.KEY not in (ledger.path.read_text() if ledger.path.exists() else "")
        day = "2026-01-01" if not calls else calls[0].at[:10]
        before = ledger.spent("default", day)
        ledger.settle(ledger.reserve(policy="q", limit_usd=1, estimate_usd=0.1, about={}), "failed", 0.0, {})
        assert ledger.spent("default", day) == before, "it goes on where it was, a torn line or not"
        assert all(json.loads(line) for line in ledger.path.read_text().splitlines()[-2:])
        seen.add((requests, sum(call.outcome == "answered" for call in calls)))
    assert {(0, 0), (1, 0), (1, 1), (2, 1), (2, 2)} <= seen, "before, in and after each of the two calls"
