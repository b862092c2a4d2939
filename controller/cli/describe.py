# SPDX-License-Identifier: Apache-2.0
"""`schedctl describe`: one object in sections, keys spelt as words, conditions and events as tables."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from controller.api import NodeEvent, NodeScheduler, Resource, SchedulerRevision
from controller.api.kinds import KINDS, find, of
from controller.cli.command import Parser, Verb, not_found
from controller.cli.context import Context
from controller.cli.resources import Wanted, load, lookup, no_resources, select, wanted
from controller.cli.text import age, align, cell, one_line, printable

Row = list[str]

REVISIONS = find("srev") or KINDS[-1]

_OWN_KEYS = {"labels", "nodeSelector", "podSelector", "parameters", "expressions"}

_BULKY = {"events", "profile", "conditions", "observedGeneration"}
"""Parts of a status that are not listed among its fields: shown as tables, or by another verb (`get -o yaml`)."""


def _arguments(parser: Parser) -> None:
    parser.add_argument("words", nargs="*", metavar="KIND [NAME...]")
    parser.namespaced()


def _describe(args: Namespace, context: Context) -> int:
    targets = wanted(args)
    kinds = [target.kind for target in targets]
    revisions = [REVISIONS] if any(kind.name == "NodeScheduler" for kind in kinds) else []
    everything = load(context, context.store(args), [*kinds, *revisions, KINDS[-1]])
    nodes = [resource for resource in everything if isinstance(resource, NodeScheduler)]
    made = {resource.name: resource for resource in everything if isinstance(resource, SchedulerRevision)}
    texts: list[str] = []
    missing: list[Wanted] = []
    for target in targets:
        chosen = select(target, everything, args)
        texts += [_text(resource, nodes, context.now(), _serving(resource, made)) for resource in chosen]
        missing += [target] if target.name and not chosen else []
    if texts:
        context.out("\n\n".join(texts))
        context.stdout.flush()
    elif not missing:
        context.warn(no_resources(targets, args))
    for target in missing:
        context.warn(str(not_found(target.kind.full, target.name)))
    return 1 if missing else 0


def _serving(resource: Resource, made: Mapping[str, SchedulerRevision]) -> SchedulerRevision | None:
    """The revision that the object is, or runs."""
    if isinstance(resource, SchedulerRevision):
        return resource
    attached = resource.status.attached if isinstance(resource, NodeScheduler) and resource.status else None
    return made.get(attached.revision) if attached is not None and attached.revision is not None else None


def _text(
    resource: Resource, nodes: list[NodeScheduler], now: datetime, revision: SchedulerRevision | None = None
) -> str:
    wire = resource.wire()
    meta = resource.metadata
    head: list[Row] = [["Name:", resource.name]]
    head += [["Namespace:", resource.namespace]] if of(resource).namespaced else []
    head += _map_rows("Labels:", meta.labels) + _map_rows("Annotations:", meta.annotations)
    head += [["API Version:", wire["apiVersion"]], ["Kind:", resource.kind]]
    head += [["Created:", wire["metadata"]["creationTimestamp"]]] if meta.creation_timestamp else []
    head += [["Generation:", str(meta.generation)]] if meta.generation else []
    status = {key: value for key, value in wire.get("status", {}).items() if key not in _BULKY}
    dump = status.get("lastExit", {}).pop("dump", "")
    sections = [
        head,
        _section("Spec", wire.get("spec", {})),
        _section("Status", status),
        _dump(dump),
        _payback(revision) if revision is not None else [],
        _conditions(lookup(wire, ".status.conditions") or [], now),
        _events(resource, nodes, now),
    ]
    return "".join(align(rows, padding=2) for rows in sections).rstrip("\n")


def _map_rows(title: str, values: dict[str, str]) -> list[Row]:
    pairs = [f"{key}={cell(value)}" for key, value in sorted(values.items())] or ["<none>"]
    return [[title, pairs[0]], *(["", pair] for pair in pairs[1:])]


def _section(title: str, value: Any) -> list[Row]:
    if not value:
        return [[f"{title}:", "<none>"]]
    return [[f"{title}:"], *_fields(value, 1)]


def _fields(value: dict[str, Any], level: int, own: bool = False) -> list[Row]:
    """One row a scalar; nested values below their heading, two blanks deeper, items of a list one after another.

    `own`: the keys are somebody's own and are shown as they are.
    """
    rows: list[Row] = []
    indent = "  " * level
    for key, child in value.items():
        title = f"{indent}{key if own else _words(key)}:"
        if child in ({}, [], ""):
            continue
        if isinstance(child, dict):
            rows += [[title], *_fields(child, level + 1, key in _OWN_KEYS)]
        elif isinstance(child, list):
            rows.append([title])
            for item in child:
                rows += _fields(item, level + 1) if isinstance(item, dict) else [[f"{indent}  {cell(str(item))}"]]
        else:
            rows.append([title, _scalar(child)])
    return rows


def _scalar(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else cell(str(value))


def _words(key: str) -> str:
    """`matchedTasks` → `Matched Tasks`."""
    return " ".join(word.capitalize() for word in re.findall(r"[A-Z]?[a-z]+", key))


def _payback(revision: SchedulerRevision) -> list[Row]:
    """What the plan cost and saves, as far as it is known."""
    from controller.plan.payback import payback

    known = payback(revision)
    recalled = revision.spec.recalled
    came = f"{recalled.revision}, at distance {recalled.distance:.2f}" if recalled is not None else "<none>"
    why = f" ({known.why})" if known.why else ", on a node like the one it was planned for"
    return [
        ["Payback:"],
        ["  Recalled From:", came],
        ["  Plan Cost:", known.cost_text()],
        ["  CPU Time Saved:", known.saved_text() + why],
    ]


def _dump(text: str) -> list[Row]:
    """The kernel's dump of the scheduler that ended last, line by line."""
    lines = text.rstrip().splitlines()
    return [["Last Exit Dump:"], *([f"  {printable(line)}".rstrip()] for line in lines)] if lines else []


def _conditions(conditions: list[dict[str, Any]], now: datetime) -> list[Row]:
    if not conditions:
        return [["Conditions:", "<none>"]]
    rows = [["Conditions:"], ["  Type", "Status", "Reason", "Age", "Message"]]
    rows.append(["  ----", "------", "------", "---", "-------"])
    for condition in conditions:
        since = condition.get("lastTransitionTime")
        seen = age(datetime.fromisoformat(since) if since else None, now)
        message = one_line(condition.get("message", ""))
        rows.append([f"  {condition['type']}", condition["status"], condition["reason"], seen, message])
    return rows


def _events(resource: Resource, nodes: list[NodeScheduler], now: datetime) -> list[Row]:
    """A node's own events; for another object those of the nodes that name it."""
    found: list[tuple[NodeEvent, str]] = []
    for node in nodes:
        for event in node.status.events if node.status else ():
            if resource.key == node.key or re.search(rf"(?<![\w.-]){re.escape(resource.name)}(?![\w-])", event.message):
                found.append((event, node.name))
    if not found:
        return [["Events:", "<none>"]]
    rows = [["Events:"], ["  Type", "Reason", "Age", "From", "Message"]]
    rows.append(["  ----", "------", "---", "----", "-------"])
    for event, source in sorted(found, key=lambda pair: pair[0].at):
        rows.append([f"  {event.type}", event.reason, age(event.at, now), source, one_line(event.message)])
    return rows


DESCRIBE = Verb(run=_describe, arguments=_arguments, usage="KIND [NAME...] [flags]\n  schedctl describe KIND/NAME...")
