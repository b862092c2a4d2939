/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Tasks: which class each is in, what it used, and why the scheduler ended.
 *
 * No callback tells of an exec, and a task may change its name, its user or its cgroup at any time; its process it never
 * does. So each task keeps what it was matched by, and `classify` compares that whenever the task becomes runnable and
 * whenever it leaves a CPU: three loads in the common case, a match only after a change.
 */
#ifndef SCHEDCTL_TASK_BPF_H
#define SCHEDCTL_TASK_BPF_H

#define CLASS_OTHERS 0
#define CLASS_WORDS ((NR_CLASSES + 63) / 64)
#define COMM_LEN 16	     /* TASK_COMM_LEN */
#define CGROUP_DEPTH 16	     /* ancestors looked at; systemd and Kubernetes nest about 8 deep */
#define MAX_CGROUPS 8192     /* rows of schedctl_cgroups */
#define DUMP_LEN 4096	     /* bytes kept of the kernel's dump at an error */
#define NICE_WEIGHT_MIN 10
#define NICE_WEIGHT_MAX 1000
#define MAX_DELTA 1000000000 /* ns; a longer run than 1 s is charged as 1 s, so that products stay below 2^64 */

/* What a class needs of a task: all that are set. */
#define MATCH_COMM 1
#define MATCH_UID 2
#define MATCH_CGROUP 4
#define MATCH_TGID 8

/* --- Tables, defined by the scheduler ------------------------------------------------------------------------------ */

struct schedctl_class {
	u32 weight; /* 1 to 10000, as cpu.weight; with live knobs the row of KNOB_WEIGHTS counts instead */
	u32 queue;  /* index into queues */
	u32 needs;  /* MATCH_*; 0 for others, which takes what no class wants */
	u64 param;  /* the scheduler's own number for the class */
};

struct schedctl_comm_rule {
	u32 class;
	char glob[COMM_LEN]; /* `*` is any run of characters, `?` any one */
};

struct schedctl_uid_rule {
	u32 class;
	u32 uid;
};

/* All threads of a process, also after an exec; a process that it forks is another, and matched by its own number. */
struct schedctl_tgid_rule {
	u32 class;
	u32 tgid;
};

#ifndef NR_TGID_RULES
#define NR_TGID_RULES 0
#endif
#define MATCHES (NR_COMM_RULES || NR_UID_RULES || NR_TGID_RULES || MATCH_CGROUPS) /* is any task of a class other than others? */

extern const struct schedctl_class classes[NR_CLASSES];
#if NR_COMM_RULES
extern const struct schedctl_comm_rule comm_rules[NR_COMM_RULES];
#endif
#if NR_UID_RULES
extern const struct schedctl_uid_rule uid_rules[NR_UID_RULES];
#endif
#if NR_TGID_RULES
extern const struct schedctl_tgid_rule tgid_rules[NR_TGID_RULES];
#endif

/* --- Maps ------------------------------------------------------------------------------------------------------------- */

struct schedctl_cgroup {
	u64 classes[4]; /* bit c % 64 of word c / 64 stands for class c */
};

struct schedctl_control {
	u64 generation;
};

struct schedctl_stats {
	u64 runtime_ns;	   /* time on a CPU */
	u64 runs;	   /* times put on a CPU */
	u64 direct;	   /* of those, straight to an idle CPU */
	u64 preempts;	   /* CPUs taken from other tasks for this class */
	u64 matches;	   /* tasks found to belong to the class, counted again after each change */
	u64 wakeups;	   /* waits counted in wait_ns: from runnable to running */
	u64 wait_ns;	   /* their sum */
	u64 wait_max_ns;   /* the longest of them */
};

struct schedctl_exit {
	u64 kind; /* enum scx_exit_kind: 64 and 65 unregistered, 66 by the kernel, 67 SysRq, 1024 and more errors */
	s64 code;
	char reason[64];
	char message[256];
};

/*
 * That the scheduler decides: touched by each CPU that puts a task on. A CPU without work to do stands still here, so
 * only the newest of all CPUs, on a machine that is not idle, says that the scheduler lives.
 */
