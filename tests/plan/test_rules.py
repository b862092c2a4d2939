# SPDX-License-Identifier: Apache-2.0
"""The rules planner: which template, which numbers, and why."""

from __future__ import annotations

from typing import Any

import pytest

from controller.api import Histogram, IntentSpec, Objective, ObjectMeta, Proposal, SchedulingIntent, WorkloadSelector
from controller.errors import InputError
from controller.plan import propose as by_policy
from controller.plan import rules
from controller.render import builtin_templates, render
from tests import builders
from tests.plan import claude_case as case

TEMPLATES = {template.name: template for template in builtin_templates()}


def intent(name: str, metric: str, weight: int = 100, guardrails: Any = (), **selector: Any) -> SchedulingIntent:
    target = selector.pop("target", None)
    goal = "minimize" if metric in ("wakeupLatency", "makespan") else "maximize"
    spec = IntentSpec(
        workload=WorkloadSelector.model_validate(selector or {"comm": [name]}),
        objective=Objective(metric=metric, goal=goal, target=target),
        weight=weight,
        guardrails=guardrails,
    )
    return SchedulingIntent(metadata=ObjectMeta(name=name, namespace="shop"), spec=spec)


def propose(*intents: SchedulingIntent, profile: Any = None, allow: tuple[str, ...] = ("*",)) -> Proposal:
    allowed = [t for t in TEMPLATES.values() if allow == ("*",) or t.name in allow]
    policy = builders.policy(templates={"allow": allow})
    return rules.propose(profile or case.profile(), intents, policy, allowed)


@pytest.mark.parametrize(
    ("wanted", "template"),
    [
        (("wakeupLatency",), "latency-first"),
        (("makespan",), "batch-order"),
        (("throughput",), "weighted-fair"),
        (("cpuShare",), "weighted-fair"),
        (("cpuShare", "wakeupLatency"), "latency-first"),
        (("throughput", "makespan"), "batch-order"),
    ],
)
def test_the_objectives_choose_the_template(wanted: tuple[str, ...], template: str) -> None:
    made = propose(*(intent(f"app{n}", metric) for n, metric in enumerate(wanted)))
    assert made.template == template
    assert template in made.reasons[0]


def test_a_special_template_is_taken_where_the_policy_allows_nothing_else() -> None:
    assert propose(intent("web", "throughput"), allow=("pipeline",)).template == "pipeline"
    assert propose(intent("web", "throughput"), allow=("pipeline", "weighted-fair")).template == "weighted-fair"


def test_weight_decides_between_objectives_that_no_template_serves_together() -> None:
    light, heavy = intent("a", "wakeupLatency", 100), intent("b", "makespan", 300)
    made = propose(light, heavy)
    assert made.template == "batch-order"
    assert "nothing special for wakeupLatency" in made.reasons[0]


def test_what_the_policy_does_not_allow_is_refused_and_what_it_does_is_named() -> None:
    with pytest.raises(InputError) as told:
        propose(intent("web", "wakeupLatency"), allow=("weighted-fair",))
    assert "wakeupLatency" in told.value.message
    assert "weighted-fair" in told.value.message
    assert "spec.templates.allow" in told.value.remedy
    with pytest.raises(InputError, match="available under it: none"):
        propose(intent("web", "wakeupLatency"), allow=("nothing",))


def test_planning_for_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match="no intent"):
        propose()


def test_equal_arguments_give_an_equal_proposal_whatever_the_order() -> None:
    a, b = intent("a", "wakeupLatency"), intent("b", "cpuShare", 300)
    assert propose(a, b) == propose(b, a)
    assert [c.intent for c in propose(b, a).classes] == ["shop/a", "shop/b"]


def test_every_proposal_renders() -> None:
    for metrics in (("wakeupLatency", "makespan"), ("makespan", "makespan"), ("throughput",)):
        made = propose(*(intent(f"app{n}", metric) for n, metric in enumerate(metrics)))
        assert render(made, TEMPLATES[made.template]).ops_name.startswith("schedctl_")


