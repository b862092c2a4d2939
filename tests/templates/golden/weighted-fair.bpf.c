/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * schedctl_0593f3c1fa65, from template weighted-fair.
 *
 * Each class of tasks has a queue. CPU time is shared between the classes by weight and between the tasks of one class
 * by nice value and cpu.weight. A task that wakes takes an idle CPU when there is one and waits in its class's queue
 * otherwise.
 */
#define NR_CLASSES 4 /* others and the intents */
#define NR_QUEUES NR_CLASSES
#define NR_COMM_RULES 4
#define NR_UID_RULES 0
#define MATCH_CGROUPS 1
#define NR_KNOBS 7
#define KNOB_WEIGHTS 0, 1ULL, 10000ULL /* weight of class 0; the next rows are those of the other classes */
#define KNOB_SLICE 4, 500000ULL, 20000000ULL /* parameter slice, ns */
#define KNOB_LAG 5, 1000000ULL, 200000000ULL /* parameter lag, ns */
#define KNOB_AGE 6, 50000000ULL, 2000000000ULL /* parameter age, ns */
#include "schedctl.bpf.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/* Live knobs, which user space may change while the scheduler runs; each is read within its range. */
u64 schedctl_knobs[NR_KNOBS] SEC(".data.schedctl_knobs") = {
	[0] = 100ULL, /* others: weight, parameter others_weight */
	[1] = 30ULL, /* c1: weight */
	[2] = 60ULL, /* c2: weight */
	[3] = 90ULL, /* c3: weight */
	[4] = 5000000ULL, /* parameter slice = 5ms */
	[5] = 20000000ULL, /* parameter lag = 20ms */
	[6] = 1000000000ULL, /* parameter age = 1s */
};

const struct schedctl_class classes[NR_CLASSES] = {
	[0] = { .queue = 0 }, /* others */
	/* c1, demo/app1: wakeupLatency */
	[1] = { .queue = 1, .needs = MATCH_COMM },
	/* c2, demo/app2: cpuShare */
	[2] = { .queue = 2, .needs = MATCH_COMM },
	/* c3, demo/app3: makespan */
	[3] = { .queue = 3, .needs = MATCH_CGROUP },
};

const struct schedctl_comm_rule comm_rules[NR_COMM_RULES] = {
	{ 1, "app1*" },
	{ 1, "\077pp-1" },
	{ 2, "app2*" },
	{ 2, "\077pp-2" },
};

struct schedctl_queue queues[NR_QUEUES];

/* Hole slice: how long a task may run before it waits again, 100us to 20ms. */
static u64 task_slice(const struct task_struct *p, const struct schedctl_task *t)
{
	return knob(KNOB_SLICE);
}

s32 BPF_STRUCT_OPS(wfair_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	struct schedctl_task *t = task_record(p);
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	fair_woken(t, wake_flags);
	if (is_idle && t) {
		t->direct = true;
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, task_slice(p, t), 0);
	}
	return cpu;
}

void BPF_STRUCT_OPS(wfair_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct schedctl_task *t = task_record(p);

	if (!t) {
		scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, knob(KNOB_SLICE), enq_flags);
		kick_idle_cpu(p);
		return;
	}
	t->direct = false;
	/* The kernel's own work for this CPU. */
	if (is_cpu_kthread(p)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, task_slice(p, t), enq_flags);
		return;
	}
	fair_enqueue(p, t, task_slice(p, t), fair_key(t), enq_flags);
	kick_idle_cpu(p);
}

void BPF_STRUCT_OPS(wfair_dispatch, s32 cpu, struct task_struct *prev)
{
	struct schedctl_task *t = could_go_on(prev) ? task_record(prev) : NULL;

	if (t)
		fair_charge(prev, t, account_settle(t, bpf_ktime_get_ns()));
	if (!fair_dispatch(cpu, t, t ? fair_key(t) : 0) && t)
		keep_running(prev, task_slice(prev, t));
}

void BPF_STRUCT_OPS(wfair_runnable, struct task_struct *p, u64 enq_flags)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	account_runnable(p, t, bpf_ktime_get_ns());
	if (classify(p, t))
		fair_join(t);
}

void BPF_STRUCT_OPS(wfair_quiescent, struct task_struct *p, u64 deq_flags)
{
	account_quiescent(p);
}

void BPF_STRUCT_OPS(wfair_running, struct task_struct *p)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	account_running(t, bpf_ktime_get_ns());
	fair_running(t);
}

void BPF_STRUCT_OPS(wfair_stopping, struct task_struct *p, bool runnable)
{
	struct schedctl_task *t = task_record(p);

	fair_leave();
	if (!t)
		return;
	fair_charge(p, t, account_stopping(t, bpf_ktime_get_ns(), runnable));
	if (classify(p, t))
		fair_join(t);
}

/* A real-time task has taken the CPU: what waits in its local DSQ goes back to the queues, where other CPUs see it. */
void BPF_STRUCT_OPS(wfair_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

s32 BPF_STRUCT_OPS(wfair_init_task, struct task_struct *p, struct scx_init_task_args *args)
{
	return new_task_record(p) ? 0 : -ENOMEM;
}

void BPF_STRUCT_OPS(wfair_enable, struct task_struct *p)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	classify(p, t);
	fair_join(t);
}

/* A CPU that comes looks at the queues at once; one that goes holds none of them. */
void BPF_STRUCT_OPS(wfair_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(wfair_cpu_offline, s32 cpu)
{
}

s32 BPF_STRUCT_OPS_SLEEPABLE(wfair_init)
{
	return fair_init();
}

void BPF_STRUCT_OPS(wfair_exit, struct scx_exit_info *info)
{
	record_exit(info);
}

SEC(".struct_ops.link")
struct sched_ext_ops wfair_ops = {
	.select_cpu = (void *)wfair_select_cpu,
	.enqueue = (void *)wfair_enqueue,
	.dispatch = (void *)wfair_dispatch,
	.runnable = (void *)wfair_runnable,
	.running = (void *)wfair_running,
	.stopping = (void *)wfair_stopping,
	.quiescent = (void *)wfair_quiescent,
	.cpu_release = (void *)wfair_cpu_release,
	.init_task = (void *)wfair_init_task,
	.enable = (void *)wfair_enable,
	.cpu_online = (void *)wfair_cpu_online,
	.cpu_offline = (void *)wfair_cpu_offline,
	.init = (void *)wfair_init,
	.exit = (void *)wfair_exit,
	.timeout_ms = 5000,
	.name = "schedctl_0593f3c1fa65",
};
