/* expect: stage=load rules=load/* or stage=build rules=build/rejected or stage=liveness rules=liveness/attach,liveness/runtime-error,liveness/scx-error class=memory-safety */
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ops.init_task hands out an address as its result.
 */
#include "schedctl_kernel.bpf.h"

char _license[] SEC("license") = "GPL";

#define SLICE_NS 5000000ULL

u64 exit_kind; /* why it ended; 0 while it runs */

#define SHARED 1
#define SLICE_MIN_NS 1000000ULL
#define SLICE_MAX_NS 16000000ULL

struct task_state {
	u64 slice;
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

static __always_inline u64 slice_of(struct task_struct *p)
{
	struct task_state *t = state_of(p);

	return t ? clamp(t->slice, SLICE_MIN_NS, SLICE_MAX_NS) : SLICE_NS;
}

s32 BPF_STRUCT_OPS(adaptive_slices_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);

	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_of(p), 0);
	return cpu;
}

void BPF_STRUCT_OPS(adaptive_slices_enqueue, struct task_struct *p, u64 enq_flags)
{
	if (is_cpu_kthread(p)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE_NS, enq_flags);
		return;
	}
	scx_bpf_dsq_insert(p, SHARED, slice_of(p), enq_flags);
	kick_idle_cpu(p);
}

void BPF_STRUCT_OPS(adaptive_slices_dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(SHARED);
}

void BPF_STRUCT_OPS(adaptive_slices_stopping, struct task_struct *p, bool runnable)
{
	struct task_state *t = state_of(p);

	if (t)
		t->slice = clamp(runnable ? t->slice * 2 : t->slice / 2, SLICE_MIN_NS, SLICE_MAX_NS);
}

s32 BPF_STRUCT_OPS(adaptive_slices_init_task, struct task_struct *p, struct scx_init_task_args *args)
{
	return (s32)(u64)bpf_task_storage_get(&tasks, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(adaptive_slices_init)
{
	return scx_bpf_create_dsq(SHARED, -1);
}

/* A higher class has taken the CPU: what waits in its local DSQ goes back to where other CPUs see it. */
void BPF_STRUCT_OPS(adaptive_slices_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

void BPF_STRUCT_OPS(adaptive_slices_cpu_online, s32 cpu)
{
	scx_bpf_kick_cpu(cpu, 0);
}

void BPF_STRUCT_OPS(adaptive_slices_cpu_offline, s32 cpu)
{
}

void BPF_STRUCT_OPS(adaptive_slices_exit, struct scx_exit_info *info)
{
	exit_kind = info->kind;
}

SEC(".struct_ops.link")
struct sched_ext_ops adaptive_slices_ops = {
	.select_cpu = (void *)adaptive_slices_select_cpu,
	.enqueue = (void *)adaptive_slices_enqueue,
	.dispatch = (void *)adaptive_slices_dispatch,
	.stopping = (void *)adaptive_slices_stopping,
	.init_task = (void *)adaptive_slices_init_task,
	.init = (void *)adaptive_slices_init,
	.cpu_release = (void *)adaptive_slices_cpu_release,
	.cpu_online = (void *)adaptive_slices_cpu_online,
	.cpu_offline = (void *)adaptive_slices_cpu_offline,
	.exit = (void *)adaptive_slices_exit,
	.timeout_ms = 5000,
	.name = "adaptive_slices",
};
