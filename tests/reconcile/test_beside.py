# SPDX-License-Identifier: Apache-2.0
"""Role all: the node is looked after while a plan goes on, and both halves end, however they are told to."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controller.apikey import VARIABLE

ROOT = Path(__file__).parents[2]


def until(what: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether it runs: one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Agent:
    """The program beside_agent.py, and what its halves have written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        environment = {**os.environ, "SCHEDCTL_STATE": str(folder / "state"), VARIABLE: "sk-ant-nobody"}
        program = [sys.executable, "-m", "tests.reconcile.beside_agent", str(folder)]
        with (folder / "said").open("w") as said:
            self.process = subprocess.Popen(program, cwd=ROOT, env=environment, stderr=said, start_new_session=True)
        until(lambda: self.has("planner") and self.has("node"))

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def node(self) -> list[str]:
        return (self.folder / "node").read_text().split()

    def planner(self) -> list[str]:
        until(lambda: (self.folder / "planner").read_text() != "")
        return (self.folder / "planner").read_text().split()

    @property
    def planner_pid(self) -> int:
        return int(self.planner()[0])

    def ends(self) -> int:
        return self.process.wait(20)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    started = Agent(tmp_path)
    yield started
    with contextlib.suppress(ProcessLookupError):
        os.killpg(started.process.pid, signal.SIGKILL)
    started.ends()


def test_the_node_is_looked_after_while_a_plan_goes_on(agent: Agent) -> None:
    steps = int(agent.node()[0])
    until(lambda: int(agent.node()[0]) > steps + 3)
    assert not agent.has("planned-1")


def test_the_key_is_the_planners_and_the_node_goes_before_the_load(agent: Agent) -> None:
    _, pid, key, nice = agent.node()
    assert int(pid) == agent.process.pid != agent.planner_pid
    here = os.getpriority(os.PRIO_PROCESS, 0)
    assert (key, int(nice)) == ("False", -15 if os.geteuid() == 0 else here)
    assert agent.planner()[1:] == ["True", str(here)]


@pytest.mark.parametrize("told", ["the agent", "all its processes", "by Ctrl-C"])
def test_told_to_end_the_node_does_at_once_and_the_planner_after_its_step(agent: Agent, told: str) -> None:
    planner = agent.planner_pid
    match told:
        case "the agent":
            agent.process.terminate()
        case "all its processes":
            os.killpg(agent.process.pid, signal.SIGTERM)
        case _:
            os.killpg(agent.process.pid, signal.SIGINT)
    until(lambda: agent.has("closed"))
    time.sleep(0.3)
    assert alive(planner)
    assert not agent.has("planned-1")
    (agent.folder / "go").touch()
    assert agent.ends() == 0
    assert not alive(planner)
    assert not agent.has("planned-2")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_planner_amid_its_step_and_what_it_began_is_put_away(
    agent: Agent, number: signal.Signals
) -> None:
    planner = agent.planner_pid
    os.killpg(agent.process.pid, number)
    until(lambda: agent.has("closed"))
    time.sleep(0.3)
    os.killpg(agent.process.pid, number)
    assert agent.ends() == 130
    assert not alive(planner)
    assert agent.has("planned-1")
    assert not agent.has("go")
    assert "Traceback" not in (agent.folder / "said").read_text()


def test_killed_it_leaves_no_planner_that_goes_on_and_another_agent_may_begin_at_once(agent: Agent) -> None:
    planner = agent.planner_pid
    agent.process.kill()
    agent.ends()
    assert alive(planner)
    (agent.folder / "planner").unlink()
    (agent.folder / "node").unlink()
    next_one = Agent(agent.folder)
    try:
        (agent.folder / "go").touch()
        until(lambda: not alive(planner))
    finally:
        next_one.process.terminate()
        assert next_one.ends() == 0


@pytest.mark.parametrize("how", ["killed", "a fault"])
def test_it_does_not_go_on_without_its_planner(agent: Agent, how: str) -> None:
    if how == "killed":
        os.kill(agent.planner_pid, signal.SIGKILL)
    else:
        (agent.folder / "fail").touch()
        (agent.folder / "go").touch()
    assert agent.ends() == 1
    assert agent.has("closed")
    assert "the planner's half of this agent ended by itself" in (agent.folder / "said").read_text()
