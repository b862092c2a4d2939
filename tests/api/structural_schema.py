# SPDX-License-Identifier: Apache-2.0
"""A small reading of what the Kubernetes API server asks of a CRD: is a schema structural, does a value fit it.

Covers what our schemas use, CEL rules included (by translation to Python): enough to compare the CRDs with the models.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

_NODE_KEYS = {
    "type", "description", "default", "properties", "additionalProperties", "items", "required", "enum", "pattern",
    "format", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems",
    "maxItems", "minProperties", "maxProperties", "anyOf", "x-kubernetes-validations",
    "x-kubernetes-preserve-unknown-fields", "x-kubernetes-int-or-string",
}  # fmt: skip
_VALUE_KEYS = {
    "properties", "items", "enum", "pattern", "minLength", "maxLength", "minimum", "maximum", "required",
    "exclusiveMinimum", "exclusiveMaximum",
}  # fmt: skip
_TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}


def violations(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Why the API server would refuse the schema as not structural."""
    yield from (f"{path}: {key} is not allowed" for key in schema if key not in _NODE_KEYS)
    preserved = schema.get("x-kubernetes-preserve-unknown-fields") is True
    if schema.get("type") not in _TYPES and not preserved and not schema.get("x-kubernetes-int-or-string"):
        yield f"{path}: no type"
    if "properties" in schema and "additionalProperties" in schema:
        yield f"{path}: properties and additionalProperties exclude each other"
    if schema.get("type") == "array" and not isinstance(schema.get("items"), dict):
        yield f"{path}: an array without items"
    for bound in ("Minimum", "Maximum"):
        if f"exclusive{bound}" in schema and (schema[f"exclusive{bound}"] is not True or bound.lower() not in schema):
            yield f"{path}: exclusive{bound} is a boolean beside {bound.lower()}"
    for missing in set(schema.get("required", [])) - set(schema.get("properties", {})):
        yield f"{path}: {missing} is required and not a property"
    for rule in schema.get("x-kubernetes-validations", []):
        if set(rule) != {"rule", "message"} or "\n" in rule["message"]:
            yield f"{path}: a rule has a rule and a message of one line"
    for branch in schema.get("anyOf", []):
        yield from _value_only(branch, schema, f"{path}.anyOf")
    for name, child in schema.get("properties", {}).items():
        yield from violations(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from violations(schema[key], f"{path}.{key}")
    if "default" in schema:
        yield from (f"{path}: default {error}" for error in errors(schema, filled(schema, schema["default"])))


def _value_only(branch: dict[str, Any], structure: dict[str, Any], path: str) -> Iterator[str]:
    yield from (f"{path}: {key} is not allowed in anyOf" for key in branch if key not in _VALUE_KEYS)
    for name, child in branch.get("properties", {}).items():
        if name not in structure.get("properties", {}):
            yield f"{path}.{name}: is not in the structural part"
        yield from _value_only(child, structure.get("properties", {}).get(name, {}), f"{path}.{name}")


def filled(schema: dict[str, Any], value: Any) -> Any:
    """The value with the schema's defaults, as the API server stores it; nulls are dropped first."""
    value = copy.deepcopy(value)
    if isinstance(value, dict):
        value = {key: child for key, child in value.items() if child is not None}
        for name, child in schema.get("properties", {}).items():
            if name not in value and "default" in child:
                value[name] = child["default"]
            if name in value:
                value[name] = filled(child, value[name])
    elif isinstance(value, list) and "items" in schema:
        value = [filled(schema["items"], item) for item in value]
    return value


def errors(schema: dict[str, Any], value: Any, path: str = "") -> Iterator[str]:
    """Why the API server (with strict field validation) would refuse the value."""
    kind = schema.get("type")
    if kind is not None and (not isinstance(value, _TYPES[kind]) or (kind != "boolean" and isinstance(value, bool))):
        yield f"{path}: {value!r} is no {kind}"
        return
    yield from _limits(schema, value, path)
    if isinstance(value, dict):
        yield from _object_errors(schema, value, path)
    elif isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from errors(schema["items"], item, f"{path}[{index}]")
    branches = schema.get("anyOf", [])
    if branches and all(list(_branch_errors(branch, value)) for branch in branches):
        yield f"{path}: fits no branch of anyOf"
    for rule in schema.get("x-kubernetes-validations", []):
        if not holds(rule["rule"], value):
            yield f"{path}: {rule['message']}"


def _branch_errors(branch: dict[str, Any], value: Any) -> Iterator[str]:
    yield from _limits(branch, value, "")
    for name, child in branch.get("properties", {}).items():
        if name in value:
            yield from _branch_errors(child, value[name])


def _object_errors(schema: dict[str, Any], value: dict[str, Any], path: str) -> Iterator[str]:
    yield from (f"{path}.{name}: required" for name in schema.get("required", []) if name not in value)
    for name, child in value.items():
        if name in schema.get("properties", {}):
            yield from errors(schema["properties"][name], child, f"{path}.{name}")
        elif "additionalProperties" in schema:
            yield from errors(schema["additionalProperties"], child, f"{path}.{name}")
        elif "properties" in schema:
            yield f'{path}: unknown field "{name}"'


def _limits(schema: dict[str, Any], value: Any, path: str) -> Iterator[str]:
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r} is not one of {schema['enum']}"
    if isinstance(value, str):
        if "pattern" in schema and re.search(_go(schema["pattern"]), value) is None:
            yield f"{path}: {value!r} does not match {schema['pattern']}"
        yield from _size(schema, len(value), "Length", path)
    elif isinstance(value, list):
        yield from _size(schema, len(value), "Items", path)
    elif isinstance(value, dict):
        yield from _size(schema, len(value), "Properties", path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        low, high = schema.get("minimum"), schema.get("maximum")
        if low is not None and (value < low or (value == low and schema.get("exclusiveMinimum"))):
            yield f"{path}: {value} is too small"
        if high is not None and (value > high or (value == high and schema.get("exclusiveMaximum"))):
            yield f"{path}: {value} is too large"


def _go(pattern: str) -> str:
    """Go's `$` is the very end of the text; Python's may stand before a last newline."""
    return re.sub(r"(?<!\\)\$$", r"\\Z", pattern)


def _size(schema: dict[str, Any], size: int, what: str, path: str) -> Iterator[str]:
    if not schema.get(f"min{what}", 0) <= size <= schema.get(f"max{what}", size):
        yield f"{path}: {size} is not between the limits of {what}"


def holds(rule: str, value: dict[str, Any]) -> bool:
    """Evaluate one of our CEL rules. Only the operators that they use."""
    python = re.sub(r"\((has\(self\.\w+\)) \? (.+?) : (.+?)\)(?= ==|$)", r"(\2 if \1 else \3)", rule)
    python = re.sub(r"has\(self\.(\w+)\)", r"('\1' in value)", python)
    python = re.sub(r"self\.(\w+)", r"value['\1']", python)
    python = python.replace("&&", " and ").replace("||", " or ").replace("size(", "len(")
    python = re.sub(r"!(?!=)", " not ", python)
    return bool(eval(python, {"len": len}, {"value": value}))  # noqa: S307 - our own rules, from the generator
