# SPDX-License-Identifier: Apache-2.0
"""What the loader does with good and bad schedulers, on real kernels (the loader runs in the guest as on a node)."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import pytest

from controller.errors import InputError, KernelError, LoadRefused
from controller.kernel import schedext
from controller.kernel.microvm import Guest

pytestmark = pytest.mark.kernel

BPFFS = "/sys/fs/bpf/schedctl"


@pytest.fixture(autouse=True)
def kernels_own_scheduler(guest: Guest):
    """Each test leaves the guest on the kernel's own scheduler."""
    yield
    guest.detach()
    assert guest.status().state == "disabled"


def load(guest: Guest, objects: dict[str, Path], name: str, timeout_ms: int | None = None):
    return guest.load(objects[name].read_bytes(), timeout_ms=timeout_ms)


def wait_for_exit(guest: Guest, ops: str, deadline_s: float = 30.0) -> schedext.ExitRecord:
    end = time.monotonic() + deadline_s
    while (record := guest.status().exit) is None:
        assert time.monotonic() < end, f"{ops} is still there"
        time.sleep(0.2)
    return record


def python(guest: Guest, objects: dict[str, Path], body: str, name: str = "good") -> list[str]:
    """Run `body` in a Python process of the guest, with the loader and OBJECT at hand; returns what it printed."""
    guest.write_file("/tmp/object.b64", base64.b64encode(objects[name].read_bytes()).decode())
    prelude = (
        "import base64, os, signal, sys; sys.path.insert(0, '/opt/schedctl')\n"
        "from pathlib import Path\n"
        "from controller.kernel import loader, schedext\n"
        f"HERE, OBJECT = Path('{BPFFS}'), base64.b64decode(Path('/tmp/object.b64').read_text())\n"
    )
    done = guest.run(["python3", "-I", "-S", "-u", "-c", prelude + body], timeout_s=60)
    assert done.stderr == ""
    return done.stdout.split()


def test_a_good_scheduler_runs_and_leaves(guest, objects):
    report = load(guest, objects, "good")
    assert report.ops_name == "good"
    assert [program.name for program in report.programs] == ["good_enqueue"]
    assert report.programs[0].insns_verified > 0
    assert report.programs[0].states is not None
    assert guest.status().state == "disabled"  # loading changes nothing yet

    guest.attach()
    assert guest.read_file("/sys/kernel/sched_ext/state") == "enabled\n"
    assert guest.read_file("/sys/kernel/sched_ext/root/ops") == "good\n"
    assert guest.status().runs("good")
    before = int.from_bytes(guest.read_global("nr_enqueued"), "little")
    spun = guest.run(["schedload", "spin", "4", "0.3"], timeout_s=30)
    assert json.loads(spun.stdout)["total_units"] > 0
    assert int.from_bytes(guest.read_global("nr_enqueued"), "little") > before

    guest.detach()
    status = guest.status()
    assert (status.state, status.ops) == ("disabled", "")
    assert status.exit is not None
    assert status.exit.kind_name == "SCX_EXIT_UNREG"
    assert not status.exit.is_error


def test_maps_and_globals_are_reachable_by_name(guest, objects):
    load(guest, objects, "good")
    assert guest.read_global("answer") == (42).to_bytes(4, "little")
    guest.map_update("knobs", bytes(4), (5_000_000).to_bytes(8, "little"))
    assert guest.map_lookup("knobs", bytes(4)) == (5_000_000).to_bytes(8, "little")
    with pytest.raises(InputError, match="no BPF map nope"):
        guest.map_lookup("nope", bytes(4))
    with pytest.raises(InputError, match="key of 4 bytes, not 1"):
        guest.map_lookup("knobs", b"x")
    with pytest.raises(InputError, match="no global variable nope"):
        guest.read_global("nope")


def test_an_init_that_fails_is_noticed_although_attaching_succeeds(guest, objects):
    load(guest, objects, "init_fails")
    with pytest.raises(KernelError, match=r"init_fails.*ops\.init\(\) failed \(-22\)"):
        guest.attach()
    record = guest.status().exit
    assert record is not None
    assert record.is_error


def test_a_scheduler_that_loses_tasks_stalls_and_its_record_says_so(guest, objects):
    report = load(guest, objects, "loses_tasks", timeout_ms=1500)
    assert report.timeout_ms == 1500
    guest.attach()
    load_id = guest.spawn(["schedload", "spin", "4", "2"])
    record = wait_for_exit(guest, "loses_tasks")
    assert (record.kind, record.kind_name) == (1026, "SCX_EXIT_ERROR_STALL")
    assert "failed to" in record.message  # run, or (the watchdog's own worker being the one that waits) check in
    assert any("runnable task stall" in line for line in guest.kmsg())
    assert guest.wait(load_id, timeout_s=30).rc == 0  # back on the kernel's own scheduler it ends


def test_the_watchdog_is_shortened_never_lengthened(guest, objects):
    assert load(guest, objects, "good", timeout_ms=3000).timeout_ms == 3000
    assert load(guest, objects, "good", timeout_ms=25000).timeout_ms == 20000
    assert load(guest, objects, "good").timeout_ms == 20000


