/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Feedback queues: who uses up its slice goes a level down, who sleeps comes back up; each eighth turn begins at
 * one level after the other, so that none of them has to wait until those above are empty.
 */
#include "schedctl_kernel.bpf.h"

char _license[] SEC("license") = "GPL";

#define SLICE_NS 5000000ULL

u64 exit_kind; /* why it ended; 0 while it runs */

#define LEVEL_DSQ 0x30
#define LEVELS 3

struct task_state {
	u32 level;
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

static u64 turns;

s32 BPF_STRUCT_OPS(mlfq_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(mlfq_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct task_state *t = state_of(p);
	u32 level;

	if (is_cpu_kthread(p)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, enq_flags);
		return;
	}
	level = t ? min(t->level, LEVELS - 1) : 0;
	scx_bpf_dsq_insert(p, LEVEL_DSQ + level, SLICE_NS << level, enq_flags);
	kick_idle_cpu(p);
}

void BPF_STRUCT_OPS(mlfq_dispatch, s32 cpu, struct task_struct *prev)
{
	u64 turn = turns++;
	u32 first = turn % 8 == 7 ? turn / 8 % LEVELS : 0;

	if (scx_bpf_dsq_move_to_local(LEVEL_DSQ + first))
		return;
	for (u32 i = 0; i < LEVELS; i++)
		if (scx_bpf_dsq_move_to_local(LEVEL_DSQ + i))
			return;
}

void BPF_STRUCT_OPS(mlfq_stopping, struct task_struct *p, bool runnable)
{
	struct task_state *t = state_of(p);

	if (t)
		t->level = runnable ? min(t->level + 1, LEVELS - 1) : 0;
}

s32 BPF_STRUCT_OPS(mlfq_init_task, struct task_struct *p, struct scx_init_task_args *args)
{
	return bpf_task_storage_get(&tasks, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE) ? 0 : -ENOMEM;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(mlfq_init)
{
	s32 error = scx_bpf_create_dsq(LEVEL_DSQ, -1);

	if (!error)
		error = scx_bpf_create_dsq(LEVEL_DSQ + 1, -1);
	return error ? error : scx_bpf_create_dsq(LEVEL_DSQ + 2, -1);
}

/* A higher class has taken the CPU: what waits in its local DSQ goes back to where other CPUs see it. */
void BPF_STRUCT_OPS(mlfq_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

void BPF_STRUCT_OPS(mlfq_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(mlfq_cpu_offline, s32 cpu)
{
}

void BPF_STRUCT_OPS(mlfq_exit, struct scx_exit_info *info)
{
	exit_kind = info->kind;
}

SEC(".struct_ops.link")
struct sched_ext_ops mlfq_ops = {
	.select_cpu = (void *)mlfq_select_cpu,
	.enqueue = (void *)mlfq_enqueue,
	.dispatch = (void *)mlfq_dispatch,
	.stopping = (void *)mlfq_stopping,
	.init_task = (void *)mlfq_init_task,
	.init = (void *)mlfq_init,
	.cpu_release = (void *)mlfq_cpu_release,
	.cpu_online = (void *)mlfq_cpu_online,
	.cpu_offline = (void *)mlfq_cpu_offline,
	.exit = (void *)mlfq_exit,
	.timeout_ms = 5000,
	.name = "mlfq",
};
