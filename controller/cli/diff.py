# SPDX-License-Identifier: Apache-2.0
"""`schedctl diff`: committed against given (`-f`), or what is committed for each node against what is attached there.

Exit 0 when nothing differs, 1 when something does, more for an error: as `diff` and `kubectl diff`.
"""

from __future__ import annotations

from argparse import Namespace
from difflib import unified_diff

from controller.api import Desired, NodeScheduler, SchedulerPolicy, SchedulerRevision
from controller.api.decode import encode, to_yaml
from controller.api.kinds import of
from controller.cli.command import Parser, Verb, error_text
from controller.cli.context import Context
from controller.cli.files import read_manifests
from controller.cli.text import printable

Facts = dict[str, str | None]


def _arguments(parser: Parser) -> None:
    parser.files()


def _diff(args: Namespace, context: Context) -> int:
    store = context.store(args)
    if not args.filename:
        nodes = store.nodes()
        return _print(context, [_node_diff(node, context.desired(store)) for node in nodes])
    given = read_manifests(args, context)
    desired = context.desired(store)
    committed = {r.key: r for r in (*desired.intents, *desired.policies, *desired.templates)}
    texts = []
    for item in given.documents:
        resource = item.document.resource
        place = "/".join(filter(None, [of(resource).singular, resource.namespace, resource.name]))
        old = committed.get(resource.key)
        before = encode(old) if old is not None else ""
        texts.append(_unified(before, encode(resource), f"committed/{place}", f"given/{place}"))
    code = _print(context, texts)
    for error in given.errors:
        context.warn(error_text(error))
    return 2 if given.errors else code


def _print(context: Context, texts: list[str]) -> int:
    context.out(printable("".join(texts)))
    context.stdout.flush()
    return 1 if any(texts) else 0


def _unified(before: str, after: str, old: str, new: str) -> str:
    return "".join(unified_diff(before.splitlines(True), after.splitlines(True), old, new))


def _node_diff(node: NodeScheduler, desired: Desired) -> str:
    attached = node.status.attached if node.status is not None else None
    wanted = committed_for(node, desired)
    before: Facts = {}
    if attached is not None:
        before = {"revision": attached.revision, "ops": attached.ops_name, "object": attached.object_digest}
    after: Facts = {}
    if wanted is not None:
        after = {"revision": wanted.name, "ops": wanted.spec.ops_name, "object": wanted.spec.digests.object}
    if attached is not None and wanted is not None and attached.loaded and attached.revision == wanted.name:
        after["ops"] = attached.ops_name  # only its knobs are there, in the scheduler that was loaded before
    place = f"nodescheduler/{node.name}"
    return _unified(_lines(before), _lines(after), f"attached/{place}", f"committed/{place}")


def _lines(value: Facts) -> str:
    return to_yaml({key: child for key, child in value.items() if child is not None}) if value else ""


def committed_for(node: NodeScheduler, desired: Desired) -> SchedulerRevision | None:
    """The newest committed revision for what this node is to run now; None if there is none, or nothing is wanted."""
    from controller.reconcile import keys

    policy = keys.governing(desired.policies, node.spec.labels)
    target = keys.target_of(node)
    intents = keys.counted_intents(desired, node)
    if not isinstance(policy, SchedulerPolicy) or target is None or not intents:
        return None
    key = keys.plan_key(policy, intents, target)
    return keys.newest(desired.revisions, key)


DIFF = Verb(run=_diff, arguments=_arguments, usage="[-f FILE|DIR|- [-R]]", failure=2)
