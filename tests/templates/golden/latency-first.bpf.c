/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * schedctl_03a04cbce262, from template latency-first.
 *
 * Tasks of the latency classes go first, in order of deadline, and take a CPU from another task when none is idle. Each
 * CPU pays for that from a budget; when it is used up, the fair queues of the other classes go first until it has
 * filled again. So the others keep their part of every CPU: by weight, inside a class by nice value and cpu.weight.
 */
#define NR_CLASSES 4 /* others and the intents */
#define NR_QUEUES NR_CLASSES /* those of latency classes stay empty */
#define NR_COMM_RULES 4
#define NR_UID_RULES 0
#define MATCH_CGROUPS 1
#define NR_KNOBS 14
#define KNOB_WEIGHTS 0, 1ULL, 10000ULL /* weight of class 0; the next rows are those of the other classes */
#define KNOB_SLICE 4, 500000ULL, 20000000ULL /* parameter slice, ns */
#define KNOB_LATENCY_SLICE 5, 200000ULL, 10000000ULL /* parameter latency_slice, ns */
#define KNOB_LATENCY_SHARE 6, 50ULL, 950ULL /* parameter latency_share, permille */
#define KNOB_BUDGET 7, 1000000ULL, 200000000ULL /* parameter budget, ns */
#define KNOB_LAG 8, 1000000ULL, 200000000ULL /* parameter lag, ns */
#define KNOB_AGE 9, 50000000ULL, 2000000000ULL /* parameter age, ns */
#define KNOB_DEADLINE 10, 10000ULL, 1000000000ULL /* class parameter deadline of class 0; the next rows are those of the other classes, ns */
#include "schedctl.bpf.h"

char _license[] SEC("license") = "Dual BSD/GPL";

#define LATENCY_DSQ 0x800 /* waiting tasks of all latency classes, by deadline */
#define LATENCY_CLASS 1	  /* param of the classes that go first */
#define MAX_CPUS 512	  /* a power of 2; CPUs above share the records of those below */
#define VICTIMS 8	  /* CPUs looked at for a task to preempt, from the task's own on */

/* Live knobs, which user space may change while the scheduler runs; each is read within its range. */
u64 schedctl_knobs[NR_KNOBS] SEC(".data.schedctl_knobs") = {
	[0] = 100ULL, /* others: weight, parameter others_weight */
	[1] = 30ULL, /* c1: weight */
	[2] = 60ULL, /* c2: weight */
	[3] = 90ULL, /* c3: weight */
	[4] = 5000000ULL, /* parameter slice = 5ms */
	[5] = 2000000ULL, /* parameter latency_slice = 2ms */
	[6] = 800ULL, /* parameter latency_share = 80% */
	[7] = 20000000ULL, /* parameter budget = 20ms */
	[8] = 20000000ULL, /* parameter lag = 20ms */
	[9] = 1000000000ULL, /* parameter age = 1s */
	[10] = 2000000ULL, /* others: class parameter deadline = 2ms */
	[11] = 2000000ULL, /* c1: class parameter deadline = 2ms */
	[12] = 2000000ULL, /* c2: class parameter deadline = 2ms */
	[13] = 2000000ULL, /* c3: class parameter deadline = 2ms */
};

