# SPDX-License-Identifier: Apache-2.0
"""The planner: findings, intents, catalogue and what was tried → a strategy. It chooses; it writes no value.

Always asked where there is a model: which template fits several intents at once, and which of its parameters are worth
moving, is what the rules do by a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from controller.api import Parameter, Proposal
from controller.api.template import ParameterValue
from controller.errors import TemplateError
from controller.plan.claude import observer
from controller.plan.claude.asking import TEXT, TEXTS, Campaign, Question, array, obj, one_of
from controller.plan.claude.refusals import NoAnswer, Refusal, Refused
from controller.plan.prompt import Prompt, outline
from controller.plan.values import ADVICE, GAPS, KINDS, Aim, Attempt, Findings, Lessons, Strategy
from controller.plan.values import Question as Given
from controller.render.parameters import number

INSTRUCTIONS = (
    """\
You plan CPU schedulers for Linux nodes (sched_ext, eBPF). You are given a catalogue of scheduler templates, what was
measured and found on one node, and what its workloads want. Choose the template, and say which of its parameters go
which way, so that every intent is served as its metric, target and weight ask, while others (all tasks without an
intent) is never starved and the guardrails hold. Somebody else writes the values; they are checked, rendered to C,
verified on a real kernel and measured against the kernel's own scheduler before a node may run it.

How to decide
- A template suits the metrics it lists; for intents of several metrics prefer the template that suits the metric of the
  heaviest intent. Weights are as in cgroup v2 cpu.weight (default 100) and are already part of each class.
- Shorter slices lower latency and cost switches; longer ones help throughput and caches. Move a parameter only for a
  reason the findings give; what you do not name keeps its default.
- rulesPlanner is what a fixed rule set would do with the same input. Keep it where you have no better reason.
- attempts are earlier proposals for the same question, lessons what to do after each: do not repeat what was rejected.

How to answer
- template: a handle of the catalogue.
- aims: parameter (a name of that template), intent (a handle for a class parameter, empty for one of the whole
  scheduler), direction from its default, and the kind of finding that speaks for it.
- holes: those of the template's holes whose default expression should be replaced; usually none.
- reasons: one to five short sentences, each naming the finding it rests on, with handles for workloads and intents.

Kinds of findings
"""
    + "\n".join(f"- {kind}: {meaning}" for kind, meaning in KINDS.items())
    + "\n\nLessons\n"
    + "\n".join(f"- {advice}: {meaning}" for advice, meaning in ADVICE.items())
)

DRAFTING = (
    """
- lacks: what no template of the catalogue decides, and the intents need decided. Choose the best template there is all
  the same: it is what will run. Only for a gap that no parameter and no hole can close a new template is drafted, which
  is dear, which a person has to review, and which this plan will not use. Usually the answer is nothing.

What can be lacking
"""
    + "\n".join(f"- {gap}: {meaning}" for gap, meaning in GAPS.items())
    + "\n"
)


def ask(
    campaign: Campaign, prompt: Prompt, findings: Findings, tried: tuple[Attempt, ...], lessons: Lessons
) -> Strategy:
    """The model's strategy, checked against the catalogue."""
    given = Given(
        node=prompt.node,
        workloads=prompt.workloads,
        intents=prompt.intents,
        findings=findings.findings,
        rules_planner=prompt.prior,
        attempts=tried,
        lessons=lessons.lessons,
    )
    stable = (INSTRUCTIONS + (DRAFTING if prompt.drafting else ""), outline(prompt.templates.values()))
    question = Question("planner", stable, given, Strategy, _schema(list(prompt.templates), drafting=prompt.drafting))
    return campaign.ask(question, lambda said: checked(said, prompt))


def by_rules(prompt: Prompt, base: Proposal) -> Strategy:
    """The strategy that the rules planner's proposal amounts to. NoAnswer if its template is not offered."""
    entry = next((e for e in prompt.templates.values() if e.template.name == base.template), None)
    if entry is None:
        raise NoAnswer("the template that the rules chose is not offered")
    kinds = {finding.subject: finding.kind for finding in reversed(observer.by_rules(prompt).findings)}
    aims = [
        Aim(parameter=name, intent="", direction=_direction(p, base.parameters[p.name]), because=kinds["node"])
        for name, p in entry.parameters.items()
        if p.name in base.parameters
    ]
    for handle, index in prompt.classes.items():
        chosen = base.classes[index].parameters
        aims += [
            Aim(
                parameter=name,
                intent=handle,
                direction=_direction(p, chosen[p.name]),
                because=kinds.get(handle, kinds["node"]),
            )
            for name, p in entry.class_parameters.items()
            if p.name in chosen
        ]
    return Strategy(template=entry.handle, aims=tuple(aims[:64]), holes=tuple(base.expressions), reasons=())


def checked(said: Strategy, prompt: Prompt) -> Strategy:
    """The strategy, or Refused with everything that is wrong with it."""
    entry = prompt.templates.get(said.template)
    if entry is None:
        raise Refused(Refusal("handles", ("template",), "oneOf", tuple(prompt.templates)))
    wrong: list[Refusal] = []
    for aim in said.aims:
        declared: Mapping[str, Parameter] = entry.class_parameters if aim.intent else entry.parameters
        if aim.intent and aim.intent not in prompt.classes:
            wrong.append(Refusal("handles", ("aims",), "oneOf", tuple(prompt.classes)))
        elif aim.parameter not in declared:
            wrong.append(Refusal("handles", ("aims", entry.handle), "oneOf", tuple(declared)))
    if len({(aim.intent, aim.parameter) for aim in said.aims}) < len(said.aims):
        wrong.append(Refusal("handles", ("aims", entry.handle), "once"))
    if said.holes and not prompt.expressions:
        wrong.append(Refusal("autonomy", ("holes",), "autonomy"))
    elif len(set(said.holes) & entry.holes.keys()) < len(said.holes):
        wrong.append(Refusal("handles", ("holes", entry.handle), "oneOf", tuple(entry.holes)))
    if said.lacks != "nothing" and not prompt.drafting:
        wrong.append(Refusal("autonomy", ("lacks",), "autonomy"))
    if wrong:
        raise Refused(*wrong)
    return said


def _direction(parameter: Parameter, value: ParameterValue) -> Literal["raise", "lower", "keep"]:
    try:
        given, usual = number(parameter, value, "prior"), number(parameter, parameter.default, "prior")
    except TemplateError:
        return "keep"
    return "raise" if given > usual else "lower" if given < usual else "keep"


def _schema(templates: list[str], *, drafting: bool) -> dict[str, object]:
    aim = {
        "parameter": TEXT,
        "intent": TEXT,
        "direction": one_of(("raise", "lower", "keep")),
        "because": one_of(list(KINDS)),
    }
    lacks = {"lacks": one_of(list(GAPS))} if drafting else {}
    return obj({"template": one_of(templates), "aims": array(**aim), "holes": TEXTS, **lacks, "reasons": TEXTS})


def texts() -> Sequence[str]:
    """Our own texts in its requests."""
    return (INSTRUCTIONS, INSTRUCTIONS + DRAFTING, "aims")
