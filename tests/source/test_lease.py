# SPDX-License-Identifier: Apache-2.0
"""A lease has one holder, ends with it, and cannot be shared by two clones of one origin."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from controller.api import SchedulerPolicy
from controller.source import GitStore, lease
from tests.source.conftest import Git

ROOT = Path(__file__).parent.parent.parent
HOLD = """
import sys, time
from controller.source import GitStore
store = GitStore(sys.argv[1])
store._leases.ttl_s = float(sys.argv[2])
held = store.lease("key")
print("held" if held is not None else "refused", flush=True)
time.sleep(60)
"""


@pytest.fixture
def origin(repo: Git, make_git) -> Git:
    bare = make_git("origin.git", bare=True)
    repo("push", "-q", str(bare.folder), "main")
    return bare


def clone(origin: Git, folder: Path) -> GitStore:
    subprocess.run(["git", "clone", "-q", origin.folder, folder], check=True, timeout=60)
    return GitStore(folder)


def hold(folder: Path, ttl_s: float) -> subprocess.Popen[str]:
    """A process that takes the lease and keeps it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(ttl_s)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def taken(store: GitStore, seconds: float) -> lease.Lease | None:
    """The lease, tried for as long."""
    end = time.monotonic() + seconds
    while (mine := store.lease("key")) is None and time.monotonic() < end:
        time.sleep(0.1)
    return mine


