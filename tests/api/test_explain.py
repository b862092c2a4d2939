# SPDX-License-Identifier: Apache-2.0
"""explain: every field of every kind can be asked for, and answers in kubectl's layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from controller.api import crd
from controller.api.explain import explain
from controller.api.kinds import KINDS
from controller.errors import InputError


def paths(schema: dict[str, Any], prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    while schema.get("type") == "array":
        schema = schema["items"]
    for name, child in schema.get("properties", {}).items():
        yield f"{prefix}.{name}", child
        yield from paths(child, f"{prefix}.{name}")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.singular)
def test_every_field_can_be_asked_for(kind):
    found = list(paths(crd.openapi(kind), kind.short))
    assert len(found) > 10
    for path, schema in found:
        text = explain(path)
        assert text.startswith(f"GROUP:      schedctl.dev\nKIND:       {kind.name}\nVERSION:    v1alpha1\n\nFIELD: ")
        if "description" in schema:
            assert schema["description"].split()[0] in text.partition("DESCRIPTION:")[2]
        assert all(line == line.rstrip() and len(line) <= 120 for line in text.splitlines())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.singular)
def test_recursive_names_every_field_of_the_spec(kind):
    text = explain(f"{kind.short}.spec", recursive=True)
    for path, _ in paths(crd.openapi(kind)["properties"]["spec"], ""):
        assert f"{path.rpartition('.')[2]}\t<" in text


def test_a_kind_may_carry_its_group():
    assert explain("schedulingintents.schedctl.dev.spec.weight") == explain("intent.spec.weight")


def test_defaults_enums_and_requirement_are_shown():
    text = explain("spol.spec.rollout")
    assert "  onAgentExit\t<string>\n  enum: keep, detach\n" in text
    assert 'Default: "1m".' in text
    assert "  workload\t<WorkloadSelector> -required-\n" in explain("intent.spec")


@pytest.mark.parametrize(
    ("reference", "message", "remedy"),
    [
        ("pods", 'the server doesn\'t have a resource type "pods"', "schedulingintents"),
        ("", 'the server doesn\'t have a resource type ""', "schedulingintents"),
        ("intent.spec.nope", 'field "nope" does not exist', "SchedulingIntent.spec has workload, objective"),
        ("intent.spec.weight.x", 'field "x" does not exist', "SchedulingIntent.spec.weight has no fields"),
        ("intent.metadata.labels.app", 'field "app" does not exist', "has no fields"),
    ],
)
def test_what_is_not_there(reference, message, remedy):
    with pytest.raises(InputError) as caught:
        explain(reference)
    assert caught.value.message == message
    assert remedy in caught.value.remedy
