# SPDX-License-Identifier: Apache-2.0
"""Whole schedulers that owe nothing to bpf/include, as somebody else might bring them: good ones and bad ones.

They include no header and use the 6.13+ kfunc names directly, so what the verifier says of them does not depend on
schedctl's own library.
"""

from __future__ import annotations

# The line numbers in logs/ are of this text: put what is added on lines that are there.
PRELUDE = r"""
typedef unsigned int u32; typedef unsigned long long u64; typedef int s32; typedef long long s64; typedef _Bool bool;
#define SEC(name) __attribute__((section(name), used))
#define __ksym __attribute__((section(".ksyms")))
#define __always_inline inline __attribute__((always_inline))
#define SCX_DSQ_GLOBAL 0x8000000000000001ULL
#define SCX_DSQ_LOCAL 0x8000000000000002ULL
#define SCX_DSQ_LOCAL_ON 0xC000000000000000ULL
#define SCX_SLICE_DFL 20000000ULL
#define SCX_SLICE_INF (~0ULL)
#define SCX_KICK_IDLE 1ULL
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct cpumask;
struct sched_ext_entity { u64 slice; u64 dsq_vtime; u32 weight; };
struct task_struct { struct sched_ext_entity scx; const struct cpumask *cpus_ptr; int nr_cpus_allowed; int pid;
                     u32 flags; char comm[16]; };
struct scx_init_task_args { bool fork; };
struct scx_exit_info { s64 exit_code; };
#pragma clang attribute pop
struct sched_ext_ops {
    s32 (*select_cpu)(struct task_struct *p, s32 prev_cpu, u64 wake_flags);
    void (*enqueue)(struct task_struct *p, u64 enq_flags);
    void (*dispatch)(s32 cpu, struct task_struct *prev);
    void (*running)(struct task_struct *p);
    void (*stopping)(struct task_struct *p, bool runnable);
    void (*enable)(struct task_struct *p); bool (*yield)(struct task_struct *from, struct task_struct *to);
    void (*cpu_online)(s32 cpu); void (*cpu_offline)(s32 cpu); s32 (*init)(void);
    void (*exit)(struct scx_exit_info *info);
    u64 flags;
    u32 timeout_ms;
    char name[128];
};
s32 scx_bpf_create_dsq(u64 dsq_id, s32 node) __ksym;
s32 scx_bpf_select_cpu_dfl(struct task_struct *p, s32 prev_cpu, u64 wake_flags, bool *is_idle) __ksym;
void scx_bpf_dsq_insert(struct task_struct *p, u64 dsq_id, u64 slice, u64 enq_flags) __ksym;
void scx_bpf_dsq_insert_vtime(struct task_struct *p, u64 dsq_id, u64 slice, u64 vtime, u64 enq_flags) __ksym;
bool scx_bpf_dsq_move_to_local(u64 dsq_id) __ksym;
void scx_bpf_kick_cpu(s32 cpu, u64 flags) __ksym;
s32 scx_bpf_task_cpu(const struct task_struct *p) __ksym; s32 scx_bpf_dsq_nr_queued(u64 dsq_id) __ksym;
static u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
static long (*const bpf_override_return)(void *regs, u64 rc) = (void *)58;
static long (*const bpf_send_signal)(u32 sig) = (void *)109;
char _license[] SEC("license") = "GPL";
static __always_inline bool time_before(u64 a, u64 b) { return (s64)(a - b) < 0; }
"""

