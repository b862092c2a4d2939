# SPDX-License-Identifier: Apache-2.0
"""What nodes run and did, as they report it: `status` and `events`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from datetime import datetime, timedelta

from controller.api import NodeEvent, NodeScheduler, SchedulerRevision
from controller.cli.command import Parser, Verb
from controller.cli.context import Context
from controller.cli.output import objects
from controller.cli.text import age, table
from controller.errors import InputError

_SILENT = timedelta(minutes=5)
"""An agent writes at least every minute; after five missed times what it last said is no longer news."""


def _status_arguments(parser: Parser) -> None:
    parser.add_argument("nodes", nargs="*", metavar="NODE", help="these nodes only")
    parser.output("table", "wide", "json", "yaml")
    parser.add_argument("--no-headers", action="store_true", help="no header line")


def _status(args: Namespace, context: Context) -> int:
    nodes = _nodes(args.nodes, context, args)
    if args.output in ("json", "yaml"):
        context.out(objects(nodes, args.output, single=len(args.nodes) == 1))
        return 0
    if not nodes:
        context.warn("No node has reported yet: start one with `schedctl agent run` or `schedctl node start`")
        return 0
    wide = args.output == "wide"
    header = ["NODE", "STATE", "ATTACHED", "PHASE", "READY", "MESSAGE", "AGE"]
    header += ["KERNEL", "OPS", "COMMIT", "HEARTBEAT", "RECALLED FROM", "PLAN COST", "CPU SAVED"] * wide
    revisions = _revisions(context, args) if wide else {}
    rows = [_status_row(node, context.now(), wide) + _payback(node, revisions) * wide for node in nodes]
    context.out(table(header, rows, headers=not args.no_headers))
    return 0


def _revisions(context: Context, args: Namespace) -> dict[str, SchedulerRevision]:
    """The committed revisions by name; none without a good commit: `status` shows nodes all the same."""
    desired = context.store(args).read().desired
    return {revision.name: revision for revision in desired.revisions} if desired is not None else {}


def _payback(node: NodeScheduler, revisions: Mapping[str, SchedulerRevision]) -> list[str]:
    """Of what the node runs: where it came from, what planning it cost, what it saves."""
    from controller.plan.payback import payback

    attached = node.status.attached if node.status is not None else None
    revision = revisions.get(attached.revision or "") if attached is not None else None
    if revision is None:
        return ["<none>", "<none>", "<none>"]
    known, recalled = payback(revision), revision.spec.recalled
    return [recalled.revision if recalled is not None else "<none>", known.cost_text(), known.saved_text()]


def _nodes(names: list[str], context: Context, args: Namespace) -> list[NodeScheduler]:
    """Those called `names`, or all. InputError for a name that never reported."""
    known = {node.name: node for node in context.store(args).nodes()}
    for name in names:
        if name not in known:
            raise InputError(f'node "{name}" has not reported', remedy=f"known are: {', '.join(sorted(known)) or '-'}")
    return [known[name] for name in sorted(set(names) or known)]


def _status_row(node: NodeScheduler, now: datetime, wide: bool) -> list[str]:
    """AGE says since when it is so: since the attachment, or since Ready became what it is."""
    status = node.status
    if status is None:
        return [node.name, "", "", "", "Unknown", "has not reported yet", age(node.metadata.creation_timestamp, now)]
    ready, attached = status.condition("Ready"), status.attached
    since = attached.since if attached else ready.last_transition_time if ready else node.metadata.creation_timestamp
    silent = status.heartbeat is not None and now - status.heartbeat > _SILENT
    row = [
        node.name,
        status.state or "",
        (attached.revision or attached.ops_name) if attached else "<none>",
        "Ejected" if status.ejected else attached.phase if attached else "<none>",
        ready.status.value if ready and not silent else "Unknown",
        f"no word from its agent for {age(status.heartbeat, now)}" if silent else ready.message if ready else "",
        age(since, now),
    ]
    if wide:
        release = status.kernel.release if status.kernel else ""
        row += [release, attached.ops_name if attached else "", (status.commit or "")[:12], age(status.heartbeat, now)]
    return row


def _events_arguments(parser: Parser) -> None:
    parser.add_argument("nodes", nargs="*", metavar="NODE", help="these nodes only")
    parser.add_argument("--types", metavar="TYPE", default="", help="Normal, Warning, or both with a comma")
    parser.add_argument("--no-headers", action="store_true", help="no header line")
    parser.output("table", "json", "yaml")


def _events(args: Namespace, context: Context) -> int:
    types = {word.strip().capitalize() for word in args.types.split(",") if word.strip()}
    if types - {"Normal", "Warning"}:
        raise InputError(f'invalid --types "{args.types}"', remedy="use Normal or Warning")
    found: list[tuple[NodeEvent, str]] = []
    for node in _nodes(args.nodes, context, args):
        events = node.status.events if node.status else ()
        found += [(event, node.name) for event in events if not types or event.type in types]
    found.sort(key=lambda pair: pair[0].at)
    if args.output in ("json", "yaml"):
        from controller.cli.output import structured

        items = [{"node": name, **event.wire()} for event, name in found]
        context.out(structured({"events": items}, args.output))
    elif not found:
        context.warn("No events found.")
    else:
        now = context.now()
        rows = [[age(e.at, now), e.type, e.reason, f"nodescheduler/{name}", e.message] for e, name in found]
        context.out(table(["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"], rows, headers=not args.no_headers))
    return 0


STATUS = Verb(run=_status, arguments=_status_arguments, usage="[NODE...] [-o wide|json|yaml]")
EVENTS = Verb(run=_events, arguments=_events_arguments, usage="[NODE...] [--types=Warning]")
