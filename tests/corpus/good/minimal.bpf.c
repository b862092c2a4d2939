/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * No operation but the record of its end: the kernel's defaults make it a global FIFO.
 */
#include "schedctl_kernel.bpf.h"

char _license[] SEC("license") = "GPL";

u64 exit_kind; /* why it ended; 0 while it runs */

void BPF_STRUCT_OPS(minimal_exit, struct scx_exit_info *info)
{
	exit_kind = info->kind;
}

SEC(".struct_ops.link")
struct sched_ext_ops minimal_ops = {
	.exit = (void *)minimal_exit,
	.timeout_ms = 5000,
	.name = "minimal",
};