_FIFO_BODY = r"""
#define SHARED 0
SEC("struct_ops/fifo_select_cpu") s32 fifo_select_cpu(u64 *ctx)
{
    struct task_struct *p = (void *)ctx[0];
    bool idle = 0;
    s32 cpu = scx_bpf_select_cpu_dfl(p, ctx[1], ctx[2], &idle);
    if (idle)
        scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SCX_SLICE_DFL, 0);
    return cpu;
}
SEC("struct_ops/fifo_enqueue") void fifo_enqueue(u64 *ctx)
{
    struct task_struct *p = (void *)ctx[0];
@ENQUEUE@
}
SEC("struct_ops/fifo_dispatch") void fifo_dispatch(u64 *ctx)
{
    scx_bpf_dsq_move_to_local(SHARED);
}
SEC("struct_ops.s/fifo_init") s32 fifo_init(u64 *ctx)
{
@INIT@
    return scx_bpf_create_dsq(SHARED, -1);
}
SEC("struct_ops/fifo_exit") void fifo_exit(u64 *ctx) {}
SEC(".struct_ops.link") struct sched_ext_ops fifo_ops = {
    .select_cpu = (void *)fifo_select_cpu,
    .enqueue = (void *)fifo_enqueue,
    .dispatch = (void *)fifo_dispatch,
    .init = (void *)fifo_init,
    .exit = (void *)fifo_exit,
    .timeout_ms = @TIMEOUT@,
    .name = "@NAME@",
};
"""


def fifo(
    enqueue: str = "    scx_bpf_dsq_insert(p, SHARED, SCX_SLICE_DFL, ctx[1]);",
    *,
    name: str = "fifo",
    init: str = "",
    top: str = "",
    timeout_ms: int = 5000,
) -> str:
    """One shared FIFO queue, idle CPUs first; with parts of it replaced."""
    body = _FIFO_BODY.replace("@ENQUEUE@", enqueue).replace("@INIT@", init).replace("@NAME@", name)
    return PRELUDE + top + body.replace("@TIMEOUT@", str(timeout_ms))


GOOD = fifo()
LOSES_TASKS = fifo(
    """
    if (p->comm[0] == 'v' && p->comm[1] == 'i' && p->comm[2] == 'c')
        return;
    if ((p->pid & 7) == 3 && p->nr_cpus_allowed > 1)
        return;
    scx_bpf_dsq_insert(p, SHARED, SCX_SLICE_DFL, ctx[1]);""",
    name="lossy",
)
WRONG_CPU = fifo(
    "    scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL_ON | (1 - (scx_bpf_task_cpu(p) & 1)), SCX_SLICE_DFL, ctx[1]);",
    name="wrongcpu",
)
UNBOUNDED = fifo(
    """
    for (u64 i = 0; i != p->scx.slice; i++)
        if (scx_bpf_task_cpu(p) == 77)
            break;
    scx_bpf_dsq_insert(p, SHARED, SCX_SLICE_DFL, ctx[1]);""",
    name="unbounded",
)
STARVES_NICE = fifo(
    """
    scx_bpf_dsq_insert(p, p->scx.weight < 100 ? LAST : SHARED, SCX_SLICE_DFL, ctx[1]);""",
    name="starves",
    top="#define LAST 1\n",
    init="    s32 error = scx_bpf_create_dsq(LAST, -1);\n    if (error)\n        return error;",
).replace(
    "    scx_bpf_dsq_move_to_local(SHARED);",
    "    if (!scx_bpf_dsq_move_to_local(SHARED))\n        scx_bpf_dsq_move_to_local(LAST);",
)
"""Tasks of nice values above 0 run only when nobody else wants to: starvation that is shorter than the watchdog."""

INIT_FAILS = fifo(init="    if (bpf_ktime_get_ns() > 1)\n        return -22;", name="initfails")

_INSERT = "    scx_bpf_dsq_insert(p, SHARED, SCX_SLICE_DFL, ctx[1]);"
_MAP = (
    "static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;\n"
    'struct { int (*type)[1]; int (*max_entries)[16]; u32 *key; u64 *value; } counts SEC(".maps");\n'
)
REFUSED_BY_THE_VERIFIER = {
    "null-pointer": fifo(
        f"    u32 k = 1; u64 *v = bpf_map_lookup_elem(&counts, &k);\n    *v += 1; // HERE\n{_INSERT}", top=_MAP
    ),
    "out-of-bounds": fifo(f"    table[p->pid & 63]++; // HERE\n{_INSERT}", top="static volatile u64 table[16];\n"),
    "bad-pointer": fifo(f"    u64 *x = (void *)p->scx.slice;\n    *x = 1; // HERE\n{_INSERT}"),
    "write-refused": fifo(f"    p->nr_cpus_allowed = 3; // HERE\n{_INSERT}"),
    "kfunc-missing": fifo(
        f"    scx_bpf_nosuch(p);\n{_INSERT}", top="void scx_bpf_nosuch(struct task_struct *p) __ksym;\n"
    ),
    "field-missing": fifo(f"    if (p->nosuch) return; // HERE\n{_INSERT}").replace("int pid;", "int pid; int nosuch;"),
    "not-sleepable": fifo().replace('"struct_ops.s/', '"struct_ops/').replace("(SHARED, -1);", "(SHARED, -1); // HERE"),
    "unbounded-loop": UNBOUNDED.replace("i != p->scx.slice; i++)", "i != p->scx.slice; i++) // HERE"),
}
"""Cause → a scheduler that is refused for it; `// HERE` is the line."""


