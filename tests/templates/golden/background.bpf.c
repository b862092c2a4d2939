/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * schedctl_05f5a639dbac, from template background.
 *
 * Tasks of background classes get the CPUs that nobody else wants, and give them back at once when somebody does; so
 * that none of them waits for ever, each CPU saves up a small part of its time for them. All other classes share the
 * CPUs by weight, and by nice value and cpu.weight inside one.
 */
#define NR_CLASSES 4 /* others and the intents */
#define NR_QUEUES NR_CLASSES /* those of background classes stay empty */
#define NR_COMM_RULES 4
#define NR_UID_RULES 0
#define MATCH_CGROUPS 1
#define NR_KNOBS 9
#define KNOB_WEIGHTS 0, 1ULL, 10000ULL /* weight of class 0; the next rows are those of the other classes */
#define KNOB_SLICE 4, 500000ULL, 20000000ULL /* parameter slice, ns */
#define KNOB_BACKGROUND_SLICE 5, 500000ULL, 20000000ULL /* parameter background_slice, ns */
#define KNOB_FLOOR 6, 10ULL, 300ULL /* parameter floor, permille */
#define KNOB_LAG 7, 1000000ULL, 200000000ULL /* parameter lag, ns */
#define KNOB_AGE 8, 50000000ULL, 2000000000ULL /* parameter age, ns */
#include "schedctl.bpf.h"

char _license[] SEC("license") = "Dual BSD/GPL";

#define BACKGROUND_DSQ 0x800 /* waiting tasks of all background classes, by the time they began to wait */
#define MAX_CPUS 512	     /* a power of 2; CPUs above share the records of those below */
#define VICTIMS 8	     /* CPUs looked at for a background task to preempt, from the task's own on */
#define CROWD 8		     /* background tasks that may wait before their slices get shorter */
#define CROWD_SLICE 200000   /* ns; the least that they get, in a crowd */


/* Live knobs, which user space may change while the scheduler runs; each is read within its range. */
u64 schedctl_knobs[NR_KNOBS] SEC(".data.schedctl_knobs") = {
	[0] = 100ULL, /* others: weight, parameter others_weight */
	[1] = 30ULL, /* c1: weight */
	[2] = 60ULL, /* c2: weight */
	[3] = 90ULL, /* c3: weight */
	[4] = 5000000ULL, /* parameter slice = 5ms */
	[5] = 5000000ULL, /* parameter background_slice = 5ms */
	[6] = 20ULL, /* parameter floor = 2% */
	[7] = 20000000ULL, /* parameter lag = 20ms */
	[8] = 1000000000ULL, /* parameter age = 1s */
};

const struct schedctl_class classes[NR_CLASSES] = {
	[0] = { .queue = 0 }, /* others */
	/* c1, demo/app1: wakeupLatency; param: class parameter idle */
	[1] = { .queue = 1, .needs = MATCH_COMM, .param = 1 },
	/* c2, demo/app2: cpuShare; param: class parameter idle */
	[2] = { .queue = 2, .needs = MATCH_COMM, .param = 1 },
	/* c3, demo/app3: makespan; param: class parameter idle */
	[3] = { .queue = 3, .needs = MATCH_CGROUP, .param = 1 },
};

const struct schedctl_comm_rule comm_rules[NR_COMM_RULES] = {
	{ 1, "app1*" },
	{ 1, "\077pp-1" },
	{ 2, "app2*" },
	{ 2, "\077pp-2" },
};

struct schedctl_queue queues[NR_QUEUES];

struct cpu_record {
	u64 saved; /* ns that background tasks may run before the others */
	u64 saved_at;
	bool background; /* runs a background task, as far as this scheduler knows */
};

static struct cpu_record cpus[MAX_CPUS];

static struct cpu_record *cpu_record(s32 cpu)
{
	return &cpus[(u32)cpu % MAX_CPUS];
}

static bool is_background(const struct schedctl_task *t)
{
	return class_of(t)->param > 0;
}

/*
 * A background task's slice: shorter for one that weighs less than the mean of its class, and the more of them wait, so
 * that the last one's turn comes.
 */
static u64 background_slice(struct task_struct *p, const struct schedctl_task *t)
{
	s32 waiting = scx_bpf_dsq_nr_queued(BACKGROUND_DSQ);
	u64 slice = knob(KNOB_BACKGROUND_SLICE) * min(task_weight(p, t), 100) / 100;

	slice = slice * CROWD / (CROWD + (waiting > 0 ? waiting : 0));
	return clamp(slice, CROWD_SLICE, knob(KNOB_BACKGROUND_SLICE));
}

/* Hole slice, and for background tasks the slice above. */
static u64 task_slice(struct task_struct *p, const struct schedctl_task *t)
{
	if (is_background(t))
		return background_slice(p, t);
	return knob(KNOB_SLICE);
}

/* Save up for the time that went by. True when what is saved pays for a background task's slice. */
static bool background_is_due(struct cpu_record *c, u64 now)
{
	u64 since = min(minus(now, c->saved_at), MAX_DELTA);

	c->saved_at = now;
	c->saved = min(c->saved + since * knob(KNOB_FLOOR) / 1000, 2 * knob(KNOB_BACKGROUND_SLICE));
	return c->saved >= knob(KNOB_BACKGROUND_SLICE);
}

/* Charge a task for `delta` ns: a background task to what its CPU has saved, another to its queue. */
static void task_charge(struct task_struct *p, struct schedctl_task *t, struct cpu_record *c, u64 delta)
{
	if (is_background(t))
		c->saved = minus(c->saved, delta);
	else
		fair_charge(p, t, delta);
}

