# SPDX-License-Identifier: Apache-2.0
"""The files of a commit → its resources, or everything that is wrong with them.

A commit is good as a whole or not at all, so nothing here stops at the first fault: every bad document, every name
used twice and every template whose text is missing is reported with its file, document and line.
"""

from __future__ import annotations

import posixpath
from collections.abc import MutableMapping
from dataclasses import dataclass, field

from pydantic import ValidationError

from controller.api import SchedulerTemplate
from controller.api.decode import Decoded, Document, decode
from controller.errors import ManifestError
from controller.source.repository import printable
from controller.source.snapshot import Files

Key = tuple[str, str, str]
"""(kind, namespace, name); the namespace of cluster kinds is empty."""

Cache = MutableMapping[tuple[str, str], Decoded]
"""(path, blob id) → what it decoded to, so that a new commit costs only its changed files."""

_MAX_PROBLEMS = 200


@dataclass
class Loaded:
    """Every good document by key, and one sentence for each fault."""

    documents: dict[Key, Document] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def is_manifest(path: str) -> bool:
    """Whether a file is read as YAML."""
    return path.endswith((".yaml", ".yml"))


def load(files: Files, cache: Cache | None = None) -> Loaded:
    """The resources of `files`; templates come back with their text inline."""
    loaded = Loaded(problems=list(files.problems))
    for path in sorted(filter(is_manifest, files.entries)):
        result = decoded(files, path, cache)
        loaded.problems += [str(error) for error in result.errors]
        for document in result.documents:
            _add(loaded, files, document, path)
    if len(loaded.problems) > _MAX_PROBLEMS:
        more = len(loaded.problems) - _MAX_PROBLEMS
        loaded.problems[_MAX_PROBLEMS:] = [f"and {more} more problems"]
    return loaded


def sibling(manifest: str, relative: str) -> str:
    """The path in the repository of a file named relative to a manifest; the API's pattern allows no `..`."""
    return posixpath.join(posixpath.dirname(manifest), relative)


def decoded(files: Files, path: str, cache: Cache | None) -> Decoded:
    """What one file decodes to, from `cache` if its content was seen before."""
    blob = files.entries[path].blob
    if cache is not None and blob and (path, blob) in cache:
        return cache[path, blob]
    label = printable(path)
    try:
        result = decode(files.read(path).decode("utf-8"), label)
    except UnicodeDecodeError as error:
        result = Decoded(errors=[ManifestError(f"byte {error.start + 1} is not UTF-8 text", file=label)])
    if cache is not None and blob:
        cache[path, blob] = result
    return result


def _add(loaded: Loaded, files: Files, document: Document, path: str) -> None:
    resource = document.resource
    first = loaded.documents.get(resource.key)
    if first is not None:
        what = f"{resource.kind} {_full_name(resource.key)}"
        loaded.problems.append(f"{_place(document)}: {what} is already defined in {_place(first)}")
        return
    if resource.kind == "NodeScheduler":
        loaded.problems.append(f"{_place(document)}: a NodeScheduler is written by its node and cannot be committed")
        return
    if isinstance(resource, SchedulerTemplate) and resource.spec.source.path is not None:
        source = sibling(path, resource.spec.source.path)
        try:
            resource = _inline(files, resource, source)
        except ManifestError as error:
            loaded.problems.append(f"{_place(document)}: {error}")
            return
    loaded.documents[resource.key] = Document(resource, path, document.index, document.line)


def _inline(files: Files, template: SchedulerTemplate, source: str) -> SchedulerTemplate:
    if source not in files.entries:
        raise ManifestError(f"spec.source.path: {source} is not a file of this commit")
    try:
        return template.with_text(files.read(source).decode("utf-8"))
    except UnicodeDecodeError:
        raise ManifestError(f"spec.source.path: {source} is not UTF-8 text") from None
    except ValidationError:
        raise ManifestError(f"spec.source.path: {source} is larger than 256 KiB") from None


def _place(document: Document) -> str:
    return f"{printable(document.file)}:{document.line} (document {document.index})"


def _full_name(key: Key) -> str:
    return f'"{key[1]}/{key[2]}"' if key[1] else f'"{key[2]}"'
