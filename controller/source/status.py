# SPDX-License-Identifier: Apache-2.0
"""Statuses: what each writer says, in a ref of its own under refs/schedctl/status/.

A ref is a short chain of small commits without relation to the branch, so that a status can never look like a change
of intent; it is restarted before it grows long. Its tree holds <Kind>/<namespace or _>/<name>.yaml. The text is JSON,
which every YAML reader takes: nodes write it every few seconds on slow machines, and it has no aliases to bomb with.
"""

from __future__ import annotations

import json
import logging
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from controller.api import Resource, kinds
from controller.api.decode import whole
from controller.errors import RepositoryError
from controller.source.commit import SCHEDCTL, WRITER_TRAILER, write_commit, write_tree
from controller.source.manifests import Key
from controller.source.remote import STATUS_PREFIX, Remote
from controller.source.repository import Repository, printable
from controller.source.snapshot import Files, open_commit

PLANNER = "planner"
MAX_STATUS_BYTES = 8 << 20
MAX_HISTORY = 50
_WRITER = re.compile(r"[a-z0-9]([a-z0-9-]|\.(?!\.|lock$))*")
_ATTEMPTS = 12
_SEQUENCE = "Schedctl-Sequence"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Said:
    """What one writer says: its resources, and when it said so."""

    at: int
    resources: tuple[Resource, ...]


@dataclass
class StatusRefs:
    """Reading and writing the status refs of one repository."""

    remote: Remote
    written: dict[str, str] = field(default_factory=dict)
    """Ref → commit that this process made last."""
    _cache: dict[str, tuple[str, _Said]] = field(default_factory=dict)
    _payloads: dict[str, tuple[str, Mapping[str, bytes]]] = field(default_factory=dict)

    def refs(self) -> dict[str, str]:
        """Every status ref and its commit."""
        return self.remote.repository.refs(STATUS_PREFIX)

    def read(self, refs: Mapping[str, str]) -> dict[Key, Resource]:
        """Every resource with a status. Of two writers on one, a node speaks for itself, else the later one wins."""
        for ref, commit in refs.items():
            if self._cache.get(ref, ("",))[0] != commit:
                self._cache[ref] = (commit, _read(self.remote.repository, ref, commit))
        self._cache = {ref: said for ref, said in self._cache.items() if ref in refs}
        merged: dict[Key, tuple[tuple[bool, int, str], Resource]] = {}
        for ref, (_, said) in self._cache.items():
            writer = ref.removeprefix(STATUS_PREFIX)
            for resource in said.resources:
                rank = (resource.kind == "NodeScheduler" and resource.name == writer, said.at, writer)
                if resource.key not in merged or merged[resource.key][0] < rank:
                    merged[resource.key] = (rank, resource)
        return {key: resource for key, (_, resource) in sorted(merged.items())}

    def put(self, writer: str, build: Callable[[], Sequence[Resource]]) -> None:
        """Replace everything `writer` says by what `build` gives, in one commit; in none if it says the same already.

        When another process that writes under this name was faster, `build` is asked again: what it gives may rest on
        what that one said.
        """
        ref = STATUS_PREFIX + check_writer(writer)
        repository = self.remote.repository
        for attempt in range(_ATTEMPTS):
            old = repository.ref(ref)
            payload = _payload(build())
            if old is not None and self._payloads.get(ref) == (old, payload):
                return
            tree = write_tree(repository, None, payload, {})
            parent, sequence = _continue(repository, old, tree)
            if sequence:
                message = f"Status of {writer}\n\n{WRITER_TRAILER}: {writer}\n{_SEQUENCE}: {sequence}\n"
                new = write_commit(repository, tree, parent, message.encode(), SCHEDCTL)
                if not self.remote.publish(ref, new, old, ref, "status"):
                    time.sleep(random.uniform(0, 0.02 * (attempt + 1)))  # noqa: S311 - spreads writers
                    continue
            else:
                new = old or ""
            self.written[ref] = new
            self._payloads[ref] = (new, payload)
            return
        raise RepositoryError(f"{repository.path}: other writers moved {ref} {_ATTEMPTS} times in a row")


def check_writer(writer: str) -> str:
    """`writer` if it can name a ref: a node's name, or `planner`."""
    if len(writer) > 200 or _WRITER.fullmatch(writer) is None or writer.endswith("."):
        raise RepositoryError(
            f'"{printable(writer)}" cannot name a writer of statuses',
            remedy="use lower case letters, digits, dashes and single dots, not ending in .lock",
        )
    return writer


def _payload(resources: Sequence[Resource]) -> dict[str, bytes]:
    payload: dict[str, bytes] = {}
    for resource in sorted(resources, key=lambda r: r.key):
        path = f"{resource.kind}/{resource.namespace or '_'}/{resource.name}.yaml"
        text = json.dumps(resource.wire(), indent=1, ensure_ascii=False, allow_nan=False)
        if path in payload:
            raise RepositoryError(f"the status of {path.removesuffix('.yaml')} was given twice")
        payload[path] = (text + "\n").encode("utf-8", "replace")
        if len(payload[path]) > MAX_STATUS_BYTES:
            raise RepositoryError(f"the status of {path.removesuffix('.yaml')} is larger than 8 MiB")
    return payload


def _continue(repository: Repository, old: str | None, tree: str) -> tuple[str | None, int]:
    """(parent, sequence number) of the next commit; number 0 when `old` has this tree already.

    A tip that cannot be read (a machine lost power while it was written) is replaced: its writer is saying anew what
    it says.
    """
    if old is None:
        return None, 1
    result = repository.run("cat-file", "commit", old, check=False)
    if result.code != 0:
        return None, 1
    header, _, message = result.stdout.decode("utf-8", "replace").partition("\n\n")
    readable = repository.run("cat-file", "-e", f"{old}^{{tree}}", check=False).code == 0
    if readable and header.startswith(f"tree {tree}\n"):
        return old, 0
    found = re.search(rf"^{_SEQUENCE}: (\d{{1,6}})$", message, re.MULTILINE)
    sequence = int(found[1]) if found else MAX_HISTORY
    return (old, sequence + 1) if readable and sequence < MAX_HISTORY else (None, 1)


def _read(repository: Repository, ref: str, commit: str) -> _Said:
    """What one ref says. Another version's or a damaged status is logged and left out: it must not stop the rest."""
    resources: list[Resource] = []
    at = 0
    try:
        with repository.objects() as repo:
            at = int(repo.commit(commit).committed_date)
        with open_commit(repository, commit, limit=MAX_STATUS_BYTES) as files:
            for path in files.entries:
                resource = _resource(files, path)
                if resource is None:
                    _log.warning("%s: %s is not a status that this version reads", ref, printable(path))
                else:
                    resources.append(resource)
    except RepositoryError as error:
        _log.warning("%s: %s", ref, error)
    return _Said(at, tuple(resources))


def _resource(files: Files, path: str) -> Resource | None:
    kind = kinds.find(path.split("/", 1)[0])
    if kind is None or not path.endswith(".yaml"):
        return None
    try:
        return kind.model.model_validate(json.loads(files.read(path), parse_int=whole))
    except (ValidationError, ValueError, RecursionError):
        return None
