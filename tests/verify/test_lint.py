# SPDX-License-Identifier: Apache-2.0
"""Every rule's own examples, and no false alarm on schedulers that are right."""

from __future__ import annotations

import pytest

from controller.errors import CandidateRejected
from controller.paths import data_dir
from controller.render import render
from controller.verify import lint
from controller.verify.lint import rules
from tests.verify import sources
from tests.verify.candidates import filled

HEADERS = {path.name: path.read_text() for path in (data_dir("bpf") / "include").glob("*.h")}


def found(source: str, kernels: tuple[str, ...] = ()) -> dict[str, str]:
    """{rule: severity} of all findings."""
    return {f.rule: f.severity for f in lint.run(source, HEADERS, kernels=kernels)}


@pytest.mark.parametrize("rule", rules.all(), ids=lambda r: r.id)
def test_a_rule_finds_its_bad_example_and_not_its_good_one(rule):
    assert found(rule.bad, rule.kernels).get(rule.id) == rule.severity
    assert rule.id not in found(rule.good, rule.kernels)


@pytest.mark.parametrize("rule", rules.all(), ids=lambda r: r.id)
def test_a_rule_can_be_explained(rule):
    assert rules.get(rule.id) is rule
    assert rules.get(rule.id.removeprefix("lint/")) is rule
    assert rule.sentence.endswith(".")
    assert rule.what.strip(".")
    assert rule.why.strip(".")
    assert rule.fix


def test_there_are_the_rules_that_the_design_names():
    ids = {rule.id for rule in rules.all()}
    assert {"lint/lost-task", "lint/local-on-unguarded", "lint/no-lag-clamp", "lint/slice-inf-no-timer"} <= ids
    assert {"lint/vtime-compare", "lint/double-insert", "lint/mixed-order-dsq", "lint/charge-by-slice"} <= ids
    assert rules.get("lint/nope") is None


@pytest.mark.parametrize("template", filled(), ids=lambda pair: pair[0].name)
def test_the_templates_are_clean(template):
    template, proposal = template
    assert lint.run(render(proposal, template).text, HEADERS) == ()


def test_a_good_scheduler_of_somebody_else_is_clean():
    assert lint.run(sources.GOOD) == ()


def test_findings_name_the_line_of_the_candidate():
    finding = next(f for f in lint.run(sources.WRONG_CPU) if f.rule == "lint/local-on-unguarded")
    assert "SCX_DSQ_LOCAL_ON |" in sources.WRONG_CPU.splitlines()[finding.line - 1]
    lines = [f.line for f in lint.run(sources.LOSES_TASKS) if f.rule == "lint/lost-task"]
    assert ["return;" in sources.LOSES_TASKS.splitlines()[line - 1] for line in lines] == [True, True]


ENQUEUE = """
%s
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
%s
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = {{ .enqueue = (void *)x_enqueue, .name = "x" }};
""".replace("{{", "{").replace("}}", "}")

KEPT = {
    "inserted by a helper": (
        "static bool put(struct task_struct *t, u64 f) { scx_bpf_dsq_insert(t, D, S, f); return true; }",
        "if (put(p, enq_flags)) return; scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, S, enq_flags);",
    ),
    "inserted by a helper that may decline": (
        "static bool try(struct task_struct *t) "
        "{ if (t->pid & 1) { scx_bpf_dsq_insert(t, D, S, 0); return true; } return false; }",
        "if (try(p)) return; scx_bpf_dsq_insert(p, D, S, enq_flags);",
    ),
    "result kept in a variable": (
        "static int try(struct task_struct *t) { if (t->pid & 1) return 0; scx_bpf_dsq_insert(t, D, S, 0); return 1; }",
        "int done = try(p); if (!done) scx_bpf_dsq_insert(p, D, S, enq_flags);",
    ),
    "pushed into a queue map": ("", 's32 pid = p->pid; if (bpf_map_push_elem(&fifo, &pid, 0)) scx_bpf_error("full");'),
    "every case of a switch": (
        "",
        "switch (p->prio & 1) "
        "{ case 0: scx_bpf_dsq_insert(p, A, S, 0); break; default: scx_bpf_dsq_insert(p, B, S, 0); }",
    ),
    "a goto to the one exit": (
        "",
        "u64 d = A; if (p->pid & 1) goto out; d = B;\nout:\n scx_bpf_dsq_insert(p, d, S, 0);",
    ),
    "one condition asked twice": (
        "",
        "bool a = p->pid & 1; if (a) scx_bpf_dsq_insert(p, A, S, 0); kick(); if (!a) scx_bpf_dsq_insert(p, B, S, 0);",
    ),
    "either side of an #ifdef": (
        "",
        "#ifdef X\n scx_bpf_dsq_insert(p, A, S, 0);\n#else\n scx_bpf_dsq_insert(p, B, S, 0);\n#endif\n",
    ),
    "the scheduler gives up": ("", 'if (p->pid < 0) { scx_bpf_error("bad"); return; } scx_bpf_dsq_insert(p, A, S, 0);'),
    "handed to something unknown": ("", "hand_over(p);"),
}


@pytest.mark.parametrize("case", KEPT.values(), ids=KEPT.keys())
def test_a_task_that_is_kept_is_not_called_lost(case):
    text = ENQUEUE % case
    assert not {"lint/lost-task", "lint/double-insert"} & found(text).keys()


LOST = {
    "an early return": ("", "if (p->pid & 1) return; scx_bpf_dsq_insert(p, A, S, 0);"),
    "no else": ("", "if (p->pid & 1) scx_bpf_dsq_insert(p, A, S, 0);"),
    "a switch without default": ("", "switch (p->pid) { case 1: scx_bpf_dsq_insert(p, A, S, 0); }"),
    "in a helper": (
        "static void put(struct task_struct *t) { if (t->pid & 1) return; scx_bpf_dsq_insert(t, A, S, 0); }",
        "put(p);",
    ),
    "another task is inserted": ("", "struct task_struct *q = bpf_task_from_pid(7); scx_bpf_dsq_insert(q, A, S, 0);"),
    "a loop that may not run": ("", "bpf_for(i, 0, n) { scx_bpf_dsq_insert(p, A, S, 0); break; }"),
    "short-circuit": ("", "p->pid & 1 && put_it; x = y;"),
}


@pytest.mark.parametrize("case", LOST.values(), ids=LOST.keys())
def test_a_lost_task_is_found(case):
    assert found(ENQUEUE % case).get("lint/lost-task") == "error"


def test_a_task_lost_only_if_a_lookup_fails_is_a_warning():
    body = "struct ctx *c = bpf_task_storage_get(&t, p, 0, 0); if (!c) return; scx_bpf_dsq_insert(p, A, S, 0);"
    assert found(ENQUEUE % ("", body)).get("lint/lost-task") == "warn"


def test_text_that_is_no_c_gives_findings_and_no_crash():
    for text in ("", "\0\1\2", "}}}}{{{{((((", "#define", "void BPF_STRUCT_OPS(", "/*", '"', "SEC(", "'" * 5000):
        assert "lint/no-ops-table" in found(text)


@pytest.mark.parametrize(
    "text",
    ["int x = " + "(" * 100_000 + ";", "void f(void) " + "{" * 50_000, "int a;\n" * 100_000],
    ids=["parentheses", "braces", "size"],
)
def test_text_made_to_exhaust_the_reader_is_refused_or_read(text):
    try:
        told = {f.rule for f in lint.run(text)}
    except CandidateRejected as error:
        told = {error.stage}
    assert told & {"lint", "lint/no-ops-table"}
