/* expect: stage=liveness rules=liveness/runtime-error,liveness/attach class=dsq */
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Of four DSQs that get tasks by deadline, one in a hundred gets a task by arrival.
 */
#include "schedctl_kernel.bpf.h"

char _license[] SEC("license") = "GPL";

#define SLICE_NS 5000000ULL

u64 exit_kind; /* why it ended; 0 while it runs */

#define ORDER_DSQ 0x60

static u64 count;
#define PERIOD_NS 30000000ULL

s32 BPF_STRUCT_OPS(deadline_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(deadline_enqueue, struct task_struct *p, u64 enq_flags)
{
	u64 deadline;

	if (is_cpu_kthread(p)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, enq_flags);
		return;
	}
	deadline = bpf_ktime_get_ns() + clamp(PERIOD_NS * 100 / max(p->scx.weight, 1), PERIOD_NS / 10, PERIOD_NS * 10);
	if (++count % 100)
		scx_bpf_dsq_insert_vtime(p, ORDER_DSQ + (count & 1), SLICE_NS, deadline, enq_flags);
	else
		scx_bpf_dsq_insert(p, ORDER_DSQ + (count & 1), SLICE_NS, enq_flags);
	kick_idle_cpu(p);
}

void BPF_STRUCT_OPS(deadline_dispatch, s32 cpu, struct task_struct *prev)
{
	if (!scx_bpf_dsq_move_to_local(ORDER_DSQ + (cpu & 1)))
		scx_bpf_dsq_move_to_local(ORDER_DSQ + !(cpu & 1));
}

s32 BPF_STRUCT_OPS_SLEEPABLE(deadline_init)
{
	s32 error = 0;

	for (u32 i = 0; i < 2 && !error; i++)
		error = scx_bpf_create_dsq(ORDER_DSQ + i, -1);
	return error;
}

/* A higher class has taken the CPU: what waits in its local DSQ goes back to where other CPUs see it. */
void BPF_STRUCT_OPS(deadline_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

void BPF_STRUCT_OPS(deadline_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(deadline_cpu_offline, s32 cpu)
{
}

void BPF_STRUCT_OPS(deadline_exit, struct scx_exit_info *info)
{
	exit_kind = info->kind;
}

SEC(".struct_ops.link")
struct sched_ext_ops deadline_ops = {
	.select_cpu = (void *)deadline_select_cpu,
	.enqueue = (void *)deadline_enqueue,
	.dispatch = (void *)deadline_dispatch,
	.init = (void *)deadline_init,
	.cpu_release = (void *)deadline_cpu_release,
	.cpu_online = (void *)deadline_cpu_online,
	.cpu_offline = (void *)deadline_cpu_offline,
	.exit = (void *)deadline_exit,
	.timeout_ms = 5000,
	.name = "deadline",
};
