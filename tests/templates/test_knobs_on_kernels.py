# SPDX-License-Identifier: Apache-2.0
"""Live knobs and the records of a scheduler on real kernels, through its maps as any user space sees them."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator

import pytest

from controller.kernel import knobs
from controller.kernel.microvm import Guest, VmShape, boot
from controller.render import knobs as knobs_of
from tests.kernel.conftest import kernel_image
from tests.templates import cases

pytestmark = pytest.mark.kernel

FIRST = bytes(4)
STATE = "cat /sys/kernel/sched_ext/root/ops /sys/kernel/sched_ext/enable_seq"


@pytest.fixture(scope="module", params=["oldest", "newest"])
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    with boot(kernel_image(request.param), VmShape(cores=2)) as booted:
        yield booted


def spin(comm: str, seconds: str) -> list[str]:
    return ["taskset", "1", "schedload", "--comm", comm, "spin", "1", seconds]


def shares(guest: Guest) -> float:
    """CPU time of gold / of lead over the next seconds on one CPU."""
    numbers = [guest.spawn(spin(comm, "1.5")) for comm in ("gold", "lead")]
    gold, lead = (sum(json.loads(guest.wait(n, 60).stdout)["cpu_ns"]) for n in numbers)
    return gold / lead


def test_weights_turn_round_while_it_runs_and_nonsense_is_read_within_the_range(guest: Guest) -> None:
    def classes(gold: int, lead: int) -> tuple[cases.TaskClass, ...]:
        return (
            cases.task_class(1, weight=gold, comm=("gold",)), cases.task_class(2, weight=lead, comm=("lead",))
        )  # fmt: skip

    before = cases.compiled("weighted-fair", *classes(400, 100)).object
    after = cases.compiled("weighted-fair", *classes(100, 400), parameters={"slice": "3ms"}).object
    assert knobs.code_digest(before) == knobs.code_digest(after) != ""
    guest.load(before)
    guest.attach()
    attached = guest.run(["sh", "-c", STATE], timeout_s=10).stdout
    assert guest.map_lookup(knobs.MAP, FIRST) == knobs.image(before)
    first = shares(guest)
    guest.map_update(knobs.MAP, FIRST, knobs.image(after))
    second = shares(guest)
    guest.map_update(knobs.MAP, FIRST, b"\xff" * len(knobs.image(after)))
    wild = shares(guest)
    guest.map_update(knobs.MAP, FIRST, bytes(len(knobs.image(after))))
    none = shares(guest)
    said = f"{first:.2f}, then {second:.2f}; all rows 2^64-1 {wild:.2f}, all rows 0 {none:.2f}"
    print(f"{guest.facts.release}: gold:lead with weights 400:100 {said}")
    assert guest.run(["sh", "-c", STATE], timeout_s=10).stdout == attached
    assert guest.status().exit is None
    assert first > 2
    assert second < 0.5
    assert 0.4 < wild < 2.5
    assert 0.4 < none < 2.5
    guest.detach()


def test_every_knob_of_every_template_is_a_row_of_its_map(guest: Guest) -> None:
    for name in cases.LIVE:
        template = cases.TEMPLATES[name]
        proposal = cases.proposal(template, *cases.mixed(3))
        listed = knobs_of(proposal, template)
        guest.load(cases.compiled(name, *cases.mixed(3)).object)
        raw = guest.map_lookup(knobs.MAP, FIRST)
        assert raw is not None
        rows = struct.unpack(f"<{len(raw) // 8}Q", raw)
        assert [rows[knob.index] for knob in listed] == [knob.value for knob in listed]
        assert all(knob.minimum <= knob.value <= knob.maximum for knob in listed)


def test_the_heartbeat_says_that_it_decides(guest: Guest) -> None:
    guest.load(cases.compiled("weighted-fair", *cases.mixed(1)).object)
    guest.attach()
    seen = []
    for _ in range(2):
        guest.run(spin("app1", "0.2"), timeout_s=20)
        raw = guest.map_lookup("schedctl_heartbeat", FIRST)
        assert raw is not None
        seen.append([sum(column) for column in zip(*struct.iter_unpack("<2Q", raw), strict=True)])
    guest.detach()
    assert 0 < seen[0][0] < seen[1][0]
    assert 0 < seen[0][1] < seen[1][1]


def test_a_stall_leaves_reason_message_and_dump(guest: Guest) -> None:
    """The kernel's watchdog throws it out: its dump of queues and tasks is kept, at most 4 KiB of it."""
    text = cases.source("weighted-fair").replace("fair_enqueue(p, t,", "if (0) fair_enqueue(p, t,")
    guest.load(cases.built(text.replace(".timeout_ms = 5000", ".timeout_ms = 1000")).object)
    guest.attach()
    guest.spawn(spin("gold", "2"))
    guest.spawn(spin("lead", "2"))
    end = time.monotonic() + 60
    while guest.status().state != "disabled" and time.monotonic() < end:  # ops.exit comes after `disabling`
        time.sleep(0.2)
    record, dump = guest.map_lookup("schedctl_exit", FIRST), guest.map_lookup("schedctl_exit_dump", FIRST)
    guest.detach()
    assert record is not None
    assert dump is not None
    assert struct.unpack_from("<Q", record)[0] == 1026  # SCX_EXIT_ERROR_STALL
    assert b"stall" in record[16:80]
    assert b"runnable" in dump
    assert len(dump) == 4096
    print(dump.split(b"\0")[0][:400].decode())
