# SPDX-License-Identifier: Apache-2.0
"""Windows beside the agent: nobody waits for one, and what they see is told once."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from controller.observe import Background
from tests.conftest import missing
from tests.observe.test_continuous import Clock, Script, continuous, profile, reasons
from tests.observe.test_grouping import intent

A, B = intent("a", comm=["x"]), intent("b", comm=["y"])


class Held:
    """Windows that stay open until they are let go."""

    def __init__(self, script: Script) -> None:
        self.script, self.begun, self.let_go = script, threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, seconds, **how):
        self.begun.release()
        assert self.let_go.acquire(timeout=30)
        return self.script(seconds, **how)


def closes(background: Background) -> None:
    """Wait for the end of the window that is open."""
    background._open.join(30)
    assert background.closed


def test_nobody_waits_for_a_window_and_it_is_told_once(tmp_path):
    watch = Background(continuous(tmp_path, held := Held(Script(profile()))))
    assert not watch.covers([A])
    assert watch.poll("n1", [A]) is None
    assert held.begun.acquire(timeout=30)
    assert watch.poll("n1", [A]) is None
    assert not watch.closed
    held.let_go.release()
    closes(watch)
    assert not watch.covers([A])  # until it is taken in
    assert watch.poll("n1", [A]).profile == profile()
    assert watch.covers([A])
    assert watch.poll("n1", [A]) is None
    assert not held.begun.acquire(blocking=False)  # the next one is not due


def test_the_next_window_looks_for_the_intents_that_changed_meanwhile(tmp_path):
    watch = Background(continuous(tmp_path, held := Held(Script(profile())), clock := Clock()))
    watch.poll("n1", [A])
    assert watch.poll("n1", [A, B]) is None
    held.let_go.release()
    closes(watch)
    assert watch.poll("n1", [A, B]).profile == profile()
    assert watch.covers([A])
    assert not watch.covers([A, B])
    held.let_go.release()
    closes(watch)  # it was opened at once
    assert watch.poll("n1", [A, B]).profile == profile()
    assert watch.covers([A, B])
    clock.now += 60
    assert watch.poll("n1", [A, B]) is None
    assert watch.covers([A, B])  # while the next one is open
    held.let_go.release()
    closes(watch)


def test_what_observing_cannot_cope_with_reaches_the_agent(tmp_path):
    watch = Background(continuous(tmp_path, Script(ZeroDivisionError("authored"))))
    watch.poll("n1", [])
    closes(watch)
    with pytest.raises(ZeroDivisionError, match="authored"):
        watch.poll("n1", [])


def test_how_steady_the_load_is_comes_with_the_window(tmp_path):
    watch = Background(continuous(tmp_path, Script(profile())))
    assert watch.steadiness.message == ""
    watch.poll("n1", [])
    closes(watch)
    assert watch.steadiness.message == ""
    watch.poll("n1", [])
    assert watch.steadiness.message.startswith("1 of ")


def test_without_rights_to_trace_it_ends_amid_a_window_of_proc(tmp_path):
    watch = Background(continuous(tmp_path, force_procfs=True))
    watch.poll("n1", [])
    watch.close()
    closes(watch)


@pytest.mark.bcc
def test_closed_amid_a_window_it_leaves_no_process(tmp_path: Path):
    if os.geteuid() != 0:
        missing("root", "run as root")
    windows = continuous(tmp_path)
    if (seen := windows.observe("n1", [])).profile.observer != "bcc":
        missing(f"a bcc that can trace this host: {seen.profile.degraded}", "schedctl doctor")
    process = windows._probes._process
    windows._seconds = 30.0
    watch = Background(windows)
    watch.poll("n1", [A])
    assert process.poll() is None
    watch.close()
    assert process.poll() is not None
    assert windows._probes._process is None
    assert reasons(seen) == []
