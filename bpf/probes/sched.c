// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What runs on this host, added up in the kernel (compiled by bcc, read by controller/observe/tracer.py).
 *
 * Only numeric tracepoint arguments and helpers are used, never a kernel struct, so kernel headers of any near
 * version do; `comm` arguments are left alone because 6.18 turned some of them from arrays into strings. Nothing is
 * copied to user space per event: a switch adds to the group (process name, cgroup, user) of the task that leaves.
 *
 * Definitions
 *   burst     from being switched in to being switched out, of tasks that were switched in inside the window
 *   latency   from a wakeup (or the first wakeup of a new task) to the next switch-in. The wait of a task that was
 *             preempted is not latency. A wakeup that finds its task still on a CPU, or already woken, is not one.
 *   voluntary the task went to sleep or ended; otherwise it was preempted or yielded: involuntary
 *   migration switched in on another CPU than it last left
 *
 * Everything about one stay on a CPU is kept in that CPU's slot and attributed when the stay ends, because only the
 * running task's cgroup can be asked for. What is still on a CPU, or still waiting, when the window closes is read
 * from `cpus` and `tasks` by user space. Events outside [start, start + length) change nothing.
 *
 * MAX_TASKS, MAX_GROUPS and MAX_BUCKETS bound the maps; an event that finds one full is counted in `dropped`.
 */

#define STEPS_LOG2 4                      /* 16 linear steps per power of two: an error of at most 1/32 around the middle */
#define STEPS (1 << STEPS_LOG2)
#define MAX_VALUE ((1ULL << 40) - 1)      /* 18 minutes; longer values count in the last bucket */

#define STATE_DEAD 0x30                   /* as sched_switch reports it: EXIT_DEAD | EXIT_ZOMBIE */
#define STATE_PREEMPTED 0x100             /* TASK_REPORT_MAX since 4.20 */

#define NONE (~0ULL)

enum slot { SLOT_GROUP = 0, SLOT_LATENCY = 1 << 16, SLOT_BURST = 2 << 16 };

struct window {
	u64 start;
	u64 length;
	u32 own;                          /* the observer's process, left out; 0 when its id is not known here */
	u32 pad;
};

/* Key of `groups` (slot 0) and of `buckets` (slot: which histogram, and the bucket's number). */
struct who {
	char comm[16];
	u64 cgroup;
	u32 uid;
	u32 slot;
};

struct group {
	u64 tasks;
	u64 cpu_ns;
	u64 wakeups;
	u64 voluntary;
	u64 involuntary;
	u64 migrations;
	u64 forks;
	u64 latency_ns;
	u64 burst_ns;
};

struct task {
	struct who who;                   /* its parent's at birth; `known`: its own, when it last left a CPU */
	u64 woken;                        /* waiting for its first run since then, or 0 */
	u32 wakeups;                      /* not yet attributed */
	u32 cpu;                          /* last one, plus 1; or 0 */
	u32 running;
	u32 known;
};

struct stay {
	u64 since;                        /* 0 until the first switch of the window */
	u64 latency;                      /* or NONE */
	u32 pid;
	u32 wakeups;
	u32 migrations;
	u32 forks;
};

BPF_ARRAY(window, struct window, 1);
BPF_TABLE("hash", u32, struct task, tasks, MAX_TASKS);
BPF_TABLE("percpu_hash", struct who, struct group, groups, MAX_GROUPS);
BPF_TABLE("hash", struct who, u64, buckets, MAX_BUCKETS);
BPF_PERCPU_ARRAY(cpus, struct stay, 1);
BPF_PERCPU_ARRAY(dropped, u64, 1);

static __always_inline struct window *open_window(u64 now)
{
	int zero = 0;
	struct window *w = window.lookup(&zero);

	return w && now - w->start < w->length ? w : NULL;
}

static __always_inline void drop(void)
{
	int zero = 0;
	u64 *count = dropped.lookup(&zero);

	if (count)
		*count += 1;
}

static __always_inline u32 log2_of(u64 value)
{
	u32 bits = 0;

	if (value >> 32) { bits += 32; value >>= 32; }
	if (value >> 16) { bits += 16; value >>= 16; }
	if (value >> 8) { bits += 8; value >>= 8; }
	if (value >> 4) { bits += 4; value >>= 4; }
	if (value >> 2) { bits += 2; value >>= 2; }
	return bits + (u32)(value >> 1);
}

static __always_inline u32 bucket_of(u64 value)
{
	u32 shift;

	if (value > MAX_VALUE)
		value = MAX_VALUE;
	if (value < STEPS)
		return value;
	shift = log2_of(value) - STEPS_LOG2;
	return (shift + 1) * STEPS + ((value >> shift) & (STEPS - 1));
}

static __always_inline void add_to_bucket(struct who *who, u32 histogram, u64 value)
{
	u64 zero = 0, *count;

	who->slot = histogram | bucket_of(value);
	count = buckets.lookup_or_try_init(who, &zero);
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		drop();
	who->slot = SLOT_GROUP;
}

