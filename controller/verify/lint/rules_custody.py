# SPDX-License-Identifier: Apache-2.0
"""Rules about tasks in the scheduler's own hands: kept by pid, held by reference, walked over, given a slice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from controller.verify.lint import paths
from controller.verify.lint.registry import Found, rule
from controller.verify.lint.unit import Unit, as_call, spell, text_of, walk

if TYPE_CHECKING:
    from tree_sitter import Node

_STORES = re.compile(r"^bpf_(?:map_push_elem|map_update_elem|ringbuf_output|ringbuf_submit)$")
_ACQUIRES = ("bpf_task_from_pid", "bpf_task_from_vpid", "bpf_task_acquire")
_MOVES = re.compile(r"^(?:scx_bpf_dsq_move_to_local|scx_bpf_consume)")
_ITERATES = re.compile(r"\bbpf_for_each\s*\(\s*(task|css|css_task)\s*,|\bbpf_iter_(task|css|css_task)_new\s*\(")
_RCU = re.compile(r"\brcu\b|rcu_read_lock")  # guard(rcu) of other people's headers too
_LOOPS = ("while_statement", "for_statement", "do_statement")


@rule(
    "pid-without-dequeue",
    "warn",
    "Tasks are kept by their pid and there is neither ops.dequeue nor ops.exit_task: what is kept of a task that left, "
    "changed its CPUs or died is acted upon later.",
    fix="define ops.dequeue, or check each task again with bpf_task_from_pid() and its CPUs before using it",
    bad="""
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	s32 pid = p->pid;

	if (bpf_map_push_elem(&fifo, &pid, 0))
		scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL, enq_flags);
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .enqueue = (void *)x_enqueue };
""",
    good="""
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	s32 pid = p->pid;

	if (bpf_map_push_elem(&fifo, &pid, 0))
		scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL, enq_flags);
}
void BPF_STRUCT_OPS(x_dequeue, struct task_struct *p, u64 deq_flags)
{
	s32 pid = p->pid;

	bpf_map_update_elem(&left, &pid, &one, 0);
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = {
	.enqueue = (void *)x_enqueue, .dequeue = (void *)x_dequeue };
""",
)
def pid_without_dequeue(unit: Unit) -> Iterator[Found]:
    """Calls of ops.enqueue that store something in functions that read the pid, without the operations and without a
    look at the task again in ops.dispatch; once.
    """
    enqueue = unit.operation("enqueue")
    if enqueue is None or {"dequeue", "exit_task", "quiescent"} & unit.ops.keys() or _checks_again(unit):
        return
    for function in unit.reachable(enqueue):
        for call in function.calls:
            if function.own and "pid" in function.words and _STORES.match(call.name):
                yield call.line, f"{function.name} keeps a pid that nothing takes back"
                return


def _checks_again(unit: Unit) -> bool:
    """Does ops.dispatch look the pid up and look at the task's CPUs?"""
    dispatch = unit.operation("dispatch")
    words = {word for f in unit.reachable(dispatch) for word in f.words} if dispatch is not None else set()
    return "cpus_ptr" in words and bool(words & {"bpf_task_from_pid", "bpf_task_from_vpid"})


@rule(
    "task-not-released",
    "warn",
    "A reference to a task is taken and never given back: the BPF verifier refuses the program.",
    fix="call bpf_task_release(p) on every path, once the pointer is known not to be NULL",
    bad="""
void BPF_STRUCT_OPS(x_dispatch, s32 cpu, struct task_struct *prev)
{
	struct task_struct *p = bpf_task_from_pid(next_pid);

	if (p)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SCX_SLICE_DFL, 0);
}
""",
    good="""
void BPF_STRUCT_OPS(x_dispatch, s32 cpu, struct task_struct *prev)
{
	struct task_struct *p = bpf_task_from_pid(next_pid);

	if (p) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SCX_SLICE_DFL, 0);
		bpf_task_release(p);
	}
}
""",
)
def task_not_released(unit: Unit) -> Iterator[Found]:
    """References taken in a text that nowhere gives one back or stores one."""
    if any(call.name in ("bpf_task_release", "bpf_kptr_xchg") for call in unit.all_calls()):
        return
    for _function, call in unit.own_calls():
        if call.name in _ACQUIRES:
            yield call.line, f"nothing releases the task of {call.name}"


@rule(
    "iterator-without-rcu",
    "error",
    "Tasks or cgroups are walked over in a sleepable operation outside an RCU section: the BPF verifier refuses the "
    "program.",
    fix="put bpf_rcu_read_lock() before the loop and bpf_rcu_read_unlock() after it",
    bad="""
s32 BPF_STRUCT_OPS_SLEEPABLE(x_init)
{
	struct task_struct *p;

	bpf_for_each(task, p, NULL, BPF_TASK_ITER_ALL_PROCS)
		nr_tasks++;
	return 0;
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .init = (void *)x_init };
""",
    good="""
s32 BPF_STRUCT_OPS_SLEEPABLE(x_init)
{
	struct task_struct *p;

	bpf_rcu_read_lock();
	bpf_for_each(task, p, NULL, BPF_TASK_ITER_ALL_PROCS)
		nr_tasks++;
	bpf_rcu_read_unlock();
	return 0;
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .init = (void *)x_init };
""",
)
def iterator_without_rcu(unit: Unit) -> Iterator[Found]:
    """Iterators of tasks and cgroups in sleepable programs whose functions take no RCU lock."""
    for name in sorted(unit.sleepable & unit.functions.keys()):
        reached = unit.reachable(unit.functions[name])
        if any(_RCU.search(function.text) for function in reached):
            continue
        for function in reached:
            source = unit.code.split("\n")[function.line - 1 : function.body.end_point[0] + 1] if function.own else []
            for number, line in enumerate(source):
                match = _ITERATES.search(line)
                if match:
                    yield function.line + number, f"{function.name} walks over {match[1] or match[2]} without RCU"


@rule(
    "iterator-ended",
    "error",
    "A task is moved by the iterator of a DSQ outside the iterator's loop: it no longer stands on the task, and the "
    "BPF verifier refuses it.",
    fix="call scx_bpf_dsq_move() inside the bpf_for_each(scx_dsq, …) loop",
    bad="""
void BPF_STRUCT_OPS(x_dispatch, s32 cpu, struct task_struct *prev)
{
	struct task_struct *p;

	bpf_for_each(scx_dsq, p, SHARED_DSQ, 0)
		break;
	scx_bpf_dsq_move(BPF_FOR_EACH_ITER, p, SCX_DSQ_LOCAL, 0);
}
""",
    good="""
void BPF_STRUCT_OPS(x_dispatch, s32 cpu, struct task_struct *prev)
{
	struct task_struct *p;

	bpf_for_each(scx_dsq, p, SHARED_DSQ, 0) {
		scx_bpf_dsq_move(BPF_FOR_EACH_ITER, p, SCX_DSQ_LOCAL, 0);
		break;
	}
}
""",
)
def iterator_ended(unit: Unit) -> Iterator[Found]:
    """Moves by BPF_FOR_EACH_ITER that no loop encloses; a loop macro of somebody else's is not known for one."""
    for function, call in unit.own_calls():
        macros = any("FOR_EACH" in word and word != "BPF_FOR_EACH_ITER" for word in function.words)
        if "BPF_FOR_EACH_ITER" in call.argument(0) and not macros and not _inside(call.node, _LOOPS):
            yield call.line, f"{call.name} is called outside the loop of its iterator"


def _inside(node: Node, kinds: tuple[str, ...]) -> bool:
    parent = node.parent
    while parent is not None and parent.type != "function_definition":
        if parent.type in kinds:
            return True
        parent = parent.parent
    return parent is None


@rule(
    "unbounded-dispatch",
    "error",
    "ops.dispatch takes tasks as long as there are any: the BPF verifier finds no bound, and the dispatch buffer "
    "overflows.",
    fix="take one task and return: the kernel asks again; or bound the loop by bpf_repeat() or a constant",
    bad="""
void BPF_STRUCT_OPS(x_dispatch, s32 cpu, struct task_struct *prev)
{
	while (scx_bpf_dsq_move_to_local(SHARED_DSQ))
		;
}
""",
    good="""
void BPF_STRUCT_OPS(x_dispatch, s32 cpu, struct task_struct *prev)
{
	bpf_repeat(4)
		if (!scx_bpf_dsq_move_to_local(SHARED_DSQ))
			break;
}
""",
)
def unbounded_dispatch(unit: Unit) -> Iterator[Found]:
    """`while` loops whose whole condition is that something was moved."""
    for function in unit.own_functions:
        for node in walk(function.body):
            condition = node.child_by_field_name("condition")
            if node.type not in ("while_statement", "do_statement") or condition is None:
                continue
            call = next((as_call(each) for each in walk(condition) if each.type == "call_expression"), None)
            bounded = re.search(r"&&|\bcan_loop\b", spell(condition)) or "cond_break" in text_of(node)
            if call is not None and spell(call.node) == spell(condition) and _MOVES.match(call.name) and not bounded:
                yield node.start_point[0] + 1, f"this loop ends only when {call.argument(0)} is empty"


@rule(
    "slice-zero",
    "warn",
    "A task is inserted with a slice of 0: it keeps what is left of its old one, which may be nothing.",
    fix="give SCX_SLICE_DFL, or a slice of your own",
    bad="""
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, 0, enq_flags);
}
""",
    good="""
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL, enq_flags);
}
""",
)
def slice_zero(unit: Unit) -> Iterator[Found]:
    """Inserts whose slice is the constant 0."""
    for _function, call in unit.own_calls():
        if call.name.split("___")[0] in paths.INSERTS and unit.value(call.argument(2)) == 0:
            yield call.line, f"{call.argument(0)} gets no new slice"


@rule(
    "vtime-not-initialised",
    "warn",
    "Tasks wait by their dsq_vtime and nothing sets it when a task joins: new tasks begin at 0 and go before all "
    "others.",
    fix="set p->scx.dsq_vtime = vtime_now in ops.enable",
    bad="""
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert_vtime(p, SHARED_DSQ, SCX_SLICE_DFL, p->scx.dsq_vtime, enq_flags);
}
void BPF_STRUCT_OPS(x_stopping, struct task_struct *p, bool runnable)
{
	p->scx.dsq_vtime += 1000;
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = {
	.enqueue = (void *)x_enqueue, .stopping = (void *)x_stopping };
""",
    good="""
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert_vtime(p, SHARED_DSQ, SCX_SLICE_DFL, p->scx.dsq_vtime, enq_flags);
}
void BPF_STRUCT_OPS(x_enable, struct task_struct *p)
{
	p->scx.dsq_vtime = vtime_now;
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = {
	.enqueue = (void *)x_enqueue, .enable = (void *)x_enable };
""",
)
def vtime_not_initialised(unit: Unit) -> Iterator[Found]:
    """An insert by dsq_vtime in a text that nowhere assigns one but by adding to it."""
    if re.search(r"\bdsq_vtime\s*=(?!=)|\bscx_bpf_task_set_dsq_vtime\b", unit.code):
        return
    for function, call in unit.own_calls():
        if call.name.split("___")[0] in paths.INSERTS and "dsq_vtime" in function.words and len(call.arguments) > 4:
            if re.search(r"\bscx\.dsq_vtime\b", function.text):
                yield call.line, "the dsq_vtime of a new task is 0"
            return
