# SPDX-License-Identifier: Apache-2.0
"""Observer and learner: what the rules say of figures and of the past, and when a model is asked instead."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from controller.api import Histogram, Verdict, WorkloadProfile
from controller.plan import claude
from controller.plan.claude import learner, observer
from controller.plan.ledger import Ledger
from controller.plan.prompt import Prompt, build
from controller.plan.values import Attempt, ClassValue, Value
from controller.render import template_digest
from tests import builders
from tests.plan import claude_case as case


def hist(value_ns: int) -> Histogram:
    return Histogram(edges=(value_ns,), widths=(1,), counts=(100,), total_ns=100 * value_ns)


def prompt_of(profile: WorkloadProfile) -> Prompt:
    return build(profile, case.INTENTS, case.TEMPLATES, case.base(), expressions=True)


FINDINGS: dict[str, tuple[dict[str, Any], str]] = {
    "missesTarget": ({"wakeup_latency": hist(3_000_000), "burst": hist(100_000)}, "i1"),
    "meetsTarget": ({"wakeup_latency": hist(300_000), "burst": hist(100_000)}, "i1"),
    "waits": ({"wakeup_latency": hist(3_000_000), "burst": hist(100_000)}, "i1"),
    "interactive": ({"wakeups": 5000, "burst": hist(100_000)}, "i1"),
    "cpuBound": ({"wakeups": 3, "burst": hist(4_000_000)}, "i1"),
    "migrates": ({"wakeups": 1000, "migrations": 400}, "i1"),
    "preempted": ({"voluntary_switches": 20, "involuntary_switches": 100}, "i1"),
    "spawns": ({"forks": 10}, "i1"),
    "idle": ({"cpu_share": 0.001}, "i1"),
}


@pytest.mark.parametrize("kind", FINDINGS)
def test_findings_by_rules_compare_figures(kind: str) -> None:
    figures, subject = FINDINGS[kind]
    quiet = {"wakeup_latency": None, "wakeups": None}
    prompt = prompt_of(case.profile(case.workload("shop/checkout", "intent", **(quiet | figures))))
    found = {(f.subject, f.kind) for f in observer.by_rules(prompt).findings}
    assert (subject, kind) in found
    plain = prompt_of(case.profile(case.workload("shop/checkout", "intent", **quiet)))
    assert (subject, kind) not in {(f.subject, f.kind) for f in observer.by_rules(plain).findings}


def test_findings_of_others_and_of_the_node() -> None:
    busy = case.workload("hog", "comm", cpu_share=0.95)
    found = {(f.subject, f.kind) for f in observer.by_rules(prompt_of(case.profile(busy))).findings}
    assert {("w1", "dominates"), ("node", "contended"), ("i1", "absent"), ("i2", "absent")} <= found


def test_a_model_observes_only_what_the_rules_have_nothing_to_say_of(tmp_path: Path) -> None:
    silent = case.workload("shop/checkout", "intent", wakeup_latency=None, wakeups=None, cpu_share=0.02)
    profile = case.profile(silent)
    prompt = prompt_of(profile)
    assert observer.unexplained(prompt, observer.by_rules(prompt))
    assert not observer.unexplained(prompt_of(case.profile()), observer.by_rules(prompt_of(case.profile())))
    forged = {"findings": [{"subject": "i7", "kind": "idle"}]}
    seen = {"findings": [{"subject": "i1", "kind": "preempted"}]}
    asked = case.Authored([forged, seen, case.strategy(), case.filling()])
    ledger = Ledger(tmp_path / "ledger.jsonl")
    made = claude.propose(profile, case.INTENTS, builders.policy(), case.TEMPLATES, case.base(), asked, ledger=ledger)
    assert [role for role, _ in asked.asked] == ["observer", "observer", "planner", "executor"]
    given = json.loads(asked.asked[2][1]["messages"][0]["content"][0]["text"])
    assert {"subject": "i1", "kind": "preempted"} in given["findings"]
    assert made.template == "latency-first"


def attempt(**changes: Any) -> Attempt:
    plain = {
        "attempt": 1, "template": "t4", "verdict": Verdict.REJECTED, "stage": "trial",
        "parameters": (Value(name="slice", value="2ms"),),
    }  # fmt: skip
    return Attempt.model_validate(plain | changes)


def gain(**by_part: float) -> dict[str, float]:
    return {f"baseline.{part}.throughput.gain_percent": value for part, value in by_part.items()}


LESSONS: dict[str, tuple[Attempt, str | None]] = {
    "good": (attempt(verdict=Verdict.PASS), "keep"),
    "could not tell": (attempt(verdict=Verdict.ERROR), None),
    "an expression that does not render": (attempt(stage="render"), "noExpressions"),
    "a verifier that refuses": (attempt(stage="load"), "otherTemplate"),
    "a verifier that refuses an expression": (attempt(stage="load", holes=("slice",)), "noExpressions"),
    "starves with an expression": (attempt(stage="liveness", parameters=(), holes=("slice",)), "noExpressions"),
    "starves with a class's values": (
        attempt(stage="liveness", parameters=(), classes=(ClassValue(intent="i1", name="deadline", value="1ms"),)),
        "nearDefaults",
    ),
    "worse with an expression alone": (
        attempt(figures=gain(others=-4), parameters=(), holes=("slice",)),
        "noExpressions",
    ),
    "starves with other values": (attempt(stage="liveness"), "nearDefaults"),
    "starves with its defaults": (attempt(stage="liveness", parameters=()), "otherTemplate"),
    "worse all over": (attempt(figures=gain(others=-4, **{"class": -2})), "otherDirection"),
    "worse with its defaults": (attempt(figures=gain(others=-4), parameters=()), "otherTemplate"),
    "better and worse": (attempt(figures=gain(others=-4, **{"class": 9})), "smallerStep"),
}


@pytest.mark.parametrize("name", LESSONS)
def test_lessons_by_rules(name: str) -> None:
    tried, advice = LESSONS[name]
    assert [lesson.advice for lesson in learner.by_rules([tried]).lessons] == ([advice] if advice else [])


def test_only_a_trade_off_is_asked_about() -> None:
    assert learner.is_trade_off([LESSONS["better and worse"][0]])
    assert not any(learner.is_trade_off([tried]) for name, (tried, _) in LESSONS.items() if name != "better and worse")
    assert not learner.is_trade_off([LESSONS["better and worse"][0], LESSONS["a verifier that refuses"][0]])
    assert not learner.is_trade_off([])


@dataclasses.dataclass(frozen=True)
class Past:
    """As the reconciler keeps it."""

    template: str
    template_digest: str
    parameters: dict[str, Any]
    class_parameters: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    holes: tuple[str, ...] = ()
    planner: str = "claude"
    verdict: Verdict = Verdict.REJECTED
    stage: Any = "trial"
    rule: str | None = "trial/worse"
    figures: dict[str, float] = dataclasses.field(default_factory=dict)


def past(**changes: Any) -> Past:
    ours = next(t for t in case.TEMPLATES if t.name == "latency-first")
    return dataclasses.replace(Past(ours.name, template_digest(ours), {"slice": "2ms"}), **changes)


def test_what_was_refused_comes_back_as_lessons_and_moves_the_model_up(tmp_path: Path) -> None:
    first = past(
        stage="load", rule="load/unbounded-loop", class_parameters={"c1": {"deadline": "3ms"}}, holes=("deadline",)
    )
    earlier = [first, past(figures=gain(others=-4.12345, **{"class": 9}))]
    forged = {"lessons": [{"attempt": 9, "advice": "keep"}]}
    learnt = {"lessons": [{"attempt": 2, "advice": "nearDefaults"}]}
    asked = case.Authored([forged, learnt, case.strategy(), case.filling()])
    claude.propose(
        case.profile(), case.INTENTS, builders.policy(), case.TEMPLATES, case.base(), asked,
        earlier=earlier, failures=2, ledger=Ledger(tmp_path / "ledger.jsonl"),
    )  # fmt: skip
    assert [role for role, _ in asked.asked] == ["learner", "learner", "planner", "executor"]
    given = json.loads(asked.asked[2][1]["messages"][0]["content"][0]["text"])
    assert given["lessons"] == [
        {"attempt": 1, "advice": "noExpressions"},
        {"attempt": 2, "advice": "nearDefaults"},
    ]
    assert given["attempts"][0]["rule"] == "load/unbounded-loop"
    assert given["attempts"][0]["classes"] == [{"intent": "i1", "name": "deadline", "value": "3ms"}]
    assert given["attempts"][0]["holes"] == ["deadline"]
    assert given["attempts"][1]["figures"]["baseline.others.throughput.gain_percent"] == -4.123
    assert given["attempts"][1]["parameters"] == [{"name": "slice", "value": "2ms"}]
    assert asked.asked[2][1]["model"] != "claude-haiku-5-5", "two candidates were rejected: a larger model is asked"


def test_a_past_that_no_longer_fits_is_left_out() -> None:
    prompt = prompt_of(case.profile())
    gone = past(template="deleted")
    changed = past(template_digest=builders.digest("a"))
    typed = past(
        parameters={"slice": 7, "gone": "1ms"}, class_parameters={"c1": {"deadline": True}}, holes=("gone",),
        rule="lint/what-somebody-wrote",
    )  # fmt: skip
    (left,) = learner.attempts([gone, changed, typed], prompt)
    assert (left.attempt, left.parameters, left.classes, left.holes, left.rule) == (1, (), (), (), None)
