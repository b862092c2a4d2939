# SPDX-License-Identifier: Apache-2.0
"""Branches of new templates over a remote: made by compare-and-swap, and never moved by us once they are there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from controller.api import TemplateDraft
from controller.errors import RepositoryError
from controller.source import GitStore, drafts
from tests.reconcile.planning import repository

SPEC = "{summary: s, suits: [external], source: {path: scheduler.bpf.c.j2}}"


def draft(readme: str = "An authored example.", name: str = "new-one") -> TemplateDraft:
    kind = "apiVersion: schedctl.dev/v1alpha1\nkind: SchedulerTemplate\n"
    manifest = f"{kind}metadata: {{name: {name}}}\nspec: {SPEC}\n"
    return TemplateDraft(name=name, manifest=manifest, source="x\n", readme=readme, author="authored")


def git(path: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(["git", "-C", str(path), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    return repository(tmp_path, bare=True)


@pytest.fixture
def clones(tmp_path: Path, origin: Path) -> list[Path]:
    made = [tmp_path / "one", tmp_path / "two"]
    for path in made:
        subprocess.run(["git", "clone", "-q", str(origin), str(path)], check=True)
        git(path, "config", "user.name", path.name)  # else both would make the same commit
    return made


def test_two_planners_propose_one_draft(origin: Path, clones: list[Path]) -> None:
    main = git(origin, "rev-parse", "main")
    assert [GitStore(path).add_draft(draft()) for path in clones] == [True, False]
    assert git(origin, "rev-parse", f"{draft().branch}~1") == main
    assert git(origin, "rev-parse", "main") == main
    assert git(origin, "show", f"{draft().branch}:templates/new-one/README.md") == "An authored example."


def test_who_was_faster_is_not_replaced(origin: Path, clones: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one's branch comes between our looking and our push."""
    mine, theirs = (GitStore(path) for path in clones)
    fetched = drafts.commit_changes
    made: list[str] = []

    def late(remote, branch, build, describe, **given):  # type: ignore[no-untyped-def]
        def built(files, loaded):  # type: ignore[no-untyped-def]
            changes = build(files, loaded)
            if not made:
                made.append("once")
                assert theirs.add_draft(draft())
                made.append(git(origin, "rev-parse", branch))
            return changes

        return fetched(remote, branch, built if remote is mine._remote else build, describe, **given)

    monkeypatch.setattr(drafts, "commit_changes", late)
    assert mine.add_draft(draft()) is False
    assert git(origin, "rev-parse", draft().branch) == made[1]


def test_another_text_is_another_branch(origin: Path, clones: list[Path]) -> None:
    store = GitStore(clones[0])
    assert store.add_draft(draft())
    assert store.add_draft(draft("Another."))
    assert draft().branch != draft("Another.").branch


def test_a_name_that_is_there_and_a_manifest_that_is_none(clones: list[Path]) -> None:
    store = GitStore(clones[0])
    store.add_draft(draft())
    git(clones[0], "fetch", "-q", "origin")
    git(clones[0], "merge", "-q", f"origin/{draft().branch}")
    git(clones[0], "push", "-q", "origin", "HEAD:main")
    with pytest.raises(RepositoryError, match="there is a template new-one on branch main already"):
        store.add_draft(draft("Another."))
    bad = draft(name="new-two").model_copy(update={"manifest": "kind: SchedulerTemplate\n"})
    with pytest.raises(RepositoryError, match="nothing was committed"):
        store.add_draft(bad)


@pytest.mark.parametrize("name", ["../x", "a/b", "A", "", "a" * 41, "x.lock", "-x", "a\n"])
def test_a_name_becomes_a_path_and_is_plain(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        draft(name=name)
