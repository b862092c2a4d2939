/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Three queues by weight; a drawn ticket says which a CPU tries first, and it goes on to the others.
 */
#include "schedctl_kernel.bpf.h"

char _license[] SEC("license") = "GPL";

#define SLICE_NS 5000000ULL

u64 exit_kind; /* why it ended; 0 while it runs */

#define TICKET_DSQ 0x20
#define QUEUES 3

static u32 (*const bpf_get_prandom_u32)(void) = (void *)7;

static __always_inline u32 queue_of(const struct task_struct *p)
{
	return p->scx.weight > 100 ? 0 : p->scx.weight == 100 ? 1 : 2;
}

s32 BPF_STRUCT_OPS(lottery_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(lottery_enqueue, struct task_struct *p, u64 enq_flags)
{
	if (is_cpu_kthread(p)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, enq_flags);
		return;
	}
	scx_bpf_dsq_insert(p, TICKET_DSQ + queue_of(p), SLICE_NS, enq_flags);
	kick_idle_cpu(p);
}

void BPF_STRUCT_OPS(lottery_dispatch, s32 cpu, struct task_struct *prev)
{
	u32 ticket = bpf_get_prandom_u32() % 10;
	u32 first = ticket < 5 ? 0 : ticket < 8 ? 1 : 2;

	for (u32 i = 0; i < QUEUES; i++)
		if (scx_bpf_dsq_move_to_local(TICKET_DSQ + (first + i) % QUEUES))
			return;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(lottery_init)
{
	s32 error = scx_bpf_create_dsq(TICKET_DSQ, -1);

	if (!error)
		error = scx_bpf_create_dsq(TICKET_DSQ + 1, -1);
	return error ? error : scx_bpf_create_dsq(TICKET_DSQ + 2, -1);
}

/* A higher class has taken the CPU: what waits in its local DSQ goes back to where other CPUs see it. */
void BPF_STRUCT_OPS(lottery_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

void BPF_STRUCT_OPS(lottery_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(lottery_cpu_offline, s32 cpu)
{
}

void BPF_STRUCT_OPS(lottery_exit, struct scx_exit_info *info)
{
	exit_kind = info->kind;
}

SEC(".struct_ops.link")
struct sched_ext_ops lottery_ops = {
	.select_cpu = (void *)lottery_select_cpu,
	.enqueue = (void *)lottery_enqueue,
	.dispatch = (void *)lottery_dispatch,
	.init = (void *)lottery_init,
	.cpu_release = (void *)lottery_cpu_release,
	.cpu_online = (void *)lottery_cpu_online,
	.cpu_offline = (void *)lottery_cpu_offline,
	.exit = (void *)lottery_exit,
	.timeout_ms = 5000,
	.name = "lottery",
};
