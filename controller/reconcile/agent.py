# SPDX-License-Identifier: Apache-2.0
"""`schedctl agent run`: the loop around the node's half, the planner's half, or both.

One agent a node: a lock in the state directory refuses a second. SIGTERM and SIGINT end the loop after the current
step; a scheduler on probation then goes, a promoted one stays. With `once` the loop ends as soon as nothing is left to
do now: a window that looks for the intents is waited for, and so is a probation that runs (it cannot outlive this
process); a plan that another process owes is not.

A plan takes minutes, and the node must be looked after meanwhile; so with role all the planner's half has a process of
its own (reconcile/beside.py), and the two are what they are on two machines. This process, which talks to the kernel,
then holds no key and goes before the load; the planner with its compilers and guests does neither. With `once` they
take turns in one process, and the planner waits until the node has looked for the intents.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal, TextIO

from controller import apikey, paths
from controller.api import Reporter, Store
from controller.errors import InputError, RepositoryError
from controller.reconcile.beside import Beside
from controller.reconcile.diff import NodeDecision

if TYPE_CHECKING:
    from controller.reconcile.node import NodeAgent
    from controller.reconcile.planner import Planner

Role = Literal["node", "planner", "all"]


def run(
    open_store: Callable[[], Store],
    *,
    role: Role,
    node_name: str,
    labels: Mapping[str, str],
    once: bool,
    interval_s: float,
    observe_s: float,
    observe_every_s: float,
    force_procfs: bool = False,
    reporter: Reporter,
) -> int:
    """Run until told to stop (exit 0), or with `once` until there is nothing left to do.

    Then the exit code is 0 if the node is Ready and the planner's commit good, else 1. It is 1, too, when the process
    of the planner's half ended by itself.
    """
    state = paths.state_dir()
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(_only_one(state / f"{role}.lock", role))
        received = stack.enter_context(_stoppable())
        store = open_store()
        beside = None
        if role == "all" and not once:

            def planning(stopped: Callable[[], bool]) -> int:
                lock.close()  # it is the node's: who guards a node next need not wait for a plan to end
                own = open_store()
                planner = _planner(own, reporter)
                return _loop(own, planner, None, stopped, once=False, interval_s=interval_s, reporter=reporter)

            beside = stack.enter_context(Beside(planning, reporter))
        planner = _planner(store, reporter) if role != "node" and beside is None else None
        node = None
        if role != "planner":
            if planner is None:
                apikey.forget()  # a node plans nothing
                _go_before_the_load()
            node = _node(store, state, node_name, labels, observe_s, observe_every_s, force_procfs, reporter)
            stack.callback(node.close)

        def stopped() -> bool:
            return bool(received) or (beside is not None and beside.ended)

        code = _loop(store, planner, node, stopped, once=once, interval_s=interval_s, reporter=reporter)
        if beside is not None and beside.ended and not received:
            reporter.failed("the planner's half of this agent ended by itself, and so does this one")
            return 1
        return code


def _loop(
    store: Store,
    planner: Planner | None,
    node: NodeAgent | None,
    stopped: Callable[[], bool],
    *,
    once: bool,
    interval_s: float,
    reporter: Reporter,
) -> int:
    """Pass after pass of the halves that are here; the exit code."""
    while not stopped():
        planned, decision = _pass(planner, node, reporter)
        behind = node is not None and node.behind
        if once and not planned and not behind and not _unfinished(decision):
            good = planner is None or not planner.trouble
            return 0 if good and (decision is None or _is(decision, "Ready")) else 1
        if not planned:
            _wait(store, min(interval_s, 1.0) if _unfinished(decision) else interval_s, stopped, node)
    return 0


def _planner(store: Store, reporter: Reporter) -> Planner:
    from controller.reconcile.planner import Planner  # compilers and model clients: a node has no use for them

    return Planner(store, reporter=reporter)


def _node(
    store: Store,
    state: Path,
    name: str,
    labels: Mapping[str, str],
    observe_s: float,
    observe_every_s: float,
    force_procfs: bool,
    reporter: Reporter,
) -> NodeAgent:
    from controller.deploy import Deployment
    from controller.observe import Background, Continuous
    from controller.reconcile.node import NodeAgent

    windows = Continuous(state / "profiles", seconds=observe_s, every_s=observe_every_s, force_procfs=force_procfs)
    return NodeAgent(store, Deployment(state), Background(windows), name=name, labels=labels, reporter=reporter)


def _go_before_the_load() -> None:
    """The guard of a node must get the CPU when the node is busiest; without the right to it, it goes on as it is."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -15)


def _wait(store: Store, seconds: float, stopped: Callable[[], bool], node: NodeAgent | None) -> None:
    """Until something changed, the time is over, or, looked for once a second, a window has closed or it shall stop."""
    end = time.monotonic() + seconds
    while not stopped() and (left := end - time.monotonic()) > 0:
        if store.wait(min(left, 1.0)) or (node is not None and node.has_news):
            return


def _pass(planner: Planner | None, node: NodeAgent | None, reporter: Reporter) -> tuple[bool, NodeDecision | None]:
    """One step of each half; a repository that fails for a moment is said and tried again, never fatal."""
    planned, decision = False, None
    try:
        if node is not None:
            decision = node.step()
        if planner is not None and not (node is not None and node.behind):
            planned = planner.step()
    except RepositoryError as error:
        reporter.failed(str(error))
        time.sleep(1)
    return planned, decision


def _unfinished(decision: NodeDecision | None) -> bool:
    """Whether the node is in the middle of something that it will finish by itself.

    A probation counts whatever else is wrong: after a roll back the node is Stalled, and what it went back to would be
    dropped if this process ended now.
    """
    if decision is None:
        return False
    reasons = {c.type: c.reason for c in decision.conditions}
    on_probation = reasons.get("Attached") == "Probation"
    return on_probation or reasons.get("Ready") in ("Attaching", "Tuning", "SchedulerDied")


def _is(decision: NodeDecision, kind: str) -> bool:
    return any(c.type == kind and c.status == "True" for c in decision.conditions)


@contextlib.contextmanager
def _only_one(lock: Path, role: Role) -> Iterator[TextIO]:
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        raise InputError(
            f"cannot keep the agent's state in {lock.parent}: {error.strerror}",
            remedy="run as root, or set SCHEDCTL_STATE to a writable folder",
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"another schedctl agent (role {role}) runs on this machine",
                remedy="stop it first; `schedctl status` shows what it does",
            ) from None
        yield file


@contextlib.contextmanager
def _stoppable() -> Iterator[list[int]]:
    """A list that SIGTERM and SIGINT fill. The second signal is not held back."""
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    old = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
