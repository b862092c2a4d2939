/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Virtual time with credit for sleep: what a task slept, up to a limit, puts it before those that compute.
 */
#include "schedctl_kernel.bpf.h"

char _license[] SEC("license") = "GPL";

#define SLICE_NS 5000000ULL

u64 exit_kind; /* why it ended; 0 while it runs */

#define SHARED 1
#define CREDIT_MAX_NS 30000000ULL

struct task_state {
	u64 vtime;
	u64 started_at;
	u64 slept_at;
	u64 credit;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct task_state);
} tasks SEC(".maps");

static __always_inline struct task_state *state_of(struct task_struct *p)
{
	return bpf_task_storage_get(&tasks, p, NULL, 0);
}

static u64 vtime_now;

/* More operations than the library's own table has; libbpf matches the members by name and drops the suffix. */
struct sched_ext_ops___more {
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

s32 BPF_STRUCT_OPS(sleep_credit_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(sleep_credit_quiescent, struct task_struct *p, u64 deq_flags)
{
	struct task_state *t = state_of(p);

	if (t)
		t->slept_at = bpf_ktime_get_ns();
}

void BPF_STRUCT_OPS(sleep_credit_runnable, struct task_struct *p, u64 enq_flags)
{
	struct task_state *t = state_of(p);

	if (t)
		t->credit = t->slept_at ? min(minus(bpf_ktime_get_ns(), t->slept_at), CREDIT_MAX_NS) : 0;
}

void BPF_STRUCT_OPS(sleep_credit_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct task_state *t = state_of(p);

	if (is_cpu_kthread(p)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, enq_flags);
		return;
	}
	if (!t) {
		scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SLICE_NS, enq_flags);
		return;
	}
	if (vtime_before(t->vtime, vtime_now - t->credit))
		t->vtime = vtime_now - t->credit;
	scx_bpf_dsq_insert_vtime(p, SHARED, SLICE_NS, t->vtime, enq_flags);
	t->credit = 0;
	kick_idle_cpu(p);
}

void BPF_STRUCT_OPS(sleep_credit_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED);
}

void BPF_STRUCT_OPS(sleep_credit_running, struct task_struct *p)
{
	struct task_state *t = state_of(p);

	if (!t)
		return;
	t->started_at = bpf_ktime_get_ns();
	if (vtime_before(vtime_now, t->vtime))
		vtime_now = t->vtime;
}

void BPF_STRUCT_OPS(sleep_credit_stopping, struct task_struct *p, bool runnable)
{
	struct task_state *t = state_of(p);

	if (t)
		t->vtime += minus(bpf_ktime_get_ns(), t->started_at) * 100 / max(p->scx.weight, 1);
}

void BPF_STRUCT_OPS(sleep_credit_enable, struct task_struct *p)
{
	struct task_state *t = state_of(p);

	if (t)
		t->vtime = vtime_now;
}

s32 BPF_STRUCT_OPS(sleep_credit_init_task, struct task_struct *p, struct scx_init_task_args *args)
{
	return bpf_task_storage_get(&tasks, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE) ? 0 : -ENOMEM;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(sleep_credit_init)
{
	return scx_bpf_create_dsq(SHARED, -1);
}

/* A higher class has taken the CPU: what waits in its local DSQ goes back to where other CPUs see it. */
void BPF_STRUCT_OPS(sleep_credit_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

void BPF_STRUCT_OPS(sleep_credit_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(sleep_credit_cpu_offline, s32 cpu)
{
}

void BPF_STRUCT_OPS(sleep_credit_exit, struct scx_exit_info *info)
{
	exit_kind = info->kind;
}

SEC(".struct_ops.link")
struct sched_ext_ops___more sleep_credit_ops = {
	.select_cpu = (void *)sleep_credit_select_cpu,
	.quiescent = (void *)sleep_credit_quiescent,
	.runnable = (void *)sleep_credit_runnable,
	.enqueue = (void *)sleep_credit_enqueue,
	.dispatch = (void *)sleep_credit_dispatch,
	.running = (void *)sleep_credit_running,
	.stopping = (void *)sleep_credit_stopping,
	.enable = (void *)sleep_credit_enable,
	.init_task = (void *)sleep_credit_init_task,
	.init = (void *)sleep_credit_init,
	.cpu_release = (void *)sleep_credit_cpu_release,
	.cpu_online = (void *)sleep_credit_cpu_online,
	.cpu_offline = (void *)sleep_credit_cpu_offline,
	.exit = (void *)sleep_credit_exit,
	.timeout_ms = 5000,
	.name = "sleep_credit",
};
