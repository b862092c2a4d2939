# SPDX-License-Identifier: Apache-2.0
"""The CRDs: current, structural, and of one mind with the models."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from controller.api import (
    IntentSpec,
    Objective,
    PolicySpec,
    SchedulerPolicy,
    SchedulerTemplate,
    TemplateSource,
    WorkloadSelector,
    crd,
)
from controller.api.intent import ExternalSource
from controller.api.kinds import KINDS, Kind, find
from controller.paths import data_dir
from tests.api.structural_schema import errors, filled, violations

IDS = [kind.singular for kind in KINDS]


def schema_of(kind: Kind) -> dict[str, Any]:
    version = crd.definition(kind)["spec"]["versions"][0]
    return version["schema"]["openAPIV3Schema"]


def field(kind: str, *path: str) -> dict[str, Any]:
    found = find(kind)
    assert found is not None
    schema = schema_of(found)
    for step in path:
        schema = schema["items"] if step == "[]" else schema["properties"][step]
    return schema


def test_committed_crds_are_current():
    committed = {path.name: path.read_text(encoding="utf-8") for path in data_dir("crds").glob("*.yaml")}
    assert committed == crd.generate(), "run: schedctl crd generate --dir crds"


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_schema_is_structural(kind):
    assert list(violations(schema_of(kind))) == []


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        ({"type": "object", "properties": {"a": {"$ref": "#/x"}}}, "$ref is not allowed"),
        ({"type": "object", "properties": {"a": {"description": "x"}}}, "no type"),
        ({"type": "array"}, "without items"),
        ({"type": "number", "exclusiveMinimum": 3}, "exclusiveMinimum is a boolean"),
        ({"type": "object", "anyOf": [{"type": "object"}]}, "type is not allowed in anyOf"),
        ({"type": "object", "properties": {}, "additionalProperties": {"type": "string"}}, "exclude each other"),
        ({"type": "integer", "maximum": 3, "default": 4}, "too large"),
    ],
)
def test_checker_sees_what_is_not_structural(broken, complaint):
    assert any(complaint in text for text in violations(broken))


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_definition_names_what_kubectl_needs(kind):
    definition = crd.definition(kind)
    spec, version = definition["spec"], definition["spec"]["versions"][0]
    assert definition["metadata"]["name"] == f"{spec['names']['plural']}.{spec['group']}"
    assert spec["scope"] == ("Namespaced" if kind.namespaced else "Cluster")
    assert spec["names"]["shortNames"] == [kind.short]
    assert spec["names"]["categories"] == ["schedctl"]
    assert version["subresources"] == {"status": {}}
    assert [column["name"] for column in version["additionalPrinterColumns"]] == [name for name, *_ in kind.columns]


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_printer_columns_point_at_fields(kind):
    """A column whose path is not in the schema would stay empty for ever."""
    for name, path, type_, _ in kind.columns:
        node = {"properties": {"metadata": {"properties": {"creationTimestamp": {"type": "string"}}}}}
        node["properties"] |= {key: value for key, value in schema_of(kind)["properties"].items() if key != "metadata"}
        for step in path.replace('[?(@.type=="Ready")]', ".[]").strip(".").split("."):
            node = node["items"] if step == "[]" else node["properties"][step]
        assert node["type"] == {"date": "string"}.get(type_, type_) or node["type"] == "array", name


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_every_field_a_person_writes_is_described(kind):
    def undescribed(schema, path):
        for name, child in schema.get("properties", {}).items():
            if "description" not in child:
                yield f"{path}.{name}"
            yield from undescribed(child.get("items", child), f"{path}.{name}")

    if kind.name in ("SchedulingIntent", "SchedulerPolicy", "SchedulerTemplate"):
        assert list(undescribed(schema_of(kind)["properties"]["spec"], "spec")) == []


def manifests():
    sample = sorted(data_dir("policies.git").rglob("*.yaml"))
    return [*sample, *sorted(data_dir("templates").glob("*/template.yaml"))]


def test_samples_fit_the_crds():
    checked = 0
    for path in manifests():
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if document is None:
                continue
            kind = find(document["kind"])
            assert kind is not None
            schema = schema_of(kind)
            assert list(errors(schema, filled(schema, document))) == [], path
            checked += 1
    assert checked >= 3


def test_defaults_are_the_models():
    schema = field("spol", "spec")
    assert PolicySpec.model_validate(filled(schema, {})) == PolicySpec()
    assert SchedulerPolicy.model_fields["spec"].default_factory is PolicySpec


def agrees(model, schema, value):
    """The model and the CRD accept or refuse the value alike."""
    try:
        model.model_validate(value)
        accepted = True
    except ValidationError:
        accepted = False
    found = list(errors(schema, filled(schema, value)))
    assert accepted == (not found), (value, found)


def some(**fields):
    """A mapping with any subset of the fields, nulls among the values."""
    return st.fixed_dictionaries({}, optional={name: st.none() | values for name, values in fields.items()})


NAMES = st.lists(st.sampled_from(["nginx", "php-fpm*", "", "x" * 16, "a b"]), max_size=2)
LABELS = st.dictionaries(st.sampled_from(["app", "tier"]), st.sampled_from(["web", "x" * 2000]), max_size=2)
EXTERNAL = some(
    prometheus=some(url=st.sampled_from(["http://p:9090", "ftp://p", ""]), query=st.sampled_from(["up", ""])),
    exec=st.lists(st.sampled_from(["cat", ""]), max_size=2),
)
TARGETS = st.sampled_from(["2ms", "40%", "2", "", "x" * 40, "1.5s", "0ms"]) | st.sampled_from([3, 99.5, 0, -1])


@settings(max_examples=300, deadline=None)
@given(some(comm=NAMES, cgroup=NAMES, unit=NAMES, user=NAMES, podSelector=LABELS))
def test_workload_selector_agrees(value):
    value = {name: child for name, child in value.items() if child is not None or name == "podSelector"}
    agrees(WorkloadSelector, field("intent", "spec", "workload"), value)


@settings(max_examples=300, deadline=None)
@given(EXTERNAL)
def test_external_source_agrees(value):
    value = {name: child for name, child in value.items() if child is not None or name != "exec"}
    value = {
        n: {k: v for k, v in c.items() if v is not None} if n == "prometheus" and c else c for n, c in value.items()
    }
    agrees(ExternalSource, field("intent", "spec", "objective", "source"), value)


@settings(max_examples=800, deadline=None)
@given(
    some(
        percentile=st.sampled_from([0, 50, 99, 99.9, 100, -1]),
        target=TARGETS,
        source=st.just({"exec": ["cat"]}),
    ),
    st.sampled_from(["wakeupLatency", "makespan", "throughput", "cpuShare", "external", "speed"]),
    st.sampled_from(["minimize", "maximize", "more"]),
)
def test_objective_agrees(value, metric, goal):
    agrees(Objective, field("intent", "spec", "objective"), {**value, "metric": metric, "goal": goal})


@settings(max_examples=100, deadline=None)
@given(some(path=st.sampled_from(["a.j2", "../a", "/a", "a/b.j2"]), inline=st.sampled_from(["", "text"])))
def test_template_source_agrees(value):
    agrees(TemplateSource, field("stpl", "spec", "source"), value)


@settings(max_examples=200, deadline=None)
@given(
    some(
        weight=st.integers(-1, 10002),
        guardrails=st.lists(
            some(
                workload=st.sampled_from(["others", ""]),
                metric=st.sampled_from(["throughput", "external"]),
                maxRegression=st.sampled_from(["3%", "3", "0.5%"]),
            ).map(lambda g: {k: v for k, v in g.items() if v is not None}),
            max_size=2,
        ),
    )
)
def test_intent_spec_agrees(value):
    base = {"workload": {"comm": ["x"]}, "objective": {"metric": "makespan", "goal": "minimize"}}
    value = {name: child for name, child in value.items() if child is not None}
    agrees(IntentSpec, field("intent", "spec"), {**base, **value})


def test_template_and_policy_round_trip_through_their_schema():
    policy = SchedulerPolicy.model_validate(
        {"kind": "SchedulerPolicy", "metadata": {"name": "p"}, "spec": {"rollout": {"probation": "90s"}}}
    )
    schema = field("spol")
    assert list(errors(schema, policy.wire())) == []
    assert SchedulerTemplate.model_fields["spec"].is_required()
