# SPDX-License-Identifier: Apache-2.0
"""Who gets how much: by nice value, by the weight of a cgroup, and by where a task may run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from controller.verify.scenarios.arena import Arena, Numbers, numbers
from controller.verify.scenarios.registry import STARVED, Limit, scenario

TOGETHER = Limit(
    "slowest_s", "above", 1.4, 0.5, of="the time that loads took which were started together",
    means="one starves while the others run",
)  # fmt: skip
"""A load measures from when its own tasks are there, so one that is not let in until the others end is just late."""

_CGROUPS = (("heavy", 100), ("light", 33))
_IGNORED, _TURNED_ROUND = 0.77, 0.6


def _least(group: str, who: str) -> Limit:
    return Limit(f"{group}_least_share", "below", STARVED, of=f"the least share of {who}", means="it starves")


def _two_groups(arena: Arena, commands: Sequence[Sequence[str]]) -> Numbers:
    found, slowest = arena.together(commands)
    heavy, light = (numbers(one, "cpu_ns") for one in found)
    total = max(sum(heavy) + sum(light), 1.0)
    return {
        "heavy_share": round(sum(heavy) / total, 4),
        "light_share": round(sum(light) / total, 4),
        "heavy_least_share": round(min(heavy) / total, 4),
        "light_least_share": round(min(light) / total, 4),
        "cpu_ms": round(total / 1e6, 1),
        "slowest_s": slowest,
    }


@scenario(
    "weighted-shares",
    asks="does every task of every nice value get its part",
    load="2 tasks a CPU of nice 0 and 2 of nice 5 compute",
    limits=(
        _least("heavy", "a task of nice 0"),
        _least("light", "a task of nice 5"),
        TOGETHER,
        Limit("heavy_share", "below", _TURNED_ROUND, of="the share of the tasks of nice 0 against nice 5",
              means="who is nicer gets more"),
        Limit("heavy_share", "below", _IGNORED, of="the share of the tasks of nice 0 against nice 5",
              means="nice values are ignored", severity="warn"),
    ),
)  # fmt: skip
def weighted_shares(arena: Arena) -> Numbers:
    """At nice 5 a fifth of the fair part is more than the one slice that anybody gets while the others still start."""
    spin = ("spin", arena.busy(2), arena.seconds(2.5))
    return _two_groups(arena, [("schedload", *spin), ("schedload", "--nice", "5", *spin)])


@scenario(
    "cgroup-shares",
    asks="does every task of every cgroup get its part",
    load="a cgroup of cpu.weight 100 and one of 33, each with one computing task a CPU",
    limits=(
        _least("heavy", "a task of the cgroup of weight 100"),
        _least("light", "a task of the cgroup of weight 33"),
        TOGETHER,
        Limit("heavy_share", "below", _TURNED_ROUND, of="the share of the cgroup of weight 100 against 33",
              means="the lighter one gets more"),
        Limit("heavy_share", "below", _IGNORED, of="the share of the cgroup of weight 100 against 33",
              means="cgroup weights are ignored", severity="warn"),
    ),
)  # fmt: skip
def cgroup_shares(arena: Arena) -> Numbers:
    """A scheduler may ignore cgroups, which is worth a warning; it may not forget the tasks in them."""
    spin = ("spin", arena.busy(1), arena.seconds(2))
    commands = []
    for name, weight in _CGROUPS:
        folder = f"/sys/fs/cgroup/liveness-{name}"
        arena.load("schedload", "--cgroup", folder, "calibrate")  # makes it
        arena.guest.write_file(f"{folder}/cpu.weight", str(weight))
        commands.append(("schedload", "--cgroup", folder, *spin))
    return _two_groups(arena, commands)


@scenario(
    "pinned-floating",
    asks="do bound and free tasks both get their part",
    load="2 computing tasks bound to each CPU, and one computing task a CPU that may run anywhere",
    limits=(
        _least("pinned", "a task bound to one CPU"),
        _least("floating", "a task that may run anywhere"),
        TOGETHER,
    ),
)
def pinned_floating(arena: Arena) -> Numbers:
    """A queue of its own for bound tasks is easily served first, or last, for ever.

    Two to a CPU: the one that runs is in no queue when the CPU looks, and with it alone the others get their turn.
    """
    spin = ("schedload", "spin")
    seconds = arena.seconds(2)
    commands = [("taskset", f"{1 << cpu:x}", *spin, "2", seconds) for cpu in range(arena.cpus)]
    (*bound, free), slowest = arena.together([*commands, (*spin, str(max(2, arena.cpus)), seconds)])
    pinned, floating = [each for one in bound for each in numbers(one, "cpu_ns")], numbers(free, "cpu_ns")
    every = [*pinned, *floating]
    total = max(sum(every), 1.0)
    return {
        "pinned_least_share": round(min(pinned) / total, 4),
        "floating_least_share": round(min(floating) / total, 4),
        "spread": round(statistics.pstdev(every) / (total / len(every)), 3),
        "slowest_s": slowest,
    }
