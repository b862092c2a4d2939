# SPDX-License-Identifier: Apache-2.0
"""What is recalled: exact to the word, near by objective and load, and neither when something stands against it."""

from __future__ import annotations

from typing import Any

import pytest

from controller.api import (
    Fingerprint,
    Lesson,
    PlanCost,
    PlannerRecord,
    SchedulerRevision,
    SchedulingIntent,
    Verdict,
    fingerprint_of,
)
from controller.errors import InputError
from controller.plan import Past, rules, select
from controller.plan.learning import Prior
from controller.plan.recall import EXACT, Question, Standing, matches, planned_intents, recall
from controller.render import builtin_templates, render, template_digest
from tests import builders
from tests.builders import T0, TARGET, digest
from tests.plan import claude_case as case
from tests.reconcile.planning import DAY, NEARBY, NIGHT, observed

INTENT = builders.intent()
TEMPLATES = {t.name: t for t in builtin_templates()}
POLICY = builders.policy(planner={"mode": "rules"})


def load(of: dict[str, object], name: str = "shop/checkout") -> Fingerprint:
    status = observed(load=of).status
    assert status is not None
    assert status.profile is not None
    found = fingerprint_of(status.profile, ["shop/checkout"])
    first = found.workloads[0].model_copy(update={"name": name})
    return Fingerprint(workloads=(first, *found.workloads[1:]))


def known(name: str = "old-1", of: dict[str, object] = DAY, *, made: float = 0, intent: Any = INTENT, **spec: Any):
    """A committed revision of weighted-fair, planned for this load."""
    base = builders.revision(name, builders.policy("earlier"), (intent,), made=made)
    proposal = base.spec.proposal.model_copy(update={"template_digest": template_digest(TEMPLATES["weighted-fair"])})
    full = {"proposal": proposal, "workload": load(of, f"shop/{intent.name}"), "intents": planned_intents((intent,))}
    return base.model_copy(update={"spec": base.spec.model_copy(update=full | spec)})


def question(
    of: dict[str, object] = DAY, intents: tuple[SchedulingIntent, ...] = (INTENT,), **changes: Any
) -> Question:
    plain = {"policy": POLICY, "intents": intents, "target": TARGET, "workload": load(of, f"shop/{intents[0].name}")}
    return Question(**{**plain, "templates": tuple(TEMPLATES.values()), **changes})


def kinds(asked: Question, *revisions: SchedulerRevision) -> list[tuple[str, str]]:
    return [(m.kind, m.revision.name) for m in matches(asked, revisions)]


def test_the_same_wish_and_load_under_another_key_is_exact():
    assert kinds(question(), known()) == [("exact", "old-1")]


def changed(**spec: Any) -> SchedulingIntent:
    return INTENT.model_copy(update={"spec": INTENT.spec.model_copy(update=spec)})


GUARD = {"workload": "others", "metric": "throughput", "maxRegression": "3%"}
OBJECTIVE = INTENT.spec.objective


@pytest.mark.parametrize(
    ("intent", "found"),
    [
        (changed(weight=101), ["near"]),
        (changed(workload=INTENT.spec.workload.model_copy(update={"comm": ("web2",)})), ["near"]),
        (changed(objective=OBJECTIVE.model_copy(update={"target": "2ms"})), ["near"]),
        (changed(guardrails=(builders.IntentSpec.model_validate(
            {"workload": {"comm": ["x"]}, "objective": OBJECTIVE, "guardrails": [GUARD]}).guardrails)), ["near"]),
        (changed(objective=OBJECTIVE.model_copy(update={"percentile": 95})), []),
        (changed(objective=OBJECTIVE.model_copy(update={"percentile": 99})), ["near"]),
        (changed(objective=builders.Objective(metric="throughput", goal="maximize")), []),
        (builders.intent("renamed"), ["near"]),
    ],
    ids=["weight", "match", "target", "guardrail", "percentile", "the default percentile", "metric", "name"],
)  # fmt: skip
def test_exact_is_to_the_word_and_near_is_the_same_objective(intent, found):
    assert [kind for kind, _ in kinds(question(intents=(intent,)), known())] == found


