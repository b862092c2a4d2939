# SPDX-License-Identifier: Apache-2.0
"""What the templates have to show, beside what was measured: a row each, held or not, or not measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.batch import is_stale
from bench.kit import filled
from scripts.doc_pages import NOT_MEASURED, table, yes_no
from scripts.templates_verifier import tally

if TYPE_CHECKING:
    from scripts.templates_figures import Figure

_BATCHES = 8
_PLACES = 4
"""Two kernels, each with 2 and with 4 CPUs."""
_ATTACKS, _KEPT = 3, 0.98
_WITHIN = 1 / 1.05
"""A ratio of work that costs no more than 5 % of the time."""
Row = tuple[str, str, str, bool | None]
"""Promise, bar, measured, held."""


def promises(found: Mapping[str, Mapping[str, Any]], everything: Sequence[Figure]) -> Iterator[str]:
    """The table."""
    yield (
        "Each bar is compared with the middle of the figure; of several kernels and numbers of CPUs the worst is "
        "shown. A bar counts as held only when all was measured that the promise speaks of.\n"
    )
    rows = [
        _verified(found["families"]),
        *_batches(found["batch"]),
        _bar(everything, "latency-first", "mixed", "class.wakeupLatency.p99", "p99 wakeup latency of the class", 5.0),
        _bar(everything, "latency-first", "mixed", "others.throughput", "work of all others meanwhile", 0.97),
        _bar(everything, "throughput", "cache", "class.throughput", "work on a cache-bound load", 1.03),
        _bar(everything, "throughput", "cache", "class.switches", "involuntary switches on it, fewer", 1.0),
        _bar(everything, "weighted-fair", "pipe", "class.throughput", "pipe, within 5 %", _WITHIN),
        _bar(everything, "weighted-fair", "hackbench", "class.throughput", "hackbench, within 5 %", _WITHIN),
        *_shares(everything),
        _reserved(found["partition"]),
        *_costs(found["templates"].get("costs", {})),
    ]
    yield table(["promise", "bar", "measured", "held"], [[*row[:3], yes_no(row[3])] for row in rows])


def _verified(document: Mapping[str, Any]) -> Row:
    promise, bar = "every family passes every stage on every pulled kernel and topology", "all"
    if not document.get("rows"):
        return promise, bar, NOT_MEASURED, None
    found = tally(document)
    missing = found.wanted - found.passed - found.rejected
    told = f"{found.passed} of {found.wanted} passed, {found.rejected} were rejected"
    told += f", {missing} {NOT_MEASURED}" if missing else ""
    older = found.passed + found.rejected - found.current
    told += f"; {older} of them in an earlier version" if older > 0 else ""
    return promise, bar, told, False if found.rejected else None if missing or older > 0 else True


def _batches(document: Mapping[str, Any]) -> Iterator[Row]:
    promise = "makespan of a batch with one long job, mean of eight"
    bar = "≤ 0.75, or within 0.03 of the bound; no short job ends after the former makespan"
    groups: dict[tuple[str, int, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in document.get("rows", {}).values():
        groups[row["kernel"], row["cpus"], row.get("variant", "")].append(row)
    if not groups:
        yield promise, bar, NOT_MEASURED, None
    for (kernel, cpus, variant), rows in sorted(groups.items()):
        ratio, bound = (sum(each) / len(rows) for each in
                        ([row["ratio"][0] for row in rows], [row["bound_ratio"] for row in rows]))  # fmt: skip
        latest = max(row["short_latest_ratio"] for row in rows)
        told = f"{ratio:.3f}, bound {bound:.3f}, last short job {latest:.3f}; {kernel}, {cpus} CPUs, {variant}"
        met: bool | None = (ratio <= 0.75 or ratio - bound <= 0.03) and latest <= 1
        if len(rows) < _BATCHES:
            told, met = f"{told} ({_BATCHES - len(rows)} of the eight {NOT_MEASURED})", None
        elif older := sum(map(is_stale, rows)):
            told, met = f"{told}; {older} of them of an earlier version", None
        yield promise, bar, told, met


def _bar(everything: Sequence[Figure], family: str, load: str, metric: str, what: str, bar: float) -> Row:
    promise = f"{family} on `{load}`: {what}"
    mine = [each for each in everything if (each.family, each.load, each.metric) == (family, load, metric)]
    if not mine:
        return promise, f"≥ {bar:.3g}", NOT_MEASURED, None
    worst = min(mine, key=lambda each: each.ratio[0])
    told = f"{worst.shown}; {worst.kernel}, {worst.cpus} CPUs"
    missing = _PLACES - len(mine)
    told += f"; {missing} of {_PLACES} kernels and sizes {NOT_MEASURED}" if missing > 0 else ""
    return promise, f"≥ {bar:.3g}", told, False if worst.ratio[0] < bar else None if missing > 0 else True


def _shares(everything: Sequence[Figure]) -> Iterator[Row]:
    """Of each family whose class is promised a part of the CPUs, how much of it is kept under attack."""
    for family in filled.names():
        share = filled.promised_share(family)
        if share is None:
            continue
        promise, bar = f"{family} on `attack`: the class's promised {share:.0%} of the CPUs", "within 2 %"
        mine = [each for each in everything if (each.family, each.load) == (family, "attack")]
        if not mine:
            yield promise, bar, NOT_MEASURED, None
            continue
        worst = min(mine, key=lambda each: each.mine)
        missing = _PLACES - len(mine)
        told = f"{worst.mine:.1%}, median of the runs; {worst.kernel}, {worst.cpus} CPUs"
        told += f"; {missing} of {_PLACES} kernels and sizes {NOT_MEASURED}" if missing > 0 else ""
        yield promise, bar, told, False if worst.mine < 0.98 * share else None if missing > 0 else True


def _reserved(document: Mapping[str, Any]) -> Row:
    promise, bar = "partition: a reservation under three attacks, what is kept of it", "≥ 0.98"
    rows = list(document.get("rows", {}).values())
    if not rows:
        return promise, bar, NOT_MEASURED, None
    worst = min(rows, key=lambda row: row["kept"][0])
    center, low, high = worst["kept"]
    told = f"{center:.3f} ({low:.3f} to {high:.3f}); {worst['attack']}, {worst['kernel']}, {worst['cpus']} CPUs"
    missing = _ATTACKS * _PLACES - len(rows)
    told += f"; {missing} of {_ATTACKS * _PLACES} attacks {NOT_MEASURED}" if missing > 0 else ""
    return promise, bar, told, False if center < _KEPT else None if missing > 0 else True


def _costs(costs: Mapping[str, Mapping[str, Any]]) -> Iterator[Row]:
    bars: list[tuple[str, str, float | None, str, Callable[[float], str]]] = [
        ("lines", "lines of a rendered scheduler", 400, "≤ 400", lambda value: f"{value:.0f}"),
        ("compile_s", "compile time", 0.3, "≤ 0.3 s", lambda value: f"{value:.2f} s"),
        ("object_bytes", "size of the object", 64 << 10, "≤ 65536 bytes", lambda value: f"{value:.0f}"),
        ("attach_s", "time to attach", None, "a figure", lambda value: f"{value * 1e3:.1f} ms"),
        ("gap_s", "gap on the kernel's own scheduler at a replacement", None, "a figure",
         lambda value: f"{value * 1e3:.1f} ms"),
    ]  # fmt: skip
    for name, promise, most, bar, shown in bars:
        if not costs:
            yield promise, bar, NOT_MEASURED, None
            continue
        key, worst = max(costs.items(), key=lambda item: item[1][name])
        _, cpus, family = key.split("/")
        families = len({each.split("/")[2] for each in costs})
        told = f"{shown(worst[name])} at most, of {families} families ({family}, {cpus} CPUs)"
        yield promise, bar, told, None if most is None else worst[name] <= most
