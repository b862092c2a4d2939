# SPDX-License-Identifier: Apache-2.0
"""The measured half of docs/verification.md: what bench/results holds, as tables, each with its kernels and date.

Nothing here computes a figure that was not measured. A file that is not there, or lacks a figure, becomes a row that
says `not measured` and names the command that measures it; so does a run that is shorter than what was promised.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.doc_pages import NOT_MEASURED, read_document, table, yes_no
from scripts.mutation_score import verifier_digest

STAGES = ("lint", "build", "audit", "load", "liveness")
COMMANDS = {
    "mutation-score": "make mutation-score",
    "verify": "python bench/verify.py",
    "cycles": "python bench/cycles.py --cycles 1000",
    "trial": "python bench/trial.py --record",
    "conformance": "make conformance",
}
_MOST_FALSE_POSITIVES, _LEAST_POWER, _SIMULATED, _REAL = 0.05, 0.8, 200, 20


@dataclass
class Results:
    """The documents by name; an empty one for what was not measured. `trials` has one for each effect looked for."""

    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    trials: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> Results:
        """Whatever is in `folder`. InputError for a file that is not a JSON object: it is no result of ours."""
        found = cls({name: read_document(folder / f"{name}.json") for name in COMMANDS if name != "trial"})
        paths = sorted(p for p in folder.glob("trial*.json") if p.name != "trial-aa.json")
        found.trials = [read_document(path) for path in paths]
        return found

    def of(self, name: str) -> dict[str, Any]:
        """One document, {} when there is none."""
        return self.documents.get(name, {})


def sections(results: Results) -> str:
    """Every measured section, in order."""
    parts = [
        "## What was promised, and what was measured", "", _PROMISED, "", table(_HEADS, promises(results)), "",
        "## Planted bugs, by class and by stage", "", *_corpus(results.of("mutation-score")), "",
        "## Time", "", *_times(results.of("verify")), "",
        "## Attaching and detaching", "", *_cycles(results.of("cycles")), "",
        "## The trial's own error rates", "", *_trials(results.trials), "",
        "## The kernel's own selftests", "", *_conformance(results.of("conformance")), "",
    ]  # fmt: skip
    return "\n".join(parts)


_HEADS = ("promise", "bar", "measured", "held", "kernels", "date", "command")
_PROMISED = (
    "The bars for times are for 2 CPUs without KVM: on another machine they are neither held nor broken. A figure that "
    "is not there is said to be missing; none is carried over from elsewhere."
)


def promises(results: Results) -> list[tuple[str, ...]]:
    """One row for each promise: promise, bar, measured, held, kernels, date, command."""
    score, times, cycles = (results.of(name) for name in ("mutation-score", "verify", "cycles"))
    return [
        _rate_row(score, "bad_caught", "bad schedulers caught, by the stage and rule expected", "≥ 98 %", 0.98, 1.0),
        _rate_row(score, "bad_rejected", "bad schedulers rejected at all", "–", None, None),
        _rate_row(score, "good_refused", "good schedulers refused", "0", 0.0, 0.0),
        _hostile_row(
            score, "sources", "hostile sources stopped (each ≤ 10 s CPU, all ≤ 1 GiB, no byte of a canary file told)"
        ),
        _hostile_row(score, "objects", "malformed and hostile objects refused in a sentence, in bounded time"),
        *_trial_rows(results.trials),
        _time_row(times, "schema_to_load_s", "schema … load, warm, median", 3),
        _time_row(times, "liveness_s", "all of liveness, warm, median", 60),
        _time_row(times, "whole_s", "a whole passport with a trial, median", 360, needs="trial_s"),
        _time_row(times, "cold_boot_s", "cold boot of a kernel, median", 8),
        _cycles_row(cycles),
    ]


def _row(
    name: str, promise: str, bar: str, measured: str, met: bool | None, document: dict[str, Any]
) -> tuple[str, ...]:
    return promise, bar, measured, yes_no(met), _kernels(document), _date(document), f"`{COMMANDS[name]}`"


def _missing(name: str, promise: str, bar: str) -> tuple[str, ...]:
    return promise, bar, NOT_MEASURED, "–", "–", "–", f"`{COMMANDS[name]}`"


def _date(document: dict[str, Any]) -> str:
    when = document.get("at") or document.get("measured")
    return str(when)[:10] if when else "none kept"


def _kernels(document: dict[str, Any]) -> str:
    return ", ".join(map(str, document.get("kernels") or [document.get("kernel") or "–"]))


def _rate_row(
    score: dict[str, Any], name: str, promise: str, bar: str, least: float | None, most: float | None
) -> tuple[str, ...]:
    rate = (score.get("rates") or {}).get(name) or {}
    if not rate.get("of"):
        return _missing("mutation-score", promise, bar)
    part = rate["hits"] / rate["of"]
    held = None if least is None or most is None else least <= part <= most
    low, high = rate.get("interval95", (0.0, 1.0))
    measured = f"{rate['hits']} of {rate['of']} = {part:.1%} (95 %: {low:.1%} to {high:.1%}){_earlier(score)}"
    return _row("mutation-score", promise, bar, measured, held, score)


def _earlier(score: dict[str, Any]) -> str:
    """Says so when the verifier that was measured is not the one of now."""
    return "" if score.get("verifier") in (None, f"sha256:{verifier_digest()}") else ", of an earlier verifier"


def _hostile_row(score: dict[str, Any], kind: str, promise: str) -> tuple[str, ...]:
    each = (score.get("hostile") or {}).get(f"hostile_{kind}") or {}
    if not each.get("cases"):
        return _missing("mutation-score", promise, "100 %")
    measured = f"{each['stopped']} of {each['cases']} tests hold"
    return _row(
        "mutation-score", promise, "100 %", measured, each["stopped"] == each["cases"], {**score, "kernels": ["none"]}
    )


def _time_row(times: dict[str, Any], figure: str, promise: str, limit: float, needs: str = "") -> tuple[str, ...]:
    bar = f"≤ {limit:g} s"
    rows = times.get("kernels") or {}
    medians = {k: r[figure]["median"] for k, r in rows.items() if figure in r and (not needs or needs in r)}
    if not medians:
        return _missing("verify", promise, bar)
    worst = max(medians.values())
    where = times.get("cpus", "?"), times.get("accelerator", "?")
    measured = f"{worst:.2f} s on the slowest kernel ({where[0]} CPUs, {where[1]})"
    held = worst <= limit if where == (2, "tcg") else None  # the bar is for such a machine
    return _row("verify", promise, bar, measured, held, {**times, "kernels": sorted(medians)})


def _cycles_row(cycles: dict[str, Any]) -> tuple[str, ...]:
    promise, bar = "false rejections of a good scheduler in 1,000 attach/detach cycles", "0"
    columns = (cycles.get("kernels") or {}).values()
    done = sum(column["cycles"] for column in columns)
    if not done:
        return _missing("cycles", promise, bar)
    false, faults = (sum(c[name] for c in columns) for name in ("false_rejections", "emulator_faults"))
    measured = f"{false} in {done} cycles; {faults} emulator faults, run again"
    if done < 1000:
        measured += f" ({NOT_MEASURED} to the end: {1000 - done} cycles are lacking)"
    held = False if false else None if done < 1000 else True
    return _row("cycles", promise, bar, measured, held, cycles)


def _trial_rows(documents: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    simulated = f"equal arms called different, simulated (at least {_SIMULATED} trials a row)"
    real = f"equal arms called different, real trials (at least {_REAL})"
    power = "a planted 10 % effect found, simulated"
    rows: list[tuple[str, ...]] = []
    for document in documents:
        each = document.get("rows") or []
        if not each:
            continue
        at = f", looking for {document.get('mde', 0):.0%}"
        worst = max(one["false_positives"] for one in each)
        least = min(one["planted_found"] for one in each)
        reached = sum(one["planted_found"] >= _LEAST_POWER for one in each)
        called, judged = (sum(one[name] for one in each) for name in ("real_false_positives", "real_trials"))
        runs = {(one["workload"], one.get("run_s")): one["real_trials"] for one in each}  # metrics share their runs
        trials = sum(runs.values())
        enough = document.get("trials", 0) >= _SIMULATED
        rows += [
            _row("trial", simulated + at, "≤ 5 %", f"{worst:.1%} at worst, of {len(each)} workloads and metrics",
                 worst <= _MOST_FALSE_POSITIVES if enough else None, document),
            _row("trial", real + at, "≤ 5 %", f"{called} of {judged} verdicts, by metric, in {trials} trials",
                 None if trials < _REAL else called <= _MOST_FALSE_POSITIVES * judged, document),
            _row("trial", power + at, "≥ 80 %",
                 f"{least:.1%} at worst; reached by {reached} of {len(each)} workloads and metrics",
                 reached == len(each) if enough else None, document),
        ]  # fmt: skip
    missing = [_missing("trial", promise, bar) for promise, bar in
               ((simulated, "≤ 5 %"), (real, "≤ 5 %"), (power, "≥ 80 %"))]  # fmt: skip
    return rows or missing


def _none(name: str) -> list[str]:
    return [f"{NOT_MEASURED}: `{COMMANDS[name]}` measures it."]


def _corpus(score: dict[str, Any]) -> list[str]:
    results = score.get("results") or []
    bad = [r for r in results if r.get("expected")]
    if not bad:
        return _none("mutation-score")
    outcomes = ("caught", "elsewhere", "missed", "error")
    classes = sorted({r["bug_class"] for r in bad})
    counts = Counter((r["bug_class"], r["outcome"]) for r in bad)
    by_class = [[c, sum(counts[c, o] for o in outcomes), *(counts[c, o] for o in outcomes)] for c in classes]
    where = Counter((r["expected"], r["stage"] if r["verdict"] == "rejected" else "nowhere") for r in bad)
    by_stage = [[s, *(where[s, other] for other in (*STAGES, "nowhere"))] for s in STAGES]
    odd = [r for r in results if r.get("outcome") not in ("caught", "passed")]
    lines = [
        f"Kernels: {_kernels(score)}. Date: {_date(score)}{_earlier(score)}. *caught*: rejected by the stage "
        "and rule that the scheduler's header names; *elsewhere*: rejected for something else, which does not count.",
        "", table(["class", "bad", *outcomes], by_class),
        "", "Rows: the stage that should catch it; columns: the stage that did.",
        "", table(["expected", *STAGES, "nowhere"], by_stage),
    ]  # fmt: skip
    if odd:
        names = [[r["case"], r["outcome"], r["kernel"] or "–", r["expected"] or "pass", r["stage"] or "–", r["summary"]]
                 for r in odd]  # fmt: skip
        lines += ["", "Not as expected:", ""]
        lines += [table(["scheduler", "outcome", "kernel", "expected", "stage", "what was said"], names)]
    return lines


def _times(times: dict[str, Any]) -> list[str]:
    rows = [
        [kernel, name.removesuffix("_s").replace("_", " "), f"{v['median']:.2f}", f"{v['least']:.2f}",
         f"{v['most']:.2f}", v["runs"]]
        for kernel, figures in (times.get("kernels") or {}).items()
        for name, v in figures.items()
    ]  # fmt: skip
    if not rows:
        return _none("verify")
    said = f"{times.get('cpus', '?')} CPUs, {times.get('accelerator', '?')}, QEMU {times.get('qemu', '?')}"
    return [f"{said}. Date: {_date(times)}. Seconds.", "",
            table(["kernel", "what", "median", "least", "most", "runs"], rows)]  # fmt: skip


def _cycles(cycles: dict[str, Any]) -> list[str]:
    names = ("cycles", "boots", "false_rejections", "emulator_faults")
    rows = [[kernel, *(c[name] for name in names)] for kernel, c in (cycles.get("kernels") or {}).items()]
    if not rows:
        return _none("cycles")
    return [f"QEMU {cycles.get('qemu', '?')}. Date: {_date(cycles)}.", "",
            table(["kernel", *(name.replace("_", " ") for name in names)], rows)]  # fmt: skip


def _trials(documents: Sequence[dict[str, Any]]) -> list[str]:
    lines: list[str] = []
    for document in documents:
        rows = [
            [one["workload"], one.get("run_s", "–"), one["metric"], one["blocks_recorded"], f"{one['run_sd_log']:.1%}",
             f"{one['block_noise_log']:.1%}", one["pairs_needed"], f"{one['false_positives']:.1%}",
             f"{one['planted_found']:.1%}", f"{one['real_false_positives']} of {one['real_trials']}"]
            for one in document.get("rows") or []
        ]  # fmt: skip
        if not rows:
            continue
        lines += [
            f"Looking for {document['mde']:.0%} at {document['confidence']:.0%}. Kernels: {_kernels(document)}. Date: "
            f"{_date(document)}. Simulated over recorded A/A samples: "
            f"{document['simulation']}.",
            "", table(["workload", "a run, s", "metric", "blocks recorded", "sd of runs", "noise of blocks",
                       "pairs needed", "false positives", "10 % found", "real A/A called different"], rows), "",
        ]  # fmt: skip
    return lines[:-1] or _none("trial")


def _conformance(document: dict[str, Any]) -> list[str]:
    rows = document.get("rows") or []
    if not rows:
        return _none("conformance")
    counts = Counter(row["agrees"] for row in rows)
    said = (
        f"{document['source']} on {document['kernel']}, {_date(document)}: {counts['yes']} agree, "
        f"{counts['NO']} disagree, {counts['stricter']} hold several schedulers in one object, of which we ask for one "
        f"(stricter than the kernel), {counts['unknown']} say nothing that could be compared."
    )
    wrong = [
        [row["test"], row["expected"], row["got"], row["detail"]] for row in rows if row["agrees"] in ("NO", "stricter")
    ]
    return [said, "", table(["selftest", "it says", "we saw", "detail"], wrong)] if wrong else [said]