struct schedctl_heartbeat {
	u64 decisions;
	u64 last_ns; /* bpf_ktime_get_ns, which is CLOCK_MONOTONIC */
};

/* What is kept for a task as long as it lives. */
struct schedctl_task {
	u64 comm[2];	/* the name it was matched by */
	u64 cgroup;	/* the cgroup it was matched by */
	u64 generation; /* schedctl_control.generation at that time */
	u32 uid;	/* the user it was matched by */
	u32 class;
	u32 home;	 /* CPU whose queue it was last in, where each CPU has one */
	u64 vtime;	 /* service received inside its queue, by nice value */
	u64 runnable_at; /* when it began to wait for a CPU after sleeping; 0 while it does not */
	u64 started_at;	 /* when it was put on a CPU; 0 while it is on none */
	u64 burst_ns;	 /* CPU time since it last slept */
	u64 burst_avg;	 /* moving average of the bursts before, 1/4 the newest */
	bool direct;	 /* was sent straight to an idle CPU */
	bool patient;	 /* whoever woke it is about to sleep */
	u32 counted;	 /* nice weight that it is counted with as runnable; 0 while it sleeps */
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct schedctl_task);
} schedctl_tasks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_CGROUPS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, struct schedctl_cgroup);
} schedctl_cgroups SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct schedctl_control);
} schedctl_control SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, NR_CLASSES);
	__type(key, u32);
	__type(value, struct schedctl_stats);
} schedctl_stats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct schedctl_exit);
} schedctl_exit SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, char[DUMP_LEN]);
} schedctl_exit_dump SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct schedctl_heartbeat);
} schedctl_heartbeat SEC(".maps");

/*
 * A new record for the task; NULL when there is no memory. One attempt failed on 6.16.3, once, just after one scheduler
 * had replaced another. The likely cause, read from the kernel's code: bpf_local_storage_update answers EAGAIN while the
 * task's record of the scheduler before is being taken away; by the second attempt it is.
 */
