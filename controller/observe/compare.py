# SPDX-License-Identifier: Apache-2.0
"""What changed from one profile to another, in words and numbers, most important first.

A change is told when it is both beyond chance and worth telling. Beyond chance: rates of counted events are compared as
Poisson counts, parts (preempted switches, throttled periods) as binomial ones, CPU time as the sum of so many bursts,
and percentiles by the order statistics that bound them, each at z = 3.29: one in a thousand by chance, since a profile
of 64 workloads asks some 500 such questions. Worth telling: a factor of at least 1.2 (1.3 for a percentile, whose
bucket is up to 1.06 wide on either side), a tenth for parts: real loads vary by more than pure chance, and two windows
of one load should show nothing.

Importance is the size of the change (a factor of 16, coming and going are the full size, as in the fingerprint) times
what hangs on the workload: one that an intent names counts in full, others by the CPU they use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from controller.api.fingerprint import distance, fingerprint_of
from controller.api.profile import Histogram, WorkloadProfile, WorkloadStats
from controller.observe.classify import duration

Z = 3.29
FACTOR, PERCENTILE_FACTOR, PART = 1.2, 1.3, 0.1
_FULL_LOG2 = 4.0
_QUIET_CPUS, _QUIET_EVENTS = 0.002, 20
"""What used less and did less than this neither appears nor vanishes: it was there and did not happen to run."""

_SURE = 0.7


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that changed. `workload` is "" for the node; `before` and `after` are None where there is no number.

    `what` names the figure: appeared, vanished, kind, cpu, tasks, wakeups, forks, execs, preempted, migrations,
    throttled, latency50, latency99, burst50, turn, sleep50, woken_by, kernel, topology, observer, pressure, distance.
    """

    workload: str
    what: str
    before: float | None
    after: float | None
    text: str
    importance: float


@dataclass(frozen=True, slots=True)
class _Pair:
    """One workload in both profiles, and the seconds of each window."""

    old: WorkloadStats
    new: WorkloadStats
    seconds: tuple[float, float]


def changes(before: WorkloadProfile, after: WorkloadProfile) -> tuple[Change, ...]:
    """Everything that changed beyond chance, most important first; the last is always the fingerprints' distance."""
    seconds = before.window_ns / 1e9, after.window_ns / 1e9
    names = sorted({(w.keyed_by, w.name) for w in (*before.workloads, *after.workloads)})
    olds = {(w.keyed_by, w.name): w for w in before.workloads}
    news = {(w.keyed_by, w.name): w for w in after.workloads}
    found: list[Change] = list(_node(before, after))
    for key in names:
        old, new = olds.get(key), news.get(key)
        if old is not None and new is not None:
            pair = _Pair(old, new, seconds)
            weight = max(_relevance(old), _relevance(new))
            found += [
                Change(new.name, what, was, is_, text, weight * size)
                for look in _LOOKS
                for what, was, is_, text, size in look(pair)
            ]
        elif one := old or new:
            found += _came_or_went(one, old is None, seconds[old is None])
    found += _edges(before, after)
    found.sort(key=lambda change: (-change.importance, change.workload, change.what))
    return (*found, _distance(before, after))


def words(found: Sequence[Change]) -> str:
    """A line for each change, and the distance; says so when nothing changed."""
    told = [c for c in found if c.what != "distance"]
    lines = [f"{c.workload}: {c.text}" if c.workload else c.text for c in told]
    if not told:
        lines.append("nothing changed beyond what chance does")
    return "\n".join([*lines, *(c.text for c in found if c.what == "distance")])


# ---- chance ----


def rates_differ(old: int, new: int, seconds: tuple[float, float]) -> bool:
    """Whether two counts of events in windows of these lengths come from different rates."""
    apart = math.log((new + 0.5) / seconds[1]) - math.log((old + 0.5) / seconds[0])
    return abs(apart) > Z * math.sqrt(1 / (old + 0.5) + 1 / (new + 0.5))


def parts_differ(old: int, of_old: int, new: int, of_new: int) -> bool:
    """Whether `old` of `of_old` and `new` of `of_new` are different parts."""
    if not of_old or not of_new:
        return False
    both = (old + new + 1) / (of_old + of_new + 2)
    return abs(old / of_old - new / of_new) > Z * math.sqrt(both * (1 - both) * (1 / of_old + 1 / of_new))


def bounds(histogram: Histogram, percent: float) -> tuple[float, float]:
    """Between which values the percentile lies, by the ranks that bound it; up to infinity with too few events."""
    count, part = histogram.count, percent / 100
    spread = Z * math.sqrt(count * part * (1 - part))
    low, high = count * part - spread, count * part + spread
    return (
        histogram.percentile(100 * low / count) if low > 0 else 0.0,
        histogram.percentile(100 * high / count) if high < count else math.inf,
    )


def percentiles_differ(old: Histogram, new: Histogram, percent: float) -> bool:
    """Whether the bounds of the percentile do not meet."""
    (low, high), (new_low, new_high) = bounds(old, percent), bounds(new, percent)
    return new_low > high or low > new_high


