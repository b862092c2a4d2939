/* expect: stage=liveness rules=liveness/pinned-floating,liveness/affinity-churn,liveness/rt-hog,liveness/hotplug,liveness/stall,liveness/soak,liveness/stuck class=starvation */
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Bound tasks always go first: free ones run only where there are none.
 */
#include "schedctl_kernel.bpf.h"

char _license[] SEC("license") = "GPL";

#define SLICE_NS 5000000ULL

u64 exit_kind; /* why it ended; 0 while it runs */

#define FREE 1
#define BOUND 2

struct task_state {
	u32 weight;
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

/* More operations than the library's own table has; libbpf matches the members by name and drops the suffix. */
struct sched_ext_ops___more {
	s32 (*select_cpu)(struct task_struct *p, s32 prev_cpu, u64 wake_flags);
	void (*enqueue)(struct task_struct *p, u64 enq_flags);
	void (*dispatch)(s32 cpu, struct task_struct *prev);
	void (*set_weight)(struct task_struct *p, u32 weight);
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

s32 BPF_STRUCT_OPS(affinity_queues_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(affinity_queues_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct task_state *t = state_of(p);
	u64 slice;

	if (is_cpu_kthread(p)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, enq_flags);
		return;
	}
	slice = clamp(SLICE_NS * (t && t->weight ? t->weight : 100) / 100, SLICE_NS / 5, SLICE_NS * 4);
	scx_bpf_dsq_insert(p, p->nr_cpus_allowed < scx_bpf_nr_cpu_ids() ? BOUND : FREE, slice, enq_flags);
	kick_idle_cpu(p);
}

void BPF_STRUCT_OPS(affinity_queues_dispatch, s32 cpu, struct task_struct *prev)
{
	u64 first = turns++ > 0 ? BOUND : FREE;

	if (!scx_bpf_dsq_move_to_local(first))
		scx_bpf_dsq_move_to_local(first == FREE ? BOUND : FREE);
}

void BPF_STRUCT_OPS(affinity_queues_set_weight, struct task_struct *p, u32 weight)
{
	struct task_state *t = state_of(p);

	if (t)
		t->weight = weight;
}

s32 BPF_STRUCT_OPS(affinity_queues_init_task, struct task_struct *p, struct scx_init_task_args *args)
{
	return bpf_task_storage_get(&tasks, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE) ? 0 : -ENOMEM;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(affinity_queues_init)
{
	s32 error = scx_bpf_create_dsq(FREE, -1);

	return error ? error : scx_bpf_create_dsq(BOUND, -1);
}

/* A higher class has taken the CPU: what waits in its local DSQ goes back to where other CPUs see it. */
void BPF_STRUCT_OPS(affinity_queues_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

void BPF_STRUCT_OPS(affinity_queues_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(affinity_queues_cpu_offline, s32 cpu)
{
}

void BPF_STRUCT_OPS(affinity_queues_exit, struct scx_exit_info *info)
{
	exit_kind = info->kind;
}

SEC(".struct_ops.link")
struct sched_ext_ops___more affinity_queues_ops = {
	.select_cpu = (void *)affinity_queues_select_cpu,
	.enqueue = (void *)affinity_queues_enqueue,
	.dispatch = (void *)affinity_queues_dispatch,
	.set_weight = (void *)affinity_queues_set_weight,
	.init_task = (void *)affinity_queues_init_task,
	.init = (void *)affinity_queues_init,
	.cpu_release = (void *)affinity_queues_cpu_release,
	.cpu_online = (void *)affinity_queues_cpu_online,
	.cpu_offline = (void *)affinity_queues_cpu_offline,
	.exit = (void *)affinity_queues_exit,
	.timeout_ms = 5000,
	.name = "affinity_queues",
};
