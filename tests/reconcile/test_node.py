# SPDX-License-Identifier: Apache-2.0
"""What a node does while a window is open. Store and kernel are authored here; the windows are real threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.api import NodeScheduler, NodeStatus, Silent, SourceState
from controller.deploy import Actual
from controller.deploy.actual import Death
from controller.observe import Background, Continuous
from controller.reconcile.diff import NodeDecision
from controller.reconcile.node import NodeAgent
from tests.builders import actual, attachment, intent, node, policy, revision, source

POLICY, CHECKOUT = policy(), intent()
WANTED = revision("default-1", POLICY, (CHECKOUT,))
PROMOTED = actual(state="enabled", attached=attachment(WANTED))


class Repository:
    """Stands for the store."""

    def __init__(self, state: SourceState, *nodes: NodeScheduler) -> None:
        self.state, self._nodes = state, nodes
        self.written: list[NodeStatus] = []

    def read(self) -> SourceState:
        return self.state

    def nodes(self) -> tuple[NodeScheduler, ...]:
        return self._nodes

    def statuses(self) -> dict[Any, Any]:
        return {}

    def put_status(self, _writer: str, resources: list[NodeScheduler]) -> None:
        self.written += [r.status for r in resources if r.status is not None]


class Kernel:
    """Stands for the deployment: its words are authored, and what it is told to do is noted."""

    def __init__(self, says: Actual) -> None:
        self.says, self.did = says, []
        self.last_exit, self.events = None, ()

    def actual(self) -> Actual:
        return self.says

    def pulse(self) -> None:
        return None

    def event(self, *_told: str) -> None:
        pass

    def refresh_cgroups(self, _cgroups: object) -> None:
        pass

    def bury(self, death: Death) -> None:
        self.did.append(f"bury {death.revision}")
        self.says = self.says.model_copy(update={"died": None, "attached": None, "state": "disabled"})

    def promote(self, *, pin: bool) -> None:
        self.did.append(f"promote, pin {pin}")
        self.says = actual(state="enabled", attached=attachment(WANTED))

    def detach(self, why: str) -> None:
        self.did.append(f"detach: {why}")
        self.says = actual()

    def close(self) -> None:
        pass


class Node:
    """An agent whose windows close when they are let go; each sees a task of every intent that it looks for."""

    def __init__(self, folder: Path, repository: Repository, kernel: Kernel) -> None:
        self._let_go = threading.Semaphore(0)
        self._windows = Background(Continuous(folder, seconds=1, every_s=3600, take=self._take))
        self.agent = NodeAgent(
            repository,  # type: ignore[arg-type]
            kernel,  # type: ignore[arg-type]
            self._windows, name="n1", labels={}, reporter=Silent(),
        )  # fmt: skip

    def _take(self, _seconds: float, *, intents: Any, **_how: Any) -> Any:
        assert self._let_go.acquire(timeout=60)
        seen = node(matched=tuple(i.qualified_name for i in intents)).status
        assert seen is not None
        return seen.profile

    def close_window(self) -> None:
        self._let_go.release()
        self._windows._open.join(60)
        assert self.agent.has_news

    def observe(self) -> None:
        """Take in what the first window has seen."""
        self.agent.step()
        self.close_window()
        self.agent.step()
        assert not self.agent.behind

    def end(self) -> None:
        self._let_go.release(9)
        self.agent.close()


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Any]:
    begun: list[Node] = []

    def made(repository: Repository, kernel: Kernel) -> Node:
        begun.append(Node(tmp_path, repository, kernel))
        return begun[-1]

    yield made
    for each in begun:
        each.end()


def said(of: NodeStatus | NodeDecision) -> str:
    return next(c.reason for c in of.conditions if c.type == "Ready")


def test_a_scheduler_that_dies_while_the_first_window_is_open_is_buried_at_once(begin):
    death = Death(revision="default-1", object_digest="", passport_digest="", fault="Scheduler", reason="stalled")
    kernel = Kernel(PROMOTED)
    started = begin(Repository(source(POLICY, CHECKOUT, WANTED)), kernel)
    started.agent.step()
    kernel.says = actual(died=death)
    started.agent.step()
    assert kernel.did == ["bury default-1"]
    assert not started.agent.has_news


def test_a_probation_ends_while_the_first_window_is_open(begin):
    kernel = Kernel(actual(state="enabled", attached=attachment(WANTED, "Probation")))
    begin(Repository(source(POLICY, CHECKOUT, WANTED)), kernel).agent.step()
    assert kernel.did == ["promote, pin True"]


def test_a_profile_from_before_the_agent_attaches_and_detaches_nothing(begin):
    """The workload may be gone, or there with a name that the intents have had since."""
    kernel = Kernel(PROMOTED)
    repository = Repository(source(POLICY, intent("renamed"), WANTED), node())
    started = begin(repository, kernel)
    decision = started.agent.step()
    assert kernel.did == []
    assert started.agent.behind
    assert said(decision) == "Observing"
    started.close_window()
    started.agent.step()
    assert kernel.did == []
    assert not started.agent.behind
    assert said(repository.written[-1]) == "AwaitingRevision"


def test_what_the_last_agent_said_holds_until_there_is_more_to_say(begin):
    last = Repository(source(POLICY, CHECKOUT, WANTED))
    first = begin(last, Kernel(PROMOTED))
    first.agent.step()
    assert said(last.written[-1]) == "Observing"
    first.close_window()
    first.agent.step()
    left = node().model_copy(update={"status": last.written[-1]})
    assert said(last.written[-1]) == "Promoted"
    repository = Repository(source(POLICY, CHECKOUT, WANTED), left)
    begin(repository, Kernel(PROMOTED)).agent.step()
    assert repository.written == []


def test_other_intents_count_once_a_window_has_looked_for_them(begin):
    kernel, repository = Kernel(PROMOTED), Repository(source(POLICY, CHECKOUT, WANTED))
    started = begin(repository, kernel)
    started.observe()
    repository.state = source(POLICY, intent("renamed"), WANTED)
    for _ in range(2):
        decision = started.agent.step()
        assert said(decision) == "Promoted"
        assert started.agent.behind
    started.close_window()
    started.agent.step()
    assert said(repository.written[-1]) == "AwaitingRevision"
    assert kernel.did == []


def test_a_commit_is_followed_though_the_next_one_comes_before_its_window_has_closed(begin):
    """The attached revision serves nobody of the second commit, so that it goes, and not before its window."""
    kernel, repository = Kernel(PROMOTED), Repository(source(POLICY, CHECKOUT, WANTED))
    started = begin(repository, kernel)
    started.observe()
    repository.state = source(POLICY, WANTED)
    started.agent.step()
    repository.state = source(POLICY, intent("third"), WANTED)
    started.agent.step()
    assert kernel.did == []
    started.close_window()
    started.agent.step()
    assert started.agent.behind
    assert kernel.did == ["detach: no intent matches here"]


def test_a_policy_is_followed_while_a_window_is_open(begin):
    kernel, repository = Kernel(PROMOTED), Repository(source(POLICY, CHECKOUT, WANTED))
    started = begin(repository, kernel)
    started.observe()
    started._windows._watch._every_s = 0.0
    started.agent.step()
    repository.state = source(CHECKOUT, WANTED)
    started.agent.step()
    assert not started.agent.has_news
    assert kernel.did == ["detach: no policy selects this node"]


def test_a_policy_that_was_followed_stays_in_force_when_the_next_commit_has_other_intents(begin):
    kernel, repository = Kernel(PROMOTED), Repository(source(POLICY, CHECKOUT, WANTED))
    started = begin(repository, kernel)
    started.observe()
    suspended = policy(suspend=True)
    repository.state = source(suspended, CHECKOUT, WANTED)
    assert said(started.agent.step()) == "Suspended"
    repository.state = source(suspended, intent("renamed"), WANTED)
    assert said(started.agent.step()) == "Suspended"
    assert started.agent.behind
