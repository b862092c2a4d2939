/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Fair queues: CPU time is shared between queues by weight, and between the tasks of one queue by what they weigh in
 * their class: by nice value and by the cpu.weight of their cgroups (schedctl_group.bpf.h).
 *
 * Each queue is one DSQ, ordered by the virtual time of its tasks, and has a virtual time of its own: a queue of weight
 * w is charged 100 / w nanoseconds for each that its tasks run, and the queue that has waited with the least goes first.
 * So a queue gets weight / (sum of the weights that compete) of the CPUs its tasks may use, however many tasks it has.
 *
 *   lag      A queue or task that slept, or that could not use its share, comes back at most `fair_lag_ns` of virtual
 *            time behind the others: it is served first, but cannot keep them waiting for what it did not use.
 *   idle     A CPU that nobody else wanted is free of charge beyond that same lag.
 *   ageing   A queue with tasks that no CPU has taken one from for `fair_age_ns` of real time goes before all others,
 *            whatever its weight, so none is starved.
 *   nice     Weights of nice values are bounded to 10..1000 (about nice 10 to -10): the heaviest task of a queue gets
 *            100 times the lightest at most.
 *   affinity A CPU takes the first task of a queue that may run on it, and tries the next queue when there is none.
 *   waking   A task whose bursts are brief, a quarter of its slice at most, takes its CPU when it wakes: at once from one
 *            of a queue that has had more, if that one's burst is not brief, and from others once theirs is longer than a
 *            slice, unless the task or its queue is ahead. It is charged as ever, so shares hold. It waits when whoever
 *            woke it is about to sleep: else each message would be read before the next is written. The scheduler calls
 *            fair_woken and fair_leave, and fair_running for none that is to keep its CPU; or it defines FAIR_WAITS.
 *
 *   owed     Where the scheduler defines FAIR_OWES, a queue for which that is true goes before all for which it is not,
 *            and after aged ones.
 *
 * The scheduler defines the table `queues`, and fair_lag_ns and fair_age_ns or the knobs KNOB_LAG and KNOB_AGE.
 */
#ifndef SCHEDCTL_FAIR_BPF_H
#define SCHEDCTL_FAIR_BPF_H

#define FAIR_DSQ 0x1000	 /* DSQ of queue 0; the others follow */
#define FAIR_AGED 0x1000	 /* added to the number of a queue that is picked because it aged */
#define FAIR_CPUS 512	 /* a power of 2; CPUs above share the records of those below */
#define FAIR_BRIEF 4	 /* the part of a slice that a brief burst takes at most */
#define FAIR_TURN 100000 /* ns that a task has its CPU at least before one that wakes takes it */
#define FAIR_TRIES 4	 /* queues tried in order of need before the plain sweep over all */

struct schedctl_queue {
	u32 weight;	 /* 1 to 10000 for a class, the sum for a queue of several; not used with live knobs */
	u64 vtime;	 /* service received / weight */
	u64 task_vtime;	 /* the virtual time its tasks have come to */
	u64 taken_at;	 /* when a CPU last took a task from it, or it had none */
};

extern struct schedctl_queue queues[NR_QUEUES];
#ifdef KNOB_LAG
#define fair_lag_ns knob(KNOB_LAG)
#else
extern const u64 fair_lag_ns;
#endif
#ifdef KNOB_AGE
#define fair_age_ns knob(KNOB_AGE)
#else
extern const u64 fair_age_ns;
#endif

#ifdef FAIR_OWES
static bool FAIR_OWES(u64 queue, u64 now);
#else
#define FAIR_OWES(queue, now) false
#endif

static u64 fair_vtime; /* the virtual time that the queues have come to */

/* Create the DSQs; in ops.init. */
static __in_line s32 fair_init(void)
{
	u64 now = bpf_ktime_get_ns();

#pragma unroll 1
	for (u64 i = 0; i < NR_QUEUES; i++) {
		s32 error = scx_bpf_create_dsq(FAIR_DSQ + i, -1);

		if (error)
			return error;
		queues[i].taken_at = now;
	}
	return 0;
}

static __in_line struct schedctl_queue *queue_of(const struct schedctl_task *t)
{
	return &queues[bounded(class_of(t)->queue, NR_QUEUES)];
}

static __in_line u64 queue_dsq(const struct schedctl_task *t)
{
	return FAIR_DSQ + class_of(t)->queue;
}

/* Tasks that wait in the task's queue. */
static __in_line u64 queue_length(const struct schedctl_task *t)
{
	return dsq_length(queue_dsq(t));
}

/* The weight of the task's queue, as it is now. */
static __in_line u64 queue_weight(const struct schedctl_task *t)
{
#if NR_KNOBS && defined(SHARED_QUEUES)
	return clamp(queue_weights[bounded(class_of(t)->queue, NR_QUEUES)], 1, MAX_QUEUE_WEIGHT);
#elif NR_KNOBS
	return class_weight(t);
#else
	return max(queue_of(t)->weight, 1);
#endif
}

