# SPDX-License-Identifier: Apache-2.0
"""A new template on a branch of its own, made from the policy's branch, which stays as it is.

The branch is named after the draft's digest, and one that is there is never touched: the same draft is proposed once,
and what a person added to it stays. Merged, its files are a committed template like any other.
"""

from __future__ import annotations

from collections.abc import Mapping

from controller.api import TemplateDraft
from controller.errors import RepositoryError
from controller.source.commit import Message, commit_changes
from controller.source.manifests import Loaded
from controller.source.remote import Remote
from controller.source.snapshot import Files

FOLDER = "templates"


class _Waiting(Exception):
    """The branch is there."""


def propose(remote: Remote, base: str, draft: TemplateDraft, writer: str) -> bool:
    """Commit `draft` on its branch, made from `base`; False if that branch is there already.

    RepositoryError when `base` has something of the draft's name, or the commit cannot be made.
    """
    remote.repository.check_branch(draft.branch)
    folder = f"{FOLDER}/{draft.name}"

    def build(tip: Files, loaded: Loaded) -> Mapping[str, bytes | None]:
        # Asked at each attempt, after the ref was read that the commit replaces: whoever was faster is not replaced.
        if remote.repository.ref(remote.tracking(draft.branch)) is not None:
            raise _Waiting
        taken = any(path == folder or path.startswith(f"{folder}/") for path in tip.entries)
        if taken or ("SchedulerTemplate", "", draft.name) in loaded.documents:
            raise RepositoryError(
                f"there is a template {draft.name} on branch {base} already", remedy="give the new one another name"
            )
        return {f"{folder}/{name}": content for name, content in draft.files().items()}

    text = (
        f"Propose template {draft.name}\n\nDrafted by the model {draft.author}; linted, compiled and audited, and\n"
        f"reviewed by nobody. Nothing uses it before it is merged.\n\nDraft: {draft.digest}"
    )
    try:
        commit_changes(remote, draft.branch, build, lambda: Message(text, writer), base=base)
    except _Waiting:
        return False
    return True
