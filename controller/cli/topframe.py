# SPDX-License-Identifier: Apache-2.0
"""One frame of `schedctl top`: a profile and what the kernel says of its scheduler, as lines of a given width.

The columns that matter most stay when the terminal is narrow; the workload's name gets what is left and loses its
beginning first, since the end of a cgroup path says more. Names are others' choice: what is not printable ASCII is
spelt out, so that every character is one column wide and none drives the terminal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from controller.cli import profile as cells
from controller.cli.text import cell

if TYPE_CHECKING:
    from controller.api import WorkloadProfile, WorkloadStats

SORTS = ("cpu", "p99", "p50", "wakeups", "name")
HELP = (
    "schedctl top: what runs here, a window at a time",
    "",
    "  q, Ctrl-C   quit",
    "  s           sort by the next of: " + ", ".join(SORTS),
    "  p, space    pause; nothing is traced meanwhile",
    "  h, ?        this text, and back",
    "",
    "P50 and P99 are of the wakeup latency: from runnable to running. " + cells.SCALE,
    "is its histogram, each column four times as long as the one before.",
    "CPU% is of all CPUs together. A `-` could not be measured.",
)
_NARROWEST_NAME = 12
_EVENTS = 4


@dataclass(frozen=True)
class Scheduler:
    """Who schedules, as the kernel and the agent's files say. `counters` are of the kernel, `events` SCX_EV_* of it."""

    state: str
    ops: str = ""
    revision: str = ""
    phase: str = ""
    held: bool = False
    ready: str = ""
    counters: dict[str, int] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Frame:
    """What a frame shows. `scheduler` is None for a recorded profile: it does not say who scheduled."""

    profile: WorkloadProfile
    scheduler: Scheduler | None
    sort: str = SORTS[0]
    paused: bool = False
    blocks: bool = False


_Column = tuple[str, int, Callable[["WorkloadStats", float, bool], str]]
# In order of importance: the last ones go first when there is no room. All are aligned to the right but the bars.
_COLUMNS: tuple[_Column, ...] = (
    ("CPU%", 5, lambda w, _s, _b: cells.share(w.cpu_share)),
    ("P99", 6, lambda w, _s, _b: cells.percentile(w.wakeup_latency, 99)),
    ("P50", 6, lambda w, _s, _b: cells.percentile(w.wakeup_latency, 50)),
    ("WAKE/S", 7, lambda w, s, _b: cells.rate(w.wakeups, s)),
    ("CLASS", 10, lambda w, _s, _b: w.classification.kind if w.classification else "-"),
    ("TASKS", 5, lambda w, _s, _b: str(w.tasks)),
    (cells.SCALE, 10, lambda w, _s, b: cells.spark(w.wakeup_latency, blocks=b)),
)
_ORDER = ("CLASS", "TASKS", "CPU%", "WAKE/S", "P50", "P99", cells.SCALE)
_LEFT = ("CLASS", cells.SCALE)


def lines(frame: Frame, columns: int | None = None, rows: int | None = None) -> tuple[list[str], int]:
    """The frame's lines and the number of the one that heads the table. Without a size all of it, as wide as it is."""
    head = [_title(frame), _machine(frame.profile), *_scheduler(frame.scheduler)]
    if frame.profile.degraded:
        head.append(f"observed with {frame.profile.observer}: {plain(frame.profile.degraded)}")
    room = None if rows is None else max(rows - len(head) - 2, 0)
    workloads = _sorted(frame)
    shown = workloads if room is None else workloads[:room]
    table = _table(frame, shown, columns)
    text = [*head, *table]
    if rows is not None:
        text += [""] * (rows - len(text) - 1)
        more = f"  ({len(workloads) - len(shown)} more)" if len(shown) < len(workloads) else ""
        text = [
            *text[: rows - 1],
            f"q quit  s sort: {frame.sort}  p {'go on' if frame.paused else 'pause'}  h help{more}",
        ]
    return text, len(head)


def plain(name: str) -> str:
    """A name of one line and one column a character."""
    return cell(name).encode("ascii", "backslashreplace").decode()


def _title(frame: Frame) -> str:
    profile = frame.profile
    window = cells.nanoseconds(profile.window_ns)
    dropped = f"  {profile.dropped} events dropped" if profile.dropped else ""
    paused = "  PAUSED" if frame.paused else ""
    at = profile.taken_at.strftime("%Y-%m-%d %H:%M:%SZ")
    return f"{plain(profile.node)}  {at}  {window} window  {profile.observer}{dropped}{paused}"