const struct schedctl_class classes[NR_CLASSES] = {
	[0] = { .queue = 0 }, /* others */
	/* c1, demo/app1: wakeupLatency */
	[1] = { .queue = 1, .needs = MATCH_COMM, .param = LATENCY_CLASS },
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

enum cpu_running { RUNNING_NOTHING, RUNNING_OTHER, RUNNING_LATENCY };

struct cpu_record {
	s64 budget; /* ns that latency tasks may still run before the others */
	u64 filled_at;
	u32 running; /* enum cpu_running, as far as this scheduler knows */
};

static struct cpu_record cpus[MAX_CPUS];

static struct cpu_record *cpu_record(s32 cpu)
{
	return &cpus[(u32)cpu % MAX_CPUS];
}

static bool is_latency(const struct schedctl_task *t)
{
	return class_of(t)->param == LATENCY_CLASS;
}

static u64 task_slice(const struct schedctl_task *t)
{
	return is_latency(t) ? knob(KNOB_LATENCY_SLICE) : knob(KNOB_SLICE);
}

/* Hole deadline: when a latency task that waits from now on should run, in ns from now, at most 1s. */
static u64 task_deadline(const struct task_struct *p, const struct schedctl_task *t)
{
	return class_knob(t->class, KNOB_DEADLINE);
}

/* Fill the CPU's budget for the time that went by. True while latency tasks go first there. */
static bool budget_left(struct cpu_record *c, u64 now)
{
	u64 since = min(minus(now, c->filled_at), MAX_DELTA);
	s64 budget = c->budget + (s64)(since * knob(KNOB_LATENCY_SHARE) / 1000), most = knob(KNOB_BUDGET);

	c->filled_at = now;
	c->budget = budget > most ? most : budget;
	return c->budget > 0;
}

/* Charge a latency task's time to the CPU it ran on; a debt is bounded like the budget. */
static void budget_charge(struct cpu_record *c, u64 delta)
{
	s64 budget = c->budget - (s64)delta, most = knob(KNOB_BUDGET);

	c->budget = budget < -most ? -most : budget;
}

/* Charge a task for `delta` ns: a latency task to its CPU's budget, another to its queue. */
static void task_charge(struct task_struct *p, struct schedctl_task *t, struct cpu_record *c, u64 delta)
{
	if (is_latency(t))
		budget_charge(c, delta);
	else
		fair_charge(p, t, delta);
}

/* Take a CPU from a task of another class for `p`. The CPU is marked at once, so that the next waker takes another. */
static bool preempt_other(struct task_struct *p)
{
	u32 nr_cpus = scx_bpf_nr_cpu_ids(), first = scx_bpf_task_cpu(p);

	for (u32 i = 0; i < VICTIMS && i < nr_cpus; i++) {
		u32 cpu = (first + i) % nr_cpus;
		struct cpu_record *c = cpu_record(cpu);

		if (c->running != RUNNING_OTHER || c->budget <= 0 || !bpf_cpumask_test_cpu(cpu, p->cpus_ptr))
			continue;
		c->running = RUNNING_LATENCY;
		scx_bpf_kick_cpu(cpu, SCX_KICK_PREEMPT);
		return true;
	}
	return false;
}

static void latency_enqueue(struct task_struct *p, struct schedctl_task *t, u64 enq_flags)
{
	struct schedctl_stats *stats = class_stats(t->class);
	u64 deadline = bpf_ktime_get_ns() + task_deadline(p, t);

	scx_bpf_dsq_insert_vtime(p, LATENCY_DSQ, task_slice(t), deadline, enq_flags);
	/* A task at the end of its slice waits its turn; only one that wakes takes a CPU. */
	if (!kick_idle_cpu(p) && (enq_flags & SCX_ENQ_WAKEUP) && preempt_other(p) && stats)
		stats->preempts++;
}

s32 BPF_STRUCT_OPS(lfirst_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
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

void BPF_STRUCT_OPS(lfirst_enqueue, struct task_struct *p, u64 enq_flags)
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
	} else if (is_latency(t)) {
		latency_enqueue(p, t, enq_flags);
	} else {
		fair_enqueue(p, t, task_slice(t), fair_key(t), enq_flags);
		kick_idle_cpu(p);
	}
}

