/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The library of schedctl's schedulers. A scheduler says how many classes of tasks and how many queues it has, then
 * includes this file alone:
 *
 *     #define NR_CLASSES 3        // others (0) and two intents
 *     #define NR_QUEUES 3         // fair queues; several classes may share one
 *     #define NR_COMM_RULES 2     // rows of comm_rules, 0 for none
 *     #define NR_UID_RULES 0      // rows of uid_rules, 0 for none
 *     #define NR_TGID_RULES 1     // rows of tgid_rules; may be left out for none
 *     #define MATCH_CGROUPS 0     // 1 when a class matches by cgroup
 *     #include "schedctl.bpf.h"
 *
 * and defines the tables `classes`, `queues`, and, where their number is not 0, `comm_rules`, `uid_rules` and
 * `tgid_rules`.
 *
 *     schedctl_kernel.bpf.h   the kernel's types and kfuncs, from 6.12 on; BPF macros; small helpers
 *     schedctl_knob.bpf.h     numbers that user space changes while the scheduler runs
 *     schedctl_group.bpf.h    what a task weighs in its class, by the cpu.weight of its cgroups
 *     schedctl_task.bpf.h     what is kept for each task; which class it is in; accounting; counters; exit record
 *     schedctl_dsq.bpf.h      who is first in a DSQ that is ordered by time, and since when
 *     schedctl_fair.bpf.h     fair queues: shares by weight between queues, by nice value and cpu.weight inside one, ageing
 *     schedctl_part.bpf.h     reservations: CPUs of a class's own, and time on the others; included by itself
 *
 * Maps that user space may read and write by name:
 *
 *     schedctl_cgroups   hash       u64 cgroup id → struct schedctl_cgroup: the classes its tasks, and those of the
 *                                   cgroups below it, belong to
 *     schedctl_control   array[1]   struct schedctl_control: add 1 to `generation` after changing schedctl_cgroups,
 *                                   and every task is matched anew when it next wakes or leaves a CPU
 *     schedctl_stats     percpu[NR_CLASSES]   struct schedctl_stats: what each class received
 *     schedctl_exit      array[1]   struct schedctl_exit: why the scheduler ended; kind 0 while it runs
 *     schedctl_exit_dump array[1]   the kernel's dump of its state then, for errors; a C string of at most DUMP_LEN
 *     schedctl_heartbeat percpu[1]  struct schedctl_heartbeat: that each CPU decides, and when it did last
 *     schedctl_knobs     array[1]   u64[NR_KNOBS]: the live knobs, when there are any (the section .data.schedctl_knobs)
 *
 * CPUs that come and go: a scheduler that lacks cpu_online or cpu_offline is thrown out at the first of either (exit
 * kind 64, code restart | hotplug), and its loader must attach it anew. The templates define both. A CPU that comes is
 * kicked, so that it looks at the shared queues at once; one that goes keeps nothing, for tasks wait in DSQs that all
 * CPUs share, and what is in its local DSQ the kernel itself moves. Per-CPU records (budgets, counters) stay as they
 * are, and go on when the CPU returns.
 */
#ifndef SCHEDCTL_BPF_H
#define SCHEDCTL_BPF_H

#include "schedctl_kernel.bpf.h"
#include "schedctl_knob.bpf.h"
#include "schedctl_group.bpf.h"
#include "schedctl_task.bpf.h"
#include "schedctl_dsq.bpf.h"
#include "schedctl_fair.bpf.h"

#endif
