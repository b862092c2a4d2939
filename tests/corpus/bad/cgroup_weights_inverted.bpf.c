/* expect: stage=liveness rules=liveness/cgroup-shares,liveness/stall,liveness/stuck class=weights */
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A heavy cgroup is charged more, squared, where it should be less.
 */
#include "schedctl_kernel.bpf.h"

char _license[] SEC("license") = "GPL";

#define SLICE_NS 5000000ULL

u64 exit_kind; /* why it ended; 0 while it runs */

struct scx_cgroup_init_args {
	u32 weight;
} __attribute__((preserve_access_index));

/* More operations than the library's own table has; libbpf matches the members by name and drops the suffix. */
struct sched_ext_ops___more {
	s32 (*select_cpu)(struct task_struct *p, s32 prev_cpu, u64 wake_flags);
	void (*enqueue)(struct task_struct *p, u64 enq_flags);
	void (*dispatch)(s32 cpu, struct task_struct *prev);
	void (*running)(struct task_struct *p);
	void (*stopping)(struct task_struct *p, bool runnable);
	void (*cpu_release)(s32 cpu, struct scx_cpu_release_args *args);
	s32 (*init_task)(struct task_struct *p, struct scx_init_task_args *args);
	void (*enable)(struct task_struct *p);
	s32 (*cgroup_init)(struct cgroup *cgrp, struct scx_cgroup_init_args *args);
	void (*cgroup_exit)(struct cgroup *cgrp);
	void (*cgroup_set_weight)(struct cgroup *cgrp, u32 weight);
	void (*cpu_online)(s32 cpu);
	void (*cpu_offline)(s32 cpu);
	s32 (*init)(void);
	void (*exit)(struct scx_exit_info *info);
	u64 flags;
	u32 timeout_ms;
	char name[128];
};

#define SHARED 1
#define LAG_NS 20000000ULL /* what a sleeper may claim of the past */

struct task_state {
	u64 vtime;
	u64 started_at;
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

static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)3;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, u64);
	__type(value, u32);
} cgroup_weights SEC(".maps");

/* Of the task and of its cgroup, together; a cgroup that is not known counts as 100. */
static __always_inline u64 weight_of(struct task_struct *p)
{
	u64 id = p->cgroups->dfl_cgrp->kn->id;
	u32 *weight = bpf_map_lookup_elem(&cgroup_weights, &id);
	u64 light = weight ? 10000 / max(*weight, 1) : 100;
	u64 both = (u64)p->scx.weight * light / 100 * light / 100;

	return max(both, 1);
}

s32 BPF_STRUCT_OPS(cgroup_weights_cgroup_init, struct cgroup *cgrp, struct scx_cgroup_init_args *args)
{
	u64 id = cgrp->kn->id;
	u32 weight = args->weight;

	bpf_map_update_elem(&cgroup_weights, &id, &weight, 0);
	return 0;
}

void BPF_STRUCT_OPS(cgroup_weights_cgroup_exit, struct cgroup *cgrp)
{
	u64 id = cgrp->kn->id;

	bpf_map_delete_elem(&cgroup_weights, &id);
}

void BPF_STRUCT_OPS(cgroup_weights_cgroup_set_weight, struct cgroup *cgrp, u32 weight)
{
	u64 id = cgrp->kn->id;

	bpf_map_update_elem(&cgroup_weights, &id, &weight, 0);
}

s32 BPF_STRUCT_OPS(cgroup_weights_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, 0);
	return cpu;
}

void BPF_STRUCT_OPS(cgroup_weights_enqueue, struct task_struct *p, u64 enq_flags)
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
	if (vtime_before(t->vtime, vtime_now - LAG_NS))
		t->vtime = vtime_now - LAG_NS;
	scx_bpf_dsq_insert_vtime(p, SHARED, SLICE_NS, t->vtime, enq_flags);
	kick_idle_cpu(p);
}

void BPF_STRUCT_OPS(cgroup_weights_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED);
}

void BPF_STRUCT_OPS(cgroup_weights_running, struct task_struct *p)
{
	struct task_state *t = state_of(p);

	if (!t)
		return;
	t->started_at = bpf_ktime_get_ns();
	if (vtime_before(vtime_now, t->vtime))
		vtime_now = t->vtime;
}

void BPF_STRUCT_OPS(cgroup_weights_stopping, struct task_struct *p, bool runnable)
{
	struct task_state *t = state_of(p);

	if (t)
		t->vtime += minus(bpf_ktime_get_ns(), t->started_at) * 100 / weight_of(p);
}

void BPF_STRUCT_OPS(cgroup_weights_enable, struct task_struct *p)
{
	struct task_state *t = state_of(p);

	if (t)
		t->vtime = vtime_now;
}

s32 BPF_STRUCT_OPS(cgroup_weights_init_task, struct task_struct *p, struct scx_init_task_args *args)
{
	return bpf_task_storage_get(&tasks, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE) ? 0 : -ENOMEM;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(cgroup_weights_init)
{
	return scx_bpf_create_dsq(SHARED, -1);
}

/* A higher class has taken the CPU: what waits in its local DSQ goes back to where other CPUs see it. */
void BPF_STRUCT_OPS(cgroup_weights_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

void BPF_STRUCT_OPS(cgroup_weights_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(cgroup_weights_cpu_offline, s32 cpu)
{
}

void BPF_STRUCT_OPS(cgroup_weights_exit, struct scx_exit_info *info)
{
	exit_kind = info->kind;
}

SEC(".struct_ops.link")
struct sched_ext_ops___more cgroup_weights_ops = {
	.cgroup_init = (void *)cgroup_weights_cgroup_init,
	.cgroup_exit = (void *)cgroup_weights_cgroup_exit,
	.cgroup_set_weight = (void *)cgroup_weights_cgroup_set_weight,
	.select_cpu = (void *)cgroup_weights_select_cpu,
	.enqueue = (void *)cgroup_weights_enqueue,
	.dispatch = (void *)cgroup_weights_dispatch,
	.running = (void *)cgroup_weights_running,
	.stopping = (void *)cgroup_weights_stopping,
	.enable = (void *)cgroup_weights_enable,
	.init_task = (void *)cgroup_weights_init_task,
	.init = (void *)cgroup_weights_init,
	.cpu_release = (void *)cgroup_weights_cpu_release,
	.cpu_online = (void *)cgroup_weights_cpu_online,
	.cpu_offline = (void *)cgroup_weights_cpu_offline,
	.exit = (void *)cgroup_weights_exit,
	.timeout_ms = 5000,
	.name = "cgroup_weights",
};
