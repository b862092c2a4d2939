/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A task that wakes waits for its own CPU, in the local DSQ; one that has used up its slice, or that a higher class
 * displaced, is for all, so that no CPU's queue stays longer than the others'.
 */
#include "schedctl_kernel.bpf.h"

char _license[] SEC("license") = "GPL";

#define SLICE_NS 5000000ULL

u64 exit_kind; /* why it ended; 0 while it runs */

#define SCX_ENQ_REENQ (1ULL << 40) /* comes back from scx_bpf_reenqueue_local() */

s32 BPF_STRUCT_OPS(local_queues_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(local_queues_enqueue, struct task_struct *p, u64 enq_flags)
{
	bool wakes = (enq_flags & SCX_ENQ_WAKEUP) && !(enq_flags & SCX_ENQ_REENQ);

	scx_bpf_dsq_insert(p, wakes || is_cpu_kthread(p) ? SCX_DSQ_LOCAL : SCX_DSQ_GLOBAL, SLICE_NS, enq_flags);
	kick_idle_cpu(p);
}

/* A higher class has taken the CPU: what waits in its local DSQ goes back to where other CPUs see it. */
void BPF_STRUCT_OPS(local_queues_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

void BPF_STRUCT_OPS(local_queues_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(local_queues_cpu_offline, s32 cpu)
{
}

void BPF_STRUCT_OPS(local_queues_exit, struct scx_exit_info *info)
{
	exit_kind = info->kind;
}

SEC(".struct_ops.link")
struct sched_ext_ops local_queues_ops = {
	.select_cpu = (void *)local_queues_select_cpu,
	.enqueue = (void *)local_queues_enqueue,
	.cpu_release = (void *)local_queues_cpu_release,
	.cpu_online = (void *)local_queues_cpu_online,
	.cpu_offline = (void *)local_queues_cpu_offline,
	.exit = (void *)local_queues_exit,
	.timeout_ms = 5000,
	.name = "local_queues",
};
