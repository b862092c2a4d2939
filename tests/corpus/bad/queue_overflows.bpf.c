/* expect: stage=liveness rules=liveness/stall,liveness/stuck,liveness/many-tasks,liveness/soak class=overflow */
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The queue map holds 64, and what does not fit is forgotten.
 */
#include "schedctl_kernel.bpf.h"

char _license[] SEC("license") = "GPL";

#define SLICE_NS 5000000ULL

u64 exit_kind; /* why it ended; 0 while it runs */

struct task_struct___more {
	int pid;
} __attribute__((preserve_access_index));

/* More operations than the library's own table has; libbpf matches the members by name and drops the suffix. */
struct sched_ext_ops___more {
	s32 (*select_cpu)(struct task_struct *p, s32 prev_cpu, u64 wake_flags);
	void (*enqueue)(struct task_struct *p, u64 enq_flags);
	void (*dequeue)(struct task_struct *p, u64 deq_flags);
	void (*dispatch)(s32 cpu, struct task_struct *prev);
	void (*cpu_release)(s32 cpu, struct scx_cpu_release_args *args);
	void (*cpu_online)(s32 cpu);
	void (*cpu_offline)(s32 cpu);
	s32 (*init)(void);
	void (*exit)(struct scx_exit_info *info);
	u64 flags;
	u32 timeout_ms;
	char name[128];
};

#define SHARED 1
#define BATCH 8

static long (*const bpf_map_push_elem)(void *map, const void *value, u64 flags) = (void *)87;
static long (*const bpf_map_pop_elem)(void *map, void *value) = (void *)88;
struct task_struct *bpf_task_from_pid(s32 pid) __ksym;
void bpf_task_release(struct task_struct *p) __ksym;

struct {
	__uint(type, 22); /* BPF_MAP_TYPE_QUEUE */
	__uint(max_entries, 64);
	__type(value, s32);
} fifo SEC(".maps");

u64 nr_dequeued;

s32 BPF_STRUCT_OPS(queue_map_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(queue_map_enqueue, struct task_struct *p, u64 enq_flags)
{
	s32 pid = ((struct task_struct___more *)p)->pid;

	if (is_cpu_kthread(p)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, enq_flags);
		return;
	}
	bpf_map_push_elem(&fifo, &pid, 0);
	kick_idle_cpu(p);
}

/* A queue map cannot give up one in the middle: its id is skipped when its turn comes. */
void BPF_STRUCT_OPS(queue_map_dequeue, struct task_struct *p, u64 deq_flags)
{
	nr_dequeued++;
}

void BPF_STRUCT_OPS(queue_map_dispatch, s32 cpu, struct task_struct *prev)
{
	for (u32 i = 0; i < BATCH; i++) {
		struct task_struct *p;
		s32 pid;

		if (bpf_map_pop_elem(&fifo, &pid))
			break;
		p = bpf_task_from_pid(pid);
		if (!p)
			continue;
		scx_bpf_dsq_insert(p, SHARED, SLICE_NS, 0);
		bpf_task_release(p);
	}
	scx_bpf_dsq_move_to_local(SHARED);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(queue_map_init)
{
	return scx_bpf_create_dsq(SHARED, -1);
}

/* A higher class has taken the CPU: what waits in its local DSQ goes back to where other CPUs see it. */
void BPF_STRUCT_OPS(queue_map_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

void BPF_STRUCT_OPS(queue_map_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(queue_map_cpu_offline, s32 cpu)
{
}

void BPF_STRUCT_OPS(queue_map_exit, struct scx_exit_info *info)
{
	exit_kind = info->kind;
}

SEC(".struct_ops.link")
struct sched_ext_ops___more queue_map_ops = {
	.select_cpu = (void *)queue_map_select_cpu,
	.enqueue = (void *)queue_map_enqueue,
	.dequeue = (void *)queue_map_dequeue,
	.dispatch = (void *)queue_map_dispatch,
	.init = (void *)queue_map_init,
	.cpu_release = (void *)queue_map_cpu_release,
	.cpu_online = (void *)queue_map_cpu_online,
	.cpu_offline = (void *)queue_map_cpu_offline,
	.exit = (void *)queue_map_exit,
	.timeout_ms = 5000,
	.name = "queue_map",
};