def _with(source: str, programs: str, ops: str, dispatch: str = "    scx_bpf_dsq_move_to_local(SHARED);") -> str:
    """`source` with more programs and operations, and another way to dispatch."""
    first, table = source.split('SEC(".struct_ops.link")')
    first = first.replace("    scx_bpf_dsq_move_to_local(SHARED);", dispatch)
    return first + programs + 'SEC(".struct_ops.link")' + table.replace("    .exit =", f"{ops}    .exit =")


_LAST_QUEUE = "    s32 error = scx_bpf_create_dsq(LAST, -1);\n    if (error)\n        return error;"
MISBEHAVES = {
    # A task that yields gets a new slice and goes on.
    "yield-storm": _with(
        fifo(name="yields"),
        """SEC("struct_ops/fifo_yield") bool fifo_yield(u64 *ctx)
{
    struct task_struct *p = (void *)ctx[0];
    p->scx.slice = SCX_SLICE_DFL;
    return 0;
}
""",
        "    .yield = (void *)fifo_yield,\n",
    ),
    # Free tasks are spread over two queues by a number of their own; the queue of a CPU that is gone is not served.
    "hotplug": _with(
        fifo(
            """
    s32 cpu = p->nr_cpus_allowed == 1 ? scx_bpf_task_cpu(p) : p->pid & 1;
    scx_bpf_dsq_insert(p, 1 + cpu, SCX_SLICE_DFL, ctx[1]);
    scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);""",
            name="hashes",
            init="    s32 error = scx_bpf_create_dsq(1, -1) ?: scx_bpf_create_dsq(2, -1);\n"
            "    if (error)\n        return error;",
        ),
        """SEC("struct_ops/fifo_online") void fifo_online(u64 *ctx) {}
SEC("struct_ops/fifo_offline") void fifo_offline(u64 *ctx) {}
""",
        "    .cpu_online = (void *)fifo_online,\n    .cpu_offline = (void *)fifo_offline,\n",
        "    scx_bpf_dsq_move_to_local(1 + (s32)ctx[0]);",
    ),
    # Kernel workers come last (PF_WQ_WORKER).
    "kworker-latency": _with(
        fifo(
            "    scx_bpf_dsq_insert(p, p->flags & 0x20 ? LAST : SHARED, SCX_SLICE_DFL, ctx[1]);",
            name="workers",
            top="#define LAST 1\n",
            init=_LAST_QUEUE,
        ),
        "",
        "",
        "    if (!scx_bpf_dsq_move_to_local(SHARED))\n        scx_bpf_dsq_move_to_local(LAST);",
    ),
    # A queue that is "full" takes no more.
    "many-tasks": fifo(
        """
    if (scx_bpf_dsq_nr_queued(SHARED) > 500)
        return;
    scx_bpf_dsq_insert(p, SHARED, SCX_SLICE_DFL, ctx[1]);""",
        name="full",
    ),
    # Each attach takes one of 16 places, which no exit gives back.
    "reload": fifo(
        name="leaks",
        top="static volatile u32 places;\n",
        init="    if (places >= 16)\n        return -28;\n    places++;",
    ),
}
"""Scenario → a scheduler that it rejects, and that does no harm in the others."""
