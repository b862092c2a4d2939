# SPDX-License-Identifier: Apache-2.0
"""`budget`: what planning cost, from the ledger of this machine, beside what the policies allow.

SPENT is what counts against the budget: bills, and for a call whose bill is not known the most that it can have cost.
How many those are is in UNKNOWN; an unknown cost is never shown as nothing. PLAN COST and CPU SAVED are not of a day,
but of what the policy's nodes have promoted: what planning that cost, and what it saves by the trials in the passports.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from controller.cli.command import Parser, Verb, not_found
from controller.cli.context import Context
from controller.cli.observe import desired_if_any
from controller.cli.output import structured
from controller.cli.text import table
from controller.errors import InputError

if TYPE_CHECKING:
    from controller.api import SchedulerPolicy
    from controller.plan.ledger import Call
    from controller.reconcile.payback import PolicyPayback

_UNKNOWN = "<unknown>"


def _arguments(parser: Parser) -> None:
    parser.add_argument("policies", nargs="*", metavar="POLICY", help="these policies only")
    parser.add_argument("--day", metavar="DAY", help="YYYY-MM-DD, UTC; default: today")
    parser.add_argument("--calls", action="store_true", help="each call instead of a line a policy")
    parser.add_argument("--no-headers", action="store_true", help="no header line")
    parser.output("table", "wide", "json", "yaml")


def _run(args: Namespace, context: Context) -> int:
    from controller.plan.ledger import PRICES_AS_OF, Ledger

    day = args.day or f"{context.now():%Y-%m-%d}"
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", day) is None:
        raise InputError(f'invalid --day "{day}"', remedy="write it as YYYY-MM-DD")
    policies, paid = _repository(args, context)
    limits = {policy.name: policy.spec.planner.budget.usd_per_day for policy in policies}
    calls = Ledger().calls(day)
    names = sorted(limits.keys() | {call.policy for call in calls})
    for name in args.policies:
        if name not in names:
            raise not_found("schedulerpolicies.schedctl.dev", name)
    names = [name for name in names if not args.policies or name in args.policies]
    mine = [call for call in calls if call.policy in names]
    if args.output in ("json", "yaml"):
        said: dict[str, Any] = {"day": day, "pricesAsOf": PRICES_AS_OF}
        said |= {"calls": [_as_data(c) for c in mine]} if args.calls else {
            "policies": [_policy(name, limits.get(name), mine) | _payback(paid.get(name)) for name in names]
        }  # fmt: skip
        context.out(structured(said, args.output))
    elif not (mine if args.calls else names):
        context.warn(f"No calls found on {day}." if args.calls else "No policies found.")
    elif args.calls:
        context.out(_calls_table(mine, headers=not args.no_headers, wide=args.output == "wide"))
    else:
        rows = [_policy(name, limits.get(name), mine) | {"paid": paid.get(name)} for name in names]
        context.out(_policies_table(rows, headers=not args.no_headers, wide=args.output == "wide"))
    return 0


def _repository(args: Namespace, context: Context) -> tuple[Sequence[SchedulerPolicy], Mapping[str, PolicyPayback]]:
    """The policies, and by name what their promoted plans cost and save; nothing outside a policy repository."""
    desired = desired_if_any(args, context)
    if desired is None:
        return (), {}
    from controller.reconcile.payback import by_policy

    store = context.store(args)
    return desired.policies, by_policy(store, desired, store.nodes())


def _payback(paid: PolicyPayback | None) -> dict[str, Any]:
    """As data: `unknown` is said, and null is where nothing is promoted."""
    if paid is None:
        return {"payback": None}
    saved: Any = "unknown"
    if paid.saved is not None:
        saved = dict(zip(("low", "mid", "high"), (round(value, 3) for value in paid.saved), strict=True))
    return {
        "payback": {
            "nodes": paid.nodes,
            "nodesMeasured": paid.known,
            "planUsd": "unknown" if paid.usd is None else round(paid.usd, 6),
            "planCalls": "unknown" if paid.calls is None else paid.calls,
            "savedCpuSecondsPerHour": saved,
            "why": paid.why,
        }
    }


def _policy(name: str, limit: float | None, calls: Iterable[Call]) -> dict[str, Any]:
    mine = [call for call in calls if call.policy == name]
    unknown = sum(call.usd is None for call in mine)
    spent = sum(call.counted_usd for call in mine)
    kinds = ("input", "written", "cached", "output")
    return {
        "policy": name,
        "limitUsd": limit,
        "spentUsd": None if unknown and not spent else round(spent, 6),
        "leftUsd": None if limit is None else round(max(limit - spent, 0.0), 6),
        "calls": len(mine),
        "unknown": unknown,
        "accepted": sum(call.accepted is True for call in mine),
        "refused": sum(call.accepted is False for call in mine),
        "tokens": {kind: sum(getattr(c.tokens, kind) for c in mine if c.tokens is not None) for kind in kinds},
    }


def _policies_table(rows: list[dict[str, Any]], *, headers: bool, wide: bool) -> str:
    header = ["POLICY", "LIMIT", "SPENT", "LEFT", "CALLS", "UNKNOWN", "PLAN COST", "CPU SAVED"]
    header += ["ACCEPTED", "REFUSED", "INPUT", "WRITTEN", "CACHED", "OUTPUT"] * wide
    cells = [
        [
            row["policy"], _usd(row["limitUsd"], 2), _usd(row["spentUsd"]), _usd(row["leftUsd"]), str(row["calls"]),
            str(row["unknown"]), *_paid(row["paid"]),
            *([str(row["accepted"]), str(row["refused"]), *map(str, row["tokens"].values())] if wide else []),
        ]
        for row in rows
    ]  # fmt: skip
    return table(header, cells, headers=headers)


def _paid(paid: PolicyPayback | None) -> tuple[str, str]:
    return ("<none>", "<none>") if paid is None else (paid.cost_text(), paid.saved_text())


def _as_data(call: Call) -> dict[str, Any]:
    return {
        "at": call.at,
        "call": call.call,
        "policy": call.policy,
        "role": call.role,
        "model": call.model,
        "outcome": call.outcome or "neverEnded",
        "accepted": call.accepted,
        "usd": "unknown" if call.usd is None else round(call.usd, 6),
        "atMostUsd": round(call.counted_usd, 6),
        "tokens": vars(call.tokens) if call.tokens is not None else None,
        "requestId": call.request_id,
    }


def _calls_table(calls: Iterable[Call], *, headers: bool, wide: bool) -> str:
    header = ["AT", "POLICY", "ROLE", "MODEL", "COST", "TAKEN"]
    header += ["OUTCOME", "INPUT", "WRITTEN", "CACHED", "OUTPUT", "REQUEST"] * wide
    rows = []
    for call in calls:
        taken = {None: "", True: "yes", False: "no"}[call.accepted]
        row = [call.at, call.policy, call.role, call.model, _usd(call.usd), taken]
        used = call.tokens
        counts = () if used is None else (used.input, used.written, used.cached, used.output)
        tokens = [str(count) for count in counts] or [_UNKNOWN] * 4
        rows.append(row + ([call.outcome or "never ended", *tokens, call.request_id] if wide else []))
    return table(header, rows, headers=headers)


def _usd(value: float | None, digits: int = 4) -> str:
    return _UNKNOWN if value is None else f"${value:.{digits}f}"


BUDGET = Verb(run=_run, arguments=_arguments, usage="[POLICY...] [--day DAY] [--calls] [-o wide|json|yaml]")
