// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What runs on this host, added up in the kernel (compiled by bcc, read by controller/observe/tracer.py).
 *
 * Only numeric tracepoint arguments and helpers are used, never a kernel struct, so kernel headers of any near
 * version do; `comm` arguments are left alone because 6.18 turned some of them from arrays into strings, and so is
 * task_rename's pid, which 6.16 does not have. Nothing is copied to user space per event.
 *
 * Definitions
 *   burst     from being switched in to being switched out, of tasks that were switched in inside the window
 *   latency   from a wakeup (or the first wakeup of a new task) to the next switch-in. The wait of a task that was
 *             preempted is not latency, but is in `wait_ns`. A wakeup that finds its task still on a CPU, or already woken, is not one.
 *   sleep     from being switched out to sleep to the next wakeup, where both are inside the window
 *   voluntary the task went to sleep or ended; otherwise it was preempted or yielded: involuntary
 *   migration switched in on another CPU than it last left; `places` says which CPUs share a cache and a node
 *   edge      a wakeup by the group that woke and the group that was woken
 *
 * A wakeup is sched_waking, which the kernel reports where the waker runs; sched_wakeup comes from the woken task's CPU
 * when that is idle or has a cache of its own, in an interrupt that knows no waker. The latency so includes choosing a
 * CPU and sending that interrupt (perf sched counts from sched_waking, too). What sched_waking misses: it may come
 * while its task is on its last steps to sleep; such a task was woken at the moment it left, after a sleep of 0.
 *
 * The waker is the task that runs where the wakeup happens, and none (group 0) when that is the idle task: certainly an
 * interrupt. An interrupt that breaks into a task cannot be told from it (tracepoint arguments do not say, and probes
 * on each interrupt would cost more than the rest), so the task's own edges include wakeups by timers and devices that
 * hit it while it ran.
 *
 * A stay on a CPU is attributed when it ends, because only the running task's cgroup can be asked for; wakeup, sleep
 * and edge wait in the task's record for that. What is still on a CPU, or still waiting, when the window closes is
 * read from `stays` and `tasks` by user space. Events outside [start, start + length) change nothing.
 */

/*
 * What a probe returns: 0 would keep the event from everybody else who has it open with perf, for as long as the
 * window is open. Our own perf event is disabled (see probe_process.py), so going on costs nothing.
 */
#define GO_ON 1

#define STATE_DEAD 0x30                   /* as sched_switch reports it: EXIT_DEAD | EXIT_ZOMBIE */
#define STATE_PREEMPTED 0x100             /* TASK_REPORT_MAX since 4.20 */

enum moved { MOVED_CPU = 1, MOVED_LLC = 2, MOVED_NODE = 4 };

/* The current task's group, kept in its record; returns 1 if this is the first time it is seen in it. */
static __always_inline int renew_group(struct task *task, struct window *w, u64 cgroup)
{
	u32 group = task->group;
	int first;

	task->age += 1;
	if (!group || task->cgroup != cgroup || !(task->age & REFRESH)) {
		group = intern(w, cgroup);
		if (group != task->group)
			task->seen = 0;
		task->group = group;
		task->cgroup = cgroup;
	}
	first = !task->seen;
	task->seen = 1;
	return first;
}

static __always_inline void attribute(struct stay *stay, u32 cpu, struct task *task, u64 state, u64 ran, int first)
{
	struct group *group = counters_of(cpu, task->group);
	u32 id = task->group;

	if (!group || !id) {
		stay->dropped += 1;
		return;
	}
	group->tasks += first;
	group->cpu_ns += ran;
	group->wait_ns += task->waited;
	if (!state || state & STATE_PREEMPTED)
		group->involuntary += 1;
	else
		group->voluntary += 1;
	if (stay->since) {
		group->burst_ns += ran;
		count_value(stay, cpu, KIND_BURST, id, ran);
	}
	if (task->woke) {
		group->wakeups += 1;
		group->latency_ns += task->waited;
		count_value(stay, cpu, KIND_LATENCY, id, task->waited);
		count(stay, cpu, KIND_EDGE << KIND_SHIFT | task->waker << GROUP_SHIFT | id);
	}
	if (task->rested) {
		group->sleep_ns += task->slept;
		count_value(stay, cpu, KIND_SLEEP, id, task->slept);
	}
	if (task->moved) {
		group->migrations += 1;
		group->llc_migrations += !!(task->moved & MOVED_LLC);
		group->numa_migrations += !!(task->moved & MOVED_NODE);
	}
}

