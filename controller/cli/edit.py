# SPDX-License-Identifier: Apache-2.0
"""The verbs that commit: `init`, `apply`, `delete`. Each makes at most one commit.

Every document of every file is looked at and reported; the good ones are committed together, the bad ones make the
exit code 1. Nothing is half written: the store commits all of what it is given, or raises and commits none.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from controller.api import Resource
from controller.api.kinds import of
from controller.cli.command import Parser, UsageError, Verb, error_text, not_found
from controller.cli.context import Context
from controller.cli.files import Given, read_manifests
from controller.cli.resources import label_test, load, select, wanted
from controller.errors import InputError

Key = tuple[str, str, str]

_DRY_RUNS = {"none": "", "client": " (dry run)", "server": " (server dry run)"}


def _dry_run(parser: Parser) -> None:
    parser.add_argument(
        "--dry-run", metavar="HOW", nargs="?", const="client", default="none", help="client or server: commit nothing"
    )
    parser.add_argument("-m", "--message", metavar="MSG", default="", help="the commit's message")


def _suffix(args: Namespace) -> str:
    if args.dry_run not in _DRY_RUNS:
        raise InputError(f'Invalid dry-run value ({args.dry_run}). Must be "none", "server", or "client".')
    return _DRY_RUNS[args.dry_run]


def _init_arguments(parser: Parser) -> None:
    parser.add_argument("dir", nargs="?", default="", metavar="DIR", help="default: --repo, or here")


def _init(args: Namespace, context: Context) -> int:
    from controller.source import init

    folder = Path(args.dir) if args.dir else context.repository(args)
    made = init(folder)
    context.out(f'policy repository "{folder}" {"created" if made.created else "unchanged"}')
    context.reporter.done(f"commit {made.commit[:12]}")
    return 0


def _apply_arguments(parser: Parser) -> None:
    parser.files()
    _dry_run(parser)
    parser.output("text", "name")


def _apply(args: Namespace, context: Context) -> int:
    suffix = _suffix(args)
    store = context.store(args)
    given = read_manifests(args, context)
    if given.documents:
        pairs = [(document.text, document.document) for document in given.documents]
        applied = store.apply(pairs, args.message, dry_run=args.dry_run != "none")
        done = {(each.kind, each.namespace, each.name): each.action for each in applied}
        for document in given.documents:
            resource = document.document.resource
            said = "" if args.output == "name" else f" {done[resource.key]}{suffix}"
            context.out(of(resource).reference(resource.name) + said)
    return _report(given, context)


def _report(given: Given, context: Context) -> int:
    context.stdout.flush()
    for error in given.errors:
        context.warn(error_text(error))
    return 1 if given.errors else 0


def _delete_arguments(parser: Parser) -> None:
    parser.add_argument("words", nargs="*", metavar="KIND [NAME...]")
    parser.files()
    parser.namespaced()
    _dry_run(parser)
    parser.output("text", "name")
    parser.add_argument("-l", "--selector", metavar="LABELS", default="", help="those with these labels: a=b,c!=d")
    parser.add_argument("--all", action="store_true", help="all of the kind in the namespace")
    parser.add_argument("--ignore-not-found", action="store_true", help="what is not there is no error")


def _delete(args: Namespace, context: Context) -> int:
    suffix = _suffix(args)
    if bool(args.words) == bool(args.filename):
        raise UsageError("name what to delete, as KIND NAME or with -f, not both")
    store = context.store(args)
    given = read_manifests(args, context, to_commit=False) if args.filename else Given()
    keys: list[Key] = [document.document.resource.key for document in given.documents]
    if args.words:
        targets = wanted(args)
        if not all(target.name for target in targets):
            found = load(context, store, [target.kind for target in targets])
            keys = [resource.key for resource in _by_label(args, found)]
        else:
            keys = [(t.kind.name, args.namespace if t.kind.namespaced else "", t.name) for t in targets]
    if not keys:
        if not given.errors:
            context.warn("No resources found")
        return _report(given, context)
    _refuse_nodes(keys)
    deleted = store.delete(keys, args.message, dry_run=args.dry_run != "none")
    gone = {(each.kind, each.namespace, each.name) for each in deleted}
    missing = 0
    for key in dict.fromkeys(keys):
        missing += _say_deleted(key, key in gone, suffix, args, context)
    return 1 if missing else _report(given, context)


def _by_label(args: Namespace, resources: list[Resource]) -> list[Resource]:
    if not args.all and not args.selector:
        raise UsageError("resource(s) were provided, but no name was specified")
    has_labels = label_test(args.selector)
    found = [resource for target in wanted(args) for resource in select(target, resources, args)]
    # A template that comes with schedctl is in no repository: it has no first commit.
    return [r for r in found if has_labels(r.metadata.labels) and r.metadata.creation_timestamp is not None]


def _refuse_nodes(keys: list[Key]) -> None:
    name = next((name for kind, _, name in keys if kind == "NodeScheduler"), "")
    if name:
        raise InputError(
            f'nodeschedulers.schedctl.dev "{name}" is forbidden: its node writes it', remedy="stop the node's agent"
        )


def _say_deleted(key: Key, gone: bool, suffix: str, args: Namespace, context: Context) -> int:
    """Print what became of one object; 1 if that is an error."""
    from controller.api.kinds import find

    kind = find(key[0])
    assert kind is not None
    if gone:
        full = f"{kind.singular}.{kind.full.partition('.')[2]}"
        context.out(kind.reference(key[2]) if args.output == "name" else f'{full} "{key[2]}" deleted{suffix}')
        return 0
    if args.ignore_not_found:
        return 0
    context.warn(str(not_found(kind.full, key[2])))
    return 1


INIT = Verb(run=_init, arguments=_init_arguments, usage="[DIR]")
APPLY = Verb(run=_apply, arguments=_apply_arguments, usage="-f FILE|DIR|- [-R] [--dry-run=client|server] [-m MSG]")
DELETE = Verb(
    run=_delete,
    arguments=_delete_arguments,
    usage="KIND NAME... [flags]\n  schedctl delete KIND -l LABELS | --all\n  schedctl delete -f FILE|DIR|- [-R]",
)
