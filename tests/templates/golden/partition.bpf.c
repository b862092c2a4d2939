/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * schedctl_0ff756e18161, from template partition.
 *
 * Some classes have CPUs of their own: there they go first, whatever the rest wants. What they leave idle the others
 * borrow, and give back when an owner's task wakes. On the CPUs that nobody owns all classes share by weight, and by nice
 * value inside one.
 */
#define NR_CLASSES 4 /* others and the intents */
#define NR_QUEUES NR_CLASSES
#define NR_COMM_RULES 4
#define NR_UID_RULES 0
#define MATCH_CGROUPS 1
#define NR_KNOBS 9
#define KNOB_WEIGHTS 0, 1ULL, 10000ULL /* weight of class 0; the next rows are those of the other classes */
#define KNOB_SLICE 4, 500000ULL, 20000000ULL /* parameter slice, ns */
#define KNOB_BORROWED_SLICE 5, 200000ULL, 10000000ULL /* parameter borrowed_slice, ns */
#define KNOB_BOUND_SHARE 6, 5ULL, 200ULL /* parameter bound_share, permille */
#define KNOB_LAG 7, 1000000ULL, 200000000ULL /* parameter lag, ns */
#define KNOB_AGE 8, 50000000ULL, 2000000000ULL /* parameter age, ns */
#include "schedctl.bpf.h"

char _license[] SEC("license") = "Dual BSD/GPL";

#define MAX_CPUS 512 /* a power of 2; CPUs above are nobody's */
#define BOUND_DSQ 0x2000 /* of CPU 0: tasks of others bound there, by the time they began to wait; the rest follow */
#define OWN_CPUS 64  /* of an owner's CPUs, how many are looked at for one to take back */

/* Live knobs, which user space may change while the scheduler runs; each is read within its range. */
u64 schedctl_knobs[NR_KNOBS] SEC(".data.schedctl_knobs") = {
	[0] = 100ULL, /* others: weight, parameter others_weight */
	[1] = 30ULL, /* c1: weight */
	[2] = 60ULL, /* c2: weight */
	[3] = 90ULL, /* c3: weight */
	[4] = 5000000ULL, /* parameter slice = 5ms */
	[5] = 1000000ULL, /* parameter borrowed_slice = 1ms */
	[6] = 10ULL, /* parameter bound_share = 1% */
	[7] = 20000000ULL, /* parameter lag = 20ms */
	[8] = 1000000000ULL, /* parameter age = 1s */
};

const struct schedctl_class classes[NR_CLASSES] = {
	[0] = { .queue = 0 }, /* others */
	/* c1, demo/app1: wakeupLatency; param: class parameter reserve, in thousandths of the CPUs */
	[1] = { .queue = 1, .needs = MATCH_COMM, .param = 0 },
	/* c2, demo/app2: cpuShare; param: class parameter reserve, in thousandths of the CPUs */
	[2] = { .queue = 2, .needs = MATCH_COMM, .param = 0 },
	/* c3, demo/app3: makespan; param: class parameter reserve, in thousandths of the CPUs */
	[3] = { .queue = 3, .needs = MATCH_CGROUP, .param = 0 },
};

const struct schedctl_comm_rule comm_rules[NR_COMM_RULES] = {
	{ 1, "app1*" },
	{ 1, "\077pp-1" },
	{ 2, "app2*" },
	{ 2, "\077pp-2" },
};

struct schedctl_queue queues[NR_QUEUES];

struct cpu_record {
	u32 owner;   /* class whose CPU it is; CLASS_OTHERS: nobody's */
	u32 running; /* class of the task that has it, as far as this scheduler knows */
	u64 saved;   /* ns that bound tasks of others may run before the owner */
	u64 saved_at;
};

struct range {
	u32 first;
	u32 count;
};

static struct cpu_record cpus[MAX_CPUS];
static struct range owned[NR_CLASSES]; /* the CPUs of each class */

static struct cpu_record *cpu_record(s32 cpu)
{
	return &cpus[(u32)cpu % MAX_CPUS];
}

/* A CPU that belongs to another class than the task's. */
static bool is_foreign(const struct cpu_record *c, const struct schedctl_task *t)
{
	return c->owner != CLASS_OTHERS && c->owner != t->class;
}