@pytest.mark.parametrize(
    "changes",
    [
        {"target": TARGET.model_copy(update={"btf_digest": digest("9")})},
        {"target": TARGET.model_copy(update={"topology_class": "cpus4.pkg1.smt1.llc1.numa1"})},
        {"templates": tuple(t for n, t in TEMPLATES.items() if n != "weighted-fair")},
        {"templates": (TEMPLATES["weighted-fair"].with_text("another text"),)},
        {"intents": (INTENT, builders.intent("second"))},
    ],
    ids=["kernel", "topology", "template gone", "template changed", "one intent more"],
)
def test_another_kernel_machine_template_or_set_of_intents_is_nothing_to_recall(changes):
    assert kinds(question(**changes), known()) == []


def test_a_patch_release_with_the_same_btf_is_the_same_kernel():
    assert kinds(question(target=TARGET.model_copy(update={"kernel_release": "7.3.9"})), known()) == [
        ("exact", "old-1")
    ]


def test_a_load_that_is_away_is_a_prior_and_one_that_is_far_is_nothing():
    (near,) = matches(question(NEARBY), [known()])
    assert near.kind == "near"
    assert EXACT < near.distance < 0.35
    assert kinds(question(NIGHT), known()) == []


def test_a_policy_with_little_patience_for_drift_takes_less_as_exact():
    strict = builders.policy(planner={"mode": "rules"}, verification={"maxDrift": 0.01})
    slightly = {**DAY, "wakeups": 5500}
    assert [k for k, _ in kinds(question(slightly), known())] == ["exact"]
    assert [k for k, _ in kinds(question(slightly, policy=strict), known())] == ["near"]


@pytest.mark.parametrize(("mode", "kind"), [("auto", "exact"), ("rules", "exact"), ("claude", "near")])
def test_a_policy_that_names_another_planner_gets_a_new_plan(mode, kind):
    assert kinds(question(policy=builders.policy(planner={"mode": mode})), known()) == [(kind, "old-1")]


def test_expressions_are_not_taken_where_the_policy_allows_none():
    full = known()
    proposal = full.spec.proposal.model_copy(update={"expressions": {"deadline": "1"}})
    spec = {"proposal": proposal}
    for autonomy, kind in (("expressions", "exact"), ("parameters", "near")):
        policy = builders.policy(planner={"mode": "rules", "autonomy": autonomy})
        assert kinds(question(policy=policy), known(**spec)) == [(kind, "old-1")]


def test_a_revision_that_does_not_say_what_was_wanted_is_not_recalled():
    assert kinds(question(), known(intents=()), known("b", workload=None)) == []


def test_the_nearest_comes_first_and_of_equals_the_newest():
    older, newer, away = known("a"), known("b", made=60), known("c", {**DAY, "wakeups": 6000}, made=90)
    assert [n for _, n in kinds(question(), older, away, newer)] == ["b", "a", "c"]


def test_equal_wishes_of_other_teams_are_paired_by_load():
    quick, slow = builders.intent("quick", comm="q"), builders.intent("slow", comm="s")
    mine = (builders.intent("alpha", comm="a"), builders.intent("beta", comm="b"))

    def two(names: tuple[str, str]) -> Fingerprint:
        return Fingerprint(
            workloads=tuple(load(of, f"shop/{n}").workloads[0] for n, of in zip(names, (DAY, NIGHT), strict=True))
        )

    base = known(intent=quick)
    classes = builders.revision("x", POLICY, (quick, slow)).spec.proposal.classes
    spec = {
        "proposal": base.spec.proposal.model_copy(update={"classes": classes}),
        "intents": planned_intents((quick, slow)),
        "workload": two(("quick", "slow")),
    }
    asked = question(intents=mine, workload=two(("beta", "alpha")))
    (match,) = matches(asked, [base.model_copy(update={"spec": base.spec.model_copy(update=spec)})])
    assert match.names == {"shop/quick": "shop/beta", "shop/slow": "shop/alpha"}
    assert match.distance == 0


def test_standing_is_asked_of_the_nearest_first_and_no_further_than_needed():
    asked: list[str] = []

    def standing(revision: SchedulerRevision) -> Standing:
        asked.append(revision.name)
        return {"b": Standing(bad="expired"), "a": Standing(short="no trial")}.get(revision.name, Standing())

    revisions = [known("a"), known("b", made=60), known("n", NEARBY), known("z", {**DAY, "wakeups": 6000})]
    found = recall(question(), revisions, standing)
    assert found.exact is not None
    assert (found.exact.revision.name, asked) == ("z", ["b", "a", "z"])
    assert found.passed_over == ("b: expired", "a: no trial")
    none = recall(question(), revisions[:2], standing)
    assert none.exact is None
    assert none.near is not None
    assert none.near.revision.name == "a"  # good, only not enough: a prior
    assert recall(question(), [], standing).near is None


