# SPDX-License-Identifier: Apache-2.0
"""Continuous observation: what is kept, what is told, and that it goes on whatever goes away."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from controller.api import IntentMatch, WorkloadProfile
from controller.errors import InputError
from controller.observe.continuous import LONGEST_BACKOFF_S, Continuous
from controller.observe.ring import Ring
from controller.observe.shifts import LEARNT
from tests.builders import KERNEL, T0, TOPOLOGY
from tests.conftest import missing
from tests.observe.test_grouping import intent


def profile(
    number: int = 0, *, share: float = 0.1, tasks: int = 3, observer: str = "bcc", **changes
) -> WorkloadProfile:
    workload = {"name": "x", "keyedBy": "comm", "tasks": tasks, "cpuShare": share, "cpuNs": 1}
    return WorkloadProfile.model_validate(
        {
            "node": "n1", "takenAt": T0 + timedelta(minutes=number), "windowNs": 10**9, "observer": observer,
            "topology": TOPOLOGY, "kernel": KERNEL, "workloads": [workload], **changes,
        }
    )  # fmt: skip


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Script:
    """Stands for window.profile: gives what it is told to, and remembers how it was asked."""

    def __init__(self, *answers: WorkloadProfile | Exception) -> None:
        self.answers, self.asked = list(answers), []

    def __call__(self, seconds, **how) -> WorkloadProfile:
        self.asked.append("procfs" if how.get("force_procfs") else "bcc")
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if how.get("force_procfs"):
            return answer.model_copy(update={"observer": "procfs", "degraded": how.get("because", "")})
        return answer


_MADE: list[Continuous] = []


@pytest.fixture(autouse=True)
def _closed():
    yield
    while _MADE:
        _MADE.pop().close()


def continuous(folder: Path, take=None, clock=None, **options) -> Continuous:
    given = {"take": take} if take is not None else {}
    _MADE.append(Continuous(folder, seconds=0.2, every_s=60, clock=clock or Clock(), **given, **options))
    return _MADE[-1]


def reasons(seen) -> list[str]:
    return [news.reason for news in seen.news]


def test_a_ring_keeps_the_newest(tmp_path):
    ring = Ring(tmp_path / "ring", most=3)
    for number in range(5):
        ring.add(profile(number))
    kept = [profile(2), profile(3), profile(4)]
    assert list(ring.profiles()) == kept
    assert list(ring.profiles(newest=2)) == kept[1:]
    assert list(Ring(tmp_path / "ring").profiles()) == kept  # a restart
    assert len(list((tmp_path / "ring").iterdir())) == len(ring) == 3


def test_a_ring_is_bounded_by_bytes_and_keeps_at_least_one(tmp_path):
    size = len(profile().canonical())
    ring = Ring(tmp_path, most_bytes=3 * size)
    for number in range(5):
        ring.add(profile(number))
    assert len(ring) == 3
    assert ring.size == sum(path.stat().st_size for path in tmp_path.iterdir()) == 3 * size
    ring = Ring(tmp_path, most_bytes=1)
    ring.add(profile(9))
    assert list(ring.profiles()) == [profile(9)]


def test_what_cannot_be_read_back_is_removed_and_the_rest_stays(tmp_path):
    ring = Ring(tmp_path)
    for number in range(4):
        ring.add(profile(number))
    files = sorted(tmp_path.iterdir())
    files[0].write_bytes(b"")
    files[1].write_bytes(b'{"node": 1}')
    (tmp_path / "note.txt").write_text("not ours")
    again = Ring(tmp_path)
    assert list(again.profiles()) == [profile(2), profile(3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [files[2].name, files[3].name, "note.txt"]
    again.add(profile(7))
    assert list(Ring(tmp_path).profiles()) == [profile(2), profile(3), profile(7)]


def test_a_window_is_due_by_time_and_when_other_intents_count(tmp_path):
    clock = Clock()
    watch = continuous(tmp_path, Script(profile()), clock)
    one, other = intent("a", comm=["x"]), intent("b", comm=["y"])
    assert watch.due([one])
    clock.now += 5
    watch.observe("n1", [one])
    assert not watch.due([one])
    assert watch.due([one, other])
    assert watch.due([])
    clock.now += 59
    assert not watch.due([one])
    clock.now += 1
    assert watch.due([one])  # 60 s from the beginning of one to the beginning of the next


def test_a_window_that_takes_long_is_followed_by_as_long_without_one(tmp_path):
    clock = Clock()

    def take(_seconds: float, **_how: object) -> WorkloadProfile:
        clock.now += 50
        return profile()

    watch = continuous(tmp_path, take, clock)
    watch.observe("n1", [])
    clock.now += 49
    assert not watch.due([])
    clock.now += 1
    assert watch.due([])


def test_it_learns_then_tells_of_a_change_once(tmp_path):
    watch = continuous(tmp_path, script := Script(profile()))
    for seen in range(1, LEARNT):
        assert watch.observe("n1", []).news == ()
        assert (watch.steadiness.changed, watch.steadiness.reason) == (None, "Learning")
        assert f"{seen} of {LEARNT}" in watch.steadiness.message
    watch.observe("n1", [])
    assert (watch.steadiness.changed, watch.steadiness.reason) == (False, "Steady")
    script.answers = [profile(share=0.9, tasks=300)]
    told = [reason for _ in range(14) for reason in reasons(watch.observe("n1", []))]
    assert told == ["LoadChanged", "LoadSettled"]
    assert (watch.steadiness.changed, watch.steadiness.reason) == (False, "LoadSettled")
    script.answers = [profile()]
    watch.observe("n1", [])
    (news,) = watch.observe("n1", []).news
    assert (news.type, news.reason) == ("Normal", "LoadChanged")
    assert "most of all others" in news.message
    assert "; x: " in news.message  # what changed, in words
    assert watch.steadiness.changed is True


def test_a_restart_goes_on_where_it_was(tmp_path):
    first = continuous(tmp_path, Script(profile()))
    for _ in range(LEARNT + 2):
        first.observe("n1", [])
    second = continuous(tmp_path, Script(profile(share=0.9, tasks=300)))
    assert reasons(second.observe("n1", [])) == []
    assert second.steadiness.changed is False
    assert reasons(second.observe("n1", [])) == ["LoadChanged"]


def test_other_intents_are_another_series(tmp_path):
    watch = continuous(tmp_path, script := Script(profile()))
    for _ in range(LEARNT):
        watch.observe("n1", [])
    matched = profile(matches=(IntentMatch(intent="shop/a", tasks=1),))
    script.answers = [matched]
    watch.observe("n1", [intent("a", comm=["x"])])
    assert watch.steadiness.reason == "Learning"
    script.answers = [profile()]
    watch.observe("n1", [])  # as before: what the ring has of these intents counts
    assert watch.steadiness.changed is False


def test_without_bcc_it_goes_on_and_tries_again_ever_later(tmp_path):
    clock, script = Clock(), Script(profile(observer="procfs", degraded="bcc is gone; from /proc: no histograms"))
    watch = continuous(tmp_path, script, clock)
    told, asked = [], []
    for _ in range(200):
        seen = watch.observe("n1", [])
        told += reasons(seen)
        if script.asked[-1] == "bcc":
            asked.append(clock.now)
        else:
            assert seen.profile.degraded.startswith("bcc is gone; bcc is tried again in ")
        clock.now += 60
    assert told == ["ObserverDegraded"]
    gaps = [later - earlier for earlier, later in pairwise(asked)]
    assert gaps[:6] == [60, 120, 240, 480, 960, 1920]
    assert set(gaps[6:]) == {LONGEST_BACKOFF_S}
    script.answers = [profile()]
    while script.asked[-1] != "bcc" or clock.now == asked[-1]:
        clock.now += 60
        told += reasons(watch.observe("n1", []))
    assert told == ["ObserverDegraded", "ObserverRestored"]


def test_another_observer_is_no_other_load(tmp_path):
    watch = continuous(tmp_path, script := Script(profile()))
    for _ in range(LEARNT):
        watch.observe("n1", [])
    script.answers = [profile(observer="procfs", tasks=400, degraded="gone"), profile(observer="procfs", tasks=400)]
    for _ in range(LEARNT):
        assert "LoadChanged" not in reasons(watch.observe("n1", []))


@pytest.mark.parametrize("error", [OSError(12, "no memory"), KeyError("groups"), InputError("no")])
def test_a_tracer_that_breaks_in_any_way_leaves_proc(tmp_path, error):
    seen = continuous(tmp_path, Script(error, profile())).observe("n1", [])
    assert seen.profile.observer == "procfs"
    assert "tracing failed: " in seen.profile.degraded
    assert reasons(seen) == ["ObserverDegraded"]


def test_a_window_that_fails_altogether_is_told_and_the_next_one_is_taken(tmp_path):
    watch = continuous(tmp_path, script := Script(OSError(5, "no /proc")))
    seen = watch.observe("n1", [])
    assert seen.profile is None
    assert reasons(seen) == ["ObserveFailed"]
    script.answers = [profile()]
    assert watch.observe("n1", []).profile == profile()


def test_a_profile_that_cannot_be_kept_is_told_once(tmp_path):
    (tmp_path / "file").write_text("")
    watch = continuous(tmp_path / "file", Script(profile()))
    told = [reason for _ in range(3) for reason in reasons(watch.observe("n1", []))]
    assert told == ["ProfileNotKept"]


def test_proc_that_was_asked_for_is_no_news(tmp_path):
    seen = continuous(tmp_path, force_procfs=True).observe("n1", [])
    assert (seen.profile.observer, seen.news) == ("procfs", ())
    assert list(Ring(tmp_path).profiles()) == [seen.profile]


@pytest.fixture
def traced(tmp_path):
    """Continuous observation with real bcc, a window behind it; and its clock."""
    if os.geteuid() != 0:
        missing("root", "run as root")
    clock = Clock()
    watch = continuous(tmp_path, clock=clock)
    seen = watch.observe("n1", [])
    if seen.profile.observer != "bcc":
        missing(f"a bcc that can trace this host: {seen.profile.degraded}", "schedctl doctor")
    return watch, clock


@pytest.mark.bcc
def test_probes_that_were_killed_come_back(traced):
    watch, clock = traced
    os.kill(watch._probes._process.pid, signal.SIGKILL)
    degraded = watch.observe("n1", [])
    assert (degraded.profile.observer, reasons(degraded)) == ("procfs", ["ObserverDegraded"])
    clock.now += 60
    restored = watch.observe("n1", [])
    assert (restored.profile.observer, reasons(restored)) == ("bcc", ["ObserverRestored"])


@pytest.mark.bcc
def test_tracing_that_becomes_impossible_and_possible_again(traced, monkeypatch):
    watch, clock = traced
    monkeypatch.setenv("BCC_KERNEL_SOURCE", "/nonexistent")
    degraded = watch.observe("n1", [])
    assert degraded.profile.observer == "procfs"
    assert "BCC_KERNEL_SOURCE" in degraded.news[0].message
    assert watch.observe("n1", []).profile.degraded.startswith("BCC_KERNEL_SOURCE")
    monkeypatch.undo()
    clock.now += 60
    assert reasons(watch.observe("n1", [])) == ["ObserverRestored"]


@pytest.mark.bcc
def test_the_probes_give_back_what_compiling_took(traced):
    watch, _ = traced
    rollup = Path(f"/proc/{watch._probes._process.pid}/smaps_rollup").read_text().splitlines()
    resident_kb = next(int(line.split()[1]) for line in rollup if line.startswith("Rss:"))
    assert resident_kb < 80 * 1024
