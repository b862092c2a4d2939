# SPDX-License-Identifier: Apache-2.0
"""Rules about the ops table and the scheduler as a whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from controller.verify.lint import paths
from controller.verify.lint.registry import Found, rule
from controller.verify.lint.unit import SLEEPABLE_OPS, Unit, text_of

if TYPE_CHECKING:
    from tree_sitter import Node

MAX_TIMEOUT_MS = 30000
_SLEEPABLE_KFUNCS = ("scx_bpf_create_dsq",)


@rule(
    "no-ops-table",
    "error",
    "There is no sched_ext_ops table: nothing here is a scheduler.",
    fix='define SEC(".struct_ops.link") struct sched_ext_ops NAME = { … }',
    bad="int x;",
    good='SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .name = "x" };',
)
def no_ops_table(unit: Unit) -> Iterator[Found]:
    """No table anywhere in the text."""
    if not unit.has_table:
        yield 1, "no struct sched_ext_ops is defined"


@rule(
    "bad-name",
    "error",
    "The scheduler has no name that the kernel takes: attaching fails.",
    fix="set .name to 1 to 127 letters, digits, `_` and `.`",
    bad='SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .name = "my scheduler" };',
    good='SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .name = "my_scheduler" };',
)
def bad_name(unit: Unit) -> Iterator[Found]:
    """.name absent, or a literal with characters that BPF object names may not have."""
    if not unit.has_table:
        return
    value, line = unit.ops.get("name", ("", unit.table_line))
    if not value:
        yield line, ".name is not set"
    elif value.startswith('"') and not re.fullmatch(r'"[A-Za-z0-9_.]{1,127}"', value):
        yield line, f".name = {value:.60} is not a name the kernel takes"


@rule(
    "timeout-too-long",
    "error",
    "timeout_ms is above 30000: the kernel refuses the scheduler.",
    fix="set .timeout_ms to at most 30000; 5000 is usual",
    bad='SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .timeout_ms = 60000, .name = "x" };',
    good='SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .timeout_ms = 5000, .name = "x" };',
)
def timeout_too_long(unit: Unit) -> Iterator[Found]:
    """A constant timeout_ms that is out of range."""
    value, line = unit.ops.get("timeout_ms", ("", 0))
    number = unit.value(value) if value else None
    if number is not None and number > MAX_TIMEOUT_MS:
        yield line, f"timeout_ms = {number} is above {MAX_TIMEOUT_MS}"


@rule(
    "no-exit",
    "warn",
    "There is no ops.exit: when the kernel throws the scheduler out, it cannot say why.",
    fix="define an exit operation that records the scx_exit_info",
    bad='SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .name = "x" };',
    good='SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .exit = (void *)x_exit, .name = "x" };',
)
def no_exit(unit: Unit) -> Iterator[Found]:
    """No .exit in the table."""
    if unit.has_table and "exit" not in unit.ops:
        yield unit.table_line, "the table has no .exit"


@rule(
    "slice-inf-no-timer",
    "error",
    "Tasks get SCX_SLICE_INF and nothing ever takes a CPU back from them: one that does not sleep keeps it for good.",
    fix="give finite slices, or preempt from a BPF timer, ops.tick or scx_bpf_kick_cpu(cpu, SCX_KICK_PREEMPT)",
    bad="""
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SHARED_DSQ, SCX_SLICE_INF, enq_flags);
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .enqueue = (void *)x_enqueue };
""",
    good="""
static int on_timer(void *map, int *key, struct bpf_timer *timer)
{
	scx_bpf_kick_cpu(0, SCX_KICK_PREEMPT);
	bpf_timer_start(timer, 1000000, 0);
	return 0;
}
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SHARED_DSQ, SCX_SLICE_INF, enq_flags);
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .enqueue = (void *)x_enqueue };
""",
)
def slice_inf_no_timer(unit: Unit) -> Iterator[Found]:
    """SCX_SLICE_INF as an insert's slice, in a text without timer, tick and preemption."""
    if "tick" in unit.ops or re.search(r"\bbpf_timer_start\b|\bSCX_KICK_PREEMPT\b", unit.code):
        return
    for _function, call in unit.own_calls():
        if call.name.split("___")[0] in paths.INSERTS and "SCX_SLICE_INF" in call.argument(2):
            message = f"{call.argument(0)} may keep its CPU for ever"
            if _only_for_few(call.node):
                yield call.line, message, "warn"
            else:
                yield call.line, message


def _only_for_few(node: Node) -> bool:
    """Under a test for kernel threads or pinned tasks, which do not run for long."""
    parent = node.parent
    while parent is not None:
        condition = parent.child_by_field_name("condition") if parent.type == "if_statement" else None
        if condition is not None and re.search(r"KTHREAD|kthread|nr_cpus_allowed", text_of(condition)):
            return True
        parent = parent.parent
    return False


@rule(
    "not-sleepable",
    "error",
    "A kfunc that may sleep is called from an operation that may not: the BPF verifier refuses the program.",
    fix="define ops.init with BPF_STRUCT_OPS_SLEEPABLE, and create DSQs only there",
    bad="""
s32 BPF_STRUCT_OPS(x_init)
{
	return scx_bpf_create_dsq(0, -1);
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .init = (void *)x_init };
""",
    good="""
s32 BPF_STRUCT_OPS_SLEEPABLE(x_init)
{
	return scx_bpf_create_dsq(0, -1);
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .init = (void *)x_init };
""",
)
def not_sleepable(unit: Unit) -> Iterator[Found]:
    """scx_bpf_create_dsq reached from an operation that is not sleepable."""
    for operation in sorted(unit.ops):
        function = unit.operation(operation)
        if function is None or not function.own or (function.name in unit.sleepable and operation in SLEEPABLE_OPS):
            continue
        for reached in unit.reachable(function):
            for call in reached.calls:
                if call.name in _SLEEPABLE_KFUNCS:
                    line = call.line if reached.own else function.line
                    yield line, f"{call.name} may sleep, and ops.{operation} ({function.name}) may not"
