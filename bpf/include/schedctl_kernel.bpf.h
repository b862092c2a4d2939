/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a sched_ext scheduler needs of the kernel and of BPF, and nothing else.
 *
 * There is no vmlinux.h here: the structs below list only the fields that are read, and `preserve_access_index` makes
 * libbpf find their offsets on the kernel that loads the object (CO-RE). A field must keep the kernel's kind (an int
 * for an enum fails to relocate) and, in a union of versions, its oldest name. Kfuncs are weak, so that one object
 * carries the names of every kernel since 6.12 and each call takes the one that is there; libbpf >= 1.2 and
 * clang >= 17 resolve the missing ones to 0 and the BPF verifier drops the calls to them.
 *
 * No file outside this folder is included: neither libbpf's headers nor the system's.
 */
#ifndef SCHEDCTL_KERNEL_BPF_H
#define SCHEDCTL_KERNEL_BPF_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed int s32;
typedef signed long long s64;
typedef _Bool bool;

#define true 1
#define false 0
#define NULL ((void *)0)

#define EINVAL 22
#define ENOMEM 12

/* --- BPF: sections, maps, helpers ---------------------------------------------------------------------------- */

#define SEC(name) __attribute__((section(name), used))
#define __ksym __attribute__((section(".ksyms")))
#define __weak __attribute__((weak))
#define __noinline __attribute__((noinline))
#define __always_inline inline __attribute__((always_inline))
/*
 * For what is a line to its caller: its instructions count as the caller's, which keeps a fifth of the object away. Never
 * where a field of a kernel's struct is read or written: without debug information there is no CO-RE relocation either,
 * and the offset would be that of the structs in this file.
 */
#define __in_line inline __attribute__((always_inline, nodebug))
#define __arg_trusted __attribute__((btf_decl_tag("arg:trusted"))) /* 6.8: a kernel's struct for a global function */
#define field_exists(field) __builtin_preserve_field_info(field, 2) /* has the kernel that loads the object this field? */
#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

/* Fields of a BTF-defined map: libbpf reads the numbers from the types. */
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name

enum bpf_map_kind {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_TASK_STORAGE = 29,
};

#define BPF_F_NO_PREALLOC 1
#define BPF_LOCAL_STORAGE_GET_F_CREATE 1

struct task_struct;

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
static u32 (*const bpf_get_smp_processor_id)(void) = (void *)8;
static long (*const bpf_probe_read_kernel)(void *to, u32 size, const void *from) = (void *)113;
static long (*const bpf_probe_read_kernel_str)(void *to, u32 size, const void *from) = (void *)115;
static void *(*const bpf_task_storage_get)(void *map, struct task_struct *p, void *value, u64 flags) = (void *)156;
static long (*const bpf_loop)(u32 times, void *callback, void *context, u64 flags) = (void *)181;

/*
 * A struct_ops program gets one array of 8-byte arguments. BPF_STRUCT_OPS writes the entry point that unpacks it, so
 * that an operation is written with the arguments the kernel documents. The conversion of a u64 to a pointer is the
 * point here, hence the silenced warning.
 */
#define SCHEDCTL_UNPACK0()
#define SCHEDCTL_UNPACK1(a) (void *)args[0]
#define SCHEDCTL_UNPACK2(a, b) (void *)args[0], (void *)args[1]
#define SCHEDCTL_UNPACK3(a, b, c) (void *)args[0], (void *)args[1], (void *)args[2]
#define SCHEDCTL_PICK(_0, _1, _2, _3, chosen, ...) chosen
#define SCHEDCTL_UNPACK(...)                                                                                         \
	SCHEDCTL_PICK(_, ##__VA_ARGS__, SCHEDCTL_UNPACK3, SCHEDCTL_UNPACK2, SCHEDCTL_UNPACK1, SCHEDCTL_UNPACK0)      \
	(__VA_ARGS__)

#define SCHEDCTL_OP(section, name, ...)                                                                              \
	name(u64 *args);                                                                                             \
	static __always_inline typeof(name(NULL)) name##_body(__VA_ARGS__);                                          \
	SEC(section) typeof(name(NULL)) name(u64 *args)                                                              \
	{                                                                                                            \
		_Pragma("GCC diagnostic push")                                                                       \
		_Pragma("GCC diagnostic ignored \"-Wint-conversion\"")                                               \
		_Pragma("GCC diagnostic ignored \"-Wunused-parameter\"")                                             \
		return name##_body(SCHEDCTL_UNPACK(__VA_ARGS__));                                                    \
		_Pragma("GCC diagnostic pop")                                                                        \
	}                                                                                                            \
	static __always_inline typeof(name(NULL)) name##_body(__VA_ARGS__)

#define BPF_STRUCT_OPS(name, ...) SCHEDCTL_OP("struct_ops/" #name, name, ##__VA_ARGS__)
#define BPF_STRUCT_OPS_SLEEPABLE(name, ...) SCHEDCTL_OP("struct_ops.s/" #name, name, ##__VA_ARGS__)

/* --- The kernel's types, as far as they are read ---------------------------------------------------------------- */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct cgroup;

struct cpumask {
	unsigned long bits[1]; /* not read: libbpf compares kfunc arguments by kind, and a forward declaration is none */
};

typedef struct {
	u32 val;
} kuid_t;

struct cred {
	kuid_t uid;
};

struct kernfs_node {
	u64 id; /* what user space sees as the inode number of the cgroup's folder */
};

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
	int id; /* among those of its controller: 1 for the root, 0 for an autogroup */
};

