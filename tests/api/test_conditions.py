# SPDX-License-Identifier: Apache-2.0
"""Conditions follow kstatus: one of a type, and a transition time that moves with the status alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from controller.api import Condition, Status, set_condition

T0 = datetime(2026, 1, 1, tzinfo=UTC)
TYPES = ("Ready", "Reconciling", "Stalled", "Attached")


def condition(type_="Ready", status="True", reason="Attached", message=""):
    return Condition(type=type_, status=status, reason=reason, message=message)


def test_transition_time_is_set_when_the_type_is_new():
    assert set_condition((), condition(), T0)[0].last_transition_time == T0


def test_transition_time_stays_while_the_status_does():
    first = set_condition((), condition(message="one"), T0)
    second = set_condition(first, condition(reason="Probation", message="two"), T0 + timedelta(seconds=9))
    assert second[0].last_transition_time == T0
    assert (second[0].reason, second[0].message) == ("Probation", "two")


def test_transition_time_moves_with_the_status():
    first = set_condition((), condition(), T0)
    second = set_condition(first, condition(status="False"), T0 + timedelta(seconds=9))
    assert second[0].last_transition_time == T0 + timedelta(seconds=9)


@given(st.lists(st.tuples(st.sampled_from(TYPES), st.sampled_from(["True", "False", "Unknown"])), max_size=20))
def test_one_condition_a_type_in_a_fixed_order(changes):
    conditions = ()
    for second, (type_, status) in enumerate(changes):
        conditions = set_condition(conditions, condition(type_, status), T0 + timedelta(seconds=second))
    types = [c.type for c in conditions]
    assert types == sorted(set(types))
    last = dict(changes)
    assert {c.type: str(c.status) for c in conditions} == last


@pytest.mark.parametrize(
    "wrong", [{"status": "true"}, {"status": True}, {"reason": "not pascal"}, {"reason": ""}, {"type": "ready"}]
)
def test_condition_refuses(wrong):
    with pytest.raises(ValidationError):
        Condition.model_validate({"type": "Ready", "status": "True", "reason": "Ok", **wrong})


def test_status_finds_its_condition():
    status = Status(conditions=(condition(), condition("Stalled", "False", "Fine")))
    found = status.condition("Stalled")
    assert found is not None
    assert found.reason == "Fine"
    assert status.condition("Drifted") is None
