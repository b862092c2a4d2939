# SPDX-License-Identifier: Apache-2.0
"""No rule objects to schedulers that are right: the templates, other idioms, the corpus of good ones.

Warnings are allowed on what is written in other idioms (a warning is told, not held against it), errors are not.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

from controller.errors import CandidateRejected
from controller.paths import data_dir
from controller.render import render
from controller.verify import lint
from controller.verify.lint import rules
from tests.templates import cases

HERE = Path(__file__).parent
HEADERS = {path.name: path.read_text() for path in (data_dir("bpf") / "include").glob("*.h")}
KERNELS = ("6.16.3+deb13-cloud-amd64", "7.3.4+deb13-cloud-amd64")
IDIOMS = sorted((HERE / "idioms").glob("*.bpf.c"))
CORPUS = sorted((HERE.parent / "corpus" / "good").glob("**/*.bpf.c"))


def errors(text: str) -> list[str]:
    return [
        f"{f.line}: {f.rule}: {f.message}" for f in lint.run(text, HEADERS, kernels=KERNELS) if f.severity == "error"
    ]


@pytest.mark.parametrize("count", [0, 1, 2, 8])
@pytest.mark.parametrize("name", sorted(cases.TEMPLATES))
def test_the_templates_raise_nothing(name, count):
    template = cases.TEMPLATES[name]
    text = render(cases.proposal(template, *cases.mixed(count)), template).text
    assert lint.run(text, HEADERS, kernels=KERNELS) == ()


@pytest.mark.parametrize("path", [*IDIOMS, *CORPUS], ids=lambda path: path.name)
def test_other_idioms_raise_no_error(path):
    assert errors(path.read_text()) == []


def test_there_are_idioms_of_many_kinds():
    assert len(IDIOMS) >= 6


def test_a_rule_is_not_for_one_text_only():
    """Each error rule is silent on every idiom, and each rule has an example that it is not silent on."""
    assert len(rules.all()) >= 26
    said = {f.rule for path in IDIOMS for f in lint.run(path.read_text(), HEADERS, kernels=KERNELS)}
    assert said <= {rule.id for rule in rules.all() if rule.severity == "warn"} | {"lint/lost-task"}


CENTRAL = (HERE / "idioms" / "central_timer.bpf.c").read_text()


def test_a_pid_that_is_checked_again_may_be_kept():
    assert lint.run(CENTRAL, HEADERS, kernels=KERNELS) == ()
    unchecked = CENTRAL.replace("!bpf_cpumask_test_cpu(cpu, p->cpus_ptr)", "false")
    assert "lint/pid-without-dequeue" in {f.rule for f in lint.run(unchecked, HEADERS)}


FLAGGED = """
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .flags = %s, .name = "x" };
"""


@pytest.mark.parametrize(
    ("flags", "kernels", "finding"),
    [
        ("SCX_OPS_HAS_CGROUP_WEIGHT", ("6.16.3",), None),
        ("SCX_OPS_HAS_CGROUP_WEIGHT", ("6.16.3", "7.3.4"), "kernel 7.3.4 does not know SCX_OPS_HAS_CGROUP_WEIGHT"),
        ("1 << 16", ("7.3.4",), None),  # no plain constant: the load tells
        ("0x10000", ("7.3.4",), "kernel 7.3.4 does not know SCX_OPS_HAS_CGROUP_WEIGHT"),
        ("0x100", ("6.16.3", "7.3.4"), "kernel 6.16.3 does not know SCX_OPS_TID_TO_TASK"),
        ("0x80000", (), "no kernel knows the flags 0x80000"),
        ("SCX_OPS_ENQ_LAST | SCX_OPS_ENQ_EXITING", ("6.12.1", "6.16.3", "7.3.4"), None),
    ],
)
def test_flags_are_judged_for_the_kernels_asked_for(flags, kernels, finding):
    told = [f.message for f in lint.run(FLAGGED % flags, kernels=kernels) if f.rule == "lint/flag-of-another-kernel"]
    assert told == ([finding] if finding else [])


def test_a_name_is_missing_only_for_the_kernels_that_lack_it():
    rule = rules.get("kfunc-of-another-kernel")
    assert rule is not None
    for kernels, missing in ((("7.3.4",), True), (("6.12.1",), False), ((), False), (("no number",), False)):
        told = [f.message for f in lint.run(rule.bad, kernels=kernels) if f.rule == rule.id]
        assert bool(told) == missing
    assert told == []


def test_tables_with_a_flavour_are_tables():
    text = CENTRAL.replace("SCX_OPS_DEFINE(central_ops,", 'SEC(".struct_ops.link") struct sched_ext_ops___more c = {')
    text = text.replace('.name\t\t= "central");', '.name = "central" };')
    assert lint.run(text, HEADERS, kernels=KERNELS) == ()


TANGLES = {
    "branches": "\n".join(f"if (p->pid & {n}) x{n}++;" for n in range(1, 5000)),
    "helpers that call each other": "a0(p);",
    "labels": "\n".join(f"if (p->pid == {n}) goto l{n % 50};" for n in range(3000)),
    "conditions": "if (" + " && ".join(f"c{n}" for n in range(3000)) + ") scx_bpf_dsq_insert(p, 1, 2, 3);",
    "alternatives": "if (" + " || ".join(f"p->pid == {n}" for n in range(900)) + ") scx_bpf_dsq_insert(p, 1, 2, 3);",
    "cases": "switch (p->pid) {" + "\n".join(f"case {n}: y{n} = {n};" for n in range(4000)) + "}",
}


@pytest.mark.parametrize("body", TANGLES.values(), ids=TANGLES.keys())
def test_tangled_text_is_judged_or_refused_soon(body):
    helpers = "\n".join(
        f"static int a{n}(struct task_struct *t) {{ return a{n + 1}(t) || a{n + 1}(t); }}" for n in range(60)
    )
    text = f"""{helpers}
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{{
{body}
}}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = {{ .enqueue = (void *)x_enqueue, .name = "x" }};
"""
    begun = time.process_time()
    with contextlib.suppress(CandidateRejected):
        lint.run(text, HEADERS)
    assert time.process_time() - begun < 10
