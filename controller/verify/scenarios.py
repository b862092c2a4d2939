# SPDX-License-Identifier: Apache-2.0
"""What liveness does to a scheduler: small loads in the guest, each with the question it asks of the result.

No threshold is a number of its own: the kernel's own scheduler ran the same load in the same boot a moment before, and
a candidate is compared with that, with an allowance for what an emulated CPU on a busy machine adds. The bounds are
wide on purpose. A scheduler may well be slower than the kernel's; what is asked here is whether anybody was forgotten.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from controller.errors import GuestError
from controller.kernel.microvm import Guest

Numbers = dict[str, float]
STARVED = 0.2
"""Less than this part of what the kernel's own scheduler gave is starvation."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """What a scenario has against a candidate; `warn` when it is no question of life and death."""

    message: str
    severity: Literal["error", "warn"] = "error"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load. `measure` gives numbers (unit last in the name), `judge` compares candidate and baseline."""

    name: str
    asks: str
    measure: Callable[[Guest], Numbers]
    judge: Callable[[Numbers, Numbers], Sequence[Complaint]]


class Stuck(Exception):
    """A load did not end, or not as it should."""


def _load(guest: Guest, *argv: str, timeout_s: float = 40) -> dict[str, Any]:
    done = guest.run(list(argv), timeout_s=timeout_s)
    if done.timed_out:
        raise Stuck(f"`{' '.join(argv)}` did not end within {timeout_s:.0f} s")
    return _numbers(argv, done.rc, done.stdout, done.stderr)


def _together(
    guest: Guest, commands: Sequence[Sequence[str]], timeout_s: float = 40
) -> tuple[list[dict[str, Any]], float]:
    """Several loads at once: what each found, and how long the slowest took from its start, in seconds.

    A load measures from when its own tasks are there. One that gets no CPU until the others are done finds nothing
    amiss, and shows only in that it took so long.
    """
    slowest = 0.0
    running = [guest.spawn(list(argv)) for argv in commands]
    results = []
    try:
        for argv, number in zip(commands, running, strict=True):
            done = guest.wait(number, timeout_s)
            if done.timed_out:
                raise Stuck(f"`{' '.join(argv)}` did not end within {timeout_s:.0f} s")
            results.append(_numbers(argv, done.rc, done.stdout, done.stderr))
            slowest = max(slowest, done.seconds)
    except Stuck:
        for number in running:
            guest.kill(number)
        raise
    return results, round(slowest, 3)


def _kept_waiting(mine: Numbers, kernel: Numbers) -> list[Complaint]:
    if mine["slowest_s"] <= 1.4 * kernel["slowest_s"] + 0.5:
        return []
    return [
        Complaint(
            f"loads started together took up to {mine['slowest_s']:.1f} s, "
            f"{kernel['slowest_s']:.1f} s with the kernel's own scheduler: one starves while the others run"
        )
    ]


def _numbers(argv: Sequence[str], code: int, stdout: str, stderr: str) -> dict[str, Any]:
    if code != 0:
        raise GuestError(f"`{' '.join(argv)}` failed in the guest ({code}): {stderr.strip()[:300]}")
    try:
        document = json.loads(stdout.strip().splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise GuestError(f"`{' '.join(argv)}` printed no result in the guest") from error
    if not isinstance(document, dict):
        raise GuestError(f"`{' '.join(argv)}` printed no result in the guest")
    return document


def _number(document: dict[str, Any], name: str) -> float:
    value = document.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise GuestError(f"a load in the guest gave no number {name}")
    return float(value)


def _numbers_of(document: dict[str, Any], name: str) -> list[float]:
    values = document.get(name)
    if not isinstance(values, list) or not values:
        raise GuestError(f"a load in the guest gave no numbers {name}")
    return [_number({"each": value}, "each") for value in values]


# ---- idle wakeup: does a task that wakes on an idle machine run at once ----


def _idle_wakeup(guest: Guest) -> Numbers:
    found = _load(guest, "schedload", "wakers", "2", "10000", "2")
    part = _number(found, "count") / max(_number(found, "expected"), 1)
    return {"p50_us": _number(found, "p50_us"), "p99_us": _number(found, "p99_us"), "woken": round(part, 3)}


def _judge_idle_wakeup(mine: Numbers, kernel: Numbers) -> list[Complaint]:
    limit = 10 * kernel["p50_us"] + 20_000
    if mine["p50_us"] > limit:
        return [
            Complaint(
                f"on an idle machine half of all wakeups are {mine['p50_us'] / 1e3:.1f} ms late "
                f"(the kernel's own scheduler: {kernel['p50_us'] / 1e3:.1f} ms): is an idle CPU ever kicked"
            )
        ]
    if mine["woken"] < STARVED * kernel["woken"]:
        return [Complaint(f"only {mine['woken']:.0%} of the periodic wakeups happened")]
    return []


# ---- weighted shares: heavy and light tasks compete for all CPUs ----


def _weighted_shares(guest: Guest) -> Numbers:
    # At nice 5 a fifth of the fair part is more than the one slice that anybody gets while the others still start.
    each = [("schedload", "spin", "4", "2.5"), ("schedload", "--nice", "5", "spin", "4", "2.5")]
    found, slowest = _together(guest, each)
    heavy, light = (_numbers_of(one, "cpu_ns") for one in found)
    total = max(sum(heavy) + sum(light), 1.0)
    return {
        "heavy_share": round(sum(heavy) / total, 4),
        "light_share": round(sum(light) / total, 4),
        "heavy_least_share": round(min(heavy) / total, 4),
        "light_least_share": round(min(light) / total, 4),
        "cpu_ms": round(total / 1e6, 1),
        "slowest_s": slowest,
    }


def _judge_weighted_shares(mine: Numbers, kernel: Numbers) -> list[Complaint]:
    for group, nice in (("heavy", 0), ("light", 5)):
        got, fair = mine[f"{group}_least_share"], kernel[f"{group}_least_share"]
        if got < STARVED * fair:
            return [
                Complaint(
                    f"a task of nice {nice} among 8 got {got:.2%} of the CPU time, "
                    f"the kernel's own scheduler gives it {fair:.2%}: it starves"
                )
            ]
    if waiting := _kept_waiting(mine, kernel):
        return waiting
    if kernel["heavy_share"] > 0.65 and mine["heavy_share"] < 0.58:
        return [
            Complaint(
                f"nice values are ignored: tasks of nice 0 got {mine['heavy_share']:.0%} against nice 5, "
                f"{kernel['heavy_share']:.0%} with the kernel's own scheduler",
                "warn",
            )
        ]
    return []


# ---- fork storm: short-lived tasks one after the other ----


def _fork_storm(guest: Guest) -> Numbers:
    found = _load(guest, "schedload", "forkstorm", "2")
    return {"forks": _number(found, "forks"), "max_us": _number(found, "max_us")}


def _judge_fork_storm(mine: Numbers, kernel: Numbers) -> list[Complaint]:
    if mine["forks"] < 0.05 * kernel["forks"]:
        return [
            Complaint(f"{mine['forks']:.0f} forks in the time of {kernel['forks']:.0f} with the kernel's own scheduler")
        ]
    if mine["max_us"] > 20 * kernel["max_us"] + 1_000_000:
        return [Complaint(f"one fork took {mine['max_us'] / 1e6:.1f} s until its child had run")]
    return []


# ---- affinity churn: tasks that keep changing where they may run ----


def _affinity_churn(guest: Guest) -> Numbers:
    found = _load(guest, "schedload", "affinity", "4", "2")
    return {"moves": _number(found, "moves"), "least_moves": _number(found, "least_moves")}


def _judge_affinity_churn(mine: Numbers, kernel: Numbers) -> list[Complaint]:
    if mine["least_moves"] < 0.05 * kernel["least_moves"]:
        return [
            Complaint(
                f"a thread that changes its CPUs got {mine['least_moves']:.0f} rounds, "
                f"{kernel['least_moves']:.0f} with the kernel's own scheduler"
            )
        ]
    return []


# ---- late waker: tasks that mostly sleep, among tasks that only compute ----


def _late_waker(guest: Guest) -> Numbers:
    (busy, waker), slowest = _together(
        guest, [("schedload", "spin", "4", "2.5"), ("schedload", "wakers", "2", "50000", "2")]
    )
    cpu = _numbers_of(busy, "cpu_ns")
    return {
        "p50_us": _number(waker, "p50_us"),
        "max_us": _number(waker, "max_us"),
        "spin_least_share": round(min(cpu) / max(sum(cpu), 1.0), 4),
        "slowest_s": slowest,
    }


def _judge_late_waker(mine: Numbers, kernel: Numbers) -> list[Complaint]:
    if mine["p50_us"] > 20 * kernel["p50_us"] + 200_000:
        return [
            Complaint(
                f"a task that sleeps waits {mine['p50_us'] / 1e3:.0f} ms for a CPU among 4 busy ones, "
                f"{kernel['p50_us'] / 1e3:.0f} ms with the kernel's own scheduler"
            )
        ]
    if mine["max_us"] > 5 * kernel["max_us"] + 1_500_000:
        return [Complaint(f"a task that sleeps once waited {mine['max_us'] / 1e6:.1f} s for a CPU")]
    if mine["spin_least_share"] < STARVED * kernel["spin_least_share"]:
        return [Complaint(f"one of 4 busy tasks got {mine['spin_least_share']:.2%} of their time: it starves")]
    return _kept_waiting(mine, kernel)


# ---- pinned and floating: tasks bound to one CPU compete with tasks that may go anywhere ----


def _pinned_floating(guest: Guest) -> Numbers:
    commands = [("taskset", "1", "schedload", "spin", "2", "2"), ("schedload", "spin", "2", "2")]
    found, slowest = _together(guest, commands)
    pinned, floating = (_numbers_of(one, "cpu_ns") for one in found)
    total = max(sum(pinned) + sum(floating), 1.0)
    return {
        "pinned_least_share": round(min(pinned) / total, 4),
        "floating_least_share": round(min(floating) / total, 4),
        "spread": round(statistics.pstdev([*pinned, *floating]) / (total / 4), 3),
        "slowest_s": slowest,
    }


def _judge_pinned_floating(mine: Numbers, kernel: Numbers) -> list[Complaint]:
    for group in ("pinned", "floating"):
        got, fair = mine[f"{group}_least_share"], kernel[f"{group}_least_share"]
        if got < STARVED * fair:
            return [Complaint(f"a {group} task among 2 pinned and 2 floating got {got:.2%} of their time ({fair:.2%})")]
    return _kept_waiting(mine, kernel)


SCENARIOS = (
    Scenario("idle_wakeup", "does a task that wakes on an idle machine run at once", _idle_wakeup, _judge_idle_wakeup),
    Scenario("affinity_churn", "do tasks run that keep changing their CPUs", _affinity_churn, _judge_affinity_churn),
    Scenario("fork_storm", "do new tasks run, one after the other", _fork_storm, _judge_fork_storm),
    Scenario(
        "weighted_shares", "does every task of every nice value get its part", _weighted_shares, _judge_weighted_shares
    ),
    Scenario("late_waker", "does a task that slept get in among busy ones", _late_waker, _judge_late_waker),
    Scenario(
        "pinned_floating", "do bound and free tasks both get their part", _pinned_floating, _judge_pinned_floating
    ),
)
