/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A process in user space decides: tasks go up through one queue map and come down through another. */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

const volatile s32 usersched_pid;

struct order {
	s32 pid;
	u64 seq;
};

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 8192);
	__type(value, struct order);
} up SEC(".maps"), down SEC(".maps");

static bool user_is_needed;

static bool is_usersched(const struct task_struct *p)
{
	return p->pid == usersched_pid;
}

s32 BPF_STRUCT_OPS(uf_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &idle);

	if (idle && !is_usersched(p))
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SCX_SLICE_DFL, 0);
	return cpu;
}

void BPF_STRUCT_OPS(uf_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct order order = { .pid = p->pid };

	if (is_usersched(p))
		return; /* ops.dispatch runs it when there is something to decide */
	if (bpf_map_push_elem(&up, &order, 0)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL, enq_flags);
		return;
	}
	user_is_needed = true;
}

void BPF_STRUCT_OPS(uf_dequeue, struct task_struct *p, u64 deq_flags)
{
	__sync_fetch_and_add(&nr_left, 1); /* what comes down later finds no such task, or one that is not queued */
}

static void run_user(void)
{
	struct task_struct *p = bpf_task_from_pid(usersched_pid);

	if (!p)
		return;
	scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL, 0);
	bpf_task_release(p);
}

void BPF_STRUCT_OPS(uf_dispatch, s32 cpu, struct task_struct *prev)
{
	struct order order;

	if (user_is_needed) {
		user_is_needed = false;
		run_user();
	}
	bpf_repeat(64) {
		struct task_struct *p;

		if (bpf_map_pop_elem(&down, &order))
			break;
		p = bpf_task_from_pid(order.pid);
		if (!p)
			continue;
		scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL, 0);
		bpf_task_release(p);
	}
}

void BPF_STRUCT_OPS(uf_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(uf_ops,
	       .select_cpu = (void *)uf_select_cpu, .enqueue = (void *)uf_enqueue, .dequeue = (void *)uf_dequeue,
	       .dispatch = (void *)uf_dispatch, .exit = (void *)uf_exit, .name = "user_fed");
