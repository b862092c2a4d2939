/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A queue for each CPU, kicked when something arrives, and stolen from by the others. */
#include "schedctl.bpf.h"

char _license[] SEC("license") = "Dual BSD/GPL";

#define DSQ_OF(cpu) (0x100 + (u64)(cpu))

static bool steal(s32 cpu, u32 nr_cpus)
{
	u32 i;

	bpf_for(i, 1, nr_cpus) {
		u32 victim = (cpu + i) % nr_cpus;

		if (scx_bpf_dsq_move_to_local(DSQ_OF(victim)))
			return true;
	}
	return false;
}

s32 BPF_STRUCT_OPS(steal_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	s32 cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);

	return cpu >= 0 ? cpu : prev_cpu;
}

void BPF_STRUCT_OPS(steal_enqueue, struct task_struct *p, u64 enq_flags)
{
	s32 cpu = scx_bpf_task_cpu(p);
	bool head = enq_flags & SCX_ENQ_REENQ;

	if (p->nr_cpus_allowed == 1) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SCX_SLICE_DFL, enq_flags);
		goto kick;
	}
	switch (head) {
	case true:
		scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL, enq_flags);
		break;
	default:
		scx_bpf_dsq_insert(p, DSQ_OF(cpu), SCX_SLICE_DFL, enq_flags);
	}
kick:
	scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

void BPF_STRUCT_OPS(steal_dispatch, s32 cpu, struct task_struct *prev)
{
	if (!scx_bpf_dsq_move_to_local(DSQ_OF(cpu)))
		steal(cpu, scx_bpf_nr_cpu_ids());
}

s32 BPF_STRUCT_OPS_SLEEPABLE(steal_init)
{
	u32 cpu, nr_cpus = scx_bpf_nr_cpu_ids();

	bpf_for(cpu, 0, nr_cpus) {
		s32 error = scx_bpf_create_dsq(DSQ_OF(cpu), -1);

		if (error)
			return error;
	}
	return 0;
}

void BPF_STRUCT_OPS(steal_exit, struct scx_exit_info *ei)
{
	exit_kind = ei->kind;
}

SEC(".struct_ops.link")
struct sched_ext_ops steal_ops = {
	.select_cpu = (void *)steal_select_cpu, .enqueue = (void *)steal_enqueue, .dispatch = (void *)steal_dispatch,
	.init = (void *)steal_init, .exit = (void *)steal_exit, .timeout_ms = 5000U, .name = "steal",
};
