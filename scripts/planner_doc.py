# SPDX-License-Identifier: Apache-2.0
"""`make planner-doc`: writes docs/planner.md from the code's own definitions and from bench/results.

What the roles are, how a model is chosen, what the prices are and what is checked before a request leaves is read from
the modules that do it; what `bench/planner.py` measured is told by planner_figures, how good the offline planners are
is read from the result of `bench/grid.py`. What was not measured is said to be so, in a section of its own. `--check`
as for every page (doc_pages).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import grid
from bench.kit.contenders import PLANNERS
from bench.kit.scenarios import SCENARIOS
from bench.kit.store import busy
from controller.plan import bridge, claude, drafting, ledger, payback, search, taint
from controller.plan.claude import author, tiers
from controller.plan.search import catalogue, course, pruning, space
from scripts import planner_figures
from scripts.doc_pages import NOT_MEASURED, Page, read_document, table
from scripts.planner_figures import COMMAND

__all__ = ["COMMAND", "NOT_MEASURED", "document", "main"]

GRID_COMMAND = "python bench/grid.py"

UNKNOWN = """\
## What is not measured

- **How good a model's proposals are.** No model was asked: the endpoint of the tests and the benchmark is authored. How
  often an answer is taken, and how often verification accepts what comes of it, are beliefs (`controller.plan.claude.
  tiers`) until the ledger has counted some; the costs above are therefore given for several shares.
- **Tokens.** Bytes are counted, tokens are bytes over an assumed ratio; output tokens, thinking included, are assumed.
  The budget does not rest on either: before a call it takes a token for each byte and the most output allowed, after it
  the bill.
- **What the cache really saves.** Requests are laid out for it (what stays the same first, a breakpoint after each
  block, no intent in the schema); whether a prefix has the tokens that we think, and is still there, is the API's to
  say. The bills in the ledger tell (`schedctl budget --calls -o wide`).
- **What an author writes.** Its request is measured, what it answers is assumed; how often a draft passes, and what a
  person then thinks of it, no authored answer can tell.
- **The offline planners on real nodes.** The twelve scenarios' profiles are authored, their loads are the trial's, in
  guests of a few emulated CPUs; what a node's own load would say may differ.

## What is not there

- Holes in new templates: an author declares parameters only.
- Budgets over several machines: a ledger is one machine's.
"""


def from_code() -> str:
    """The half that needs no measurement."""
    settings = [
        [name, s.effort, s.max_tokens, s.expected_tokens, f"{s.deadline_s:g} s"] for name, s in tiers.ROLES.items()
    ]
    prices = [
        [model, f"{p.input:.2f}", f"{p.cache_write:.3f}", f"{p.cache_read:.2f}", f"{p.output:.2f}"]
        for model, p in ledger.PRICES.items()
    ]
    expressions = [
        [hole, f"`{entry.text}`", entry.why] for hole, entries in catalogue.CATALOGUE.items() for entry in entries
    ]
    scenarios = [
        [f"`{s.name}`", s.says, s.workload, f"`{s.trial.objective}`",
         ", ".join(f"{want.intent.spec.objective.metric.value} ({want.weight})" for want in s.wants),
         ", ".join(f"`{rail.key}` {rail.max_regression:.0%}" for rail in s.trial.guardrails)]
        for s in SCENARIOS.values()
    ]  # fmt: skip
    ladder = [[t.name, t.model, f"{t.good:g} of {t.good + t.bad:g}"] for t in tiers.TIERS]
    return f"""# Planning by models: what is asked, what it costs, what it cannot be talked into

Written by `make planner-doc`: do not edit. The definitions come from the code, the figures from `bench/results`.

A proposal is only data: it is checked, rendered, verified on a real kernel and committed before a node may attach it.
Without a key everything below is done by rules. `planner.name` of a proposal says who decided, `planner.note` why
another one did not: a refusal, an outage, a rate limit, an empty budget, no key.

## Roles

{_quoted(claude.__doc__)}

{table(["role", "effort", "most output tokens", "expected", "deadline"], settings)}

## Which model

{_quoted(tiers.__doc__)}

{table(["tier", "model", "believed to be taken"], ladder)}

`SCHEDCTL_MODEL` names one model for every role.

## A new template

{_quoted(author.__doc__)}

{_quoted(drafting.__doc__)}

## Money

{_quoted(ledger.__doc__)}

Prices in US dollars per million tokens, compared with the published ones on {ledger.PRICES_AS_OF}. A model without a
price is not asked.

{table(["model", "input", "cache write", "cache read", "output"], prices)}

`schedctl budget` shows what each policy spent on a day, what is left, and how many costs are unknown; `--calls` every
call with its role, model, tokens by kind and request id.

{_quoted(payback.__doc__)}

## Search: the planner that measures

