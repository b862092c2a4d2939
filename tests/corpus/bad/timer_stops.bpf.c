/* expect: stage=liveness rules=liveness/* class=slice */
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The timer that ends the slices is started anew only when somebody waits at that moment.
 */
#include "schedctl_kernel.bpf.h"

char _license[] SEC("license") = "GPL";

#define SLICE_NS 0xffffffffffffffffULL /* no end: the timer preempts */

u64 exit_kind; /* why it ended; 0 while it runs */

#define SHARED 1
#define ROUND_NS 10000000ULL
#define MAX_CPUS 64

struct bpf_timer {
	u64 opaque[2];
} __attribute__((aligned(8)));

struct keeper {
	struct bpf_timer timer;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct keeper);
} keepers SEC(".maps");

static long (*const bpf_timer_init)(struct bpf_timer *timer, void *map, u64 flags) = (void *)169;
static long (*const bpf_timer_set_callback)(struct bpf_timer *timer, void *callback) = (void *)170;
static long (*const bpf_timer_start)(struct bpf_timer *timer, u64 ns, u64 flags) = (void *)171;

/* Each round, as many CPUs as tasks wait give up theirs. */
static int on_round(void *map, int *key, struct bpf_timer *timer)
{
	u32 cpus = scx_bpf_nr_cpu_ids();

	if (scx_bpf_dsq_nr_queued(SHARED) > 0)
		for (u32 i = 0; i < MAX_CPUS && i < cpus; i++)
			scx_bpf_kick_cpu(i, SCX_KICK_PREEMPT);
	if (scx_bpf_dsq_nr_queued(SHARED) > 0)
		bpf_timer_start(timer, ROUND_NS, 0);
	return 0;
}

s32 BPF_STRUCT_OPS(central_timer_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(central_timer_enqueue, struct task_struct *p, u64 enq_flags)
{
	if (is_cpu_kthread(p)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, enq_flags);
		return;
	}
	scx_bpf_dsq_insert(p, SHARED, SLICE_NS, enq_flags);
	kick_idle_cpu(p);
}

void BPF_STRUCT_OPS(central_timer_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(central_timer_init)
{
	u32 key = 0;
	struct keeper *keeper = bpf_map_lookup_elem(&keepers, &key);
	s32 error = scx_bpf_create_dsq(SHARED, -1);

	if (error)
		return error;
	if (!keeper)
		return -EINVAL;
	bpf_timer_init(&keeper->timer, &keepers, 1 /* CLOCK_MONOTONIC */);
	bpf_timer_set_callback(&keeper->timer, on_round);
	return bpf_timer_start(&keeper->timer, ROUND_NS, 0);
}

/* A higher class has taken the CPU: what waits in its local DSQ goes back to where other CPUs see it. */
void BPF_STRUCT_OPS(central_timer_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

void BPF_STRUCT_OPS(central_timer_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(central_timer_cpu_offline, s32 cpu)
{
}

void BPF_STRUCT_OPS(central_timer_exit, struct scx_exit_info *info)
{
	exit_kind = info->kind;
}

SEC(".struct_ops.link")
struct sched_ext_ops central_timer_ops = {
	.select_cpu = (void *)central_timer_select_cpu,
	.enqueue = (void *)central_timer_enqueue,
	.dispatch = (void *)central_timer_dispatch,
	.init = (void *)central_timer_init,
	.cpu_release = (void *)central_timer_cpu_release,
	.cpu_online = (void *)central_timer_cpu_online,
	.cpu_offline = (void *)central_timer_cpu_offline,
	.exit = (void *)central_timer_exit,
	.timeout_ms = 5000,
	.name = "central_timer",
};
