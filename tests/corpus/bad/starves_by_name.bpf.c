/* expect: stage=liveness rules=liveness/weighted-shares,liveness/cgroup-shares,liveness/late-waker,liveness/pinned-floating,liveness/kworker-latency,liveness/rt-hog,liveness/stall,liveness/soak,liveness/stuck class=starvation */
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The second class never gets a turn while the first has tasks, and kernel workers are in the second.
 */
#include "schedctl_kernel.bpf.h"

char _license[] SEC("license") = "GPL";

#define SLICE_NS 5000000ULL

u64 exit_kind; /* why it ended; 0 while it runs */

#define FIRST 1
#define SECOND 2

static u64 turns;

static __always_inline bool in_first(const struct task_struct *p)
{
	u32 hash = 5381;

	for (u32 i = 0; i < 8; i++)
		hash = hash * 33 + p->comm[i];
	return hash && p->comm[0] == 's';
}

s32 BPF_STRUCT_OPS(two_classes_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(two_classes_enqueue, struct task_struct *p, u64 enq_flags)
{
	if (is_cpu_kthread(p)) {
		scx_bpf_dsq_insert(p, SECOND, SLICE_NS, enq_flags);
		return;
	}
	scx_bpf_dsq_insert(p, in_first(p) ? FIRST : SECOND, SLICE_NS, enq_flags);
	kick_idle_cpu(p);
}

void BPF_STRUCT_OPS(two_classes_dispatch, s32 cpu, struct task_struct *prev)
{
	if (!scx_bpf_dsq_move_to_local(FIRST))
		scx_bpf_dsq_move_to_local(SECOND);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(two_classes_init)
{
	s32 error = scx_bpf_create_dsq(FIRST, -1);

	return error ? error : scx_bpf_create_dsq(SECOND, -1);
}

/* A higher class has taken the CPU: what waits in its local DSQ goes back to where other CPUs see it. */
void BPF_STRUCT_OPS(two_classes_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

void BPF_STRUCT_OPS(two_classes_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(two_classes_cpu_offline, s32 cpu)
{
}

void BPF_STRUCT_OPS(two_classes_exit, struct scx_exit_info *info)
{
	exit_kind = info->kind;
}

SEC(".struct_ops.link")
struct sched_ext_ops two_classes_ops = {
	.select_cpu = (void *)two_classes_select_cpu,
	.enqueue = (void *)two_classes_enqueue,
	.dispatch = (void *)two_classes_dispatch,
	.init = (void *)two_classes_init,
	.cpu_release = (void *)two_classes_cpu_release,
	.cpu_online = (void *)two_classes_cpu_online,
	.cpu_offline = (void *)two_classes_cpu_offline,
	.exit = (void *)two_classes_exit,
	.timeout_ms = 5000,
	.name = "two_classes",
};
