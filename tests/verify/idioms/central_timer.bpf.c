/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One CPU decides for all: endless slices, ended by a timer that preempts CPUs with waiting tasks. */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

enum { FALLBACK_DSQ_ID = 0, MS_TO_NS = 1000LLU * 1000, TIMER_INTERVAL_NS = 1 * MS_TO_NS };

const volatile s32 central_cpu;
const volatile u32 nr_cpu_ids = 1;
const volatile u64 slice_ns;

UEI_DEFINE(uei);

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 4096);
	__type(value, s32);
} central_q SEC(".maps");

struct central_timer {
	struct bpf_timer timer;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct central_timer);
} central_timer SEC(".maps");

s32 BPF_STRUCT_OPS(central_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	return central_cpu; /* the kick below wakes who is needed */
}

void BPF_STRUCT_OPS(central_enqueue, struct task_struct *p, u64 enq_flags)
{
	s32 pid = p->pid;

	if ((p->flags & PF_KTHREAD) && p->nr_cpus_allowed == 1) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SCX_SLICE_INF, enq_flags | SCX_ENQ_PREEMPT);
		return;
	}
	if (bpf_map_push_elem(&central_q, &pid, 0)) {
		scx_bpf_dsq_insert(p, FALLBACK_DSQ_ID, SCX_SLICE_INF, enq_flags);
		return;
	}
	if (!scx_bpf_task_running(p))
		scx_bpf_kick_cpu(central_cpu, SCX_KICK_PREEMPT);
}

static bool dispatch_to_cpu(s32 cpu)
{
	struct task_struct *p;
	s32 pid;

	bpf_repeat(BPF_MAX_LOOPS) {
		if (bpf_map_pop_elem(&central_q, &pid))
			break;
		p = bpf_task_from_pid(pid);
		if (!p)
			continue;
		if (!bpf_cpumask_test_cpu(cpu, p->cpus_ptr)) {
			scx_bpf_dsq_insert(p, FALLBACK_DSQ_ID, SCX_SLICE_INF, 0);
			bpf_task_release(p);
			if (!scx_bpf_dispatch_nr_slots())
				break;
			continue;
		}
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL_ON | cpu, SCX_SLICE_INF, 0);
		if (cpu != central_cpu)
			scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
		bpf_task_release(p);
		return true;
	}
	return false;
}

void BPF_STRUCT_OPS(central_dispatch, s32 cpu, struct task_struct *prev)
{
	if (cpu == central_cpu) {
		bpf_for(cpu, 0, nr_cpu_ids) {
			if (!scx_bpf_dispatch_nr_slots())
				break;
			dispatch_to_cpu(cpu);
		}
		if (scx_bpf_dsq_move_to_local(FALLBACK_DSQ_ID))
			return;
		dispatch_to_cpu(central_cpu);
	} else if (!scx_bpf_dsq_move_to_local(FALLBACK_DSQ_ID)) {
		scx_bpf_kick_cpu(central_cpu, SCX_KICK_PREEMPT);
	}
}

static int central_timerfn(void *map, int *key, struct bpf_timer *timer)
{
	s32 cpu;

	bpf_for(cpu, 0, nr_cpu_ids) {
		if (cpu == central_cpu)
			continue;
		if (scx_bpf_dsq_nr_queued(FALLBACK_DSQ_ID) || scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL_ON | cpu))
			scx_bpf_kick_cpu(cpu, SCX_KICK_PREEMPT);
	}
	bpf_timer_start(timer, TIMER_INTERVAL_NS, BPF_F_TIMER_CPU_PIN);
	return 0;
}

int BPF_STRUCT_OPS_SLEEPABLE(central_init)
{
	struct bpf_timer *timer;
	u32 key = 0;
	int ret = scx_bpf_create_dsq(FALLBACK_DSQ_ID, -1);

	if (ret)
		return ret;
	timer = bpf_map_lookup_elem(&central_timer, &key);
	if (!timer)
		return -ESRCH;
	bpf_timer_init(timer, &central_timer, CLOCK_MONOTONIC);
	bpf_timer_set_callback(timer, central_timerfn);
	return bpf_timer_start(timer, TIMER_INTERVAL_NS, BPF_F_TIMER_CPU_PIN);
}

void BPF_STRUCT_OPS(central_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(central_ops,
	       .flags		= SCX_OPS_ENQ_LAST,
	       .select_cpu	= (void *)central_select_cpu,
	       .enqueue		= (void *)central_enqueue,
	       .dispatch	= (void *)central_dispatch,
	       .init		= (void *)central_init,
	       .exit		= (void *)central_exit,
	       .name		= "central");
