/* expect: stage=liveness rules=liveness/* class=starvation before=7.0 */
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The task that has the CPU is always let go on, whoever waits. From 7.0 on the kernel's own server for the ext class
 * puts it back among the others every quarter of a second or so.
 */
#include "schedctl_kernel.bpf.h"

char _license[] SEC("license") = "GPL";

#define SLICE_NS 5000000ULL

u64 exit_kind; /* why it ended; 0 while it runs */

#define SHARED 1

s32 BPF_STRUCT_OPS(global_fifo_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(global_fifo_enqueue, struct task_struct *p, u64 enq_flags)
{
	if (is_cpu_kthread(p)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, enq_flags);
		return;
	}
	scx_bpf_dsq_insert(p, SHARED, SLICE_NS, enq_flags);
	kick_idle_cpu(p);
}

void BPF_STRUCT_OPS(global_fifo_dispatch, s32 cpu, struct task_struct *prev)
{
	if (could_go_on(prev)) {
		keep_running(prev, SLICE_NS);
		return;
	}
	scx_bpf_dsq_move_to_local(SHARED);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(global_fifo_init)
{
	return scx_bpf_create_dsq(SHARED, -1);
}

/* A higher class has taken the CPU: what waits in its local DSQ goes back to where other CPUs see it. */
void BPF_STRUCT_OPS(global_fifo_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

void BPF_STRUCT_OPS(global_fifo_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(global_fifo_cpu_offline, s32 cpu)
{
}

void BPF_STRUCT_OPS(global_fifo_exit, struct scx_exit_info *info)
{
	exit_kind = info->kind;
}

SEC(".struct_ops.link")
struct sched_ext_ops global_fifo_ops = {
	.select_cpu = (void *)global_fifo_select_cpu,
	.enqueue = (void *)global_fifo_enqueue,
	.dispatch = (void *)global_fifo_dispatch,
	.init = (void *)global_fifo_init,
	.cpu_release = (void *)global_fifo_cpu_release,
	.cpu_online = (void *)global_fifo_cpu_online,
	.cpu_offline = (void *)global_fifo_cpu_offline,
	.exit = (void *)global_fifo_exit,
	.timeout_ms = 5000,
	.name = "global_fifo",
};
