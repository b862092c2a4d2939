# SPDX-License-Identifier: Apache-2.0
"""`make observation-doc`: writes docs/observation.md from the code's own definitions and from what was measured.

What a fingerprint's numbers are and how a workload is classified is read from the modules that do it, figures from
bench/results; a person writes neither, and a figure that is not there is said to be missing, with the command that
measures it. The file is replaced as a whole or not at all. `--check` writes nothing and exits 1 when the half that
comes from the code is not what the file says.
"""

from __future__ import annotations

import re
import sys
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from controller.api import fingerprint  # noqa: E402
from controller.api.profile import WorkloadClass  # noqa: E402
from controller.observe import classify  # noqa: E402
from scripts.doc_pages import NOT_MEASURED, Page, read_document, table, yes_no  # noqa: E402

__all__ = ["COMMANDS", "NOT_MEASURED", "document", "from_code", "main"]

COMMANDS = {
    "accuracy": "python bench/accuracy.py",
    "accuracy-guest": "python bench/accuracy.py --guest",
    "observe-overhead": "python bench/observe.py",
    "twin": "python bench/twin.py",
    "twin-guest": "python bench/twin.py --guest",
    "classify": "python bench/classify.py",
    "churn": "python bench/churn.py --minutes 10",
}
_BUSY_LOADS = ("hackbench_plain", "hackbench", "sched_pipe")
_LOAD_NAMES = {
    "hackbench_plain": "hackbench",
    "hackbench": "hackbench over pipes, on one CPU, a switch for nearly each message",
    "sched_pipe": "perf bench sched pipe: nothing but switches",
}


def from_code() -> str:
    """The half that needs no measurement."""
    return f"""# What observation measures, and how well

Written by `make observation-doc`: do not edit. The definitions come from the code, the figures from `bench/results`.

`schedctl observe` traces the scheduler's own events for one window and adds them up in the kernel, by workload: the
first intent whose selector matches, else the cgroup, else the process name. Nothing is copied to user space per event;
maps are bounded, and an event that finds one full is counted as dropped. Where bcc cannot trace, the figures come from
`/proc` and the profile says in `degraded` what they lack. The profile's schema is `profile.schema.json`
(`schedctl observe schema`); what each probe counts is in `bpf/probes/sched.c`.

## The fingerprint

{_quoted(fingerprint.__doc__)}

## Classification

{_quoted(classify.__doc__)}
"""


def _quoted(text: str | None) -> str:
    return f"```text\n{(text or '').strip()}\n```"


def measured(results: Path) -> str:
    """The other half."""
    return "\n".join(_measured({name: read_document(results / f"{name}.json") for name in COMMANDS}))


def _measured(found: dict[str, dict[str, Any]]) -> Iterable[str]:
    parts = (
        ("Accuracy against known loads and raw events", "accuracy", _accuracy),
        ("Accuracy in a guest", "accuracy-guest", _accuracy),
        ("What observing costs", "observe-overhead", _overhead),
        ("Twins: how near a replay comes to its original", "twin", _twin),
        ("Twins in a guest", "twin-guest", _twin_in_guest),
        ("Classification of real programs", "classify", _classification),
        ("Churn", "churn", _churn),
    )
    for title, name, section in parts:
        yield f"## {title}\n"
        if found[name]:
            kernel, when = found[name].get("kernel", "?"), str(found[name].get("measured", ""))[:10]
            yield f"`{COMMANDS[name]}`, kernel {kernel}{', ' + when if when else ''}.\n"
            if "conditions" in found[name]:
                yield f"Measured under these conditions: {found[name]['conditions']}\n"
            yield from section(found[name])
        else:
            yield f"{NOT_MEASURED}: `{COMMANDS[name]}` measures it."
        yield ""


