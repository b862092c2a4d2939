# SPDX-License-Identifier: Apache-2.0
"""wait() wakes for what others commit, soon, and never for what we wrote ourselves."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from controller.api.decode import decode
from controller.source import GitStore
from tests.source.conftest import Git, intent
from tests.source.test_status import node

SOON_S = 20.0


def wakes(store: GitStore, change: Callable[[], object], timeout_s: float = SOON_S) -> bool:
    """Whether a change made while `wait` sleeps ends it."""
    woke: list[bool] = []
    thread = threading.Thread(target=lambda: woke.append(store.wait(timeout_s)))
    thread.start()
    time.sleep(0.3)
    assert woke == []
    begun = time.monotonic()
    change()
    thread.join(timeout_s + 10)
    print(f"woke {woke} {time.monotonic() - begun:.3f} s after the change began")
    return woke == [True]


def test_a_new_commit_wakes_and_only_once(repo: Git) -> None:
    store = GitStore(repo.folder)
    store.read()
    tree = repo("rev-parse", "HEAD^{tree}")
    commit = repo("commit-tree", tree, "-p", "HEAD", "-m", "x")
    assert wakes(store, lambda: repo("update-ref", "refs/heads/main", commit))
    assert not store.wait(0.2)


@pytest.mark.parametrize("then", ["pack-refs", "push"])
def test_packed_refs_and_pushes_into_a_bare_repository_wake(repo: Git, make_git, then: str) -> None:
    bare = make_git("bare", bare=True)
    repo("push", "-q", str(bare.folder), "main")
    bare("pack-refs", "--all", "--prune")
    store = GitStore(bare.folder)
    repo.write(intents__shop__web_y=intent(weight=2))
    repo.commit()
    if then == "push":
        assert wakes(store, lambda: repo("push", "-q", str(bare.folder), "main"))
    else:
        repo("push", "-q", str(bare.folder), "main:refs/heads/other")

        def move() -> None:
            with (bare.folder / "packed-refs").open() as packed:
                lines = [line for line in packed if "refs/heads/main" not in line]
            new = bare.folder / "packed-refs.new"
            new.write_text("".join(lines) + f"{repo('rev-parse', 'main')} refs/heads/main\n")
            new.replace(bare.folder / "packed-refs")

        assert wakes(store, move)


def test_packing_alone_does_not_wake(repo: Git) -> None:
    store = GitStore(repo.folder)
    assert not wakes(store, lambda: repo("pack-refs", "--all", "--prune"), 2.0)


def test_polling_wakes_where_inotify_sees_nothing(repo: Git, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no watches left")

    monkeypatch.setattr("watchdog.observers.api.BaseObserver.schedule", refuse)
    monkeypatch.setattr("watchdog.observers.api.BaseObserver.start", refuse)
    store = GitStore(repo.folder)
    repo.write(intents__shop__web_y=intent(weight=2))
    assert wakes(store, repo.commit)


def test_a_commit_between_reading_and_waiting_is_not_missed(repo: Git) -> None:
    store = GitStore(repo.folder)
    store.read()
    repo.commit()
    assert store.wait(SOON_S)
    assert not store.wait(0.1)
    repo.commit()
    store.read()
    assert not store.wait(0.1)


def test_our_own_writes_do_not_wake_us(repo: Git) -> None:
    store, other = GitStore(repo.folder), GitStore(repo.folder)
    text = intent(weight=3)
    store.apply([(text, decode(text, "x").documents[0])])
    store.put_status("planner", [])
    assert not store.wait(0.2)
    assert other.wait(0.2)


def test_a_planner_wakes_for_a_node_and_a_node_for_commits_only(repo: Git) -> None:
    planner, agent, visitor = (GitStore(repo.folder) for _ in range(3))
    planner.put_status("planner", [])
    agent.put_status("node-1", [node("node-1", "a")])
    assert planner.wait(0.2)
    planner.statuses()
    assert not agent.wait(0.2)
    assert wakes(planner, lambda: agent.put_status("node-1", [node("node-1", "b")]))
    planner.put_status("planner", [node("x")])
    assert not agent.wait(0.2)
    repo.commit()
    assert agent.wait(SOON_S)
    assert visitor.wait(0.2)


def test_work_in_the_tree_does_not_wake(repo: Git) -> None:
    store = GitStore(repo.folder)

    def work() -> None:
        repo.write(intents__shop__web_y=intent(weight=2))
        repo("add", "--all")
        repo("status")

    assert not wakes(store, work, 1.5)


def test_commits_on_another_branch_do_not_wake(repo: Git) -> None:
    store = GitStore(repo.folder)
    assert not wakes(store, lambda: repo("branch", "other"), 1.5)


def test_folders_of_refs_that_come_and_go_break_nothing(repo: Git, monkeypatch: pytest.MonkeyPatch) -> None:
    died: list[object] = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    folders = [repo.folder / ".git/refs" / name for name in ("schedctl/lease", "schedctl/status/a", "heads/feature/x")]
    ended = threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "ref.lock").touch()
                (folder / "ref.lock").unlink()
                folder.rmdir()
            folders[-1].parent.rmdir()

    store = GitStore(repo.folder)
    churn = threading.Thread(target=come_and_go)
    churn.start()
    try:
        monkeypatch.setattr("controller.source.watch.POLL_S", 0.001)
        assert not store.wait(3.0)
        commit = repo("commit-tree", repo("rev-parse", "HEAD^{tree}"), "-p", "HEAD", "-m", "x")
        assert wakes(store, lambda: repo("update-ref", "refs/heads/main", commit))
    finally:
        ended.set()
        churn.join()
    assert died == []


def test_a_remote_is_asked_now_and_then(repo: Git, make_git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.source.store.REMOTE_POLL_S", 0.5)
    bare = make_git("bare", bare=True)
    repo("push", "-q", str(bare.folder), "main")
    Git(tmp_path)("clone", "-q", str(bare.folder), "clone")
    store = GitStore(tmp_path / "clone")
    store.read()
    repo.commit()
    assert wakes(store, lambda: repo("push", "-q", str(bare.folder), "main"))


def test_a_store_that_is_gone_leaves_no_thread_behind(repo: Git) -> None:
    before = threading.active_count()
    store = GitStore(repo.folder)
    for _ in range(3):
        store.wait(0.05)
    assert threading.active_count() > before
    del store
    gc.collect()
    until = time.monotonic() + SOON_S
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.05)
    assert threading.active_count() <= before
