/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Looks into DSQs that are ordered by time: who is first, and since when. Global functions, which the BPF verifier looks
 * at once: inlined in a loop they would cost it 100 times the work.
 */
#ifndef SCHEDCTL_DSQ_BPF_H
#define SCHEDCTL_DSQ_BPF_H

#define DSQ_PEEKS 8 /* tasks looked at for the first that may run on a CPU */

/* Does a task wait in the DSQ that may run on `cpu` and comes before `key`, or with it? Looks at DSQ_PEEKS tasks. */
__noinline int dsq_head_waits(u64 dsq_id, s32 cpu, u64 key)
{
	struct bpf_iter_scx_dsq it;
	int waits = 0;

	bpf_iter_scx_dsq_new(&it, dsq_id, 0);
#pragma unroll 1
	for (u32 i = 0; i < DSQ_PEEKS; i++) {
		struct task_struct *p = bpf_iter_scx_dsq_next(&it);

		if (!p)
			break;
		if (bpf_cpumask_test_cpu(cpu, p->cpus_ptr)) {
			waits = !vtime_before(key, p->scx.dsq_vtime);
			break;
		}
	}
	bpf_iter_scx_dsq_destroy(&it);
	return waits;
}

/* How long the first task of a DSQ that is ordered by the time of arrival has waited, in nanoseconds; 0 if it is empty. */
__noinline u64 dsq_oldest_ns(u64 dsq_id, u64 now)
{
	struct bpf_iter_scx_dsq it;
	struct task_struct *p;
	u64 waited = 0;

	bpf_iter_scx_dsq_new(&it, dsq_id, 0);
	p = bpf_iter_scx_dsq_next(&it);
	if (p)
		waited = minus(now, p->scx.dsq_vtime);
	bpf_iter_scx_dsq_destroy(&it);
	return waited;
}

#endif
