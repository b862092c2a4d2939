# SPDX-License-Identifier: Apache-2.0
"""Reading the kernel's own words about sched_ext; the lines are those of real 6.16, 6.18 and 7.3 kernels."""

from __future__ import annotations

import pytest

from controller.errors import InputError, KernelError
from controller.kernel import schedext
from controller.kernel.loader import Scheduler
from controller.kernel.schedext import parse_exit

STALL_618 = [
    'sched_ext: BPF scheduler "loses_tasks" enabled',
    'sched_ext: BPF scheduler "loses_tasks" disabled (runnable task stall)',
    "sched_ext: loses_tasks: rcu_tasks_trace[33] failed to run for 2.696s",
    "   scx_watchdog_workfn+0x16a/0x1f0",
    "   process_one_work+0x18d/0x340",
]
STALL_73 = [
    "sched_ext: loses_tasks: watchdog timeout 2000ms <= rescue overload threshold 4096ms",
    'sched_ext: BPF scheduler "loses_tasks" enabled',
    'sched_ext: BPF scheduler "loses_tasks" disabled (runnable task stall)',
    "sched_ext: loses_tasks: kdamond.0[51] failed to run for 2.616s",
    "   scx_vexit+0x6d/0xa0",
]
INIT_616 = [
    'sched_ext: BPF scheduler "init_fails" disabled (runtime error)',
    "sched_ext: init_fails: ops.init() failed (-22)",
    "   scx_exit+0x50/0x70",
]
HOTPLUG = [
    "smpboot: CPU 1 is now offline",
    'sched_ext: BPF scheduler "good" disabled (unregistered from the main kernel)',
]


@pytest.mark.parametrize(
    ("lines", "message"),
    [(STALL_618, "rcu_tasks_trace[33] failed to run for 2.696s"), (STALL_73, "kdamond.0[51] failed to run for 2.616s")],
)
def test_a_stall_and_who_waited(lines, message):
    record = parse_exit(lines, "loses_tasks")
    assert record is not None
    assert (record.kind, record.kind_name, record.message) == (1026, "SCX_EXIT_ERROR_STALL", message)
    assert record.is_error
    assert not record.wants_restart


def test_an_error_in_init():
    record = parse_exit(INIT_616, "init_fails")
    assert record is not None
    assert (record.kind_name, record.message) == ("SCX_EXIT_ERROR", "ops.init() failed (-22)")


def test_hotplug_asks_for_a_restart():
    record = parse_exit(HOTPLUG, "good")
    assert record is not None
    assert record.kind_name == "SCX_EXIT_UNREG_KERN"
    assert record.code & schedext.ECODE_RSN_HOTPLUG
    assert record.wants_restart
    assert not record.is_error


@pytest.mark.parametrize("reason", [reason for _name, reason in schedext.EXIT_KINDS.values() if reason])
def test_every_reason_has_its_kind(reason):
    record = parse_exit([f'sched_ext: BPF scheduler "s" disabled ({reason})'], "s")
    assert record is not None
    assert schedext.EXIT_KINDS[record.kind] == (record.kind_name, reason)


def test_an_unknown_reason_counts_as_an_error():
    record = parse_exit(['sched_ext: BPF scheduler "s" disabled (sunspots)'], "s")
    assert record is not None
    assert (record.kind, record.reason) == (0, "sunspots")
    assert record.is_error


def test_another_schedulers_end_is_not_ours():
    assert parse_exit(STALL_618, "good") is None
    assert parse_exit([], "good") is None


def test_the_last_end_counts_and_messages_do_not_mix():
    record = parse_exit(
        [*INIT_616, 'sched_ext: BPF scheduler "init_fails" disabled (unregistered from user space)'], "init_fails"
    )
    assert record is not None
    assert (record.kind, record.message) == (64, "")
    record = parse_exit([*HOTPLUG, *STALL_618], "good")
    assert record is not None
    assert record.message == ""


def test_state_is_empty_without_sched_ext(monkeypatch, tmp_path):
    monkeypatch.setattr(schedext, "SYSFS", tmp_path)
    assert not schedext.supported()
    assert schedext.status() == schedext.SchedExtStatus("", "")
    assert schedext.enable_seq() == 0
    with pytest.raises(KernelError, match="no sched_ext"):
        schedext.require()


def test_status_names_only_the_scheduler_in_charge(monkeypatch, tmp_path):
    monkeypatch.setattr(schedext, "SYSFS", tmp_path)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "ops").write_text("fair\n")
    (tmp_path / "enable_seq").write_text("7\n")
    for state, name in (("enabled", "fair"), ("disabling", ""), ("disabled", "")):
        (tmp_path / "state").write_text(f"{state}\n")
        assert schedext.status() == schedext.SchedExtStatus(state, name)
    assert schedext.enable_seq() == 7


def test_no_btf_is_a_kernel_error(monkeypatch, tmp_path):
    monkeypatch.setattr(schedext, "VMLINUX_BTF", tmp_path / "none")
    with pytest.raises(KernelError, match="CONFIG_DEBUG_INFO_BTF"):
        schedext.btf_digest()


def test_without_sched_ext_nothing_loads(monkeypatch, tmp_path, objects):
    monkeypatch.setattr(schedext, "SYSFS", tmp_path)
    with pytest.raises(KernelError, match="no sched_ext"):
        Scheduler.load(objects["good"])


def test_what_is_no_file_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=f"cannot read {tmp_path}/none"):
        Scheduler.load(tmp_path / "none")
