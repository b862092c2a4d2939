# SPDX-License-Identifier: Apache-2.0
"""`schedctl explain KIND[.path]` and `schedctl explain lint/ID`, `liveness/NAME` or `hole/TEMPLATE.NAME`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from textwrap import fill, indent
from typing import TypeVar

from controller.cli.command import Parser, UsageError, Verb
from controller.cli.context import Context
from controller.cli.text import suggestion, table
from controller.errors import InputError

_Explained = TypeVar("_Explained")


def _arguments(parser: Parser) -> None:
    parser.add_argument("what", nargs="*", metavar="KIND[.path]")
    parser.add_argument("--recursive", action="store_true", help="print the names of all fields below it")


def _explain(args: Namespace, context: Context) -> int:
    if not args.what:
        raise UsageError("You must specify the type of resource to explain.")
    if len(args.what) > 1:
        raise UsageError("We accept only this format: explain RESOURCE")
    what = args.what[0]
    prefix, _, rest = what.partition("/")
    if prefix in PREFIXES:
        context.out(PREFIXES[prefix](rest))
        return 0
    from controller.api.explain import explain

    context.out(explain(what, recursive=args.recursive))
    return 0


def _lint(rule: str) -> str:
    from controller.verify.lint import rules

    known = {each.id.removeprefix("lint/"): each for each in rules.all()}
    if not rule:
        return table(["RULE", "SEVERITY", "DESCRIPTION"], [[r.id, r.severity, r.sentence] for r in known.values()])
    found = _one_of(known, rule, "lint", "lint rule")
    sections = [
        ("DESCRIPTION", found.what), ("WHY", found.why), ("FOUND BY", found.check.__doc__ or ""), ("FIX", found.fix),
        ("BAD", found.bad), ("GOOD", found.good),
    ]  # fmt: skip
    return _page(f"RULE:      {found.id}\nSEVERITY:  {found.severity}\n", sections)


def _liveness(name: str) -> str:
    from controller.verify import scenarios

    known = {each.name: each for each in scenarios.SCENARIOS}
    if not name:
        return table(["SCENARIO", "ASKS"], [[each.name, each.asks] for each in known.values()])
    found = _one_of(known, name, "liveness", "liveness scenario")
    sections = [("ASKS", found.asks), ("LOAD", found.load), ("FAILS IF", found.fails_if.replace("; or ", ";\nor "))]
    return _page(f"SCENARIO:  liveness/{found.name}\n", sections)


def _hole(name: str) -> str:
    from controller.render import builtin_templates, holes

    known = {f"{t.name}.{hole.name}": (t, hole) for t in builtin_templates() for hole in t.spec.holes}
    if not name:
        rows = [[f"hole/{each}", hole.default, _sentence(hole.description)] for each, (_, hole) in known.items()]
        return table(["HOLE", "DEFAULT", "DESCRIPTION"], rows)
    template, hole = _one_of(known, name, "hole", "hole")
    allowed = holes.result_range(template, hole)
    names = [[each.name, each.shown, each.description] for each in holes.hole_names(template, hole)]
    sections = [
        ("DESCRIPTION", fill(hole.description, 76)),
        ("DEFAULT", hole.default),
        ("RESULT", "as the template bounds it" if allowed is None else f"clamped to {holes.shown(allowed, 'ns')}"),
        ("NAMES", table(["NAME", "RANGE", "DESCRIPTION"], names)),
        ("LANGUAGE", _LANGUAGE),
    ]
    return _page(f"HOLE:      {name}\nTEMPLATE:  {template.name}\n", sections)


_LANGUAGE = """\
Whole numbers from 0 to 2^63 - 1: decimal literals, the names above, parentheses,
+ - * / % << >>, one comparison (< <= > >= == !=), && || !, c ? a : b, min(a, b),
max(a, b), clamp(a, low, high). a - b is 0 where b is larger; a / b and a % b take b
as 1 where it may be 0. Refused is what may exceed 2^63 - 1 over the ranges above:
divide before you multiply, or bound one side with min(..., NUMBER). Other spellings:
class->weight for class_weight, nr_queued for queued, burst_avg_ns for burst, wait_ns
for wait."""


def _sentence(text: str) -> str:
    return text.partition(". ")[0].rstrip(".")


def _one_of(known: Mapping[str, _Explained], name: str, prefix: str, noun: str) -> _Explained:
    found = known.get(name)
    if found is None:
        near = suggestion(name, list(known)).replace("\t", f"\t{prefix}/")
        remedy = "" if near else f"see: schedctl explain {prefix}"
        raise InputError(f'there is no {noun} "{prefix}/{name}"{near}', remedy=remedy)
    return found


def _page(head: str, sections: Sequence[tuple[str, str]]) -> str:
    return head + "".join(f"\n{title}:\n{indent(body.rstrip(), '    ')}\n" for title, body in sections)


PREFIXES: dict[str, Callable[[str], str]] = {"lint": _lint, "liveness": _liveness, "hole": _hole}
"""`explain PREFIX/NAME`, or `explain PREFIX` for all of them: what each prefix says of a name, "" for all."""

EXPLAIN = Verb(
    run=_explain,
    arguments=_arguments,
    usage="KIND[.path.to.field] [--recursive]\n  schedctl explain lint/RULE\n  schedctl explain liveness/SCENARIO\n"
    "  schedctl explain hole/TEMPLATE.HOLE",
)
