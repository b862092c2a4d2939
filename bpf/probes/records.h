// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What the probes of sched.c remember, and how it is found in a few nanoseconds (put before sched.c by
 * controller/observe/tracer.py: bcc rewrites one text only).
 *
 * A switch happens up to a million times a second, so its path has no hash look-up: threads are found in an array by
 * the kernel's address of them (a number here, never followed), counters by (CPU, group), and histograms in a table of
 * cells open to addressing by hand. The three are arrays that user space maps: it reads and clears them without a
 * system call per entry. Each CPU writes counters and cells of its own, from the switch alone, which nothing
 * interrupts, so nothing there is atomic. A name, cgroup and user are made into a group's number once, and again after an
 * exec or a rename, after any task on the host was moved to another cgroup (an event that names the process alone, and
 * is rare), and at each 64th stay, which is how a change of user is noticed.
 *
 * Given by user space: MAX_TASKS, MAX_CELLS (powers of two), MAX_SPILLED, MAX_GROUPS, MAX_CPUS, and from the kernel's
 * BTF PID_OFFSET and CPU_OFFSET, where a thread's number and CPU are: asked once of each thread that is first seen,
 * since only the running thread's number has a helper. What finds a table full is counted in `dropped`.
 */

#define STEPS_LOG2 4                      /* 16 linear steps per power of two: an error of at most 1/32 around the middle */
#define STEPS (1 << STEPS_LOG2)
#define MAX_VALUE ((1ULL << 40) - 1)      /* 18 minutes; longer values count in the last bucket */

#define GROUP_OWN 1                       /* the observer's; 0 is: not known yet, or an interrupt */
#define REFRESH 63                        /* a group's number is asked for anew at each 64th stay */
/* The load that switches most has the least cache to spare: a probe's size is its price, so loops stay loops. */
#define A_LOOP _Pragma("clang loop unroll(disable)")
#define RARELY(condition) __builtin_expect(!!(condition), 0)

#define TRIES 8                           /* cells looked at before one is called missing */
#define LINES_SHIFT (35 - __builtin_ctz(MAX_CELLS))    /* of a 32-bit hash only the upper bits are any good */

/* A cell's key: its kind, a group, and a bucket (10 bits) or, in an edge, the group that was woken. */
enum kind { KIND_LATENCY = 1, KIND_BURST = 2, KIND_SLEEP = 3, KIND_EDGE = 4, KINDS = 5 };
#define KIND_SHIFT 28
#define GROUP_SHIFT 12

struct window {
	u64 start;
	u64 length;
	u64 groups;                       /* the next group's number */
	u64 era;                          /* moves to another cgroup so far */
	u32 own;                          /* the observer's process, left out; 0 when its id is not known here */
	u32 pad;
};

struct who {
	char comm[16];
	u64 cgroup;
	u32 uid;
	u32 pad;
};

/* What each ordinary switch adds to comes first, within a cache line. */
struct group {
	u64 cpu_ns;
	u64 latency_ns;
	u64 sleep_ns;
	u32 voluntary;
	u32 wakeups;
	u64 first_ns;                     /* of the CPU time: in stays that began before the window, no bursts */
	u64 preempted_ns;                 /* waits that are no latency */
	u32 involuntary;
	u32 tasks;
	u32 migrations;
	u32 llc_migrations;
	u32 numa_migrations;
	u32 forks;
	u32 execs;
	u32 exits;
	u64 pad[2];
};

/* One cache line. */
struct task {
	u64 self;                         /* the kernel's address of it; 0: the slot is free */
	u64 ready;                        /* waiting for a CPU since then, or 0 */
	u64 asleep;                       /* since then, or 0 */
	u64 waited;                       /* before the stay on a CPU that goes on; a latency when WOKE_SEEN */
	u64 slept;                        /* before that wakeup, when `rested` */
	u32 pid;
	u32 era;                          /* of its group: it may have moved since */
	u16 group;                        /* its parent's until `seen` */
	u16 waker;                        /* the group that woke it last */
	u16 cpu;                          /* the CPU it is on, asleep or not */
	u16 ran;                          /* the CPU it last ran on, plus 1, or 0 */
	u8 queued;                        /* the run queue of its CPU counts it */
	u8 running;
	u8 early;                         /* woken while it was on a CPU, perhaps just leaving it */
	u8 woke;                          /* WOKE_* to the stay that goes on, or 0 */
	u8 rested;
	u8 moved;                         /* MOVED_* of the stay that goes on, and PREEMPTED */
	u8 age;
	u8 seen;                          /* counted in its group's `tasks` */
};

/* One cache line for each CPU: who is on it. */
struct stay {
	u64 since;                        /* 0 until the first switch of the window */
	u64 task;                         /* 0: the idle task */
	u64 idle;                         /* the idle task's address, once known */
	u64 dropped;
	u64 group;                        /* or 0 */
	u64 pad[3];
};

