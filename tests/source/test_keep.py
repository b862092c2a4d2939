# SPDX-License-Identifier: Apache-2.0
"""Rule 6: whatever happens to the repository, the last good state stays and the trouble is told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from controller.errors import RepositoryError
from controller.source import GitStore
from tests.source.conftest import Git, intent


def change(repo: Git, weight: int, *options: str) -> str:
    repo.write(intents__shop__web_y=intent(weight=weight))
    repo("add", "--all")
    repo("commit", "-q", "-m", f"weight {weight}", *options)
    return repo("rev-parse", "HEAD")


def weight(store: GitStore) -> int:
    desired = store.read().desired
    assert desired is not None
    return desired.intents[0].spec.weight


def test_a_rewritten_history_is_refused_until_it_is_accepted(repo: Git) -> None:
    store = GitStore(repo.folder)
    change(repo, 200)
    assert weight(store) == 200
    forced = change(repo, 300, "--amend")
    state = store.read()
    assert (state.reason, state.head) == ("HistoryRewritten", forced)
    assert "accept" in state.problems[0]
    assert weight(store) == 200
    after = change(repo, 400)
    assert store.read().reason == "HistoryRewritten"
    state = store.accept(forced)
    assert (state.reason, state.head) == ("Verified", after)
    assert weight(store) == 400


def test_a_rewritten_history_that_comes_back_needs_no_acceptance(repo: Git) -> None:
    store = GitStore(repo.folder)
    good = change(repo, 200)
    store.read()
    repo("reset", "-q", "--hard", "HEAD~1")
    assert store.read().reason == "HistoryRewritten"
    assert weight(store) == 200
    repo("reset", "-q", "--hard", good)
    assert store.read().reason == "Verified"


def test_accepting_is_not_enough_for_a_bad_commit(repo: Git) -> None:
    store = GitStore(repo.folder)
    change(repo, 200)
    store.read()
    repo.put("intents/shop/web.yaml", "broken: [")
    repo("commit", "-aqm", "x", "--amend")
    state = store.accept(repo("rev-parse", "HEAD"))
    assert state.reason == "InvalidManifest"
    assert weight(store) == 200
    change(repo, 300)
    assert weight(store) == 300


@pytest.mark.parametrize("commit", ["0" * 40, "--all", "nonsense", "HEAD~99", ""])
def test_only_a_commit_of_the_branch_can_be_accepted(repo: Git, commit: str) -> None:
    with pytest.raises(RepositoryError, match="not a commit of branch main"):
        GitStore(repo.folder).accept(commit)


def test_the_last_good_commit_survives_a_restart(repo: Git, tmp_path: Path) -> None:
    state = tmp_path / "state"
    good = change(repo, 200)
    GitStore(repo.folder, state=state).read()
    change(repo, 300, "--amend")
    again = GitStore(repo.folder, state=state)
    assert again.read().reason == "HistoryRewritten"
    desired = again.read().desired
    assert desired is not None
    assert (desired.commit, weight(again)) == (good, 200)
    repo("reflog", "expire", "--expire=now", "--all")
    repo("gc", "-q", "--prune=now")
    assert weight(GitStore(repo.folder, state=state)) == 200  # held, though no branch leads to it
    assert GitStore(repo.folder).read().reason == "Verified"  # another reader's memory is its own
    again.accept(repo("rev-parse", "HEAD"))
    assert weight(GitStore(repo.folder, state=state)) == 300


def test_after_a_restart_a_bad_commit_leaves_the_last_good_one(repo: Git, tmp_path: Path) -> None:
    GitStore(repo.folder, state=tmp_path).read()
    repo.put("x.yaml", "broken: [")
    repo.commit()
    state = GitStore(repo.folder, state=tmp_path).read()
    assert state.reason == "InvalidManifest"
    assert state.desired is not None
    assert GitStore(repo.folder).read().desired is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"commit": 7, "anchor": 8}', '{"commit": "--all", "anchor": ""}', "\0"]
)
def test_a_damaged_memory_is_no_memory(repo: Git, tmp_path: Path, text: str) -> None:
    store = GitStore(repo.folder, state=tmp_path)
    store.read()
    (file,) = (tmp_path / "source").iterdir()
    file.write_text(text)
    assert GitStore(repo.folder, state=tmp_path).read().reason == "Verified"
    assert "commit" in file.read_text()


def test_a_memory_that_cannot_be_written_stops_nothing(repo: Git, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert GitStore(repo.folder, state=tmp_path / "file").read().reason == "Verified"


def test_a_branch_that_goes_and_returns(repo: Git) -> None:
    store = GitStore(repo.folder)
    good = store.read()
    repo("checkout", "-q", "-b", "other")
    repo("branch", "-q", "-D", "main")
    state = store.read()
    assert (state.reason, state.desired) == ("BranchGone", good.desired)
    assert "other" in state.problems[0]
    repo("branch", "main")
    assert store.read().reason == "Verified"


def test_a_repository_emptied_under_a_reader(repo: Git) -> None:
    store = GitStore(repo.folder)
    good = store.read()
    repo("update-ref", "-d", "refs/heads/main")
    state = store.read()
    assert (state.reason, state.desired) == ("EmptyRepository", good.desired)


def test_a_repository_that_vanishes_under_a_reader(repo: Git) -> None:
    store = GitStore(repo.folder)
    good = store.read()
    shutil.rmtree(repo.folder)
    state = store.read()
    assert (state.reason, state.desired) == ("FetchFailed", good.desired)
    assert "is gone" in state.problems[0]
    assert not store.wait(0.1)


def test_an_intent_removed_by_a_commit_is_removed(repo: Git) -> None:
    store = GitStore(repo.folder)
    store.read()
    repo("rm", "-q", "intents/shop/web.yaml")
    repo.commit()
    desired = store.read().desired
    assert desired is not None
    assert desired.intents == ()
