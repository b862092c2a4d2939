/* expect: stage=liveness rules=liveness/late-waker,liveness/rt-hog,liveness/fork-storm,liveness/stall,liveness/soak,liveness/stuck,liveness/exec-churn,liveness/yield-storm,liveness/wakeup-storm,liveness/kworker-latency,liveness/weighted-shares class=starvation */
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Who used up a slice runs only when nobody has woken lately.
 */
#include "schedctl_kernel.bpf.h"

char _license[] SEC("license") = "GPL";

#define SLICE_NS 5000000ULL

u64 exit_kind; /* why it ended; 0 while it runs */

#define WOKEN 1
#define EXPIRED 2

static u64 turns;

s32 BPF_STRUCT_OPS(woken_first_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(woken_first_enqueue, struct task_struct *p, u64 enq_flags)
{
	if (is_cpu_kthread(p)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, enq_flags);
		return;
	}
	scx_bpf_dsq_insert(p, enq_flags & SCX_ENQ_WAKEUP ? WOKEN : EXPIRED, SLICE_NS, enq_flags);
	kick_idle_cpu(p);
}

void BPF_STRUCT_OPS(woken_first_dispatch, s32 cpu, struct task_struct *prev)
{
	if (scx_bpf_dsq_move_to_local(WOKEN))
		turns++;
	else
		scx_bpf_dsq_move_to_local(EXPIRED);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(woken_first_init)
{
	s32 error = scx_bpf_create_dsq(WOKEN, -1);

	return error ? error : scx_bpf_create_dsq(EXPIRED, -1);
}

/* A higher class has taken the CPU: what waits in its local DSQ goes back to where other CPUs see it. */
void BPF_STRUCT_OPS(woken_first_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

void BPF_STRUCT_OPS(woken_first_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(woken_first_cpu_offline, s32 cpu)
{
}

void BPF_STRUCT_OPS(woken_first_exit, struct scx_exit_info *info)
{
	exit_kind = info->kind;
}

SEC(".struct_ops.link")
struct sched_ext_ops woken_first_ops = {
	.select_cpu = (void *)woken_first_select_cpu,
	.enqueue = (void *)woken_first_enqueue,
	.dispatch = (void *)woken_first_dispatch,
	.init = (void *)woken_first_init,
	.cpu_release = (void *)woken_first_cpu_release,
	.cpu_online = (void *)woken_first_cpu_online,
	.cpu_offline = (void *)woken_first_cpu_offline,
	.exit = (void *)woken_first_exit,
	.timeout_ms = 5000,
	.name = "woken_first",
};
