# SPDX-License-Identifier: Apache-2.0
"""Revisions are committed with their files, never change, and are read back as regular files of one commit."""

from __future__ import annotations

import pytest
from hypothesis import find

from controller.api import RevisionBytes, RevisionFiles, SchedulerRevision
from controller.errors import RepositoryError
from controller.source import GitStore
from tests import strategies
from tests.source.conftest import Git

FILES = RevisionBytes(source=b"int x;\n", object=b"\x7fELF\0\xff", passport=b"{}")


@pytest.fixture(scope="module")
def revision() -> SchedulerRevision:
    drawn: SchedulerRevision = find(strategies.revisions, lambda _: True)
    return drawn


def test_a_revision_comes_back_as_it_was_added(repo: Git, revision: SchedulerRevision) -> None:
    store = GitStore(repo.folder)
    before = repo("rev-parse", "HEAD")
    commit = store.add_revision(revision, FILES)
    assert commit == repo("rev-parse", "HEAD") != before
    desired = store.read().desired
    assert desired is not None
    assert [r.spec for r in desired.revisions] == [revision.spec]
    assert store.revision_bytes(desired.revisions[0], commit) == FILES
    assert store.commit_writer(commit) == "planner"
    assert store.commit_writer(before) == ""
    assert repo("status", "--porcelain") == ""
    assert store.add_revision(revision, FILES) == commit
    with pytest.raises(RepositoryError, match="immutable"):
        store.add_revision(revision, FILES.model_copy(update={"object": b"other"}))
    with pytest.raises(RepositoryError, match="not in this commit"):
        store.revision_bytes(revision, before)
    assert repo("rev-parse", "HEAD") == commit


def test_a_proposal_waits_on_its_own_branch_until_it_is_merged(repo: Git, revision: SchedulerRevision) -> None:
    store = GitStore(repo.folder)
    main = repo("rev-parse", "main")
    branch = f"proposals/{revision.name}"
    commit = store.add_revision(revision, FILES, branch=branch)
    assert (repo("rev-parse", branch), repo("rev-parse", "main")) == (commit, main)
    assert repo("rev-parse", f"{branch}^") == main
    assert repo("status", "--porcelain") == ""
    assert store.add_revision(revision, FILES, branch=branch) == commit
    desired = store.read().desired
    assert desired is not None
    assert desired.revisions == ()
    repo.put("notes", "x")
    repo.commit()
    other = FILES.model_copy(update={"source": b"int y;\n"})
    again = store.add_revision(revision, other, branch=branch)
    assert repo("rev-parse", f"{branch}^") == repo("rev-parse", "main")
    repo("merge", "-q", "--no-ff", "-m", "approve", branch)
    desired = store.read().desired
    assert desired is not None
    assert store.revision_bytes(desired.revisions[0], desired.commit) == other
    assert again != commit


def test_files_that_are_no_regular_files_are_refused(repo: Git, revision: SchedulerRevision) -> None:
    store = GitStore(repo.folder)
    store.add_revision(revision, FILES)
    file = repo.folder / "revisions" / revision.spec.files.object
    for spoil, why in (
        (lambda: file.unlink(), "no such file"),
        (lambda: file.symlink_to("/etc/passwd"), "symbolic links"),
        (lambda: (file.unlink(), file.write_bytes(b"x" * (1 << 21))), "larger than 1 MiB"),
    ):
        spoil()
        with pytest.raises(RepositoryError, match=why):
            store.revision_bytes(revision, repo.commit())


def test_deleting_a_revision_takes_its_files(repo: Git, revision: SchedulerRevision) -> None:
    store = GitStore(repo.folder)
    store.add_revision(revision, FILES)
    assert [a.action for a in store.delete([revision.key])] == ["deleted"]
    assert not (repo.folder / "revisions").exists()


def test_a_revision_is_not_added_to_a_branch_that_is_not_valid(repo: Git, revision: SchedulerRevision) -> None:
    repo.put("x.yaml", "broken: [")
    head = repo.commit()
    with pytest.raises(RepositoryError, match=r"x\.yaml"):
        GitStore(repo.folder).add_revision(revision, FILES)
    assert repo("rev-parse", "HEAD") == head


def test_a_commit_that_is_not_there(repo: Git, revision: SchedulerRevision) -> None:
    with pytest.raises(RepositoryError):
        GitStore(repo.folder).revision_bytes(revision, "f" * 40)


def test_evidence_is_committed_with_its_revision_and_goes_with_it(repo: Git, revision: SchedulerRevision) -> None:
    store = GitStore(repo.folder)
    wire = revision.spec.files.wire() | {"evidence": ["proof/evidence/dmesg-7.3.4+deb13-cloud-amd64.txt"]}
    named = RevisionFiles.model_validate(wire)
    made = revision.model_copy(update={"spec": revision.spec.model_copy(update={"files": named})})
    files = FILES.model_copy(update={"evidence": {"dmesg-7.3.4+deb13-cloud-amd64.txt": b"Linux\n"}})
    commit = store.add_revision(made, files)
    assert store.evidence(made, commit) == {"dmesg-7.3.4+deb13-cloud-amd64.txt": b"Linux\n"}
    assert store.revision_bytes(made, commit) == FILES
    assert "revisions/proof/evidence/dmesg-7.3.4+deb13-cloud-amd64.txt" in repo("ls-files").split()
    store.delete([made.key], "gone")
    assert "evidence" not in repo("ls-files")


def test_a_file_that_nobody_could_read_back_is_not_committed(repo: Git, revision: SchedulerRevision) -> None:
    before = repo("rev-parse", "HEAD")
    with pytest.raises(RepositoryError, match="larger than"):
        GitStore(repo.folder).add_revision(revision, FILES.model_copy(update={"object": bytes((1 << 20) + 1)}))
    assert repo("rev-parse", "HEAD") == before
