/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A queue for each cgroup; a CPU serves one for a while, then the one that has had least for its weight. */
#include <scx/common.bpf.h>

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

static u64 cvtime_now;

struct cg_ctx {
	u64 vtime;
	u32 weight;
};

struct {
	__uint(type, BPF_MAP_TYPE_CGRP_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct cg_ctx);
} cg_ctxs SEC(".maps");

struct best {
	u64 id;
	u64 vtime;
	bool found;
};

static struct cg_ctx *lookup(struct cgroup *cgrp)
{
	struct cg_ctx *cgc = bpf_cgrp_storage_get(&cg_ctxs, cgrp, 0, 0);

	if (!cgc)
		scx_bpf_error("no context of cgroup %llu", cgrp->kn->id);
	return cgc;
}

s32 BPF_STRUCT_OPS(cg_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &idle);

	if (idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SCX_SLICE_DFL, 0);
	return cpu;
}

void BPF_STRUCT_OPS(cg_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct cgroup *cgrp = scx_bpf_task_cgroup(p);
	struct cg_ctx *cgc = lookup(cgrp);

	if (!cgc)
		goto out;
	if (time_before(cgc->vtime, cvtime_now - SCX_SLICE_DFL))
		cgc->vtime = cvtime_now - SCX_SLICE_DFL;
	scx_bpf_dsq_insert(p, cgrp->kn->id, SCX_SLICE_DFL, enq_flags);
out:
	bpf_cgroup_release(cgrp);
}

void BPF_STRUCT_OPS(cg_dispatch, s32 cpu, struct task_struct *prev)
{
	struct best best = { .found = false };
	int tries;

	bpf_for(tries, 0, 8) {
		bpf_for_each_map_elem(&cg_ids, pick_least, &best, 0);
		if (!best.found)
			break;
		if (scx_bpf_dsq_move_to_local(best.id))
			return;
	}
}

s32 BPF_STRUCT_OPS_SLEEPABLE(cg_cgroup_init, struct cgroup *cgrp, struct scx_cgroup_init_args *args)
{
	struct cg_ctx *cgc = bpf_cgrp_storage_get(&cg_ctxs, cgrp, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (!cgc)
		return -ENOMEM;
	cgc->weight = args->weight;
	cgc->vtime = cvtime_now;
	return scx_bpf_create_dsq(cgrp->kn->id, -1);
}

void BPF_STRUCT_OPS_SLEEPABLE(cg_cgroup_exit, struct cgroup *cgrp)
{
	scx_bpf_destroy_dsq(cgrp->kn->id);
}

void BPF_STRUCT_OPS(cg_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

SCX_OPS_DEFINE(cg_ops,
	       .select_cpu = (void *)cg_select_cpu, .enqueue = (void *)cg_enqueue, .dispatch = (void *)cg_dispatch,
	       .cgroup_init = (void *)cg_cgroup_init, .cgroup_exit = (void *)cg_cgroup_exit, .exit = (void *)cg_exit,
	       .name = "cg");
