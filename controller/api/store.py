# SPDX-License-Identifier: Apache-2.0
"""Desired state and the one protocol through which reconcile reads and writes resources.

Git implements `Store` (controller.source); the Kubernetes API will be the second. Desired resources and revisions
are commits on the branch; status is written elsewhere (Git: one ref a writer under refs/schedctl/status/), so that
an agent's own status writes can never look like a change of intent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

from pydantic import Field

from controller.api.base import ApiModel, Resource, Timestamp
from controller.api.draft import TemplateDraft
from controller.api.intent import SchedulingIntent
from controller.api.node import NodeScheduler
from controller.api.policy import SchedulerPolicy
from controller.api.revision import SchedulerRevision
from controller.api.template import SchedulerTemplate


class Signature(ApiModel):
    """What `git verify-commit` says of the commit: only exit 0 together with `%G?` = G is `good`."""

    state: Literal["good", "bad", "untrusted", "unsigned"]
    signer: str = ""


class Desired(ApiModel):
    """A commit and the resources it holds; templates carry their text inline. Built-in templates are not among them."""

    commit: str
    branch: str
    committed_at: Timestamp
    author: str
    signature: Signature
    intents: tuple[SchedulingIntent, ...] = ()
    policies: tuple[SchedulerPolicy, ...] = ()
    templates: tuple[SchedulerTemplate, ...] = ()
    revisions: tuple[SchedulerRevision, ...] = ()


class SourceState(ApiModel):
    """What the source has to offer: the newest good state, and what is wrong with anything newer.

    `desired` is None only if no good commit was ever seen. `problems` non-empty means that `desired` is the last good
    one, not the newest: keep it, say so, never prune. `reason` is PascalCase for the SourceVerified condition:
    `Verified`, `InvalidManifest`, `EmptyRepository`, `BranchGone`, `HistoryRewritten`, `FetchFailed`, `SignatureBad`.
    """

    desired: Desired | None
    head: str = Field(default="", description="Commit that was looked at.")
    reason: str = "Verified"
    problems: tuple[str, ...] = ()


class RevisionBytes(ApiModel):
    """The three files of a revision that a node needs, and the evidence by file name (not read for a node)."""

    source: bytes
    object: bytes
    passport: bytes
    evidence: dict[str, bytes] = Field(default_factory=dict)


class Lease(Protocol):
    """A right that ends by itself when its holder does."""

    def confirm(self) -> bool:
        """Whether it is still ours, asked where the truth is; if so, it is as good as new."""
        ...

    def release(self) -> None:
        """Give it back."""
        ...


class Store(Protocol):
    """What reconcile needs of a home for resources."""

    def read(self) -> SourceState:
        """The newest good desired state. Cheap when nothing changed; never raises for bad content, only reports it."""
        ...

    def revision_bytes(self, revision: SchedulerRevision, commit: str) -> RevisionBytes:
        """The files of `revision` as committed in `commit`, without its evidence. RepositoryError if missing or not
        regular files."""
        ...

    def evidence(self, revision: SchedulerRevision, commit: str) -> Mapping[str, bytes]:
        """The evidence files of `revision` by name, as committed in `commit`. RepositoryError if one is not there."""
        ...

    def add_revision(self, revision: SchedulerRevision, files: RevisionBytes, *, branch: str | None = None) -> str:
        """Commit a revision (on the branch, or on `proposals/NAME` for manual approval) and return the new commit."""
        ...

    def add_draft(self, draft: TemplateDraft) -> bool:
        """Propose a new template on a branch of its own; False if it lies there already. Nothing else changes."""
        ...

    def statuses(self) -> Mapping[tuple[str, str, str], Resource]:
        """Every resource with a status by (kind, namespace, name), over all writers."""
        ...

    def nodes(self) -> Sequence[NodeScheduler]:
        """The NodeSchedulers among `statuses`."""
        ...

    def put_status(self, writer: str, resources: Sequence[Resource]) -> None:
        """Replace everything `writer` (a node's name, or `planner`) says. No commit when nothing changed."""
        ...

    def update_status(
        self, writer: str, build: Callable[[Mapping[tuple[str, str, str], Resource]], Sequence[Resource]]
    ) -> None:
        """As `put_status`, of what `build` makes of the statuses as they are; asked again when a race was lost."""
        ...

    def lease(self, key: str) -> Lease | None:
        """The right to work on `key`, for this process alone; None while another one has it."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Sleep until something may have changed (True) or the time is over (False)."""
        ...
