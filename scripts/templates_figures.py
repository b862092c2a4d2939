# SPDX-License-Identifier: Apache-2.0
"""The measured half of docs/templates.md: what the templates' benches left in bench/results, as tables.

Nothing here computes a figure that was not measured. What is missing is said to be missing, with the command that
measures it; a figure of an earlier version of a template is marked.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import realtime
from bench.batch import is_stale
from bench.kit import filled
from bench.kit.loads import LOADS, words
from scripts.doc_pages import NOT_MEASURED, read_document, table
from scripts.templates_promises import promises
from scripts.templates_verifier import verifier

COMMANDS = {
    "templates": "python bench/templates.py",
    "families": "python bench/families.py",
    "batch": "python bench/batch.py",
    "partition": "python bench/partition.py",
    "realtime": "python bench/realtime.py",
}
OLD = " †"
"""Behind a figure of an earlier version."""


class Figure(NamedTuple):
    """One ratio: where, of what, how it came out; `mine` and `own` are medians with the family and without."""

    kernel: str
    cpus: str
    family: str
    load: str
    metric: str
    ratio: Sequence[float]
    blocks: int
    old: bool
    mine: float
    own: float

    @property
    def shown(self) -> str:
        """The ratio with its interval."""
        return interval(self.ratio) + OLD * self.old


def interval(ratio: Sequence[float]) -> str:
    """A ratio and its limits."""
    center, low, high = ratio
    return f"{center:.3f} ({low:.3f} to {high:.3f})"


def figures(document: Mapping[str, Any]) -> list[Figure]:
    """Every ratio of bench/results/templates.json, of families that there are."""
    found = []
    for key, row in document.get("rows", {}).items():
        kernel, cpus, family, load = key.split("/")
        if family in filled.templates() and load in LOADS:
            old = row["digest"] != filled.current(family)
            for metric, ratio in row["ratios"].items():
                blocks = row["blocks"][metric]
                mine, own = (statistics.median(value for block in blocks for value in block[arm]) for arm in (0, 1))
                found.append(Figure(kernel, cpus, family, load, metric, ratio, len(blocks), old, mine, own))
    return found


def sections(results: Path) -> str:
    """The half of the page that is measured."""
    found = {name: read_document(results / f"{name}.json") for name in COMMANDS}
    everything = figures(found["templates"])
    parts: list[tuple[str, str, Callable[[], Iterator[str]]]] = [
        ("What was promised, and what was measured", "", lambda: promises(found, everything)),
        ("Where each family is best, and where it is worst", "templates", lambda: _extremes(everything)),
        ("Each family on each load", "templates", lambda: _tables(everything, found["templates"])),
        ("Eight batches with one long job", "batch", lambda: _batch(found["batch"])),
        ("A reservation under attack", "partition", lambda: _reserved(found["partition"])),
        ("Real-time priority, for comparison", "realtime", lambda: _real_time(found["realtime"])),
        ("What they cost", "templates", lambda: _costs(found["templates"])),
        ("The verifier", "families", lambda: verifier(found["families"])),
    ]
    lines: list[str] = []
    for title, name, section in parts:
        lines.append(f"## {title}\n")
        if name and not found[name].get("rows"):
            lines.append(f"{NOT_MEASURED}: `{COMMANDS[name]}` measures it.")
        else:
            lines += [f"{_conditions(name, found[name])}\n"] if name else []
            lines += section()
        lines.append("")
    return "\n".join(lines)


def _conditions(name: str, document: Mapping[str, Any]) -> str:
    """When, where and beside what else it was measured."""
    rows = document["rows"].values()
    dates = sorted({str(row["measured"])[:10] for row in rows if "measured" in row})
    when = " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else str(document.get("measured", "?"))[:10]
    machine = (
        f"guests of QEMU {document.get('qemu', '?')} ({document.get('accelerator', '?')}) on a machine with "
        f"{document.get('cpus', '?')} CPUs"
    )
    said = f"`{COMMANDS[name]}`, {when}, {machine}"
    beside = sorted(row["elsewhere"] for row in rows if "elsewhere" in row)
    if beside:
        said += f"; other programs used {beside[0]:.0%} to {beside[-1]:.0%} of its CPU time meanwhile"
    return said + "."


# ---- ratios ----


def _extremes(everything: Sequence[Figure]) -> Iterator[str]:
    yield (
        "Ratios against the kernel's own scheduler in the same boot, turned so that above 1 is better, with their 95 % "
        "intervals. *Own load*: what the family is for, on the load that it is for, on the newest kernel and the "
        "fewest CPUs. *Worst*: the lowest of all that were measured, whatever the load, kernel and CPUs.\n"
    )
    rows = []
    for family in filled.names():
        mine = [each for each in everything if each.family == family]
        load = LOADS[filled.home(family)]
        aim = filled.aim(family) or load.metrics[0]
        own = sorted((each for each in mine if (each.load, each.metric) == (load.name, aim)), key=_newest_first)
        worst = min(mine, key=lambda each: each.ratio[0], default=None)
        rows.append([family, _told(own[0] if own else None), _told(worst), f"{len(mine)} figures"])
    yield table(["family", "own load", "worst", "of"], rows)
    if any(each.old for each in everything):
        yield f"\n{OLD.strip()}: measured with an earlier version of the template or of the headers it includes."


def _newest_first(each: Figure) -> tuple[int, list[int]]:
    numbers = [-int(part) for part in each.kernel.split("+")[0].split("-")[0].split(".")]
    return int(each.cpus), numbers


def _told(each: Figure | None) -> str:
    if each is None:
        return NOT_MEASURED
    return f"`{each.load}`, {words(each.metric)}: {each.shown}; {each.kernel.split('+')[0]}, {each.cpus} CPUs"


def _tables(everything: Sequence[Figure], document: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "*work* is the class's work a second. Metrics of which less is better are turned too: 2 for a latency means "
        "half. The number of blocks (of four runs) is in brackets where it is not 12; – was not measured.\n"
    )
    for family in filled.names():
        mine = [each for each in everything if each.family == family]
        yield f"### {family} on each load\n"
        if mine:
            yield _family(family, mine) + "\n"
        missing = [load for load in LOADS if not any(each.load == load for each in mine)]
        if missing:
            yield f"{NOT_MEASURED}: {', '.join(f'`{load}`' for load in missing)}.\n"
        for key, row in document["rows"].items():
            kernel, cpus, name, load = key.split("/")
            if name == family and row["left"]:
                yield f"`{load}` on {kernel} with {cpus} CPUs ended without a figure: {row['left']}\n"


def _family(family: str, mine: Sequence[Figure]) -> str:
    places = sorted({(each.kernel, each.cpus) for each in mine}, key=lambda place: (int(place[1]), place[0]))
    at = {(each.load, each.metric, each.kernel, each.cpus): each for each in mine}
    rows = []
    for load in LOADS.values():
        for metric in load.metrics:
            cells = [_cell(at.get((load.name, metric, *place))) for place in places]
            if any(cells):
                name = f"**{load.name}**" if load.name == filled.home(family) else load.name
                rows.append([name, words(metric), *cells])
    return table(["load", "metric", *(f"{kernel}, {cpus} CPUs" for kernel, cpus in places)], rows)


def _cell(each: Figure | None) -> str:
    if each is None:
        return ""
    return each.shown + (f" [{each.blocks}]" if each.blocks != 12 else "")


# ---- batches, costs ----


def _batch(document: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "Makespan under the template that the planner chooses, divided by that under the kernel's own scheduler: below "
        "1 is better. *Bound*: what no scheduler could beat. *Last short job*: when the last of the short jobs ended, "
        "of the makespan under the kernel's own. *declared*: each job's length is known; *unknown*: it is not. †: of "
        "an earlier version of the template.\n"
    )
    groups: dict[tuple[str, int, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in document["rows"].values():
        groups[row["kernel"], row["cpus"], row.get("variant", "")].append(row)
    rows = []
    for (kernel, cpus, variant), each in sorted(groups.items()):
        where = [kernel, cpus, variant]
        rows += [[*where, row["workload"] + OLD * is_stale(row), *_batch_row(row["ratio"], [row])] for row in each]
        rows.append([*where, f"**mean of {len(each)}**", *_batch_row([], each)])
    yield table(["kernel", "CPUs", "lengths", "batch", "ratio", "bound", "last short job", "blocks"], rows)


def _batch_row(ratio: Sequence[float], rows: Sequence[Mapping[str, Any]]) -> list[object]:
    count = len(rows)
    shown = interval(ratio) if ratio else f"{sum(row['ratio'][0] for row in rows) / count:.3f}"
    bound = sum(row["bound_ratio"] for row in rows) / count
    return [shown, f"{bound:.3f}", f"{max(row['short_latest_ratio'] for row in rows):.3f}",
            min(row["blocks"] for row in rows)]  # fmt: skip


def _reserved(document: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "The class computes with one task a CPU, `others` with four times as many at 10,000 times its weight. *Kept*: "
        "the class's share of the CPU time, of its reservation, with the t interval at 95 %; above 1 is what nobody "
        "else took. *Whole CPUs*: the reservation is of those; *part of a CPU*: of less than one; *bound attackers*: "
        "they are bound to the class's own CPUs, as its own tasks are.\n"
    )
    rows = [
        [row["kernel"], row["cpus"], row["attack"], f"{row['reserve']:.0%}", interval(row["kept"]),
         f"{row['kernels_own']:.1%}", len(row["shares"])]
        for row in document["rows"].values()
    ]  # fmt: skip
    header = ["kernel", "CPUs", "attack", "reserved", "kept", "share under the kernel's own", "runs"]
    yield table(header, rows)


def _real_time(document: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "`mixed` once more: its class under SCHED_FIFO beside the kernel's own scheduler, and under latency-first, "
        "both against the kernel's own in the same blocks. SCHED_FIFO preempts at once, whatever it costs the others: "
        "a bar that it misses, too, says more of these guests than of a scheduler.\n"
    )
    rows = []
    for key, row in sorted(document["rows"].items(), key=lambda item: item[0].split("/")[::-1]):
        for arm, found in realtime.compared(row["samples"]).items():
            cells = [interval(found[metric]) if metric in found else NOT_MEASURED for metric in realtime.METRICS]
            rows.append([*key.split("/"), arm + OLD * realtime.is_stale(row), *cells, len(row["samples"])])
    header = ["kernel", "CPUs", "class under", *(words(metric) for metric in realtime.METRICS), "blocks"]
    yield table(header, rows)


def _costs(document: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "Filled for one class. *Compile*: clang in its sandbox, on this machine. *Attach* and *gap* are asked for "
        "through the guest's port; in the gap of a replacement the kernel's own scheduler runs. Medians.\n"
    )
    rows = []
    for key, cost in sorted(document.get("costs", {}).items(), key=lambda item: item[0].split("/")[::-1]):
        kernel, cpus, family = key.split("/")
        if family in filled.templates():
            old = OLD * (cost["digest"] != filled.current(family))
            attach, gap = (f"{cost[name] * 1e3:.1f} ms" for name in ("attach_s", "gap_s"))
            compiled = f"{cost['compile_s']:.2f} s"
            rows.append([family + old, kernel, cpus, cost["lines"], compiled, cost["object_bytes"], attach, gap])
    yield table(["family", "kernel", "CPUs", "lines of C", "compile", "object, bytes", "attach", "gap"], rows)
    missing = [name for name in filled.names() if not any(row[0].removesuffix(OLD) == name for row in rows)]
    if missing:
        yield f"\n{NOT_MEASURED}: {', '.join(missing)}."
