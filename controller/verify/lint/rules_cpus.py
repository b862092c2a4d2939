# SPDX-License-Identifier: Apache-2.0
"""Rules about CPUs: kicked or not, counted, taken away, shared by counters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from controller.verify.lint import paths
from controller.verify.lint.registry import Found, rule
from controller.verify.lint.unit import Call, Function, Unit, spell, walk

if TYPE_CHECKING:
    from tree_sitter import Node

_CPU = re.compile(r"(?<![A-Za-z0-9])(?:\w+_)?cpu(?:_\w+)?\b|\bbpf_get_smp_processor_id\b")
_LOOPS = ("while_statement", "for_statement", "do_statement")
_LEAVES = ("break_statement", "return_statement", "goto_statement")
_HOT = ("select_cpu", "enqueue", "dispatch", "running", "stopping", "runnable", "quiescent", "tick", "update_idle")
_MANY_CPUS = 1024
_FEW_CPUS = 64


@rule(
    "missing-kick",
    "warn",
    "A task is put into the queue of another CPU and that CPU is not kicked: when it is idle it does not look, and the "
    "task waits for the next timer, which no watchdog sees.",
    fix="call scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE) after the insert",
    bad="""
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	s32 cpu = scx_bpf_task_cpu(p);

	scx_bpf_dsq_insert(p, cpu, SCX_SLICE_DFL, enq_flags);
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .enqueue = (void *)x_enqueue };
""",
    good="""
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	s32 cpu = scx_bpf_task_cpu(p);

	scx_bpf_dsq_insert(p, cpu, SCX_SLICE_DFL, enq_flags);
	scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .enqueue = (void *)x_enqueue };
""",
)
def missing_kick(unit: Unit) -> Iterator[Found]:
    """Inserts of ops.enqueue into a DSQ named by a CPU, when nothing that it reaches kicks one."""
    enqueue = unit.operation("enqueue")
    if enqueue is None or not enqueue.own:
        return
    reached = unit.reachable(enqueue)
    calls = [(f, call) for f in reached for call in f.calls]
    if any(call.name.startswith(("scx_bpf_kick_", "bpf_timer_start")) for _f, call in calls):
        return
    for function, call in calls:
        if function.own and call.name.split("___")[0] in paths.INSERTS and _CPU.search(call.argument(1)):
            yield call.line, f"{call.argument(1)} belongs to a CPU that may be idle"


@rule(
    "fixed-cpu-array",
    "warn",
    "A table has a fixed number of rows and is indexed by the CPU's number: on a machine with more CPUs the rest are "
    "out of bounds or left out.",
    fix="take the number modulo the size, or use a map sized by scx_bpf_nr_cpu_ids() before loading",
    bad="""
static u64 busy[8];
void BPF_STRUCT_OPS(x_running, struct task_struct *p)
{
	s32 cpu = bpf_get_smp_processor_id();

	if (cpu < 8)
		busy[cpu] = 1;
}
""",
    good="""
static u64 busy[512];
void BPF_STRUCT_OPS(x_running, struct task_struct *p)
{
	s32 cpu = bpf_get_smp_processor_id();

	busy[cpu % 512] = 1;
}
""",
)
def fixed_cpu_array(unit: Unit) -> Iterator[Found]:
    """Subscripts by a CPU of file-scope arrays: unchecked up to 1024 rows, and checked below 64."""
    rows = {name: count for name, count in _arrays(unit) if 1 < count <= _MANY_CPUS}
    for function in unit.own_functions:
        if not rows.keys() & function.words:
            continue
        for node in walk(function.body):
            array, index = node.child_by_field_name("argument"), node.child_by_field_name("index")
            if node.type != "subscript_expression" or array is None or index is None or spell(array) not in rows:
                continue
            text = spell(index)
            count = rows[spell(array)]
            wraps = re.search(r"[%&(]", text) is not None
            if _CPU.search(text) and not wraps and (count < _FEW_CPUS or not _compared(function, text)):
                yield node.start_point[0] + 1, f"{spell(array)} has {count} rows, and {text} may be more"


def _arrays(unit: Unit) -> Iterator[tuple[str, int]]:
    for match in re.finditer(r"^[A-Za-z_][\w \t*]{0,200}?\b(\w+)\[(\w+)\]\s*(?:=|;|SEC|__)", unit.code, re.MULTILINE):
        count = unit.value(match[2])
        if count is not None:
            yield match[1], count


def _compared(function: Function, name: str) -> bool:
    return (
        re.search(rf"\b{re.escape(name)}\s*(?:>=|<|>)|(?:>=|<|>|<=)\s*{re.escape(name)}\b", function.text) is not None
    )


@rule(
    "hotplug-half",
    "warn",
    "Only one of ops.cpu_online and ops.cpu_offline is defined: when a CPU goes the other way the kernel still ends "
    "the scheduler for a restart.",
    fix="define both, if only as empty functions, or neither",
    bad="""
void BPF_STRUCT_OPS(x_cpu_online, s32 cpu) {}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .cpu_online = (void *)x_cpu_online, .name = "x" };
""",
    good="""
void BPF_STRUCT_OPS(x_cpu_online, s32 cpu) {}
void BPF_STRUCT_OPS(x_cpu_offline, s32 cpu) {}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = {
	.cpu_online = (void *)x_cpu_online, .cpu_offline = (void *)x_cpu_offline, .name = "x" };
