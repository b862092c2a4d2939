/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * schedctl_bc1ae1ced882, from template pipeline.
 *
 * Wake chains stay together: when a task of a chained class wakes another of its class and is about to sleep, the other
 * runs next on the same CPU, where what it was handed is still in the cache, unless somebody who waits needs the CPU
 * more. CPU time is shared between classes by weight, and by nice value and cpu.weight inside one.
 */
#define NR_CLASSES 4 /* others and the intents */
#define NR_QUEUES NR_CLASSES
#define NR_COMM_RULES 4
#define NR_UID_RULES 0
#define MATCH_CGROUPS 1
#define NR_KNOBS 8
#define KNOB_WEIGHTS 0, 1ULL, 10000ULL /* weight of class 0; the next rows are those of the other classes */
#define KNOB_SLICE 4, 500000ULL, 20000000ULL /* parameter slice, ns */
#define KNOB_HANDOFF 5, 10000ULL, 5000000ULL /* parameter handoff, ns */
#define KNOB_LAG 6, 1000000ULL, 200000000ULL /* parameter lag, ns */
#define KNOB_AGE 7, 50000000ULL, 2000000000ULL /* parameter age, ns */
#include "schedctl.bpf.h"

char _license[] SEC("license") = "Dual BSD/GPL";

#define MAX_CPUS 512	  /* a power of 2; CPUs above share the records of those below */

/* Live knobs, which user space may change while the scheduler runs; each is read within its range. */
u64 schedctl_knobs[NR_KNOBS] SEC(".data.schedctl_knobs") = {
	[0] = 100ULL, /* others: weight, parameter others_weight */
	[1] = 30ULL, /* c1: weight */
	[2] = 60ULL, /* c2: weight */
	[3] = 90ULL, /* c3: weight */
	[4] = 5000000ULL, /* parameter slice = 5ms */
	[5] = 200000ULL, /* parameter handoff = 200us */
	[6] = 20000000ULL, /* parameter lag = 20ms */
	[7] = 1000000000ULL, /* parameter age = 1s */
};

const struct schedctl_class classes[NR_CLASSES] = {
	[0] = { .queue = 0 }, /* others */
	/* c1, demo/app1: wakeupLatency; param: class parameter chained */
	[1] = { .queue = 1, .needs = MATCH_COMM, .param = 1 },
	/* c2, demo/app2: cpuShare; param: class parameter chained */
	[2] = { .queue = 2, .needs = MATCH_COMM, .param = 1 },
	/* c3, demo/app3: makespan; param: class parameter chained */
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
	u32 class; /* of the task that has it */
	bool brief; /* that task sleeps soon, by its bursts so far */
};

static struct cpu_record cpus[MAX_CPUS];

static struct cpu_record *cpu_record(s32 cpu)
{
	return &cpus[(u32)cpu % MAX_CPUS];
}

/* Hole slice: how long a task may run before it waits again. */
static u64 task_slice(const struct task_struct *p, const struct schedctl_task *t)
{
	return knob(KNOB_SLICE);
}

/* Does the task that runs on `cpu` hand over to `t`: one of the same chained class, that is about to sleep? */
static bool hands_over(s32 cpu, const struct schedctl_task *t, u64 wake_flags)
{
	const struct cpu_record *c = cpu_record(cpu);

	return class_of(t)->param && c->class == t->class && ((wake_flags & SCX_WAKE_SYNC) || c->brief);
}

/* Would `t`, put next on `cpu`, go before somebody who waits and needs the CPU more? */
static bool would_jump(struct schedctl_task *t, s32 cpu)
{
	int picked = fair_pick(bpf_ktime_get_ns(), 0);
	u64 queue = bounded(picked & (FAIR_AGED - 1), NR_QUEUES);

	return picked >= 0 && !fair_keeps(t, fair_key(t), cpu, queue, picked >= FAIR_AGED);
}