def ends(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def holder(origin: Git) -> str:
    """The blob of the one lease there is."""
    return origin("for-each-ref", "--format=%(objectname)", "refs/schedctl/lease")


def test_one_holder_at_a_time_and_free_after_release(repo: Git) -> None:
    store, other = GitStore(repo.folder), GitStore(repo.folder)
    first = store.lease("key")
    assert first is not None
    assert other.lease("key") is None
    second = other.lease("another key")
    assert second is not None
    second.release()
    assert first.confirm()
    first.release()
    assert not first.confirm()
    assert repo("for-each-ref", "refs/schedctl") == ""
    again = other.lease("key")
    assert again is not None
    again.release()


@pytest.mark.parametrize("shared", ["one repository", "two clones"])
def test_of_many_that_try_at_once_one_succeeds(origin: Git, tmp_path: Path, shared: str) -> None:
    if shared == "one repository":
        stores = [GitStore(origin.folder) for _ in range(6)]
    else:
        stores = [clone(origin, tmp_path / f"c{i}") for i in range(3)]
    found: list[lease.Lease | None] = []
    threads = [threading.Thread(target=lambda s=s: found.append(s.lease("key"))) for s in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = [one for one in found if one is not None]
    assert (len(found), len(held)) == (len(stores), 1)
    held[0].release()
    assert origin("for-each-ref", "refs/schedctl") == ""


def test_a_holder_that_is_killed_frees_it_after_its_time_and_the_margin(origin: Git, tmp_path: Path) -> None:
    store = clone(origin, tmp_path / "mine")
    store._leases.skew_s = 1.0
    clone(origin, tmp_path / "theirs")
    process = hold(tmp_path / "theirs", 2.0)
    try:
        time.sleep(4)  # it lives: renewed again and again, beyond its time and the margin
        assert store.lease("key") is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        killed = time.time()
        assert store.lease("key") is None
        mine = taken(store, 30)
        assert mine is not None
        assert time.time() > killed + 1.0  # a third of its time may have passed when it was killed, never the margin
        mine.release()
    finally:
        ends(process)


@contextmanager
def unwritable(clone: Path) -> Iterator[None]:
    """Nothing can be written there, not by root either: the folder of its objects is away."""
    objects = clone / ".git" / "objects"
    objects.rename(objects.with_name("away"))
    try:
        yield
    finally:
        objects.with_name("away").rename(objects)


@pytest.fixture
def mine(origin: Git, tmp_path: Path) -> lease.Lease:
    """A lease of somebody who works on a clone."""
    held = clone(origin, tmp_path / "mine").lease("key")
    assert held is not None
    return held


def test_a_renewal_that_cannot_be_written_is_not_told(origin: Git, tmp_path: Path, mine: lease.Lease) -> None:
    before = holder(origin)
    with unwritable(tmp_path / "mine"):
        assert mine.confirm(), "until its time is over nobody else may take it"
    assert mine.confirm()
    assert holder(origin) != before
    mine.release()


def test_a_renewal_that_cannot_be_written_does_not_end_those_after_it(origin: Git, tmp_path: Path) -> None:
    store = clone(origin, tmp_path / "mine")
    store._leases.ttl_s = 1.5
    mine = store.lease("key")
    assert mine is not None
    with unwritable(tmp_path / "mine"):
        before = holder(origin)
        time.sleep(1.2)  # its thread comes to a third of the time meanwhile, twice
        assert holder(origin) == before
    end = time.monotonic() + 30
    while holder(origin) == before and time.monotonic() < end:
        time.sleep(0.1)
    assert holder(origin) != before, "the thread renews it again"
    mine.release()
    assert holder(origin) == ""


@pytest.fixture
def unanswered(origin: Git) -> Callable[[], None]:
    """The next push lands on origin, and ends before its sender is told."""
    hook = origin.folder / "hooks" / "reference-transaction"

    def arm() -> None:
        hook.write_text('#!/bin/sh\ntest "$1" = committed || exit 0\nrm -- "$0"\nkill -9 $PPID\n')
        hook.chmod(0o755)

    return arm


def test_a_renewal_that_lands_unanswered_is_still_ours(
    origin: Git, tmp_path: Path, unanswered: Callable[[], None]
) -> None:
    store = clone(origin, tmp_path / "mine")
    mine = store.lease("key")
    assert mine is not None
    for _ in range(2):  # of two in a row the second finds what the first left
        before = holder(origin)
        unanswered()
        assert mine.confirm()
        assert holder(origin) != before, "it landed"
    before = holder(origin)
    assert mine.confirm()
    assert holder(origin) != before
    mine.release()
    assert holder(origin) == ""


def test_a_lease_whose_renewal_landed_unanswered_is_released(
    origin: Git, mine: lease.Lease, unanswered: Callable[[], None]
) -> None:
    unanswered()
    assert mine.confirm()
    mine.release()
    assert holder(origin) == ""


def test_a_lease_whose_ref_is_locked_for_a_moment_is_still_ours(origin: Git, mine: lease.Lease) -> None:
    """As by a push of ours that we gave up waiting for, and that origin is not through with."""
    lock = origin.folder / (origin("for-each-ref", "--format=%(refname)", "refs/schedctl/lease") + ".lock")
    lock.touch()
    assert mine.confirm()
    lock.unlink()
    before = holder(origin)
    assert mine.confirm()
    assert holder(origin) != before
    mine.release()
    assert holder(origin) == ""


def test_a_lease_that_was_taken_over_after_a_renewal_landed_unanswered_is_not_ours(
    origin: Git, mine: lease.Lease, unanswered: Callable[[], None]
) -> None:
    unanswered()
    assert mine.confirm()
    (line,) = origin("for-each-ref", "refs/schedctl/lease").splitlines()
    blob = origin.blob(json.dumps({"expiresAt": time.time() + 60, "ttl": 60}))
    origin("update-ref", line.split()[-1], blob)
    assert not mine.confirm()
    mine.release()
    assert holder(origin) == blob


def test_whoever_was_taken_over_notices_before_it_commits(repo: Git) -> None:
    store = GitStore(repo.folder)
    mine = store.lease("key")
    assert mine is not None
    (line,) = repo("for-each-ref", "refs/schedctl/lease").splitlines()
    blob = repo.blob(json.dumps({"expiresAt": time.time() + 60, "ttl": 60}))
    repo("update-ref", line.split()[-1], blob)
    assert not mine.confirm()
    mine.release()
    assert repo("for-each-ref", "--format=%(objectname)", "refs/schedctl/lease") == blob  # not ours to remove


@pytest.mark.parametrize(
    ("said", "free"),
    [
        ({"expiresAt": -3600, "ttl": 60}, True),
        ({"expiresAt": -31, "ttl": 60}, True),
        ({"expiresAt": -29, "ttl": 60}, False),  # within the margin for clocks that differ
        ({"expiresAt": 60, "ttl": 60}, False),
        ({"expiresAt": 10**9, "ttl": 60}, False),
        ({"expiresAt": 60, "ttl": 10**9}, True),
        ({"ttl": 60}, True),
        ([], True),
        ("x" * 10_000, True),
    ],
)
def test_when_a_lease_is_free(repo: Git, said: object, free: bool) -> None:
    if isinstance(said, dict) and "expiresAt" in said:
        said = {**said, "expiresAt": time.time() + said["expiresAt"]}
    store = GitStore(repo.folder)
    held = store.lease("key")
    assert held is not None
    ref = repo("for-each-ref", "--format=%(refname)", "refs/schedctl/lease")
    held.release()
    repo("update-ref", ref, repo.blob(json.dumps(said)))
    mine = store.lease("key")
    assert (mine is not None) == free
    if mine is not None:
        mine.release()


def test_a_holder_whose_clock_is_years_ahead_does_not_keep_it(repo: Git) -> None:
    store = GitStore(repo.folder)
    store._leases.skew_s = 0.2
    held = store.lease("key")
    assert held is not None
    ref = repo("for-each-ref", "--format=%(refname)", "refs/schedctl/lease")
    held.release()
    repo("update-ref", ref, repo.blob(json.dumps({"expiresAt": time.time() + 10**8, "ttl": 0.5})))
    assert store.lease("key") is None
    mine = taken(store, 20)
    assert mine is not None
    mine.release()


def test_statuses_of_two_planners_do_not_overwrite_each_other(origin: Git, tmp_path: Path) -> None:
    stores = [clone(origin, tmp_path / name) for name in ("a", "b")]

    def add(store: GitStore, name: str) -> None:
        def build(before):
            kept = [r for r in before.values() if r.name != name]
            return [*kept, SchedulerPolicy.model_validate({"metadata": {"name": name}, "status": {"nodes": 1}})]

        store.update_status("planner", build)

    for number in range(3):
        for store, name in zip(stores, ("a", "b"), strict=True):
            add(store, f"{name}{number}")
    stores[0].read()
    assert sorted(key[2] for key in stores[0].statuses()) == ["a0", "a1", "a2", "b0", "b1", "b2"]
