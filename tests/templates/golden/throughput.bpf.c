/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * schedctl_a00bcf443e5d, from template throughput.
 *
 * Few switches. A task runs as long as its round allows: the fewer wait beside it, the longer, so that caches stay warm
 * and nobody waits longer than a round. CPU time is shared between classes by weight, and by nice value and cpu.weight
 * inside one; a task that wakes takes an idle CPU, its last one first, and never takes one from another task.
 */
#define NR_CLASSES 4 /* others and the intents */
#define NR_QUEUES NR_CLASSES
#define NR_COMM_RULES 4
#define NR_UID_RULES 0
#define MATCH_CGROUPS 1
#define FAIR_WAITS /* fewer switches are worth more here than short waits */
#define NR_KNOBS 9
#define KNOB_WEIGHTS 0, 1ULL, 10000ULL /* weight of class 0; the next rows are those of the other classes */
#define KNOB_ROUND 4, 4000000ULL, 400000000ULL /* parameter round, ns */
#define KNOB_SHORTEST 5, 500000ULL, 20000000ULL /* parameter shortest, ns */
#define KNOB_LONGEST 6, 1000000ULL, 100000000ULL /* parameter longest, ns */
#define KNOB_LAG 7, 1000000ULL, 200000000ULL /* parameter lag, ns */
#define KNOB_AGE 8, 50000000ULL, 2000000000ULL /* parameter age, ns */
#include "schedctl.bpf.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/* Live knobs, which user space may change while the scheduler runs; each is read within its range. */
u64 schedctl_knobs[NR_KNOBS] SEC(".data.schedctl_knobs") = {
	[0] = 100ULL, /* others: weight, parameter others_weight */
	[1] = 30ULL, /* c1: weight */
	[2] = 60ULL, /* c2: weight */
	[3] = 90ULL, /* c3: weight */
	[4] = 40000000ULL, /* parameter round = 40ms */
	[5] = 3000000ULL, /* parameter shortest = 3ms */
	[6] = 20000000ULL, /* parameter longest = 20ms */
	[7] = 20000000ULL, /* parameter lag = 20ms */
	[8] = 1000000000ULL, /* parameter age = 1s */
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

/* Hole slice: how long a task may run before it waits again. */
static u64 task_slice(const struct task_struct *p, const struct schedctl_task *t)
{
	u64 wanted = clamp(min(knob(KNOB_ROUND) / (queue_length(t) + 1), 1000000000ULL), 500000ULL, 100000000ULL);

	return max(min(wanted, knob(KNOB_LONGEST)), min(knob(KNOB_SHORTEST), knob(KNOB_LONGEST)));
}

s32 BPF_STRUCT_OPS(tput_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	struct schedctl_task *t = task_record(p);
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	if (is_idle && t) {
		t->direct = true;
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, task_slice(p, t), 0);
	}
	return cpu;
}

void BPF_STRUCT_OPS(tput_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct schedctl_task *t = task_record(p);

	if (!t) {
		scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, knob(KNOB_SHORTEST), enq_flags);
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

void BPF_STRUCT_OPS(tput_dispatch, s32 cpu, struct task_struct *prev)
{
	struct schedctl_task *t = could_go_on(prev) ? task_record(prev) : NULL;

	if (t)
		fair_charge(prev, t, account_settle(t, bpf_ktime_get_ns()));
	if (!fair_dispatch(cpu, t, t ? fair_key(t) : 0) && t)
		keep_running(prev, task_slice(prev, t));
}

void BPF_STRUCT_OPS(tput_runnable, struct task_struct *p, u64 enq_flags)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	account_runnable(p, t, bpf_ktime_get_ns());
	if (classify(p, t))
		fair_join(t);
}

void BPF_STRUCT_OPS(tput_quiescent, struct task_struct *p, u64 deq_flags)
{
	account_quiescent(p);
}

void BPF_STRUCT_OPS(tput_running, struct task_struct *p)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	account_running(t, bpf_ktime_get_ns());
	fair_running(t);
}

void BPF_STRUCT_OPS(tput_stopping, struct task_struct *p, bool runnable)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	fair_charge(p, t, account_stopping(t, bpf_ktime_get_ns(), runnable));
	if (classify(p, t))
		fair_join(t);
}

/* A real-time task has taken the CPU: what waits in its local DSQ goes back to the queues, where other CPUs see it. */
void BPF_STRUCT_OPS(tput_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

s32 BPF_STRUCT_OPS(tput_init_task, struct task_struct *p, struct scx_init_task_args *args)
{
	return new_task_record(p) ? 0 : -ENOMEM;
}

void BPF_STRUCT_OPS(tput_enable, struct task_struct *p)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	classify(p, t);
	fair_join(t);
}

/* A CPU that comes looks at the queues at once; one that goes holds none of them. */
void BPF_STRUCT_OPS(tput_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(tput_cpu_offline, s32 cpu)
{
}

s32 BPF_STRUCT_OPS_SLEEPABLE(tput_init)
{
	return fair_init();
}

void BPF_STRUCT_OPS(tput_exit, struct scx_exit_info *info)
{
	record_exit(info);
}

SEC(".struct_ops.link")
struct sched_ext_ops tput_ops = {
	.select_cpu = (void *)tput_select_cpu,
	.enqueue = (void *)tput_enqueue,
	.dispatch = (void *)tput_dispatch,
	.runnable = (void *)tput_runnable,
	.running = (void *)tput_running,
	.stopping = (void *)tput_stopping,
	.quiescent = (void *)tput_quiescent,
	.cpu_release = (void *)tput_cpu_release,
	.init_task = (void *)tput_init_task,
	.enable = (void *)tput_enable,
	.cpu_online = (void *)tput_cpu_online,
	.cpu_offline = (void *)tput_cpu_offline,
	.init = (void *)tput_init,
	.exit = (void *)tput_exit,
	.timeout_ms = 5000,
	.name = "schedctl_a00bcf443e5d",
};