s32 BPF_STRUCT_OPS(pipe_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	struct schedctl_task *t = task_record(p);
	s32 here = bpf_get_smp_processor_id(), cpu;
	bool is_idle = false;

	fair_woken(t, wake_flags);
	/* Charged as one that waited in its queue: a chain must not run on for ever. */
	if (t && hands_over(here, t, wake_flags) && bpf_cpumask_test_cpu(here, p->cpus_ptr) &&
	    !scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL_ON | here) && !would_jump(t, here)) {
		t->direct = false;
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, task_slice(p, t), 0);
		return here;
	}
	cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);
	if (is_idle && t) {
		t->direct = true;
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, task_slice(p, t), 0);
	}
	return cpu;
}

void BPF_STRUCT_OPS(pipe_enqueue, struct task_struct *p, u64 enq_flags)
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

void BPF_STRUCT_OPS(pipe_dispatch, s32 cpu, struct task_struct *prev)
{
	struct schedctl_task *t = could_go_on(prev) ? task_record(prev) : NULL;

	if (t)
		fair_charge(prev, t, account_settle(t, bpf_ktime_get_ns()));
	if (!fair_dispatch(cpu, t, t ? fair_key(t) : 0) && t)
		keep_running(prev, task_slice(prev, t));
}

void BPF_STRUCT_OPS(pipe_runnable, struct task_struct *p, u64 enq_flags)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	account_runnable(p, t, bpf_ktime_get_ns());
	if (classify(p, t))
		fair_join(t);
}

void BPF_STRUCT_OPS(pipe_quiescent, struct task_struct *p, u64 deq_flags)
{
	account_quiescent(p);
}

void BPF_STRUCT_OPS(pipe_running, struct task_struct *p)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	account_running(t, bpf_ktime_get_ns());
	cpu_record(bpf_get_smp_processor_id())->class = t->class;
	cpu_record(bpf_get_smp_processor_id())->brief = t->burst_avg && t->burst_avg < knob(KNOB_HANDOFF);
	fair_running(t);
}

void BPF_STRUCT_OPS(pipe_stopping, struct task_struct *p, bool runnable)
{
	struct schedctl_task *t = task_record(p);

	cpu_record(bpf_get_smp_processor_id())->class = CLASS_OTHERS;
	fair_leave();
	if (!t)
		return;
	fair_charge(p, t, account_stopping(t, bpf_ktime_get_ns(), runnable));
	if (classify(p, t))
		fair_join(t);
}

/* A real-time task has taken the CPU: what waits in its local DSQ goes back to the queues, where other CPUs see it. */
void BPF_STRUCT_OPS(pipe_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

s32 BPF_STRUCT_OPS(pipe_init_task, struct task_struct *p, struct scx_init_task_args *args)
{
	return new_task_record(p) ? 0 : -ENOMEM;
}

void BPF_STRUCT_OPS(pipe_enable, struct task_struct *p)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	classify(p, t);
	fair_join(t);
}

/* A CPU that comes looks at the queues at once; one that goes holds none of them. */
void BPF_STRUCT_OPS(pipe_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(pipe_cpu_offline, s32 cpu)
{
}

s32 BPF_STRUCT_OPS_SLEEPABLE(pipe_init)
{
	return fair_init();
}

void BPF_STRUCT_OPS(pipe_exit, struct scx_exit_info *info)
{
	record_exit(info);
}

SEC(".struct_ops.link")
struct sched_ext_ops pipe_ops = {
	.select_cpu = (void *)pipe_select_cpu,
	.enqueue = (void *)pipe_enqueue,
	.dispatch = (void *)pipe_dispatch,
	.runnable = (void *)pipe_runnable,
	.running = (void *)pipe_running,
	.stopping = (void *)pipe_stopping,
	.quiescent = (void *)pipe_quiescent,
	.cpu_release = (void *)pipe_cpu_release,
	.init_task = (void *)pipe_init_task,
	.enable = (void *)pipe_enable,
	.cpu_online = (void *)pipe_cpu_online,
	.cpu_offline = (void *)pipe_cpu_offline,
	.init = (void *)pipe_init,
	.exit = (void *)pipe_exit,
	.timeout_ms = 5000,
	.name = "schedctl_bc1ae1ced882",
};
