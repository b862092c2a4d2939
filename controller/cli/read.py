# SPDX-License-Identifier: Apache-2.0
"""`schedctl get`."""

from __future__ import annotations

from argparse import Namespace

from controller.api import Resource
from controller.api.kinds import KINDS, Kind
from controller.cli import output
from controller.cli.command import Parser, Verb, not_found
from controller.cli.context import Context
from controller.cli.resources import Wanted, label_test, load, no_resources, select, wanted
from controller.errors import InputError


def _get_arguments(parser: Parser) -> None:
    parser.add_argument("words", nargs="*", metavar="KIND [NAME...]")
    parser.namespaced()
    parser.output("table", "wide", "name", "json", "yaml")
    parser.add_argument("-l", "--selector", metavar="LABELS", default="", help="only those with these labels: a=b,c!=d")
    parser.add_argument("--no-headers", action="store_true", help="no header line")
    parser.add_argument("--show-labels", action="store_true", help="add a column with the labels")


def _get(args: Namespace, context: Context) -> int:
    targets = wanted(args)
    if args.selector and any(target.name for target in targets):
        raise InputError("name cannot be provided when a selector is specified", remedy="leave out one of them")
    has_labels = label_test(args.selector)
    everything = load(context, context.store(args), [target.kind for target in targets])
    found: list[Resource] = []
    missing: list[Wanted] = []
    for target in targets:
        chosen = select(target, everything, args)
        found += [r for r in chosen if has_labels(r.metadata.labels)]
        missing += [target] if target.name and not chosen else []
    if found or not missing:
        _print(args, context, targets, found)
    context.stdout.flush()
    for target in missing:
        context.warn(str(not_found(target.kind.full, target.name)))
    return 1 if missing else 0


def _print(args: Namespace, context: Context, targets: list[Wanted], found: list[Resource]) -> None:
    if args.output in ("json", "yaml"):
        single = len(targets) == 1 and targets[0].name != "" and len(found) == 1
        context.out(output.objects(found, args.output, single=single))
    elif args.output == "name":
        context.out(output.names(found))
    elif not found:
        context.warn(no_resources(targets, args))
    else:
        context.out("\n".join(_tables(args, context, targets, found)))


def _tables(args: Namespace, context: Context, targets: list[Wanted], found: list[Resource]) -> list[str]:
    """One table a kind, in the order asked for; names carry their kind when there are several."""
    kinds: list[Kind] = list(dict.fromkeys(target.kind for target in targets))
    tables = []
    for kind in kinds:
        resources = [resource for resource in found if resource.kind == kind.name]
        if not resources:
            continue
        tables.append(
            output.resource_table(
                kind,
                resources,
                context.now(),
                wide=args.output == "wide",
                namespace=args.all_namespaces,
                qualified=len(kinds) > 1,
                labels=args.show_labels,
                headers=not args.no_headers,
            )
        )
    return tables


_KINDS = "\n".join(f"  {kind.plural:<22} {kind.short}" for kind in KINDS)

GET = Verb(
    run=_get,
    arguments=_get_arguments,
    usage="KIND[,KIND...] [NAME...] [flags]\n  schedctl get KIND/NAME... [flags]\n  schedctl get all [flags]",
    details=f"Kinds and their short names:\n{_KINDS}",
)
