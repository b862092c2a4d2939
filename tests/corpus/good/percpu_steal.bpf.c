/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A queue for each CPU; a CPU whose own is empty steals from the others, its neighbour first, and each eighth turn
 * begins with the neighbour: that one may be held by a real-time task, or gone.
 */
#include "schedctl_kernel.bpf.h"

char _license[] SEC("license") = "GPL";

#define SLICE_NS 5000000ULL

u64 exit_kind; /* why it ended; 0 while it runs */

#define CPU_DSQ 0x100
#define MAX_CPUS 64 /* of more CPUs, several share a queue */

static u64 turns;

s32 BPF_STRUCT_OPS(percpu_steal_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(percpu_steal_enqueue, struct task_struct *p, u64 enq_flags)
{
	u32 home;

	if (is_cpu_kthread(p)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, enq_flags);
		return;
	}
	home = scx_bpf_task_cpu(p);
	scx_bpf_dsq_insert(p, CPU_DSQ + home % MAX_CPUS, SLICE_NS, enq_flags);
	scx_bpf_kick_cpu(home, SCX_KICK_IDLE);
	kick_idle_cpu(p);
}

void BPF_STRUCT_OPS(percpu_steal_dispatch, s32 cpu, struct task_struct *prev)
{
	u32 cpus = scx_bpf_nr_cpu_ids();
	u32 first = turns++ % 8 == 7;

	for (u32 i = 0; i < MAX_CPUS && i < cpus; i++)
		if (scx_bpf_dsq_move_to_local(CPU_DSQ + ((u32)cpu + first + i) % min(cpus, MAX_CPUS)))
			return;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(percpu_steal_init)
{
	u32 cpus = scx_bpf_nr_cpu_ids();

	for (u32 i = 0; i < MAX_CPUS && i < cpus; i++) {
		s32 error = scx_bpf_create_dsq(CPU_DSQ + i, -1);

		if (error)
			return error;
	}
	return 0;
}

/* A higher class has taken the CPU: what waits in its local DSQ goes back to where other CPUs see it. */
void BPF_STRUCT_OPS(percpu_steal_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

void BPF_STRUCT_OPS(percpu_steal_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(percpu_steal_cpu_offline, s32 cpu)
{
}

void BPF_STRUCT_OPS(percpu_steal_exit, struct scx_exit_info *info)
{
	exit_kind = info->kind;
}

SEC(".struct_ops.link")
struct sched_ext_ops percpu_steal_ops = {
	.select_cpu = (void *)percpu_steal_select_cpu,
	.enqueue = (void *)percpu_steal_enqueue,
	.dispatch = (void *)percpu_steal_dispatch,
	.init = (void *)percpu_steal_init,
	.cpu_release = (void *)percpu_steal_cpu_release,
	.cpu_online = (void *)percpu_steal_cpu_online,
	.cpu_offline = (void *)percpu_steal_cpu_offline,
	.exit = (void *)percpu_steal_exit,
	.timeout_ms = 5000,
	.name = "percpu_steal",
};
