# SPDX-License-Identifier: Apache-2.0
"""What a plan cost and saves: reckoned where it was measured, unknown where it was not."""

from __future__ import annotations

import pytest

from controller.api import Fingerprint, Lesson, PlanCost, Verdict
from controller.api.fingerprint import WorkloadVector
from controller.plan.payback import payback
from tests import builders
from tests.builders import T0, digest

BETTER = {
    "baseline.class.makespan.gain_percent": 25.0,
    "baseline.class.makespan.low_percent": 0.0,
    "baseline.class.makespan.high_percent": 100.0,
    "pairs": 24,
}


def revision(figures: dict[str, float] | None = None, share: float | None = 0.5, **spec: object):
    base = builders.revision("r", builders.policy(), (builders.intent(),))
    (one,) = base.spec.proposal.classes
    proposal = base.spec.proposal.model_copy(update={"classes": (one.model_copy(update={"metric": "makespan"}),)})
    lessons: tuple[Lesson, ...] = ()
    if figures is not None:
        told = {
            "inputs": digest("e"), "candidate": digest("1"), "template": "batch-order", "templateDigest": digest("a"),
            "planner": "rules", "verdict": Verdict.PASS, "stage": "trial", "figures": figures, "at": T0,
        }  # fmt: skip
        lessons = (Lesson.model_validate(told),)
    features = (share, 2.0, None, None, None, None)
    workload = Fingerprint(workloads=(WorkloadVector(name="shop/checkout", features=features),))
    changes = {"proposal": proposal, "lessons": lessons, "workload": workload, **spec}
    return base.model_copy(update={"spec": base.spec.model_copy(update=changes)})


def test_a_quarter_better_on_half_of_two_cpus():
    known = payback(revision(BETTER, cost=PlanCost(calls=2, usd=0.0123)))
    assert known.saved == pytest.approx((0, 720, 1800))  # 0.5 × 2 × 3600 × 0.25 / 1.25
    assert known.saved_text() == "720 CPU s/h [0, 1800]"
    assert known.cost_text() == "$0.0123 (2 model calls)"


def test_a_loss_is_shown_as_one():
    worse = {name: -20.0 if "percent" in name else value for name, value in BETTER.items()}
    assert payback(revision(worse)).saved == pytest.approx((-900, -900, -900))


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (revision(None), "no trial measured it"),
        (revision({"baseline.class.wakeupLatency.p99.gain_percent": 30.0}), "another objective"),
        (revision({"baseline.class.makespan.gain_percent": 30.0}), "another objective"),
        (revision(BETTER, share=None), "was not measured"),
        (revision(BETTER, workload=None), "was not measured"),
    ],
)
def test_what_was_not_measured_is_unknown(made, why):
    known = payback(made)
    assert (known.saved, known.saved_text()) == (None, "unknown")
    assert why in known.why


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        (None, "unknown"),
        (PlanCost(calls=1), "unknown (1 model call)"),
        (PlanCost(calls=0, usd=0), "$0.0000 (0 model calls)"),
    ],
)
def test_an_unknown_cost_is_never_nothing(cost, text):
    assert payback(revision(None, cost=cost)).cost_text() == text