/* Take a CPU from a background task for `p`. The CPU is marked at once, so that the next waker takes another. */
static bool preempt_background(struct task_struct *p)
{
	u32 nr_cpus = scx_bpf_nr_cpu_ids();
	u32 first = scx_bpf_task_cpu(p);

	for (u32 i = 0; i < VICTIMS && i < nr_cpus; i++) {
		u32 cpu = (first + i) % nr_cpus;

		if (!cpu_record(cpu)->background || !bpf_cpumask_test_cpu(cpu, p->cpus_ptr))
			continue;
		cpu_record(cpu)->background = false;
		scx_bpf_kick_cpu(cpu, SCX_KICK_PREEMPT);
		return true;
	}
	return false;
}

s32 BPF_STRUCT_OPS(bgnd_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
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

void BPF_STRUCT_OPS(bgnd_enqueue, struct task_struct *p, u64 enq_flags)
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
	if (is_background(t)) {
		scx_bpf_dsq_insert_vtime(p, BACKGROUND_DSQ, task_slice(p, t), bpf_ktime_get_ns(), enq_flags);
		kick_idle_cpu(p);
		return;
	}
	fair_enqueue(p, t, task_slice(p, t), fair_key(t), enq_flags);
	if (!kick_idle_cpu(p) && preempt_background(p)) {
		struct schedctl_stats *stats = class_stats(t->class);

		if (stats)
			stats->preempts++;
	}
}

void BPF_STRUCT_OPS(bgnd_dispatch, s32 cpu, struct task_struct *prev)
{
	struct schedctl_task *t = could_go_on(prev) ? task_record(prev) : NULL;
	struct cpu_record *c = cpu_record(cpu);
	struct schedctl_task *fair = t && !is_background(t) ? t : NULL;
	u64 now = bpf_ktime_get_ns();
	bool due;

	if (t)
		task_charge(prev, t, c, account_settle(t, now));
	due = background_is_due(c, now) || dsq_oldest_ns(BACKGROUND_DSQ, now) > fair_age_ns;
	if (due && scx_bpf_dsq_move_to_local(BACKGROUND_DSQ))
		return;
	if (fair_dispatch(cpu, fair, fair ? fair_key(fair) : 0))
		return;
	if (!fair && scx_bpf_dsq_move_to_local(BACKGROUND_DSQ))
		return;
	if (t)
		keep_running(prev, task_slice(prev, t));
}

void BPF_STRUCT_OPS(bgnd_runnable, struct task_struct *p, u64 enq_flags)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	account_runnable(p, t, bpf_ktime_get_ns());
	if (classify(p, t))
		fair_join(t);
}

void BPF_STRUCT_OPS(bgnd_quiescent, struct task_struct *p, u64 deq_flags)
{
	account_quiescent(p);
}

void BPF_STRUCT_OPS(bgnd_running, struct task_struct *p)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	account_running(t, bpf_ktime_get_ns());
	cpu_record(bpf_get_smp_processor_id())->background = is_background(t);
	fair_running(t);
}

void BPF_STRUCT_OPS(bgnd_stopping, struct task_struct *p, bool runnable)
{
	struct cpu_record *c = cpu_record(bpf_get_smp_processor_id());
	struct schedctl_task *t = task_record(p);

	c->background = false;
	fair_leave();
	if (!t)
		return;
	task_charge(p, t, c, account_stopping(t, bpf_ktime_get_ns(), runnable));
	if (classify(p, t))
		fair_join(t);
}

/* A real-time task has taken the CPU: what waits in its local DSQ goes back to the queues, where other CPUs see it. */
void BPF_STRUCT_OPS(bgnd_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

s32 BPF_STRUCT_OPS(bgnd_init_task, struct task_struct *p, struct scx_init_task_args *args)
{
	return new_task_record(p) ? 0 : -ENOMEM;
}

void BPF_STRUCT_OPS(bgnd_enable, struct task_struct *p)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	classify(p, t);
	fair_join(t);
}

/* A CPU that comes looks at the queues at once; one that goes holds none of them. */
void BPF_STRUCT_OPS(bgnd_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(bgnd_cpu_offline, s32 cpu)
{
}

s32 BPF_STRUCT_OPS_SLEEPABLE(bgnd_init)
{
	s32 error = scx_bpf_create_dsq(BACKGROUND_DSQ, -1);

	return error ? error : fair_init();
}

void BPF_STRUCT_OPS(bgnd_exit, struct scx_exit_info *info)
{
	record_exit(info);
}

SEC(".struct_ops.link")
struct sched_ext_ops bgnd_ops = {
	.select_cpu = (void *)bgnd_select_cpu,
	.enqueue = (void *)bgnd_enqueue,
	.dispatch = (void *)bgnd_dispatch,
	.runnable = (void *)bgnd_runnable,
	.running = (void *)bgnd_running,
	.stopping = (void *)bgnd_stopping,
	.quiescent = (void *)bgnd_quiescent,
	.cpu_release = (void *)bgnd_cpu_release,
	.init_task = (void *)bgnd_init_task,
	.enable = (void *)bgnd_enable,
	.cpu_online = (void *)bgnd_cpu_online,
	.cpu_offline = (void *)bgnd_cpu_offline,
	.init = (void *)bgnd_init,
	.exit = (void *)bgnd_exit,
	.timeout_ms = 5000,
	.name = "schedctl_05f5a639dbac",
};
