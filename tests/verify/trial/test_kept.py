# SPDX-License-Identifier: Apache-2.0
"""Arms in a guest that stays: when there is another guest, whom a hang counts against, and blocks on a real kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from controller.api import Metric
from controller.errors import CouldNotTell, GuestError, KernelError, ToolMissing
from controller.kernel import guests, leftovers
from controller.kernel.images import KernelImage, release_of
from controller.kernel.microvm import EmulatorFault, Guest, GuestHung, VmShape
from controller.paths import data_dir
from controller.verify.trial import TrialRejected, TrialSpec, kept, workloads
from controller.verify.trial.arms import GuestArms
from controller.verify.trial.kept import KeptArms
from tests.kernel.conftest import kernel_image
from tests.verify import sources

SPEC = TrialSpec("longtail", Metric.MAKESPAN)
Ends = dict[str, list[Exception]]


class Booted:
    """A guest of which nothing is wanted but its end."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Arms:
    """Arms whose runs end as `ends` says, in order by arm; one that is told nothing of gives a sample."""

    ends: Ends

    def __init__(self, guest: Booted, *_: object) -> None:
        self.guest = guest
        self.loaded = ""

    def sample(self, arm: str, *_: int) -> dict[str, int]:
        assert not self.guest.closed
        self.loaded = arm if arm != "baseline" else self.loaded
        if self.ends.get(arm):
            raise self.ends[arm].pop(0)
        return {arm: 1}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Callable[[Ends], KeptArms], list[Booted], list[str]]]:
    """Makes kept arms whose runs end so; the guests that they boot, and what they say."""
    made: list[Booted] = []
    said: list[str] = []

    def boot() -> Booted:
        assert all(guest.closed for guest in made), "one at a time"
        made.append(Booted())
        return made[-1]

    def keeping(ends: Ends) -> KeptArms:
        monkeypatch.setattr(kept, "GuestArms", type("Told", (Arms,), {"ends": ends}))
        return KeptArms(SPEC, boot, said.append)  # type: ignore[arg-type]

    return keeping, made, said


def both(arms: GuestArms) -> list[dict[str, int]]:
    return [arms.sample("candidate-1", 1, 1), arms.sample("candidate-2", 1, 1)]


BOTH = [{"candidate-1": 1}, {"candidate-2": 1}]


def hung(*, in_charge: bool = True) -> GuestHung:
    return GuestHung("it did not answer", console="rcu: INFO", in_charge=in_charge)


def test_the_guest_stays_from_block_to_block_until_it_is_closed(world):
    keeping, made, said = world
    arms = keeping({})
    assert [arms.block(both) for _ in range(3)] == [BOTH] * 3
    assert (len(made), said) == (1, [])
    arms.close()
    arms.close()
    assert made[0].closed
    assert arms.block(both) == BOTH
    assert len(made) == 2


@pytest.mark.parametrize(
    "ends",
    [
        {"candidate-2": [EmulatorFault("int3", in_charge=True), EmulatorFault("int3", in_charge=True)]},
        {"candidate-1": [hung()], "candidate-2": [hung()]},
        {"candidate-1": [hung(in_charge=False), hung(in_charge=False)]},
        {"candidate-1": [GuestError("it ended"), TrialRejected("detach", "it stays", arm="candidate-2")]},
        {"baseline": [GuestError("it ended"), hung(in_charge=False)]},
    ],
    ids=["emulator", "each hangs once", "nobody's", "others", "warming up"],
)
def test_a_guest_that_ends_under_nobody_is_replaced_and_the_block_begun_anew(world, ends):
    keeping, made, said = world
    assert keeping(ends).block(both) == BOTH
    assert [guest.closed for guest in made] == [True, True, False]
    assert [text.rpartition("; ")[2] for text in said] == ["attempt 2 of 3", "attempt 3 of 3"]


def test_who_hangs_the_kernel_again_is_to_blame(world):
    keeping, made, _ = world
    arms = keeping({"candidate-1": [hung()], "candidate-2": [EmulatorFault("int3")]})
    assert arms.block(both) == BOTH
    arms = keeping({"candidate-1": [hung()], "candidate-2": [hung(), hung()]})
    made.clear()
    with pytest.raises(TrialRejected, match="2 times out of 2") as raised:
        arms.block(both)
    assert (raised.value.arm, raised.value.finding.rule) == ("candidate-2", "trial/hung")
    assert raised.value.evidence == "rcu: INFO"
    assert (len(made), arms.guest) == (3, None)


@pytest.mark.parametrize(
    ("error", "boots"),
    [
        (GuestError("it ended"), 3),
        (hung(in_charge=False), 3),
        (TrialRejected("detach", "it stays", arm="candidate-1"), 3),
        (TrialRejected("exit", "thrown out", arm="candidate-1"), 1),
        (CouldNotTell("no cgroup"), 1),
        (KernelError("no"), 1),
        (KeyboardInterrupt(), 1),
    ],
)
def test_what_is_no_chance_or_goes_on_passes_through_and_no_guest_is_left(world, error, boots):
    keeping, made, _ = world
    arms = keeping({"candidate-1": [error] * 4})
    with pytest.raises(type(error)) as raised:
        arms.block(both)
    assert raised.value is error
    assert len(made) == boots
    assert all(guest.closed for guest in made)
    assert arms.guest is None


def test_a_guest_without_sched_ext_is_refused_and_closed(monkeypatch, tmp_path):
    class Plain(Booted):
        facts = type("Facts", (), {"sched_ext": False, "release": "6.12.0"})

    plain = Plain()
    monkeypatch.setattr(guests.microvm, "boot", lambda *_, **__: plain)
    with pytest.raises(ToolMissing, match=r"kernel 6\.12\.0 is built without sched_ext"):
        guests.boot(KernelImage("6.99.0", tmp_path / "vmlinuz", "file"), VmShape())
    assert plain.closed


@pytest.mark.kernel
def test_blocks_in_a_real_guest_outlive_its_death(monkeypatch):
    from controller.kernel import clang

    monkeypatch.setattr(workloads, "RUN_S", 0.08)
    image = clang.compile_bpf(sources.GOOD, data_dir("bpf") / "include").object
    path = kernel_image("newest")
    kernel = KernelImage(release_of(path), path, "file")
    before = set(leftovers._undo)
    said: list[str] = []
    arms = KeptArms(SPEC, lambda: guests.boot(kernel, VmShape()), said.append)

    def runs(given: GuestArms) -> list[dict[str, int]]:
        given.enter("candidate-1", image)
        return [given.sample(arm, 1, 1) for arm in ("candidate-1", "baseline", "baseline", "candidate-1")]

    try:
        assert all(run["elapsed_ns"] > 0 for run in arms.block(runs))
        first = arms.guest
        assert isinstance(first, Guest)
        first.close()  # as if it had died between two blocks
        assert len(arms.block(runs)) == 4
        assert arms.guest is not first
        assert len(said) == 1
    finally:
        arms.close()
    assert set(leftovers._undo) == before
