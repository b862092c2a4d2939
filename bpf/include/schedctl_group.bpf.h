/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Cgroups: inside a class, CPU time is divided by cpu.weight, as the kernel's own scheduler divides it on a whole machine.
 *
 * At each level of the hierarchy what competes are the cgroups that have a runnable task of the class, by cpu.weight, and
 * tasks that are in none of them, by nice value; who is runnable alone gets all. So one number says what a task weighs
 * beside all of its class: its nice weight's part of its cgroup, times the cgroup's part of the one above, up to the root,
 * times the nice weights of all. Where all tasks are in one cgroup that is the nice weight itself, and on average it is
 * the average nice weight. It is never below GROUP_WEIGHT_MIN: the lightest waits ten times as long as the mean at most.
 *
 * For each class and cgroup there is a row with what is runnable in it. Rows go by the number the kernel has for the
 * cgroup in the CPU controller, which it gives again only when the cgroup is gone, so rows need no cleaning up: the least
 * that is free, from 1 for the root, up to GROUPS. A cgroup of a higher number, one without the controller, and sessions
 * (the kernel's autogroups have number 0) are no level: their tasks count with the cgroup above.
 *
 * The weight is read from task_group.shares, which has held it, times 1024 * 1024 / 100, since before 6.12.
 */
#ifndef SCHEDCTL_GROUP_BPF_H
#define SCHEDCTL_GROUP_BPF_H

#define GROUPS 4096	    /* Kubernetes has up to about 1000 on a node */
#define GROUP_LEVELS 16	    /* systemd and Kubernetes nest about 8 deep */
#define GROUP_WEIGHT_MIN 10 /* as of the lightest nice value */
#define GROUP_ALL 0	    /* the row of everything in the class */
#define GROUP_TRIES 4

struct group {
	s64 load;  /* the weights of what is runnable: its tasks, and the cgroups just below it that have any */
	s64 added; /* what it added to the load of the one above: its weight while it has any load, else 0 */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NR_CLASSES *GROUPS);
	__type(key, u32);
	__type(value, struct group);
} schedctl_groups SEC(".maps");

static __in_line struct group *group_row(u32 class, u32 number)
{
	u32 row = class * GROUPS + number;

	return bpf_map_lookup_elem(&schedctl_groups, &row);
}

/* How far the walk from a task's cgroup to the root has come. */
struct group_walk {
	u64 weight; /* what the task weighs beside all in the class, were this the root; in 1/1024 */
	u64 part;   /* the weight, at the level below, of what it is in */
	s64 more;   /* load that the level below has now and had not */
};

/*
 * What is new about the row for the one above: `weight` while it has load, nothing while it has none. The last to change
 * the load sees it as it is, whoever overtakes whom here, and what is exchanged counts once: so the sums stay right, also
 * when somebody writes cpu.weight meanwhile.
 */
static __in_line s64 group_settle(struct group *row, s64 weight)
{
	s64 change = 0;

#pragma unroll 1
	for (u32 i = 0; i < GROUP_TRIES; i++) {
		s64 part = *(volatile s64 *)&row->load > 0 ? weight : 0;

		if (*(volatile s64 *)&row->added == part)
			break;
		change += part - __sync_lock_test_and_set(&row->added, part);
	}
	return change;
}

static __in_line void group_begin(u32 class, struct group_walk *w)
{
	struct group *row = group_row(class, GROUP_ALL);

	if (!row)
		return;
	__sync_fetch_and_add(&row->load, w->more);
	w->weight = (row->load > (s64)w->part ? row->load : w->part) * 1024;
}

static __in_line void group_step(u32 class, u32 number, u64 shares, struct group_walk *w)
{
	struct group *row = number < GROUPS ? group_row(class, number) : NULL;

	if (!row || number == GROUP_ALL)
		return;
	if (w->more)
		__sync_fetch_and_add(&row->load, w->more);
	w->weight = w->weight * w->part / (row->load > (s64)w->part ? row->load : w->part);
	w->part = clamp((shares * 100 + (1 << 19)) >> 20, 1, 10000);
	w->more = group_settle(row, w->part);
}

/*
 * Count `change` more (or less) of the task's nice weight `nice` as runnable in the class; return what the task weighs in
 * its class, 100 for one of nice 0 where all are alike. Up to the root each time: 5 levels or so, each a few loads.
 */
__noinline u64 group_count(struct task_struct *p __arg_trusted, u32 class, u32 nice, s32 change)
{
	struct task_group *group = field_exists(p->sched_task_group) ? p->sched_task_group : NULL;
	struct group_walk w = { .part = nice, .more = change };

	if (!group)
		return nice;
	group_begin(class, &w);
	for (u32 i = 0; i < GROUP_LEVELS && group; i++) {
		group_step(class, group->css.id, field_exists(group->shares) ? group->shares : 1 << 20, &w);
		group = group->parent;
	}
	return max(w.weight / 1024, GROUP_WEIGHT_MIN);
}

#endif
