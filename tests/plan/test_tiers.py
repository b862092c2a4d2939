# SPDX-License-Identifier: Apache-2.0
"""Which model is asked: the rule is pure, goes up with refusals, and stays within what is left of the budget."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.plan import claude
from controller.plan.claude import tiers
from controller.plan.claude.tiers import ROLES, TIERS, RoleName, Tier, choose, expected_usd
from controller.plan.ledger import Ledger, most
from tests import builders
from tests.plan import claude_case as case

SMALL, MIDDLE, LARGE = (tier.model for tier in TIERS)
SIZE = 11_000


def test_a_small_model_begins_and_each_refusal_moves_the_question_up() -> None:
    asked, refused = [], {}
    for _ in range(8):
        model = choose("planner", SIZE, 100, {}, refused)
        asked.append(model)
        refused[model] = refused.get(model, 0) + 1
    order = [SMALL, MIDDLE, LARGE]
    assert asked == sorted(asked, key=order.index)
    assert set(asked) == set(order)


@pytest.mark.parametrize("role", ROLES)
def test_what_the_ledger_knows_outweighs_what_was_believed(role: RoleName) -> None:
    assert choose(role, SIZE, 100, {}, {}) == SMALL
    assert choose(role, SIZE, 100, {SMALL: (1, 99)}, {}) != SMALL
    assert choose(role, SIZE, 100, {SMALL: (1, 99), MIDDLE: (1, 99)}, {}) == LARGE


def test_what_the_budget_does_not_cover_is_not_chosen() -> None:
    dearest = most(MIDDLE, SIZE, ROLES["planner"].max_tokens)
    assert dearest is not None
    tried = {SMALL: 3}
    assert choose("planner", SIZE, dearest, {}, tried) == MIDDLE
    assert choose("planner", SIZE, dearest - 1e-9, {}, tried) == SMALL
    assert choose("planner", SIZE, 0, {}, tried) == SMALL, "the cheapest, for the ledger to refuse"


def test_a_model_without_a_price_is_never_chosen() -> None:
    unknown = Tier("small", "claude-unheard-of", 1000, 0)
    assert choose("planner", SIZE, 100, {}, {}, (unknown, *TIERS[1:])) == MIDDLE
    assert expected_usd("planner", "claude-unheard-of", SIZE) is None


@given(
    st.sampled_from(sorted(ROLES)),
    st.integers(0, 99_000),
    st.floats(0, 50),
    st.dictionaries(st.sampled_from([t.model for t in TIERS]), st.tuples(st.integers(0, 999), st.integers(0, 999))),
    st.dictionaries(st.sampled_from([t.model for t in TIERS]), st.integers(0, 20)),
)
def test_the_choice_can_be_paid_and_does_not_go_down_again(role, size, left, judged, tried):
    model = choose(role, size, left, judged, tried)
    dearest = {t.model: most(t.model, size, ROLES[role].max_tokens) or 99 for t in TIERS}
    affordable = [t.model for t in TIERS if dearest[t.model] <= left]
    assert model in affordable or (not affordable and model == SMALL)
    order = [t.model for t in TIERS]
    refused = [order.index(m) for m, count in tried.items() if count]
    above = [m for m in affordable if not refused or order.index(m) >= max(refused)]
    assert model in above or not above


def test_rejected_candidates_of_earlier_plans_count_as_refusals() -> None:
    assert tiers.charged("planner", 0, SIZE, 100, {}) == {}
    two = tiers.charged("planner", 2, SIZE, 100, {})
    assert sum(two.values()) == 2
    assert two[SMALL] == 1


def test_a_plan_learns_from_the_ledger(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for _ in range(40):
        about = {"role": "executor", "model": SMALL}
        call = ledger.reserve(policy="other", limit_usd=9, estimate_usd=0.001, about=about)
        ledger.settle(call, "answered", 0.001, {})
        ledger.judge(call, accepted=False)
    asked = case.Authored([case.strategy(), case.filling()])
    made = claude.propose(
        case.profile(), case.INTENTS, builders.policy(), case.TEMPLATES, case.base(), asked, ledger=ledger
    )
    assert [request["model"] for _, request in asked.asked] == [SMALL, MIDDLE]
    assert made.planner.version == f"{SMALL}+{MIDDLE}"
