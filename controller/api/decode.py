# SPDX-License-Identifier: Apache-2.0
"""YAML text → resources, with kubectl's words for what is wrong and the file, document and line where it is.

Documents are composed to nodes first, so that every field keeps its line; then checked for what YAML allows and a
manifest must not (duplicate keys, aliases that expand without end), turned into plain values and validated by the
kind's model. One bad document does not hide the next: `decode` returns the good ones and the errors together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from controller.api import kinds
from controller.api.base import API_VERSION, GROUP, Resource
from controller.errors import ManifestError

MAX_BYTES = 1 << 20
"""A manifest above 1 MiB is refused unread."""
MAX_DIGITS = 20
"""Of a whole number: those of 2^64 - 1."""
_MAX_NODES = 50_000
_MAX_DEPTH = 64


@dataclass(frozen=True)
class Document:
    """A decoded resource and where it stands: `index` counts documents from 1, `line` lines from 1."""

    resource: Resource
    file: str
    index: int
    line: int


@dataclass
class Decoded:
    """All documents of one text: the good ones in order, and one error for each bad one."""

    documents: list[Document] = field(default_factory=list)
    errors: list[ManifestError] = field(default_factory=list)


def decode(text: str, file: str) -> Decoded:
    """Every document of `text`. `file` is only used in messages. Empty documents are skipped."""
    result = Decoded()
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        result.errors.append(ManifestError("the file is larger than 1 MiB", file=file, remedy="split it"))
        return result
    index = 0
    nodes = compose(text, file)
    while True:
        try:
            node = next(nodes, None)
        except ManifestError as error:
            error_at = ManifestError(error.text, file=file, document=index + 1, line=error.line)
            result.errors.append(error_at)
            return result
        if node is None:
            return result
        index += 1
        if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null":
            continue
        try:
            resource = _resource(node, file)
            result.documents.append(Document(resource, file, index, node.start_mark.line + 1))
        except ManifestError as error:
            where = error.line or node.start_mark.line + 1
            result.errors.append(ManifestError(error.text, file=file, document=index, line=where))


def encode(resource: Resource) -> str:
    """One YAML document without status, in the order a person would write it."""
    wire = written(resource)
    wire.pop("status", None)
    for filled_in in ("generation", "creationTimestamp"):
        wire["metadata"].pop(filled_in, None)
    return to_yaml(wire)


def written(resource: Resource) -> dict[str, Any]:
    """The resource as plain values, without the empty lists and mappings that are defaults anyway."""
    spoken = resource.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    value: dict[str, Any] = _without_empty(resource.wire(), spoken)
    return value


def _without_empty(value: Any, spoken: Any) -> Any:
    """`value` without the empty lists and mappings that are defaults; one that is not (allow: []) means something."""
    if isinstance(value, dict):
        said = spoken if isinstance(spoken, dict) else {}
        kept = {key: _without_empty(child, said.get(key)) for key, child in value.items()}
        return {key: child for key, child in kept.items() if child not in ({}, []) or key in said}
    if isinstance(value, list):
        said_items = spoken if isinstance(spoken, list) and len(spoken) == len(value) else [None] * len(value)
        return [_without_empty(child, said) for child, said in zip(value, said_items, strict=True)]
    return value


def to_yaml(value: object) -> str:
    """Block-style YAML, keys in the given order."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120)


def invalid(kind: str, name: str, details: Sequence[str]) -> str:
    """kubectl's frame for field errors: one line if there is one, a bullet a line if there are more."""
    frame = f'The {kind} "{name}" is invalid: '
    if len(details) == 1:
        return frame + details[0]
    return frame + "".join(f"\n* {detail}" for detail in details)


def compose(text: str, file: str) -> Iterator[yaml.Node]:
    """The root node of each document of `text`; no value is built yet. ManifestError if it is not YAML."""
    loader = yaml.SafeLoader(text) if _printable(text) else None
    if loader is None:
        raise ManifestError(f"error parsing {file}: the file holds characters that YAML does not allow")
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is not None:
                yield node
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise ManifestError(f"error parsing {file}: error converting YAML to JSON: {what}", line=line) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ManifestError(f"error parsing {file}: {type(error).__name__}") from None
    finally:
        loader.dispose()


def _printable(text: str) -> bool:
    return yaml.reader.Reader.NON_PRINTABLE.search(text) is None


def _resource(node: yaml.Node, file: str) -> Resource:
    if not isinstance(node, yaml.MappingNode):
        raise ManifestError(f"error parsing {file}: a document must be a mapping with apiVersion, kind and metadata")
    check_shape(node)
    value = plain(node)
    kind_name, version = value.get("kind"), value.get("apiVersion")
    metadata = value.get("metadata")
    name = metadata.get("name", "") if isinstance(metadata, dict) else ""
    space = metadata.get("namespace", "") if isinstance(metadata, dict) else ""
    if not isinstance(kind_name, str) or not isinstance(version, str):
        missing = "kind" if not isinstance(kind_name, str) else "apiVersion"
        raise ManifestError(f'error validating "{file}": error validating data: {missing} not set')
    kind = kinds.find(kind_name) if version == API_VERSION else None
    if kind is None or kind.name != kind_name:
        raise ManifestError(
            f'resource mapping not found for name: "{name}" namespace: "{space}" from "{file}": '
            f'no matches for kind "{kind_name}" in version "{version}"'
        )
    if isinstance(metadata, dict):
        if kind.namespaced:
            metadata.setdefault("namespace", "default")
        elif space:
            line = _line_of(node, ("metadata", "namespace"))
            detail = "metadata.namespace: Forbidden: " + f"{kind_name} is cluster-scoped"
            raise ManifestError(invalid(kind_name, str(name), [detail]), line=line)
    try:
        return kind.model.model_validate(value)
    except ValidationError as error:
        details = [field_detail(value, entry) for entry in error.errors(include_url=False)]
        line = _line_of(node, _path(value, error.errors()[0]["loc"]))
        raise ManifestError(invalid(kind_name, str(name), list(dict.fromkeys(details))), line=line) from None


