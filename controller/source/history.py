# SPDX-License-Identifier: Apache-2.0
"""`generation` and `creationTimestamp`, which Git does not store: counted over the first-parent history.

A resource is created by the first commit in which its file names it and gains a generation with each commit in which
its `spec` differs from the one before. Old versions of files may be anything, also what would crash a parser that
builds values, so they are only scanned as a stream of YAML events with a bounded depth, into one digest a spec.
The index is kept and carried forward, so that a new commit costs its own changes only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import yaml

from controller.api import Resource, kinds
from controller.source.manifests import Key
from controller.source.repository import Repository
from controller.source.snapshot import MAX_FILE_BYTES

MAX_COMMITS = 20_000
"""Commits looked back at most: in a longer history, counting starts there."""
_MAX_DEPTH = 64
_BATCH_BYTES = 16 << 20
_YAML = ("*.yaml", "*.yml")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Track:
    """How far one resource has come: the digest of its newest spec, how many there were, since when."""

    spec: bytes
    generation: int
    created: datetime


@dataclass
class History:
    """The index of one branch."""

    repository: Repository
    commit: str = ""
    files: dict[str, dict[Key, Track]] = field(default_factory=dict)

    def advance(self, commit: str) -> None:
        """Bring the index to `commit`, from where it is if that lies on the way, else from the beginning."""
        if commit == self.commit:
            return
        steps = self._steps(f"{self.commit}..{commit}") if self.commit else []
        if not steps or steps[0][1] != self.commit:
            self.files = {}
            steps = self._steps(commit)
        changes = list(self._changes(steps))
        specs = self._specs({blob for _, _, blob in changes if blob})
        times = {step[0]: step[2] for step in steps}
        for changed_by, path, blob in changes:
            self._apply(path, specs.get(blob) if blob else {}, times[changed_by])
        self.commit = commit

    def stamped(self, resource: Resource, path: str) -> Resource:
        """`resource` with generation and creation time filled in from what is known of `path`."""
        track = self.files.get(path, {}).get(resource.key)
        if track is None:
            return resource
        known = {"generation": track.generation, "creation_timestamp": track.created}
        return resource.model_copy(update={"metadata": resource.metadata.model_copy(update=known)})

    def _apply(self, path: str, specs: Mapping[Key, bytes] | None, at: datetime) -> None:
        if specs is None:  # not YAML that can be scanned: no resource of that version was ever in force
            return
        known = self.files.pop(path, {})
        tracks: dict[Key, Track] = {}
        for key, spec in specs.items():
            old = known.get(key)
            if old is None:
                tracks[key] = Track(spec, 1, at)
            else:
                tracks[key] = old if old.spec == spec else replace(old, spec=spec, generation=old.generation + 1)
        if tracks:
            self.files[path] = tracks

    def _steps(self, what: str) -> list[tuple[str, str, datetime]]:
        """Commits of the first-parent chain, oldest first: (id, first parent or empty, committed at)."""
        options = ("--first-parent", "--reverse", "--timestamp", "--parents", f"--max-count={MAX_COMMITS}")
        result = self.repository.run("rev-list", *options, what, "--", check=False)
        if result.code != 0:
            return []
        steps = []
        for line in result.stdout.decode().splitlines():
            seconds, commit, *parents = line.split()
            steps.append((commit, parents[0] if parents else "", to_time(int(seconds))))
        return steps

    def _changes(self, steps: list[tuple[str, str, datetime]]) -> Iterator[tuple[str, str, str]]:
        """(commit, path, blob id or empty when it was deleted) of each change to a manifest, oldest first."""
        given = "".join(f"{commit} {parent}".rstrip() + "\n" for commit, parent, _ in steps).encode()
        options = ("--stdin", "--root", "-r", "-z", "--raw", "--no-renames", "--no-abbrev")
        said = self.repository.run("diff-tree", *options, "--", *_YAML, given=given).stdout
        tokens = iter(said.decode("utf-8", "surrogateescape").split("\0"))
        commit = ""
        for token in tokens:
            if not token.startswith(":"):
                commit = token.strip()[:40] or commit
                continue
            _, new_mode, _, blob, _ = token.split(" ")
            path = next(tokens)
            yield commit, path, blob if new_mode in ("100644", "100755") else ""

    def _specs(self, blobs: set[str]) -> dict[str, dict[Key, bytes] | None]:
        """Blob id → spec digest by resource; None for what cannot be scanned."""
        wanted = sorted(blobs)
        if not wanted:
            return {}
        said = self.repository.run("cat-file", "--batch-check", given="\n".join(wanted).encode() + b"\n").stdout
        batch: list[str] = []
        size = 0
        specs: dict[str, dict[Key, bytes] | None] = dict.fromkeys(wanted)
        for line in said.decode().splitlines():
            blob, kind, *length = line.split()
            if kind != "blob" or int(length[0]) > MAX_FILE_BYTES:  # "missing" in a shallow or damaged repository
                continue
            batch.append(blob)
            size += int(length[0])
            if size > _BATCH_BYTES:
                specs |= self._scan(batch)
                batch, size = [], 0
        return specs | self._scan(batch)

    def _scan(self, batch: list[str]) -> dict[str, dict[Key, bytes] | None]:
        if not batch:
            return {}
        said = self.repository.run("cat-file", "--batch", given="\n".join(batch).encode() + b"\n").stdout
        scanned: dict[str, dict[Key, bytes] | None] = {}
        at = 0
        while at < len(said):
            end = said.index(b"\n", at)
            blob, _, length = said[at:end].decode().split()
            content = said[end + 1 : end + 1 + int(length)]
            at = end + 2 + int(length)
            scanned[blob] = spec_digests(content)
        return scanned


def to_time(seconds: int) -> datetime:
    """A commit's clock as a time; a commit may claim any year, so what no calendar holds becomes the epoch."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


