# SPDX-License-Identifier: Apache-2.0
"""Rules about what one kernel has and another has not: kfuncs, flags, and behaviour that changed.

They speak only of the kernels asked for. The releases are those of Debian's kernels whose BTF was looked at (6.16, 7.3)
and of the kernel's own changes; a name that came or went between two looked-at releases is left to the audit, which
reads each kernel's BTF, and to the load.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from controller.verify.lint.registry import Found, rule
from controller.verify.lint.unit import Unit

Release = tuple[int, int]
_EVER: Release = (0, 0)
_NEVER: Release = (9999, 0)
# name → (first release that surely has it, first release that surely lacks it again)
KFUNCS: dict[str, tuple[Release, Release]] = {
    "scx_bpf_dispatch": (_EVER, (7, 3)),
    "scx_bpf_dispatch_vtime": (_EVER, (7, 3)),
    "scx_bpf_consume": (_EVER, (6, 16)),
    "scx_bpf_dispatch_from_dsq": (_EVER, (6, 16)),
    "scx_bpf_dispatch_from_dsq_set_vtime": (_EVER, (7, 3)),
    "scx_bpf_dispatch_vtime_from_dsq": (_EVER, (7, 3)),
    "scx_bpf_cpu_rq": (_EVER, (7, 3)),
    "scx_bpf_dsq_insert": ((6, 13), _NEVER),
    "scx_bpf_dsq_insert_vtime": ((6, 13), _NEVER),
    "scx_bpf_dsq_move": ((6, 13), _NEVER),
    "scx_bpf_dsq_move_vtime": ((6, 13), _NEVER),
    "scx_bpf_dsq_move_set_slice": ((6, 13), _NEVER),
    "scx_bpf_dsq_move_set_vtime": ((6, 13), _NEVER),
    "scx_bpf_dsq_move_to_local": ((6, 13), _NEVER),
    "scx_bpf_now": ((6, 14), _NEVER),
    "scx_bpf_select_cpu_and": ((6, 16), _NEVER),
    "scx_bpf_dsq_peek": ((6, 17), _NEVER),
    "scx_bpf_cpu_curr": ((6, 17), _NEVER),
    "scx_bpf_locked_rq": ((6, 17), _NEVER),
    "scx_bpf_task_set_slice": ((6, 19), _NEVER),
    "scx_bpf_task_set_dsq_vtime": ((6, 19), _NEVER),
    "scx_bpf_dsq_reenq": ((6, 19), _NEVER),
}
FLAGS: dict[str, tuple[int, Release, Release]] = {
    "SCX_OPS_KEEP_BUILTIN_IDLE": (1 << 0, _EVER, _NEVER),
    "SCX_OPS_ENQ_LAST": (1 << 1, _EVER, _NEVER),
    "SCX_OPS_ENQ_EXITING": (1 << 2, _EVER, _NEVER),
    "SCX_OPS_SWITCH_PARTIAL": (1 << 3, _EVER, _NEVER),
    "SCX_OPS_ENQ_MIGRATION_DISABLED": (1 << 4, (6, 14), _NEVER),
    "SCX_OPS_ALLOW_QUEUED_WAKEUP": (1 << 5, (6, 15), _NEVER),
    "SCX_OPS_BUILTIN_IDLE_PER_NODE": (1 << 6, (6, 15), _NEVER),
    "SCX_OPS_ALWAYS_ENQ_IMMED": (1 << 7, (6, 17), _NEVER),
    "SCX_OPS_TID_TO_TASK": (1 << 8, (6, 17), _NEVER),
    "SCX_OPS_HAS_CGROUP_WEIGHT": (1 << 16, _EVER, (7, 1)),
}
_KERNEL_RELEASE = re.compile(r"(\d+)\.(\d+)")


def asked(unit: Unit) -> Iterator[tuple[str, Release]]:
    """The kernels asked for, as written and as a number."""
    for name in unit.kernels:
        match = _KERNEL_RELEASE.match(name)
        if match:
            yield name, (int(match[1]), int(match[2]))


@rule(
    "kfunc-of-another-kernel",
    "error",
    "A kernel function is called that a kernel asked for does not have: that kernel refuses the object.",
    fix="declare it __weak and test it before the call, with the other kernel's name as the alternative",
    kernels=("7.3.4",),
    bad="""
void scx_bpf_dispatch(struct task_struct *p, u64 dsq_id, u64 slice, u64 enq_flags) __ksym;
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dispatch(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL, enq_flags);
}
""",
    good="""
