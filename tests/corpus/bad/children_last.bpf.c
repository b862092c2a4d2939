/* expect: stage=liveness rules=liveness/weighted-shares,liveness/cgroup-shares,liveness/late-waker,liveness/pinned-floating,liveness/fork-storm,liveness/exec-churn,liveness/stall,liveness/stuck,liveness/many-tasks,liveness/yield-storm,liveness/affinity-churn,liveness/rt-hog,liveness/kworker-latency class=churn */
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A task that has not run yet waits a minute of virtual time behind all that have.
 */
#include "schedctl_kernel.bpf.h"

char _license[] SEC("license") = "GPL";

#define SLICE_NS 5000000ULL

u64 exit_kind; /* why it ended; 0 while it runs */

#define SHARED 1
#define LAG_NS 20000000ULL /* what a sleeper may claim of the past */

struct task_state {
	u64 vtime;
	u64 started_at;
	bool has_run;
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

static u64 vtime_now;

s32 BPF_STRUCT_OPS(global_vtime_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(global_vtime_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct task_state *t = state_of(p);

	if (is_cpu_kthread(p)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, enq_flags);
		return;
	}
	if (!t) {
		scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SLICE_NS, enq_flags);
		return;
	}
	if (vtime_before(t->vtime, vtime_now - LAG_NS))
		t->vtime = vtime_now - LAG_NS;
	scx_bpf_dsq_insert_vtime(p, SHARED, SLICE_NS, t->has_run ? t->vtime : vtime_now + 60000000000ULL, enq_flags);
	kick_idle_cpu(p);
}

void BPF_STRUCT_OPS(global_vtime_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED);
}

void BPF_STRUCT_OPS(global_vtime_running, struct task_struct *p)
{
	struct task_state *t = state_of(p);

	if (!t)
		return;
	t->started_at = bpf_ktime_get_ns();
	t->has_run = true;
	if (vtime_before(vtime_now, t->vtime))
		vtime_now = t->vtime;
}

void BPF_STRUCT_OPS(global_vtime_stopping, struct task_struct *p, bool runnable)
{
	struct task_state *t = state_of(p);

	if (t)
		t->vtime += minus(bpf_ktime_get_ns(), t->started_at) * 100 / max(p->scx.weight, 1);
}

void BPF_STRUCT_OPS(global_vtime_enable, struct task_struct *p)
{
	struct task_state *t = state_of(p);

	if (t)
		t->vtime = vtime_now;
}

s32 BPF_STRUCT_OPS(global_vtime_init_task, struct task_struct *p, struct scx_init_task_args *args)
{
	return bpf_task_storage_get(&tasks, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE) ? 0 : -ENOMEM;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(global_vtime_init)
{
	return scx_bpf_create_dsq(SHARED, -1);
}

/* A higher class has taken the CPU: what waits in its local DSQ goes back to where other CPUs see it. */
void BPF_STRUCT_OPS(global_vtime_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

void BPF_STRUCT_OPS(global_vtime_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(global_vtime_cpu_offline, s32 cpu)
{
}

void BPF_STRUCT_OPS(global_vtime_exit, struct scx_exit_info *info)
{
	exit_kind = info->kind;
}

SEC(".struct_ops.link")
struct sched_ext_ops global_vtime_ops = {
	.select_cpu = (void *)global_vtime_select_cpu,
	.enqueue = (void *)global_vtime_enqueue,
	.dispatch = (void *)global_vtime_dispatch,
	.running = (void *)global_vtime_running,
	.stopping = (void *)global_vtime_stopping,
	.enable = (void *)global_vtime_enable,
	.init_task = (void *)global_vtime_init_task,
	.init = (void *)global_vtime_init,
	.cpu_release = (void *)global_vtime_cpu_release,
	.cpu_online = (void *)global_vtime_cpu_online,
	.cpu_offline = (void *)global_vtime_cpu_offline,
	.exit = (void *)global_vtime_exit,
	.timeout_ms = 5000,
	.name = "global_vtime",
};
