# SPDX-License-Identifier: Apache-2.0
"""Where baselines come from: measured once for a boot, kept beside its snapshot, and not believed when they do not fit.

A guest here is a stand-in that answers as a real one does; test_on_kernels.py asks real ones.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from controller.api import Silent
from controller.errors import GuestError
from controller.kernel import snapshot
from controller.kernel.guest_protocol import CommandResult
from controller.verify.baselines import Bench
from controller.verify.scenarios import Limit, Scenario, Stuck, digest

BOOT = "6b1f2d0c-4a5e-4f0e-9f0e-0d6f4a1b2c3d"


class StandIn:
    """A guest of boot `boot`, on a machine whose speeds are, one after the other, `units` work units a load."""

    facts = SimpleNamespace(cpus=2)

    def __init__(self, units: tuple[int, ...] = (1000,), *, boot: str = BOOT, repeatable: bool = True) -> None:
        self.repeatable = repeatable
        self.closed = False
        self._units = list(units)
        self._boot = boot

    def boot_id(self) -> str:
        return self._boot

    def write_file(self, path: str, text: str) -> None:
        assert (path, text) == ("/proc/sys/kernel/sched_autogroup_enabled", "0")

    def run(self, argv, *, timeout_s: float) -> CommandResult:
        units = self._units.pop(0) if len(self._units) > 1 else self._units[0]
        return CommandResult(0, json.dumps({"total_units": units}), "", 0.3)

    def console_tail(self) -> str:
        return "the console"

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *_about) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SCHEDCTL_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def measured() -> list[object]:
    """The guests in which something was measured, in order."""
    return []


@pytest.fixture
def scenario(measured) -> Scenario:
    def measure(arena):
        measured.append(arena.guest)
        return {"p50_us": 100.0}

    return Scenario("probe", "?", "a load", measure, ())


def prepared(scenario: Scenario, guest: StandIn, again=None) -> Bench:
    bench = Bench(guest, again)
    bench.prepare([scenario], Silent())
    assert bench.baseline(scenario) == {"p50_us": 100.0}
    return bench


def test_they_are_measured_in_a_guest_of_their_own_and_kept(scenario, measured):
    own = StandIn()
    prepared(scenario, StandIn(), lambda: own)
    assert measured == [own]
    assert own.closed
    prepared(scenario, StandIn(), lambda: pytest.fail("not needed"))
    assert measured == [own]


def test_another_boot_has_its_own(scenario, measured):
    prepared(scenario, StandIn(), StandIn)
    prepared(scenario, StandIn(boot=BOOT.replace("6b", "7c")), lambda: StandIn(boot=BOOT.replace("6b", "7c")))
    assert len(measured) == 2


@pytest.mark.parametrize("units", [600, 1700])
def test_on_a_machine_of_another_speed_they_are_measured_anew(scenario, measured, units):
    prepared(scenario, StandIn(), StandIn)
    prepared(scenario, StandIn((units,)), lambda: StandIn((units,)))
    assert len(measured) == 2
    prepared(scenario, StandIn((units,)), StandIn)
    assert len(measured) == 2  # and kept in place of the others


def test_those_of_a_machine_that_got_busy_meanwhile_hold_for_this_run_only(scenario, measured):
    prepared(scenario, StandIn(), lambda: StandIn((1000, 500)))
    prepared(scenario, StandIn(), StandIn)
    assert len(measured) == 2


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"units_per_ms": 1}', '{"units_per_ms": 1, "baselines": {"probe": 3}}', "[" * 100_000]
)
def test_a_broken_note_is_no_note(scenario, measured, text):
    note = snapshot.note(BOOT, digest()[:16])
    assert snapshot.keep_note(note, text)
    prepared(scenario, StandIn(), StandIn)
    assert len(measured) == 1


def test_without_a_snapshot_they_are_measured_in_the_candidates_guest(scenario, measured, cache):
    guest = StandIn(repeatable=False)
    prepared(scenario, guest, lambda: pytest.fail("it would be another boot"))
    assert measured == [guest]
    assert not list(cache.rglob("*.json"))


def test_a_snapshot_that_was_replaced_meanwhile_is_another_boot(scenario, measured, cache):
    guest, other = StandIn(), StandIn(boot=BOOT.replace("6b", "7c"))
    prepared(scenario, guest, lambda: other)
    assert measured == [guest]
    assert not list(cache.rglob("*.json"))


def test_no_room_for_a_second_guest(scenario, measured):
    def no_room():
        raise GuestError("the micro-VM did not come up")

    guest = StandIn()
    prepared(scenario, guest, no_room)
    assert measured == [guest]


def test_no_room_for_the_note(scenario, measured, cache):
    (cache / "guest").write_text("a file where a folder belongs")
    prepared(scenario, StandIn(), StandIn)
    assert len(measured) == 1


def test_old_notes_go(cache):
    for number in range(40):
        snapshot.keep_note(snapshot.note(BOOT, f"{number:016x}"), "{}")
    assert len(list(cache.rglob("*.json"))) < 40
    assert not list(cache.rglob(".note-*"))


def test_a_load_that_the_kernels_own_scheduler_does_not_get_through_is_no_verdict(scenario):
    def stuck(_arena):
        raise Stuck("`spin` did not end within 40 s")

    with pytest.raises(GuestError, match="own scheduler did not get through probe"):
        Bench(StandIn(repeatable=False)).prepare([Scenario("probe", "?", "a load", stuck, ())], Silent())


LONGEST = Limit("gap_us", "above", 3, 900_000, of="the longest gap")


@pytest.mark.parametrize(
    ("gaps", "counts", "times"),
    [
        ([20_000.0], 20_000.0, 1),
        ([600_000.0, 30_000.0], 30_000.0, 2),
        ([600_000.0, 500_000.0, 700_000.0], 500_000.0, 3),
    ],
)
def test_a_baseline_that_a_busy_machine_blew_up_is_measured_again(gaps, counts, times):
    left = list(gaps)
    scenario = Scenario("probe", "?", "a load", lambda _arena: {"gap_us": left.pop(0)}, (LONGEST,))
    bench = Bench(StandIn(), StandIn)
    bench.prepare([scenario], Silent())
    assert bench.baseline(scenario) == {"gap_us": counts}
    assert len(gaps) - len(left) == times


def test_the_length_of_a_load_loosens_nothing():
    length, share = Limit("slowest_s", "above", 1.4, 0.5, of="the time"), Limit("share", "below", 0.2, of="the share")
    scenario = Scenario("probe", "?", "a load", lambda _arena: {}, (length, share, LONGEST))
    assert scenario.loosened({"slowest_s": 5.0, "share": 0.1, "gap_us": 150_000.0}) == pytest.approx(0.5)