""",
)
def hotplug_half(unit: Unit) -> Iterator[Found]:
    """Exactly one of the two in the table."""
    there = {"cpu_online", "cpu_offline"} & unit.ops.keys()
    if len(there) == 1:
        name = there.pop()
        yield unit.ops[name][1], f"ops.{name} is defined and its counterpart is not"


@rule(
    "no-cpu-release",
    "warn",
    "Tasks are sent to the local DSQs of chosen CPUs and there is no ops.cpu_release: when a real-time task takes such "
    "a CPU, what waits there waits with it.",
    fix="define ops.cpu_release and call scx_bpf_reenqueue_local() in it",
    bad="""
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	s32 cpu = scx_bpf_pick_any_cpu(p->cpus_ptr, 0);

	scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL_ON | cpu, SCX_SLICE_DFL, enq_flags);
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .enqueue = (void *)x_enqueue };
""",
    good="""
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	s32 cpu = scx_bpf_pick_any_cpu(p->cpus_ptr, 0);

	scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL_ON | cpu, SCX_SLICE_DFL, enq_flags);
}
void BPF_STRUCT_OPS(x_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = {
	.enqueue = (void *)x_enqueue, .cpu_release = (void *)x_cpu_release };
""",
)
def no_cpu_release(unit: Unit) -> Iterator[Found]:
    """Inserts of ops.enqueue into SCX_DSQ_LOCAL_ON in a table without cpu_release; once."""
    enqueue = unit.operation("enqueue")
    if enqueue is None or "cpu_release" in unit.ops:
        return
    for function in unit.reachable(enqueue):
        for call in function.calls:
            if function.own and call.name.split("___")[0] in paths.INSERTS and "LOCAL_ON" in call.argument(1):
                yield call.line, f"nothing takes the tasks back from {call.argument(1)}"
                return


@rule(
    "preempt-in-loop",
    "warn",
    "CPUs are preempted in a loop that goes on after the first: one wakeup throws the tasks of many CPUs out, and "
    "under load they do nothing else.",
    fix="leave the loop after the first scx_bpf_kick_cpu(cpu, SCX_KICK_PREEMPT)",
    bad="""
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	for (s32 cpu = 0; cpu < 8; cpu++)
		scx_bpf_kick_cpu(cpu, SCX_KICK_PREEMPT);
	scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL, enq_flags);
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .enqueue = (void *)x_enqueue };
""",
    good="""
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	for (s32 cpu = 0; cpu < 8; cpu++) {
		if (!bpf_cpumask_test_cpu(cpu, p->cpus_ptr))
			continue;
		scx_bpf_kick_cpu(cpu, SCX_KICK_PREEMPT);
		break;
	}
	scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL, enq_flags);
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .enqueue = (void *)x_enqueue };
""",
)
def preempt_in_loop(unit: Unit) -> Iterator[Found]:
    """Kicks with SCX_KICK_PREEMPT in a loop of a hot operation, when no statement after them in their block leaves."""
    for function in _hot(unit):
        for call in function.calls:
            preempts = call.name == "scx_bpf_kick_cpu" and "SCX_KICK_PREEMPT" in call.argument(1)
            if function.own and preempts and _goes_on(call):
                yield call.line, f"{function.name} preempts a CPU in each round"


def _hot(unit: Unit) -> list[Function]:
    found: dict[str, Function] = {}
    for name in _HOT:
        function = unit.operation(name)
        for reached in unit.reachable(function) if function is not None else ():
            found[reached.name] = reached
    return list(found.values())


def _goes_on(call: Call) -> bool:
    node: Node | None = call.node
    while node is not None and node.type != "function_definition":
        parent = node.parent
        if parent is not None and parent.type in _LOOPS:
            return True
        if parent is not None and parent.type in ("compound_statement", "case_statement"):
            after = [each for each in parent.children if each.start_byte > node.start_byte]
            if any(each.type in _LEAVES for each in after):
                return False
        node = parent
    return False


@rule(
    "counter-not-atomic",
    "warn",
    "A global counter is changed on all CPUs at once without atomics: updates are lost, and what is decided by it "
    "drifts.",
    fix="use __sync_fetch_and_add(&counter, 1), or a per-CPU array",
    bad="""
static u64 nr_queued;
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	nr_queued++;
	scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL, enq_flags);
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .enqueue = (void *)x_enqueue };
""",
    good="""
static u64 nr_queued;
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	__sync_fetch_and_add(&nr_queued, 1);
	scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL, enq_flags);
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .enqueue = (void *)x_enqueue };
""",
)
def counter_not_atomic(unit: Unit) -> Iterator[Found]:
    """`++`, `--`, `+=` and `-=` of file-scope numbers in what the hot operations reach, but for `turn++ % n`."""
    numbers = re.compile(
        r"^(?:static[ \t]+)?(?:volatile[ \t]+)?(?:u|s|__u|__s)(?:8|16|32|64)[ \t]+(?:volatile[ \t]+)?(\w+)"
        r"[ \t]*(?:=[^;{}()\n]*)?;",
        re.MULTILINE,
    )
    globals_ = {match[1] for match in numbers.finditer(unit.code)}
    for function in _hot(unit):
        if not function.own or not globals_ & function.words:
            continue
        for node in walk(function.body):
            operator = node.child_by_field_name("operator")
            sign = spell(operator) if operator is not None else ""
            target = node.child_by_field_name("argument" if node.type == "update_expression" else "left")
            changes = node.type == "update_expression" or (
                node.type == "assignment_expression" and sign in ("+=", "-=")
            )
            if changes and target is not None and spell(target) in globals_ and not _turn(node):
                yield node.start_point[0] + 1, f"{spell(target)} is changed by every CPU"


def _turn(node: Node) -> bool:
    """A number that only says whose turn it is may lose one."""
    parent = node.parent
    while parent is not None and parent.type == "parenthesized_expression":
        parent = parent.parent
    operator = parent.child_by_field_name("operator") if parent is not None else None
    return operator is not None and spell(operator) in ("%", "&")