/* A task that is new in its queue starts where the queue is. */
static __in_line void fair_join(struct schedctl_task *t)
{
	t->vtime = queue_of(t)->task_vtime;
}

/* A task is about to wait in its queue, which may have had none for long. */
static __in_line void fair_arrive(const struct schedctl_task *t)
{
	struct schedctl_queue *q = queue_of(t);

	if (!queue_length(t))
		q->taken_at = bpf_ktime_get_ns();
	if (vtime_before(q->vtime, fair_vtime - fair_lag_ns))
		q->vtime = fair_vtime - fair_lag_ns;
}

#ifndef FAIR_WAITS

/* What runs on a CPU, as far as one that wakes must know it. */
struct fair_cpu {
	u64 put_at;
	u64 since; /* when the task's burst began, or a usual one of its would have; 0: it keeps its CPU */
	u64 queue;
	u64 vtime; /* the task's, when it was put there */
};

static struct fair_cpu fair_cpus[FAIR_CPUS];

static __in_line struct fair_cpu *fair_cpu(s32 cpu)
{
	return &fair_cpus[(u32)cpu % FAIR_CPUS];
}

/* ops.stopping: nothing runs on this CPU now. */
static __in_line void fair_leave(void)
{
	fair_cpu(bpf_get_smp_processor_id())->since = 0;
}

/* ops.select_cpu: the task wakes. */
static __in_line void fair_woken(struct schedctl_task *t, u64 wake_flags)
{
	if (t)
		t->patient = wake_flags & SCX_WAKE_SYNC;
}

/* ops.enqueue: may the task, which wakes, have the CPU it is on at once? Then the next one to wake there waits. */
static __noinline bool fair_cuts_in(struct task_struct *p, const struct schedctl_task *t, u64 slice)
{
	struct fair_cpu *c = fair_cpu(scx_bpf_task_cpu(p));
	u64 mine = class_of(t)->queue, theirs = bounded(c->queue, NR_QUEUES), brief = slice / FAIR_BRIEF;
	s64 ahead = queue_of(t)->vtime - queues[theirs].vtime;
	u64 now = bpf_ktime_get_ns();
	struct schedctl_stats *stats;

	if (t->patient || !t->burst_avg || t->burst_avg > brief)
		return false;
	if (!c->since || minus(now, c->put_at) < FAIR_TURN)
		return false;
	if (minus(now, c->since) <= (ahead < 0 ? brief : slice))
		return false;
	if (mine == theirs ? !vtime_before(t->vtime, c->vtime) : ahead > (s64)fair_lag_ns)
		return false;
	c->since = 0;
	stats = class_stats(t->class);
	if (stats)
		stats->preempts++;
	return true;
}

#endif

/*
 * The task waits in its queue by `key`: its virtual time, or what a queue that is ordered otherwise goes by. One that wakes
 * may have its CPU at once instead.
 */
static __in_line void fair_enqueue(struct task_struct *p, struct schedctl_task *t, u64 slice, u64 key,
					 u64 enq_flags)
{
	fair_arrive(t);
#ifndef FAIR_WAITS
	if ((enq_flags & SCX_ENQ_WAKEUP) && fair_cuts_in(p, t, slice)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice, enq_flags | SCX_ENQ_PREEMPT);
		return;
	}
#endif
	scx_bpf_dsq_insert_vtime(p, queue_dsq(t), slice, key, enq_flags);
}

/* The task's virtual time, brought up to the lag behind its queue: its key, unless the queue is ordered otherwise. */
static __in_line u64 fair_key(struct schedctl_task *t)
{
	u64 earliest = queue_of(t)->task_vtime - fair_lag_ns;

	if (vtime_before(t->vtime, earliest))
		t->vtime = earliest;
	return t->vtime;
}

/* ops.running, after account_running: the queue has come to where the task is, and one that wakes may take its CPU. */
static __in_line void fair_running(const struct schedctl_task *t)
{
	struct schedctl_queue *q = queue_of(t);
#ifndef FAIR_WAITS
	struct fair_cpu *c = fair_cpu(bpf_get_smp_processor_id());

	c->put_at = t->started_at;
	c->since = t->started_at - max(t->burst_ns, t->burst_avg);
	c->queue = class_of(t)->queue;
	c->vtime = t->vtime;
#endif
	if (vtime_before(q->task_vtime, t->vtime))
		q->task_vtime = t->vtime;
}

/* Charge the task, inside its queue. */
static __in_line void fair_charge_task(struct task_struct *p, struct schedctl_task *t, u64 delta)
{
	t->vtime += delta * 100 / task_weight(p, t);
}

