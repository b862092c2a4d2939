# SPDX-License-Identifier: Apache-2.0
"""apply and delete, as changes to files: pure functions of the tip's files and what is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import yaml

from controller.api import Resource, SchedulerRevision, SchedulerTemplate, kinds
from controller.api.decode import Document, decode, encode, to_yaml
from controller.errors import ManifestError, RepositoryError
from controller.source import yamledit
from controller.source.manifests import Key, Loaded, sibling
from controller.source.repository import printable
from controller.source.snapshot import Files


@dataclass(frozen=True)
class Applied:
    """What became of one resource; `namespace` is empty for cluster kinds."""

    kind: str
    namespace: str
    name: str
    action: Literal["created", "configured", "unchanged", "deleted"]


def summary(verb: str, applied: Sequence[Applied]) -> str:
    """The first line of a commit message: `Apply SchedulingIntent shop/web`."""
    changed = [a for a in applied if a.action != "unchanged"]
    names = [f"{a.kind} {a.namespace + '/' if a.namespace else ''}{a.name}" for a in changed]
    return f"{verb} {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@dataclass
class Edit:
    """Files as they will be. Only what differs from the tip is in `changes`."""

    files: Files
    changes: dict[str, bytes | None]

    def text(self, path: str) -> str | None:
        """The text of `path` as it stands now, None if there is no such file."""
        if path in self.changes:
            content = self.changes[path]
        else:
            content = self.files.read(path) if path in self.files.entries else None
        return None if content is None else content.decode("utf-8")

    def put(self, path: str, text: str) -> None:
        """Replace or create a file."""
        self.changes[path] = text.encode("utf-8")


def standard_path(resource: Resource) -> str:
    """Where a resource of this kind and name is put if it is new."""
    name = resource.name
    places = {
        "SchedulingIntent": f"intents/{resource.namespace}/{name}.yaml",
        "SchedulerPolicy": f"policies/{name}.yaml",
        "SchedulerTemplate": f"templates/{name}/template.yaml",
        "SchedulerRevision": f"revisions/{name}.yaml",
    }
    if resource.kind not in places:
        raise RepositoryError(f"a {resource.kind} is written by its node and cannot be committed")
    return places[resource.kind]


def apply_documents(edit: Edit, loaded: Loaded, documents: Sequence[tuple[str, Document]]) -> list[Applied]:
    """Put each document where its resource stands, or on its standard path."""
    _refuse_twice(documents)
    applied: list[Applied] = []
    for text, document in documents:
        resource = document.resource
        standing = loaded.documents.get(resource.key)
        if standing is None:
            _create(edit, _text_of(text, document, yamledit.document_of), resource)
            applied.append(Applied(*resource.key, "created"))
        elif _same(edit, standing, resource):
            applied.append(Applied(*resource.key, "unchanged"))
        else:
            old = edit.text(standing.file) or ""
            content = _text_of(text, document, yamledit.content_of)
            edit.put(standing.file, yamledit.replace(old, standing.index, content))
            applied.append(Applied(*resource.key, "configured"))
    return applied


def delete_keys(edit: Edit, loaded: Loaded, keys: Iterable[Key]) -> list[Applied]:
    """Take out each resource that is there, with the files that belong to it alone; what is not there is left out."""
    standing = [loaded.documents[key] for key in dict.fromkeys(keys) if key in loaded.documents]
    gone = {document.resource.key for document in standing}
    owned = {path for document in standing for path in _companions(edit, document)}
    needed = {p for key, document in loaded.documents.items() if key not in gone for p in _companions(edit, document)}
    # From the end of each file, so that the positions of the others stay what they were.
    for document in sorted(standing, key=lambda d: (d.file, -d.index)):
        left = yamledit.remove(edit.text(document.file) or "", document.index)
        if decode(left, document.file).documents:
            edit.put(document.file, left)
        else:
            edit.changes[document.file] = None
    for path in owned & edit.files.entries.keys() - needed:
        edit.changes[path] = None
    return [Applied(*document.resource.key, "deleted") for document in standing]


def _create(edit: Edit, text: str, resource: Resource) -> None:
    path = standard_path(resource)
    old = edit.text(path)
    edit.put(path, text if old is None else yamledit.append(old, text))


def _text_of(text: str, document: Document, take: Callable[[str, int], str]) -> str:
    """The document as its author wrote it, if that text alone says exactly this resource; else written anew."""
    resource = document.resource
    try:
        count = len(yamledit.spans(text))
        own = take(text, document.index if count > 1 else 1)
        decoded = decode(own, document.file)
    except (yaml.YAMLError, IndexError, ManifestError):
        return written_anew(resource)
    said = decoded.documents[0].resource if len(decoded.documents) == 1 and not decoded.errors else None
    return own if said == resource and _is_wish(resource) else written_anew(resource)


def written_anew(resource: Resource) -> str:
    """A document that says exactly what `resource` wishes: briefly if that loses nothing, else with every field."""
    for text in (encode(resource), to_yaml(_wish(resource))):
        said = decode(text, "").documents
        if len(said) == 1 and _wish(said[0].resource) == _wish(resource):
            return text
    kind = kinds.of(resource)
    raise RepositoryError(
        f"{kind.reference(resource.name)} holds text that YAML cannot carry unchanged",
        remedy="remove control characters, such as U+0085, from its texts",
    )


def _is_wish(resource: Resource) -> bool:
    """Without what the store fills in: a resource that `get -o yaml` printed carries status and generation."""
    filled_in = (getattr(resource, "status", None), resource.metadata.generation, resource.metadata.creation_timestamp)
    return all(value is None for value in filled_in)


def _same(edit: Edit, standing: Document, given: Resource) -> bool:
    by_path = isinstance(given, SchedulerTemplate) and given.spec.source.path is not None
    there = _as_written(edit, standing) if by_path else standing.resource
    return _wish(there) == _wish(given)


def _as_written(edit: Edit, standing: Document) -> Resource:
    """The resource as its file says it: `standing` has a template's text in place of its path."""
    documents = decode(edit.text(standing.file) or "", standing.file).documents
    return next(document.resource for document in documents if document.index == standing.index)


def _wish(resource: Resource) -> dict[str, object]:
    wire = resource.wire()
    wire.pop("status", None)
    for filled_in in ("generation", "creationTimestamp"):
        wire["metadata"].pop(filled_in, None)
    return wire


def _companions(edit: Edit, document: Document) -> set[str]:
    """The files that a resource names beside its manifest: a revision's parts and evidence, a template's text."""
    resource = document.resource
    if isinstance(resource, SchedulerRevision):
        files = resource.spec.files
        return {sibling(document.file, path) for path in (files.source, files.object, files.passport, *files.evidence)}
    if isinstance(resource, SchedulerTemplate):
        written = _as_written(edit, document)
        path = written.spec.source.path if isinstance(written, SchedulerTemplate) else None
        return {sibling(document.file, path)} if path else set()
    return set()


def _refuse_twice(documents: Sequence[tuple[str, Document]]) -> None:
    seen: dict[Key, Document] = {}
    for _, document in documents:
        key = document.resource.key
        first = seen.setdefault(key, document)
        if first is not document:
            kind = kinds.of(document.resource)
            raise ManifestError(
                f"{kind.reference(key[2])} is given twice; the first one is in "
                f"{printable(first.file)}:{first.line} (document {first.index})",
                file=document.file,
                document=document.index,
                line=document.line,
                remedy="keep one of them",
            )