struct task_group { /* a cgroup with the CPU controller */
	struct cgroup_subsys_state css;
	struct task_group *parent;
	unsigned long shares; /* of cpu.weight 100: 1 << 20 */
};

struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
};

struct css_set {
	struct cgroup *dfl_cgrp; /* in the cgroup v2 hierarchy */
};

struct sched_ext_entity {
	u32 flags;
	u32 weight; /* of the nice value: 1 to 10000, 100 for nice 0 */
	u64 slice;
	u64 dsq_vtime; /* the key it waits by in a DSQ ordered by time */
};

struct task_struct {
	u32 flags;
	struct sched_ext_entity scx;
	const struct cpumask *cpus_ptr;
	int nr_cpus_allowed;
	int tgid; /* of the process, outside all PID namespaces */
	const struct cred *cred;
	char comm[16];
	struct css_set *cgroups;
	struct task_group *sched_task_group;
};

struct scx_init_task_args {
	bool fork;
};

struct scx_cpu_release_args;

enum scx_exit_kind { SCX_EXIT_NONE, SCX_EXIT_DONE };

struct scx_exit_info {
	enum scx_exit_kind kind;
	s64 exit_code;
	const char *reason;
	char *msg;
	char *dump; /* of queues and tasks, for errors; 32 KiB by default */
};

#pragma clang attribute pop

#define PF_KTHREAD 0x00200000 /* task_struct.flags: a kernel thread; same value in every kernel since 2.6 */

/*
 * The operations used, by the kernel's names; libbpf matches members by name, and zeroes the ones that are not here.
 * cpu_release moved within the kernel's struct in 7.0 and is deprecated there, and still called.
 */
struct sched_ext_ops {
	s32 (*select_cpu)(struct task_struct *p, s32 prev_cpu, u64 wake_flags);
	void (*enqueue)(struct task_struct *p, u64 enq_flags);
	void (*dispatch)(s32 cpu, struct task_struct *prev);
	void (*runnable)(struct task_struct *p, u64 enq_flags);
	void (*running)(struct task_struct *p);
	void (*stopping)(struct task_struct *p, bool runnable);
	void (*quiescent)(struct task_struct *p, u64 deq_flags);
	void (*cpu_release)(s32 cpu, struct scx_cpu_release_args *args);
	s32 (*init_task)(struct task_struct *p, struct scx_init_task_args *args);
	void (*enable)(struct task_struct *p);
	void (*cpu_online)(s32 cpu);
	void (*cpu_offline)(s32 cpu);
	s32 (*init)(void);
	void (*exit)(struct scx_exit_info *info);
	u64 flags;
	u32 timeout_ms;
	char name[128];
};

/* Literal values of the kernel's ABI with BPF schedulers: enums of a kernel without sched_ext cannot be relocated. */
#define SCX_DSQ_LOCAL 0x8000000000000002ULL
#define SCX_DSQ_GLOBAL 0x8000000000000001ULL
#define SCX_DSQ_LOCAL_ON 0xc000000000000000ULL /* | CPU */
#define SCX_WAKE_SYNC 0x10 /* the waker says that it is about to sleep */
#define SCX_ENQ_WAKEUP 1ULL
#define SCX_ENQ_PREEMPT (1ULL << 32)
#define SCX_TASK_QUEUED 1 /* sched_ext_entity.flags: runnable, not on its way to sleep */
#define SCX_KICK_IDLE 1ULL
#define SCX_KICK_PREEMPT 2ULL
#define SCX_PICK_IDLE_CORE 1ULL