/* Charge the task's queue. */
static __in_line void fair_charge_queue(struct schedctl_task *t, u64 delta)
{
	struct schedctl_queue *q = queue_of(t);

	if (t->direct && vtime_before(fair_vtime + fair_lag_ns, q->vtime))
		return;
	__sync_fetch_and_add(&q->vtime, delta * 100 / queue_weight(t));
}

/* ops.dispatch and ops.stopping: charge the task and its queue for `delta` nanoseconds. */
static __in_line void fair_charge(struct task_struct *p, struct schedctl_task *t, u64 delta)
{
	fair_charge_task(p, t, delta);
	fair_charge_queue(t, delta);
}

struct fair_choice {
	u64 now;
	u64 tried; /* numbers + 1 of up to FAIR_TRIES queues that have nothing for this CPU, 16 bits each */
	u64 queue; /* the best so far, when `found` */
	u64 vtime;
	bool found;
	bool aged;
	bool owed;
};

/* Keep in `c` the queue with the greatest need: an aged one, one that is owed, then the one with the least virtual time. */
static long fair_compare(u64 i, struct fair_choice *c)
{
	u64 queue = bounded(i, NR_QUEUES);
	u64 vtime = queues[queue].vtime;
	bool aged = minus(c->now, queues[queue].taken_at) > fair_age_ns;
	bool owed = FAIR_OWES(queue, c->now);

	for (u32 k = 0; k < FAIR_TRIES; k++)
		if ((c->tried >> 16 * k & 0xffff) == queue + 1)
			return 0;
	if (!scx_bpf_dsq_nr_queued(FAIR_DSQ + queue))
		return 0;
	if (c->found && aged < c->aged)
		return 0;
	if (c->found && aged == c->aged && (owed < c->owed || (owed == c->owed && !vtime_before(vtime, c->vtime))))
		return 0;
	c->found = true;
	c->queue = queue;
	c->aged = aged;
	c->owed = owed;
	c->vtime = vtime;
	return 0;
}

/*
 * The queue with the greatest need, FAIR_AGED added when it is aged, or -1. This and those of schedctl_dsq.bpf.h are
 * global functions, which the BPF verifier looks at once: inlined in a loop they cost it 100 times the work, and nested loops
 * with callbacks fail in 6.18 ("verifier bug: add backedge").
 */
__noinline int fair_pick(u64 now, u64 tried)
{
	struct fair_choice c = { .now = now, .tried = tried };

	bpf_loop(NR_QUEUES, fair_compare, &c, 0);
	if (!c.found)
		return -1;
	return c.aged ? c.queue + FAIR_AGED : c.queue;
}

/* Take the first task of the queue that may run here. What a queue is owed does not move the virtual time of all. */
static __noinline bool fair_take(u64 queue, u64 now)
{
	if (!scx_bpf_dsq_move_to_local(FAIR_DSQ + queue))
		return false;
	queues[queue].taken_at = now;
	if (!FAIR_OWES(queue, now) && vtime_before(fair_vtime, queues[queue].vtime))
		fair_vtime = queues[queue].vtime;
	return true;
}

/* Does the task `t`, which has the CPU and would wait by `key`, need it more than the queue that was picked? */
static __in_line bool fair_keeps(const struct schedctl_task *t, u64 key, s32 cpu, u64 queue, bool aged)
{
	u64 now = bpf_ktime_get_ns();

	if (class_of(t)->queue == queue)
		return !dsq_head_waits(FAIR_DSQ + queue, cpu, key);
	if (FAIR_OWES(class_of(t)->queue, now) != FAIR_OWES(queue, now))
		return !aged && FAIR_OWES(class_of(t)->queue, now);
	return !aged && vtime_before(queue_of(t)->vtime, queues[queue].vtime);
}

static long fair_sweep(u64 i, u64 *now)
{
	if (!fair_take(bounded(i, NR_QUEUES), *now))
		return 0;
	*now = 0; /* taken */
	return 1;
}

/*
 * ops.dispatch: give `cpu` a task of the queue with the greatest need. False when no queue has one for it, or when the
 * task `t` that has the CPU and could go on (NULL: none), which would wait by `key`, needs it more. Without that
 * comparison two tasks on one CPU would take turns whatever their weights: the kernel asks before it puts the old back.
 */
static __in_line bool fair_dispatch(s32 cpu, const struct schedctl_task *t, u64 key)
{
	u64 now = bpf_ktime_get_ns(), tried = 0;

	for (u32 i = 0; i < FAIR_TRIES; i++) {
		int picked = fair_pick(now, tried);
		u64 queue = bounded(picked & (FAIR_AGED - 1), NR_QUEUES);

		if (picked < 0 || (t && fair_keeps(t, key, cpu, queue, picked >= FAIR_AGED)))
			return false;
		if (fair_take(queue, now))
			return true;
		tried = tried << 16 | (queue + 1);
	}
	bpf_loop(NR_QUEUES, fair_sweep, &now, 0);
	return !now;
}

#endif
