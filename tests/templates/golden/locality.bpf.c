/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * schedctl_30fa13bfc214, from template locality.
 *
 * Each CPU has a queue of its own, and a task goes back to the one it ran on, where its data is. A CPU without work
 * takes from the others, its neighbours first; one whose queue is shorter than another's takes a task from it now and
 * then, so that nobody is stuck in a long queue. In a queue tasks stand by virtual time: of a CPU each gets a part by
 * the weight of its class times its own in it, by nice value and cpu.weight.
 */
#define NR_CLASSES 4 /* others and the intents */
#define NR_COMM_RULES 4
#define NR_UID_RULES 0
#define MATCH_CGROUPS 1
#define NR_KNOBS 8
#define KNOB_WEIGHTS 0, 1ULL, 10000ULL /* weight of class 0; the next rows are those of the other classes */
#define KNOB_SLICE 4, 500000ULL, 20000000ULL /* parameter slice, ns */
#define KNOB_BALANCE 5, 1000000ULL, 200000000ULL /* parameter balance, ns */
#define KNOB_LAG 6, 1000000ULL, 200000000ULL /* parameter lag, ns */
#define KNOB_AGE 7, 50000000ULL, 2000000000ULL /* parameter age, ns */
#include "schedctl_kernel.bpf.h"
#include "schedctl_knob.bpf.h"
#include "schedctl_group.bpf.h"
#include "schedctl_task.bpf.h"
#include "schedctl_dsq.bpf.h"

char _license[] SEC("license") = "Dual BSD/GPL";

#define MAX_CPUS 512  /* a power of 2; CPUs above share the queues of those below */
#define CPU_DSQ 0x2000 /* queue of CPU 0; the others follow */
#define LOOKS 8	      /* queues that are compared with its own each time a CPU balances */

/* Live knobs, which user space may change while the scheduler runs; each is read within its range. */
u64 schedctl_knobs[NR_KNOBS] SEC(".data.schedctl_knobs") = {
	[0] = 100ULL, /* others: weight, parameter others_weight */
	[1] = 30ULL, /* c1: weight */
	[2] = 60ULL, /* c2: weight */
	[3] = 90ULL, /* c3: weight */
	[4] = 5000000ULL, /* parameter slice = 5ms */
	[5] = 10000000ULL, /* parameter balance = 10ms */
	[6] = 20000000ULL, /* parameter lag = 20ms */
	[7] = 1000000000ULL, /* parameter age = 1s */
};

const struct schedctl_class classes[NR_CLASSES] = {
	/* c1, demo/app1: wakeupLatency */
	[1] = { .needs = MATCH_COMM },
	/* c2, demo/app2: cpuShare */
	[2] = { .needs = MATCH_COMM },
	/* c3, demo/app3: makespan */
	[3] = { .needs = MATCH_CGROUP },
};

const struct schedctl_comm_rule comm_rules[NR_COMM_RULES] = {
	{ 1, "app1*" },
	{ 1, "\077pp-1" },
	{ 2, "app2*" },
	{ 2, "\077pp-2" },
};

struct cpu_record {
	u64 vtime;	 /* the virtual time that its tasks have come to */
	u64 taken_at;	 /* when a task was last taken from its queue, or it was empty */
	u64 balanced_at; /* when it last compared its queue with others */
	u32 next;	 /* the CPU to begin with the next time */
	bool offline;	 /* nobody takes from its queue but others */
};

static struct cpu_record cpus[MAX_CPUS];

static struct cpu_record *cpu_record(s32 cpu)
{
	return &cpus[(u32)cpu % MAX_CPUS];
}

static u64 cpu_dsq(s32 cpu)
{
	return CPU_DSQ + (u32)cpu % MAX_CPUS;
}

static u64 waiting_at(s32 cpu)
{
	return max(scx_bpf_dsq_nr_queued(cpu_dsq(cpu)), 0);
}

/* Hole slice: how long a task may run before it waits again. */
static u64 task_slice(const struct task_struct *p, const struct schedctl_task *t)
{
	return knob(KNOB_SLICE);
}

/* The task is on `cpu` now: it keeps what it was ahead of or behind its old CPU, within the lag. */
static void move_home(struct schedctl_task *t, s32 cpu)
{
	s64 ahead = t->vtime - cpu_record(t->home)->vtime, lag = knob(KNOB_LAG);

	if (t->home == (u32)cpu)
		return;
	ahead = ahead > lag ? lag : ahead < -lag ? -lag : ahead;
	t->home = cpu;
	t->vtime = cpu_record(cpu)->vtime + ahead;
}

/* What the task waits by on `cpu`: its virtual time, brought up to the lag behind the CPU's. */
static u64 task_key(struct schedctl_task *t, s32 cpu)
{
	u64 earliest = cpu_record(cpu)->vtime - knob(KNOB_LAG);

	move_home(t, cpu);
	if (vtime_before(t->vtime, earliest))
		t->vtime = earliest;
	return t->vtime;
}

/* Divide `delta` ns by the class's weight times the task's own in the class; 100 is the usual one of both. */
static void task_charge(struct task_struct *p, struct schedctl_task *t, u64 delta)
{
	t->vtime += delta * 100 / max(class_weight(t) * task_weight(p, t) / 100, 1);
}

/* Take the first task of `from`'s queue that may run on this CPU. */
static bool take_from(s32 from, u64 now)
{
	if (!scx_bpf_dsq_move_to_local(cpu_dsq(from)))
		return false;
	cpu_record(from)->taken_at = now;
	/* A CPU that is on its way off line waits until nothing is left to it, and sees that only when it is kicked. */
	if (cpu_record(from)->offline)
		scx_bpf_kick_cpu(from, 0);
	return true;
}