/* --- Kfuncs --------------------------------------------------------------------------------------------------------- */

struct bpf_iter_scx_dsq {
	u64 opaque[6];
};

s32 scx_bpf_create_dsq(u64 dsq_id, s32 node) __ksym;
s32 scx_bpf_dsq_nr_queued(u64 dsq_id) __ksym;
s32 scx_bpf_select_cpu_dfl(struct task_struct *p, s32 prev_cpu, u64 wake_flags, bool *is_idle) __ksym;
s32 scx_bpf_pick_idle_cpu(const struct cpumask *allowed, u64 flags) __ksym;
const struct cpumask *scx_bpf_get_idle_cpumask(void) __ksym;
const struct cpumask *scx_bpf_get_idle_smtmask(void) __ksym; /* the CPUs of cores that are idle as a whole */
void scx_bpf_put_idle_cpumask(const struct cpumask *mask) __ksym;
const struct cpumask *scx_bpf_get_online_cpumask(void) __ksym;
void scx_bpf_put_cpumask(const struct cpumask *mask) __ksym;
bool scx_bpf_test_and_clear_cpu_idle(s32 cpu) __ksym;
void scx_bpf_kick_cpu(s32 cpu, u64 flags) __ksym;
u32 scx_bpf_nr_cpu_ids(void) __ksym;
s32 scx_bpf_task_cpu(const struct task_struct *p) __ksym;
int bpf_iter_scx_dsq_new(struct bpf_iter_scx_dsq *it, u64 dsq_id, u64 flags) __ksym;
struct task_struct *bpf_iter_scx_dsq_next(struct bpf_iter_scx_dsq *it) __ksym;
void bpf_iter_scx_dsq_destroy(struct bpf_iter_scx_dsq *it) __ksym;
bool bpf_cpumask_test_cpu(u32 cpu, const struct cpumask *mask) __ksym;

struct scx_bpf_dsq_insert_vtime_args { /* 6.19 */
	u64 dsq_id;
	u64 slice;
	u64 vtime;
	u64 enq_flags;
};

/* 6.13 renamed dispatch to dsq_insert and consume to dsq_move_to_local; 6.17 dropped the old names. 6.19 and 7.x added
 * second versions beside the 6.13 names, which 7.3 still has; they are the way on when those go.
 */
void scx_bpf_dsq_insert___v613(struct task_struct *p, u64 dsq_id, u64 slice, u64 enq_flags) __ksym __weak;
bool scx_bpf_dsq_insert___v2___v619(struct task_struct *p, u64 dsq_id, u64 slice, u64 enq_flags) __ksym __weak;
void scx_bpf_dispatch(struct task_struct *p, u64 dsq_id, u64 slice, u64 enq_flags) __ksym __weak;

void scx_bpf_dsq_insert_vtime___v613(struct task_struct *p, u64 dsq_id, u64 slice, u64 vtime,
				     u64 enq_flags) __ksym __weak;
bool __scx_bpf_dsq_insert_vtime(struct task_struct *p, struct scx_bpf_dsq_insert_vtime_args *args) __ksym __weak;
void scx_bpf_dispatch_vtime(struct task_struct *p, u64 dsq_id, u64 slice, u64 vtime, u64 enq_flags) __ksym __weak;

bool scx_bpf_dsq_move_to_local___v613(u64 dsq_id) __ksym __weak;
bool scx_bpf_dsq_move_to_local___v2___v71(u64 dsq_id, u64 enq_flags) __ksym __weak;
bool scx_bpf_consume(u64 dsq_id) __ksym __weak;

bool scx_bpf_task_set_slice(struct task_struct *p, u64 slice) __ksym __weak; /* 6.19; a plain store before */

u32 scx_bpf_reenqueue_local___v612(void) __ksym __weak;
void scx_bpf_reenqueue_local___v2___v70(void) __ksym __weak;

/* Put `p` at the end of DSQ `dsq_id` with `slice` nanoseconds to run. */
static __in_line void scx_bpf_dsq_insert(struct task_struct *p, u64 dsq_id, u64 slice, u64 enq_flags)
{
	if (scx_bpf_dsq_insert___v613)
		scx_bpf_dsq_insert___v613(p, dsq_id, slice, enq_flags);
	else if (scx_bpf_dsq_insert___v2___v619)
		scx_bpf_dsq_insert___v2___v619(p, dsq_id, slice, enq_flags);
	else
		scx_bpf_dispatch(p, dsq_id, slice, enq_flags); /* 6.12 */
}

