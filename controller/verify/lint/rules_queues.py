# SPDX-License-Identifier: Apache-2.0
"""Rules about dispatch queues and virtual time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from controller.verify.lint import paths
from controller.verify.lint.registry import Found, rule
from controller.verify.lint.unit import Call, Function, Unit, spell, text_of, walk

if TYPE_CHECKING:
    from tree_sitter import Node

_VTIME_INSERTS = frozenset(("scx_bpf_dsq_insert_vtime", "scx_bpf_dispatch_vtime"))
_TAKES = re.compile(r"^(?:scx_bpf_(?:dsq_move\w*|consume\w*|dispatch_from_dsq\w*)|bpf_iter_scx_dsq_\w+)$")
_CREATES = "scx_bpf_create_dsq"
_BUILTIN = re.compile(r"\bSCX_DSQ_(?:LOCAL|GLOBAL|LOCAL_ON|BYPASS)\b|\b0x[8cC]0{7}")
_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
_VTIME = re.compile(r"\b\w*(?:vtime|vruntime)\w*\b", re.IGNORECASE)
_COMPARES = re.compile(
    r"\b\w*(?:before|after)\b\s*\(|\(\s*(?:s64|long long|long|__s64|int64_t)\s*\)|\b(?:max|min|clamp)\w*\s*\("
)


def _dsq_inserts(unit: Unit) -> Iterator[tuple[Function, Call, str]]:
    """The candidate's inserts into DSQs of its own, with the DSQ's text in one spelling."""
    for function, call in unit.own_calls():
        if call.name.split("___")[0] in paths.INSERTS and len(call.arguments) >= 4:
            dsq = call.argument(1)
            if not _BUILTIN.search(_expanded(unit, dsq)):
                yield function, call, dsq


def _expanded(unit: Unit, text: str) -> str:
    for _ in range(4):
        text = re.sub(r"\b[A-Za-z_]\w*\b", lambda m: unit.constants.get(m.group(), m.group()), text)
    return text


def _plain(unit: Unit, dsq: str) -> int | None:
    """The number of a DSQ named by a constant; None when it depends on something."""
    return unit.value(dsq)


@rule(
    "mixed-order-dsq",
    "error",
    "One DSQ gets tasks both by arrival and by virtual time: the kernel throws the scheduler out at the second kind.",
    fix="use a DSQ of its own for each order",
    bad="""
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	if (p->scx.weight > 100)
		scx_bpf_dsq_insert(p, SHARED_DSQ, SCX_SLICE_DFL, enq_flags);
	else
		scx_bpf_dsq_insert_vtime(p, SHARED_DSQ, SCX_SLICE_DFL, p->scx.dsq_vtime, enq_flags);
}
""",
    good="""
const volatile bool fifo_sched;
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	if (fifo_sched)
		scx_bpf_dsq_insert(p, SHARED_DSQ, SCX_SLICE_DFL, enq_flags);
	else
		scx_bpf_dsq_insert_vtime(p, SHARED_DSQ, SCX_SLICE_DFL, p->scx.dsq_vtime, enq_flags);
}
""",
)
def mixed_order_dsq(unit: Unit) -> Iterator[Found]:
    """DSQs with both kinds of insert, unless a constant set before loading decides between them."""
    fixed = set(re.findall(r"\bconst\s+volatile\s+\w[\w\s]{0,200}?\b(\w+)\s*(?:=[^;]{0,400})?;", unit.code))
    kinds: dict[str, set[bool]] = {}
    for _function, call, dsq in _dsq_inserts(unit):
        constant = _plain(unit, dsq) is not None or _NAME.fullmatch(dsq)
        if not constant or _decided_before_loading(call.node, fixed):
            continue  # a DSQ that depends on something may be another one at each place
        by_vtime = call.name.split("___")[0] in _VTIME_INSERTS
        kinds.setdefault(dsq, set()).add(by_vtime)
        if len(kinds[dsq]) == 2:
            yield call.line, f"DSQ {dsq} is used in order of arrival and of virtual time"
            return


def _decided_before_loading(node: Node, fixed: set[str]) -> bool:
    parent = node.parent
    while parent is not None:
        condition = parent.child_by_field_name("condition")
        if condition is not None and fixed & set(re.findall(r"\w+", text_of(condition))):
            return True
        parent = parent.parent
    return False


@rule(
    "vtime-on-builtin-dsq",
    "error",
    "A task is inserted by virtual time into a built-in DSQ, which has only an order of arrival: the kernel throws the "
    "scheduler out.",
    fix="create a DSQ of your own, or use scx_bpf_dsq_insert()",
    bad="""
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert_vtime(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL, p->scx.dsq_vtime, enq_flags);
}
""",
    good="""
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert_vtime(p, SHARED_DSQ, SCX_SLICE_DFL, p->scx.dsq_vtime, enq_flags);
}
""",
)
def vtime_on_builtin_dsq(unit: Unit) -> Iterator[Found]:
    """insert_vtime with SCX_DSQ_LOCAL, SCX_DSQ_LOCAL_ON or SCX_DSQ_GLOBAL."""
    for _function, call in unit.own_calls():
        if call.name.split("___")[0] in _VTIME_INSERTS and _BUILTIN.search(_expanded(unit, call.argument(1))):
            yield call.line, f"{call.argument(1)} has no order of virtual time"


@rule(
    "dsq-never-created",
    "error",
    "Tasks are inserted into a DSQ that nothing creates: the kernel throws the scheduler out at the first one.",
    fix="call scx_bpf_create_dsq(ID, -1) in ops.init",
    bad="""