def _machine(profile: WorkloadProfile) -> str:
    busy = sum(cpu.busy_share for cpu in profile.cpus) / len(profile.cpus) if profile.cpus else None
    if busy is None:
        busy = min(sum(workload.cpu_share for workload in profile.workloads), 1.0)
    stolen = [cpu.steal_share for cpu in profile.cpus if cpu.steal_share is not None]
    parts = [f"{profile.topology.cpus} CPUs", f"busy {busy * 100:.1f}%"]
    if stolen:
        parts.append(f"steal {100 * sum(stolen) / len(stolen):.1f}%")
    depths = [float(depth) for cpu in profile.cpus if (depth := cells.mean_depth(cpu)) != "-"]
    if depths:
        parts.append(f"depth {sum(depths) / len(depths):.2f} a CPU")
    psi = profile.pressure
    figures = (("cpu", psi.cpu), ("mem", psi.memory), ("io", psi.io))
    pressure = [f"{name} {value:.1f}%" for name, value in figures if value is not None]
    return "  ".join(parts + (["pressure " + " ".join(pressure)] if pressure else []))


def _scheduler(scheduler: Scheduler | None) -> list[str]:
    if scheduler is None:
        return ["scheduler: not in a recorded profile"]
    if not scheduler.state:
        return ["scheduler: the kernel's own (this kernel has no sched_ext)"]
    name = plain(scheduler.ops) if scheduler.ops else f"the kernel's own (sched_ext {plain(scheduler.state)})"
    whose = " ".join(plain(each) for each in (scheduler.revision, scheduler.phase) if each)
    held = "  held by `schedctl eject`" if scheduler.held else ""
    text = [f"scheduler: {name}" + (f" ({whose})" if whose else "") + held]
    busiest = sorted(scheduler.events.items(), key=lambda pair: -pair[1])[:_EVENTS]
    events = {plain(key.removeprefix("SCX_EV_").lower()): value for key, value in busiest if value}
    counted = "  ".join(f"{key} {value}" for key, value in (scheduler.counters | events).items())
    text += [f"counters: {counted}"] if counted else []
    return text + ([f"agent: {plain(scheduler.ready)}"] if scheduler.ready else [])


def _sorted(frame: Frame) -> list[WorkloadStats]:
    def key(workload: WorkloadStats) -> float:
        latency = workload.wakeup_latency
        match frame.sort:
            case "p99":
                return latency.percentile(99) if latency is not None else -1.0
            case "p50":
                return latency.percentile(50) if latency is not None else -1.0
            case "wakeups":
                return float(workload.wakeups if workload.wakeups is not None else -1)
            case _:
                return float(workload.cpu_ns)

    if frame.sort == "name":
        return sorted(frame.profile.workloads, key=lambda w: w.name)
    return sorted(frame.profile.workloads, key=lambda w: (-key(w), w.name))


def _table(frame: Frame, workloads: list[WorkloadStats], columns: int | None) -> list[str]:
    seconds = frame.profile.window_ns / 1e9
    names = [plain(workload.name) for workload in workloads]
    longest = max((len(name) for name in names), default=0)
    chosen = _fitting(columns)
    width = max(longest, len("WORKLOAD")) if columns is None else max(columns - _width(chosen), 1)
    head = [_fit("WORKLOAD", width)] + [_aligned(title, title, size) for title, size, _ in chosen]
    rows = [
        [_fit(name, width)]
        + [_aligned(title, value(workload, seconds, frame.blocks), size) for title, size, value in chosen]
        for name, workload in zip(names, workloads, strict=True)
    ]
    return [" ".join(row).rstrip() for row in (head, *rows)]


def _fitting(columns: int | None) -> list[_Column]:
    """The columns for which there is room beside a name, in their order on the screen."""
    kept = list(_COLUMNS)
    while columns is not None and kept and columns - _width(kept) < _NARROWEST_NAME:
        kept.pop()
    return sorted(kept, key=lambda column: _ORDER.index(column[0]))


def _width(columns: list[_Column]) -> int:
    return sum(size + 1 for _, size, _ in columns)


def _aligned(title: str, value: str, size: int) -> str:
    return value.ljust(size) if title in _LEFT else value.rjust(size)


def _fit(name: str, width: int) -> str:
    if len(name) <= width:
        return name.ljust(width)
    return name[-width:] if width < _NARROWEST_NAME else ".." + name[-(width - 2) :]
