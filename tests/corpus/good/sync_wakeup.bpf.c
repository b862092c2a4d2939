/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A waker that is about to sleep hands its CPU to whom it wakes, if nobody waits there; a few times in a row, because
 * the shared queue is not looked at meanwhile.
 */
#include "schedctl_kernel.bpf.h"

char _license[] SEC("license") = "GPL";

#define SLICE_NS 5000000ULL

u64 exit_kind; /* why it ended; 0 while it runs */

#define SHARED 1
#define SCX_WAKE_SYNC 0x10ULL
#define SCX_DSQ_LOCAL_ON 0xC000000000000000ULL
#define IN_A_ROW 8

static u64 handed; /* since a CPU last looked at the shared queue */

s32 BPF_STRUCT_OPS(sync_wakeup_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	u32 here = bpf_get_smp_processor_id();
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	if (is_idle) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
		return cpu;
	}
	if ((wake_flags & SCX_WAKE_SYNC) && handed < IN_A_ROW && bpf_cpumask_test_cpu(here, p->cpus_ptr) &&
	    scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL_ON | here) == 0) {
		handed++;
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
		return here;
	}
	return cpu;
}

void BPF_STRUCT_OPS(sync_wakeup_enqueue, struct task_struct *p, u64 enq_flags)
{
	if (is_cpu_kthread(p)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, enq_flags);
		return;
	}
	scx_bpf_dsq_insert(p, SHARED, SLICE_NS, enq_flags);
	kick_idle_cpu(p);
}

void BPF_STRUCT_OPS(sync_wakeup_dispatch, s32 cpu, struct task_struct *prev)
{
	handed = 0;
	scx_bpf_dsq_move_to_local(SHARED);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(sync_wakeup_init)
{
	return scx_bpf_create_dsq(SHARED, -1);
}

/* A higher class has taken the CPU: what waits in its local DSQ goes back to where other CPUs see it. */
void BPF_STRUCT_OPS(sync_wakeup_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

void BPF_STRUCT_OPS(sync_wakeup_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(sync_wakeup_cpu_offline, s32 cpu)
{
}

void BPF_STRUCT_OPS(sync_wakeup_exit, struct scx_exit_info *info)
{
	exit_kind = info->kind;
}

SEC(".struct_ops.link")
struct sched_ext_ops sync_wakeup_ops = {
	.select_cpu = (void *)sync_wakeup_select_cpu,
	.enqueue = (void *)sync_wakeup_enqueue,
	.dispatch = (void *)sync_wakeup_dispatch,
	.init = (void *)sync_wakeup_init,
	.cpu_release = (void *)sync_wakeup_cpu_release,
	.cpu_online = (void *)sync_wakeup_cpu_online,
	.cpu_offline = (void *)sync_wakeup_cpu_offline,
	.exit = (void *)sync_wakeup_exit,
	.timeout_ms = 5000,
	.name = "sync_wakeup",
};