void BPF_STRUCT_OPS(lfirst_dispatch, s32 cpu, struct task_struct *prev)
{
	struct schedctl_task *t = could_go_on(prev) ? task_record(prev) : NULL;
	struct cpu_record *c = cpu_record(cpu);
	struct schedctl_task *fair = t && !is_latency(t) ? t : NULL;
	u64 now = bpf_ktime_get_ns();
	bool latency_goes_first = budget_left(c, now);

	if (t)
		task_charge(prev, t, c, account_settle(t, now));
	if (latency_goes_first && scx_bpf_dsq_move_to_local(LATENCY_DSQ))
		return;
	if (latency_goes_first && t && !fair) {
		keep_running(prev, task_slice(t));
		return;
	}
	if (fair_dispatch(cpu, fair, fair ? fair_key(fair) : 0))
		return;
	if ((!fair && !latency_goes_first && scx_bpf_dsq_move_to_local(LATENCY_DSQ)) || !t)
		return;
	/* Nobody calls ops.running for who goes on: a waker may have marked the CPU for a task that another CPU took. */
	c->running = fair ? RUNNING_OTHER : RUNNING_LATENCY;
	keep_running(prev, task_slice(t));
}

void BPF_STRUCT_OPS(lfirst_runnable, struct task_struct *p, u64 enq_flags)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	account_runnable(p, t, bpf_ktime_get_ns());
	if (classify(p, t))
		fair_join(t);
}

void BPF_STRUCT_OPS(lfirst_quiescent, struct task_struct *p, u64 deq_flags)
{
	account_quiescent(p);
}

void BPF_STRUCT_OPS(lfirst_running, struct task_struct *p)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	account_running(t, bpf_ktime_get_ns());
	cpu_record(bpf_get_smp_processor_id())->running = is_latency(t) ? RUNNING_LATENCY : RUNNING_OTHER;
	if (!is_latency(t))
		fair_running(t);
}

void BPF_STRUCT_OPS(lfirst_stopping, struct task_struct *p, bool runnable)
{
	struct cpu_record *c = cpu_record(bpf_get_smp_processor_id());
	struct schedctl_task *t = task_record(p);

	c->running = RUNNING_NOTHING;
	fair_leave();
	if (!t)
		return;
	task_charge(p, t, c, account_stopping(t, bpf_ktime_get_ns(), runnable));
	if (classify(p, t))
		fair_join(t);
}

/* A real-time task has taken the CPU: what waits in its local DSQ goes back to the queues, where other CPUs see it. */
void BPF_STRUCT_OPS(lfirst_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

s32 BPF_STRUCT_OPS(lfirst_init_task, struct task_struct *p, struct scx_init_task_args *args)
{
	return new_task_record(p) ? 0 : -ENOMEM;
}

void BPF_STRUCT_OPS(lfirst_enable, struct task_struct *p)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	classify(p, t);
	fair_join(t);
}

/* A CPU that comes looks at the queues at once; one that goes holds none of them. */
void BPF_STRUCT_OPS(lfirst_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(lfirst_cpu_offline, s32 cpu)
{
}

s32 BPF_STRUCT_OPS_SLEEPABLE(lfirst_init)
{
	return scx_bpf_create_dsq(LATENCY_DSQ, -1) ?: fair_init();
}

void BPF_STRUCT_OPS(lfirst_exit, struct scx_exit_info *info)
{
	record_exit(info);
}

SEC(".struct_ops.link")
struct sched_ext_ops lfirst_ops = {
	.select_cpu = (void *)lfirst_select_cpu,
	.enqueue = (void *)lfirst_enqueue,
	.dispatch = (void *)lfirst_dispatch,
	.runnable = (void *)lfirst_runnable,
	.running = (void *)lfirst_running,
	.stopping = (void *)lfirst_stopping,
	.quiescent = (void *)lfirst_quiescent,
	.cpu_release = (void *)lfirst_cpu_release,
	.init_task = (void *)lfirst_init_task,
	.enable = (void *)lfirst_enable,
	.cpu_online = (void *)lfirst_cpu_online,
	.cpu_offline = (void *)lfirst_cpu_offline,
	.init = (void *)lfirst_init,
	.exit = (void *)lfirst_exit,
	.timeout_ms = 5000,
	.name = "schedctl_03a04cbce262",
};
