// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Run-queue depth: for each CPU, the nanoseconds during which it had i tasks that run or are ready to.
 *
 * No tracepoint tells the depth, so it is followed: a task counts on the CPU that its wakeup names, moves with
 * sched_migrate_task, and leaves when it is switched out to sleep or ended. What was ready before the window opened is
 * taken in when it first runs, so the depth is too low until then: for one round of the run queue. Two things bring a
 * count back that a lost event put wrong: a CPU that turns to its idle task has a depth of 0, and one that runs a task
 * a depth of at least 1. A task on its way to an idle CPU (woken, the interrupt not yet taken) counts as 0 there, and
 * one that a cgroup's bandwidth limit holds back counts as ready. Time before the CPU's first event is not counted.
 *
 * A CPU's depth is changed by others too: `since` is exchanged, so that each nanosecond is claimed once, and a race
 * can only put the few nanoseconds it took under a neighbouring depth.
 */

#define DEPTHS 30                         /* the last one: or more */

struct queue {
	u64 since;
	u64 depth;
	u64 ns[DEPTHS];
};

BPF_F_TABLE("array", u32, struct queue, queues, MAX_CPUS, BPF_F_MMAPABLE);

static __always_inline void charge(struct queue *queue, u64 depth, u64 now)
{
	u64 since = __sync_lock_test_and_set(&queue->since, now);

	if (depth >= DEPTHS)
		depth = DEPTHS - 1;
	if (since && now > since)
		__sync_fetch_and_add(&queue->ns[depth], now - since);
}

static __always_inline void deeper(u32 cpu, u64 now)
{
	struct queue *queue = queues.lookup(&cpu);

	if (queue)
		charge(queue, __sync_fetch_and_add(&queue->depth, 1), now);
}

static __always_inline void shallower(u32 cpu, u64 now)
{
	struct queue *queue = queues.lookup(&cpu);

	if (queue && queue->depth)
		charge(queue, __sync_fetch_and_add(&queue->depth, -1), now);
}

static __always_inline void emptied(u32 cpu, u64 now)
{
	struct queue *queue = queues.lookup(&cpu);

	if (queue)
		charge(queue, __sync_lock_test_and_set(&queue->depth, 0), now);
}

/* The task is in this CPU's queue, wherever it was counted before. */
static __always_inline void queue_on(struct task *task, u32 cpu, u64 now)
{
	if (task->queue == cpu + 1)
		return;
	if (task->queue)
		shallower(task->queue - 1, now);
	deeper(cpu, now);
	task->queue = cpu + 1;
}

static __always_inline void unqueue(struct task *task, u64 now)
{
	if (task->queue)
		shallower(task->queue - 1, now);
	task->queue = 0;
}

static __always_inline void runs_at_least_one(u32 cpu, u64 now)
{
	struct queue *queue = queues.lookup(&cpu);

	if (queue && !queue->depth)
		deeper(cpu, now);
}
