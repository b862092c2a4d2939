# SPDX-License-Identifier: Apache-2.0
"""`schedctl search "…"`: what worked before, by intent, metric, text and how near its load is to a recorded profile."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from controller.cli.command import Parser, Verb
from controller.cli.context import Context
from controller.cli.output import names, structured
from controller.cli.text import age, table
from controller.errors import InputError

if TYPE_CHECKING:
    from controller.api import Fingerprint
    from controller.plan.lookup import Hit

_LONGEST = 1024


def _arguments(parser: Parser) -> None:
    parser.add_argument("query", nargs="*", metavar="QUERY", help="words, FIELD:VALUE, !WORD; all must hold")
    parser.add_argument("--profile", metavar="FILE", default="", help="order by distance from this recorded profile")
    parser.add_argument("--max-distance", metavar="D", default="", help="with --profile: at most so far away (0 to 1)")
    parser.add_argument("--limit", metavar="N", default="20", help="at most so many (default: 20; 0: all)")
    parser.output("table", "wide", "json", "yaml", "name")
    parser.add_argument("--no-headers", action="store_true", help="no header line")


def _search(args: Namespace, context: Context) -> int:
    from controller.plan import lookup

    query = " ".join(args.query)
    if len(query) > _LONGEST:
        raise InputError(f"the query is longer than {_LONGEST} characters", remedy="ask for less")
    terms = lookup.parse(query)
    load, most, limit = _load(args, context), _max_distance(args), _limit(args.limit)
    desired = context.desired(context.store(args))
    hits = lookup.search(desired.revisions, terms, load=load, most=most)
    shown = hits[:limit] if limit else hits
    if args.output in ("json", "yaml"):
        context.out(structured({"hits": [_wire(hit) for hit in shown]}, args.output))
    elif args.output == "name":
        context.out(names([hit.revision for hit in shown]))
    elif not hits:
        context.warn(f"No revisions found among {len(desired.revisions)}.")
    else:
        context.out(_table(shown, context, args, wide=args.output == "wide", away=load is not None))
    if len(shown) < len(hits):
        context.warn(f"{len(hits) - len(shown)} more: --limit 0 shows them all")
    return 0


def _load(args: Namespace, context: Context) -> Fingerprint | None:
    if not args.profile:
        return None
    from controller.api import WorkloadProfile, fingerprint_of
    from controller.cli.values import read_value

    profile = read_value(WorkloadProfile, args.profile, context)
    return fingerprint_of(profile, (w.name for w in profile.workloads if w.keyed_by != "others"))


def _max_distance(args: Namespace) -> float:
    if not args.max_distance:
        return 1.0
    if not args.profile:
        raise InputError("--max-distance needs a load to measure from", remedy="give one with --profile FILE")
    try:
        value = float(args.max_distance)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InputError(f'invalid argument "{args.max_distance}" for "--max-distance" flag: must be from 0 to 1')
    return value


def _limit(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise InputError(f'invalid argument "{text}" for "--limit" flag: must be a whole number, 0 for all')
    return int(text)


def _table(hits: list[Hit], context: Context, args: Namespace, *, wide: bool, away: bool) -> str:
    header = ["NAME", "TEMPLATE", "METRICS", "INTENTS"] + ["DISTANCE"] * away + ["KERNEL", "AGE"]
    header += ["POLICY", "PLANNER", "TOPOLOGY", "RECALLED FROM", "REASON"] * wide
    rows = []
    for hit in hits:
        spec, proposal = hit.revision.spec, hit.revision.spec.proposal
        row = [
            hit.revision.name,
            proposal.template,
            ",".join(dict.fromkeys(c.metric.value for c in proposal.classes)) or "<none>",
            ",".join(c.intent for c in proposal.classes) or "<none>",
        ]
        row += [f"{hit.distance:.2f}" if hit.distance is not None else ""] * away
        row += [spec.target.kernel_release, age(spec.created_at, context.now())]
        if wide:
            row += [spec.policy, proposal.planner.name, spec.target.topology_class]
            row += [spec.recalled.revision if spec.recalled else "<none>", (proposal.reasons or ("",))[0]]
        rows.append(row)
    return table(header, rows, headers=not args.no_headers)


def _wire(hit: Hit) -> dict[str, object]:
    """Name, score, distance and the parts of the spec that can be searched."""
    spec = hit.revision.spec.wire()
    kept = {key: spec[key] for key in ("policy", "target", "recalled", "createdAt", "cost") if key in spec}
    proposal = {key: spec["proposal"][key] for key in ("template", "parameters", "planner", "reasons")}
    intents = [{"intent": c.intent, "metric": c.metric.value} for c in hit.revision.spec.proposal.classes]
    found: dict[str, object] = {"name": hit.revision.name, "score": hit.score}
    found |= {"distance": hit.distance} if hit.distance is not None else {}
    return found | {"intents": intents, "proposal": proposal} | kept


_FIELDS = (
    "name, intent, metric, template, policy, planner, kernel, topology, parameter, class, reason, recalled, stage, rule"
)

SEARCH = Verb(
    run=_search,
    arguments=_arguments,
    usage='["QUERY"] [--profile FILE] [--max-distance D] [-o wide|json|yaml|name]',
    details=(
        "A word must be in the revision's text, FIELD:VALUE in that field (globs are allowed), !WORD nowhere.\n"
        f"Fields: {_FIELDS}.\n"
        'Such as: schedctl search "metric:wakeupLatency intent:shop/* slice" --profile before.json'
    ),
)
