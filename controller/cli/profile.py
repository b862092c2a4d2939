# SPDX-License-Identifier: Apache-2.0
"""A profile as people read it: its figures as cells, its histograms as sparklines, its tables.

A sparkline has ten cells over four decades and a half, the same for every row, so that rows can be compared: each cell
is four times as long as the one before, from 1 us to 1 s; what is shorter or longer counts in the first or last one.
The height of a bar is its share of the row's highest, and what holds any event at all has a bar: a tail is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TextIO

from controller.cli.text import table

if TYPE_CHECKING:
    from controller.api import CpuStats, Histogram, WorkloadProfile, WorkloadStats

CELLS = 10
SCALE = "1us..1s"
_FIRST_NS, _FACTOR = 1_000, 4
_UNICODE = "·▁▂▃▄▅▆▇█"
_ASCII = ".:-=+*%#@"
_SPELT = str.maketrans({"µ": "u", "→": "->", "–": "-", "×": "x"})
_EDGES = 20
"""Wake edges shown below a table; all are in the JSON."""


def has_blocks(stream: TextIO, term: str) -> bool:
    """Whether bars may be block elements: on a terminal that takes UTF-8. A file may be read anywhere."""
    encoding = (getattr(stream, "encoding", "") or "").lower().replace("-", "")
    return encoding == "utf8" and stream.isatty() and term not in ("", "dumb")


def encodable(text: str, stream: TextIO) -> str:
    """`text`, its few characters that are not ASCII spelt in ASCII where the stream cannot take them."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeError:
        return text.translate(_SPELT)
    return text


def spark(histogram: Histogram | None, *, blocks: bool) -> str:
    """The histogram of a time in `CELLS` characters; `-` where there is none."""
    if histogram is None or not histogram.count:
        return "-"
    cells = [0] * CELLS
    for low, width, events in zip(histogram.edges, histogram.widths, histogram.counts, strict=True):
        cells[_cell(low + width / 2)] += events
    return bars(cells, blocks=blocks)


def _cell(value: float) -> int:
    number, end = 0, float(_FIRST_NS * _FACTOR)
    while value >= end and number < CELLS - 1:
        number, end = number + 1, end * _FACTOR
    return number