static __in_line struct schedctl_task *new_task_record(struct task_struct *p)
{
	struct schedctl_task *t = bpf_task_storage_get(&schedctl_tasks, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);

	return t ?: bpf_task_storage_get(&schedctl_tasks, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
}

/* The task's record; NULL only for a task that init_task has not seen. */
static __in_line struct schedctl_task *task_record(struct task_struct *p)
{
	return bpf_task_storage_get(&schedctl_tasks, p, NULL, 0);
}

/* The class's counters on this CPU. */
static __in_line struct schedctl_stats *class_stats(u32 class)
{
	return bpf_map_lookup_elem(&schedctl_stats, &class);
}

/* The class's row; a class out of range, which cannot be, reads as others. */
static __in_line const struct schedctl_class *class_of(const struct schedctl_task *t)
{
	return &classes[bounded(t->class, NR_CLASSES)];
}

/* The weight of the task's class, as it is now. */
static __in_line u64 class_weight(const struct schedctl_task *t)
{
#if NR_KNOBS
	return class_knob(t->class, KNOB_WEIGHTS);
#else
	return clamp(class_of(t)->weight, 1, 10000);
#endif
}

/* Of the task's nice value: 100 for nice 0, bounded to about nice 10 to -10. */
static __always_inline u32 nice_weight(const struct task_struct *p)
{
	return clamp(p->scx.weight, NICE_WEIGHT_MIN, NICE_WEIGHT_MAX);
}

/* What the task weighs beside others of its class, by nice value and by the cpu.weight of its cgroups. */
static __in_line u64 task_weight(struct task_struct *p, const struct schedctl_task *t)
{
	return group_count(p, t->class, t->counted ?: 100, 0);
}

/* --- Matching --------------------------------------------------------------------------------------------------------- */

#if MATCHES

struct schedctl_match {
	u64 comm[2];
	u64 by_comm[CLASS_WORDS]; /* classes with a glob that fits */
	u64 by_uid[CLASS_WORDS];
	u64 by_cgroup[CLASS_WORDS];
#if NR_TGID_RULES
	u64 by_tgid[CLASS_WORDS];
	u32 tgid;
#endif
	u32 uid;
	u32 class;
};

static __in_line bool class_in(const u64 *words, u64 class)
{
	return words[class / 64] >> (class % 64) & 1;
}

#endif

#if NR_COMM_RULES

static __in_line char comm_char(u64 low, u64 high, u32 at)
{
	return (at < 8 ? low >> 8 * at : high >> 8 * (at - 8)) & 0xff;
}

/* 1 if equal, without a branch: clang 19 would make one of each compare, and the BPF verifier walk 2^16 paths. */
static __in_line u32 equal(u8 a, u8 b)
{
	u32 difference = a ^ b;

	asm volatile("" : "+r"(difference));
	return (difference - 1) >> 31;
}

/*
 * Does row `rule` of comm_rules fit the name in `low` and `high`? `fits` has bit i set when the pattern so far fits the
 * first i characters, so that a star needs no going back and every path is 16 steps long.
 */
static __in_line u32 glob_fits(u64 rule, u64 low, u64 high)
{
	u32 length = 0, fits = 1;

	rule = bounded(rule, NR_COMM_RULES);
	for (u32 i = 0; i < COMM_LEN; i++)
		length += comm_char(low, high, i) != 0;
	for (u32 i = 0; i < COMM_LEN; i++) {
		char wanted = comm_rules[rule].glob[i];
		u32 same = 0;

		if (!wanted)
			break;
		if (wanted == '*') {
			fits |= fits << 1;
			fits |= fits << 2;
			fits |= fits << 4;
			fits |= fits << 8;
			continue;
		}
		for (u32 k = 0; k < COMM_LEN; k++) {
			char c = comm_char(low, high, k);

			same |= ((1 - equal(c, 0)) & (equal(c, wanted) | equal(wanted, '?'))) << k;
		}
		fits = (fits & same) << 1;
	}
	return fits >> length & 1;
}

/* A global function: the BPF verifier looks at it once, not at each call. */
__noinline int comm_fits(u64 rule, u64 low, u64 high)
{
	return glob_fits(rule, low, high);
}

static long match_comm(u64 i, struct schedctl_match *m)
{
	u64 rule = bounded(i, NR_COMM_RULES);
	u64 class = bounded(comm_rules[rule].class, NR_CLASSES);

	if (comm_fits(rule, m->comm[0], m->comm[1]))
		m->by_comm[class / 64] |= 1ULL << (class % 64);
	return 0;
}

#endif

#if NR_UID_RULES

static long match_uid(u64 i, struct schedctl_match *m)
{
	u64 rule = bounded(i, NR_UID_RULES);
	u64 class = bounded(uid_rules[rule].class, NR_CLASSES);

	if (uid_rules[rule].uid == m->uid)
		m->by_uid[class / 64] |= 1ULL << (class % 64);
	return 0;
}

#endif

#if NR_TGID_RULES

static long match_tgid(u64 i, struct schedctl_match *m)
{
	u64 rule = bounded(i, NR_TGID_RULES);
	u64 class = bounded(tgid_rules[rule].class, NR_CLASSES);

	if (tgid_rules[rule].tgid == m->tgid)
		m->by_tgid[class / 64] |= 1ULL << (class % 64);
	return 0;
}

#endif

#if MATCH_CGROUPS

/* Collect the classes of the task's cgroup and of the cgroups around it. */
static __always_inline void match_cgroup(struct task_struct *p, struct schedctl_match *m)
{
	struct cgroup *cgroup = p->cgroups->dfl_cgrp;

	for (u32 i = 0; i < CGROUP_DEPTH && cgroup; i++) {
		struct cgroup_subsys_state *parent = cgroup->self.parent;
		u64 id = cgroup->kn->id;
		struct schedctl_cgroup *row = bpf_map_lookup_elem(&schedctl_cgroups, &id);

		for (u32 w = 0; row && w < CLASS_WORDS; w++)
			m->by_cgroup[w] |= row->classes[w];
		cgroup = parent ? parent->cgroup : NULL;
	}
}

#endif

#if MATCHES

/* Has the task all that the class needs? */
static __in_line bool class_fits(u64 class, const struct schedctl_match *m)
{
	bool fits = true;

	if (classes[class].needs & MATCH_COMM)
		fits &= class_in(m->by_comm, class);
	if (classes[class].needs & MATCH_UID)
		fits &= class_in(m->by_uid, class);
	if (classes[class].needs & MATCH_CGROUP)
		fits &= class_in(m->by_cgroup, class);
#if NR_TGID_RULES
	if (classes[class].needs & MATCH_TGID)
		fits &= class_in(m->by_tgid, class);
#endif
	return fits;
}

/* The first class, in order of number, that fits. */
static long first_match(u64 i, struct schedctl_match *m)
{
	u64 class = bounded(i + 1, NR_CLASSES);

	if (class != CLASS_OTHERS && !class_fits(class, m))
		return 0;
	m->class = class;
	return 1;
}

/* What the task was matched in: its cgroup, and how often the table of cgroups has changed, plus 1 (0: never matched). */
static __always_inline void match_place(struct task_struct *p, u64 *cgroup, u64 *generation)
{
#if MATCH_CGROUPS
	u32 zero = 0;
	struct schedctl_control *control = bpf_map_lookup_elem(&schedctl_control, &zero);

	*cgroup = p->cgroups->dfl_cgrp->kn->id;
	*generation = control ? control->generation + 1 : 1;
#else
	*cgroup = 0;
	*generation = 1;
#endif
}

/* Find the class anew. */
static __always_inline u32 match_class(struct task_struct *p, struct schedctl_match *m)
{
#if NR_COMM_RULES
	bpf_loop(NR_COMM_RULES, match_comm, m, 0);
#endif
#if NR_UID_RULES
	bpf_loop(NR_UID_RULES, match_uid, m, 0);
#endif
#if NR_TGID_RULES
	m->tgid = p->tgid;
	bpf_loop(NR_TGID_RULES, match_tgid, m, 0);
#endif
#if MATCH_CGROUPS
	match_cgroup(p, m);
#endif
	bpf_loop(NR_CLASSES, first_match, m, 0);
	return m->class;
}

/* Is that what the task was matched by? Else it is from now on. */
static __in_line bool match_stands(struct schedctl_task *t, const struct schedctl_match *m, u64 cgroup, u64 generation)
{
	if (t->comm[0] == m->comm[0] && t->comm[1] == m->comm[1] && t->uid == m->uid && t->cgroup == cgroup &&
	    t->generation == generation)
		return true;
	t->comm[0] = m->comm[0];
	t->comm[1] = m->comm[1];
	t->uid = m->uid;
	t->cgroup = cgroup;
	t->generation = generation;
	return false;
}

/* The task has been matched: count it, also in the rows of its cgroups. True when it is in another class than before. */
static __in_line bool match_counts(struct task_struct *p, struct schedctl_task *t, u32 class)
{
	struct schedctl_stats *stats = class_stats(class);
	u32 old = t->class;

	t->class = class;
	if (stats)
		stats->matches++;
	if (class == old)
		return false;
	group_count(p, old, t->counted, -t->counted);
	group_count(p, class, t->counted, t->counted);
	return true;
}

/* Match the task again when its name, user or cgroup, or the table of cgroups, changed. True when its class did. */
static __noinline bool classify(struct task_struct *p, struct schedctl_task *t)
{
	struct schedctl_match m = { .uid = p->cred->uid.val, .class = CLASS_OTHERS };
	u64 cgroup, generation;

	bpf_probe_read_kernel(m.comm, sizeof(m.comm), p->comm);
	match_place(p, &cgroup, &generation);
	if (match_stands(t, &m, cgroup, generation))
		return false;
	return match_counts(p, t, match_class(p, &m));
}

#else

static __noinline bool classify(struct task_struct *p, struct schedctl_task *t)
{
	return false;
}

#endif

/* --- Accounting ------------------------------------------------------------------------------------------------------- */

/* ops.runnable: the task begins to wait. */
static __always_inline void account_runnable(struct task_struct *p, struct schedctl_task *t, u64 now)
{
	u32 nice = nice_weight(p);

	t->runnable_at = now;
	group_count(p, t->class, nice, nice - t->counted);
	t->counted = nice;
}

/* ops.quiescent: it sleeps, ends, leaves for another policy, or moves to another cgroup and is runnable again after. */
static __in_line void account_quiescent(struct task_struct *p)
{
	struct schedctl_task *t = task_record(p);

	if (!t)
		return;
	group_count(p, t->class, t->counted, -t->counted);
	t->counted = 0;
}

/* How long the task has waited since it woke; 0 for one that has not slept since it last ran. */
static __in_line u64 task_wait(const struct schedctl_task *t)
{
	return t->runnable_at ? minus(bpf_ktime_get_ns(), t->runnable_at) : 0;
}

/* This CPU has decided what runs. */
static __in_line void heartbeat(u64 now)
{
	u32 zero = 0;
	struct schedctl_heartbeat *beat = bpf_map_lookup_elem(&schedctl_heartbeat, &zero);

	if (!beat)
		return;
	beat->decisions++;
	beat->last_ns = now;
}

/* ops.running: the task has a CPU. */
static __in_line void account_running(struct schedctl_task *t, u64 now)
{
	struct schedctl_stats *stats = class_stats(t->class);

	heartbeat(now);
	t->started_at = now;
	if (!stats)
		return;
	stats->runs++;
	stats->direct += t->direct;
	if (!t->runnable_at)
		return;
	stats->wakeups++;
	stats->wait_ns += minus(now, t->runnable_at);
	stats->wait_max_ns = max(stats->wait_max_ns, minus(now, t->runnable_at));
	t->runnable_at = 0;
}

/*
 * The time that the task has had its CPU since it was last settled, in nanoseconds, by the clock: what is left of the
 * slice does not say, for the kernel refills it. In ops.dispatch for a task that may go on, and through account_stopping.
 */
static __noinline u64 account_settle(struct schedctl_task *t, u64 now)
{
	struct schedctl_stats *stats = class_stats(t->class);
	u64 delta = t->started_at ? minus(now, t->started_at) : 0;

	t->started_at = now;
	t->burst_ns += delta;
	if (stats)
		stats->runtime_ns += delta;
	return min(delta, MAX_DELTA);
}

/* ops.stopping: settle, and end the burst of a task that goes to sleep (`runnable` is false). */
static __in_line u64 account_stopping(struct schedctl_task *t, u64 now, bool runnable)
{
	u64 delta = account_settle(t, now);

	t->started_at = 0;
	if (!runnable) {
		t->burst_avg = t->burst_avg ? (3 * t->burst_avg + t->burst_ns) / 4 : t->burst_ns;
		t->burst_ns = 0;
	}
	return delta;
}

/* ops.exit: keep why. The maps outlive the scheduler as long as somebody holds them or they are pinned. */
static __always_inline void record_exit(struct scx_exit_info *info)
{
	u32 zero;
	struct schedctl_exit *record;
	char *dump;

	/* Unwind tables, which come with -g, stay out of the object: nobody unwinds a BPF program. */
	asm volatile(".cfi_sections\n%0 = 0" : "=r"(zero));
	record = bpf_map_lookup_elem(&schedctl_exit, &zero);
	dump = bpf_map_lookup_elem(&schedctl_exit_dump, &zero);
	if (!record)
		return;
	bpf_probe_read_kernel_str(record->reason, sizeof(record->reason), info->reason);
	bpf_probe_read_kernel_str(record->message, sizeof(record->message), info->msg);
	if (dump && info->dump)
		bpf_probe_read_kernel_str(dump, DUMP_LEN, info->dump);
	record->code = info->exit_code;
	record->kind = info->kind;
}

#endif
