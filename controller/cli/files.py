# SPDX-License-Identifier: Apache-2.0
"""Reading what `-f` names: a file, a folder (its manifests, deeper ones with -R), or `-` for standard input.

Files are read as bytes, at most a little more than a manifest may have, and must be UTF-8. A file that cannot be read
as text is one error among the documents' errors: the others are still looked at.
"""

from __future__ import annotations

import json
import re
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from controller.api import SchedulerTemplate
from controller.api.decode import MAX_BYTES, Document, check_shape, compose, decode, plain, to_yaml, whole
from controller.cli.command import UsageError
from controller.cli.context import Context
from controller.errors import InputError, ManifestError

Key = tuple[str, str, str]

_LIST = re.compile(r"""^\s*["']?kind["']?:\s*["']?List["']?,?\s*$""", re.MULTILINE)
_SUFFIXES = (".json", ".yaml", ".yml")


@dataclass(frozen=True)
class GivenDocument:
    """A good document and the text of the file it stands in."""

    document: Document
    text: str


@dataclass
class Given:
    """What the files hold: the good documents in order, and an error for each bad one."""

    documents: list[GivenDocument] = field(default_factory=list)
    errors: list[ManifestError] = field(default_factory=list)


def read_manifests(args: Namespace, context: Context, *, to_commit: bool = True) -> Given:
    """Every document of every `-f`, as it can be committed, or (for delete) only as it names an object.

    InputError for a path that is not there or holds nothing.
    """
    if not args.filename:
        raise UsageError("must specify -f")
    given = Given()
    seen: dict[Key, Document] = {}
    doubled: set[Key] = set()
    for name, data in _contents(args, context):
        text, error = _text(data, name)
        text = expanded(text, name)
        decoded = decode(text, name)
        given.errors += [error] if error else decoded.errors
        for document in decoded.documents if not error else []:
            try:
                first = seen.setdefault(document.resource.key, document)
                if first is not document:
                    doubled.add(document.resource.key)
                    raise _refused(document, _twice(first))
                good = _acceptable(document) if to_commit else document
                given.documents.append(GivenDocument(good, text))
            except ManifestError as refused:
                given.errors.append(refused)
    # Which of the two was meant is not ours to guess: neither is good.
    given.documents = [each for each in given.documents if each.document.resource.key not in doubled]
    if not given.documents and not given.errors:
        raise InputError(f"no objects passed to {args.verb}", remedy="the files hold no document")
    return given


def _twice(first: Document) -> str:
    kind, _, name = first.resource.key
    return f'the {kind} "{name}" is given twice: first at {first.file}:{first.line}'


def _acceptable(document: Document) -> Document:
    """The document as it can be committed: a person's to write, a template's text inline."""
    kind, _, name = document.resource.key
    if kind in _WRITTEN_BY:
        raise _refused(document, f'The {kind} "{name}" is invalid: Forbidden: {_WRITTEN_BY[kind]} writes it')
    if isinstance(document.resource, SchedulerTemplate) and document.resource.spec.source.path is not None:
        return replace(document, resource=_with_text(document, document.resource, document.resource.spec.source.path))
    return document


_WRITTEN_BY = {"SchedulerRevision": "the controller", "NodeScheduler": "its node"}


def _with_text(document: Document, template: SchedulerTemplate, relative: str) -> SchedulerTemplate:
    """The template with the file beside its manifest inline, so that one document is all there is to commit."""
    path = Path(document.file).parent / relative
    try:
        return template.with_text(path.read_bytes().decode("utf-8"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text of at most 256 KiB"
        place = f'spec.source.path: Invalid value: "{relative}"'
        raise _refused(
            document, f'The SchedulerTemplate "{template.name}" is invalid: {place}: {path}: {why}'
        ) from None


def _refused(document: Document, text: str) -> ManifestError:
    return ManifestError(text, file=document.file, document=document.index, line=document.line)


def read_input(path: str, context: Context, *, limit: int = 16 * MAX_BYTES) -> str:
    """The text of one file or of standard input (`-`), for values that are not manifests. InputError if unreadable."""
    name, data = _one(path, context, limit)
    text, error = _text(data, name)
    if error:
        raise error
    return text


def read_bytes(path: str, context: Context, *, limit: int) -> bytes:
    """The bytes of one file or of standard input. InputError if unreadable, or more than `limit`."""
    name, data = _one(path, context, limit)
    if len(data) > limit:
        raise InputError(f'"{name}" is larger than {limit} bytes')
    return data


def expanded(text: str, name: str) -> str:
    """A List, as `get -o yaml` prints several objects, as one document an item; any other text as it is."""
    if not _LIST.search(text) or len(text) > MAX_BYTES:
        return text
    try:
        value = plain_value(text, name)
    except ManifestError:
        return text  # the decoder says what is wrong, with its place
    items = value.get("items") if isinstance(value, dict) and value.get("kind") == "List" else None
    return "---\n".join(to_yaml(item) for item in items) if isinstance(items, list) else text


def _contents(args: Namespace, context: Context) -> Iterator[tuple[str, bytes]]:
    for name in args.filename:
        path = Path(name)
        if name != "-" and path.is_dir():
            for file in _manifests(path, args.recursive):
                yield _one(str(file), context, MAX_BYTES)
        else:
            yield _one(name, context, MAX_BYTES)


def _manifests(folder: Path, recursive: bool) -> list[Path]:
    """The folder's manifests by name. Git's own folder is never looked into."""
    found = folder.rglob("*") if recursive else folder.glob("*")
    files = [path for path in found if path.suffix in _SUFFIXES and ".git" not in path.parts and path.is_file()]
    if not files:
        raise InputError(
            f"error reading [{folder}]: recognized file extensions are [{' '.join(_SUFFIXES)}]",
            remedy="" if recursive else "-R looks into its folders too",
        )
    return sorted(files)


def _one(name: str, context: Context, limit: int) -> tuple[str, bytes]:
    """A display name and at most `limit` + 1 bytes: the decoder refuses the one that is too many."""
    if name == "-":
        return "STDIN", context.stdin.read(limit + 1)
    try:
        with Path(name).open("rb") as file:
            return name, file.read(limit + 1)
    except FileNotFoundError:
        raise InputError(f'the path "{name}" does not exist') from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f'the path "{name}" cannot be read: {reason}') from None


def _text(data: bytes, name: str) -> tuple[str, ManifestError | None]:
    try:
        return data.decode("utf-8-sig"), None
    except UnicodeDecodeError as error:
        if len(data) > MAX_BYTES and error.start > MAX_BYTES - 4:
            return data.decode("utf-8", "replace"), None  # cut in a character by the size limit: that is the error
        line = data.count(b"\n", 0, error.start) + 1
        what = f"error parsing {name}: not UTF-8 text: byte 0x{data[error.start]:02x} at offset {error.start}"
        return "", ManifestError(what, file=name, line=line)


def plain_value(text: str, name: str) -> Any:
    """One JSON or YAML document as plain values. ManifestError if it is none, or hides a bomb."""
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text, parse_int=whole)
        except (ValueError, RecursionError) as error:
            line = error.lineno if isinstance(error, json.JSONDecodeError) else 0
            raise ManifestError(f"error parsing {name}: {error}", file=name, line=line) from None
    try:
        documents = list(compose(text, name))
        if len(documents) != 1:
            raise ManifestError(f"error parsing {name}: one document is needed, {len(documents)} are there")
        check_shape(documents[0])
        return plain(documents[0])
    except ManifestError as error:
        raise ManifestError(error.text, file=name, line=error.line) from None
