# SPDX-License-Identifier: Apache-2.0
"""CPU clocks from /proc/stat and /proc/schedstat, and capacities and places from sysfs."""

from __future__ import annotations

import pytest

from controller.kernel import kernel_btf, schedext, topology
from controller.observe import facts, meters
from controller.observe.sample import CpuClock, Reading
from tests.conftest import missing

STAT = """cpu  9 9 9 9 9 9 9 9 0 0
cpu0 10 20 30 400 5 6 7 8 0 0
cpu3 1 0 0 0 0 0 0 0 0 0
intr 5
"""
SCHEDSTAT = """version 17
timestamp 4295
cpu0 0 0 100 50 40 20 111222333 444555 60
domain0 MC 03 0 0 0
cpu3 0 0 1 1 1 1 1 77 1
"""


def test_clocks_of_each_cpu(tmp_path):
    (tmp_path / "stat").write_text(STAT)
    tick = meters._TICK_NS
    assert meters.cpu_clocks(tmp_path) == {
        0: CpuClock(60 * tick, 73 * tick, 8 * tick, None),
        3: CpuClock(tick, tick, 0, None),
    }
    (tmp_path / "schedstat").write_text(SCHEDSTAT)
    assert [clock.wait_ns for clock in meters.cpu_clocks(tmp_path).values()] == [444555, 77]


def test_stats_are_shares_of_the_span_and_ticks_may_run_backwards():
    then = {0: CpuClock(0, 100, 50, 1000), 1: CpuClock(0, 500, 0, None)}
    now = {0: CpuClock(0, 350, 100, 4000), 1: CpuClock(0, 400, 0, None), 2: CpuClock(0, 1, 0, None)}
    found = meters.cpus(Reading(0, then, {}), Reading(500, now, {}), {0: (5, 6)})
    assert [(c.cpu, c.busy_share, c.steal_share, c.wait_ns, c.depth) for c in found] == [
        (0, 0.5, 0.1, 3000, (5, 6)),
        (1, 0.0, 0.0, None, ()),
    ]


def test_this_hosts_cpus_are_all_there():
    reading = meters.read()
    assert len(reading.cpus) == topology.read().cpus
    assert all(clock.busy_ns >= clock.tasks_ns > 0 for clock in reading.cpus.values())


def test_places_and_capacities_of_a_machine_with_two_nodes(tmp_path):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "possible").write_text("0-3\n")
    for cpu, shared in enumerate(("0-1", "0-1", "2-3")):
        cache = tmp_path / "cpu" / f"cpu{cpu}" / "cache" / "index3"
        cache.mkdir(parents=True)
        (cache / "level").write_text("3\n")
        (cache / "shared_cpu_list").write_text(f"{shared}\n")
        (tmp_path / "cpu" / f"cpu{cpu}" / "cpu_capacity").write_text(f"{1024 if cpu else 512}\n")
    for node, cpus in {0: "0-1", 1: "2-3", 2: ""}.items():
        folder = tmp_path / "node" / f"node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(f"{cpus}\n")
    found = topology.places(tmp_path)
    assert [place.node for place in found] == [0, 0, 1, 1]
    assert found[0].llc == found[1].llc
    assert found[2].llc != found[0].llc
    assert topology.capacities(tmp_path) == {0: 512, 1: 1024, 2: 1024}
    assert topology.capacities(tmp_path / "none") == {}


def test_what_sched_ext_can_do_is_in_the_btf(tmp_path, monkeypatch):
    if not schedext.VMLINUX_BTF.exists():
        missing("/sys/kernel/btf/vmlinux", "boot a kernel built with CONFIG_DEBUG_INFO_BTF")
    found = facts.abilities()
    assert found is not None
    if schedext.supported():
        assert {"enqueue", "dispatch", "name"} <= set(found.ops)
        assert any(name.startswith("scx_bpf_dsq") for name in found.kfuncs)
        assert "SCX_OPS_SWITCH_PARTIAL" in found.flags
    else:
        assert found.ops == ()
    monkeypatch.setattr(schedext, "VMLINUX_BTF", tmp_path / "none")
    assert facts.abilities() is None
    (tmp_path / "broken").write_bytes(b"\x9f\xeb\x01\x00" + b"\xff" * 20)
    assert kernel_btf.sched_ext(tmp_path / "broken") is None


@pytest.mark.parametrize("text", ["", "some avg10= total=0\n"])
def test_pressure_that_says_nothing(tmp_path, text):
    (tmp_path / "cpu").write_text(text)
    assert facts.pressure(tmp_path).cpu is None
