# SPDX-License-Identifier: Apache-2.0
"""The families as the benches run them: each template of the catalogue, filled for one class of tasks, `job*`.

Which there are is the catalogue's to say. A template that is not named here is filled with its defaults, and its home,
the load that it is for, follows from the first objective that it suits.
"""

from __future__ import annotations

import hashlib
import re
import statistics
import time
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from controller.api import ClassMatch, Metric, PlannerRecord, Proposal, SchedulerTemplate, TaskClass, WorkloadSelector
from controller.api.base import parse_percent
from controller.api.template import ParameterValue
from controller.kernel import clang
from controller.paths import data_dir
from controller.render import builtin_templates, render, template_digest
from controller.verify import elf

COMM = "job*"
"""What the tasks of the class are called."""

_HOME = {
    Metric.WAKEUP_LATENCY: "mixed",
    Metric.MAKESPAN: "longtail",
    Metric.CPU_SHARE: "attack",
    Metric.THROUGHPUT: "messaging",
    Metric.EXTERNAL: "messaging",
}
_HOMES = {
    "weighted-fair": "attack",
    "throughput": "cache",
    "locality": "kernelbuild-like",
    "pipeline": "pipeline",
    "background": "hogs",
}
_AIMS = {"background": "others.wakeupLatency.p99"}
_WEIGHTS = {"weighted-fair": 300}  # with the weight of everybody else there would be nothing to see
_OF_CLASS: dict[str, dict[str, ParameterValue]] = {"core-pack": {"spread": True}, "partition": {"reserve": "50%"}}


_DATA = (".rodata", ".data", ".struct_ops")
_OPS_NAME = re.compile(rb"schedctl_[0-9a-f]{12}")
"""It is made of the text's digest."""


@dataclass(frozen=True, slots=True)
class Built:
    """An object, and what it costs to make: lines of C, seconds of clang, bytes."""

    object: bytes
    cost: dict[str, Any] = field(default_factory=dict)


@cache
def templates() -> dict[str, SchedulerTemplate]:
    """The catalogue, by name."""
    return {template.name: template for template in builtin_templates()}


def names() -> list[str]:
    """Every family."""
    return list(templates())


def home(name: str) -> str:
    """The load that a family is for."""
    return _HOMES.get(name) or _HOME[templates()[name].spec.suits[0]]


def promised_share(name: str) -> float | None:
    """The part of all CPUs that the class so filled gets at least, whatever others do; None where none is promised."""
    reserved = _OF_CLASS.get(name, {}).get("reserve")
    if isinstance(reserved, str):
        return parse_percent(reserved)
    weight = _WEIGHTS.get(name)
    return None if weight is None else weight / (weight + 100)


def told(name: str) -> str:
    """How the class is filled where it is not with defaults; "" for those."""
    how = [f"weight {_WEIGHTS[name]}"] if name in _WEIGHTS else []
    how += [f"{parameter}: {str(value).lower()}" for parameter, value in _OF_CLASS.get(name, {}).items()]
    return ", ".join(how)


def aim(name: str) -> str:
    """The metric that a family is for on its home, where it is not the load's first: what others gain, say."""
    return _AIMS.get(name, "")


def proposal(name: str) -> Proposal:
    """A family, filled for the class `job*`."""
    template, weight = templates()[name], _WEIGHTS.get(name, 100)
    task_class = TaskClass(
        handle="c1", intent="bench/job", metric=template.spec.suits[0], weight=weight, match=ClassMatch(comm=(COMM,)),
        selector=WorkloadSelector(comm=(COMM,)), parameters=_OF_CLASS.get(name, {}),
    )  # fmt: skip
    return Proposal(
        template=name, template_digest=template_digest(template), classes=(task_class,),
        planner=PlannerRecord(name="rules", version="bench"),
    )  # fmt: skip


@cache
def text(name: str) -> str:
    """The C of a family so filled."""
    return render(proposal(name), templates()[name]).text


@cache
def digest(source: str) -> str:
    """Of the instructions and data that this C becomes: figures of another digest are of another scheduler.

    A comment more, here or in a header, is none, and neither is what it does once it has been taken away (ops.exit).
    """
    image = clang.compile_bpf(source, data_dir("bpf") / "include").object
    parsed, found = elf.parse(image), hashlib.sha256()
    for section in parsed.sections:
        if not section.name.endswith("_exit") and (section.executable or section.name.startswith(_DATA)):
            found.update(section.name.encode() + b"\0" + _OPS_NAME.sub(b"schedctl", parsed.data(section)))
    return found.hexdigest()[:16]


@cache
def built(name: str) -> Built:
    """The object of a family; clang runs three times, and the median counts."""
    took = []
    for _ in range(3):
        begun = time.monotonic()
        made = clang.compile_bpf(text(name), data_dir("bpf") / "include")
        took.append(time.monotonic() - begun)
    cost = {
        "lines": text(name).count("\n"),
        "compile_s": round(statistics.median(took), 3),
        "object_bytes": len(made.object),
    }
    return Built(made.object, cost)


def current(name: str) -> str:
    """The digest of a family as it is now: figures of another are of an earlier version. "" for an unknown one."""
    return digest(text(name)) if name in names() else ""
