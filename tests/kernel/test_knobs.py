# SPDX-License-Identifier: Apache-2.0
"""Which objects are the same code with other knobs, and that an object that is none is refused."""

from __future__ import annotations

import pytest

from controller.errors import InputError, ToolMissing
from controller.kernel import knobs
from tests.conftest import missing
from tests.templates import cases

NAMES = cases.LIVE


def built(name: str, weight: int, *, comm: str = "gold", metric: str = "makespan", **filled: object) -> bytes:
    classes = (cases.task_class(1, weight=weight, comm=(comm,)), cases.task_class(2, metric, weight=7, comm=("b",)))
    try:
        return cases.compiled(name, *classes, **filled).object
    except ToolMissing as error:
        missing(error.message, error.remedy)


@pytest.mark.parametrize("name", NAMES)
def test_other_weights_and_live_parameters_are_the_same_code(name: str) -> None:
    slices = next(p.name for p in cases.TEMPLATES[name].spec.parameters if p.name in ("slice", "round"))
    one, other = built(name, 100), built(name, 300, parameters={slices: "7ms", "lag": "7ms", "others_weight": 9})
    assert one != other
    assert knobs.code_digest(one) == knobs.code_digest(other) != ""
    assert knobs.image(one) != knobs.image(other)
    assert len(knobs.image(one)) == len(knobs.image(other)) > 0


@pytest.mark.parametrize("name", NAMES)
def test_other_tasks_or_another_objective_are_other_code(name: str) -> None:
    one = knobs.code_digest(built(name, 100))
    assert one != knobs.code_digest(built(name, 100, comm="silver"))
    if name in ("latency-first", "batch-order"):  # the others treat all objectives alike
        assert one != knobs.code_digest(
            built(name, 100, metric="wakeupLatency" if name != "batch-order" else "cpuShare")
        )


def test_another_expression_is_other_code() -> None:
    one = knobs.code_digest(built("weighted-fair", 100))
    assert one != knobs.code_digest(built("weighted-fair", 100, expressions={"slice": "slice / 2"}))


def test_one_bit_elsewhere_is_other_code() -> None:
    obj = built("weighted-fair", 100)
    at = obj.index(b"gold")
    assert knobs.code_digest(obj) != knobs.code_digest(obj[:at] + b"golf" + obj[at + 4 :])


@pytest.mark.parametrize("cut", [0, 5, 63, 64, 1000])
def test_what_is_no_whole_object_is_refused(cut: int) -> None:
    with pytest.raises(InputError):
        knobs.code_digest(built("weighted-fair", 100)[:cut])
