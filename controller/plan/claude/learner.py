# SPDX-License-Identifier: Apache-2.0
"""The learner: what became of earlier proposals → a typed lesson for the next.

Most of what verification says has one reading, and the rules' table gives it for nothing. A model is asked only about
a trial whose figures point both ways (the objective better and something else worse, or the reverse): that is a
trade-off, and which part of it to give up is a judgement.

What others may have written stays here: of an attempt go out the handle of its template, the verdict, stage and rule if
they are words of ours, values under the names shown, and the figures whose names are a trial's own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from controller.api import Lesson as Past
from controller.api import Metric, Verdict
from controller.plan.claude.asking import NUMBER, Campaign, Question, array, obj, one_of
from controller.plan.claude.refusals import Refusal, Refused
from controller.plan.prompt import Prompt, figure, shown_class_values, shown_values
from controller.plan.values import ADVICE, Advice, Attempt, History, Lesson, Lessons
from controller.render import template_digest

MAX_SHOWN = 8
"""Attempts in one prompt, the newest."""
INSTRUCTIONS = (
    """\
You learn from trials of CPU schedulers on Linux. Each attempt is one filled template with its verdict, the stage that
gave it, and that stage's figures: gains in percent against the kernel's own scheduler (baseline) and the scheduler that
runs now (incumbent), positive is better, with the ends of their interval; of the class, of others, and of guardrails.
Say for each attempt, by its number, what the next one should be:
"""
    + "\n".join(f"- {advice}: {meaning}" for advice, meaning in ADVICE.items())
    + "\nA guardrail that is broken outweighs any gain. An interval that holds 0 shows nothing.\n"
)
SCHEMA = obj({"lessons": array(attempt=NUMBER, advice=one_of(list(ADVICE)))})
_METRICS = "|".join(metric.value for metric in Metric)
_FIGURE = re.compile(
    rf"(?:(?:baseline|incumbent)\.(?:guardrail\.)?(?:class|others)\.(?:{_METRICS})(?:\.p[0-9]{{2}})?"
    r"\.(?:gain|low|high|max_regression)_percent|pairs|pairs_needed|runs|noise_percent|mde_percent|detectable_percent"
    r"|confidence|insns_verified)",
    re.ASCII,
)
_RULE_NAMES = {
    "lint": (
        "bad-name charge-by-slice counter-not-atomic double-insert dsq-never-consumed dsq-never-created "
        "endless-loop lost-task missing-kick mixed-order-dsq no-exit no-idle-wakeup no-lag-clamp "
        "slice-inf-no-timer slice-zero timeout-too-long unbounded-dispatch vtime-compare "
        "vtime-not-initialised vtime-on-builtin-dsq"
    ),
    "build": "rejected",
    "load": (
        "bad-argument bad-pointer division field-missing helper-not-allowed kfunc-missing kfunc-not-allowed "
        "licence null-pointer operation out-of-bounds reference-leak refused return-value stack "
        "unbounded-loop uninitialised unreachable verifier-bug write-refused"
    ),
    "liveness": (
        "affinity-churn cgroup-shares exec-churn fork-storm hotplug idle-wakeup kworker-latency late-waker "
        "long-sleeper many-tasks pinned-floating reload rt-hog soak weighted-shares yield-storm"
    ),
    "trial": "attach detach panic stuck worse",
}
RULES = frozenset(f"{stage}/{name}" for stage, names in _RULE_NAMES.items() for name in names.split())
"""Rules that are named to a model. Any other is left out: a rule comes from a file in Git, and its name is a text."""


def attempts(earlier: Sequence[Past], prompt: Prompt) -> tuple[Attempt, ...]:
    """The newest of them as data; those whose template is not offered, or has another text now, are left out."""
    handles = {(e.template.name, template_digest(e.template)): e for e in prompt.templates.values()}
    known = [(one, handles.get((one.template, one.template_digest))) for one in earlier]
    shown = [(one, entry) for one, entry in known if entry is not None][-MAX_SHOWN:]
    return tuple(
        Attempt(
            attempt=number,
            template=entry.handle,
            verdict=one.verdict,
            stage=one.stage,
            rule=one.rule if one.rule in RULES else None,
            parameters=shown_values(entry, one.parameters),
            classes=shown_class_values(entry, one.class_parameters),
            holes=tuple(name for name in entry.holes if name in one.holes),
            figures={
                name: value if isinstance(value, bool) else figure(value)
                for name, value in one.figures.items()
                if _FIGURE.fullmatch(name)
            },
        )
        for number, (one, entry) in enumerate(shown, start=1)
    )


def by_rules(tried: Sequence[Attempt]) -> Lessons:
    """What the table says, an advice for each attempt that ended with a verdict."""
    judged = (a for a in tried if a.verdict is not Verdict.ERROR)
    return Lessons(lessons=tuple(Lesson(attempt=a.attempt, advice=_advice(a)) for a in judged))


def is_trade_off(tried: Sequence[Attempt]) -> bool:
    """Whether the newest attempt ended in a trial whose figures point both ways."""
    if not tried or tried[-1].stage != "trial":
        return False
    gains = _gains(tried[-1])
    return any(gain > 0 for gain in gains) and any(gain < 0 for gain in gains)


def ask(campaign: Campaign, prompt: Prompt, tried: tuple[Attempt, ...], by_rule: Lessons) -> Lessons:
    """The rules' lessons with those of a model in their place where it says something."""
    numbers = [attempt.attempt for attempt in tried]

    def check(said: Lessons) -> Lessons:
        if any(lesson.attempt not in numbers for lesson in said.lessons):
            raise Refused(Refusal("handles", ("lessons",), "oneOf", tuple(map(str, numbers))))
        merged = {lesson.attempt: lesson for lesson in (*by_rule.lessons, *said.lessons)}
        return Lessons(lessons=tuple(merged[number] for number in sorted(merged)))

    given = History(intents=prompt.intents, attempts=tried)
    return campaign.ask(Question("learner", (INSTRUCTIONS,), given, Lessons, SCHEMA), check)


def _advice(attempt: Attempt) -> Advice:
    if attempt.verdict is Verdict.PASS:
        return "keep"
    if attempt.stage in ("schema", "render") or (attempt.holes and attempt.stage not in ("liveness", "trial")):
        return "noExpressions"
    filled = bool(attempt.parameters or attempt.classes)
    if attempt.stage == "trial":
        gains = _gains(attempt)
        if any(gain < 0 for gain in gains) and not any(gain > 0 for gain in gains):
            return "otherDirection" if filled else "noExpressions" if attempt.holes else "otherTemplate"
        return "smallerStep" if filled else "otherTemplate"
    if attempt.stage == "liveness" and (filled or attempt.holes):
        return "nearDefaults" if filled else "noExpressions"
    return "otherTemplate"


def _gains(attempt: Attempt) -> list[float]:
    return [value for name, value in attempt.figures.items() if name.endswith(".gain_percent")]


def texts() -> Sequence[str]:
    """Our own texts in its requests, and the names of figures that may be in them."""
    return (INSTRUCTIONS, *RULES)


def is_figure(name: str) -> bool:
    """Whether a figure's name may be in a request."""
    return _FIGURE.fullmatch(name) is not None
