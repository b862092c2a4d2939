# SPDX-License-Identifier: Apache-2.0
"""Proposal + template → C: one `.bpf.c`, byte-identical for the same two values.

A template is Jinja text (controller/render/engine.py says what it may use) with these values:

    ops_name        schedctl_ and 12 hexadecimal digits: the name the kernel shows in root/ops
    parameters      .NAME: durations in nanoseconds, percentages as fractions, integers, booleans
    classes         the classes after others, each: .index (1…), .handle, .intent, .metric, .weight,
                    .needs (C flags MATCH_*), .parameters
    comm_rules      rows .index (of the class), .value (a glob): every process name pattern, in order of class
    uid_rules       rows .index, .value: every user id
    tgid_rules      the same of every process number
    knob_rows       C for before the header: rows and ranges of the live knobs (knobs.py), "" when there are none
    knob_table      C for after it: the map of the knobs, with the values to start with
    match_cgroups   whether any class is matched by cgroup
    hole("NAME", name="C expression", …)
                    the expression for the hole, proven safe (holes.py), each declared name replaced by its C and
                    clamped to its range, the result clamped to the hole's; all declared names are given
    filters         ns, permille: C literals; duration, percentage, comment: for comments; cstring: a C string
"""

from __future__ import annotations

import hashlib
from typing import Any

from controller.api.base import sha256
from controller.api.proposal import ClassMatch, Proposal, RenderedSource, TaskClass
from controller.api.template import SchedulerTemplate
from controller.errors import TemplateError
from controller.render import engine, holes, parameters
from controller.render.catalog import builtin_templates, load_template
from controller.render.knobs import Knob, check, definitions, knobs, readers, table

__all__ = [
    "Knob", "builtin_templates", "check_template", "knobs", "load_template", "render", "template_digest",
]  # fmt: skip

MAX_RULES = 4096


def template_digest(template: SchedulerTemplate) -> str:
    """Digest of the template's text, as `Proposal.template_digest` holds it."""
    return sha256(template.text.encode())


def check_template(template: SchedulerTemplate) -> None:
    """TemplateError unless text, parameters and holes fit together: defaults in range, holes declared and used."""
    where = _where(template)
    used = engine.holes_used(template.text, where)
    declared = {hole.name for hole in template.spec.holes}
    if used != declared:
        missing = sorted(declared - used)
        problem = f"does not use its hole {missing[0]!r}" if missing else f"uses hole {min(used - declared)!r}"
        remedy = "declare each hole in spec.holes and call it once with hole(…)"
        raise TemplateError(f"{where}: the text {problem}{'' if missing else ', which is not declared'}", remedy=remedy)
    parameters.resolve(template.spec.parameters, {}, where)
    parameters.resolve(template.spec.class_parameters, {}, where)
    check(template)
    for hole in template.spec.holes:
        holes.check(template, hole, hole.default)
        holes.result_range(template, hole)


def render(proposal: Proposal, template: SchedulerTemplate) -> RenderedSource:
    """The C of `proposal`. TemplateError says what does not fit, where, and what would."""
    where = _where(template)
    if proposal.template != template.name:
        raise TemplateError(
            f"rendering: the proposal is for template {proposal.template}, not {template.name}",
            remedy=f"render it with template {proposal.template}",
        )
    if proposal.template_digest != template_digest(template):
        raise TemplateError(
            f"{where}: the text has changed since the proposal was made", remedy="plan again with this template"
        )
    check_template(template)
    ops_name = _ops_name(proposal, template)
    comm_rules = [{"index": i, "value": glob} for i, c in _numbered(proposal) for glob in c.match.comm]
    uid_rules = [{"index": i, "value": uid} for i, c in _numbered(proposal) for uid in c.match.uid]
    tgid_rules = [{"index": i, "value": tgid} for i, c in _numbered(proposal) for tgid in c.match.tgid]
    if max(len(comm_rules), len(uid_rules), len(tgid_rules)) > MAX_RULES:
        raise TemplateError(
            f"{where}: the classes have more than {MAX_RULES} patterns", remedy="match by cgroup, or merge intents"
        )
    values = {
        "ops_name": ops_name,
        "parameters": parameters.resolve(template.spec.parameters, proposal.parameters, where),
        "classes": [_class_view(i, c, template) for i, c in _numbered(proposal)],
        "comm_rules": comm_rules,
        "uid_rules": uid_rules,
        "tgid_rules": tgid_rules,
        "knob_rows": definitions(proposal, template),
        "knob_table": table(proposal, template),
        "match_cgroups": any(c.match.cgroup for c in proposal.classes),
        "hole": holes.filler(template, proposal.expressions, {**holes.READERS, **readers(proposal, template)}),
    }
    text = engine.fill(template.text, values, where)
    return RenderedSource(text=text, digest=sha256(text.encode()), ops_name=ops_name)


def _where(template: SchedulerTemplate) -> str:
    return f"template {template.name}"


def _ops_name(proposal: Proposal, template: SchedulerTemplate) -> str:
    identity = f"{proposal.content_digest()}\n{template_digest(template)}"
    return f"schedctl_{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def _numbered(proposal: Proposal) -> list[tuple[int, TaskClass]]:
    return list(enumerate(proposal.classes, start=1))


def _needs(match: ClassMatch) -> str:
    flags = (
        ("MATCH_COMM", match.comm),
        ("MATCH_UID", match.uid),
        ("MATCH_CGROUP", match.cgroup),
        ("MATCH_TGID", match.tgid),
    )
    return " | ".join(name for name, wanted in flags if wanted)


def _class_view(index: int, task_class: TaskClass, template: SchedulerTemplate) -> dict[str, Any]:
    where = f"{_where(template)}, class {task_class.handle} ({task_class.intent})"
    return {
        "index": index,
        "handle": task_class.handle,
        "intent": task_class.intent,
        "metric": task_class.metric.value,
        "weight": task_class.weight,
        "needs": _needs(task_class.match),
        "parameters": parameters.resolve(template.spec.class_parameters, task_class.parameters, where),
    }