/* Hole slice; on another class's CPU the borrowed one. */
static u64 task_slice(const struct task_struct *p, const struct schedctl_task *t, const struct cpu_record *c)
{
	if (is_foreign(c, t))
		return knob(KNOB_BORROWED_SLICE);
	return knob(KNOB_SLICE);
}

/* Take back a CPU of the task's class from whoever borrowed it. The CPU is marked at once: the next waker takes another. */
static void take_back(struct task_struct *p, const struct schedctl_task *t)
{
	struct schedctl_stats *stats = class_stats(t->class);
	struct range own = owned[bounded(t->class, NR_CLASSES)];

	for (u32 i = 0; i < OWN_CPUS && i < own.count; i++) {
		u32 cpu = own.first + i;

		if (cpu_record(cpu)->running == t->class || !bpf_cpumask_test_cpu(cpu, p->cpus_ptr))
			continue;
		cpu_record(cpu)->running = t->class;
		scx_bpf_kick_cpu(cpu, SCX_KICK_PREEMPT);
		if (stats)
			stats->preempts++;
		return;
	}
}

/* Save up for the time that went by. True when what is saved pays for a slice of a bound task. */
static bool bound_is_due(struct cpu_record *c, u64 now)
{
	u64 since = min(minus(now, c->saved_at), MAX_DELTA);

	c->saved_at = now;
	c->saved = min(c->saved + since * knob(KNOB_BOUND_SHARE) / 1000, 2 * knob(KNOB_BORROWED_SLICE));
	return c->saved >= knob(KNOB_BORROWED_SLICE);
}

/* Charge a task for `delta` ns: to its queue, and on another class's CPU to what was saved there. */
static void task_charge(const struct task_struct *p, struct schedctl_task *t, struct cpu_record *c, u64 delta)
{
	if (is_foreign(c, t))
		c->saved = minus(c->saved, delta);
	fair_charge(p, t, delta);
}

s32 BPF_STRUCT_OPS(part_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	struct schedctl_task *t = task_record(p);
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	if (is_idle && t) {
		t->direct = true;
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, task_slice(p, t, cpu_record(cpu)), 0);
	}
	return cpu;
}

void BPF_STRUCT_OPS(part_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct schedctl_task *t = task_record(p);
	s32 cpu = scx_bpf_task_cpu(p);
	struct cpu_record *c = cpu_record(cpu);

	if (!t) {
		scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, knob(KNOB_SLICE), enq_flags);
		kick_idle_cpu(p);
		return;
	}
	t->direct = false;
	/* The kernel's own work for this CPU. */
	if (is_cpu_kthread(p)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, task_slice(p, t, c), enq_flags);
		return;
	}
	/* Others who may not run everywhere and are on an owned CPU may have none that is not. */
	if (is_foreign(c, t) && (u32)p->nr_cpus_allowed < scx_bpf_nr_cpu_ids()) {
		u64 bound = BOUND_DSQ + (u32)cpu % MAX_CPUS;

		scx_bpf_dsq_insert_vtime(p, bound, knob(KNOB_BORROWED_SLICE), bpf_ktime_get_ns(), enq_flags);
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
		return;
	}
	fair_enqueue(p, t, task_slice(p, t, c), fair_key(t), enq_flags);
	if (!kick_idle_cpu(p))
		take_back(p, t);
}

/* The owner's task goes first on its CPU, but for what bound tasks have coming. True when `cpu` has got a task. */
static bool dispatch_owned(s32 cpu, struct cpu_record *c, const struct schedctl_task *t, u64 key, u64 now)
{
	u64 bound = BOUND_DSQ + (u32)cpu % MAX_CPUS, owner = bounded(c->owner, NR_CLASSES);

	bool due = bound_is_due(c, now) || dsq_oldest_ns(bound, now) > fair_age_ns;

	if (due && scx_bpf_dsq_move_to_local(bound))
		return true;
	if (!t || t->class != owner)
		return fair_take(owner, now) || scx_bpf_dsq_move_to_local(bound);
	return !fair_keeps(t, key, cpu, owner, false) && fair_take(owner, now);
}

