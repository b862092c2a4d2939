# SPDX-License-Identifier: Apache-2.0
"""What one run makes of its guests: columns, second attempts, and the texts it keeps of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from controller.api import Verdict, sha256
from controller.errors import GuestError, InputError, Interrupted, KernelError, ToolMissing
from controller.kernel import clang
from controller.kernel.bpf_object import LoadReport, ProgramStats
from controller.kernel.images import KernelImage
from controller.kernel.microvm import EmulatorFault, GuestHung, VmShape
from controller.paths import data_dir
from controller.verify import Candidate, evidence, examine
from tests.conftest import missing
from tests.verify import sources

columns_module = importlib.import_module("controller.verify.columns")
RELEASE = "6.99.0-test"
STAGES = ("build", "audit", "load", "liveness")


@pytest.fixture(scope="module", autouse=True)
def _tools():
    try:
        clang.compile_bpf("int x;", data_dir("bpf") / "include")
    except ToolMissing as error:
        missing(str(error))


class ScriptedGuest:
    """A guest whose kernel accepts everything and whose liveness ends as the test says."""

    def __init__(self, shape: VmShape, ends: Callable[[], None]) -> None:
        klass = f"cpus{shape.cpus}.pkg{shape.packages}.smt{shape.threads}.llc{shape.packages}.numa1"
        self.facts = SimpleNamespace(
            release=RELEASE, btf_digest="ab" * 32, topology_class=klass, cpus=shape.cpus, memory_mib=500,
            sched_ext=True, libbpf="1.4",
        )  # fmt: skip
        self.ends = ends
        self.closed = False
        self.pid = 0
        self.repeatable = False

    def load(self, _image, *, timeout_ms):
        return LoadReport("fifo", (ProgramStats("fifo_enqueue", 9, 8, 7, 6), ProgramStats("old", 1, 1)), "", timeout_ms)

    def attach(self):
        self.ends()

    def write_file(self, _path, _text):
        raise KernelError("there is no such file")

    def boot_id(self):
        return "00000000-0000-0000-0000-000000000000"

    def kmsg(self):
        return ["sched_ext: first words", "sched_ext: last words"]

    def console(self):
        return "é" * 400_000 + "the end"

    def console_tail(self):
        return "the end"

    def close(self):
        self.closed = True


@pytest.fixture
def guests(monkeypatch, tmp_path):
    """`guests.ends` has how each boot's liveness ends, in order; `guests.made` the guests."""
    world = SimpleNamespace(ends=[], made=[], image=KernelImage(RELEASE, tmp_path / "vmlinuz", "file"))

    def boot(_kernel, shape=None, **_named):
        error = world.ends[min(len(world.made), len(world.ends) - 1)]

        def end():
            raise error

        world.made.append(ScriptedGuest(shape or VmShape(), end))
        return world.made[-1]

    monkeypatch.setattr(columns_module, "boot", boot)
    return world


def examined(guests, **named):
    result = examine(Candidate.from_source(sources.GOOD), kernels=[guests.image], stages=STAGES, **named)
    assert all(guest.closed for guest in guests.made)
    return result, next((s for c in result.passport.kernels for s in c.stages if s.stage == "liveness"), None)


def hung(*, in_charge: bool) -> GuestHung:
    return GuestHung("the guest did not answer `run` within 70 s", console="rcu: INFO", in_charge=in_charge)


def test_a_kernel_that_hangs_twice_under_the_candidate_is_the_candidates(guests):
    guests.ends = [hung(in_charge=True)]
    result, liveness = examined(guests)
    assert result.passport.verdict is Verdict.REJECTED
    assert liveness.findings[0].rule == "liveness/hang"
    assert "2 times out of 2" in liveness.summary
    assert liveness.evidence == "rcu: INFO"
    assert len(guests.made) == 2


@pytest.mark.parametrize(
    ("ends", "boots", "says"),
    [
        ([hung(in_charge=False)], 1, "did not answer"),
        ([hung(in_charge=True), GuestError("the micro-VM ended")], 2, "ended"),
        ([EmulatorFault("Oops: int3", in_charge=True)], 3, "int3"),
        ([EmulatorFault("Oops: int3"), hung(in_charge=True), hung(in_charge=False)], 3, "did not answer"),
    ],
    ids=["without it", "once", "emulator", "each once"],
)
def test_what_is_not_surely_the_candidates_is_an_error(guests, ends, boots, says):
    guests.ends = ends
    result, liveness = examined(guests)
    assert result.passport.verdict is liveness.verdict is Verdict.ERROR
    assert says in liveness.summary
    assert len(guests.made) == boots


