# SPDX-License-Identifier: Apache-2.0
"""The registry of kinds: every name a person may use finds its kind, and nothing else does."""

from __future__ import annotations

import pytest

from controller.api.kinds import KINDS, find, of
from tests.builders import intent, policy


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.singular)
def test_every_name_finds_its_kind(kind):
    for name in (kind.name, kind.singular, kind.plural, kind.short, kind.full):
        assert find(name) is kind
        assert find(name.upper()) is kind


def test_names_are_distinct():
    names = [name for kind in KINDS for name in (kind.singular, kind.plural, kind.short)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ["", "pods", "schedulingintent.", "schedulingintents.example.org", "all"])
def test_other_names_find_nothing(name):
    assert find(name) is None


def test_reference_is_what_kubectl_prints():
    assert of(intent()).reference("web") == "schedulingintent.schedctl.dev/web"
    assert of(policy()).full == "schedulerpolicies.schedctl.dev"


def test_age_is_last_and_of_no_priority():
    for kind in KINDS:
        name, path, type_, priority = kind.columns[-1]
        assert (name, path, type_, priority) == ("Age", ".metadata.creationTimestamp", "date", 0)
