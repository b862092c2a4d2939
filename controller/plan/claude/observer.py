# SPDX-License-Identifier: Apache-2.0
"""The observer: figures of a profile → typed findings.

By rules a finding is a comparison of two figures, so for what the rules know they are as good as any reader and cost
nothing; a model is asked only where they are silent about an intent that has figures (`unexplained`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from controller.plan.claude.asking import Campaign, Question, array, obj, one_of
from controller.plan.claude.refusals import Refusal, Refused
from controller.plan.prompt import IDLE, Prompt
from controller.plan.values import KINDS, Finding, Findings, Kind, Observed, Wish, Workload

INSTRUCTIONS = (
    """\
You read measurements of the CPU scheduling of one Linux node, of workloads and of intents, all named by handles.
Say for each intent, and for any workload or the node where it matters to an intent, what the figures show.
A finding is a subject (a handle, others or node) and one of these kinds:
"""
    + "\n".join(f"- {kind}: {meaning}" for kind, meaning in KINDS.items())
    + "\nSay only what a figure supports; figures that are not there were not measured.\n"
)
SCHEMA = obj({"findings": array(subject={"type": "string"}, kind=one_of(list(KINDS)))})

_MS = 1_000_000
LONG_BURST_NS = 3 * _MS
SHORT_BURST_NS = 2 * _MS
WAIT_NS = _MS
OFTEN = 10
"""Wakeups a second and task."""


def by_rules(prompt: Prompt) -> Findings:
    """What comparing figures tells."""
    wishes = {wish.intent: wish for wish in prompt.intents}
    found = [Finding(subject=w.workload, kind=kind) for w in prompt.workloads for kind in _of_workload(w, wishes)]
    found += [Finding(subject=i, kind="absent") for i in wishes if prompt.workload(i) is None]
    busy = sum(w.cpu_share for w in prompt.workloads)
    pressed = (prompt.node.cpu_pressure_percent or 0) >= 10
    found.append(Finding(subject="node", kind="contended" if busy >= 0.9 or pressed else "spare"))
    return Findings(findings=tuple(found[:128]))


def unexplained(prompt: Prompt, findings: Findings) -> bool:
    """Whether some intent has figures and no finding speaks of it."""
    told = {finding.subject for finding in findings.findings}
    return any(w.workload in prompt.classes and w.workload not in told for w in prompt.workloads)


def ask(campaign: Campaign, prompt: Prompt, by_rule: Findings) -> Findings:
    """The rules' findings and those of a model."""
    subjects = ["node", *(w.workload for w in prompt.workloads)]

    def check(said: Findings) -> Findings:
        if any(finding.subject not in subjects for finding in said.findings):
            raise Refused(Refusal("handles", ("findings",), "oneOf", tuple(subjects)))
        return Findings(findings=tuple(dict.fromkeys((*by_rule.findings, *said.findings)))[:128])

    given = Observed(node=prompt.node, workloads=prompt.workloads, intents=prompt.intents)
    return campaign.ask(Question("observer", (INSTRUCTIONS,), given, Findings, SCHEMA), check)


def _of_workload(workload: Workload, wishes: dict[str, Wish]) -> Iterator[Kind]:
    wish, wait, burst = wishes.get(workload.workload), workload.wakeup_latency_ns, workload.burst_ns
    if workload.cpu_share < IDLE:
        yield "idle"
    if wish is None and workload.cpu_share >= 0.3:
        yield "dominates"
    if wish is not None and wish.metric == "wakeupLatency" and wish.target is not None and wait is not None:
        yield "missesTarget" if wait.p99 > wish.target else "meetsTarget"
    if wait is not None and wait.p99 > WAIT_NS and (burst is None or wait.p99 > burst.p50):
        yield "waits"
    often = None if workload.wakeups_per_second is None else workload.wakeups_per_second >= OFTEN * workload.tasks
    if often and (burst is None or burst.p90 < SHORT_BURST_NS):
        yield "interactive"
    if (burst is not None and burst.p90 >= LONG_BURST_NS) or (often is False and workload.cpu_share >= 0.05):
        yield "cpuBound"
    yield from _rates(workload)


def _rates(workload: Workload) -> Iterator[Kind]:
    wakeups, sleeps = workload.wakeups_per_second, workload.sleeps_per_second
    if wakeups and (workload.migrations_per_second or 0) >= 0.3 * wakeups:
        yield "migrates"
    if sleeps is not None and (workload.preemptions_per_second or 0) > max(sleeps, OFTEN):
        yield "preempted"
    if (workload.forks_per_second or 0) >= OFTEN:
        yield "spawns"


def texts() -> Sequence[str]:
    """Our own texts in its requests."""
    return (INSTRUCTIONS,)