def test_a_panic_counts_against_the_candidate_only_while_it_is_in_charge(guests):
    for in_charge, verdict in ((True, Verdict.REJECTED), (False, Verdict.ERROR)):
        guests.made.clear()
        guests.ends = [GuestError("ended", console="[ 4.2] Kernel panic - not syncing: x", in_charge=in_charge)]
        assert examined(guests)[0].passport.verdict is verdict


def test_console_and_kernel_log_are_kept_whatever_the_end(guests):
    guests.ends = [GuestError("the micro-VM ended")]
    result, _ = examined(guests)
    packed, log = result.attachments[f"console-{RELEASE}.txt.gz"], result.attachments[f"dmesg-{RELEASE}.txt"]
    console = evidence.unpacked("console.txt.gz", packed)
    assert log == b"sched_ext: first words\nsched_ext: last words\n"
    assert console.endswith(b"the end")
    assert 200 << 10 < len(console) <= evidence.LOG_BYTES + 100
    assert {e.name: (e.digest, e.size) for e in result.passport.attachments} == {
        name: (sha256(data), len(data)) for name, data in result.attachments.items()
    }


def test_the_console_of_a_guest_that_never_came_up_is_kept(guests, monkeypatch):
    def boot(*_arguments, **_named):
        raise GuestError("did not come up within 90 s", console="[    0.0] Linux version")

    monkeypatch.setattr(columns_module, "boot", boot)
    result, _ = examined(guests)
    assert result.passport.verdict is Verdict.ERROR
    assert result.attachments == {f"console-{RELEASE}.txt": b"[    0.0] Linux version"}


def test_states_and_instructions_of_each_program_are_in_the_passport(guests):
    guests.ends = [GuestError("ended")]
    result, _ = examined(guests)
    figures = result.passport.kernels[0].stages[0].figures
    assert {key: value for key, value in figures.items() if "." in key} == {
        "insns_verified.fifo_enqueue": 8, "states.fifo_enqueue": 7, "peak_states.fifo_enqueue": 6,
        "insns_verified.old": 1,
    }  # fmt: skip


def test_a_signal_is_an_error_with_its_name_and_the_guest_is_gone(guests):
    guests.ends = [Interrupted("SIGINT")]
    result, liveness = examined(guests)
    assert result.passport.verdict is liveness.verdict is Verdict.ERROR
    assert "stopped by SIGINT" in liveness.summary


def test_a_signal_between_two_stages_is_an_error_too(guests):
    class Impatient:
        def step(self, text):
            if text.startswith("audit"):
                raise Interrupted("SIGTERM")

        def done(self, text): ...
        def failed(self, text): ...

    result, _ = examined(guests, reporter=Impatient())
    told = {stage.stage: stage for stage in result.passport.stages}
    assert result.passport.verdict is told["audit"].verdict is Verdict.ERROR
    assert "stopped by SIGTERM" in told["audit"].summary
    assert guests.made == []


def test_a_keyboard_interrupt_of_somebody_elses_is_left_to_them(guests):
    guests.ends = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        examined(guests)
    assert all(guest.closed for guest in guests.made)


def test_each_shape_has_its_column_and_its_texts(guests, monkeypatch):
    monkeypatch.setattr(columns_module, "liveness", lambda *_: SimpleNamespace(
        figures={}, warnings=[], left_out={}, seconds={}))  # fmt: skip
    guests.ends = [GuestError("not reached")]
    shapes = [VmShape.parse(label) for label in ("2", "2x2x2", "2")]
    result, _ = examined(guests, shapes=shapes)
    assert result.passport.verdict is Verdict.PASS
    classes = [column.topology_class for column in result.passport.kernels]
    assert classes == ["cpus2.pkg1.smt1.llc1.numa1", "cpus8.pkg2.smt2.llc2.numa1"]
    assert set(result.attachments) == {
        f"{text}-{RELEASE}-{label}.{kept}"
        for text, kept in (("console", "txt.gz"), ("dmesg", "txt"))
        for label in ("2", "2x2x2")
    }


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("1", VmShape(1, 1, 1, 448)),
        ("2", VmShape()),
        ("8", VmShape(1, 8, 1, 896)),
        ("2x2x2", VmShape(2, 2, 2, 896)),
    ],
)
def test_a_topology_on_the_command_line(text, shape):
    assert VmShape.parse(text) == shape
    assert shape.label == text


@pytest.mark.parametrize("text", ["", "0", "x", "2x2", "2x0x2", "17", "4x4x4", "-1", "two", "2x2x2x2", "9999"])
def test_what_is_no_topology(text):
    with pytest.raises(InputError, match=r"topology|CPUs"):
        VmShape.parse(text)
