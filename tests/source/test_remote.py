# SPDX-License-Identifier: Apache-2.0
"""With an `origin`, it is the truth: fetched before reading, pushed to by compare-and-swap."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest

from controller.api import NodeScheduler
from controller.api.decode import decode
from controller.errors import RepositoryError
from controller.source import GitStore
from tests.source.conftest import Git, intent


def node(name: str, commit: str = "") -> NodeScheduler:
    return NodeScheduler.model_validate(
        {"metadata": {"name": name}, "kind": "NodeScheduler", "status": {"commit": commit}}
    )


@pytest.fixture
def origin(repo: Git, make_git) -> Git:
    bare = make_git("origin.git", bare=True)
    repo("push", "-q", str(bare.folder), "main")
    return bare


def clone(origin: Git, folder: Path, *options: str) -> Git:
    subprocess.run(["git", "clone", "-q", *options, origin.folder, folder], check=True, timeout=60)
    return Git(folder)


def documents(text: str) -> list:
    return [(text, document) for document in decode(text, "given.yaml").documents]


@pytest.mark.parametrize("options", [[], ["--bare"], ["--mirror"]])
def test_what_one_clone_applies_another_reads(origin: Git, tmp_path: Path, options: list[str]) -> None:
    here, there = clone(origin, tmp_path / "here"), clone(origin, tmp_path / "there", *options)
    reader = GitStore(there.folder)
    assert reader.read().reason == "Verified"
    applied = GitStore(here.folder).apply(documents(intent(weight=500)))
    assert [a.action for a in applied] == ["configured"]
    desired = reader.read().desired
    assert desired is not None
    assert desired.intents[0].spec.weight == 500
    assert desired.commit == origin("rev-parse", "main") == here("rev-parse", "HEAD")
    assert here("status", "--porcelain") == ""
    GitStore(there.folder).apply(documents(intent("other")))
    assert origin("log", "--format=%s", "-1", "main") == "Apply SchedulingIntent shop/other"


def test_statuses_travel_through_origin(origin: Git, tmp_path: Path) -> None:
    stores = [GitStore(clone(origin, tmp_path / name).folder) for name in ("a", "b")]
    for _ in range(2):
        for name, store in zip("ab", stores, strict=True):
            store.put_status(f"node-{name}", [node(f"node-{name}", name)])
    for store in stores:
        store.read()
        assert [n.name for n in store.nodes()] == ["node-a", "node-b"]
    assert len(origin("for-each-ref", "refs/schedctl/status").splitlines()) == 2


def test_an_unreachable_origin_keeps_what_was_fetched(origin: Git, tmp_path: Path) -> None:
    store = GitStore(clone(origin, tmp_path / "c").folder)
    good = store.read().desired
    origin.folder.rename(tmp_path / "moved.git")
    state = store.read()
    assert (state.reason, state.desired) == ("FetchFailed", good)
    assert "fetching from origin failed" in state.problems[0]
    with pytest.raises(RepositoryError, match="origin"):
        store.put_status("n", [node("n")])
    with pytest.raises(RepositoryError, match="origin"):
        store.apply(documents(intent(weight=2)))
    fresh = GitStore(tmp_path / "c").read()
    assert (fresh.reason, fresh.desired) == ("FetchFailed", good)
    (tmp_path / "moved.git").rename(origin.folder)
    assert store.read().reason == "Verified"


def test_a_branch_deleted_on_origin_is_gone(origin: Git, tmp_path: Path) -> None:
    store = GitStore(clone(origin, tmp_path / "c").folder)
    good = store.read().desired
    origin("update-ref", "-d", "refs/heads/main")
    state = store.read()
    assert (state.reason, state.desired) == ("BranchGone", good)


def test_clones_that_apply_at_once_both_win(origin: Git, tmp_path: Path) -> None:
    stores = [GitStore(clone(origin, tmp_path / name).folder) for name in ("a", "b")]
    failures: list[Exception] = []

    def work(name: str, store: GitStore) -> None:
        try:
            for i in range(4):
                store.apply(documents(intent(f"{name}{i}")))
        except RepositoryError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in zip("ab", stores, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []
    desired = stores[0].read().desired
    assert desired is not None
    assert {i.name for i in desired.intents} == {"web", *(f"{n}{i}" for n in "ab" for i in range(4))}


def test_unpushed_commits_of_a_person_are_not_pushed_along(origin: Git, tmp_path: Path) -> None:
    here = clone(origin, tmp_path / "here")
    here.write(notes="mine")
    mine = here.commit("not ready")
    with pytest.raises(RepositoryError, match="commits that origin does not have"):
        GitStore(here.folder).apply(documents(intent(weight=9)))
    assert here("rev-parse", "HEAD") == mine
    assert origin("rev-parse", "main") != mine


def test_a_remote_helper_is_never_run(repo: Git, tmp_path: Path) -> None:
    repo("remote", "add", "origin", f"ext::sh -c touch% {tmp_path}/owned")
    state = GitStore(repo.folder).read()
    assert state.reason == "FetchFailed"
    assert not (tmp_path / "owned").exists()
