/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Neighbouring CPUs, as those that share a cache, have a queue together; an empty domain helps the next.
 */
#include "schedctl_kernel.bpf.h"

char _license[] SEC("license") = "GPL";

#define SLICE_NS 5000000ULL

u64 exit_kind; /* why it ended; 0 while it runs */

#define DOMAIN_DSQ 0x200
#define MAX_DOMAINS 16

const volatile u32 cpus_per_domain = 4;

static __always_inline u32 domain_of(u32 cpu)
{
	return cpu / max(cpus_per_domain, 1) % MAX_DOMAINS;
}

s32 BPF_STRUCT_OPS(domain_queues_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(domain_queues_enqueue, struct task_struct *p, u64 enq_flags)
{
	if (is_cpu_kthread(p)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, enq_flags);
		return;
	}
	scx_bpf_dsq_insert(p, DOMAIN_DSQ + domain_of(scx_bpf_task_cpu(p)), SLICE_NS, enq_flags);
	kick_idle_cpu(p);
}

void BPF_STRUCT_OPS(domain_queues_dispatch, s32 cpu, struct task_struct *prev)
{
	u32 mine = domain_of(cpu);

	for (u32 i = 0; i < MAX_DOMAINS; i++)
		if (scx_bpf_dsq_move_to_local(DOMAIN_DSQ + (mine + i) % MAX_DOMAINS))
			return;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(domain_queues_init)
{
	for (u32 i = 0; i < MAX_DOMAINS; i++) {
		s32 error = scx_bpf_create_dsq(DOMAIN_DSQ + i, -1);

		if (error)
			return error;
	}
	return 0;
}

/* A higher class has taken the CPU: what waits in its local DSQ goes back to where other CPUs see it. */
void BPF_STRUCT_OPS(domain_queues_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

void BPF_STRUCT_OPS(domain_queues_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(domain_queues_cpu_offline, s32 cpu)
{
}

void BPF_STRUCT_OPS(domain_queues_exit, struct scx_exit_info *info)
{
	exit_kind = info->kind;
}

SEC(".struct_ops.link")
struct sched_ext_ops domain_queues_ops = {
	.select_cpu = (void *)domain_queues_select_cpu,
	.enqueue = (void *)domain_queues_enqueue,
	.dispatch = (void *)domain_queues_dispatch,
	.init = (void *)domain_queues_init,
	.cpu_release = (void *)domain_queues_cpu_release,
	.cpu_online = (void *)domain_queues_cpu_online,
	.cpu_offline = (void *)domain_queues_cpu_offline,
	.exit = (void *)domain_queues_exit,
	.timeout_ms = 5000,
	.name = "domain_queues",
};
