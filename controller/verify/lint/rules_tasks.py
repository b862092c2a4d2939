# SPDX-License-Identifier: Apache-2.0
"""Rules about what becomes of a task: lost, inserted twice, sent where it may not run, from the wrong operation."""

from __future__ import annotations

import re
from collections.abc import Iterator

from controller.verify.lint import paths
from controller.verify.lint.registry import Found, rule
from controller.verify.lint.unit import Call, Function, Unit, spell, walk

_CPUMASK_AWARE = re.compile(
    r"\bcpus_ptr\b|\bcpus_mask\b|\bscx_bpf_pick_\w+|\bscx_bpf_select_cpu_\w+|\bnr_cpus_allowed\b|"
    r"\bbpf_cpumask_test_cpu\b"
)
_ORDER = {"select_cpu": "select_cpu", "enqueue": "enqueue"}
_MOVES = ("scx_bpf_dsq_move_to_local", "scx_bpf_consume")
_INSERT_OPS = frozenset(("select_cpu", "enqueue", "dispatch"))
_OPERATIONS = frozenset(
    (
        "select_cpu", "enqueue", "dequeue", "dispatch", "tick", "runnable", "running", "stopping", "quiescent", "yield",
        "core_sched_before", "set_weight", "set_cpumask", "update_idle", "cpu_acquire", "cpu_release", "init_task",
        "exit_task", "enable", "disable", "cpu_online", "cpu_offline", "init", "exit",
    )
)  # fmt: skip


@rule(
    "lost-task",
    "error",
    "A path through ops.enqueue ends without inserting the task, storing it or handing it on: it never runs again.",
    fix="insert the task on every path; a last resort is scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, slice, enq_flags)",
    bad="""
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	if (p->scx.weight < 10)
		return;
	scx_bpf_dsq_insert(p, SHARED_DSQ, SCX_SLICE_DFL, enq_flags);
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .enqueue = (void *)x_enqueue };
""",
    good="""
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct task_ctx *tctx = bpf_task_storage_get(&tasks, p, 0, 0);

	if (!tctx) {
		scx_bpf_error("no context of %d", p->pid);
		return;
	}
	if (p->scx.weight < 10)
		scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL, enq_flags);
	else
		scx_bpf_dsq_insert(p, SHARED_DSQ, SCX_SLICE_DFL, enq_flags);
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .enqueue = (void *)x_enqueue };
""",
)
def lost_task(unit: Unit) -> Iterator[Found]:
    """Each line at which a path of ops.enqueue ends with the task in nobody's charge; `warn` after a null pointer, and
    where ops.dispatch finds tasks by itself.
    """
    enqueue = unit.operation("enqueue")
    if enqueue is None or not enqueue.own:
        return
    ends = paths.outcomes(unit, enqueue)
    lost = [end for end in ends if not end.state.inserts and not end.state.kept]
    certain = set() if _serves_others(unit) else {end.line for end in lost if not end.state.excused}
    for line in sorted({end.line for end in lost}):
        message = f"{enqueue.name} can end here without having put the task anywhere"
        if line in certain:
            yield line, message
        elif _serves_others(unit):
            yield line, f"{message}, unless ops.dispatch knows of it", "warn"
        else:
            yield line, f"{message}, if a lookup finds nothing", "warn"


def _serves_others(unit: Unit) -> bool:
    """Does ops.dispatch find tasks by itself and insert them? Then what enqueue leaves alone need not be lost."""
    dispatch = unit.operation("dispatch")
    calls = [call for f in unit.reachable(dispatch) for call in f.calls] if dispatch is not None else []
    finds = any(call.name in ("bpf_task_from_pid", "bpf_task_from_vpid", "bpf_kptr_xchg") for call in calls)
    return finds and any(call.name.split("___")[0] in paths.INSERTS for call in calls)


@rule(
    "double-insert",
    "error",
    "One path of an operation inserts its task twice: the kernel throws the scheduler out.",
    fix="return after the first insert, or put the second into an else",
    bad="""
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	if (p->nr_cpus_allowed == 1)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SCX_SLICE_DFL, enq_flags);
	scx_bpf_dsq_insert(p, SHARED_DSQ, SCX_SLICE_DFL, enq_flags);
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .enqueue = (void *)x_enqueue };
""",
    good="""
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	if (p->nr_cpus_allowed == 1) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SCX_SLICE_DFL, enq_flags);
		return;
	}
	scx_bpf_dsq_insert(p, SHARED_DSQ, SCX_SLICE_DFL, enq_flags);
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .enqueue = (void *)x_enqueue };
""",
)
def double_insert(unit: Unit) -> Iterator[Found]:
    """Each insert that is the second of the same task on some path of one operation."""
    for operation in _ORDER:
        function = unit.operation(operation)
        if function is None or not function.own:
            continue
        lines = {end.state.second for end in paths.outcomes(unit, function) if end.state.inserts > 1}
        for line in sorted(lines):
            yield line, f"{function.name} may have inserted the task already when it comes here"