#define SHARED_DSQ 0
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SHARED_DSQ, SCX_SLICE_DFL, enq_flags);
}
""",
    good="""
#define SHARED_DSQ 0
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SHARED_DSQ, SCX_SLICE_DFL, enq_flags);
}
s32 BPF_STRUCT_OPS_SLEEPABLE(x_init)
{
	return scx_bpf_create_dsq(SHARED_DSQ, -1);
}
""",
)
def dsq_never_created(unit: Unit) -> Iterator[Found]:
    """Own DSQs with a constant id, when every creation has a constant id too and none is this one."""
    created = [call.argument(0) for call in unit.all_calls() if call.name == _CREATES]
    yield from _unmatched(unit, created, "is never created")


@rule(
    "dsq-never-consumed",
    "error",
    "Tasks are inserted into a DSQ from which nothing takes them: they never run.",
    fix="call scx_bpf_dsq_move_to_local(ID) in ops.dispatch",
    bad="""
#define A 1
#define B 2
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, p->scx.weight > 100 ? A : B, SCX_SLICE_DFL, enq_flags);
	scx_bpf_dsq_insert(p, B, SCX_SLICE_DFL, enq_flags);
}
void BPF_STRUCT_OPS(x_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(A);
}
""",
    good="""
#define A 1
#define B 2
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, B, SCX_SLICE_DFL, enq_flags);
}
void BPF_STRUCT_OPS(x_dispatch, s32 cpu, struct task_struct *prev)
{
	if (!scx_bpf_dsq_move_to_local(A))
		scx_bpf_dsq_move_to_local(B);
}
""",
)
def dsq_never_consumed(unit: Unit) -> Iterator[Found]:
    """Own DSQs with a constant id, when every taking has a constant id too and none is this one."""
    taken = [call.argument(0) for call in unit.all_calls() if _TAKES.match(call.name) and call.arguments]
    iterated = re.findall(r"\bbpf_for_each\s*\(\s*scx_dsq\s*,\s*\w+\s*,\s*([^,()]+)", unit.code)
    yield from _unmatched(unit, [*taken, *iterated], "is never dispatched from")


def _unmatched(unit: Unit, others: list[str], says: str) -> Iterator[Found]:
    numbers = {_plain(unit, text) for text in others}
    if None in numbers and not all(_NAME.fullmatch(text) for text in others if _plain(unit, text) is None):
        return  # an id that depends on something may be any
    seen = set()
    for function, call, dsq in _dsq_inserts(unit):
        if dsq.isidentifier() and (dsq in function.parameters or _may_be_builtin(function, dsq)):
            continue
        number = _plain(unit, dsq)
        constant = number is not None or _NAME.fullmatch(dsq) is not None
        known = number in numbers if number is not None else dsq in others
        if (constant or not others) and not known and dsq not in seen:
            seen.add(dsq)
            yield call.line, f"DSQ {dsq} {says}"


def _may_be_builtin(function: Function, variable: str) -> bool:
    return re.search(rf"\b{variable}\s*=[^=;]{{0,200}}\bSCX_DSQ_", function.text) is not None


@rule(
    "vtime-compare",
    "warn",
    "Two virtual times are compared by value: they are unsigned and wrap, also just below zero at the start, and then "
    "the order turns round.",
    fix="compare their distance: (s64)(a - b) < 0, as time_before() does",
    bad="""
void BPF_STRUCT_OPS(x_running, struct task_struct *p)
{
	if (vtime_now < p->scx.dsq_vtime)
		vtime_now = p->scx.dsq_vtime;
}
""",
    good="""
