# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies for valid resources: every field, in every combination the models allow."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from controller.api import SchedulerPolicy, SchedulingIntent

_WORD = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True)
_TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=20)
_LABELS = st.dictionaries(_WORD, _TEXT, max_size=3)
_DURATION = st.builds(lambda n, unit: f"{n}{unit}", st.integers(1, 900), st.sampled_from(["us", "ms", "s"]))
_PERCENT = st.integers(1, 100).map(lambda n: f"{n}%")
_GLOB = st.from_regex(r"[!-~][ -~]{0,14}", fullmatch=True)

_GOALS = {"wakeupLatency": "minimize", "makespan": "minimize", "throughput": "maximize", "cpuShare": "maximize"}


def _optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


@st.composite
def _objective(draw: st.DrawFn) -> dict[str, Any]:
    metric = draw(st.sampled_from([*_GOALS, "external"]))
    objective: dict[str, Any] = {
        "metric": metric,
        "goal": _GOALS.get(metric, draw(st.sampled_from(["minimize", "maximize"]))),
    }
    if metric == "external":
        prometheus = {"prometheus": {"url": "http://p:9090", "query": "up"}}
        objective["source"] = draw(st.sampled_from([{"exec": ["cat", "/proc/loadavg"]}, prometheus]))
    if metric == "wakeupLatency" and draw(st.booleans()):
        objective["percentile"] = draw(st.floats(0.5, 99.9))
    targets = {"wakeupLatency": _DURATION, "makespan": _DURATION, "cpuShare": _PERCENT}
    if draw(st.booleans()):
        objective["target"] = draw(targets.get(metric, st.floats(-1e9, 1e9)))
    return objective


def _meta(**more: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"name": _WORD, **more}, optional={"labels": _LABELS, "annotations": _LABELS})


_WORKLOAD = _optional(
    comm=st.lists(_GLOB, max_size=3),
    unit=st.lists(st.just("nginx.service"), max_size=1),
    user=st.lists(st.sampled_from(["www-data", "1000"]), max_size=2),
    podSelector=_LABELS.filter(bool),  # an empty one selects nothing and is not written
).map(lambda selector: selector if any(selector.values()) else {"cgroup": ["/system.slice/*"]})

INTENTS = st.builds(
    lambda metadata, spec: SchedulingIntent.model_validate(
        {"apiVersion": "schedctl.dev/v1alpha1", "kind": "SchedulingIntent", "metadata": metadata, "spec": spec}
    ),
    _meta(namespace=_WORD),
    st.fixed_dictionaries(
        {"workload": _WORKLOAD, "objective": _objective()},
        optional={
            "weight": st.integers(1, 10000),
            "guardrails": st.lists(
                st.fixed_dictionaries(
                    {"workload": _WORD, "metric": st.sampled_from(list(_GOALS)), "maxRegression": _PERCENT}
                ),
                max_size=2,
            ),
        },
    ),
)

POLICIES = st.builds(
    lambda metadata, spec: SchedulerPolicy.model_validate(
        {"apiVersion": "schedctl.dev/v1alpha1", "kind": "SchedulerPolicy", "metadata": metadata, "spec": spec}
    ),
    _meta(),
    _optional(
        nodeSelector=_LABELS,
        priority=st.integers(-1000, 1000),
        planner=_optional(mode=st.sampled_from(["auto", "rules"]), budget=_optional(usdPerDay=st.floats(0, 100))),
        templates=_optional(allow=st.lists(_WORD, min_size=1, max_size=3)),
        verification=_optional(minimumDetectableEffect=_PERCENT, confidence=st.floats(0.5, 0.99), maxAge=_DURATION),
        approval=st.sampled_from(["Automatic", "Manual"]),
        rollout=_optional(probation=st.integers(1, 900).map(lambda n: f"{n}s")),
        suspend=st.booleans(),
    ),
)
