# SPDX-License-Identifier: Apache-2.0
"""The ledger: a call is counted whatever happens to the process, and two planners do not spend the same dollar."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from controller.plan.ledger import PRICES, Ledger, OverBudget, Usage, cost, most
from controller.plan.testing import MessagesServer, slow
from tests.plan import claude_case as case


def _today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "planner-ledger.jsonl")


def test_a_call_counts_by_its_estimate_until_its_bill_is_known(ledger: Ledger) -> None:
    call = ledger.reserve(policy="p", limit_usd=1, estimate_usd=0.4, about={})
    assert ledger.spent("p", _today()) == 0.4
    ledger.settle(call, "answered", 0.1, {})
    assert ledger.spent("p", _today()) == 0.1
    other = ledger.reserve(policy="p", limit_usd=1, estimate_usd=0.4, about={})
    ledger.settle(other, "failed", None, {})
    assert ledger.spent("p", _today()) == 0.5


def test_the_budget_is_a_policys_and_a_days(ledger: Ledger) -> None:
    ledger.reserve(policy="p", limit_usd=1, estimate_usd=0.7, about={})
    with pytest.raises(OverBudget, match="may cost"):
        ledger.reserve(policy="p", limit_usd=1, estimate_usd=0.7, about={})
    ledger.reserve(policy="q", limit_usd=1, estimate_usd=0.7, about={})
    assert ledger.spent("p", "2001-01-01") == 0


@pytest.mark.parametrize("torn", ['{"call":"a","phase":"bef', "", "not json\n", '{"call":"a"}', "[1]\n", "\xff"])
def test_a_torn_line_neither_counts_nor_spoils_the_next(ledger: Ledger, torn: str) -> None:
    ledger.path.write_bytes(torn.encode("latin-1"))
    call = ledger.reserve(policy="p", limit_usd=1, estimate_usd=0.25, about={})
    assert ledger.spent("p", _today()) == 0.25
    assert json.loads(ledger.path.read_bytes().splitlines()[-1])["call"] == call


def test_a_bill_torn_by_a_kill_leaves_the_estimate(ledger: Ledger) -> None:
    call = ledger.reserve(policy="p", limit_usd=1, estimate_usd=0.25, about={})
    ledger.settle(call, "answered", 0.01, {})
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole[:-10])
    assert ledger.spent("p", _today()) == 0.25


PLAN = """
from controller.plan import claude
from controller.plan.messages import Settings
from tests import builders
from tests.plan import claude_case as case
import sys
claude.propose(case.profile(), case.INTENTS, builders.policy(), case.TEMPLATES, case.base(),
               Settings(key=case.KEY, base_url=sys.argv[1]))
"""


def test_a_planner_killed_in_mid_call_leaves_the_call_on_record(tmp_path: Path) -> None:
    """A real planner process is killed with SIGKILL while the endpoint holds its answer back."""
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"SCHEDCTL_STATE": str(tmp_path), "PYTHONPATH": str(root)}
    with MessagesServer([slow(case.good()[0], delay_s=60)]) as server:
        planner = subprocess.Popen([sys.executable, "-c", PLAN, server.base_url], env=environment, cwd=root)
        try:
            assert server.wait_for_request(timeout_s=60), "the planner has asked"
        finally:
            planner.send_signal(signal.SIGKILL)
            planner.wait(timeout=60)
    (line,) = case.lines(tmp_path)
    assert line["phase"] == "before"
    assert line["model"] in PRICES
    ledger = Ledger(tmp_path / "planner-ledger.jsonl")
    assert ledger.spent("default", line["at"][:10]) == line["estimateUsd"] > 0


def _spend(path: Path, made: multiprocessing.Queue[int]) -> None:
    ledger, calls = Ledger(path), 0
    for _ in range(20):
        try:
            ledger.settle(ledger.reserve(policy="p", limit_usd=1, estimate_usd=0.1, about={}), "failed", None, {})
        except OverBudget:
            continue
        calls += 1
    made.put(calls)


def test_planners_side_by_side_do_not_spend_the_same_dollar(ledger: Ledger) -> None:
    context = multiprocessing.get_context("fork")
    made = context.Queue()
    planners = [context.Process(target=_spend, args=(ledger.path, made)) for _ in range(4)]
    for planner in planners:
        planner.start()
    for planner in planners:
        planner.join(timeout=60)
    assert sum(made.get(timeout=10) for _ in planners) in (9, 10)  # ten times 0.1 is a little more than 1
    assert ledger.spent("p", _today()) <= 1.0


def test_a_planner_waits_for_the_one_that_is_reckoning(ledger: Ledger) -> None:
    ledger.reserve(policy="p", limit_usd=1, estimate_usd=0.3, about={})
    ended: list[Exception] = []

    def second() -> None:
        try:
            ledger.reserve(policy="p", limit_usd=1, estimate_usd=0.3, about={})
        except OverBudget as error:
            ended.append(error)

    planner = threading.Thread(target=second)
    with ledger.path.open("a") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        planner.start()
        planner.join(timeout=0.3)
        assert planner.is_alive(), "it read the spend while another was about to add to it"
        line = {"call": "x", "phase": "before", "at": f"{_today()}T00:00:00Z", "policy": "p", "estimateUsd": 0.6}
        first.write(json.dumps(line) + "\n")
    planner.join(timeout=60)
    assert len(ended) == 1


def test_the_ledger_is_the_owners_alone(ledger: Ledger) -> None:
    ledger.reserve(policy="p", limit_usd=1, estimate_usd=0.1, about={})
    assert ledger.path.stat().st_mode & 0o777 == 0o600


def test_prices() -> None:
    usage = Usage(input=1_000_000, output=1_000_000, cached=1_000_000, written=1_000_000)
    assert cost("claude-sonnet-5-5", usage) == pytest.approx(2 + 10 + 0.10 + 2.50)
    assert cost("claude-unheard-of", usage) is None
    assert most("claude-unheard-of", 1, 1) is None


@pytest.mark.parametrize("model", PRICES)
def test_the_estimate_is_not_below_what_the_same_call_can_cost(model: str) -> None:
    estimate = most(model, 10_000, 8192)
    assert estimate is not None
    for usage in (Usage(10_000, 8192), Usage(0, 8192, written=10_000), Usage(0, 8192, cached=10_000)):
        billed = cost(model, usage)
        assert billed is not None
        assert 0 < billed <= estimate
