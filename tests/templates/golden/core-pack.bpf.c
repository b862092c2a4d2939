/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * schedctl_4a1734a14579, from template core-pack.
 *
 * Knows of cores. Tasks of spread classes get a core of their own while there is one; all others are packed: beside a
 * busy hyper-thread first, then on the CPU of the lowest number, so that whole cores stay free or asleep. CPU time is
 * shared between classes by weight, and by nice value and cpu.weight inside one.
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

#define PACK_CPUS 256 /* CPUs that are looked at one by one; above them any idle one is taken */

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
	/* c1, demo/app1: wakeupLatency; param: class parameter spread */
	[1] = { .queue = 1, .needs = MATCH_COMM, .param = 0 },
	/* c2, demo/app2: cpuShare; param: class parameter spread */
	[2] = { .queue = 2, .needs = MATCH_COMM, .param = 0 },
	/* c3, demo/app3: makespan; param: class parameter spread */
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
static u64 task_slice(const struct task_struct *p, const struct schedctl_task *t)
{
	return knob(KNOB_SLICE);
}

/* The first idle CPU that `p` may run on, beside a busy one of its core if `beside`; -1 when there is none. */
static s32 first_idle(struct task_struct *p, const struct cpumask *idle, const struct cpumask *idle_cores, bool beside)
{
	u32 nr_cpus = scx_bpf_nr_cpu_ids();

	for (u32 cpu = 0; cpu < PACK_CPUS && cpu < nr_cpus; cpu++) {
		if (!bpf_cpumask_test_cpu(cpu, idle) || !bpf_cpumask_test_cpu(cpu, p->cpus_ptr))
			continue;
		if (!beside || !bpf_cpumask_test_cpu(cpu, idle_cores))
			return cpu;
	}
	return -1;
}

/* The idle CPU of the lowest number, one beside a busy hyper-thread before all others; taken. -1 when there is none. */
static s32 pick_packed(struct task_struct *p)
{
	const struct cpumask *idle = scx_bpf_get_idle_cpumask(), *idle_cores = scx_bpf_get_idle_smtmask();
	s32 cpu = first_idle(p, idle, idle_cores, true);

	if (cpu < 0)
		cpu = first_idle(p, idle, idle_cores, false);
	scx_bpf_put_idle_cpumask(idle);
	scx_bpf_put_idle_cpumask(idle_cores);
	if (cpu >= 0 && scx_bpf_test_and_clear_cpu_idle(cpu))
		return cpu;
	return scx_bpf_pick_idle_cpu(p->cpus_ptr, 0); /* none in sight, or somebody else was quicker */
}

/* An idle CPU as the task's class wants it, taken; -1 when there is none. */
static s32 pick_cpu(struct task_struct *p, const struct schedctl_task *t)
{
	s32 cpu;

	if (!class_of(t)->param)
		return pick_packed(p);
	cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, SCX_PICK_IDLE_CORE);
	return cpu >= 0 ? cpu : scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);
}

s32 BPF_STRUCT_OPS(cpack_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	struct schedctl_task *t = task_record(p);
	s32 cpu = t ? pick_cpu(p, t) : -1;

	fair_woken(t, wake_flags);
	if (!t || cpu < 0)
		return prev_cpu;
	t->direct = true;
	scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, task_slice(p, t), 0);
	return cpu;
}

void BPF_STRUCT_OPS(cpack_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct schedctl_task *t = task_record(p);
	s32 cpu;

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
	cpu = pick_cpu(p, t);
	if (cpu >= 0)
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

void BPF_STRUCT_OPS(cpack_dispatch, s32 cpu, struct task_struct *prev)
{
	struct schedctl_task *t = could_go_on(prev) ? task_record(prev) : NULL;

	if (t)
		fair_charge(prev, t, account_settle(t, bpf_ktime_get_ns()));
	if (!fair_dispatch(cpu, t, t ? fair_key(t) : 0) && t)
		keep_running(prev, task_slice(prev, t));
}

void BPF_STRUCT_OPS(cpack_runnable, struct task_struct *p, u64 enq_flags)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	account_runnable(p, t, bpf_ktime_get_ns());
	if (classify(p, t))
		fair_join(t);
}

void BPF_STRUCT_OPS(cpack_quiescent, struct task_struct *p, u64 deq_flags)
{
	account_quiescent(p);
}

void BPF_STRUCT_OPS(cpack_running, struct task_struct *p)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	account_running(t, bpf_ktime_get_ns());
	fair_running(t);
}

void BPF_STRUCT_OPS(cpack_stopping, struct task_struct *p, bool runnable)
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
void BPF_STRUCT_OPS(cpack_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

s32 BPF_STRUCT_OPS(cpack_init_task, struct task_struct *p, struct scx_init_task_args *args)
{
	return new_task_record(p) ? 0 : -ENOMEM;
}

void BPF_STRUCT_OPS(cpack_enable, struct task_struct *p)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	classify(p, t);
	fair_join(t);
}

/* A CPU that comes looks at the queues at once; one that goes holds none of them. */
void BPF_STRUCT_OPS(cpack_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(cpack_cpu_offline, s32 cpu)
{
}

s32 BPF_STRUCT_OPS_SLEEPABLE(cpack_init)
{
	return fair_init();
}

void BPF_STRUCT_OPS(cpack_exit, struct scx_exit_info *info)
{
	record_exit(info);
}

SEC(".struct_ops.link")
struct sched_ext_ops cpack_ops = {
	.select_cpu = (void *)cpack_select_cpu,
	.enqueue = (void *)cpack_enqueue,
	.dispatch = (void *)cpack_dispatch,
	.runnable = (void *)cpack_runnable,
	.running = (void *)cpack_running,
	.stopping = (void *)cpack_stopping,
	.quiescent = (void *)cpack_quiescent,
	.cpu_release = (void *)cpack_cpu_release,
	.init_task = (void *)cpack_init_task,
	.enable = (void *)cpack_enable,
	.cpu_online = (void *)cpack_cpu_online,
	.cpu_offline = (void *)cpack_cpu_offline,
	.init = (void *)cpack_init,
	.exit = (void *)cpack_exit,
	.timeout_ms = 5000,
	.name = "schedctl_4a1734a14579",
};