def bars(values: Sequence[int], *, blocks: bool) -> str:
    """Each value as a bar, its height relative to the greatest."""
    levels = _UNICODE if blocks else _ASCII
    most = max(values, default=0)
    steps = len(levels) - 1
    return "".join(levels[-(-value * steps // most)] if value else levels[0] for value in values)


def rate(count: int | None, window: float) -> str:
    """Events a second over `window` seconds; `-` where they could not be counted."""
    if count is None:
        return "-"
    value = count / window
    return f"{value:.0f}" if value >= 10 or value == 0 else f"{value:.1f}"


def percentile(histogram: Histogram | None, percent: float) -> str:
    """A percentile of a time; `-` without events."""
    return nanoseconds(histogram.percentile(percent)) if histogram is not None and histogram.count else "-"


def nanoseconds(value: float) -> str:
    """A measured time in three digits: 850ns, 12.3us, 4.56ms, 1.20s."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if value >= size:
            figure = value / size
            digits = 0 if figure >= 100 else 1 if figure >= 10 else 2
            return f"{figure:.{digits}f}{unit}"
    return f"{value:.0f}ns"


def share(value: float | None) -> str:
    """A share as percent, without the sign; `-` where it was not measured."""
    return "-" if value is None else f"{value * 100:.1f}"


def switches(workload: WorkloadStats) -> int | None:
    """Voluntary and involuntary switches together."""
    if workload.voluntary_switches is None or workload.involuntary_switches is None:
        return None
    return workload.voluntary_switches + workload.involuntary_switches


def classified(workload: WorkloadStats) -> str:
    """The class and how sure it is: `latency 93%`."""
    found = workload.classification
    return "-" if found is None else f"{found.kind} {found.confidence * 100:.0f}%"


Cell = Callable[["WorkloadStats", float, bool], str]
_COLUMNS: tuple[tuple[str, bool, Cell], ...] = (
    ("WORKLOAD", False, lambda w, _s, _b: w.name),
    ("KEY", False, lambda w, _s, _b: w.keyed_by),
    ("CLASS", False, lambda w, _s, _b: classified(w)),
    ("TASKS", False, lambda w, _s, _b: str(w.tasks)),
    ("CPU%", False, lambda w, _s, _b: f"{w.cpu_share * 100:.1f}"),
    ("WAKEUPS/S", False, lambda w, s, _b: rate(w.wakeups, s)),
    ("LATENCY P50", False, lambda w, _s, _b: percentile(w.wakeup_latency, 50)),
    ("P99", False, lambda w, _s, _b: percentile(w.wakeup_latency, 99)),
    (SCALE, False, lambda w, _s, b: spark(w.wakeup_latency, blocks=b)),
    ("BURST P50", False, lambda w, _s, _b: percentile(w.burst, 50)),
    ("BURST P99", True, lambda w, _s, _b: percentile(w.burst, 99)),
    ("SLEEP P50", True, lambda w, _s, _b: percentile(w.sleep, 50)),
    ("SWITCHES/S", False, lambda w, s, _b: rate(switches(w), s)),
    ("WAITING", True, lambda w, s, _b: _waiting(w.wait_ns, s)),
    ("PREEMPTED/S", True, lambda w, s, _b: rate(w.involuntary_switches, s)),
    ("MIGRATIONS/S", True, lambda w, s, _b: rate(w.migrations, s)),
    ("LLC/S", True, lambda w, s, _b: rate(w.llc_migrations, s)),
    ("NUMA/S", True, lambda w, s, _b: rate(w.numa_migrations, s)),
    ("FORKS/S", True, lambda w, s, _b: rate(w.forks, s)),
    ("EXECS/S", True, lambda w, s, _b: rate(w.execs, s)),
    ("EXITS/S", True, lambda w, s, _b: rate(w.exits, s)),
    ("WEIGHT", True, lambda w, _s, _b: _of_cgroup(w, "weight")),
    ("QUOTA", True, lambda w, _s, _b: _of_cgroup(w, "quota")),
    ("THROTTLED", True, lambda w, _s, _b: _throttled(w)),
    ("QOS", True, lambda w, _s, _b: _of_cgroup(w, "qos")),
    ("POD", True, lambda w, _s, _b: _of_cgroup(w, "pod")),
    ("CONTAINER", True, lambda w, _s, _b: _of_cgroup(w, "container")[:12]),
    ("PROCESSES", True, lambda w, _s, _b: ",".join(w.comms) or "-"),
    ("BECAUSE", True, lambda w, _s, _b: "; ".join(w.classification.because) if w.classification else "-"),
)  # fmt: skip


def _waiting(wait_ns: int | None, seconds: float) -> str:
    """How many of its tasks were ready and did not run, on average."""
    return "-" if wait_ns is None else f"{wait_ns / 1e9 / seconds:.2f}"


def _of_cgroup(workload: WorkloadStats, name: str) -> str:
    value = getattr(workload.cgroup, name) if workload.cgroup is not None else None
    return f"{value:g}" if isinstance(value, float) else str(value or "-")


def _throttled(workload: WorkloadStats) -> str:
    """The share of enforcement periods in which it was held back, and for how long in all."""
    group = workload.cgroup
    if group is None or group.throttled_periods is None:
        return "-"
    held = f"{100 * group.throttled_periods / group.periods:.0f}%" if group.periods else "0%"
    return f"{held} {nanoseconds(group.throttled_ns)}" if group.throttled_ns else held


def profile_table(profile: WorkloadProfile, *, wide: bool = False, blocks: bool = False) -> str:
    """One row a workload, busiest first; `-` where this observer could not measure."""
    seconds = profile.window_ns / 1e9
    columns = [column for column in _COLUMNS if wide or not column[1]]
    rows = [[cell(workload, seconds, blocks) for _, _, cell in columns] for workload in profile.workloads]
    return table([title for title, _, _ in columns], rows)


def sections(profile: WorkloadProfile, *, blocks: bool = False) -> str:
    """What the wide output has below its table: CPUs, pressure, wakeups between workloads; each only where known."""
    parts = [_cpus(profile, blocks), _pressure(profile), _edges(profile)]
    return "\n".join(part for part in parts if part)


def _cpus(profile: WorkloadProfile, blocks: bool) -> str:
    if not profile.cpus:
        return ""
    seconds = profile.window_ns / 1e9
    rows = [
        [
            str(cpu.cpu), share(cpu.busy_share), share(cpu.steal_share), _waiting(cpu.wait_ns, seconds),
            "-" if cpu.capacity is None else str(cpu.capacity), mean_depth(cpu),
            bars(cpu.depth, blocks=blocks) if sum(cpu.depth) else "-",
        ]
        for cpu in profile.cpus
    ]  # fmt: skip
    return table(["CPU", "BUSY%", "STEAL%", "WAITING", "CAPACITY", "DEPTH", "TIME BY DEPTH 0.."], rows)


def mean_depth(cpu: CpuStats) -> str:
    """Tasks runnable or running on it, on average over the time that was accounted for; `-` if none was."""
    known = sum(cpu.depth)
    return f"{sum(depth * time for depth, time in enumerate(cpu.depth)) / known:.2f}" if known else "-"


def _pressure(profile: WorkloadProfile) -> str:
    psi = profile.pressure
    figures = (("cpu", psi.cpu, None), ("memory", psi.memory, psi.memory_full), ("io", psi.io, psi.io_full))
    rows = [
        [name, f"{some:.2f}", "-" if full is None else f"{full:.2f}"]
        for name, some, full in figures
        if some is not None
    ]
    return table(["PRESSURE", "SOME%", "FULL%"], rows) if rows else ""


def _edges(profile: WorkloadProfile) -> str:
    if not profile.wake_edges:
        return ""
    seconds = profile.window_ns / 1e9
    edges = profile.wake_edges
    rows = [[edge.waker or "(interrupt)", edge.wakee, rate(edge.wakeups, seconds)] for edge in edges[:_EDGES]]
    rest = len(edges) - len(rows)
    note = f"{rest} more pairs are in -o json\n" if rest > 0 else ""
    return table(["WAKER", "WAKEE", "WAKEUPS/S"], rows) + note
