/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Tasks with long bursts go first, by at most a bounded advance over the clock: who waits longer than that is
 * before them.
 */
#include "schedctl_kernel.bpf.h"

char _license[] SEC("license") = "GPL";

#define SLICE_NS 5000000ULL

u64 exit_kind; /* why it ended; 0 while it runs */

#define SHARED 1
#define ADVANCE_MAX_NS 200000000ULL

struct task_state {
	u64 started_at;
	u64 burst;
	u64 average;
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

s32 BPF_STRUCT_OPS(longest_first_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(longest_first_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct task_state *t = state_of(p);
	u64 advance;

	if (is_cpu_kthread(p)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, enq_flags);
		return;
	}
	advance = t ? min(t->average * 8, ADVANCE_MAX_NS) : 0;
	scx_bpf_dsq_insert_vtime(p, SHARED, SLICE_NS, minus(bpf_ktime_get_ns(), advance), enq_flags);
	kick_idle_cpu(p);
}

void BPF_STRUCT_OPS(longest_first_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED);
}

void BPF_STRUCT_OPS(longest_first_running, struct task_struct *p)
{
	struct task_state *t = state_of(p);

	if (t)
		t->started_at = bpf_ktime_get_ns();
}

void BPF_STRUCT_OPS(longest_first_stopping, struct task_struct *p, bool runnable)
{
	struct task_state *t = state_of(p);

	if (!t)
		return;
	t->burst += minus(bpf_ktime_get_ns(), t->started_at);
	if (runnable)
		return;
	t->average = (t->average * 3 + t->burst) / 4;
	t->burst = 0;
}

s32 BPF_STRUCT_OPS(longest_first_init_task, struct task_struct *p, struct scx_init_task_args *args)
{
	return bpf_task_storage_get(&tasks, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE) ? 0 : -ENOMEM;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(longest_first_init)
{
	return scx_bpf_create_dsq(SHARED, -1);
}

/* A higher class has taken the CPU: what waits in its local DSQ goes back to where other CPUs see it. */
void BPF_STRUCT_OPS(longest_first_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

void BPF_STRUCT_OPS(longest_first_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(longest_first_cpu_offline, s32 cpu)
{
}

void BPF_STRUCT_OPS(longest_first_exit, struct scx_exit_info *info)
{
	exit_kind = info->kind;
}

SEC(".struct_ops.link")
struct sched_ext_ops longest_first_ops = {
	.select_cpu = (void *)longest_first_select_cpu,
	.enqueue = (void *)longest_first_enqueue,
	.dispatch = (void *)longest_first_dispatch,
	.running = (void *)longest_first_running,
	.stopping = (void *)longest_first_stopping,
	.init_task = (void *)longest_first_init_task,
	.init = (void *)longest_first_init,
	.cpu_release = (void *)longest_first_cpu_release,
	.cpu_online = (void *)longest_first_cpu_online,
	.cpu_offline = (void *)longest_first_cpu_offline,
	.exit = (void *)longest_first_exit,
	.timeout_ms = 5000,
	.name = "longest_first",
};
