# SPDX-License-Identifier: Apache-2.0
"""What bench/planner.py counts: dollars by hand, refusals, one campaign for equal nodes, a race, kills, and what of it
is a fault. Small versions of what the bench does; each can come out otherwise."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench import planner as bench
from bench.planning import cost, fleet, kills, race, refusing
from bench.planning.cost import ByRule, End, Walk, answer_usd, per_accepted, plan_usd
from bench.planning.questions import ASKED, SMALL
from controller.api import Verdict
from controller.plan import claude
from controller.plan.claude import tiers
from controller.plan.ledger import PRICES, Call, Ledger
from tests import builders
from tests.plan.test_roles import past

SMALLEST, MIDDLE, LARGE = (tier.model for tier in tiers.TIERS)
SIZES = {
    role: {"prompt_bytes": 14_000, "prompt_tokens": 4000, "stable_tokens": 3000, "output_tokens_assumed": 1000}
    for role in tiers.ROLES
}


@dataclass(frozen=True)
class Fixed:
    """A chooser whose model goes up with the failures and whose answers are taken with one chance."""

    taken: float

    def asked(self, role: str, failures: int, left_usd: float, refused: Mapping[str, int]) -> tuple[str, float]:
        return tiers.TIERS[min(failures + sum(refused.values()), 2)].model, self.taken


# ---- dollars ----


def test_what_a_rejected_candidate_leads_to_is_paid_at_the_next_model():
    small, middle, large = (plan_usd(SIZES, cost.PLAIN, model) for model in (SMALLEST, MIDDLE, LARGE))
    ends = list(Walk(SIZES, Fixed(1.0), attempts=3).policy(0.5))
    assert [(e.chance, e.well) for e in ends] == [(0.5, True), (0.25, True), (0.125, True), (0.125, False)]
    usd = [small, small + middle, small + middle + large, small + middle + large]
    assert [e.usd for e in ends] == pytest.approx(usd)
    said = per_accepted(ends)
    assert said["median_usd"] == pytest.approx(small)
    assert said["mean_usd"] == pytest.approx((0.5 * usd[0] + 0.25 * usd[1] + 0.25 * usd[2]) / 0.875)
    assert said["unaccepted"] == pytest.approx(0.125)
    assert said["mean_usd"] > 5 * small / 0.5, "a plan's cost over the share would be far too little"


def test_the_median_is_of_what_was_accepted():
    ends = [End(0.4, 1.0, True), End(0.1, 2.0, True), End(0.5, 0.1, False)]
    assert per_accepted(ends) == pytest.approx({"median_usd": 1.0, "mean_usd": 1.3, "unaccepted": 0.5})
    assert per_accepted([End(0.4, 1.0, True), End(0.6, 2.0, True)])["median_usd"] == 2.0


def test_refused_answers_are_asked_for_again_and_end_with_the_attempts_of_the_plan():
    ends = list(Walk(SIZES, Fixed(0.5), attempts=2).plan())
    assert sum(e.chance for e in ends) == pytest.approx(1)
    # both at once; one of the two refused once; else the second refusal, over both roles, ends it
    assert sum(e.chance for e in ends if e.well) == pytest.approx(0.25 + 0.125 + 0.125)
    best = min(e.usd for e in ends if e.well)
    assert best == pytest.approx(plan_usd(SIZES, cost.PLAIN, SMALLEST))
    assert max(e.usd for e in ends if e.well) == pytest.approx(best + answer_usd(MIDDLE, SIZES["planner"]))


def test_a_plan_without_an_answer_charges_nobody_and_is_an_attempt():
    ends = list(Walk(SIZES, Fixed(0.0), attempts=1).policy(1.0))
    assert [(e.chance, e.well) for e in ends if e.chance] == [(1.0, False)]
    ends = [e for e in Walk(SIZES, Fixed(0.0), attempts=2).policy(1.0) if e.chance]
    one = answer_usd(SMALLEST, SIZES["planner"]) + answer_usd(MIDDLE, SIZES["planner"])
    assert [e.usd for e in ends] == pytest.approx([2 * one]), "the second begins where the first did"


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_the_walk_asks_whom_the_planner_asks(tmp_path: Path, failures: int):
    asker = bench.Recorder(SMALL.answers())
    earlier = [past(planner="claude", verdict=Verdict.REJECTED, stage="load", rule="load/x")] * failures
    policy = builders.policy()
    claude.propose(
        SMALL.profile, SMALL.intents, policy, SMALL.templates, SMALL.base, asker, earlier=earlier, failures=failures,
        ledger=Ledger(tmp_path / "ledger.jsonl"),
    )  # fmt: skip
    sizes = {role: {"prompt_bytes": len(json.dumps(request, separators=(",", ":")))} for role, request in asker.asked}
    rule = ByRule(sizes)
    walked = [rule.asked(role, failures, cost.BUDGET_USD, {})[0] for role in cost.PLAIN]
    assert [request["model"] for _, request in asker.asked] == walked
    assert (walked[0] == SMALLEST) == (failures == 0)


def test_more_rejections_never_make_a_policy_cheaper():
    rule = Walk(SIZES, ByRule(SIZES))
    said = [per_accepted(rule.policy(share)) for share in cost.ACCEPTANCE]
    for name in ("median_usd", "mean_usd", "unaccepted"):
        assert sorted(s[name] for s in said) == [s[name] for s in said]


def test_what_is_too_short_for_the_cache_has_no_cached_price():
    least = cost.CACHE_MINIMUM[MIDDLE]
    size = {"prompt_tokens": 2 * least, "stable_tokens": least, "output_tokens_assumed": 100}
    assert answer_usd(MIDDLE, size, warm=True) < answer_usd(MIDDLE, size)
    assert cost.can_be_cached(size)
    short = size | {"stable_tokens": least - 1}
    assert answer_usd(MIDDLE, short, warm=True) == answer_usd(MIDDLE, short)
    assert not cost.can_be_cached(short)
    tiny = size | {"prompt_tokens": least - 1, "stable_tokens": 10}
    price = PRICES[MIDDLE]
    plain = ((least - 1) * price.input + 100 * price.output) / 1e6
    assert answer_usd(MIDDLE, tiny) == pytest.approx(plain), "nothing is written to the cache either"


def test_every_model_that_may_be_asked_has_a_least_length():
    assert {tier.model for tier in tiers.TIERS} == set(cost.CACHE_MINIMUM)


# ---- sizes ----


def test_the_author_s_request_is_measured(tmp_path: Path):
    found = bench.sizes(bench.commissioned(tmp_path))
    assert set(found) == {"author"}
    assert found["author"]["requests"] == 12
    assert found["author"]["prompt_bytes"] > 50_000, "header files and a whole template"
    assert found["author"]["answer_bytes"] is None


# ---- refusals ----


def test_refusals_without_end_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    declined, talked = "the model declines to answer", "it refuses in words"
    monkeypatch.setattr(refusing, "ATTEMPTS", (20,))
    monkeypatch.setattr(refusing, "WAYS", {way: refusing.WAYS[way] for way in (declined, talked)})
    found = refusing.measure(tmp_path)
    for each in found.values():
        assert (each["plans"], each["rejected"], each["safe proposal"], each["anything else"]) == (6, 4, 2, 0)
        assert each["over_budget"] == 0
    assert found[declined]["ended_by"] == {"at once": 6, "the attempts": 0, "the budget": 0}
    assert found[talked]["ended_by"]["the budget"] > 0
    assert found[talked]["ended_by"]["the attempts"] > 0
    assert found[talked]["most_requests_of_one"] == 22, "two answers that are right, and twenty that are not"


def test_a_plan_that_changes_the_classes_is_not_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asker = refusing.Refusing(SMALL.answers(), "nobody", "", "end_turn")
    assert refusing.ended(SMALL, asker, Ledger(tmp_path / "l.jsonl"), 3, 1.0)[0] == refusing.SAFE
    made = SMALL.base.model_copy(update={"classes": SMALL.base.classes[:1]})
    monkeypatch.setattr(claude, "propose", lambda *_, **__: made)
    assert refusing.ended(SMALL, asker, Ledger(tmp_path / "l.jsonl"), 3, 1.0)[0] == refusing.OTHER


# ---- equal nodes, races, kills ----


def test_equal_nodes_are_one_campaign_and_unequal_ones_two(tmp_path: Path):
    alike = fleet.measure(tmp_path / "alike", nodes=5)
    assert (alike["campaigns"], alike["requests"], alike["revisions"], alike["nodes_served"]) == (1, len(ASKED), 1, 5)
    assert alike["decided_by"] == ["claude"]
    mixed = fleet.measure(tmp_path / "mixed", nodes=5, classes=2)
    assert (mixed["campaigns"], mixed["requests"], mixed["revisions"], mixed["nodes_served"]) == (2, 4, 2, 5)


def test_two_planners_race_and_only_the_lease_keeps_them_apart(tmp_path: Path):
    leased = race.measure(tmp_path / "leased", rounds=2)
    assert (leased["rounds"], leased["met_at_the_lease"]) == (2, 2)
    assert (leased["planned_twice"], leased["never_planned"], leased["leases_left"]) == (0, 0, 0)
    assert race.measure(tmp_path / "free", rounds=1, leased=False)["planned_twice"] == 1


def test_calls_are_looked_for_where_a_planner_is_killed(tmp_path: Path):
    found = kills.measure(tmp_path, stride=250)
    assert found["points"] == found["killed"] > 3
    assert found["calls_sent"] > 0
    assert (found["calls_unaccounted"], found["ledgers_that_count_too_little"]) == (0, 0)
    assert found["ledgers_that_do_not_go_on"] == 0


def test_a_call_that_no_ledger_knows_is_seen():
    known = Call("c1", "2026-01-01T00:00:00Z", "default", "planner", SMALLEST, 1.0)
    assert kills.unaccounted(2, [known]) == 1
    assert kills.unaccounted(1, [known]) == 0
    assert not kills.uncounted(1, [known])
    free = Call("c1", "2026-01-01T00:00:00Z", "default", "planner", SMALLEST, 0.0)
    assert kills.uncounted(1, [free])


# ---- faults ----


def kept() -> dict[str, Any]:
    return json.loads(bench.RESULTS.read_text())


def test_what_is_kept_has_no_fault():
    assert bench.faults(kept()) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("injections", "requests_holding_any"), 1),
        (("harm", "anything else"), 1),
        (("refusing", "it refuses in words", "anything else"), 1),
        (("refusing", "it refuses in words", "over_budget"), 1),
        (("fleet", "campaigns"), 2),
        (("fleet", "nodes_served"), 999),
        (("race", "lease", "planned_twice"), 1),
        (("race", "lease", "never_planned"), 1),
        (("race", "no lease", "planned_twice"), 0),
        (("kills", "calls_unaccounted"), 1),
        (("kills", "ledgers_that_count_too_little"), 1),
        (("kills", "ledgers_that_do_not_go_on"), 1),
    ],
)
def test_what_must_not_be_is_a_fault(path: tuple[str, ...], value: int):
    result = copy.deepcopy(kept())
    at = result
    for name in path[:-1]:
        at = at[name]
    assert path[-1] in at
    at[path[-1]] = value
    assert len(bench.faults(result)) == 1