static __always_inline void leave(struct stay *stay, u32 cpu, u32 pid, u64 state, int to_idle, u64 now, struct window *w)
{
	struct task *task = find_or_make(stay, pid);
	int sleeps = state && !(state & STATE_PREEMPTED);

	if (!task)
		return;
	attribute(stay, cpu, task, state, now - (stay->since ? stay->since : w->start),
		  renew_group(task, w, bpf_get_current_cgroup_id()));
	task->woke = 0;
	task->rested = 0;
	task->moved = 0;
	task->waited = 0;
	task->ready = sleeps ? 0 : now;   /* what a wakeup while it ran may have set is no wait */
	task->preempted = !sleeps;
	task->ran = cpu + 1;
	task->asleep = sleeps ? now : 0;
	if (!sleeps)
		queue_on(task, cpu, now);
	else if (to_idle)
		task->queue = 0;          /* emptied() is next */
	else
		unqueue(task, now);
	task->running = 0;                /* last: from here on a wakeup on another CPU is one */
	if (state & STATE_DEAD)
		forget(pid);
}

static __always_inline u32 moved_from(u32 before, u32 cpu)
{
	struct place *from = places.lookup(&before), *to = places.lookup(&cpu);
	u32 moved = MOVED_CPU;

	if (from && to && from->llc != to->llc)
		moved |= MOVED_LLC;
	if (from && to && from->node != to->node)
		moved |= MOVED_NODE;
	return moved;
}

static __always_inline void enter(struct stay *stay, u32 cpu, u32 pid, int from_idle, u64 now)
{
	struct task *task;

	stay->since = now;
	stay->pid = pid;
	stay->group = 0;
	if (!pid) {
		emptied(cpu, now);
		return;
	}
	task = find_or_make(stay, pid);
	if (!task)
		return;
	stay->group = task->seen && task->age != REFRESH ? task->group : 0;
	if (task->ready) {
		task->woke = !task->preempted;
		task->waited = now - task->ready;
		task->ready = 0;
	} else if (task->asleep && task->early) {
		task->woke = 1;
		task->waited = now - task->asleep;
		task->rested = 1;
		task->slept = 0;
	}
	if (task->ran && task->ran != cpu + 1)
		task->moved = moved_from(task->ran - 1, cpu);
	task->asleep = 0;
	task->early = 0;
	task->running = 1;
	queue_on(task, cpu, now);
	if (from_idle)
		runs_at_least_one(cpu, now);
}

TRACEPOINT_PROBE(sched, sched_switch)
{
	u64 now = bpf_ktime_get_ns();
	struct window *w = open_window(now);
	u32 cpu = bpf_get_smp_processor_id();
	struct stay *stay;

	if (!w)
		return GO_ON;
	stay = stays.lookup(&cpu);
	if (!stay)
		return GO_ON;
	if (args->prev_pid)
		leave(stay, cpu, args->prev_pid, args->prev_state, !args->next_pid, now, w);
	enter(stay, cpu, args->next_pid, !args->prev_pid, now);
	return GO_ON;
}

/* The group of the task that runs here, 0 for the idle task. */
static __always_inline u32 current_group(struct stay *stay, struct window *w)
{
	u32 pid = stay->since ? stay->pid : (u32)bpf_get_current_pid_tgid();

	if (pid && !stay->group)
		stay->group = intern(w, bpf_get_current_cgroup_id());
	return pid ? stay->group : 0;
}

