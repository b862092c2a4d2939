// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What runs on this host, added up in the kernel (compiled by bcc, read by controller/observe/tracer.py).
 *
 * The probes are raw tracepoints: half the price of the others, which copy names and numbers for each event first (a
 * switch with its wakeup: 180 against 340 ns for probes that do nothing), no tracefs is needed, and nobody else's events
 * are kept from them. Their arguments are the kernel's addresses of threads, which serve as names and are not followed,
 * so kernel headers of any near version do. The arguments are those of 5.18 and newer. Nothing is copied to user space
 * per event.
 *
 * Definitions
 *   burst     from being switched in to being switched out, of tasks that were switched in inside the window
 *   latency   from a wakeup (or the first wakeup of a new task) to the next switch-in. The wait of a task that was
 *             preempted is not latency, but is in `wait_ns`. A wakeup that finds its task still on a CPU, or already
 *             woken, is not one.
 *   sleep     from being switched out to sleep to the next wakeup, where both are inside the window
 *   voluntary the task went to sleep or ended; otherwise it was preempted or yielded: involuntary
 *   migration switched in on another CPU than it last left; `places` says which CPUs share a cache and a node
 *   edge      a wakeup by the group that woke and the group that was woken
 *
 * A wakeup is sched_waking, which the kernel reports where the waker runs; sched_wakeup comes from the woken task's CPU
 * when that is idle or has a cache of its own, in an interrupt that knows no waker. The latency so includes choosing a
 * CPU and sending that interrupt (perf sched counts from sched_waking, too). What sched_waking misses: it may come
 * while its task is on its last steps to sleep; such a task was woken at the moment it left, after a sleep of 0. A few
 * events in a thousand never come (6.18 in a virtual machine; perf misses the same ones): who runs again after it slept
 * was woken, so that counts as a wakeup, of unknown latency and waker; and who leaves a CPU without having been seen to
 * come has used it, but that is no burst.
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

#define TASK_DEAD 0x80                    /* since 4.14 */

/* PREEMPTED: `ready` is since a preemption, not since a wakeup. */
enum woke { WOKE_SEEN = 1, WOKE_UNSEEN = 2 };

enum moved { MOVED_CPU = 1, MOVED_LLC = 2, MOVED_NODE = 4, PREEMPTED = 8 };

/* The current task's group, kept in its record; returns 1 if this is the first time it is seen in it. */
static __always_inline int renew_group(struct task *task, struct window *w)
{
	u32 group = task->group;
	int first;

	task->age += 1;
	if (RARELY(!task->seen || task->era != (u32)w->era || !(task->age & REFRESH))) {
		task->era = w->era;
		group = intern(w);
		if (group != task->group)
			task->seen = 0;
		task->group = group;
		task->pid = bpf_get_current_pid_tgid();   /* a thread that execs takes its process's number */
	}
	first = !task->seen;
	task->seen = 1;
	return first;
}

static __always_inline void attribute(struct stay *stay, u32 cpu, struct task *task, int sleeps, u64 ran, int first)
{
	struct group *group = counters_of(cpu, task->group);
	u64 values[KINDS] = { 0, task->waited, ran, task->slept, 0 };
	u32 id = task->group, wanted = 0, key;

	if (!group || !id) {
		stay->dropped += 1;
		return;
	}
	group->cpu_ns += ran;
	if (RARELY(first))
		group->tasks += 1;
	if (sleeps)
		group->voluntary += 1;
	else
		group->involuntary += 1;
	if (stay->since)
		wanted |= 1 << KIND_BURST;
	else
		group->first_ns += ran;
	group->wakeups += !!task->woke;
	if (task->woke == WOKE_SEEN) {
		group->latency_ns += task->waited;
		wanted |= 1 << KIND_LATENCY | 1 << KIND_EDGE;
	} else {
		group->preempted_ns += task->waited;
	}
	if (task->rested) {
		group->sleep_ns += task->slept;
		wanted |= 1 << KIND_SLEEP;
	}
	if (task->moved & MOVED_CPU) {
		group->migrations += 1;
		group->llc_migrations += !!(task->moved & MOVED_LLC);
		group->numa_migrations += !!(task->moved & MOVED_NODE);
	}
	A_LOOP
	for (u32 kind = KIND_LATENCY; kind < KINDS; kind++) {
		if (!(wanted >> kind & 1))
			continue;
		key = kind << KIND_SHIFT;
		if (kind == KIND_EDGE)
			key |= task->waker << GROUP_SHIFT | id;
		else
			key |= id << GROUP_SHIFT | bucket_of(values[kind]);
		count(stay, cpu, key);
	}
}

