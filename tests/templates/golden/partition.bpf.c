/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * schedctl_e1e85e44d5b2, from template partition.
 *
 * Classes reserve parts of the CPUs. What makes whole CPUs is theirs: there they go first, others borrow what they
 * leave idle, and give it back when the owner's task wakes. What is left of a reservation is time on the CPUs that
 * nobody owns, where a class that has not had it yet goes first. All other time there is shared by weight.
 */
#define NR_CLASSES 4 /* others and the intents */
#define NR_QUEUES NR_CLASSES
#define NR_COMM_RULES 4
#define NR_UID_RULES 0
#define MATCH_CGROUPS 1
#define FAIR_OWES part_owes /* what a class has reserved on the CPUs of nobody goes before what it gets by weight */
#define FAIR_WAITS /* a CPU of a class's own is not for others to take */
#define NR_KNOBS 9
#define KNOB_WEIGHTS 0, 1ULL, 10000ULL /* weight of class 0; the next rows are those of the other classes */
#define KNOB_SLICE 4, 500000ULL, 20000000ULL /* parameter slice, ns */
#define KNOB_BOUND_SLICE 5, 200000ULL, 10000000ULL /* parameter bound_slice, ns */
#define KNOB_BOUND_SHARE 6, 5ULL, 200ULL /* parameter bound_share, permille */
#define KNOB_LAG 7, 1000000ULL, 200000000ULL /* parameter lag, ns */
#define KNOB_AGE 8, 50000000ULL, 2000000000ULL /* parameter age, ns */
#include "schedctl.bpf.h"
#define OTHERS_SHARE 100 /* parameter others_share, in thousandths of the CPUs */
#define RESERVED (0 + 0 + 0 + 0) /* what the classes reserve together */
#include "schedctl_part.bpf.h"

char _license[] SEC("license") = "Dual BSD/GPL";


/* Live knobs, which user space may change while the scheduler runs; each is read within its range. */
u64 schedctl_knobs[NR_KNOBS] SEC(".data.schedctl_knobs") = {
	[0] = 100ULL, /* others: weight, parameter others_weight */
	[1] = 30ULL, /* c1: weight */
	[2] = 60ULL, /* c2: weight */
	[3] = 90ULL, /* c3: weight */
	[4] = 5000000ULL, /* parameter slice = 5ms */
	[5] = 1000000ULL, /* parameter bound_slice = 1ms */
	[6] = 10ULL, /* parameter bound_share = 1% */
	[7] = 20000000ULL, /* parameter lag = 20ms */
	[8] = 1000000000ULL, /* parameter age = 1s */
};

/* param: thousandths of the CPUs that are reserved; of others, for all classes that reserve nothing. */
const struct schedctl_class classes[NR_CLASSES] = {
	[0] = { .queue = 0, .param = OTHERS_SHARE }, /* others */
	/* c1, demo/app1: wakeupLatency; class parameter reserve = 0% */
	[1] = { .queue = 1, .needs = MATCH_COMM, .param = 0 },
	/* c2, demo/app2: cpuShare; class parameter reserve = 0% */
	[2] = { .queue = 2, .needs = MATCH_COMM, .param = 0 },
	/* c3, demo/app3: makespan; class parameter reserve = 0% */
	[3] = { .queue = 3, .needs = MATCH_CGROUP, .param = 0 },
};

const struct schedctl_comm_rule comm_rules[NR_COMM_RULES] = {
	{ 1, "app1*" },
	{ 1, "\077pp-1" },
	{ 2, "app2*" },
	{ 2, "\077pp-2" },
};

struct schedctl_queue queues[NR_QUEUES];

/* Hole slice: how long a task may run before it waits again. */
static __noinline u64 task_slice(const struct task_struct *p, const struct schedctl_task *t)
{
	return knob(KNOB_SLICE);
}

s32 BPF_STRUCT_OPS(part_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	struct schedctl_task *t = task_record(p);
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	if (is_idle && t) {
		t->direct = true;
		t->home = 0;
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, task_slice(p, t), 0);
	}
	return cpu;
}

