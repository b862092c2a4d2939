/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Four queues by nice value, served by a table of turns: the heavier the oftener, and each in its turn.
 */
#include "schedctl_kernel.bpf.h"

char _license[] SEC("license") = "GPL";

#define SLICE_NS 5000000ULL

u64 exit_kind; /* why it ended; 0 while it runs */

#define BUCKET_DSQ 0x10
#define BUCKETS 4

/* Whose turn it is: 8 of 15, 4, 2 and 1. */
static const u8 turns[16] = { 0, 1, 0, 2, 0, 1, 0, 3, 0, 1, 0, 2, 0, 1, 0, 0 };
static u64 turn;

static __always_inline u32 bucket_of(const struct task_struct *p)
{
	u32 weight = p->scx.weight;

	return weight > 150 ? 0 : weight >= 100 ? 1 : weight >= 40 ? 2 : 3;
}

s32 BPF_STRUCT_OPS(nice_buckets_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(nice_buckets_enqueue, struct task_struct *p, u64 enq_flags)
{
	if (is_cpu_kthread(p)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, enq_flags);
		return;
	}
	scx_bpf_dsq_insert(p, BUCKET_DSQ + bucket_of(p), SLICE_NS, enq_flags);
	kick_idle_cpu(p);
}

void BPF_STRUCT_OPS(nice_buckets_dispatch, s32 cpu, struct task_struct *prev)
{
	u32 first = turns[turn++ & 15];

	for (u32 i = 0; i < BUCKETS; i++)
		if (scx_bpf_dsq_move_to_local(BUCKET_DSQ + (first + i) % BUCKETS))
			return;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(nice_buckets_init)
{
	for (u32 i = 0; i < BUCKETS; i++) {
		s32 error = scx_bpf_create_dsq(BUCKET_DSQ + i, -1);

		if (error)
			return error;
	}
	return 0;
}

/* A higher class has taken the CPU: what waits in its local DSQ goes back to where other CPUs see it. */
void BPF_STRUCT_OPS(nice_buckets_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

void BPF_STRUCT_OPS(nice_buckets_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(nice_buckets_cpu_offline, s32 cpu)
{
}

void BPF_STRUCT_OPS(nice_buckets_exit, struct scx_exit_info *info)
{
	exit_kind = info->kind;
}

SEC(".struct_ops.link")
struct sched_ext_ops nice_buckets_ops = {
	.select_cpu = (void *)nice_buckets_select_cpu,
	.enqueue = (void *)nice_buckets_enqueue,
	.dispatch = (void *)nice_buckets_dispatch,
	.init = (void *)nice_buckets_init,
	.cpu_release = (void *)nice_buckets_cpu_release,
	.cpu_online = (void *)nice_buckets_cpu_online,
	.cpu_offline = (void *)nice_buckets_cpu_offline,
	.exit = (void *)nice_buckets_exit,
	.timeout_ms = 5000,
	.name = "nice_buckets",
};