def test_a_refusal_carries_the_verifiers_whole_log(guest, objects):
    with pytest.raises(LoadRefused) as refused:
        load(guest, objects, "unbounded")
    # On a slow machine the verifier is stopped before it says that the jumps are too complex; where it was is known.
    assert "this kernel refuses the object" in refused.value.message
    log = refused.value.log
    assert "BEGIN PROG LOAD LOG" in log
    assert "unbounded.bpf.c:9" in log
    assert "END PROG LOAD LOG" in log


def test_hotplug_sends_a_scheduler_away_with_leave_to_return(guest, objects):
    load(guest, objects, "good")
    guest.attach()
    guest.write_file("/sys/devices/system/cpu/cpu1/online", "0")
    try:
        record = wait_for_exit(guest, "good")
        assert record.wants_restart
        assert not record.is_error
    finally:
        guest.write_file("/sys/devices/system/cpu/cpu1/online", "1")
    guest.detach()
    guest.attach()
    assert guest.status().runs("good")


def test_a_second_scheduler_is_refused_while_one_is_attached(guest, objects):
    load(guest, objects, "good")
    guest.attach()
    printed = python(
        guest,
        objects,
        "try:\n    loader.Scheduler.load(OBJECT).attach()\n"
        "except Exception as error:\n    print(type(error).__name__, error)",
    )
    assert printed[0] == "KernelError"
    assert "detach" in printed
    assert guest.status().runs("good")


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (b"", "not a BPF object"),
        (b"#!/bin/sh\nexit 0\n", "not a BPF object"),
        (Path("/proc/self/exe").read_bytes()[:4096], "not a BPF object"),
        ("good", "libbpf can read"),
        ("no_scheduler", "exactly one struct sched_ext_ops"),
    ],
    ids=["empty", "script", "x86", "cut-short", "no-scheduler"],
)
def test_what_is_no_scheduler_is_refused_by_name(guest, objects, image, says):
    if image == "good":
        image = objects["good"].read_bytes()[:3000]
    elif isinstance(image, str):
        image = objects[image].read_bytes()
    with pytest.raises(InputError, match=says):
        guest.load(image)


def test_an_unpinned_scheduler_leaves_with_its_process(guest, objects):
    printed = python(
        guest,
        objects,
        "s = loader.Scheduler.load(OBJECT); s.attach(); print(schedext.state()); os.kill(os.getpid(), signal.SIGKILL)",
    )
    assert printed == ["enabled"]
    assert guest.run(["python3", "-I", "-S", "-c", _WAIT_DISABLED], timeout_s=30).stdout == "disabled\n"


def test_a_pinned_scheduler_outlives_its_process_and_is_adopted(guest, objects):
    python(
        guest,
        objects,
        "s = loader.Scheduler.load(OBJECT); s.attach(); s.pin(HERE / 'r1'); os.kill(os.getpid(), signal.SIGKILL)",
    )
    assert guest.status().runs("good")
    printed = python(
        guest,
        objects,
        "p = loader.adopt(HERE / 'r1')\n"
        "print(','.join(sorted(p.maps)), int.from_bytes(p.read_global('answer'), 'little'))\n"
        "p.map_update('knobs', bytes(4), bytes([7] * 8))\n"
        "p.close(); print(schedext.state())\n"
        "p = loader.adopt(HERE / 'r1'); p.detach(); print(schedext.state(), (HERE / 'r1').exists())",
    )
    assert printed == ["bss,data,knobs", "42", "enabled", "disabled", "False"]


def test_eject_removes_every_pin_and_needs_nothing_else(guest, objects):
    python(guest, objects, "s = loader.Scheduler.load(OBJECT); s.attach(); s.pin(HERE / 'node' / 'r2'); s.close()")
    assert guest.status().runs("good")
    printed = python(
        guest,
        objects,
        "from controller.kernel import libbpf\nlibbpf.SONAME = 'no-such-library'\n"
        "print(loader.eject_all(HERE).state, HERE.exists(), loader.eject_all(HERE).state)",
    )
    assert printed == ["disabled", "False", "disabled"]


def test_adopting_what_is_not_there_says_so(guest, objects):
    body = "try:\n    loader.adopt(HERE / 'none')\nexcept Exception as error:\n    print(type(error).__name__)"
    assert python(guest, objects, body) == ["KernelError"]


def test_sysrq_throws_out_a_scheduler_whoever_holds_it(guest, objects):
    load(guest, objects, "good")
    guest.attach()
    assert python(guest, objects, "schedext.sysrq_reset(); print(schedext.wait_for(['disabled'], 10))") == ["disabled"]
    assert wait_for_exit(guest, "good").kind_name == "SCX_EXIT_SYSRQ"


def test_abilities_tell_what_the_kernel_has(guest, objects):
    body = (
        "a = schedext.abilities()\n"
        "print(a.has_op('enqueue'), a.has_op('frobnicate'))\n"
        "print(a.has_kfunc('scx_bpf_dsq_insert'), a.has_kfunc('scx_bpf_none'))\n"
        "print(a.flag('SCX_OPS_SWITCH_PARTIAL'), a.flag('SCX_OPS_NONE_SUCH'))"
    )
    assert python(guest, objects, body) == ["True", "False", "True", "False", "8", "None"]


_WAIT_DISABLED = (
    "import sys; sys.path.insert(0, '/opt/schedctl')\n"
    "from controller.kernel import schedext; print(schedext.wait_for(['disabled'], 10))"
)
