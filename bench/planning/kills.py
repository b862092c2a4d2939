# SPDX-License-Identifier: Apache-2.0
"""The ledger under `kill -9`: a planner is killed at one line of its way after another, and every call is looked for.

One process imports everything and forks for each point. The fork counts the lines that it executes in the modules that
ask and account, in each of its threads, and at the chosen one it is gone by SIGKILL: no handler, no flush. What was
sent is what the authored endpoint received, over loopback from the real SDK.

    python -m bench.planning.kills      the process that forks: `URL STATE-FOLDER POINT` a line, the exit code a line
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from types import FrameType
from typing import Any

from bench.planning.questions import ASKED, KEY, SMALL
from controller.plan import claude
from controller.plan.claude import tiers
from controller.plan.ledger import Call, Ledger, Usage, cost
from controller.plan.messages import Settings
from controller.plan.testing import MessagesServer, answer

STRIDE = 3
"""Lines from one kill point to the next."""
WATCHED = ("ledger.py", "messages.py", "asking.py")
USED = Usage(1200, 300)
_ROOT = Path(__file__).resolve().parents[2]
_LINES = "lines"
_LEDGER = "planner-ledger.jsonl"
_ARRIVED_S = 0.05
"""A request that was written before the kill is read by the endpoint by then."""


def unaccounted(sent: int, calls: Sequence[Call]) -> int:
    """Requests without a line of their own in the ledger."""
    return max(0, sent - len(calls))


def uncounted(sent: int, calls: Sequence[Call]) -> bool:
    """Whether the ledger counts fewer dollars than the requests were billed, had each been answered."""
    billed = cost(tiers.TIERS[0].model, USED)
    assert billed is not None
    return sum(call.counted_usd for call in calls) < billed * sent


def measure(folder: Path, stride: int = STRIDE) -> dict[str, Any]:
    """Kill points tried, calls sent at them, and how many of those no ledger knows."""
    with _zygote() as process:
        ended, sent = _run(process, folder / "whole", -1)
        assert (ended, sent) == (0, len(ASKED)), "a planner that nobody kills makes its plan"
        lines = int((folder / "whole" / _LINES).read_text(encoding="ascii"))
        tried = killed = calls_sent = lost = cheap = broken = 0
        where: set[tuple[int, int]] = set()
        for point in range(1, lines + 1, stride):
            state = folder / str(point)
            ended, sent = _run(process, state, point)
            ledger = Ledger(state / _LEDGER)
            calls = ledger.calls()
            tried, killed, calls_sent = tried + 1, killed + (ended == -signal.SIGKILL), calls_sent + sent
            lost, cheap = lost + unaccounted(sent, calls), cheap + uncounted(sent, calls)
            broken += not _goes_on(ledger)
            where.add((sent, sum(call.outcome == "answered" for call in calls)))
    return {
        "lines": lines, "points": tried, "killed": killed, "calls_sent": calls_sent, "calls_unaccounted": lost,
        "ledgers_that_count_too_little": cheap, "ledgers_that_do_not_go_on": broken,
        "moments": [f"{sent} sent, {answered} accounted as answered" for sent, answered in sorted(where)],
    }  # fmt: skip


def _goes_on(ledger: Ledger) -> bool:
    """Whether the next planner accounts beside what is there, a torn line or not."""
    before = ledger.calls()
    call = ledger.reserve(policy="next", limit_usd=1, estimate_usd=0.1, about={})
    ledger.settle(call, "failed", 0.0, {})
    after = ledger.calls()
    return after[: len(before)] == before and [c.call for c in after[len(before) :]] == [call]


def _run(process: subprocess.Popen[str], state: Path, point: int) -> tuple[int, int]:
    """How the planner that dies at `point` ended, and how many requests came."""
    state.mkdir(parents=True)
    said = SMALL.answers()
    used = {"input_tokens": USED.input, "output_tokens": USED.output}
    script = [answer(said[role], **used) for role in ASKED]
    # a client that is killed breaks its connection, of which the endpoint's threads would print a trace
    with redirect_stderr(io.StringIO()), MessagesServer(script) as server:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{server.base_url} {state} {point}\n")
        process.stdin.flush()
        code = int(process.stdout.readline())
        time.sleep(_ARRIVED_S)
        return code, len(server.requests)


@contextmanager
def _zygote() -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {"PYTHONPATH": str(_ROOT), "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.planning.kills"], env=environment, cwd=_ROOT, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait(timeout=60)
        process.stdout.close()


class Killer:
    """Counts executed lines, and kills the process at one of them."""

    def __init__(self, point: int) -> None:
        self.point = point
        self.lines = 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:  # noqa: ARG002 - as sys.settrace calls it
        """A trace function."""
        if not frame.f_code.co_filename.endswith(WATCHED):
            return None
        self.lines += event == "line"
        if self.lines == self.point:
            os.kill(os.getpid(), signal.SIGKILL)
        return self


def _plan(settings: Settings) -> None:
    claude.propose(SMALL.profile, SMALL.intents, SMALL.policy, SMALL.templates, SMALL.base, settings)


def _plan_and_die(url: str, state: str, point: int) -> None:
    os.environ["SCHEDCTL_STATE"] = state
    killer = Killer(point)
    threading.settrace(killer)
    sys.settrace(killer)
    _plan(Settings(key=KEY, base_url=url))
    sys.settrace(None)
    Path(state, _LINES).write_text(str(killer.lines), encoding="ascii")


def main() -> int:
    """Fork for each line of input."""
    with tempfile.TemporaryDirectory() as folder:  # what is loaded once is loaded before the forks
        os.environ["SCHEDCTL_STATE"] = folder
        said = SMALL.answers()
        with MessagesServer([answer(said[role]) for role in ASKED]) as server:
            _plan(Settings(key=KEY, base_url=server.base_url))
    for order in sys.stdin:
        url, state, point = order.split()
        child = os.fork()
        if not child:
            try:
                _plan_and_die(url, state, int(point))
            finally:
                os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