/* A CPU without work: the neighbours' first, then the others'. */
static void steal_any(s32 cpu, u64 now)
{
	u32 nr_cpus = max(scx_bpf_nr_cpu_ids(), 1);

	for (u32 i = 1; i < MAX_CPUS && i < nr_cpus; i++)
		if (take_from((cpu + i) % nr_cpus, now))
			return;
}

/* Now and then: take a task from a longer queue, or from one whose CPU is off line or that nobody took from for long. */
static bool balance(s32 cpu, struct cpu_record *c, u64 now)
{
	u32 nr_cpus = max(scx_bpf_nr_cpu_ids(), 1);
	u64 mine = waiting_at(cpu);

	if (minus(now, c->balanced_at) < knob(KNOB_BALANCE))
		return false;
	c->balanced_at = now;
	for (u32 i = 0; i < LOOKS && i < nr_cpus; i++) {
		s32 other = c->next++ % nr_cpus;
		struct cpu_record *o = cpu_record(other);
		u64 theirs = waiting_at(other);
		bool open = o->offline || minus(now, o->taken_at) > knob(KNOB_AGE);

		if (other != cpu && theirs && (open || theirs > mine) && take_from(other, now))
			return true;
	}
	return false;
}

s32 BPF_STRUCT_OPS(local_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
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

void BPF_STRUCT_OPS(local_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct schedctl_task *t = task_record(p);
	s32 cpu = scx_bpf_task_cpu(p);

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
	if (!waiting_at(cpu))
		cpu_record(cpu)->taken_at = bpf_ktime_get_ns();
	scx_bpf_dsq_insert_vtime(p, cpu_dsq(cpu), task_slice(p, t), task_key(t, cpu), enq_flags);
	/* Its own CPU when that sleeps, else any that does. */
	if (scx_bpf_test_and_clear_cpu_idle(cpu))
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
	else
		kick_idle_cpu(p);
}

void BPF_STRUCT_OPS(local_dispatch, s32 cpu, struct task_struct *prev)
{
	struct schedctl_task *t = could_go_on(prev) ? task_record(prev) : NULL;
	struct cpu_record *c = cpu_record(cpu);
	u64 now = bpf_ktime_get_ns(), key = 0;

	if (t) {
		task_charge(prev, t, account_settle(t, now));
		key = task_key(t, cpu);
	}
	if (balance(cpu, c, now))
		return;
	if (!(t && !dsq_head_waits(cpu_dsq(cpu), cpu, key)) && take_from(cpu, now))
		return;
	if (t) {
		if (vtime_before(c->vtime, t->vtime))
			c->vtime = t->vtime; /* nobody waits here who is behind it: who slept may not be so by more than the lag */
		keep_running(prev, task_slice(prev, t));
	} else {
		steal_any(cpu, now);
	}
}

void BPF_STRUCT_OPS(local_runnable, struct task_struct *p, u64 enq_flags)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	account_runnable(p, t, bpf_ktime_get_ns());
	classify(p, t);
}

void BPF_STRUCT_OPS(local_quiescent, struct task_struct *p, u64 deq_flags)
{
	account_quiescent(p);
}

void BPF_STRUCT_OPS(local_running, struct task_struct *p)
{
	s32 cpu = bpf_get_smp_processor_id();
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	account_running(t, bpf_ktime_get_ns());
	move_home(t, cpu);
	if (vtime_before(cpu_record(cpu)->vtime, t->vtime))
		cpu_record(cpu)->vtime = t->vtime;
}

void BPF_STRUCT_OPS(local_stopping, struct task_struct *p, bool runnable)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	task_charge(p, t, account_stopping(t, bpf_ktime_get_ns(), runnable));
	classify(p, t);
}

/* A real-time task has taken the CPU: what waits in its local DSQ goes back to the queues, where other CPUs see it. */
void BPF_STRUCT_OPS(local_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

s32 BPF_STRUCT_OPS(local_init_task, struct task_struct *p, struct scx_init_task_args *args)
{
	return new_task_record(p) ? 0 : -ENOMEM;
}

void BPF_STRUCT_OPS(local_enable, struct task_struct *p)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	classify(p, t);
	t->vtime = cpu_record(t->home)->vtime; /* it starts where its CPU is */
}

/* A CPU that comes looks at the queues at once; what waits for one that goes is taken by the others. */
void BPF_STRUCT_OPS(local_cpu_online, s32 cpu)
{
	cpu_record(cpu)->offline = false;
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(local_cpu_offline, s32 cpu)
{
	cpu_record(cpu)->offline = true;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(local_init)
{
	u32 nr_cpus = scx_bpf_nr_cpu_ids();

	for (u32 cpu = 0; cpu < MAX_CPUS && cpu < nr_cpus; cpu++) {
		s32 error = scx_bpf_create_dsq(CPU_DSQ + cpu, -1);

		if (error)
			return error;
	}
	return 0;
}

void BPF_STRUCT_OPS(local_exit, struct scx_exit_info *info)
{
	record_exit(info);
}

SEC(".struct_ops.link")
struct sched_ext_ops local_ops = {
	.select_cpu = (void *)local_select_cpu,
	.enqueue = (void *)local_enqueue,
	.dispatch = (void *)local_dispatch,
	.runnable = (void *)local_runnable,
	.running = (void *)local_running,
	.stopping = (void *)local_stopping,
	.quiescent = (void *)local_quiescent,
	.cpu_release = (void *)local_cpu_release,
	.init_task = (void *)local_init_task,
	.enable = (void *)local_enable,
	.cpu_online = (void *)local_cpu_online,
	.cpu_offline = (void *)local_cpu_offline,
	.init = (void *)local_init,
	.exit = (void *)local_exit,
	.timeout_ms = 5000,
	.name = "schedctl_30fa13bfc214",
};