# A prior ---------------------------------------------------------------------------------------------------------


def prior(template: str = "latency-first", planner: str = "claude", **values: Any) -> Prior:
    plain = case.base(template=template).model_copy(
        update={"planner": PlannerRecord(name=planner, version="m"), "parameters": values}
    )
    return Prior("old-7", plain, 0.2, {"shop/checkout": "shop/checkout", "shop/reports": "shop/reports"})


def plan(past: Past, **planner: Any):
    policy = builders.policy(planner={"mode": "rules", **planner})
    return select.propose(case.profile(), case.INTENTS, policy, case.TEMPLATES, past)


def test_a_prior_gives_its_template_and_what_a_model_chose_and_the_reasons_say_so():
    made = plan(Past(prior=prior(slice="7ms")))
    assert (made.template, made.parameters["slice"], made.planner.name) == ("latency-first", "7ms", "rules")
    assert made.reasons[0].startswith("starts from revision old-7, by claude: verified for a load at distance 0.20")
    assert render(made, TEMPLATES["latency-first"]).text


def test_what_the_rules_derived_then_they_derive_anew():
    fresh = rules.propose(case.profile(), case.INTENTS, POLICY, [TEMPLATES["latency-first"]])
    assert "slice" in fresh.parameters
    made = plan(Past(prior=prior(planner="rules", slice="7ms", lag="9ms")))
    assert made.parameters == {**fresh.parameters, "lag": "9ms"}


def test_expressions_of_a_prior_are_left_out_where_none_are_allowed():
    hole = TEMPLATES["latency-first"].spec.holes[0]
    given = prior()
    given = Prior(given.revision, given.proposal.model_copy(update={"expressions": {hole.name: hole.default}}), 0.1,
                  given.names)  # fmt: skip
    assert plan(Past(prior=given)).expressions == {hole.name: hole.default}
    assert plan(Past(prior=given), autonomy="parameters").expressions == {}


# Lessons ---------------------------------------------------------------------------------------------------------

INPUTS = digest("e")


def lesson(template: str, **changes: Any) -> Lesson:
    found = TEMPLATES[template]
    plain = {
        "inputs": INPUTS, "candidate": digest("1"), "template": template, "templateDigest": template_digest(found),
        "planner": "rules", "verdict": Verdict.REJECTED, "stage": "trial", "rule": "trial/worse",
        "figures": {"baseline.class.wakeupLatency.p99.gain_percent": -12.34567}, "at": T0,
    }  # fmt: skip
    return Lesson.model_validate({**plain, **changes})


def test_a_template_that_was_refused_gives_way_to_the_second_best():
    first = plan(Past(INPUTS))
    second = plan(Past(INPUTS, (lesson(first.template),)))
    assert second.template != first.template
    assert second.reasons[-1] == f"{first.template} was rejected by trial (trial/worse)"


@pytest.mark.parametrize(
    "changes", [{"inputs": digest("f")}, {"templateDigest": digest("f")}, {"verdict": Verdict.ERROR}]
)
def test_a_lesson_ends_with_its_inputs_and_an_error_teaches_nothing(changes):
    first = plan(Past(INPUTS))
    assert plan(Past(INPUTS, (lesson(first.template, **changes),))).template == first.template


def test_when_everything_was_refused_there_is_nothing_else_to_propose():
    with pytest.raises(InputError, match=r"nothing else to propose: .*weighted-fair was rejected by trial"):
        plan(Past(INPUTS, tuple(lesson(name) for name in TEMPLATES)))


def test_a_refused_template_is_no_prior_either():
    assert plan(Past(INPUTS, (lesson("latency-first"),), prior())).template != "latency-first"


def test_a_revision_with_the_new_fields_survives_the_wire():
    spec = known(lessons=(lesson("pipeline"),), cost=PlanCost(calls=2, usd=0.25)).spec
    assert type(spec).model_validate(spec.wire()) == spec
    unknown = PlanCost(calls=2)
    assert "usd" not in unknown.wire()
    assert PlanCost.model_validate(unknown.wire()).usd is None
