# SPDX-License-Identifier: Apache-2.0
"""YAML → resources: what is accepted, and kubectl's words, with file, document and line, for what is not."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.api import SchedulerPolicy, SchedulingIntent
from controller.api.decode import MAX_BYTES, decode, encode
from tests.api.api_strategies import INTENTS, POLICIES

GOOD = """\
apiVersion: schedctl.dev/v1alpha1
kind: SchedulingIntent
metadata: {name: web, namespace: shop}
spec:
  workload: {comm: [nginx]}
  objective: {metric: wakeupLatency, goal: minimize, target: 2ms}
"""


def good(**spec: str) -> str:
    return GOOD + "".join(f"  {key}: {value}\n" for key, value in spec.items())


def only_error(text: str):
    decoded = decode(text, "x.yaml")
    assert decoded.documents == []
    assert len(decoded.errors) == 1
    return decoded.errors[0]


def test_good_document():
    decoded = decode(GOOD, "x.yaml")
    assert decoded.errors == []
    document = decoded.documents[0]
    assert (document.index, document.line, document.file) == (1, 1, "x.yaml")
    assert isinstance(document.resource, SchedulingIntent)
    assert document.resource.key == ("SchedulingIntent", "shop", "web")
    assert document.resource.spec.objective.target_value == 2_000_000


def test_namespace_defaults_for_namespaced_kinds_only():
    decoded = decode(GOOD.replace(", namespace: shop", ""), "x")
    assert decoded.documents[0].resource.namespace == "default"
    policy = "apiVersion: schedctl.dev/v1alpha1\nkind: SchedulerPolicy\nmetadata: {name: p}\n"
    assert decode(policy, "x").documents[0].resource.namespace == ""


def test_empty_documents_are_skipped_and_counted():
    decoded = decode(f"# a comment\n---\n---\n{GOOD}---\n", "x.yaml")
    assert decoded.errors == []
    assert [(d.index, d.line) for d in decoded.documents] == [(2, 4)]


def test_one_bad_document_does_not_hide_the_others():
    decoded = decode(f"{GOOD}---\nkind: Foo\n---\n{GOOD.replace('name: web', 'name: api')}", "x.yaml")
    assert [d.resource.name for d in decoded.documents] == ["web", "api"]
    assert [(e.document, e.line) for e in decoded.errors] == [(2, 8)]


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        (
            good(weight="0"),
            'The SchedulingIntent "web" is invalid: '
            "spec.weight: Invalid value: 0: should be greater than or equal to 1",
            7,
        ),
        (good(weight="ten"), 'The SchedulingIntent "web" is invalid: spec.weight: Invalid value: "ten": ', 7),
        (
            good(wieght="3"),
            'The SchedulingIntent "web" is invalid: strict decoding error: unknown field "spec.wieght"',
            7,
        ),
        (
            GOOD.replace("wakeupLatency", "latency"),
            'The SchedulingIntent "web" is invalid: spec.objective.metric: Unsupported value: "latency": supported '
            'values: "wakeupLatency", "makespan", "throughput", "cpuShare", "external"',
            6,
        ),
        (
            GOOD.replace("2ms", "2mss"),
            'The SchedulingIntent "web" is invalid: spec.objective.target: Invalid value: "2mss": '
            "must be a duration with a unit, such as 500us, 2ms, 60s or 30d",
            6,
        ),
        (
            GOOD.replace("2ms", "40%"),
            'The SchedulingIntent "web" is invalid: spec.objective.target: Invalid value: "40%": '
            "must be a duration with a unit, such as 500us, 2ms, 60s or 30d",
            6,
        ),
        (
            GOOD.replace("{comm: [nginx]}", "{}"),
            'The SchedulingIntent "web" is invalid: spec.workload: Invalid value: '
            "at least one of comm, cgroup, unit, user, podSelector is required",
            5,
        ),
        (
            GOOD.replace("name: web", "name: Web"),
            'The SchedulingIntent "Web" is invalid: metadata.name: Invalid value: "Web": should match ',
            3,
        ),
        (GOOD.replace("  workload: {comm: [nginx]}\n", ""), "spec.workload: Required value", 4),
        (
            "apiVersion: x.io/v1\nkind: Foo\nmetadata: {name: a}\n",
            'resource mapping not found for name: "a" namespace: "" from "x.yaml": '
            'no matches for kind "Foo" in version "x.io/v1"',
            1,
        ),
        ("kind: SchedulingIntent\n", 'error validating "x.yaml": error validating data: apiVersion not set', 1),
        ("apiVersion: schedctl.dev/v1alpha1\n", 'error validating "x.yaml": error validating data: kind not set', 1),
        ("a: [1\n", "error parsing x.yaml: error converting YAML to JSON: ", 2),
        ("a: 1\n\tb: 2\n", "error parsing x.yaml: error converting YAML to JSON: ", 2),
        ("- a\n", "error parsing x.yaml: a document must be a mapping with apiVersion, kind and metadata", 1),
        ("just text\n", "error parsing x.yaml: a document must be a mapping with apiVersion, kind and metadata", 1),
        (GOOD + "spec: {}\n", 'duplicate key "spec"', 7),
        (good(weight="!!python/object/apply:os.system ['true']"), "spec.weight: Invalid value: ", 7),
        (good(weight="!!binary aGk="), "the YAML tag tag:yaml.org,2002:binary is not allowed", 7),
        ("[a]: 1\n", "keys must be strings", 1),
        ("a: &x [*x]\n", "an alias contains itself", 1),
        ("a: \x00\n", "the file holds characters that YAML does not allow", 0),
    ],
)
def test_what_is_wrong_is_said(text, message, line):
    error = only_error(text)
    assert message in error.text
    assert (error.file, error.line) == ("x.yaml", line)


def test_several_faults_are_bullets():
    error = only_error(good(weight="0", foo="1"))
    lines = error.text.splitlines()
    assert lines[0] == 'The SchedulingIntent "web" is invalid: '
    assert sorted(lines[1:]) == [
        "* spec.weight: Invalid value: 0: should be greater than or equal to 1",
        '* strict decoding error: unknown field "spec.foo"',
    ]


def test_namespace_on_a_cluster_kind_is_forbidden():
    text = "apiVersion: schedctl.dev/v1alpha1\nkind: SchedulerPolicy\nmetadata:\n  name: p\n  namespace: shop\n"
    error = only_error(text)
    assert error.text == (
        'The SchedulerPolicy "p" is invalid: metadata.namespace: Forbidden: SchedulerPolicy is cluster-scoped'
    )
    assert error.line == 5


@pytest.mark.parametrize("yes", ["yes", "on", "true"])
def test_yaml_booleans_are_booleans_and_names_need_quotes(yes):
    error = only_error(GOOD.replace("name: web", f"name: {yes}"))
    assert "metadata.name: Invalid value: true" in error.text


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


def test_alias_bomb_is_refused_without_being_built():
    # Built out, this one would have 10^30 values: an answer at all is the proof.
    assert "aliases expand to more than 50000 values" in only_error(bomb(30)).text


def test_aliases_within_reason_are_fine():
    text = GOOD.replace("{comm: [nginx]}", "{comm: &names [nginx], unit: *names}")
    assert decode(text, "x").errors == []


@pytest.mark.parametrize("depth", [70, 900, 20_000])
@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_deep_nesting_is_an_error(depth, brackets):
    opened = "a: " + (brackets[0] if brackets == "[]" else "{a: ") * depth + "x" + brackets[1] * depth
    error = only_error(opened)
    assert "nested more than 64 deep" in error.text or "error parsing x.yaml" in error.text


def test_a_file_above_one_mebibyte_is_refused_unread():
    assert only_error("#" * (MAX_BYTES + 1)).text == "the file is larger than 1 MiB"
    assert decode("#" * MAX_BYTES, "x").errors == []


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
def test_any_text_gives_an_answer(text):
    decoded = decode(text, "x.yaml")
    assert all(error.text for error in decoded.errors)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=100), st.integers(0, len(GOOD)))
def test_damage_anywhere_gives_an_answer(junk, at):
    decoded = decode(GOOD[:at] + junk.decode("latin-1") + GOOD[at:], "x.yaml")
    assert len(decoded.documents) + len(decoded.errors) >= 0
    assert all(error.text and error.file == "x.yaml" for error in decoded.errors)


@settings(max_examples=150, deadline=None)
@given(INTENTS)
def test_intents_survive_encoding(resource: SchedulingIntent):
    decoded = decode(encode(resource), "x")
    assert decoded.errors == []
    assert decoded.documents[0].resource == resource


@settings(max_examples=150, deadline=None)
@given(POLICIES)
def test_policies_survive_encoding(resource: SchedulerPolicy):
    decoded = decode(encode(resource), "x")
    assert decoded.errors == []
    assert decoded.documents[0].resource == resource


def test_status_is_not_encoded():
    status = {"conditions": [{"type": "Ready", "status": "True", "reason": "Ok"}]}
    resource = decode(GOOD, "x").documents[0].resource
    with_status = type(resource).model_validate({**resource.wire(), "status": status})
    assert "status" not in yaml.safe_load(encode(with_status))
