/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * schedctl_9456357faa3f, from template batch-order.
 *
 * The tasks of all batch classes wait in one queue, the longest job first, so that it does not end long after the
 * others; one that has waited for `ageing` goes before any that comes later. Each other class has a queue shared by
 * nice value and cpu.weight. CPU time is shared between the queues by weight.
 */
#define NR_CLASSES 4 /* others and the intents */
#define NR_QUEUES 4 /* others, the fair classes, the batch queue */
#define BATCH_QUEUE (NR_QUEUES - 1)
#define NR_COMM_RULES 4
#define NR_UID_RULES 0
#define MATCH_CGROUPS 1
#define SHARED_QUEUES /* by the batch classes */
#define NR_KNOBS 13
#define KNOB_WEIGHTS 0, 1ULL, 10000ULL /* weight of class 0; the next rows are those of the other classes */
#define KNOB_SLICE 4, 500000ULL, 20000000ULL /* parameter slice, ns */
#define KNOB_BATCH_SLICE 5, 1000000ULL, 20000000ULL /* parameter batch_slice, ns */
#define KNOB_AGEING 6, 50000000ULL, 2000000000ULL /* parameter ageing, ns */
#define KNOB_LAG 7, 1000000ULL, 200000000ULL /* parameter lag, ns */
#define KNOB_AGE 8, 50000000ULL, 2000000000ULL /* parameter age, ns */
#define KNOB_LENGTH 9, 0ULL, 3600000000000ULL /* class parameter length of class 0; the next rows are those of the other classes, ns */
#include "schedctl.bpf.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/* Live knobs, which user space may change while the scheduler runs; each is read within its range. */
u64 schedctl_knobs[NR_KNOBS] SEC(".data.schedctl_knobs") = {
	[0] = 100ULL, /* others: weight, parameter others_weight */
	[1] = 30ULL, /* c1: weight */
	[2] = 60ULL, /* c2: weight */
	[3] = 90ULL, /* c3: weight */
	[4] = 5000000ULL, /* parameter slice = 5ms */
	[5] = 10000000ULL, /* parameter batch_slice = 10ms */
	[6] = 1000000000ULL, /* parameter ageing = 1s */
	[7] = 20000000ULL, /* parameter lag = 20ms */
	[8] = 1000000000ULL, /* parameter age = 1s */
	[9] = 0ULL, /* others: class parameter length = 0s */
	[10] = 0ULL, /* c1: class parameter length = 0s */
	[11] = 0ULL, /* c2: class parameter length = 0s */
	[12] = 0ULL, /* c3: class parameter length = 0s */
};

/* Weights of the queues, which follow from those of the classes. */
u64 queue_weights[NR_QUEUES] SEC(".data.schedctl_knobs") = {
	[0] = 100, /* others */
	[1] = 30, /* c1 */
	[2] = 60, /* c2 */
	/* the weights of the batch classes together */
	[BATCH_QUEUE] = 90,
};

const struct schedctl_class classes[NR_CLASSES] = {
	[0] = { .queue = 0 }, /* others */
	/* c1, demo/app1: wakeupLatency */
	[1] = { .queue = 1, .needs = MATCH_COMM },
	/* c2, demo/app2: cpuShare */
	[2] = { .queue = 2, .needs = MATCH_COMM },
	/* c3, demo/app3: makespan */
	[3] = { .queue = BATCH_QUEUE, .needs = MATCH_CGROUP },
};

const struct schedctl_comm_rule comm_rules[NR_COMM_RULES] = {
	{ 1, "app1*" },
	{ 1, "\077pp-1" },
	{ 2, "app2*" },
	{ 2, "\077pp-2" },
};

struct schedctl_queue queues[NR_QUEUES];

static bool is_batch(const struct schedctl_task *t)
{
	return class_of(t)->queue == BATCH_QUEUE;
}

static u64 task_slice(const struct schedctl_task *t)
{
	return is_batch(t) ? knob(KNOB_BATCH_SLICE) : knob(KNOB_SLICE);
}