static __always_inline int woken(u32 pid, u32 target)
{
	u64 now = bpf_ktime_get_ns();
	struct window *w = open_window(now);
	u32 cpu = bpf_get_smp_processor_id();
	struct stay *stay;
	struct task *task;

	if (!w)
		return GO_ON;
	stay = stays.lookup(&cpu);
	task = stay ? find_or_make(stay, pid) : NULL;
	if (!task || task->ready)
		return GO_ON;
	task->waker = current_group(stay, w);
	if (task->running) {
		task->early = 1;
		return GO_ON;
	}
	task->ready = now;
	task->preempted = 0;
	if (task->asleep) {
		task->slept = now - task->asleep;
		task->rested = 1;
		task->asleep = 0;
	}
	if (!task->queue)
		queue_on(task, target, now);
	return GO_ON;
}

TRACEPOINT_PROBE(sched, sched_waking)
{
	return woken(args->pid, args->target_cpu);
}

TRACEPOINT_PROBE(sched, sched_wakeup_new)
{
	return woken(args->pid, args->target_cpu);
}

TRACEPOINT_PROBE(sched, sched_migrate_task)
{
	u64 now = bpf_ktime_get_ns();
	struct task *task;

	if (!open_window(now))
		return GO_ON;
	task = find(args->pid);
	if (task && task->queue)
		queue_on(task, args->dest_cpu, now);
	return GO_ON;
}

/* What the current task does is counted at once, under the name it has now. */
static __always_inline struct group *counters_of_current(struct window *w, struct stay **stay)
{
	u32 cpu = bpf_get_smp_processor_id(), group;

	*stay = stays.lookup(&cpu);
	if (!*stay)
		return NULL;
	group = current_group(*stay, w);
	return group ? counters_of(cpu, group) : NULL;
}

/*
 * The child is remembered under the parent's group, which is its own until it execs, for the case that it is gone
 * before user space can ask.
 */
TRACEPOINT_PROBE(sched, sched_process_fork)
{
	struct window *w = open_window(bpf_ktime_get_ns());
	struct group *group;
	struct stay *stay;
	struct task *child;

	if (!w)
		return GO_ON;
	group = counters_of_current(w, &stay);
	if (group)
		group->forks += 1;
	if (!stay)
		return GO_ON;
	forget(args->child_pid);
	child = find_or_make(stay, args->child_pid);
	if (!child)
		return GO_ON;
	child->group = stay->group;
	child->cgroup = bpf_get_current_cgroup_id();
	return GO_ON;
}

/* The name at hand is no longer the current task's. */
static __always_inline void renamed(struct stay *stay)
{
	struct task *task = find((u32)bpf_get_current_pid_tgid());

	stay->group = 0;
	if (task)
		task->age = REFRESH;
}

/* A thread may rename another of its process, which is then noticed at its 64th stay. */
TRACEPOINT_PROBE(task, task_rename)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct stay *stay;

	if (!open_window(bpf_ktime_get_ns()))
		return GO_ON;
	stay = stays.lookup(&cpu);
	if (stay)
		renamed(stay);
	return GO_ON;
}

/* A thread that execs takes its process's number; the record under the one it had says nothing any more. */
TRACEPOINT_PROBE(sched, sched_process_exec)
{
	u64 now = bpf_ktime_get_ns();
	struct window *w = open_window(now);
	u32 cpu = bpf_get_smp_processor_id();
	struct task *task, *before;
	struct group *group;
	struct stay *stay;

	if (!w)
		return GO_ON;
	group = counters_of_current(w, &stay);
	if (group)
		group->execs += 1;
	if (!stay || args->pid == args->old_pid)
		return GO_ON;
	before = find(args->old_pid);
	if (before)
		unqueue(before, now);
	forget(args->old_pid);
	task = find_or_make(stay, args->pid);
	if (!task)
		return GO_ON;
	task->running = 1;
	task->asleep = 0;
	task->ready = 0;
	task->age = REFRESH;
	queue_on(task, cpu, now);
	stay->pid = args->pid;
	return GO_ON;
}

TRACEPOINT_PROBE(sched, sched_process_exit)
{
	struct window *w = open_window(bpf_ktime_get_ns());
	struct group *group;
	struct stay *stay;

	if (!w)
		return GO_ON;
	group = counters_of_current(w, &stay);
	if (group)
		group->exits += 1;
	return GO_ON;
}
