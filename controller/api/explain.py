# SPDX-License-Identifier: Apache-2.0
"""`explain KIND[.path]`: what a kind or one of its fields means, laid out as kubectl lays it out.

Read from the same structural schema as the CRDs, so the two cannot disagree. Lists are walked through silently, as
kubectl does: `intent.spec.guardrails.metric` is the metric of one guardrail.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

from controller.api import crd, kinds
from controller.api.base import GROUP, VERSION
from controller.errors import InputError

_WIDTH = 76


def explain(reference: str, *, recursive: bool = False) -> str:
    """The text for `KIND` or `KIND.path.to.field`. InputError if there is no such kind or field."""
    name, *path = _split(reference)
    kind = kinds.find(name)
    if kind is None:
        raise InputError(f'the server doesn\'t have a resource type "{name}"', remedy=f"one of {_kinds()}")
    schema = crd.openapi(kind)
    for index, step in enumerate(path):
        schema = _child(_inner(schema), step, kind.name, path[:index])
    lines = [f"GROUP:      {GROUP}", f"KIND:       {kind.name}", f"VERSION:    {VERSION}", ""]
    if path:
        lines += [f"FIELD: {path[-1]} <{_type(schema)}>", *_values(_inner(schema)), ""]
    lines += ["DESCRIPTION:", *_wrapped(schema, 4)]
    fields = list(_fields(_inner(schema), 2, recursive))
    if fields:
        lines += ["", "FIELDS:", *fields]
    return "\n".join(line.rstrip() for line in lines).rstrip("\n") + "\n"


def _split(reference: str) -> list[str]:
    """`intent.spec.weight`; the kind may carry its group (`schedulingintents.schedctl.dev.spec`)."""
    name, *path = reference.split(".")
    group = GROUP.split(".")
    return [name, *(path[len(group) :] if path[: len(group)] == group else path)]


def _kinds() -> str:
    return ", ".join(kind.plural for kind in kinds.KINDS)


def _inner(schema: dict[str, Any]) -> dict[str, Any]:
    """What a path step enters: the item of a list, the value of a map, the object itself."""
    while schema.get("type") == "array" or ("additionalProperties" in schema and "properties" not in schema):
        schema = schema["items"] if schema.get("type") == "array" else schema["additionalProperties"]
    return schema


def _child(schema: dict[str, Any], step: str, kind: str, parents: list[str]) -> dict[str, Any]:
    fields: dict[str, dict[str, Any]] = schema.get("properties", {})
    if step not in fields:
        where = ".".join([kind, *parents])
        remedy = f"{where} has {', '.join(fields)}" if fields else f"{where} has no fields"
        raise InputError(f'field "{step}" does not exist', remedy=remedy)
    return fields[step]


def _type(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if kind == "array":
        return "[]" + _type(schema["items"])
    if kind == "object":
        if "properties" in schema:
            return str(schema.get("x-model", "Object"))
        return f"map[string]{_type(schema['additionalProperties'])}"
    return str(kind or "Any")


def _values(schema: dict[str, Any]) -> list[str]:
    return ["ENUM:", *(f"    {value}" for value in schema["enum"])] if "enum" in schema else []


def _wrapped(schema: dict[str, Any], indent: int) -> list[str]:
    text = schema.get("description") or "<no description>"
    if schema.get("default") not in (None, {}):
        text += f" Default: {json.dumps(schema['default'])}."
    return textwrap.wrap(text, _WIDTH, initial_indent=" " * indent, subsequent_indent=" " * indent)


def _fields(schema: dict[str, Any], indent: int, recursive: bool) -> Iterator[str]:
    required = schema.get("required", [])
    for name, child in sorted(schema.get("properties", {}).items()):
        mark = " -required-" if name in required else ""
        yield f"{' ' * indent}{name}\t<{_type(child)}>{mark}"
        if "enum" in _inner(child):
            yield f"{' ' * indent}enum: {', '.join(map(str, _inner(child)['enum']))}"
        if recursive:
            yield from _fields(_inner(child), indent + 2, recursive)
        else:
            yield from _wrapped(child, indent + 2)
            yield ""
