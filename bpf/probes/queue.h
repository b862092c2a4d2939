// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Run-queue depth: for each CPU, the nanoseconds during which it had i tasks that run or are ready to.
 *
 * No tracepoint tells the depth, so it is followed: a task counts on its CPU from its wakeup on, moves with
 * sched_migrate_task, and leaves when it is switched out to sleep or ended. What was ready before the window opened is
 * taken in when it first runs, so the depth is too low until then: for one round of the run queue. Two things bring a
 * count back that a lost event put wrong: a CPU that turns to its idle task has a depth of 0, and one that runs a task
 * a depth of at least 1. A task on its way to an idle CPU (woken, the interrupt not yet taken) may count as 0 there,
 * and one that a cgroup's bandwidth limit holds back counts as ready. Time before the CPU's first event is not counted.
 *
 * A CPU's depth is changed by others too: it is kept in one word with the time of its last change, which is exchanged
 * whole, so that each nanosecond is claimed once. A change that loses the race three times is left out. Each CPU's own
 * changes, which are most, are added up apart from the others', which need an atomic addition.
 */

#define DEPTHS 31                         /* the last one: or more */
#define DEPTH_BITS 8
#define MAX_DEPTH ((1 << DEPTH_BITS) - 1)

struct queue {
	u64 state;                        /* when it last changed, and the depth since in the lowest bits */
	u64 ns[DEPTHS];
	u64 pad;
	u64 own_ns[DEPTHS];
};

BPF_F_TABLE("array", u32, struct queue, queues, MAX_CPUS, BPF_F_MMAPABLE);

enum change { DEEPER, SHALLOWER, EMPTIED, RUNNING };

static __always_inline void change_depth(u32 cpu, u32 here, enum change how, u64 now)
{
	struct queue *queue = queues.lookup(&cpu);
	u64 was, since, depth, next;

	if (!queue)
		return;
	A_LOOP
	for (int i = 0; i < 3; i++) {
		was = queue->state;
		since = was >> DEPTH_BITS;
		depth = next = was & MAX_DEPTH;
		if (how == EMPTIED)
			next = 0;
		else if (how == RUNNING)
			next = depth ? depth : 1;
		else if (how == DEEPER && depth < MAX_DEPTH)
			next = depth + 1;
		else if (how == SHALLOWER && depth)
			next = depth - 1;
		if (next == depth && since)
			return;
		if (__sync_val_compare_and_swap(&queue->state, was, now << DEPTH_BITS | next) != was)
			continue;
		if (depth >= DEPTHS)
			depth = DEPTHS - 1;
		if (since && now > since && cpu == here)
			queue->own_ns[depth] += now - since;
		else if (since && now > since)
			__sync_fetch_and_add(&queue->ns[depth], now - since);
		return;
	}
}

/* The task is ready or running on this CPU, wherever it was counted before. */
static __always_inline void queue_on(struct task *task, u32 cpu, u32 here, u64 now)
{
	if (task->queued && task->cpu == cpu)
		return;
	if (task->queued)
		change_depth(task->cpu, here, SHALLOWER, now);
	change_depth(cpu, here, DEEPER, now);
	task->queued = 1;
	task->cpu = cpu;
}