void scx_bpf_dispatch(struct task_struct *p, u64 dsq_id, u64 slice, u64 enq_flags) __ksym __weak;
void scx_bpf_dsq_insert(struct task_struct *p, u64 dsq_id, u64 slice, u64 enq_flags) __ksym __weak;
void BPF_STRUCT_OPS(x_enqueue, struct task_struct *p, u64 enq_flags)
{
	if (scx_bpf_dsq_insert)
		scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL, enq_flags);
	else
		scx_bpf_dispatch(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL, enq_flags);
}
""",
)
def kfunc_of_another_kernel(unit: Unit) -> Iterator[Found]:
    """Calls of names outside their releases that are declared here, not weak and not defined here."""
    kernels = list(asked(unit))
    for _function, call in unit.own_calls():
        first, gone = KFUNCS.get(call.name, (_EVER, _NEVER))
        lacking = [name for name, release in kernels if not first <= release < gone]
        if not lacking or call.name in unit.functions or not _declared_strong(unit, call.name):
            continue
        since = f"before {first[0]}.{first[1]}" if first != _EVER else f"since {gone[0]}.{gone[1]}"
        yield call.line, f"kernel {lacking[0]} has no {call.name} (no kernel has it {since})"


def _declared_strong(unit: Unit, name: str) -> bool:
    """Is there a declaration as a kfunc in the text that is not weak? A library's own wrapper is none."""
    found = re.search(rf"\b{name}\s*\([^;{{}}]{{0,400}}\)([^;{{}}()]{{0,80}});", unit.code)
    return found is not None and "__ksym" in found[1] and "__weak" not in found[1]


@rule(
    "flag-of-another-kernel",
    "error",
    "The table sets a flag that a kernel asked for does not know: attaching fails there with EINVAL.",
    fix="leave the flag out, or set it from user space where the kernel has it",
    kernels=("7.3.4", "6.16.3"),
    bad="""
SEC(".struct_ops.link") struct sched_ext_ops x_ops = {
	.flags = SCX_OPS_ENQ_LAST | SCX_OPS_HAS_CGROUP_WEIGHT, .name = "x" };
""",
    good='SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .flags = SCX_OPS_ENQ_LAST, .name = "x" };',
)
def flag_of_another_kernel(unit: Unit) -> Iterator[Found]:
    """Flags of the table, by name or by bit, outside their releases; bits that no kernel knows."""
    value, line = unit.ops.get("flags", ("", 0))
    for name, (bit, first, gone) in FLAGS.items():
        if not re.search(rf"\b{name}\b", value) and not _sets(unit, value, bit):
            continue
        lacking = [kernel for kernel, release in asked(unit) if not first <= release < gone]
        if lacking:
            yield line, f"kernel {lacking[0]} does not know {name}"
    number = unit.value(value) if value else None
    unknown = (number or 0) & ~sum(bit for bit, _first, _gone in FLAGS.values())
    if unknown:
        yield line, f"no kernel knows the flags {unknown:#x}"


def _sets(unit: Unit, value: str, bit: int) -> bool:
    number = unit.value(value) if value else None
    return number is not None and bool(number & bit)


@rule(
    "partial-switch",
    "warn",
    "SCX_OPS_SWITCH_PARTIAL leaves most tasks to the fair class: before 7.0, where nothing reserves time for the ext "
    "class, they starve the scheduler's own tasks.",
    fix="leave SCX_OPS_SWITCH_PARTIAL out, or ask for kernels from 7.0 on",
    bad="""
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .flags = SCX_OPS_SWITCH_PARTIAL, .name = "x" };
""",
    good='SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .flags = SCX_OPS_ENQ_LAST, .name = "x" };',
)
def partial_switch(unit: Unit) -> Iterator[Found]:
    """The flag, unless every kernel asked for is from 7.0 on."""
    value, line = unit.ops.get("flags", ("", 0))
    releases = [release for _name, release in asked(unit)]
    if releases and min(releases) >= (7, 0):
        return
    if "SCX_OPS_SWITCH_PARTIAL" in value or _sets(unit, value, 8):
        yield line, "fair tasks can starve the tasks of this scheduler"


@rule(
    "reenqueue-elsewhere",
    "error",
    "scx_bpf_reenqueue_local() is called outside ops.cpu_release: before 7.0 the BPF verifier refuses it.",
    fix="call it in ops.cpu_release only",
    bad="""
void BPF_STRUCT_OPS(x_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_reenqueue_local();
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .dispatch = (void *)x_dispatch };
""",
    good="""
void BPF_STRUCT_OPS(x_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}
SEC(".struct_ops.link") struct sched_ext_ops x_ops = { .cpu_release = (void *)x_cpu_release };
""",
)
def reenqueue_elsewhere(unit: Unit) -> Iterator[Found]:
    """The first version of the kfunc from another operation, unless every kernel asked for is from 7.0 on."""
    releases = [release for _name, release in asked(unit)]
    if releases and min(releases) >= (7, 0):
        return
    for operation in sorted(unit.ops.keys() - {"cpu_release"}):
        function = unit.operation(operation)
        for reached in unit.reachable(function) if function is not None else ():
            for call in reached.calls:
                if call.name == "scx_bpf_reenqueue_local" and reached.own:
                    yield call.line, f"{call.name} cannot be called from ops.{operation}"