def _accuracy(result: dict[str, Any]) -> Iterable[str]:
    checks = [(load["load"], check) for load in result["loads"] for check in load["checks"]]
    missed = [(name, check) for name, check in checks if not check["met"]]
    stretched = f" Bursts and periods are {result['stretch']} times as long as on a host." * (result["stretch"] > 1)
    blind = result["cpus_without_whole_trace"]
    alone = (
        f" The kernel's trace lacks events of CPU {', '.join(map(str, blind))}: raw events are compared on the others."
        * bool(blind)
    )
    yield (
        f"Bars: medians of bursts and periods within 5 %, counts within 1 %, percentiles within one bucket of those of "
        f"the raw events of the same windows. {len(checks) - len(missed)} of {len(checks)} comparisons hold; the "
        f"probes dropped {result['dropped']} events, the trace lost {result['lost_by_trace']}.{alone} Two windows of "
        f"{result['window_s']:g} s for each load by itself (acc-late waits behind acc-hog), in one of which the trace "
        f"sees each event before the probes, in the other after them.{stretched} The largest differences:\n"
    )
    rows = [[load["load"], *(_largest(load["checks"], what) for what in _KINDS_OF_CHECKS.values()),
             yes_no(all(check["met"] for check in load["checks"]))] for load in result["loads"]]  # fmt: skip
    yield table(["load", *_KINDS_OF_CHECKS, "held"], rows)
    if missed:
        yield "\nWhat was missed:\n"
        yield table(
            ["load", "what", "observed", "wanted", "off"],
            [[name, c["what"], f"{c['got']:.0f}", f"{c['wanted']:.0f}", f"{c['off']:.3f}"] for name, c in missed],
        )


_KINDS_OF_CHECKS = {
    "burst": r"burst, known.*", "period": r"period, known.*", "threads and wakeups": r"threads|wakeups.*",
    "counts of raw events": r".*count, raw", "percentiles, buckets": r".*bucket",
}  # fmt: skip


def _largest(checks: Sequence[dict[str, Any]], pattern: str) -> str:
    """The largest difference among the checks of one kind, buckets as a number and others as a part."""
    off = [check["off"] for check in checks if re.fullmatch(pattern, check["what"])]
    return "–" if not off else f"{max(off):.0f}" if "bucket" in pattern else f"{100 * max(off):.1f} %"


def _ratio(interval: Sequence[float]) -> str:
    low, middle, high = interval
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def _overhead(result: dict[str, Any]) -> Iterable[str]:
    yield (
        "CPU time of the load, ratio of medians with its 95 % interval, ABBA, A/A beside it. Bars: 1.05 while a window "
        "is open on hackbench or `perf bench sched pipe`, 1.02 in continuous mode.\n"
    )
    rows = []
    for name in _BUSY_LOADS:
        each = result.get(name)
        if each:
            extra, held = each["extra_ns_per_switch"][1], yes_no(each["open_over_shut"][1] <= 1.05)
            ratios = _ratio(each["open_over_shut"]), _ratio(each["shut_over_shut"])
            rows.append([_LOAD_NAMES[name], "a window open", *ratios, f"{extra:.0f}", held])
    duty = result.get("continuous")
    if duty:
        what = f"continuous: {duty['window_s']:g} s in {duty['period_s']:g} s"
        rows.append(["hackbench", what, _ratio(duty["on_over_off"]), "–", "–", yes_no(duty["on_over_off"][1] <= 1.02)])
    yield table(["load", "observed by", "ratio", "A/A", "ns more a switch", "held"], rows)
    sizes = [[size["tasks"], _ratio(size["open_over_shut"]), size["tasks_seen"], size["dropped"],
              f"{size['beside_the_window_s']:.2f}"] for size in result.get("sizes", ())]  # fmt: skip
    if sizes:
        yield "\nBeside threads that wake now and then:\n"
        yield table(["threads", "ratio", "tasks seen", "dropped", "s beside the window"], sizes)
    bars = {"bcc": 180, "procfs": 60}
    memory = [[observer, f"{mb:.0f}", bars[observer], yes_no(mb <= bars[observer])]
              for observer, mb in result.get("rss_mb", {}).items()]  # fmt: skip
    if memory:
        yield "\nResident memory of an agent and of the process that holds bcc, after three windows:\n"
        yield table(["observer", "MB", "bar", "held"], memory)


