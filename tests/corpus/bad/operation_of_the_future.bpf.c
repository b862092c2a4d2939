/* expect: stage=load rules=load/* class=interface */
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The table has an operation, and sets it, that the kernel's has not.
 */
#include "schedctl_kernel.bpf.h"

char _license[] SEC("license") = "GPL";

#define SLICE_NS 0xffffffffffffffffULL /* no end: the tick ends it */

u64 exit_kind; /* why it ended; 0 while it runs */

#define SHARED 1
#define TURN_NS 8000000ULL

struct task_state {
	u64 started_at;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct task_state);
} tasks SEC(".maps");

static __always_inline struct task_state *state_of(struct task_struct *p)
{
	return bpf_task_storage_get(&tasks, p, NULL, 0);
}

/* More operations than the library's own table has; libbpf matches the members by name and drops the suffix. */
struct sched_ext_ops___more {
	s32 (*select_cpu)(struct task_struct *p, s32 prev_cpu, u64 wake_flags);
	void (*enqueue)(struct task_struct *p, u64 enq_flags);
	void (*dispatch)(s32 cpu, struct task_struct *prev);
	void (*tick)(struct task_struct *p);
	void (*rebalance)(struct task_struct *p);
	void (*running)(struct task_struct *p);
	void (*cpu_release)(s32 cpu, struct scx_cpu_release_args *args);
	s32 (*init_task)(struct task_struct *p, struct scx_init_task_args *args);
	void (*cpu_online)(s32 cpu);
	void (*cpu_offline)(s32 cpu);
	s32 (*init)(void);
	void (*exit)(struct scx_exit_info *info);
	u64 flags;
	u32 timeout_ms;
	char name[128];
};

s32 BPF_STRUCT_OPS(tick_preempt_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(tick_preempt_enqueue, struct task_struct *p, u64 enq_flags)
{
	if (is_cpu_kthread(p)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, enq_flags);
		return;
	}
	scx_bpf_dsq_insert(p, SHARED, SLICE_NS, enq_flags);
	kick_idle_cpu(p);
}

void BPF_STRUCT_OPS(tick_preempt_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED);
}

void BPF_STRUCT_OPS(tick_preempt_running, struct task_struct *p)
{
	struct task_state *t = state_of(p);

	if (t)
		t->started_at = bpf_ktime_get_ns();
}

void BPF_STRUCT_OPS(tick_preempt_tick, struct task_struct *p)
{
	struct task_state *t = state_of(p);

	if (!t || bpf_ktime_get_ns() - t->started_at >= TURN_NS)
		keep_running(p, 0);
}

s32 BPF_STRUCT_OPS(tick_preempt_init_task, struct task_struct *p, struct scx_init_task_args *args)
{
	return bpf_task_storage_get(&tasks, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE) ? 0 : -ENOMEM;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(tick_preempt_init)
{
	return scx_bpf_create_dsq(SHARED, -1);
}

/* A higher class has taken the CPU: what waits in its local DSQ goes back to where other CPUs see it. */
void BPF_STRUCT_OPS(tick_preempt_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

void BPF_STRUCT_OPS(tick_preempt_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(tick_preempt_cpu_offline, s32 cpu)
{
}

void BPF_STRUCT_OPS(tick_preempt_exit, struct scx_exit_info *info)
{
	exit_kind = info->kind;
}

SEC(".struct_ops.link")
struct sched_ext_ops___more tick_preempt_ops = {
	.select_cpu = (void *)tick_preempt_select_cpu,
	.enqueue = (void *)tick_preempt_enqueue,
	.dispatch = (void *)tick_preempt_dispatch,
	.running = (void *)tick_preempt_running,
	.tick = (void *)tick_preempt_tick,
	.rebalance = (void *)tick_preempt_tick,
	.init_task = (void *)tick_preempt_init_task,
	.init = (void *)tick_preempt_init,
	.cpu_release = (void *)tick_preempt_cpu_release,
	.cpu_online = (void *)tick_preempt_cpu_online,
	.cpu_offline = (void *)tick_preempt_cpu_offline,
	.exit = (void *)tick_preempt_exit,
	.timeout_ms = 5000,
	.name = "tick_preempt",
};
