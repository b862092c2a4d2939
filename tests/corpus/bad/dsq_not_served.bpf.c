/* expect: stage=liveness rules=liveness/stall,liveness/stuck,liveness/weighted-shares,liveness/soak or stage=lint rules=lint/dsq-never-consumed class=dsq */
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The queue of the background is filled and never emptied.
 */
#include "schedctl_kernel.bpf.h"

char _license[] SEC("license") = "GPL";

#define SLICE_NS 5000000ULL

u64 exit_kind; /* why it ended; 0 while it runs */

#define FRONT 1
#define BACK 2

static u64 turns;

s32 BPF_STRUCT_OPS(background_share_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(background_share_enqueue, struct task_struct *p, u64 enq_flags)
{
	if (is_cpu_kthread(p)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, enq_flags);
		return;
	}
	if (p->scx.weight < 50)
		scx_bpf_dsq_insert(p, BACK, SLICE_NS, enq_flags);
	else
		scx_bpf_dsq_insert(p, FRONT, SLICE_NS, enq_flags);
	kick_idle_cpu(p);
}

void BPF_STRUCT_OPS(background_share_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(FRONT);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(background_share_init)
{
	s32 error = scx_bpf_create_dsq(FRONT, -1);

	return error ? error : scx_bpf_create_dsq(BACK, -1);
}

/* A higher class has taken the CPU: what waits in its local DSQ goes back to where other CPUs see it. */
void BPF_STRUCT_OPS(background_share_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

void BPF_STRUCT_OPS(background_share_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(background_share_cpu_offline, s32 cpu)
{
}

void BPF_STRUCT_OPS(background_share_exit, struct scx_exit_info *info)
{
	exit_kind = info->kind;
}

SEC(".struct_ops.link")
struct sched_ext_ops background_share_ops = {
	.select_cpu = (void *)background_share_select_cpu,
	.enqueue = (void *)background_share_enqueue,
	.dispatch = (void *)background_share_dispatch,
	.init = (void *)background_share_init,
	.cpu_release = (void *)background_share_cpu_release,
	.cpu_online = (void *)background_share_cpu_online,
	.cpu_offline = (void *)background_share_cpu_offline,
	.exit = (void *)background_share_exit,
	.timeout_ms = 5000,
	.name = "background_share",
};