@dataclass
class _Node:
    digest: bytes
    value: str = ""
    children: dict[str, _Node] = field(default_factory=dict)


def spec_digests(content: bytes) -> dict[Key, bytes] | None:
    """The digest of each resource's `spec` in one YAML file; None if it cannot be scanned."""
    found: dict[Key, bytes] = {}
    try:
        for root in _roots(content.decode("utf-8")):
            kind = kinds.find(_text(root, "kind"))
            name = _text(root, "metadata", "name")
            if kind is None or not name:
                continue
            space = (_text(root, "metadata", "namespace") or "default") if kind.namespaced else ""
            spec = root.children.get("spec")
            found[kind.name, space, name] = spec.digest if spec else b""
    except (yaml.YAMLError, UnicodeDecodeError, _TooDeep):
        return None
    return found


class _TooDeep(Exception):
    pass


def _text(node: _Node, *path: str) -> str:
    here: _Node | None = node
    for part in path:
        here = here.children.get(part) if here else None
    return here.value if here else ""


def _roots(text: str) -> Iterator[_Node]:
    """The root of each document. Building works bottom-up on a stack: no recursion, and aliases cost nothing."""
    stack: list[tuple[yaml.NodeEvent, list[_Node]]] = []
    anchors: dict[str | None, _Node] = {}
    for event in yaml.parse(text, Loader=_Loader):
        anchor = None
        if isinstance(event, yaml.DocumentStartEvent):
            anchors = {}
            continue
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            if len(stack) >= _MAX_DEPTH:
                raise _TooDeep
            stack.append((event, []))
            continue
        if isinstance(event, yaml.ScalarEvent):
            kind = str((event.tag, event.implicit[0])).encode()
            node, anchor = _Node(_hash(b"s", kind, event.value.encode()), event.value), event.anchor
        elif isinstance(event, yaml.AliasEvent):
            node = anchors.get(event.anchor) or _Node(_hash(b"a"))
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            opened, parts = stack.pop()
            node, anchor = _collection(opened, parts), opened.anchor
        else:
            continue
        if anchor:
            anchors[anchor] = node
        if stack:
            stack[-1][1].append(node)
        else:
            yield node


def _collection(opened: yaml.NodeEvent, parts: list[_Node]) -> _Node:
    if isinstance(opened, yaml.SequenceStartEvent):
        return _Node(_hash(b"l", *(part.digest for part in parts)))
    pairs = list(zip(parts[::2], parts[1::2], strict=True))
    digest = _hash(b"m", *sorted(key.digest + value.digest for key, value in pairs))
    return _Node(digest, children={key.value: value for key, value in pairs})


def _hash(*parts: bytes) -> bytes:
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "big") + part)
    return state.digest()
