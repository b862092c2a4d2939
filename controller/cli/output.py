# SPDX-License-Identifier: Apache-2.0
"""Resources as kubectl prints them: tables, names, JSON and YAML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from controller.api import Resource
from controller.api.decode import to_yaml, written
from controller.api.kinds import Kind, of
from controller.cli.resources import lookup
from controller.cli.text import age, table


def structured(value: object, output: str) -> str:
    """`value` (plain JSON types) as JSON, indented by 4 as kubectl does, or as YAML."""
    if output == "json":
        return json.dumps(value, indent=4, ensure_ascii=False) + "\n"
    return to_yaml(value)


def objects(resources: Sequence[Resource], output: str, *, single: bool) -> str:
    """One object as itself, several as a List."""
    items = [written(resource) for resource in resources]
    if single:
        return structured(items[0], output)
    listed = {"apiVersion": "v1", "items": items, "kind": "List", "metadata": {"resourceVersion": ""}}
    return structured(listed, output)


def names(resources: Sequence[Resource]) -> str:
    """`schedulingintent.schedctl.dev/web`, one a line."""
    return "".join(of(resource).reference(resource.name) + "\n" for resource in resources)


def resource_table(
    kind: Kind,
    resources: Sequence[Resource],
    now: datetime,
    *,
    wide: bool = False,
    namespace: bool = False,
    qualified: bool = False,
    labels: bool = False,
    headers: bool = True,
) -> str:
    """The kind's printer columns. `namespace` adds NAMESPACE, `labels` LABELS; `qualified` prints KIND.GROUP/NAME."""
    columns = [column for column in kind.columns if wide or column[3] == 0]
    with_namespace = namespace and kind.namespaced
    header = ["NAMESPACE"] * with_namespace + ["NAME", *(column[0].upper() for column in columns)]
    header += ["LABELS"] * labels
    rows = []
    for resource in resources:
        wire = resource.wire()
        row = [resource.namespace] * with_namespace
        row += [kind.reference(resource.name) if qualified else resource.name]
        row += [_shown(lookup(wire, path), type_, now) for _, path, type_, _ in columns]
        rows.append(row + [_pairs(resource.metadata.labels)] * labels)
    return table(header, rows, headers=headers)


def _shown(value: Any, type_: str, now: datetime) -> str:
    if type_ == "date":
        return age(datetime.fromisoformat(value) if value else None, now)
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _pairs(labels: dict[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items())) or "<none>"