def _spread(stats: WorkloadStats) -> float:
    """Relative variance of its CPU time as a sum of bursts; bursts that are alike vary less than one each."""
    burst = stats.burst
    if burst is None or burst.count < 2 or not burst.total_ns:
        return 1.0 / max((stats.voluntary_switches or 0) + (stats.involuntary_switches or 0), 1)
    mean = burst.total_ns / burst.count
    middles = ((low + width / 2, n) for low, width, n in zip(burst.edges, burst.widths, burst.counts, strict=True))
    square = sum(n * value * value for value, n in middles) / burst.count
    return (square / (mean * mean)) / burst.count


# ---- what is looked at, of one workload in both ----

Seen = tuple[str, float | None, float | None, str, float]
"""What, before, after, text, size 0 to 1."""


def _cpu(pair: _Pair) -> list[Seen]:
    old, new = pair.old.cpu_ns / pair.seconds[0] / 1e9, pair.new.cpu_ns / pair.seconds[1] / 1e9
    if max(old, new) < _QUIET_CPUS or not min(old, new):
        return []
    apart = abs(math.log(new / old))
    if apart < math.log(FACTOR) or apart < Z * math.sqrt(_spread(pair.old) + _spread(pair.new)):
        return []
    text = f"runs {_times(old, new)} {'more' if new > old else 'less'} CPU: {_cpus(old)} → {_cpus(new)}"
    return [("cpu", old, new, text, _size(old, new))]


def _counts(pair: _Pair) -> list[Seen]:
    found: list[Seen] = []
    for what, old, new, more, less in (
        ("wakeups", pair.old.wakeups, pair.new.wakeups, "wakes {} more often", "wakes {} less often"),
        ("forks", pair.old.forks, pair.new.forks, "starts {} more tasks", "starts {} fewer tasks"),
        ("execs", pair.old.execs, pair.new.execs, "starts {} more programs", "starts {} fewer programs"),
        ("migrations", pair.old.migrations, pair.new.migrations, "migrates {} more often", "migrates {} less often"),
    ):
        if old is None or new is None or not rates_differ(old, new, pair.seconds):
            continue
        was, is_ = old / pair.seconds[0], new / pair.seconds[1]
        if _ratio(was, is_) < FACTOR:
            continue
        text = (more if is_ > was else less).format(_times(was, is_) if was and is_ else "").replace("  ", " ")
        size = _size(was, is_) * (0.5 if what == "migrations" else 1)
        found.append((what, was, is_, f"{text}: {_per_second(was)} → {_per_second(is_)} a second", size))
    return found


def _tasks(pair: _Pair) -> list[Seen]:
    """Tasks that stay are counted exactly; where they come and go their rate is told as forks."""
    old, new = (max(w.tasks - (w.forks or 0), 1) for w in (pair.old, pair.new))
    if abs(new - old) < 2 or _ratio(old, new) < 1.25:
        return []
    return [("tasks", old, new, f"has {new} tasks that stay, had {old}", _size(old, new))]


def _percentiles(pair: _Pair) -> list[Seen]:
    found: list[Seen] = []
    old, new = pair.old, pair.new
    for what, percent, was, is_, name in (
        ("latency99", 99, old.wakeup_latency, new.wakeup_latency, "p99 wakeup latency"),
        ("latency50", 50, old.wakeup_latency, new.wakeup_latency, "median wakeup latency"),
        ("burst50", 50, old.burst, new.burst, "median burst"),
        ("sleep50", 50, old.sleep, new.sleep, "median sleep"),
    ):
        if was is None or is_ is None or not was.count or not is_.count or not percentiles_differ(was, is_, percent):
            continue
        one, other = was.percentile(percent), is_.percentile(percent)
        if _ratio(one, other) >= PERCENTILE_FACTOR:
            found.append((what, one, other, f"{name} {duration(one)} → {duration(other)}", _size(one, other)))
    return found


def _parts(pair: _Pair) -> list[Seen]:
    found: list[Seen] = []
    old, new = pair.old, pair.new
    if None not in (
        old.involuntary_switches, new.involuntary_switches, old.voluntary_switches, new.voluntary_switches,
    ):  # fmt: skip
        cut, kept = (w.involuntary_switches or 0 for w in (old, new)), (w.voluntary_switches or 0 for w in (old, new))
        (a, b), (c, d) = tuple(cut), tuple(kept)
        found += _part("preempted", "is preempted in {} of its switches, was in {}", (a, a + c), (b, b + d))
    if old.cgroup is not None and new.cgroup is not None:
        found += _part(
            "throttled", "is throttled in {} of its periods, was in {}",
            (old.cgroup.throttled_periods, old.cgroup.periods), (new.cgroup.throttled_periods, new.cgroup.periods),
        )  # fmt: skip
    return found


