# SPDX-License-Identifier: Apache-2.0
"""What takes CPUs from a scheduler, or the scheduler from its tasks: a real-time task, CPU hotplug, reloading.

A scheduler without `cpu_online` and `cpu_offline` leaves when a CPU comes or goes, and the kernel says that it may come
straight back: that is no fault, and the loader attaches it again here as a node's does. 6.16 can lock up when a CPU
goes off line within about a second of a scheduler's leaving, so hotplug waits for that much.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from controller.verify.scenarios.arena import Arena, Numbers, number, numbers
from controller.verify.scenarios.registry import STARVED, Limit, scenario
from controller.verify.scenarios.shares import TOGETHER

RELOADS = 20
_HOG_S = 0.9
_AFTER_DETACH_S = 3.0
_OFFLINE_S = 1.4
_POLL_S = 0.15


def _gap(who: str) -> Limit:
    # The kernel's own may leave a busy task on the CPU that was taken until it is free again.
    return Limit("gap_us", "above", 1.5, 1_500_000, of=f"the longest time that a computing task did not run {who}")


@scenario(
    "rt-hog",
    asks="do tasks run elsewhere, or soon after, when a real-time task takes a CPU",
    load=f"a SCHED_FIFO task takes the last CPU for {_HOG_S:g} s, beside 2 computing tasks a CPU, 2 that wake "
    "often, and a computing task bound to that CPU",
    limits=(
        _gap("while a real-time task held one CPU and after"),
        Limit("bound_gap_us", "above", 1, 1_500_000, of="the longest time that the task bound to that CPU did not run"),
        Limit("spin_least_share", "below", STARVED, of="the least share of a computing task", means="it starves"),
        # Less than the real-time task takes. The kernel's own may leave a busy task there as long, but never a waker.
        Limit("waker_max_us", "above", 5, 600_000, of="the longest wait of a task that slept"),
        TOGETHER,
    ),
)
def rt_hog(arena: Arena) -> Numbers:
    """Shorter than any throttling of real-time tasks: what was queued on that CPU is handed back by cpu_release."""
    last = arena.cpus - 1
    loads = [
        ("schedload", "spin", arena.busy(2), "1.8"),
        ("taskset", f"{1 << last:x}", "schedload", "spin", "1", "1.8"),
        ("schedload", "wakers", "2", "20000", "1.7"),
    ]
    (free, bound, waker, hog), slowest = arena.amid(loads, ("schedload", "rthog", str(last), f"{_HOG_S:g}"))
    return {
        "gap_us": max(numbers(free, "gap_us")),
        "bound_gap_us": max(numbers(bound, "gap_us")),
        "spin_least_share": round(_least_share([free, bound]), 4),
        "waker_max_us": number(waker, "max_us"),
        "hog_ms": round(number(hog, "cpu_ns") / 1e6, 1),
        "slowest_s": slowest,
    }


@scenario(
    "hotplug",
    asks="does everybody run when a CPU goes, and when it comes back",
    load="2 computing tasks a CPU; the last CPU is taken off line under them and stays so until they are done; then it "
    "comes back with a task bound to it",
    limits=(
        _gap("while a CPU went off line"),
        Limit("spin_least_share", "below", STARVED, of="the least share of a computing task", means="it starves"),
        Limit("back_share", "below", STARVED, of="the part of its time that a task bound to the CPU ran afterwards",
              means="the CPU is not served any more"),
        TOGETHER,
    ),
    also_fails="the scheduler leaves for good (one that the kernel asks to come back is attached again)",
    least_cpus=2,
)  # fmt: skip
def hotplug(arena: Arena) -> Numbers:
    """Nobody may be left in a queue of the CPU that is gone, and the queue must be served once it is back."""
    last = arena.cpus - 1
    online = f"/sys/devices/system/cpu/cpu{last}/online"
    on_it = ("taskset", f"{1 << last:x}", "schedload", "spin", "1")
    # None of them is bound to the CPU that goes: on 6.16 such a task stalls under every scheduler that stays in charge.
    commands = [("schedload", "spin", arena.busy(2), f"{_OFFLINE_S:g}")]
    arena.since_detach(_AFTER_DETACH_S)
    returns = 0
    try:
        with arena.running(commands) as started:
            time.sleep(0.3)
            arena.guest.write_file(online, "0")
            returns += _watch(arena, _OFFLINE_S - 0.3)
            spin, slowest = arena.results(commands, started)
    finally:
        arena.guest.write_file(online, "1")
    returns += _watch(arena, 0.45)
    back = arena.load(*on_it, "0.4")
    return {
        "gap_us": max(gap for one in spin for gap in numbers(one, "gap_us")),
        "spin_least_share": round(_least_share(spin), 4),
        "back_share": round(numbers(back, "cpu_ns")[0] / 0.4e9, 3),
        "slowest_s": slowest,
        "came_back": returns,
    }


def _least_share(documents: Sequence[dict[str, Any]]) -> float:
    cpu = [each for one in documents for each in numbers(one, "cpu_ns")]
    return min(cpu) / max(sum(cpu), 1.0)


def _watch(arena: Arena, seconds: float) -> int:
    """Let the load run that long and bring the candidate back when the kernel asks for that; how often it did."""
    end, times = time.monotonic() + seconds, 0
    while True:
        if arena.candidate is not None:
            times += arena.candidate.come_back()
        if (left := end - time.monotonic()) <= 0:
            return times
        time.sleep(min(_POLL_S, left))


@scenario(
    "reload",
    asks=f"can it be attached and detached {RELOADS} times while tasks run",
    load=f"one computing task and 2 that wake often, while the scheduler is detached and attached {RELOADS} times",
    also_fails="it does not attach, or not detach, or a task does not live through it",
    compared=False,
)
def reload(arena: Arena) -> Numbers:
    """What init makes exit must unmake, and every task must survive each change of its class."""
    if arena.candidate is None:
        return {}
    commands = [("schedload", "spin", "1", "1"), ("schedload", "wakers", "2", "20000", "1")]
    began = time.monotonic()
    with arena.running(commands) as started:
        for _ in range(RELOADS):
            arena.candidate.detach()
            arena.candidate.attach()
        took = time.monotonic() - began
        _documents, slowest = arena.results(commands, started)
    return {"reloads": RELOADS, "each_ms": round(took / RELOADS * 1e3, 1), "slowest_s": slowest}
