# SPDX-License-Identifier: Apache-2.0
"""Revisions as files of a commit: a manifest, the three files a node needs, and the evidence behind the passport."""

from __future__ import annotations

import posixpath

from controller.api import RevisionBytes, SchedulerRevision
from controller.errors import RepositoryError
from controller.source import manifests
from controller.source.commit import Changes
from controller.source.edit import standard_path, written_anew
from controller.source.manifests import Loaded, sibling
from controller.source.snapshot import MAX_FILE_BYTES, Files


def files_of(revision: SchedulerRevision, files: RevisionBytes) -> dict[str, bytes | None]:
    """Path → content of everything that is committed with it. RepositoryError for what nobody could read back."""
    path = standard_path(revision)
    named = revision.spec.files
    parts = [(named.source, files.source), (named.object, files.object), (named.passport, files.passport)]
    parts += [(relative, files.evidence[posixpath.basename(relative)]) for relative in named.evidence]
    changes: dict[str, bytes | None] = {path: written_anew(revision).encode()}
    for relative, content in parts:
        if len(content) > MAX_FILE_BYTES:  # a reader refuses the whole commit for it
            raise RepositoryError(f"{relative} of revision {revision.name} is larger than {MAX_FILE_BYTES} bytes")
        changes[sibling(path, relative)] = content
    if len(changes) != 1 + len(parts):
        raise RepositoryError(f"the files of revision {revision.name} must have different names")
    return changes


def read_part(files: Files, commit: str, manifest: str, revision: SchedulerRevision, relative: str, what: str) -> bytes:
    """One file of a revision; RepositoryError, with the reason, when it is no regular file of this commit."""
    path = sibling(manifest, relative)
    if path not in files.entries:
        why = next((p for p in files.problems if p.startswith(f"{path}: ")), f"{path}: there is no such file")
        raise RepositoryError(
            f"the {what} of revision {revision.name} cannot be read at commit {commit[:12]}: {why}",
            remedy="the revision was damaged after it was committed: make it again",
        )
    return files.read(path)


def find_manifest(files: Files, revision: SchedulerRevision, cache: manifests.Cache) -> str:
    """The path of the manifest that defines `revision`: its standard path, or wherever it was put."""
    usual = standard_path(revision)
    for path in sorted(filter(manifests.is_manifest, files.entries), key=lambda p: (p != usual, p)):
        if any(d.resource.key == revision.key for d in manifests.decoded(files, path, cache).documents):
            return path
    raise RepositoryError(
        f"revision {revision.name} is not in this commit", remedy="see what there is: schedctl get srev"
    )


def refuse_taken(tip: Files, loaded: Loaded, revision: SchedulerRevision, changes: Changes) -> None:
    """RepositoryError when the name is taken by a revision of other content: revisions never change."""
    standing = loaded.documents.get(revision.key)
    elsewhere = standing is not None and standing.file not in changes
    if elsewhere or any(path in tip.entries and tip.read(path) != content for path, content in changes.items()):
        raise RepositoryError(
            f"revision {revision.name} exists with other content, and revisions are immutable",
            remedy="give the new one another name",
        )