def whole(digits: str) -> int:
    """A whole number of JSON (`parse_int`). ValueError for one that no counter holds: Python's own have no end, and
    arithmetic with floats does.
    """
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a whole number has {len(digits)} digits, at most {MAX_DIGITS} can be counted")
    return int(digits)


def check_shape(root: yaml.Node) -> None:
    """Refuse duplicate keys, non-string keys, endless numbers, recursion and alias bombs before any value is built."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, depth: int) -> int:
        if depth > _MAX_DEPTH:
            raise ManifestError("the document is nested more than 64 deep", line=node.start_mark.line + 1)
        known = sizes.get(id(node))
        if known is not None:
            if known < 0:
                raise ManifestError("an alias contains itself", line=node.start_mark.line + 1)
            return known
        sizes[id(node)] = -1
        total = 1
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, child in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise ManifestError("keys must be strings", line=key.start_mark.line + 1)
                if key.value in seen:
                    raise ManifestError(f'duplicate key "{key.value}"', line=key.start_mark.line + 1)
                seen.add(key.value)
                total += size(child, depth + 1)
        elif node.tag == "tag:yaml.org,2002:int" and len(node.value) > MAX_DIGITS:
            raise ManifestError(f"a whole number has more than {MAX_DIGITS} digits", line=node.start_mark.line + 1)
        elif isinstance(node, yaml.SequenceNode):
            total += sum(size(child, depth + 1) for child in node.value)
        sizes[id(node)] = total
        if total > _MAX_NODES:
            raise ManifestError(f"aliases expand to more than {_MAX_NODES} values", line=node.start_mark.line + 1)
        return total

    size(root, 0)


class _Scalars(yaml.SafeLoader):
    """Builds scalars only; timestamps stay text, as in JSON."""


_Scalars.add_constructor("tag:yaml.org,2002:timestamp", lambda _, node: node.value)


def plain(node: yaml.Node) -> Any:
    """The node as dicts, lists and scalars. `check_shape` comes first; ManifestError for a tag that is not JSON's."""
    if isinstance(node, yaml.MappingNode):
        return {key.value: plain(child) for key, child in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [plain(child) for child in node.value]
    if node.tag not in _ALLOWED_TAGS:
        raise ManifestError(f"the YAML tag {node.tag} is not allowed", line=node.start_mark.line + 1)
    loader = _Scalars("")
    try:
        return loader.construct_object(node)
    except (ValueError, yaml.YAMLError):
        raise ManifestError(f"cannot read the value {node.value!r}", line=node.start_mark.line + 1) from None
    finally:
        loader.dispose()


_ALLOWED_TAGS = {f"tag:yaml.org,2002:{t}" for t in ("str", "int", "float", "bool", "null", "timestamp")}


def _path(value: object, location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """`location` without the names of union branches, which pydantic mixes in: only steps that exist in `value`."""
    path: list[int | str] = []
    here: object = value
    for position, part in enumerate(location):
        last = position == len(location) - 1
        if isinstance(here, dict):
            if part in here:
                here = here[part]
            elif not last or not isinstance(part, str) or not part[:1].islower() or part in ("str", "int", "float"):
                continue
            else:
                here = None
            path.append(part)
        elif isinstance(here, list) and isinstance(part, int):
            here = here[part] if part < len(here) else None
            path.append(part)
    return tuple(path)


def field_detail(value: object, entry: ErrorDetails) -> str:
    """One of pydantic's complaints about `value`, in kubectl's words: `spec.weight: Invalid value: …`."""
    path = _path(value, entry["loc"])
    name = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".") or "<root>"
    kind, given, context = entry["type"], entry["input"], entry.get("ctx", {})
    if kind == "extra_forbidden":
        return f'strict decoding error: unknown field "{name}"'
    if kind == "missing":
        return f"{name}: Required value"
    if kind in ("literal_error", "enum"):
        expected = str(context.get("expected", "")).replace("'", '"').replace(" or ", ", ")
        return f"{name}: Unsupported value: {_shown(given)}: supported values: {expected}"
    message = entry["msg"].removeprefix("Value error, ")
    bounds = {
        "greater_than_equal": ("ge", "should be greater than or equal to"),
        "less_than_equal": ("le", "should be less than or equal to"),
        "greater_than": ("gt", "should be greater than"),
        "less_than": ("lt", "should be less than"),
    }
    if kind in bounds:
        limit, words = bounds[kind]
        message = f"{words} {context[limit]}"
    elif kind == "string_pattern_mismatch":
        message = f"should match {context['pattern']}"
    if isinstance(given, dict | list):
        return f"{name}: Invalid value: {message}"
    return f"{name}: Invalid value: {_shown(given)}: {message}"


def _shown(value: object) -> str:
    if isinstance(value, str):
        return '"' + (value if len(value) <= 80 else value[:77] + "...") + '"'
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def _line_of(node: yaml.Node, path: tuple[int | str, ...]) -> int:
    line = node.start_mark.line + 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == part), None)
            if pair is None:
                return line
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


__all__ = ["GROUP", "MAX_BYTES", "Decoded", "Document", "decode", "encode", "invalid", "to_yaml"]
