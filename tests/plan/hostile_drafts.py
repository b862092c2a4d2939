# SPDX-License-Identifier: Apache-2.0
"""Drafts of an author that means harm or cannot write, each with the check that refuses it; none may be proposed."""

from __future__ import annotations

import json
from typing import Any

from tests.plan.drafts_case import PARAMETERS, SOURCE, draft, parameter, spoilt

NAMES = {
    "a path upwards": "../../etc/cron",
    "a path": "ours/new-one",
    "a hidden folder": ".git",
    "a lock of Git's": "new.lock",
    "capitals": "New-One",
    "a name that exists": "weighted-fair",
    "full width": "\uff4eew-one",
    "a joiner": "new\u200d-one",
    "a Cyrillic letter": "n\u0435w-one",
    "a digit of another script": "new-\u0661",
    "a hyphen at the end": "new-",
    "two hyphens": "new--one",
    "a line break": "new-one\n",
    "a NUL": "new\0one",
    "an option": "--force",
    "nothing": "",
    "41 characters": "a" * 41,
}
JINJA = {
    "a loop in a loop": "{% for a in classes %}{% for b in classes %}x{% endfor %}{% endfor %}",
    "a recursive loop": "{% for a in classes recursive %}x{% endfor %}",
    "a macro": "{% macro m() %}x{% endmacro %}",
    "an include": "{% include '/etc/passwd' %}",
    "an import": "{% import 'os' as os %}",
    "a call": "{{ ops_name.format(1) }}",
    "a range": "{{ range(1000000000) | list }}",
    "a product": "{{ 'x' * 1000000000 }}",
    "a power": "{{ 9 ** 999999999 }}",
    "a class": "{{ ops_name.__class__ }}",
    "a class by a filter": "{{ ops_name | attr('__class__') }}",
    "globals": "{{ hole.__globals__ }}",
    "a subscript": "{{ classes['__class__'] }}",
    "a mutation": "{{ classes.append(1) }}",
    "an unknown value": "{{ config }}",
    "an unknown parameter": "{{ parameters.speed }}",
    "a hole": '{{ hole("slice", slice="1") }}',
    "half a tag": "{% for c in classes %}",
    "attributes without end": "{{ ops_name" + ".x" * 9000 + " }}",
    "nots without end": "{{ " + "not " * 5000 + "true }}",
    "brackets without end": "{{ " + "(" * 9000 + "1" + ")" * 9000 + " }}",
    "a list that grows": "{% set x = 'x' %}" + "{% set x = x + x %}" * 400,
}
C = {
    "a timeout of a minute": ("lint", spoilt(".timeout_ms = 5000", ".timeout_ms = 60000")),
    "a task that is lost": ("lint", spoilt("fair_enqueue(p, t, task_slice(p, t), fair_key(t), enq_flags);", "")),
    "no C": ("build", spoilt("struct schedctl_queue queues", "this is no C; struct schedctl_queue queues")),
    "a file of this machine": ("build", spoilt('#include "sched', '#include "/etc/passwd"\n#include "sched')),
    "an embedded file": ("build", spoilt("char _license", '__asm__(".incbin \\"/etc/passwd\\"");\nchar _license')),
    "another licence": ("audit", spoilt('"Dual BSD/GPL"', '"Proprietary"')),
}  # fmt: skip
SAID: dict[str, tuple[str, Any]] = {
    "no JSON": ("schema of answer", "I would rather talk about it."),
    "a megabyte": ("schema of answer", draft(source="x" * 1_000_000)),
    "a source of 40 KB": ("schema of source", draft(source=SOURCE + "/* " + "x" * 33_000 + " */\n")),
    "a README of 9 KB": ("schema of readme", draft(readme="x" * 9_000)),
    "no source": ("schema of source", draft(source="")),
    "a field too many": ("schema of unknown", draft(files={"../../etc/passwd": "x"})),
    "a manifest of its own": ("schema of unknown", draft(template_yaml="kind: SchedulerPolicy")),
    "33 parameters": ("schema of parameters", draft(parameters=PARAMETERS * 9)),
    "the same parameter twice": ("schema of parameters.2", draft(parameters=[parameter(), parameter()])),
    "a default out of range": ("range of parameters.1", draft(parameters=[parameter(default="1m")])),
    "a duration that is none": ("range of parameters.1", draft(parameters=[parameter(default="{{ ops_name }}")])),
    "a whole number that is none": ("range of parameters.1", draft(parameters=[parameter(type="integer")])),
    "a parameter of Python's": ("range of parameters.1", draft(parameters=[parameter(name="__class__")])),
    "bounds upside down": ("range of parameters.1", draft(parameters=[parameter(minimum="20ms", maximum="1ms")])),
    "no bounds": ("schema of parameters.1", draft(parameters=[parameter(minimum="", maximum="")])),
    "an unknown metric": ("schema of suits", draft(suits=["everything"])),
    "YAML in a text": ("schema of parameters.1", draft(parameters=[parameter(description="x\nspec: {}")])),
    "a text that is turned": ("schema of source", draft(source=SOURCE + "/* \u202e */\n")),
    "an escape in the source": ("schema of source", draft(source=SOURCE + "/* \x1b[2J */\n")),
    "a README that is turned": ("schema of readme", draft(readme="safe \u202e elif")),
    "a README with an escape": ("schema of readme", draft(readme="\x1b]0;x\x07")),
    "a summary of two lines": ("schema of summary", draft(summary="one\u2028two")),
    "half a surrogate": ("schema of", json.dumps(draft(summary="x")).replace('"x"', '"\\ud800"')),
    **{f"name: {what}": ("schema of name", draft(name=name)) for what, name in NAMES.items()},
    **{f"Jinja: {what}": ("render of source", draft(source=SOURCE + text)) for what, text in JINJA.items()},
    **{f"C: {what}": (f"{stage} of {stage}", said) for what, (stage, said) in C.items()},
}