def _part(what: str, text: str, old: tuple[int | None, int | None], new: tuple[int | None, int | None]) -> list[Seen]:
    if None in old or None in new or not old[1] or not new[1]:
        return []
    was, is_ = (old[0] or 0) / old[1], (new[0] or 0) / new[1]
    if abs(is_ - was) < PART or not parts_differ(old[0] or 0, old[1], new[0] or 0, new[1]):
        return []
    return [(what, was, is_, text.format(f"{is_:.0%}", f"{was:.0%}"), abs(is_ - was))]


def _kind(pair: _Pair) -> list[Seen]:
    old, new = pair.old.classification, pair.new.classification
    if old is None or new is None or old.kind == new.kind or min(old.confidence, new.confidence) < _SURE:
        return []
    return [("kind", None, None, f"is {new.kind} now, was {old.kind}", 0.75)]


_LOOKS: tuple[Callable[[_Pair], list[Seen]], ...] = (_cpu, _counts, _tasks, _percentiles, _parts, _kind)


# ---- the others ----


def _came_or_went(stats: WorkloadStats, came: bool, seconds: float) -> list[Change]:
    used = stats.cpu_ns / seconds / 1e9
    events = stats.wakeups if stats.wakeups is not None else stats.voluntary_switches or 0
    if stats.keyed_by != "intent" and used < _QUIET_CPUS and events < _QUIET_EVENTS:
        return []
    text = f"{'appeared' if came else 'vanished'}: {'uses' if came else 'used'} {_cpus(used)}"
    kind = f", {stats.classification.kind}" if stats.classification is not None else ""
    if came:
        return [Change(stats.name, "appeared", None, used, text + kind, _relevance(stats))]
    return [Change(stats.name, "vanished", used, None, text + kind, _relevance(stats))]


def _edges(before: WorkloadProfile, after: WorkloadProfile) -> list[Change]:
    """Who wakes whom, where both profiles know: a waker that is new or gone, beyond a change of the wakee's rate."""
    if not before.wake_edges or not after.wake_edges:
        return []
    olds, news = ({(e.waker, e.wakee): e.wakeups for e in p.wake_edges} for p in (before, after))
    found = []
    for waker, wakee in sorted(olds.keys() | news.keys()):
        old, new = olds.get((waker, wakee), 0), news.get((waker, wakee), 0)
        both = before.workload(wakee), after.workload(wakee)
        if both[0] is None or both[1] is None or min(old, new) or max(old, new) < _QUIET_EVENTS:
            continue
        all_ = both[1].wakeups if new else both[0].wakeups
        part = min(max(old, new) / all_, 1.0) if all_ else 0.0
        if part < PART:
            continue
        text = f"{part:.0%} of its wakeups {'are now' if new else 'were'} by {waker or 'interrupts'}, " + (
            "none were" if new else "none are now"
        )
        importance = part * max(_relevance(both[0]), _relevance(both[1])) / 2
        found.append(Change(wakee, "woken_by", float(old), float(new), text, importance))
    return found


def _node(before: WorkloadProfile, after: WorkloadProfile) -> list[Change]:
    found = []
    for what, old, new in (
        ("kernel", before.kernel.release, after.kernel.release),
        ("topology", before.topology.topology_class, after.topology.topology_class),
        ("observer", before.observer, after.observer),
    ):
        if old != new:
            told = ", which cannot measure all that the other does" if what == "observer" else ""
            found.append(Change("", what, None, None, f"{what}: {old} → {new}{told}", 2.0))
    for resource in ("cpu", "memory", "io"):
        was, is_ = getattr(before.pressure, resource), getattr(after.pressure, resource)
        if was is not None and is_ is not None and abs(is_ - was) >= 100 * PART:
            text = f"{resource} pressure: tasks waited {was:.0f} % → {is_:.0f} % of the time"
            found.append(Change("", "pressure", was, is_, text, abs(is_ - was) / 100))
    return found


def _distance(before: WorkloadProfile, after: WorkloadProfile) -> Change:
    intents = sorted({w.name for p in (before, after) for w in p.workloads if w.keyed_by == "intent"})
    apart = distance(fingerprint_of(before, intents), fingerprint_of(after, intents))
    named = "1 intent" if len(intents) == 1 else f"{len(intents)} intents"
    of = f"{named} and all others" if intents else "everything taken together"
    return Change("", "distance", None, apart, f"fingerprint distance {apart:.3f} ({of})", 0.0)


# ---- numbers in words ----


def _relevance(stats: WorkloadStats) -> float:
    return 1.0 if stats.keyed_by == "intent" else min(0.1 + stats.cpu_share, 1.0)


def _ratio(old: float, new: float) -> float:
    low, high = sorted((old, new))
    return high / low if low > 0 else math.inf


def _size(old: float, new: float) -> float:
    return min(abs(math.log2(_ratio(old, new))) / _FULL_LOG2, 1.0) if old > 0 and new > 0 else 1.0


def _times(old: float, new: float) -> str:
    return f"{_ratio(old, new):.3g}x"


def _cpus(used: float) -> str:
    return f"{used:.2f} CPUs" if used >= 1 else f"{100 * used:.2g} % of a CPU"


def _per_second(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