void BPF_STRUCT_OPS(part_dispatch, s32 cpu, struct task_struct *prev)
{
	struct schedctl_task *t = could_go_on(prev) ? task_record(prev) : NULL;
	struct cpu_record *c = cpu_record(cpu);
	u64 now = bpf_ktime_get_ns(), key = 0;
	bool owned_here = c->owner != CLASS_OTHERS;

	if (t) {
		task_charge(prev, t, c, account_settle(t, now));
		key = fair_key(t);
	}
	if (owned_here && dispatch_owned(cpu, c, t, key, now))
		return;
	if (!(owned_here && t && t->class == c->owner) && fair_dispatch(cpu, t, key))
		return;
	if (t)
		keep_running(prev, task_slice(prev, t, c));
}

void BPF_STRUCT_OPS(part_runnable, struct task_struct *p, u64 enq_flags)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	account_runnable(t, bpf_ktime_get_ns());
	if (classify(p, t))
		fair_join(t);
}

void BPF_STRUCT_OPS(part_running, struct task_struct *p)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	account_running(t, bpf_ktime_get_ns());
	cpu_record(bpf_get_smp_processor_id())->running = t->class;
	fair_running(t);
}

void BPF_STRUCT_OPS(part_stopping, struct task_struct *p, bool runnable)
{
	struct cpu_record *c = cpu_record(bpf_get_smp_processor_id());
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	task_charge(p, t, c, account_stopping(t, bpf_ktime_get_ns(), runnable));
	if (classify(p, t))
		fair_join(t);
}

/* A real-time task has taken the CPU: what waits in its local DSQ goes back to the queues, where other CPUs see it. */
void BPF_STRUCT_OPS(part_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

s32 BPF_STRUCT_OPS(part_init_task, struct task_struct *p, struct scx_init_task_args *args)
{
	struct schedctl_task *t = bpf_task_storage_get(&schedctl_tasks, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);

	return t ? 0 : -ENOMEM;
}

void BPF_STRUCT_OPS(part_enable, struct task_struct *p)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	classify(p, t);
	fair_join(t);
}

/* A CPU that comes looks at the queues at once; what is bound to one that goes is sent elsewhere by the kernel. */
void BPF_STRUCT_OPS(part_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(part_cpu_offline, s32 cpu)
{
}

/* Give each class its part of the CPUs, rounded, from the last one down; CPU 0 stays nobody's. */
static void divide_cpus(u32 nr_cpus)
{
	u32 left = min(nr_cpus, MAX_CPUS) - 1;

	for (u32 class = 1; class < NR_CLASSES; class++) {
		u32 count = min((classes[class].param * nr_cpus + 500) / 1000, left);

		owned[class].count = count;
		owned[class].first = left + 1 - count;
		for (u32 i = 0; i < count && i < MAX_CPUS; i++)
			cpu_record(owned[class].first + i)->owner = class;
		left -= count;
	}
}

s32 BPF_STRUCT_OPS_SLEEPABLE(part_init)
{
	u32 nr_cpus = scx_bpf_nr_cpu_ids();

	for (u32 cpu = 0; cpu < MAX_CPUS && cpu < nr_cpus; cpu++) {
		s32 error = scx_bpf_create_dsq(BOUND_DSQ + cpu, -1);

		if (error)
			return error;
	}
	divide_cpus(nr_cpus);
	return fair_init();
}

void BPF_STRUCT_OPS(part_exit, struct scx_exit_info *info)
{
	record_exit(info);
}

SEC(".struct_ops.link")
struct sched_ext_ops part_ops = {
	.select_cpu = (void *)part_select_cpu,
	.enqueue = (void *)part_enqueue,
	.dispatch = (void *)part_dispatch,
	.runnable = (void *)part_runnable,
	.running = (void *)part_running,
	.stopping = (void *)part_stopping,
	.cpu_release = (void *)part_cpu_release,
	.init_task = (void *)part_init_task,
	.enable = (void *)part_enable,
	.cpu_online = (void *)part_cpu_online,
	.cpu_offline = (void *)part_cpu_offline,
	.init = (void *)part_init,
	.exit = (void *)part_exit,
	.timeout_ms = 5000,
	.name = "schedctl_0ff756e18161",
};