struct place {
	u32 llc;
	u32 node;
};

struct cell {
	u32 key;                          /* 0: free */
	u32 count;
};

BPF_F_TABLE("array", u32, struct window, window, 1, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct task, tasks, MAX_TASKS, BPF_F_MMAPABLE);
BPF_TABLE("hash", u64, struct task, spilled, MAX_SPILLED);
BPF_TABLE("hash", struct who, u32, ids, MAX_GROUPS);
BPF_F_TABLE("array", u32, struct who, names, MAX_GROUPS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct group, counters, MAX_CPUS * MAX_GROUPS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct cell, cells, MAX_CPUS * MAX_CELLS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct stay, stays, MAX_CPUS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct place, places, MAX_CPUS, BPF_F_MMAPABLE);

static __always_inline struct window *open_window(u64 now)
{
	int zero = 0;
	struct window *w = window.lookup(&zero);

	return w && now - w->start < w->length ? w : NULL;
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

/*
 * Eight neighbouring buckets share a cache line: the line is hashed, the place in it is not, and who finds the place
 * taken goes on to the next line.
 */
static __always_inline void count(struct stay *stay, u32 cpu, u32 key)
{
	u32 line = ((key >> 3) * 0x9e3779b1U) >> LINES_SHIFT;
	struct cell *cell;
	u32 index;

	A_LOOP
	for (int i = 0; i < TRIES; i++) {
		index = (((line + i) << 3) | (key & 7)) & (MAX_CELLS - 1);
		index += cpu * MAX_CELLS;
		cell = cells.lookup(&index);
		if (!cell)
			return;
		if (!cell->key)
			cell->key = key;
		if (cell->key == key) {
			cell->count += 1;
			return;
		}
	}
	stay->dropped += 1;
}

static __always_inline struct group *counters_of(u32 cpu, u32 group)
{
	u32 index = cpu * MAX_GROUPS + group;

	return group < MAX_GROUPS ? counters.lookup(&index) : NULL;
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

/* The number of the current task's group; 0 when there is no room for one more. */
static __always_inline u32 intern(struct window *w)
{
	struct who who = {}, *named;
	u32 *known, id;

	if (w->own && bpf_get_current_pid_tgid() >> 32 == w->own)
		return GROUP_OWN;
	bpf_get_current_comm(&who.comm, sizeof(who.comm));
	fold_name(who.comm);
	who.cgroup = bpf_get_current_cgroup_id();
	who.uid = bpf_get_current_uid_gid();
	known = ids.lookup(&who);
	if (known)
		return *known;
	if (w->groups >= MAX_GROUPS)
		return 0;
	id = __sync_fetch_and_add(&w->groups, 1);
	if (id >= MAX_GROUPS)
		return 0;
	if (ids.insert(&who, &id)) {              /* another CPU was faster: its number counts, this one stays unused */
		known = ids.lookup(&who);
		return known ? *known : 0;
	}
	named = names.lookup(&id);
	if (named)
		*named = who;
	return id;
}

static __always_inline u32 slot_of(u64 self)
{
	return ((u32)(self >> 6) * 0x9e3779b1U) >> (32 - __builtin_ctz(MAX_TASKS));
}

/* Threads that share a slot, of which there are few below MAX_TASKS threads, spill into a hash map. */
static __always_inline struct task *find(u64 self)
{
	u32 slot = slot_of(self);
	struct task *task = tasks.lookup(&slot);

	return task && task->self == self ? task : spilled.lookup(&self);
}

static __always_inline u32 number_at(u64 self, u32 offset)
{
	u32 number = 0;

	bpf_probe_read_kernel(&number, sizeof(number), (void *)(self + offset));
	return number;
}

/* The record of a thread, made when there is none; none of the idle task, and none when all is full. */
static __always_inline struct task *find_or_make(struct stay *stay, u64 self)
{
	u32 slot = slot_of(self), pid;
	struct task *task = find(self);
	u64 was = 0;

	if (!RARELY(!task))
		return task;
	pid = number_at(self, PID_OFFSET);
	if (!pid)
		return NULL;
	task = tasks.lookup(&slot);
	if (task)
		was = __sync_val_compare_and_swap(&task->self, 0, self);
	if (!task || (was && was != self)) {      /* another CPU may just have made it */
		struct task fresh = { .self = self };

		spilled.insert(&self, &fresh);
		task = spilled.lookup(&self);
	}
	if (task) {
		task->pid = pid;
		task->cpu = number_at(self, CPU_OFFSET);
	} else {
		stay->dropped += 1;
	}
	return task;
}

static __always_inline void forget(u64 self)
{
	u32 slot = slot_of(self);
	struct task *task = tasks.lookup(&slot), none = {};

	if (task && task->self == self)
		*task = none;
	else
		spilled.delete(&self);
}
