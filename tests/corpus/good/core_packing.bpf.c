/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Waking tasks go to the idle CPU of the lowest number, so that the others may sleep deeply; when none is idle
 * they wait together.
 */
#include "schedctl_kernel.bpf.h"

char _license[] SEC("license") = "GPL";

#define SLICE_NS 5000000ULL

u64 exit_kind; /* why it ended; 0 while it runs */

#define SHARED 1
#define MAX_CPUS 64

bool scx_bpf_test_and_clear_cpu_idle(s32 cpu) __ksym;

s32 BPF_STRUCT_OPS(core_packing_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	u32 cpus = scx_bpf_nr_cpu_ids();

	for (u32 cpu = 0; cpu < MAX_CPUS && cpu < cpus; cpu++) {
		if (!bpf_cpumask_test_cpu(cpu, p->cpus_ptr) || !scx_bpf_test_and_clear_cpu_idle(cpu))
			continue;
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
		return cpu;
	}
	return prev_cpu;
}

void BPF_STRUCT_OPS(core_packing_enqueue, struct task_struct *p, u64 enq_flags)
{
	if (is_cpu_kthread(p)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, enq_flags);
		return;
	}
	scx_bpf_dsq_insert(p, SHARED, SLICE_NS, enq_flags);
	kick_idle_cpu(p);
}

void BPF_STRUCT_OPS(core_packing_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(core_packing_init)
{
	return scx_bpf_create_dsq(SHARED, -1);
}

/* A higher class has taken the CPU: what waits in its local DSQ goes back to where other CPUs see it. */
void BPF_STRUCT_OPS(core_packing_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

void BPF_STRUCT_OPS(core_packing_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(core_packing_cpu_offline, s32 cpu)
{
}

void BPF_STRUCT_OPS(core_packing_exit, struct scx_exit_info *info)
{
	exit_kind = info->kind;
}

SEC(".struct_ops.link")
struct sched_ext_ops core_packing_ops = {
	.select_cpu = (void *)core_packing_select_cpu,
	.enqueue = (void *)core_packing_enqueue,
	.dispatch = (void *)core_packing_dispatch,
	.init = (void *)core_packing_init,
	.cpu_release = (void *)core_packing_cpu_release,
	.cpu_online = (void *)core_packing_cpu_online,
	.cpu_offline = (void *)core_packing_cpu_offline,
	.exit = (void *)core_packing_exit,
	.timeout_ms = 5000,
	.name = "core_packing",
};
