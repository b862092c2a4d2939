# SPDX-License-Identifier: Apache-2.0
"""The resources as the read verbs see them: what is committed, merged with what the controller and the nodes report."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from controller.api import Desired, Resource, SchedulerTemplate
from controller.api.kinds import KINDS, Kind, find
from controller.cli.command import UsageError
from controller.cli.context import Context
from controller.errors import InputError

if TYPE_CHECKING:
    from controller.source import GitStore

LabelTest = Callable[[Mapping[str, str]], bool]


@dataclass(frozen=True)
class Wanted:
    """What the words after a verb name: one kind, and one object of it or (name empty) all of them."""

    kind: Kind
    name: str = ""


def kind_named(name: str) -> Kind:
    """The kind called `name`. InputError in kubectl's words if there is none."""
    kind = find(name) or find(name.removesuffix("s"))  # people also say `intents`
    if kind is None:
        known = ", ".join(f"{k.plural} ({k.short})" for k in KINDS)
        raise InputError(f'the server doesn\'t have a resource type "{name}"', remedy=f"there are {known}")
    return kind


def wanted(args: Namespace) -> list[Wanted]:
    """`intent`, `intent web api`, `intent,spol`, `intent/web spol/default`, `all`. UsageError if nothing is named."""
    if not args.words:
        raise UsageError("Required resource not specified.")
    if any("/" in word for word in args.words):
        targets = [_slashed(word) for word in args.words]
    else:
        first, *names = args.words
        kinds = list(KINDS) if first == "all" else [kind_named(part) for part in first.split(",")]
        targets = [Wanted(kind, name) for kind in kinds for name in names or [""]]
    if args.all_namespaces and any(target.name for target in targets):
        raise InputError("a resource cannot be retrieved by name across all namespaces", remedy="use -n NAMESPACE")
    return targets


def _slashed(word: str) -> Wanted:
    kind, slash, name = word.partition("/")
    if not slash or "/" in name or not name:
        raise InputError(
            f'cannot mix the forms KIND NAME and KIND/NAME, or "{word}" is not one of them', remedy="use KIND/NAME"
        )
    return Wanted(kind_named(kind), name)


def load(context: Context, store: GitStore, kinds: Iterable[Kind]) -> list[Resource]:
    """Every resource of `kinds`, with its status, in order of kind, namespace and name."""
    names = {kind.name for kind in kinds}
    found: dict[tuple[str, str, str], Resource] = {}
    if names - {"NodeScheduler"}:
        desired = context.desired(store)
        committed: tuple[Resource, ...] = (*desired.intents, *desired.policies, *desired.revisions)
        if "SchedulerTemplate" in names:
            committed += tuple(_all_templates(desired))
        found = {resource.key: resource for resource in committed}
    for key, reported in store.statuses().items():
        if key in found:
            status = getattr(reported, "status", None)
            found[key] = found[key].model_copy(update={"status": status})
        elif key[0] == "NodeScheduler":
            found[key] = reported
    order = [kind.name for kind in KINDS]
    chosen = [resource for resource in found.values() if resource.kind in names]
    return sorted(chosen, key=lambda r: (order.index(r.kind), r.namespace, r.name))


def _all_templates(desired: Desired) -> Iterable[SchedulerTemplate]:
    from controller.source import all_templates

    return all_templates(desired).values()


def select(target: Wanted, resources: Iterable[Resource], args: Namespace) -> list[Resource]:
    """Those of `resources` that `target` names, within `-n` or `-A`."""
    return [
        resource
        for resource in resources
        if resource.kind == target.kind.name
        and (not target.name or resource.name == target.name)
        and _in_scope(resource, target.kind, args)
    ]


def no_resources(targets: Iterable[Wanted], args: Namespace) -> str:
    """`No resources found in default namespace.`, or without the namespace where that says nothing."""
    scoped = any(target.kind.namespaced for target in targets) and not args.all_namespaces
    return f"No resources found in {args.namespace} namespace." if scoped else "No resources found"


def _in_scope(resource: Resource, kind: Kind, args: Namespace) -> bool:
    """Whether `-n` and `-A` let the resource through."""
    return not kind.namespaced or args.all_namespaces or resource.namespace == args.namespace


def label_test(selector: str) -> LabelTest:
    """`a=b,c!=d,e,!f` as a test of labels. InputError if it cannot be read."""
    tests: list[LabelTest] = []
    for part in filter(None, (piece.strip() for piece in selector.split(","))):
        match = re.fullmatch(r"(!?)([A-Za-z0-9][A-Za-z0-9_./-]*)\s*(?:(==|=|!=)\s*([A-Za-z0-9_.-]*))?", part)
        if match is None or (match[1] and match[3]):
            raise InputError(f'unable to parse requirement: "{part}"', remedy="use KEY=VALUE, KEY!=VALUE, KEY or !KEY")
        tests.append(_one_label(match[1] == "!", match[2], match[3] or "", match[4] or ""))
    return lambda labels: all(test(labels) for test in tests)


def _one_label(absent: bool, key: str, operator: str, value: str) -> LabelTest:
    if not operator:
        return lambda labels: (key in labels) != absent
    return lambda labels: (labels.get(key) == value) != (operator == "!=")


def lookup(wire: Any, path: str) -> Any:
    """The value at a printer column's JSONPath, None where there is none.

    >>> lookup({"status": {"conditions": [{"type": "Ready", "status": "True"}]}},
    ...        '.status.conditions[?(@.type=="Ready")].status')
    'True'
    """
    for name, key, value in re.findall(r'\.(\w+)(?:\[\?\(@\.(\w+)=="([^"]*)"\)\])?', _checked(path)):
        wire = wire.get(name) if isinstance(wire, dict) else None
        if key:
            wire = next((item for item in wire or [] if item.get(key) == value), None)
    return wire


def _checked(path: str) -> str:
    """The path, if it has no form that `lookup` would silently read as another."""
    if not re.fullmatch(r'(?:\.\w+(?:\[\?\(@\.\w+=="[^"]*"\)\])?)+', path):
        raise ValueError(f"unsupported printer column path {path}")
    return path
