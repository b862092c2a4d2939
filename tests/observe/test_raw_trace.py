# SPDX-License-Identifier: Apache-2.0
"""The raw events that bench/accuracy.py compares with: the ring buffer's pages are read as the kernel wrote them."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.observe.loads import WAKER, running

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from loads import trace

pytestmark = pytest.mark.alone
NAME = b"raw-trace-waker"


@pytest.fixture(autouse=True, scope="module")
def _tracefs():
    trace.mount()
    if not (trace.TRACING / "instances").is_dir():
        missing("tracefs, and the right to use it", "run as root, on a kernel with CONFIG_FTRACE")


def test_events_are_whole_in_order_and_of_the_clock_that_the_probes_use():
    record_names = (trace.TRACING / "options" / "record-cmd").read_text()
    with running(NAME, WAKER) as process:
        before = time.monotonic_ns()
        with trace.recorded(("sched_switch", "sched_waking")) as recording:
            time.sleep(0.5)
        after = time.monotonic_ns()
    events = recording.events
    assert before <= events[0].at <= events[-1].at <= after
    assert [event.at for event in events] == sorted(event.at for event in events)
    assert {event.name for event in events} == {"sched_switch", "sched_waking"}
    name = NAME.decode()
    left = [event for event in events if event.fields.get("prev_comm") == name]
    assert len(left) > 3
    assert {event.fields["prev_pid"] for event in left} == {process.pid}
    assert any(event.fields["prev_state"] == 1 for event in left), "it sleeps"
    woken = [event for event in events if event.name == "sched_waking" and event.fields["comm"] == name]
    assert {event.fields["pid"] for event in woken} == {process.pid}
    assert not list((trace.TRACING / "instances").glob("schedctl-bench-*"))
    assert (trace.TRACING / "options" / "record-cmd").read_text() == record_names