def _twin(result: dict[str, Any]) -> Iterable[str]:
    yield (
        f"A replay is near at half the smallest distance between two different loads, here {result['limit']:.3f}. "
        "*again* is the distance of two profiles of the same load: what chance does. How a twin is made was tried out "
        "on the loads that are called seen; the others were run only after that, and are judged by the same distance.\n"
    )
    rows = []
    for name, load in result["loads"].items():
        worst = sorted(load["differences"].items(), key=lambda item: -item[1])[:2]
        told = ", ".join(f"{feature} {value:.2f}" for feature, value in worst)
        seen, distances = (
            "no" if load["fresh"] else "yes",
            (f"{load[key]:.3f}" for key in ("replay", "same_load_again")),
        )
        rows.append([name, seen, *distances, told, yes_no(load["near_enough"])])
    yield table(["load", "seen before", "replay to original", "again", "most different", "held"], rows)


def _twin_in_guest(result: dict[str, Any]) -> Iterable[str]:
    speed = min(result["loop_ns"].values())
    yield (
        f"A loop of rt-app takes {speed} ns on this guest's CPUs. Where they are emulated, what rt-app does besides "
        "the work (waking, clocks, logs, starting threads) can take longer than the turns of quick loads, which a twin "
        "then does not reproduce.\n"
    )
    yield from _twin(result)


def _classification(result: dict[str, Any]) -> Iterable[str]:
    kinds = typing.get_args(WorkloadClass)
    known, fresh = result["known"], result["fresh"]
    agreed, of = known["agreed"] + fresh["agreed"], known["of"] + fresh["of"]
    yield (
        f"{agreed} of {of} as an expert, whose class was written down before the program was run"
        + (f"; not installed: {', '.join(result['not_installed'])}" if result["not_installed"] else "")
        + f". {known['agreed']} of {known['of']} of those that had been seen when the thresholds (`used`, `wakes`, "
        "`turn`, `full`, `gap` and the slopes) were set, which is no test of them; "
        f"{fresh['agreed']} of {fresh['of']} of those that were run only after that: no threshold was changed since. "
        "`gap` became a sleep, where it had been the time between two wakeups, when the first group had been seen "
        "beside other load. Rows: the expert's class; columns: what schedctl said.\n"
    )
    confusion = result["confusion"]
    yield table(["expert", *kinds], [[kind, *(confusion[kind][other] for other in kinds)] for kind in kinds])
    wrong = [[row["name"], "no" if row["fresh"] else "yes", row["expected"], row["kind"], f"{row['confidence']:.2f}",
              "; ".join(row["because"][:4])]
             for row in result["programs"] if row["kind"] != row["expected"]]  # fmt: skip
    if wrong:
        yield "\n" + table(["program", "seen before", "expert", "said", "confidence", "because"], wrong)
    for words, are_fresh in (("Seen when the thresholds were set", False), ("Run only after that", True)):
        names = [row["name"] for row in result["programs"] if row["fresh"] is are_fresh]
        yield f"\n{words}: {', '.join(names) or 'none'}."


def _churn(result: dict[str, Any]) -> Iterable[str]:
    made, counted = result["forks_made_in_windows"], result["forks_counted"]
    rows = [
        ["minutes", f"{result['minutes']:g}", ""],
        ["forks a second", f"{result['forks_per_s']:.0f}", "≥ 200"],
        ["forks counted of those made", f"{counted} of {made}", "within 2 %"],
        ["resident MB, first and last part", f"{result['rss_mb_first']:.0f}, {result['rss_mb_last']:.0f}", "flat"],
        ["windows that lost a workload", f"{result['windows_that_lost_a_workload']} of {result['windows']}", "0"],
        ["windows that fell back to /proc", result["windows_not_by_bcc"], "0"],
        ["probes left after `kill -9`", len(result["left_after_kill"]), "0"],
        ["events dropped", result["dropped"], ""],
    ]
    yield table(["what", "measured", "bar"], rows)
    yield f"\nAll bars held: {yes_no(result['met'])}."


PAGE = Page("observation", from_code, measured)
document, main = PAGE.document, PAGE.main


if __name__ == "__main__":
    sys.exit(main())