/* How long the task's job is: as declared for its class, or the longer of its burst so far and the average before. */
static u64 task_length(const struct schedctl_task *t)
{
	u64 declared = class_knob(t->class, KNOB_LENGTH);

	return declared ? declared : max(t->burst_ns, t->burst_avg);
}

/* Hole lead: how far a batch task goes before those that came at the same time, in ns; at most the ageing. */
static u64 task_lead(const struct task_struct *p, const struct schedctl_task *t)
{
	return min(min(task_length(t), 3600000000000ULL), knob(KNOB_AGEING));
}

/*
 * What the task waits by: in the batch queue the time of its arrival less its lead, so that whoever has waited for
 * `ageing` is before all that come from then on; elsewhere its virtual time.
 */
static u64 task_key(const struct task_struct *p, struct schedctl_task *t)
{
	return is_batch(t) ? bpf_ktime_get_ns() - task_lead(p, t) : fair_key(t);
}

s32 BPF_STRUCT_OPS(border_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	struct schedctl_task *t = task_record(p);
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	fair_woken(t, wake_flags);
	if (is_idle && t) {
		t->direct = true;
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, task_slice(t), 0);
	}
	return cpu;
}

void BPF_STRUCT_OPS(border_enqueue, struct task_struct *p, u64 enq_flags)
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
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, task_slice(t), enq_flags);
		return;
	}
	fair_enqueue(p, t, task_slice(t), task_key(p, t), enq_flags);
	kick_idle_cpu(p);
}

void BPF_STRUCT_OPS(border_dispatch, s32 cpu, struct task_struct *prev)
{
	struct schedctl_task *t = could_go_on(prev) ? task_record(prev) : NULL;

	if (t)
		fair_charge(prev, t, account_settle(t, bpf_ktime_get_ns()));
	if (!fair_dispatch(cpu, t, t ? task_key(prev, t) : 0) && t)
		keep_running(prev, task_slice(t));
}

void BPF_STRUCT_OPS(border_runnable, struct task_struct *p, u64 enq_flags)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	account_runnable(p, t, bpf_ktime_get_ns());
	if (classify(p, t))
		fair_join(t);
}

void BPF_STRUCT_OPS(border_quiescent, struct task_struct *p, u64 deq_flags)
{
	account_quiescent(p);
}

void BPF_STRUCT_OPS(border_running, struct task_struct *p)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	account_running(t, bpf_ktime_get_ns());
	fair_running(t);
}

void BPF_STRUCT_OPS(border_stopping, struct task_struct *p, bool runnable)
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
void BPF_STRUCT_OPS(border_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

s32 BPF_STRUCT_OPS(border_init_task, struct task_struct *p, struct scx_init_task_args *args)
{
	return new_task_record(p) ? 0 : -ENOMEM;
}

void BPF_STRUCT_OPS(border_enable, struct task_struct *p)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	classify(p, t);
	fair_join(t);
}

/* A CPU that comes looks at the queues at once; one that goes holds none of them. */
void BPF_STRUCT_OPS(border_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(border_cpu_offline, s32 cpu)
{
}

s32 BPF_STRUCT_OPS_SLEEPABLE(border_init)
{
	return fair_init();
}

void BPF_STRUCT_OPS(border_exit, struct scx_exit_info *info)
{
	record_exit(info);
}

SEC(".struct_ops.link")
struct sched_ext_ops border_ops = {
	.select_cpu = (void *)border_select_cpu,
	.enqueue = (void *)border_enqueue,
	.dispatch = (void *)border_dispatch,
	.runnable = (void *)border_runnable,
	.running = (void *)border_running,
	.stopping = (void *)border_stopping,
	.quiescent = (void *)border_quiescent,
	.cpu_release = (void *)border_cpu_release,
	.init_task = (void *)border_init_task,
	.enable = (void *)border_enable,
	.cpu_online = (void *)border_cpu_online,
	.cpu_offline = (void *)border_cpu_offline,
	.init = (void *)border_init,
	.exit = (void *)border_exit,
	.timeout_ms = 5000,
	.name = "schedctl_9456357faa3f",
};