/* Put `p` into DSQ `dsq_id` in order of `vtime`, smallest first. A DSQ is ordered by time or by arrival, never both. */
static __in_line void scx_bpf_dsq_insert_vtime(struct task_struct *p, u64 dsq_id, u64 slice, u64 vtime,
						     u64 enq_flags)
{
	if (scx_bpf_dsq_insert_vtime___v613) {
		scx_bpf_dsq_insert_vtime___v613(p, dsq_id, slice, vtime, enq_flags);
	} else if (__scx_bpf_dsq_insert_vtime) {
		struct scx_bpf_dsq_insert_vtime_args args = {
			.dsq_id = dsq_id, .slice = slice, .vtime = vtime, .enq_flags = enq_flags
		};

		__scx_bpf_dsq_insert_vtime(p, &args);
	} else {
		scx_bpf_dispatch_vtime(p, dsq_id, slice, vtime, enq_flags); /* 6.12 */
	}
}

/* Give this CPU the first task of DSQ `dsq_id` that may run on it. False when there is none. Only in ops.dispatch. */
static __in_line bool scx_bpf_dsq_move_to_local(u64 dsq_id)
{
	if (scx_bpf_dsq_move_to_local___v613)
		return scx_bpf_dsq_move_to_local___v613(dsq_id);
	if (scx_bpf_dsq_move_to_local___v2___v71)
		return scx_bpf_dsq_move_to_local___v2___v71(dsq_id, 0);
	return scx_bpf_consume(dsq_id); /* 6.12 */
}

/* Could the task that has the CPU go on? ops.dispatch is also given one that goes to sleep. */
static __always_inline bool could_go_on(const struct task_struct *prev)
{
	return prev && (prev->scx.flags & SCX_TASK_QUEUED);
}

/* Let the task that has this CPU have it for `slice` more. Only in ops.dispatch, for `prev`. */
static __always_inline void keep_running(struct task_struct *prev, u64 slice)
{
	if (scx_bpf_task_set_slice)
		scx_bpf_task_set_slice(prev, slice);
	else
		prev->scx.slice = slice;
}

/* Send the tasks of this CPU's local DSQ through ops.enqueue again: a higher class has taken the CPU from them. */
static __in_line void scx_bpf_reenqueue_local(void)
{
	if (scx_bpf_reenqueue_local___v612)
		scx_bpf_reenqueue_local___v612();
	else if (scx_bpf_reenqueue_local___v2___v70)
		scx_bpf_reenqueue_local___v2___v70();
}

/* --- Small helpers --------------------------------------------------------------------------------------------------- */

/* Virtual times wrap: compare their distance, never their values. */
static __in_line bool vtime_before(u64 a, u64 b)
{
	return (s64)(a - b) < 0;
}

static __in_line u64 min(u64 a, u64 b)
{
	return a < b ? a : b;
}

static __in_line u64 max(u64 a, u64 b)
{
	return a > b ? a : b;
}

static __in_line u64 clamp(u64 value, u64 low, u64 high)
{
	return min(max(value, low), high);
}

/* a - b, and 0 where that would be negative: all time here is unsigned. */
static __in_line u64 minus(u64 a, u64 b)
{
	return a > b ? a - b : 0;
}

/*
 * `index` when it is below `limit`, else 0. The BPF verifier must see the comparison on the very value that is used: the
 * asm before it keeps the compiler from dropping it (it may know the table's contents), the asm after it from deriving
 * the index by other means.
 */
static __in_line u64 bounded(u64 index, u64 limit)
{
	asm volatile("" : "+r"(index));
	if (index >= limit)
		index = 0;
	asm volatile("" : "+r"(index));
	return index;
}

/* A kernel thread bound to one CPU serves that CPU's hardware or work queues: it goes straight to its local DSQ. */
static __always_inline bool is_cpu_kthread(const struct task_struct *p)
{
	return (p->flags & PF_KTHREAD) && p->nr_cpus_allowed == 1;
}

/* Tasks that wait in the DSQ. */
static __in_line u64 dsq_length(u64 dsq_id)
{
	s32 length = scx_bpf_dsq_nr_queued(dsq_id);

	return length > 0 ? length : 0;
}

/* Wake an idle CPU that may run `p`, so that it looks at the shared DSQs. True when there was one. */
static __always_inline bool kick_idle_cpu(struct task_struct *p)
{
	s32 cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);

	if (cpu < 0)
		return false;
	scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
	return true;
}

#endif
