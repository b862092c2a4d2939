# SPDX-License-Identifier: Apache-2.0
"""GitStore: a Git repository as the home of resources (`controller.api.Store`).

Reading keeps the last good state whatever happens to the repository: a fetch that fails, a branch that is gone, a
history that was rewritten, a signature that is not good, a manifest that is not valid each become a reason and a
sentence beside the unchanged `Desired`. Only `accept` lets a rewritten history in. Writing is one commit a call.
"""

from __future__ import annotations

import logging
import posixpath
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from controller.api import (
    Desired,
    NodeScheduler,
    Resource,
    RevisionBytes,
    SchedulerPolicy,
    SchedulerRevision,
    SchedulerTemplate,
    SchedulingIntent,
    Signature,
    SourceState,
    TemplateDraft,
)
from controller.api.decode import Decoded, Document
from controller.errors import CouldNotTell, RepositoryError
from controller.source import drafts, lease, manifests, memory, revisions, signature, watch
from controller.source.commit import WRITER_TRAILER, Build, Message, commit_changes
from controller.source.edit import Applied, Edit, apply_documents, delete_keys, summary
from controller.source.history import History, to_time
from controller.source.manifests import Key, Loaded
from controller.source.remote import STATUS_PREFIX, find_remote
from controller.source.repository import open_repository, printable
from controller.source.snapshot import Files, open_commit
from controller.source.status import PLANNER, StatusRefs

REMOTE_POLL_S = 15.0
"""How often `wait` asks a remote; a local repository is watched."""

_R = TypeVar("_R", bound=Resource)
_log = logging.getLogger(__name__)