/* Per-CPU workers are one workload: kworker/3:1 and kworker/u8:0 would fill the map with names that mean nothing. */
static __always_inline void fold_name(char *comm)
{
	u64 *words = (u64 *)comm;
	const u64 kworker = 0x2f72656b726f776bULL;      /* "kworker/", little endian */

	if (words[0] == kworker) {
		words[0] = kworker & 0x00ffffffffffffffULL;
		words[1] = 0;
	}
}

static __always_inline void fill_current(struct who *who)
{
	bpf_get_current_comm(&who->comm, sizeof(who->comm));
	fold_name(who->comm);
	who->cgroup = bpf_get_current_cgroup_id();
	who->uid = bpf_get_current_uid_gid();
}

static __always_inline int same(const struct who *a, const struct who *b)
{
	const u64 *x = (const u64 *)a, *y = (const u64 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3];
}

/* Notes that the current task left its CPU; returns 1 if this is the first time it is seen in this group. */
static __always_inline int note_leaving(u32 pid, int dead, const struct who *who)
{
	struct task *task = tasks.lookup(&pid), fresh = {};
	int first;

	if (!task) {
		if (dead)
			return 1;
		fresh.who = *who;
		fresh.known = 1;
		fresh.cpu = bpf_get_smp_processor_id() + 1;
		if (!tasks.insert(&pid, &fresh))
			return 1;
		drop();
		return 0;
	}
	first = !task->known || !same(&task->who, who);
	if (dead) {
		tasks.delete(&pid);
		return first;
	}
	task->who = *who;
	task->known = 1;
	task->running = 0;
	task->woken = 0;                  /* a wakeup while it ran is no latency */
	task->cpu = bpf_get_smp_processor_id() + 1;
	return first;
}

static __always_inline void leave(struct stay *stay, u32 pid, u64 state, u64 now, struct window *w)
{
	struct who who = {};
	struct group *group, zero = {};
	u64 ran = now - (stay->since ? stay->since : w->start);
	int first;

	fill_current(&who);
	first = note_leaving(pid, !!(state & STATE_DEAD), &who);
	if (w->own && bpf_get_current_pid_tgid() >> 32 == w->own)
		return;
	group = groups.lookup_or_try_init(&who, &zero);
	if (!group) {
		drop();
		return;
	}
	group->tasks += first;
	group->cpu_ns += ran;
	group->forks += stay->forks;
	group->wakeups += stay->wakeups;
	group->migrations += stay->migrations;
	if (!state || state & STATE_PREEMPTED)
		group->involuntary += 1;
	else
		group->voluntary += 1;
	if (stay->latency != NONE && stay->since) {
		group->latency_ns += stay->latency;
		add_to_bucket(&who, SLOT_LATENCY, stay->latency);
	}
	if (stay->since) {
		group->burst_ns += ran;
		add_to_bucket(&who, SLOT_BURST, ran);
	}
}

static __always_inline void enter(struct stay *stay, u32 pid, u64 now)
{
	u32 cpu = bpf_get_smp_processor_id() + 1;
	struct task *task;

	stay->since = now;
	stay->pid = pid;
	stay->latency = NONE;
	stay->wakeups = 0;
	stay->migrations = 0;
	stay->forks = 0;
	task = pid ? tasks.lookup(&pid) : NULL;
	if (!task)
		return;
	if (task->woken)
		stay->latency = now - task->woken;
	stay->wakeups = task->wakeups;
	stay->migrations = task->cpu && task->cpu != cpu;
	task->woken = 0;
	task->wakeups = 0;
	task->running = 1;
	task->cpu = cpu;
}

TRACEPOINT_PROBE(sched, sched_switch)
{
	u64 now = bpf_ktime_get_ns();
	struct window *w = open_window(now);
	int zero = 0;
	struct stay *stay;

	if (!w)
		return 0;
	stay = cpus.lookup(&zero);
	if (!stay)
		return 0;
	if (args->prev_pid)
		leave(stay, args->prev_pid, args->prev_state, now, w);
	enter(stay, args->next_pid, now);
	return 0;
}

static __always_inline int woken(u32 pid)
{
	u64 now = bpf_ktime_get_ns();
	struct task *task, fresh = {};

	if (!open_window(now))
		return 0;
	task = tasks.lookup(&pid);
	if (!task) {
		fresh.woken = now;
		fresh.wakeups = 1;
		if (tasks.insert(&pid, &fresh))
			drop();
	} else if (!task->running && !task->woken) {
		task->woken = now;
		task->wakeups += 1;
	}
	return 0;
}

TRACEPOINT_PROBE(sched, sched_wakeup)
{
	return woken(args->pid);
}

TRACEPOINT_PROBE(sched, sched_wakeup_new)
{
	return woken(args->pid);
}

/*
 * The parent is the one that runs: the fork belongs to its stay on this CPU. The child is remembered under the parent's
 * name, which is its own until it execs, for the case that it is gone before user space can ask.
 */
TRACEPOINT_PROBE(sched, sched_process_fork)
{
	int zero = 0;
	u32 pid = args->child_pid;
	struct task child = {};
	struct stay *stay;

	if (!open_window(bpf_ktime_get_ns()))
		return 0;
	stay = cpus.lookup(&zero);
	if (stay)
		stay->forks += 1;
	fill_current(&child.who);
	tasks.update(&pid, &child);       /* when full, the wakeup that follows is counted as dropped */
	return 0;
}