static __always_inline void leave(struct stay *stay, u32 cpu, u64 self, int sleeps, int dead, u64 now, struct window *w)
{
	struct task *task = find_or_make(stay, self);
	u64 ran;
	int first;

	if (!task)
		return;
	ran = now - (stay->since ? stay->since : w->start);
	if (RARELY(stay->task != self)) {         /* it was not seen to come, or came before the window */
		if (stay->since && (task->asleep || task->ready))
			task->woke = task->moved & PREEMPTED ? 0 : WOKE_UNSEEN;
		task->rested = 0;
		stay->since = 0;
	}
	first = renew_group(task, w);
	attribute(stay, cpu, task, sleeps, ran, first);
	task->woke = 0;
	task->rested = 0;
	task->waited = 0;
	task->ran = cpu + 1;
	task->ready = sleeps ? 0 : now;   /* what a wakeup while it ran may have set is no wait */
	task->asleep = sleeps ? now : 0;
	if (sleeps) {
		if (task->queued)
			change_depth(cpu, cpu, SHALLOWER, now);
		task->moved = 0;
		task->queued = 0;
		task->cpu = cpu;
	} else {
		task->moved = PREEMPTED;
		queue_on(task, cpu, cpu, now);
	}
	task->running = 0;                /* last: from here on a wakeup on another CPU is one */
	if (dead)
		forget(self);
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

static __always_inline void enter(struct stay *stay, u32 cpu, u64 self, int from_idle, u64 now)
{
	struct task *task = self == stay->idle ? NULL : find_or_make(stay, self);

	stay->since = now;
	stay->task = 0;
	stay->group = 0;
	if (!task) {
		if (self != stay->idle && !number_at(self, PID_OFFSET))
			stay->idle = self;
		if (self == stay->idle)
			change_depth(cpu, cpu, EMPTIED, now);
		return;
	}
	stay->task = self;
	stay->group = task->seen && task->age != REFRESH ? task->group : 0;
	if (task->ready) {
		task->woke = task->moved & PREEMPTED ? 0 : WOKE_SEEN;
		task->waited = now - task->ready;
		task->ready = 0;
	} else if (task->asleep && task->early) {
		task->woke = WOKE_SEEN;
		task->waited = now - task->asleep;
		task->rested = 1;
		task->slept = 0;
	} else if (task->asleep) {
		task->woke = WOKE_UNSEEN;
	}
	task->moved = task->ran && task->ran != cpu + 1 ? moved_from(task->ran - 1, cpu) : 0;
	task->asleep = 0;
	task->early = 0;
	task->running = 1;
	queue_on(task, cpu, cpu, now);
	if (from_idle)
		change_depth(cpu, cpu, RUNNING, now);
}

/* bool preempt, struct task_struct *prev, struct task_struct *next, unsigned int prev_state */
RAW_TRACEPOINT_PROBE(sched_switch)
{
	u64 now = bpf_ktime_get_ns(), prev = ctx->args[1];
	struct window *w = open_window(now);
	u32 cpu = bpf_get_smp_processor_id(), state = ctx->args[3];
	int sleeps = state && !ctx->args[0];
	struct stay *stay;

	if (!w)
		return 0;
	stay = stays.lookup(&cpu);
	if (!stay)
		return 0;
	if (prev != stay->idle)
		leave(stay, cpu, prev, sleeps, state & TASK_DEAD, now, w);
	enter(stay, cpu, ctx->args[2], prev == stay->idle, now);
	return 0;
}

/* The group of the task that runs here, 0 for the idle task. */
static __always_inline u32 current_group(struct stay *stay, struct window *w)
{
	int idle = stay->since ? !stay->task : !(u32)bpf_get_current_pid_tgid();

	if (!idle && !stay->group)
		stay->group = intern(w);
	return idle ? 0 : stay->group;
}

static __always_inline int woken(u64 self, int fresh)
{
	u64 now = bpf_ktime_get_ns();
	struct window *w = open_window(now);
	u32 cpu = bpf_get_smp_processor_id();
	struct stay *stay;
	struct task *task;

	if (!w)
		return 0;
	stay = stays.lookup(&cpu);
	task = stay ? find_or_make(stay, self) : NULL;
	if (!task || task->ready)
		return 0;
	task->waker = current_group(stay, w);
	if (task->running) {
		task->early = 1;
		return 0;
	}
	task->ready = now;
	if (task->asleep) {
		task->slept = now - task->asleep;
		task->rested = 1;
		task->asleep = 0;
	}
	if (fresh)
		task->cpu = number_at(self, CPU_OFFSET);  /* chosen since the fork */
	queue_on(task, task->cpu, cpu, now);
	return 0;
}

/* struct task_struct *task */
RAW_TRACEPOINT_PROBE(sched_waking)
{
	return woken(ctx->args[0], 0);
}

/* struct task_struct *task */
RAW_TRACEPOINT_PROBE(sched_wakeup_new)
{
	return woken(ctx->args[0], 1);
}

/* struct task_struct *task, int dest_cpu; a sleeping task moves as its wakeup goes on */
RAW_TRACEPOINT_PROBE(sched_migrate_task)
{
	u64 now = bpf_ktime_get_ns();
	struct task *task;

	if (!open_window(now))
		return 0;
	task = find(ctx->args[0]);
	if (!task)
		return 0;
	if (task->queued)
		queue_on(task, ctx->args[1], bpf_get_smp_processor_id(), now);
	task->cpu = ctx->args[1];
	return 0;
}

/* A task, or all of its process, moves to another cgroup. */
RAW_TRACEPOINT_PROBE(cgroup_attach_task)
{
	struct window *w = open_window(bpf_ktime_get_ns());

	if (w)
		__sync_fetch_and_add(&w->era, 1);
	return 0;
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
 * struct task_struct *parent, struct task_struct *child; the child is remembered under the parent's group, which is its
 * own until it execs, for the case that it is gone before user space can ask.
 */
RAW_TRACEPOINT_PROBE(sched_process_fork)
{
	struct window *w = open_window(bpf_ktime_get_ns());
	struct group *group;
	struct stay *stay;
	struct task *child;

	if (!w)
		return 0;
	group = counters_of_current(w, &stay);
	if (group)
		group->forks += 1;
	if (!stay)
		return 0;
	forget(ctx->args[1]);
	child = find_or_make(stay, ctx->args[1]);
	if (!child)
		return 0;
	child->group = stay->group;
	return 0;
}

/* struct task_struct *task, const char *comm; the name at hand is no longer the task's */
RAW_TRACEPOINT_PROBE(task_rename)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct task *task;
	struct stay *stay;

	if (!open_window(bpf_ktime_get_ns()))
		return 0;
	stay = stays.lookup(&cpu);
	if (stay && stay->task == ctx->args[0])
		stay->group = 0;
	task = find(ctx->args[0]);
	if (task)
		task->age = REFRESH;
	return 0;
}

/* of the current task, which has its new name already */
RAW_TRACEPOINT_PROBE(sched_process_exec)
{
	struct window *w = open_window(bpf_ktime_get_ns());
	struct group *group;
	struct stay *stay;

	if (!w)
		return 0;
	group = counters_of_current(w, &stay);
	if (group)
		group->execs += 1;
	return 0;
}

/* of the current task */
RAW_TRACEPOINT_PROBE(sched_process_exit)
{
	struct window *w = open_window(bpf_ktime_get_ns());
	struct group *group;
	struct stay *stay;

	if (!w)
		return 0;
	group = counters_of_current(w, &stay);
	if (group)
		group->exits += 1;
	return 0;
}
