/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Shares by weight in one queue, idle CPUs at once; operations written without macros. */
typedef unsigned long long u64; typedef long long s64; typedef int s32; typedef _Bool bool;
#define SEC(name) __attribute__((section(name), used))

static u64 vtime_now;
const u64 SHARED = 0x10;
static const u64 SLICE = 5ULL * 1000 * 1000;

static inline bool before(u64 a, u64 b)
{
	return (s64)(a - b) < 0;
}

static u64 *started(struct task_struct *p)
{
	return bpf_task_storage_get(&starts, p, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
}

SEC("struct_ops/vt_select_cpu")
s32 vt_select_cpu(u64 *ctx)
{
	struct task_struct *p = (struct task_struct *)ctx[0];
	bool idle = 0;
	s32 cpu = scx_bpf_select_cpu_dfl(p, (s32)ctx[1], ctx[2], &idle);

	if (idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SLICE, 0);
	return cpu;
}

SEC("struct_ops/vt_enqueue")
void vt_enqueue(u64 *ctx)
{
	struct task_struct *p = (struct task_struct *)ctx[0];
	u64 vtime = p->scx.dsq_vtime;

	/* Whoever slept comes back with a claim on one slice. */
	if (before(vtime, vtime_now - SLICE))
		vtime = vtime_now - SLICE;
	scx_bpf_dsq_insert_vtime(p, SHARED, SLICE, vtime, ctx[1]);
}

SEC("struct_ops/vt_dispatch")
void vt_dispatch(u64 *ctx)
{
	scx_bpf_dsq_move_to_local(SHARED);
}

SEC("struct_ops/vt_running")
void vt_running(u64 *ctx)
{
	struct task_struct *p = (struct task_struct *)ctx[0];
	u64 *at = started(p);

	if (at)
		*at = bpf_ktime_get_ns();
	if (before(vtime_now, p->scx.dsq_vtime))
		vtime_now = p->scx.dsq_vtime;
}

SEC("struct_ops/vt_stopping")
void vt_stopping(u64 *ctx)
{
	struct task_struct *p = (struct task_struct *)ctx[0];
	u64 *at = started(p);

	if (!at)
		return;
	p->scx.dsq_vtime += (bpf_ktime_get_ns() - *at) * 100 / p->scx.weight;
}

SEC("struct_ops/vt_enable")
void vt_enable(u64 *ctx)
{
	struct task_struct *p = (struct task_struct *)ctx[0];

	p->scx.dsq_vtime = vtime_now;
}

SEC("struct_ops.s/vt_init")
s32 vt_init(u64 *ctx)
{
	return scx_bpf_create_dsq(SHARED, -1);
}

SEC("struct_ops/vt_exit")
void vt_exit(u64 *ctx)
{
	exit_seen = 1;
}

SEC(".struct_ops.link") struct sched_ext_ops vt_ops = {
	.select_cpu = (void *)vt_select_cpu, .enqueue = (void *)vt_enqueue, .dispatch = (void *)vt_dispatch,
	.running = (void *)vt_running, .stopping = (void *)vt_stopping, .enable = (void *)vt_enable,
	.init = (void *)vt_init, .exit = (void *)vt_exit, .name = "vt", .timeout_ms = 30000,
};