void BPF_STRUCT_OPS(part_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct cpu_record *c = cpu_record(scx_bpf_task_cpu(p));
	struct schedctl_task *t = task_record(p);
	u64 now = bpf_ktime_get_ns();

	/* The kernel's own work for this CPU, and what init_task has not seen. */
	if (!t || is_cpu_kthread(p)) {
		scx_bpf_dsq_insert(p, t ? SCX_DSQ_LOCAL : SCX_DSQ_GLOBAL, knob(KNOB_SLICE), enq_flags);
		return;
	}
	t->direct = false;
	t->home = is_foreign(c, t) && part_binds(p, t->class) ? BOUND : 0;
	if (t->home == BOUND) {
		scx_bpf_dsq_insert_vtime(p, BOUND_DSQ, knob(KNOB_BOUND_SLICE), now, enq_flags);
	} else {
		part_arrive(t->class, now);
		fair_enqueue(p, t, task_slice(p, t), fair_key(t), enq_flags);
	}
	if (!kick_idle_cpu(p) && t->home != BOUND)
		take_back(p, t);
}

/* Take the first of the bound tasks that may run here. */
static __noinline bool take_bound(void)
{
	return scx_bpf_dsq_move_to_local(BOUND_DSQ);
}

void BPF_STRUCT_OPS(part_dispatch, s32 cpu, struct task_struct *prev)
{
	struct schedctl_task *t = could_go_on(prev) ? task_record(prev) : NULL;
	struct cpu_record *c = cpu_record(cpu);
	u64 now = bpf_ktime_get_ns(), key = 0, owner = bounded(c->owner, NR_CLASSES);
	bool goes_on = false;

	if (t) {
		part_charge(prev, t, account_settle(t, now), now);
		key = fair_key(t);
		goes_on = is_own(c, t) && !dsq_head_waits(FAIR_DSQ + owner, cpu, key);
	}
	if (bound_is_due(c, now) && take_bound())
		return;
	if (must_lend(c, now) && part_lend(owner, now))
		return;
	if (owner != CLASS_OTHERS && !goes_on) {
		if (fair_take(owner, now))
			return;
		/* The owner has none: bound tasks and borrowers take turns. */
		c->turn = !c->turn;
		if (c->turn && take_bound())
			return;
	}
	if (!goes_on && fair_dispatch(cpu, t, key))
		return;
	if (t) {
		c->running = t->class; /* an owner's task that was to have it may run elsewhere; ops.running is not called now */
		keep_running(prev, task_slice(prev, t));
	} else if (owner != CLASS_OTHERS) {
		take_bound();
	}
}

void BPF_STRUCT_OPS(part_runnable, struct task_struct *p, u64 enq_flags)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	account_runnable(p, t, bpf_ktime_get_ns());
	if (classify(p, t))
		fair_join(t);
}

void BPF_STRUCT_OPS(part_quiescent, struct task_struct *p, u64 deq_flags)
{
	account_quiescent(p);
}

void BPF_STRUCT_OPS(part_running, struct task_struct *p)
{
	struct cpu_record *c = cpu_record(bpf_get_smp_processor_id());
	struct schedctl_task *t = task_record(p);
	u64 now = bpf_ktime_get_ns();

	if (!t)
		return;
	account_running(t, now);
	fair_running(t);
	c->running = t->class;
	if (is_foreign(c, t))
		c->lent_at = now;
	bound_begins(c, t);
}

void BPF_STRUCT_OPS(part_stopping, struct task_struct *p, bool runnable)
{
	struct schedctl_task *t = task_record(p);
	u64 now = bpf_ktime_get_ns();

	cpu_record(bpf_get_smp_processor_id())->bound_runs = false;
	if (!t)
		return;
	part_charge(p, t, account_stopping(t, now, runnable), now);
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
	return new_task_record(p) ? 0 : -ENOMEM;
}

void BPF_STRUCT_OPS(part_enable, struct task_struct *p)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	classify(p, t);
	fair_join(t);
}

/* A CPU that comes is dealt out with the rest, and looks at the queues at once. */
void BPF_STRUCT_OPS(part_cpu_online, s32 cpu)
{
	part_cpu(cpu, true);
	scx_bpf_kick_cpu(cpu, 0);
}

/* What the CPU's owner had there it gets elsewhere. */
void BPF_STRUCT_OPS(part_cpu_offline, s32 cpu)
{
	part_cpu(cpu, false);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(part_init)
{
	s32 error = scx_bpf_create_dsq(BOUND_DSQ, -1);

	part_init_cpus();
	return error ? error : fair_init();
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
	.quiescent = (void *)part_quiescent,
	.cpu_release = (void *)part_cpu_release,
	.init_task = (void *)part_init_task,
	.enable = (void *)part_enable,
	.cpu_online = (void *)part_cpu_online,
	.cpu_offline = (void *)part_cpu_offline,
	.init = (void *)part_init,
	.exit = (void *)part_exit,
	.timeout_ms = 5000,
	.name = "schedctl_e1e85e44d5b2",
};