void BPF_STRUCT_OPS(x_running, struct task_struct *p)
{
	if ((s64)(vtime_now - p->scx.dsq_vtime) < 0)
		vtime_now = p->scx.dsq_vtime;
}
""",
)
def vtime_compare(unit: Unit) -> Iterator[Found]:
    """`<`, `>`, `<=`, `>=` with a virtual time on either side."""
    for function in unit.own_functions:
        for node in walk(function.body):
            operator = node.child_by_field_name("operator")
            left, right = node.child_by_field_name("left"), node.child_by_field_name("right")
            if node.type != "binary_expression" or operator is None or left is None or right is None:
                continue
            if text_of(operator) in ("<", ">", "<=", ">=") and _is_vtime(left) and _is_vtime(right):
                yield node.start_point[0] + 1, f"{spell(node)} compares virtual times by value"


def _is_vtime(node: Node) -> bool:
    text = spell(node)
    signed = re.match(r"^\(\s*(?:s64|long|long long|__s64|int64_t)\s*\)", text)
    return signed is None and node.type != "call_expression" and _VTIME.search(text) is not None


@rule(
    "no-lag-clamp",
    "error",
    "A task that slept keeps its old virtual time: it comes back with a claim on all the CPU time it did not use, and "
    "the others wait until it has had it.",
    fix="before inserting, raise dsq_vtime to at least vtime_now - SCX_SLICE_DFL",
    bad="""
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert_vtime(p, SHARED_DSQ, SCX_SLICE_DFL, p->scx.dsq_vtime, enq_flags);
}
void BPF_STRUCT_OPS(x_stopping, struct task_struct *p, bool runnable)
{
	p->scx.dsq_vtime += bpf_ktime_get_ns() - started_at;
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .enqueue = (void *)x_enqueue };
""",
    good="""
void BPF_STRUCT_OPS(x_stopping, struct task_struct *p, bool runnable)
{
	p->scx.dsq_vtime += bpf_ktime_get_ns() - started_at;
}
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	u64 vtime = p->scx.dsq_vtime;

	if (time_before(vtime, vtime_now - SCX_SLICE_DFL))
		vtime = vtime_now - SCX_SLICE_DFL;
	scx_bpf_dsq_insert_vtime(p, SHARED_DSQ, SCX_SLICE_DFL, vtime, enq_flags);
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .enqueue = (void *)x_enqueue };
""",
)
def no_lag_clamp(unit: Unit) -> Iterator[Found]:
    """insert_vtime of dsq_vtime where nothing on the way from waking compares virtual times."""
    enqueue = unit.operation("enqueue")
    if enqueue is None or not enqueue.own:
        return
    waking = [
        f for name in ("select_cpu", "enqueue", "runnable", "quiescent") if (f := unit.operation(name)) is not None
    ]
    reached = [f for start in waking for f in unit.reachable(start)]
    texts = [f.text for f in reached if "vtime" in f.text]
    computed = re.compile(
        r"dsq_vtime\s*=(?!=)|scx_bpf_task_set_dsq_vtime\b"
    )  # a deadline reckoned anew at each waking is not old
    if any(
        computed.search(text)
        or _COMPARES.search(text)
        or re.search(r"vtime[^;{}]{0,200}(?<!-)[<>]=?[^;{}]{0,200}vtime", text)
        for text in texts
    ):
        return
    for function in unit.reachable(enqueue):
        for call in function.calls:
            if function.own and call.name.split("___")[0] in _VTIME_INSERTS and "dsq_vtime" in function.text:
                yield call.line, f"{call.argument(3)} is used however old it is"


@rule(
    "charge-by-slice",
    "warn",
    "CPU time is reckoned from what is left of the slice, which the kernel refills: a task that is refilled is charged "
    "too little.",
    fix="take bpf_ktime_get_ns() in ops.running and charge the difference in ops.stopping",
    bad="""
void BPF_STRUCT_OPS(x_stopping, struct task_struct *p, bool runnable)
{
	p->scx.dsq_vtime += (SCX_SLICE_DFL - p->scx.slice) * 100 / p->scx.weight;
}
""",
    good="""
void BPF_STRUCT_OPS(x_stopping, struct task_struct *p, bool runnable)
{
	p->scx.dsq_vtime += (bpf_ktime_get_ns() - started_at) * 100 / p->scx.weight;
}
""",
)
def charge_by_slice(unit: Unit) -> Iterator[Found]:
    """A subtraction of `->scx.slice`."""
    for function in unit.own_functions:
        for node in walk(function.body):
            right = node.child_by_field_name("right")
            operator = node.child_by_field_name("operator")
            if node.type != "binary_expression" or right is None or operator is None or text_of(operator) != "-":
                continue
            if spell(right).endswith("scx.slice"):
                yield node.start_point[0] + 1, f"{spell(node)} is not the time the task ran"