class GitStore:
    """The policy repository at `path`, followed on `branch` (by default the one HEAD names now).

    With `require_signature`, commits that are not signed by a key of `allowed_signers` (or, without that file, by a key
    the user's own git configuration trusts) are never desired. With `state`, the last good commit is remembered in that
    folder across restarts; without, only in this object. Safe to use from several threads.
    RepositoryError when there is no Git repository at `path`.
    """

    def __init__(
        self,
        path: Path | str,
        branch: str | None = None,
        *,
        require_signature: bool = False,
        allowed_signers: Path | None = None,
        state: Path | None = None,
    ) -> None:
        self.repository = open_repository(Path(path))
        self.branch = self.repository.check_branch(branch) if branch else self.repository.head_branch()
        self._require_signature = require_signature
        self._allowed_signers = allowed_signers
        self._remote = find_remote(self.repository)
        self._memory = memory.Memory.of(state, self.repository, self.branch)
        self._last = self._memory.load()
        self._history = History(self.repository)
        self._statuses = StatusRefs(self._remote)
        self._leases = lease.LeaseRefs(self._remote)
        self._lock = threading.RLock()
        self._decoded: manifests.Cache = {}
        self._desired: Desired | None = None
        self._state: SourceState | None = None
        self._own_commit = ""
        self._watch = watch.Watch(self.repository)
        self._seen = self._watched()

    # Reading ----------------------------------------------------------------------------------------------------

    def read(self) -> SourceState:
        """The newest good desired state, and what is wrong with anything newer. Never raises for what is in Git."""
        with self._lock:
            unreachable = ""
            try:
                self._remote.fetch()
            except (RepositoryError, CouldNotTell) as error:
                unreachable = str(error)
            try:
                state = self._look()
            except (RepositoryError, CouldNotTell) as error:
                state = self._kept("FetchFailed", "", str(error))
            if unreachable:
                state = state.model_copy(update={"reason": "FetchFailed", "problems": (unreachable, *state.problems)})
            return state

    def accept(self, commit: str) -> SourceState:
        """Let in a history that was rewritten: from now on heads must descend from `commit`, which must be in it.

        RepositoryError if `commit` (an id or a prefix of one) is not on the branch now.
        """
        with self._lock:
            said = self.repository.run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}",
                                       check=False)  # fmt: skip
            full = said.stdout.decode("ascii", "replace").strip()
            head = self.repository.ref(self._remote.tracking(self.branch))
            if said.code != 0 or head is None or not self.repository.is_ancestor(full, head):
                raise RepositoryError(
                    f"{self.repository.path}: {printable(commit)} is not a commit of branch {self.branch}",
                    remedy=f"see: git -C {self.repository.path} log {self.branch}",
                )
            self._remember(memory.LastGood(self._last.commit, full))
            self._state = None
            return self.read()

    def revision_bytes(self, revision: SchedulerRevision, commit: str) -> RevisionBytes:
        """The files of `revision` as committed in `commit`. RepositoryError if missing or not regular files."""
        with self._lock, open_commit(self.repository, commit) as files:
            manifest = revisions.find_manifest(files, revision, self._decoded)
            wanted = {"source": revision.spec.files.source, "object": revision.spec.files.object}
            wanted["passport"] = revision.spec.files.passport
            read = partial(revisions.read_part, files, commit, manifest, revision)
            return RevisionBytes(**{what: read(relative, what) for what, relative in wanted.items()})

    def evidence(self, revision: SchedulerRevision, commit: str) -> dict[str, bytes]:
        """The evidence files of `revision` by name, as committed in `commit`. RepositoryError if one is not there."""
        with self._lock, open_commit(self.repository, commit) as files:
            manifest = revisions.find_manifest(files, revision, self._decoded)
            read = partial(revisions.read_part, files, commit, manifest, revision)
            return {posixpath.basename(path): read(path, "evidence") for path in revision.spec.files.evidence}

    def commit_writer(self, commit: str) -> str:
        """Who of schedctl made `commit` (`planner`), empty for people's: the loop does not act on its own commits."""
        result = self.repository.run(
            "log", "-1", "--no-show-signature", f"--format=%(trailers:key={WRITER_TRAILER},valueonly)", commit, "--"
        )
        return result.stdout.decode("utf-8", "replace").strip()

    # Statuses ---------------------------------------------------------------------------------------------------

    def statuses(self) -> Mapping[Key, Resource]:
        """Every resource with a status by (kind, namespace, name), over all writers."""
        with self._lock:
            refs = self._statuses.refs()
            self._seen = {name: at for name, at in self._seen.items() if not _is_status(name)} | refs
            return self._statuses.read(refs)

    def nodes(self) -> Sequence[NodeScheduler]:
        """The NodeSchedulers among `statuses`, in order of name."""
        return [resource for resource in self.statuses().values() if isinstance(resource, NodeScheduler)]

    def put_status(self, writer: str, resources: Sequence[Resource]) -> None:
        """Replace everything `writer` (a node's name, or `planner`) says. No commit when nothing changed."""
        with self._lock:
            self._statuses.put(writer, lambda: resources)

    def update_status(self, writer: str, build: Callable[[Mapping[Key, Resource]], Sequence[Resource]]) -> None:
        """As `put_status`, with what `build` makes of all statuses as they are; it is asked again after a lost race."""
        with self._lock:
            self._statuses.put(writer, lambda: build(self._statuses.read(self._statuses.refs())))

    # Leases -----------------------------------------------------------------------------------------------------

    def lease(self, key: str) -> lease.Lease | None:
        """The lease of `key` for this process, kept alive until it is released; None while somebody else holds it.

        RepositoryError when the repository cannot be asked.
        """
        with self._lock:
            return lease.acquire(self._leases, key)

    # Waiting ----------------------------------------------------------------------------------------------------

    def wait(self, timeout_s: float) -> bool:
        """Sleep until something may have changed since it was last read (True) or the time is over (False).

        New commits wake, except our own. Other writers' statuses wake too, except in a process that itself writes a
        node's status: a node acts on commits only, and nodes waking each other would never come to rest.
        """
        until = time.monotonic() + timeout_s
        while True:
            left = until - time.monotonic()
            if not self._remote.present:
                return self._watch.wait(self._changed, left)
            if self._watch.wait(self._changed, min(left, REMOTE_POLL_S)):
                return True
            if left <= REMOTE_POLL_S:
                return False
            try:
                self._remote.fetch()
            except (RepositoryError, CouldNotTell):
                return True  # the next read() says so

    # Writing ----------------------------------------------------------------------------------------------------

    def add_revision(self, revision: SchedulerRevision, files: RevisionBytes, *, branch: str | None = None) -> str:
        """Commit a revision (on the branch, or on `branch` made from it for manual approval): the new commit.

        The commit that is there already if it holds the same revision. RepositoryError if the name is taken by another.
        """
        changes = revisions.files_of(revision, files)

        def build(tip: Files, loaded: Loaded) -> Mapping[str, bytes | None]:
            revisions.refuse_taken(tip, loaded, revision, changes)
            return changes

        message = Message(f"Add SchedulerRevision {revision.name}", PLANNER)
        with self._lock:
            if branch is None or branch == self.branch:
                return self._commit(self.branch, build, lambda: message)
            self.repository.check_branch(branch)
            waiting = self.repository.ref(self._remote.tracking(branch))
            if waiting is not None and self._holds(waiting, changes):
                return waiting
            return self._commit(branch, build, lambda: message, base=self.branch)

    def add_draft(self, draft: TemplateDraft) -> bool:
        """Propose a new template on a branch of its own; False if it lies there already. RepositoryError."""
        with self._lock:
            return drafts.propose(self._remote, self.branch, draft, PLANNER)

    def apply(
        self, documents: Sequence[tuple[str, Document]], message: str = "", dry_run: bool = False
    ) -> list[Applied]:
        """Commit documents (each with the text it was decoded from), all or none, in one commit.

        The text is either the document's own or that of its whole file. A resource that exists is replaced where it
        stands; a new one goes to its standard path. No commit if all are unchanged.
        """
        applied: list[Applied] = []

        def build(tip: Files, loaded: Loaded) -> Mapping[str, bytes | None]:
            edit = Edit(tip, {})
            applied[:] = apply_documents(edit, loaded, documents)
            return edit.changes

        with self._lock:
            self._commit(self.branch, build, lambda: Message(message or summary("Apply", applied)), dry_run=dry_run)
        return applied

    def delete(self, keys: Iterable[Key], message: str = "", dry_run: bool = False) -> list[Applied]:
        """Commit the removal of resources by (kind, namespace, name); those that are not there are left out."""
        wanted = list(keys)
        applied: list[Applied] = []

        def build(tip: Files, loaded: Loaded) -> Mapping[str, bytes | None]:
            edit = Edit(tip, {})
            applied[:] = delete_keys(edit, loaded, wanted)
            return edit.changes

        with self._lock:
            self._commit(self.branch, build, lambda: Message(message or summary("Delete", applied)), dry_run=dry_run)
        return applied

    # Inside -----------------------------------------------------------------------------------------------------

    def _look(self) -> SourceState:
        head_ref = self._remote.tracking(self.branch)
        refs = self.repository.refs(head_ref, "refs/heads")
        head = refs.get(head_ref)
        self._seen = {name: at for name, at in self._seen.items() if _is_status(name)}
        self._seen |= {head_ref: head} if head else {}
        if head is None:
            return self._absent([name.removeprefix("refs/heads/") for name in refs])
        if self._state is not None and self._state.head == head:
            return self._state
        if self._last.anchor and not self.repository.is_ancestor(self._last.anchor, head):
            memory.hold(self.repository, self._last.anchor)
            problem = (
                f"branch {self.branch} was rewritten: its head {head[:12]} does not descend from the last good commit "
                f"{self._last.anchor[:12]}; push a descendant of that, or accept the new history explicitly"
            )
            return self._kept("HistoryRewritten", head, problem)
        signed = signature.verify(self.repository, head, self._allowed_signers)
        if self._require_signature and signed.state != "good":
            who = f" by {signed.signer}" if signed.signer else ""
            return self._kept(
                "SignatureBad", head, f"commit {head[:12]} is not acceptable: its signature{who} is {signed.state}"
            )
        loaded, desired = self._load(head, signed)
        if desired is None:
            self._state = self._kept("InvalidManifest", head, *loaded.problems)
            return self._state
        self._desired = desired
        self._remember(memory.LastGood(head, head))
        self._state = SourceState(desired=desired, head=head)
        return self._state

    def _absent(self, branches: list[str]) -> SourceState:
        if not branches:
            problem = f"{self.repository.path} has no commits; fill it with: schedctl init {self.repository.path}"
            return self._kept("EmptyRepository", "", problem)
        where = "origin has" if self._remote.present else "there is"
        problem = f"{where} no branch {self.branch} (branches here: {', '.join(map(printable, branches[:10]))})"
        return self._kept("BranchGone", "", problem)

    def _kept(self, reason: str, head: str, *problems: str) -> SourceState:
        """The last good state with what is wrong now."""
        more: tuple[str, ...] = ()
        if self._desired is None and self._last.commit:
            try:
                signed = signature.verify(self.repository, self._last.commit, self._allowed_signers)
                self._desired = self._load(self._last.commit, signed)[1]
            except (RepositoryError, CouldNotTell) as error:
                more = (f"the last good commit {self._last.commit[:12]} can no longer be read: {error}",)
        if self._last.commit and reason in ("BranchGone", "EmptyRepository"):
            memory.hold(self.repository, self._last.commit)
        return SourceState(desired=self._desired, head=head, reason=reason, problems=(*problems, *more))

    def _load(self, commit: str, signed: Signature) -> tuple[Loaded, Desired | None]:
        cache: dict[tuple[str, str], Decoded] = {}
        with open_commit(self.repository, commit) as files:
            known = {(e.path, e.blob): self._decoded.get((e.path, e.blob)) for e in files.entries.values()}
            cache.update({key: decoded for key, decoded in known.items() if decoded is not None})
            loaded = manifests.load(files, cache)
        self._decoded = cache
        if loaded.problems:
            return loaded, None
        self._history.advance(commit)
        with self.repository.objects() as repo:
            made = repo.commit(commit)
            committed_at, author = to_time(int(made.committed_date)), f"{made.author.name} <{made.author.email}>"
        stamped = [self._history.stamped(d.resource, d.file) for _, d in sorted(loaded.documents.items())]
        return loaded, Desired(
            commit=commit,
            branch=self.branch,
            committed_at=committed_at,
            author=printable(author)[:200],
            signature=signed,
            intents=_only(stamped, SchedulingIntent),
            policies=_only(stamped, SchedulerPolicy),
            templates=_only(stamped, SchedulerTemplate),
            revisions=_only(stamped, SchedulerRevision),
        )

    def _remember(self, last: memory.LastGood) -> None:
        if last == self._last:
            return
        self._last = last
        trouble = self._memory.save(last)
        if trouble:
            _log.warning("%s", trouble)

    def _commit(
        self,
        branch: str,
        build: Build,
        describe: Callable[[], Message],
        *,
        base: str = "",
        dry_run: bool = False,
    ) -> str:
        made = commit_changes(self._remote, branch, build, describe, base=base, dry_run=dry_run)
        if branch == self.branch and not dry_run:
            self._own_commit = made
        return made

    def _holds(self, commit: str, changes: Mapping[str, bytes | None]) -> bool:
        with open_commit(self.repository, commit) as files:
            return all(path in files.entries and files.read(path) == content for path, content in changes.items())

    def _watched(self) -> dict[str, str]:
        """The refs that can wake us, as they are now."""
        head_ref = self._remote.tracking(self.branch)
        refs = self.repository.refs(head_ref, STATUS_PREFIX)
        return {name: at for name, at in refs.items() if name == head_ref or _is_status(name)}

    def _changed(self) -> bool:
        """Whether a ref that wakes us is not what it was when it was read; what is found now counts as seen."""
        with self._lock:
            try:
                refs = self._watched()
            except (RepositoryError, CouldNotTell):
                return False  # the next read() says what is wrong
            seen, self._seen = self._seen, refs
            moved = {name for name in refs.keys() | seen.keys() if refs.get(name) != seen.get(name)}
            own = {self._remote.tracking(self.branch): self._own_commit} | self._statuses.written
            theirs = {name for name in moved if name not in refs or refs[name] != own.get(name)}
            is_node = any(name != STATUS_PREFIX + PLANNER for name in self._statuses.written)
            return any(not (is_node and _is_status(name)) for name in theirs)


def _is_status(ref: str) -> bool:
    return ref.startswith(STATUS_PREFIX)


def _only(resources: Sequence[Resource], kind: type[_R]) -> tuple[_R, ...]:
    return tuple(resource for resource in resources if isinstance(resource, kind))
