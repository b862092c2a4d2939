# SPDX-License-Identifier: Apache-2.0
"""`schedctl wait --for=condition=Ready KIND/NAME`."""

from __future__ import annotations

import re
import time
from argparse import Namespace

from controller.api import Resource, Status, parse_duration
from controller.api.kinds import of
from controller.cli.command import Parser, UsageError, Verb, not_found
from controller.cli.context import Context
from controller.cli.resources import Wanted, load, select, wanted
from controller.errors import InputError


def _arguments(parser: Parser) -> None:
    parser.add_argument("words", nargs="*", metavar="KIND/NAME")
    parser.namespaced()
    parser.add_argument(
        "--for", dest="condition", metavar="condition=TYPE[=STATUS]", default="", help="what to wait for"
    )
    parser.add_argument("--timeout", metavar="TIME", default="30s", help="how long, for all of them (default: 30s)")


def _wait(args: Namespace, context: Context) -> int:
    match = re.fullmatch(r"condition=([A-Za-z]+)(?:=([A-Za-z]+))?", args.condition)
    if match is None:
        raise UsageError(f'unrecognized condition: "{args.condition}"', remedy="use --for=condition=Ready")
    targets = wanted(args)
    deadline = time.monotonic() + seconds(args.timeout, "--timeout")
    store = context.store(args)
    met: set[tuple[str, str, str]] = set()
    while True:
        resources = _matching(targets, load(context, store, [target.kind for target in targets]), args)
        for resource in resources:
            if resource.key not in met and _holds(resource, match[1], match[2] or "True"):
                met.add(resource.key)
                context.out(f"{of(resource).reference(resource.name)} condition met")
        waiting = [resource for resource in resources if resource.key not in met]
        left = deadline - time.monotonic()
        if not waiting or left <= 0:
            break
        store.wait(min(left, 1.0))
    for resource in waiting:
        context.warn(f"error: timed out waiting for the condition on {of(resource).plural}/{resource.name}")
    return 1 if waiting else 0


def seconds(text: str, flag: str) -> float:
    """A duration flag in seconds. InputError in kubectl's words if it has no unit or is none."""
    try:
        return parse_duration(text) / 1e9
    except ValueError as error:
        raise InputError(f'invalid argument "{text}" for "{flag}" flag: {error}') from None


def _matching(targets: list[Wanted], everything: list[Resource], args: Namespace) -> list[Resource]:
    """What the targets name. InputError when one names nothing: also when it was deleted during the wait."""
    chosen: list[Resource] = []
    for target in targets:
        found = select(target, everything, args)
        if not found:
            raise not_found(target.kind.full, target.name) if target.name else InputError("no matching resources found")
        chosen += found
    return chosen


def _holds(resource: Resource, type_: str, status: str) -> bool:
    reported = getattr(resource, "status", None)
    conditions = reported.conditions if isinstance(reported, Status) else ()
    # kubectl takes both words in any case.
    return any(c.type.lower() == type_.lower() and c.status.lower() == status.lower() for c in conditions)


WAIT = Verb(run=_wait, arguments=_arguments, usage="KIND/NAME... --for=condition=TYPE[=STATUS] [--timeout=60s]")
