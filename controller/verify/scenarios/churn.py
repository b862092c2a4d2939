# SPDX-License-Identifier: Apache-2.0
"""Tasks that do one thing over and over: fork, execute, change their CPUs, yield, wake one another."""

from __future__ import annotations

from typing import Any

from controller.verify.scenarios.arena import Arena, Numbers, number, numbers
from controller.verify.scenarios.registry import STARVED, Limit, scenario
from controller.verify.scenarios.shares import TOGETHER

FEW = 0.05
"""Rounds of something in a fixed time: fewer than this part of the kernel's own are too few."""

_YIELDS = 1000
_ROUNDS = 200

_BESIDE_S = "2.5"
"""On CPUs that outnumber this machine's, too: starting among so many wakeups takes a second there, and a load that is
not let in until the other ends must be late by clearly more than that."""


def _beside_computing(arena: Arena, each: int, load: str) -> tuple[dict[str, Any], Numbers]:
    """`load` with `each` of its tasks a CPU, beside one computing task a CPU: what it found, and how those fared."""
    commands = [
        ("schedload", load, arena.busy(each), _BESIDE_S),
        ("schedload", "spin", str(max(2, arena.cpus)), _BESIDE_S),
    ]
    (storm, spin), slowest = arena.together(commands)
    cpu = numbers(spin, "cpu_ns")
    total = max(sum(cpu) + sum(numbers(storm, "cpu_ns")), 1.0)
    return storm, {"spin_least_share": round(min(cpu) / total, 4), "slowest_s": slowest}


@scenario(
    "fork-storm",
    asks="do new tasks run, one after the other",
    load="one task forks a child that ends at once, waits for it, and does so again",
    limits=(
        Limit("forks", "below", FEW, of="the number of forks"),
        Limit("max_us", "above", 20, 1_000_000, of="the longest time until a child had run"),
    ),
)
def fork_storm(arena: Arena) -> Numbers:
    """Every child passes ops.init_task, ops.enable and the wakeup of a task that never ran."""
    found = arena.load("schedload", "forkstorm", arena.seconds(1.5))
    return {"forks": number(found, "forks"), "max_us": number(found, "max_us")}


@scenario(
    "exec-churn",
    asks="do tasks run that are born, execute a program and end, on all CPUs at once",
    load="one task a CPU and one more fork a child that executes a program and ends, and do so again",
    limits=(
        Limit("least_execs", "below", FEW, of="the number of programs that the slowest parent had executed"),
        Limit("max_us", "above", 20, 1_000_000, of="the longest time until a program had run"),
    ),
)
def exec_churn(arena: Arena) -> Numbers:
    """Executing moves the task (select_cpu with SCX_WAKE_EXEC) and ending must give back all that is kept for it."""
    found = arena.load("schedload", "execstorm", str(arena.cpus + 1), arena.seconds(1.5))
    execs = numbers(found, "execs")
    return {"execs": sum(execs), "least_execs": min(execs), "max_us": max(numbers(found, "max_us"))}


@scenario(
    "affinity-churn",
    asks="do tasks run that keep changing their CPUs",
    load="2 threads a CPU compute, and bind themselves to another CPU or to all of them after every few steps",
    limits=(Limit("least_moves", "below", FEW, of="the rounds of the slowest thread that changes its CPUs"),),
)
def affinity_churn(arena: Arena) -> Numbers:
    """A task that is queued where it may no longer run must be found there, or queued anew."""
    found = arena.load("schedload", "affinity", str(max(4, arena.cpus)), arena.seconds(1.5))
    return {"moves": number(found, "moves"), "least_moves": number(found, "least_moves")}


@scenario(
    "yield-storm",
    asks="do tasks that yield all the time let the others run, and run themselves",
    load="2 tasks a CPU do nothing but sched_yield(), beside one computing task a CPU",
    limits=(
        Limit("spin_least_share", "below", STARVED, of="the least share of a task that computes beside them",
              means="yielding does not let it in"),
        Limit("least_yields", "below", 0.005, of=f"the first {_YIELDS} rounds of the slowest task that yields"),
        TOGETHER,
    ),
)  # fmt: skip
def yield_storm(arena: Arena) -> Numbers:
    """A task that yields and is put back at the head of its queue runs again at once, and nobody else does."""
    storm, beside = _beside_computing(arena, 2, "yieldstorm")
    yields = numbers(storm, "yields")
    return {
        "yields": sum(yields),
        # One that yields to a task with a slice of 20 ms does so 50 times a second, one that has nobody to yield to a
        # hundred thousand times: whether it ran at all is the question, and not how often.
        "least_yields": min(*yields, _YIELDS),
        **beside,
    }


@scenario(
    "wakeup-storm",
    asks="do tasks that compute get in among tasks that wake one another all the time",
    load="4 pairs of tasks a CPU pass a byte to and fro, so that one of each pair has always just been woken, beside "
    "one computing task a CPU",
    limits=(
        Limit("spin_least_share", "below", STARVED, of="the least share of a task that computes beside them",
              means="who wakes goes before who computes, without end"),
        Limit("least_rounds", "below", FEW, of=f"the first {_ROUNDS} rounds of the slowest pair"),
        TOGETHER,
    ),
)  # fmt: skip
def wakeup_storm(arena: Arena) -> Numbers:
    """What prefers who has just been woken must do so within limits, or a chatty service holds up all that compute."""
    storm, beside = _beside_computing(arena, 4, "pingpong")
    rounds = numbers(storm, "rounds")
    return {
        "rounds": sum(rounds) / 2,
        "least_rounds": min(*rounds, _ROUNDS),  # a queue of long slices makes few of them, and lets everybody run
        **beside,
    }