def test_a_selector_becomes_what_the_kernel_matches_by() -> None:
    made = propose(intent("a", "cpuShare", comm=["web*"], user=["root", "1000"], unit=["x.service"]))
    match = made.classes[0].match
    assert (match.comm, match.uid, match.cgroup) == (("web*",), (0, 1000), True)
    with pytest.raises(InputError, match="numeric user id"):
        propose(intent("a", "cpuShare", user=["www-data"]))


def test_the_target_becomes_the_deadline_and_a_bound_of_the_slice() -> None:
    made = propose(intent("checkout", "wakeupLatency", target="800us"))
    assert made.classes[0].parameters == {"deadline": "800us"}
    assert made.parameters["slice"] == "800us"
    assert any("target is 800us" in reason for reason in made.reasons)


def test_the_share_is_what_was_used_and_what_the_guardrail_leaves() -> None:
    guard = ({"workload": "others", "metric": "throughput", "maxRegression": "10%"},)
    seen = case.profile(case.workload("shop/checkout", "intent", cpu_share=0.1))
    made = propose(intent("checkout", "wakeupLatency", guardrails=guard), profile=seen)
    assert made.parameters["latency_share"] == "30%"
    assert any("guardrail" in reason for reason in made.reasons)


def test_classes_that_fill_the_cpus_leave_room_for_whoever_comes_now_and_then() -> None:
    seen = case.profile(case.workload("shop/checkout", "intent", cpu_share=0.9))
    made = propose(intent("checkout", "wakeupLatency"), profile=seen)
    assert made.parameters["latency_share"] == "50%"
    assert any("they fill it" in reason for reason in made.reasons)


def test_the_latency_slice_comes_from_the_measured_bursts() -> None:
    burst = Histogram(edges=(100_000, 200_000), widths=(100_000, 100_000), counts=(50, 50), total_ns=20_000_000)
    seen = case.profile(case.workload("shop/checkout", "intent", burst=burst))
    made = propose(intent("checkout", "wakeupLatency"), profile=seen)
    assert made.parameters["latency_slice"] == "600us"
    assert not any("allows" in reason for reason in made.reasons)


def test_a_measurement_far_out_is_bent_into_the_declared_range() -> None:
    burst = Histogram(edges=(10**9,), widths=(10**9,), counts=(5,), total_ns=5 * 10**9)
    seen = case.profile(case.workload("shop/checkout", "intent", burst=burst, cpu_share=1.0))
    made = propose(intent("checkout", "wakeupLatency", target="1h"), profile=seen)
    assert made.parameters == {"slice": "20ms", "latency_slice": "10ms", "latency_share": "50%"}
    assert made.classes[0].parameters == {"deadline": "1s"}
    slices = [reason for reason in made.reasons if "slice = " in reason]
    assert len(slices) == 2
    assert all(reason.endswith("; the template allows at most that") for reason in slices)
    assert render(made, TEMPLATES[made.template])


def test_batch_classes_are_ordered_by_their_measured_length_when_all_were_seen() -> None:
    intents = (intent("long", "makespan"), intent("short", "makespan"))
    long = case.workload("shop/long", "intent", tasks=1, cpu_ns=8 * 10**9)
    short = case.workload("shop/short", "intent", tasks=4, cpu_ns=2 * 10**9)
    made = propose(*intents, profile=case.profile(long, short))
    assert [c.parameters for c in made.classes] == [{"length": "8s"}, {"length": "500ms"}]
    assert any("shop/long 8s" in reason for reason in made.reasons)
    assert [c.parameters for c in propose(*intents, profile=case.profile(long)).classes] == [{}, {}]
    assert propose(intents[0], profile=case.profile(long)).classes[0].parameters == {}


def test_the_policy_chooses_the_planner_and_the_templates() -> None:
    policy = builders.policy(planner={"mode": "rules"}, templates={"allow": ["weighted-*"]})
    made = by_policy(case.profile(), [intent("a", "cpuShare")], policy, tuple(TEMPLATES.values()))
    assert (made.template, made.planner.name) == ("weighted-fair", "rules")