@rule(
    "local-on-unguarded",
    "error",
    "A task is sent to a CPU's local DSQ without a look at whether it may run there: the kernel throws the scheduler "
    "out as soon as a pinned task comes by.",
    fix="test bpf_cpumask_test_cpu(cpu, p->cpus_ptr) first, and use a shared DSQ otherwise",
    bad="""
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	s32 cpu = next_cpu++ % nr_cpus;

	scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL_ON | cpu, SCX_SLICE_DFL, enq_flags);
}
""",
    good="""
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	s32 cpu = next_cpu++ % nr_cpus;

	if (bpf_cpumask_test_cpu(cpu, p->cpus_ptr))
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL_ON | cpu, SCX_SLICE_DFL, enq_flags);
	else
		scx_bpf_dsq_insert(p, SHARED_DSQ, SCX_SLICE_DFL, enq_flags);
}
""",
)
def local_on_unguarded(unit: Unit) -> Iterator[Found]:
    """Inserts and moves to LOCAL_ON in functions that, with all they call, never look at the task's CPUs."""
    for function, call in unit.own_calls():
        name = call.name.split("___")[0]
        if name not in paths.INSERTS and not name.startswith("scx_bpf_dsq_move"):
            continue
        destination = next((text for i in (1, 2) if "LOCAL_ON" in (text := call.argument(i))), None)
        if destination is None or _is_where_it_was(destination, call, function):
            continue
        if not any(_CPUMASK_AWARE.search(f.text) for f in unit.reachable(function)):
            yield call.line, f"{destination} may be a CPU that {call.argument(0)} is not allowed on"


def _is_where_it_was(destination: str, call: Call, function: Function) -> bool:
    """`LOCAL_ON | scx_bpf_task_cpu(p)`: the CPU the task is on, which is one it may use."""
    current = f"scx_bpf_task_cpu({call.argument(0)})"
    if re.search(r"LOCAL_ON \| (?:\(u64\) ?)?" + re.escape(current) + r"$", destination):
        return True
    variable = re.search(r"LOCAL_ON \| (\w+)$", destination)
    pattern = rf"\b{variable[1]}\s*=\s*{re.escape(current)}\s*;" if variable else None
    return pattern is not None and re.search(pattern, function.text) is not None


@rule(
    "wrong-operation",
    "error",
    "A DSQ kfunc is called from an operation that may not call it: the kernel refuses the program or throws it out.",
    fix="insert tasks in select_cpu, enqueue or dispatch only, and move from a DSQ in dispatch only",
    bad="""
void BPF_STRUCT_OPS(x_stopping, struct task_struct *p, bool runnable)
{
	scx_bpf_dsq_insert(p, SHARED_DSQ, SCX_SLICE_DFL, 0);
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .stopping = (void *)x_stopping };
""",
    good="""
void BPF_STRUCT_OPS(x_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED_DSQ);
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .dispatch = (void *)x_dispatch };
""",
)
def wrong_operation(unit: Unit) -> Iterator[Found]:
    """Inserts outside select_cpu/enqueue/dispatch, and moves to the local DSQ outside dispatch."""
    for operation in sorted(_OPERATIONS & unit.ops.keys()):
        function = unit.operation(operation)
        if function is None:
            continue
        for reached in unit.reachable(function):
            for call in reached.calls:
                name = call.name.split("___")[0]
                wrong = (name in paths.INSERTS and operation not in _INSERT_OPS) or (
                    name in _MOVES and operation != "dispatch"
                )
                if wrong:
                    line = call.line if reached.own else function.line
                    yield line, f"{call.name} cannot be called from ops.{operation}"


@rule(
    "no-idle-wakeup",
    "warn",
    "ops.select_cpu does not look for an idle CPU and no CPU is ever kicked: tasks wait while CPUs sleep, which no "
    "watchdog sees.",
    fix="use scx_bpf_select_cpu_dfl() in select_cpu, or scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE) after enqueueing",
    bad="""
s32 BPF_STRUCT_OPS(x_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	return prev_cpu;
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .select_cpu = (void *)x_select_cpu };
""",
    good="""
s32 BPF_STRUCT_OPS(x_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool idle = false;

	return scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &idle);
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .select_cpu = (void *)x_select_cpu };
""",
)
def no_idle_wakeup(unit: Unit) -> Iterator[Found]:
    """A select_cpu of one's own in a text that never asks for idle CPUs and never kicks one."""
    function = unit.operation("select_cpu")
    if function is None or not function.own:
        return
    wakes = re.compile(r"^scx_bpf_(?:select_cpu_|pick_idle|pick_any|test_and_clear_cpu_idle|kick_cpu)")
    # Headers offer calls that nobody makes; only those that an operation reaches count.
    operations = [f for name in _OPERATIONS & unit.ops.keys() if (f := unit.operation(name)) is not None]
    reached = {f.name: f for start in operations for f in unit.reachable(start)}
    if not any(wakes.match(call.name) for f in reached.values() for call in f.calls):
        yield function.line, f"{function.name} picks a CPU without regard to which are idle"


@rule(
    "endless-loop",
    "error",
    "A loop without an end: the BPF verifier refuses the program, after it has looked at a million instructions.",
    fix="give the loop a constant bound, or use bpf_for() or bpf_loop()",
    bad="""
void BPF_STRUCT_OPS(x_dispatch, s32 cpu, struct task_struct *prev)
{
	while (1)
		polls++;
}
""",
    good="""
void BPF_STRUCT_OPS(x_dispatch, s32 cpu, struct task_struct *prev)
{
	while (1)
		if (++polls > 10)
			break;
}
""",
)
def endless_loop(unit: Unit) -> Iterator[Found]:
    """`while (1)` and `for (;;)` that nothing in them leaves."""
    for function in unit.own_functions:
        for node in walk(function.body):
            condition, body = node.child_by_field_name("condition"), node.child_by_field_name("body")
            if node.type not in ("while_statement", "for_statement", "do_statement") or body is None:
                continue
            for_ever = condition is None if node.type == "for_statement" else False
            if condition is not None:
                for_ever = spell(condition) == "true" or bool(unit.value(spell(condition)))
            leaves = {"break_statement", "return_statement", "goto_statement"}
            if for_ever and not any(inner.type in leaves for inner in walk(body)):
                yield node.start_point[0] + 1, "nothing in this loop ends it"
