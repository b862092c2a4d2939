/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * schedctl_cf6d92788181, from template batch-order.
 *
 * The tasks of all batch classes wait in one queue, the longest job first, so that it does not end long after the
 * others; one that has waited for `ageing` goes before any that comes later. Each other class has a queue shared by
 * nice value. CPU time is shared between the queues by weight.
 */
#define NR_CLASSES 4 /* others and the intents */
#define NR_QUEUES 4 /* others, the fair classes, the batch queue */
#define BATCH_QUEUE (NR_QUEUES - 1)
#define NR_COMM_RULES 4
#define NR_UID_RULES 0
#define MATCH_CGROUPS 1
#include "schedctl.bpf.h"

char _license[] SEC("license") = "Dual BSD/GPL";

static const u64 slice_ns = 5000000ULL; /* parameter slice = 5ms */
/* parameter batch_slice = 10ms */
static const u64 batch_slice_ns = 10000000ULL;
static const u64 ageing_ns = 1000000000ULL; /* parameter ageing = 1s */
const u64 fair_lag_ns = 20000000ULL; /* parameter lag = 20ms */
const u64 fair_age_ns = 1000000000ULL; /* parameter age = 1s */

const struct schedctl_class classes[NR_CLASSES] = {
	/* others, parameter others_weight */
	[0] = { .weight = 100, .queue = 0 },
	/* c1, demo/app1: wakeupLatency */
	[1] = { .weight = 30, .queue = 1, .needs = MATCH_COMM },
	/* c2, demo/app2: cpuShare */
	[2] = { .weight = 60, .queue = 2, .needs = MATCH_COMM },
	/* c3, demo/app3: makespan; param: class parameter length = 0s */
	[3] = { .weight = 90, .queue = BATCH_QUEUE, .needs = MATCH_CGROUP, .param = 0ULL },
};

const struct schedctl_comm_rule comm_rules[NR_COMM_RULES] = {
	{ 1, "app1*" },
	{ 1, "\077pp-1" },
	{ 2, "app2*" },
	{ 2, "\077pp-2" },
};

struct schedctl_queue queues[NR_QUEUES] = {
	[0] = { .weight = 100 },
	[1] = { .weight = 30 },
	[2] = { .weight = 60 },
	/* the weights of the batch classes together */
	[BATCH_QUEUE] = { .weight = 90 },
};

static bool is_batch(const struct schedctl_task *t)
{
	return class_of(t)->queue == BATCH_QUEUE;
}

static u64 task_slice(const struct schedctl_task *t)
{
	return is_batch(t) ? batch_slice_ns : slice_ns;
}

/* How long the task's job is: as declared for its class, or the longer of its burst so far and the average before. */
static u64 task_length(const struct schedctl_task *t)
{
	return class_of(t)->param ? class_of(t)->param : max(t->burst_ns, t->burst_avg);
}

/* Hole lead: how far a batch task goes before those that came at the same time, in ns; at most the ageing. */
static u64 task_lead(const struct task_struct *p, const struct schedctl_task *t)
{
	return min(min(task_length(t), 3600000000000ULL), ageing_ns);
}

/*
 * What the task waits by: in the batch queue the time of its arrival less its lead, so that whoever has waited for
 * `ageing_ns` is before all that come from then on; elsewhere its virtual time.
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
		scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, slice_ns, enq_flags);
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
	account_runnable(t, bpf_ktime_get_ns());
	if (classify(p, t))
		fair_join(t);
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
	struct schedctl_task *t = bpf_task_storage_get(&schedctl_tasks, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);

	return t ? 0 : -ENOMEM;
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
	.cpu_release = (void *)border_cpu_release,
	.init_task = (void *)border_init_task,
	.enable = (void *)border_enable,
	.cpu_online = (void *)border_cpu_online,
	.cpu_offline = (void *)border_cpu_offline,
	.init = (void *)border_init,
	.exit = (void *)border_exit,
	.timeout_ms = 5000,
	.name = "schedctl_cf6d92788181",
};
