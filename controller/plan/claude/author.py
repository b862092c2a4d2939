# SPDX-License-Identifier: Apache-2.0
"""The author: a gap that a strategy names → the files of a new template, for a person to review.

Asked last, when the proposal is complete: what it costs of time, money and refused answers is what the plan left over,
and nothing it says changes what was proposed. It is given the gap as a word, the figures, our own header files, and the
text of one of our own templates; of a template from a policy repository it never sees a line.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from controller.api import Metric, Proposal, TemplateDraft
from controller.api.draft import MAX_README_CHARS, MAX_SOURCE_CHARS
from controller.paths import data_dir
from controller.plan.claude.asking import TEXT, Campaign, Question, array, obj, one_of
from controller.plan.claude.learner import RULES
from controller.plan.claude.refusals import NoAnswer, Refusal, Refused
from controller.plan.drafting import Desk, Fault, Untold, drafted
from controller.plan.prompt import Entry, Prompt, page
from controller.plan.values import Commission, Draft, Findings, Strategy
from controller.render import builtin_templates

HEADERS = ("schedctl.bpf.h", "kernel", "knob", "group", "task", "dsq", "fair")
INSTRUCTIONS = f"""\
You write a new template of a CPU scheduler for Linux (sched_ext, eBPF): Jinja text that renders to one C file. lacks
says what no template decides today; workloads, intents and findings say for whom. Your files are data: they are
checked, rendered with every parameter at its default, linted, compiled and audited. If that goes well they are proposed
on a branch, where a person reviews them; nothing runs them before.

Files
- name: 3 to 40 characters, a-z, 0-9 and single hyphens; not that of a template that exists.
- summary: one sentence. suits: the metrics it is made for.
- parameters of the whole scheduler, classParameters of each class: name (a-z, 0-9, _), type, default, minimum, maximum,
  written as 500us, 2ms, 5%, 12, true; a boolean has "" for both bounds. live: it may change while the scheduler runs;
  then it is read as knob(KNOB_NAME), class parameters as class_knob(class, KNOB_NAME), and is never written into the C.
- source: ASCII, at most {MAX_SOURCE_CHARS} characters; what it renders to reads like a scheduler written by hand.
- readme: Markdown, at most {MAX_README_CHARS} characters: when it suits, what it guarantees, where it is worst.

Jinja
- Given are ops_name, parameters.NAME, classes (index, handle, intent, metric, weight, needs, parameters.NAME),
  comm_rules, uid_rules and tgid_rules (index, value), knob_rows (before the header), knob_table (after it),
  match_cgroups. The example shows all of them: take its head, up to the queues, as it stands.
- Allowed are values, if, for (not inside another for), sums of whole numbers, and the filters ns, permille, duration,
  percentage, comment, cstring, length, int, first, last. No macros, includes or calls; this template has no holes.

C
- GPL-compatible, schedctl.bpf.h alone is included. Every task that is enqueued is inserted into a DSQ once, and every
  DSQ is consumed; loops are bounded; an idle CPU is kicked for a task that waits; init, exit, init_task, cpu_online and
  cpu_offline are there; account_runnable in runnable goes with account_quiescent in quiescent; .timeout_ms is at most
  5000; .name is "{{{{ ops_name }}}}".

Below are the header files, the example's metadata, and the example's text.
"""


def wanted(prompt: Prompt, strategy: Strategy) -> bool:
    """Whether the strategy asks for a new template, and may."""
    return prompt.drafting and strategy.lacks != "nothing"


def hand_in(
    campaign: Campaign, prompt: Prompt, findings: Findings, strategy: Strategy, base: Proposal, desk: Desk
) -> None:
    """Ask, and leave at the desk the draft or why there is none. Never raises: the plan stands without it."""
    entry = example(prompt, strategy)
    given = Commission(
        lacks=strategy.lacks,
        template=entry.handle,
        node=prompt.node,
        workloads=prompt.workloads,
        intents=prompt.intents,
        findings=findings.findings,
    )
    stable = (_instructions(), page(entry), entry.template.text)
    question = Question("author", stable, given, Draft, _SCHEMA)
    try:
        desk.draft = campaign.ask(question, lambda said: _checked(said, desk, base, campaign))
    except NoAnswer as reason:
        desk.why = reason.message
    except Untold as reason:
        desk.why = str(reason)


def example(prompt: Prompt, strategy: Strategy) -> Entry:
    """The template that was chosen if it is ours, else the first of ours that may be shown."""
    entries = [prompt.templates[strategy.template], *prompt.templates.values()]
    ours = next((entry for entry in entries if entry.ours), None)
    if ours is not None:
        return ours
    first = builtin_templates()[0]
    named = {p.name: p for p in first.spec.parameters}
    by_class = {p.name: p for p in first.spec.class_parameters}
    return Entry("t1", first, ours=True, parameters=named, class_parameters=by_class, holes={})


def _checked(said: Draft, desk: Desk, base: Proposal, campaign: Campaign) -> TemplateDraft:
    try:
        return drafted(said, desk, base, campaign.asking)
    except Fault as fault:
        place = tuple(part if part in RULES or not part.count("/") else fault.stage for part in fault.place)
        line = str(fault.line) if fault.line else ""
        raise Refused(Refusal(fault.stage, place, fault.rule, fault.allowed, line)) from None


@functools.cache
def _instructions() -> str:
    """With the header files, which change only with the version."""
    folder = data_dir("bpf") / "include"
    names = [name if "." in name else f"schedctl_{name}.bpf.h" for name in HEADERS]
    return INSTRUCTIONS + "".join(f"\n--- {name}\n{(folder / name).read_text(encoding='utf-8')}" for name in names)


_DECLARED = array(
    name=TEXT, type=one_of(("duration", "percent", "integer", "boolean")), default=TEXT, minimum=TEXT, maximum=TEXT,
    live={"type": "boolean"}, description=TEXT,
)  # fmt: skip
_SCHEMA = obj(
    {
        "name": TEXT, "summary": TEXT,
        "suits": {"type": "array", "items": one_of([metric.value for metric in Metric])},
        "parameters": _DECLARED, "classParameters": _DECLARED, "source": TEXT, "readme": TEXT,
    }
)  # fmt: skip


def texts() -> Sequence[str]:
    """Our own texts in its requests: the header files and our templates among them."""
    return (_instructions(), *(t.text for t in builtin_templates()))