{_quoted(search.__doc__)}

How a search goes:

{_quoted(course.__doc__)}

When a candidate is given up:

{_quoted(pruning.__doc__)}

What may be changed:

{_quoted(space.__doc__)}

Expressions, by hole:

{table(["hole", "expression", "for"], expressions)}

`spec.planner.search` of a policy has the candidates, the time, the seed and the workload (`schedctl explain
policy.spec.planner.search`). It needs the extra `search` (optuna), which `make setup` installs.

## The scenarios that the offline planners are measured in

{_quoted((grid.__doc__ or "").partition("A row is")[0])}

{table(["scenario", "what it is", "load", "metric", "intents (weight)", "may be worse by"], scenarios)}

## What a request may hold

{_quoted(taint.__doc__)}

The key is taken out of the environment as `schedctl` starts, so that no program it starts inherits it. It goes into one
HTTP header, and only to the API's host or to loopback; redirects are not followed.

## The file bridge

{_quoted(bridge.__doc__)}
"""


def _quoted(text: str | None) -> str:
    return f"```text\n{(text or '').strip()}\n```"


def _measured(results: Path) -> str:
    found = read_document(results / "planner.json")
    told = [*planner_figures.told(found)] if found else [f"{NOT_MEASURED}: `{COMMAND}` measures it.\n"]
    return "\n".join([*told, *_grid(read_document(results / "grid.json")), UNKNOWN])


def _grid(found: dict[str, Any]) -> Iterable[str]:
    """Shares by planner, then every scenario; a row that is missing, or of another scenario or template, is said so."""
    yield "## The offline planners against the kernel's own scheduler\n"
    if not found.get("rows"):
        yield f"{NOT_MEASURED}: `{GRID_COMMAND}` measures it.\n"
        return
    for where, by in found["shares"].items():
        release, cpus = where.split("/")
        missing = len(SCENARIOS) * len(PLANNERS) - sum(each["rows"] for each in by.values())
        yield (
            f"`{GRID_COMMAND}`, kernel {release}, {cpus} CPUs, guests of QEMU {found['qemu']} "
            f"({found['accelerator']}) on a machine with {found['cpus']} CPUs, {found['measured'][:10]}."
            f"{f' {missing} of the rows are {NOT_MEASURED}.' if missing else ''}\n"
        )
        rows = [[planner, *_share(by.get(planner))] for planner in PLANNERS]
        aims = [f"{name} (aim: at least {aim:.0%})" for name, aim in grid.AIMS.items()]
        yield table(["planner", "scenarios", *aims, "unclear", "worse", "kernel's own stayed"], rows) + "\n"
        yield (
            "Above 1 is better than the kernel's own scheduler, with the interval at 95 %. A cell ends with the "
            "template; † is a figure of an earlier version of scenario or template, ‡ one from a busy machine.\n"
        )
        cells = [
            [f"`{scenario}`", *(_outcome(found["rows"], where, scenario, planner) for planner in PLANNERS)]
            for scenario in SCENARIOS
        ]
        yield table(["scenario", *PLANNERS], cells) + "\n"


def _share(found: dict[str, Any] | None) -> list[object]:
    if found is None:
        return [NOT_MEASURED, *["–"] * 5]
    told: list[object] = [f"{found['rows']} of {found['of']}"]
    for name in grid.AIMS:
        each = found[name]
        low, high = each["interval95"]
        met = "" if each["met"] is None else ", met" if each["met"] else ", **not met**"
        told.append(f"{each['share']:.0%} ({low:.0%} to {high:.0%}){met}")
    return [*told, found["counts"]["unclear"], found["counts"]["worse"], found["stays"]]


def _outcome(rows: dict[str, Any], where: str, scenario: str, planner: str) -> str:
    """One row in a cell."""
    row = rows.get(f"{where}/{scenario}/{planner}")
    if row is None:
        return NOT_MEASURED
    release, cpus = where.split("/")
    job = grid.Job(release, int(cpus), SCENARIOS[scenario], planner)
    old = ("" if row["digest"] == job.digest else " †") + (" ‡" if busy(row) else "")
    if row["stays"]:
        return f"1, not worse: the kernel's own stays ({row['stays']}){old}"
    template = row["proposal"]["template"]
    if row["broke"]:
        return f"**worse**: {row['broke']}; {template}{old}"
    ratio, low, high = row["ratio"]
    said = f"**{row['verdict']}**" if row["verdict"] == "worse" else row["verdict"]
    why = f" ({', '.join(row['broken'])} is broken)" if row["broken"] else ""
    return f"{ratio:.3f} ({low:.3f} to {high:.3f}) {said}{why}; {template}{old}"


PAGE = Page("planner", from_code, _measured)
document, main = PAGE.document, PAGE.main


if __name__ == "__main__":
    sys.exit(main())
