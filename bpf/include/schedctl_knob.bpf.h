/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Live knobs: slices, weights and budgets that user space changes while the scheduler runs, without a detach.
 *
 * A scheduler with knobs says before it includes schedctl.bpf.h how many there are, and for each its row and range:
 *
 *     #define NR_KNOBS 5
 *     #define KNOB_WEIGHTS 0, 1ULL, 10000ULL          // rows 0 to NR_CLASSES - 1, by class: always the first
 *     #define KNOB_SLICE 3, 500000ULL, 20000000ULL    // read as knob(KNOB_SLICE)
 *     #define KNOB_LAG 4, 1000000ULL, 200000000ULL    // KNOB_LAG and KNOB_AGE are those of the fair queues
 *
 * and then gives the values to start with, in a section of their own, which is the BPF map schedctl_knobs:
 *
 *     u64 schedctl_knobs[NR_KNOBS] SEC(".data.schedctl_knobs") = { 100, 100, 300, 5000000, 20000000 };
 *
 * Reading one is a load from a fixed address, a comparison with each end of its range and no call. The range is part
 * of the program: whatever is written to the map, a value outside reads as the nearest end, so that a wrong write can
 * do no more harm than the range allows, and the BPF verifier has seen every value there can be. A row is written at
 * once; two rows that are changed together may be seen one after the other.
 *
 * A scheduler in which several classes share a queue also defines SHARED_QUEUES and, in the same section, the weights
 * of its queues: `u64 queue_weights[NR_QUEUES] SEC(".data.schedctl_knobs")`.
 */
#ifndef SCHEDCTL_KNOB_BPF_H
#define SCHEDCTL_KNOB_BPF_H

#ifndef NR_KNOBS
#define NR_KNOBS 0
#endif
#define MAX_QUEUE_WEIGHT 2560000 /* 256 classes of weight 10000 */

#if NR_KNOBS

extern u64 schedctl_knobs[NR_KNOBS];
#ifdef SHARED_QUEUES
extern u64 queue_weights[NR_QUEUES];
#endif

/* The value in `row`, within its range: knob(KNOB_SLICE). */
static __in_line u64 knob(u64 row, u64 low, u64 high)
{
	return clamp(schedctl_knobs[row], low, high);
}

/* The same of a knob that each class has: class_knob(class, KNOB_WEIGHTS). */
static __in_line u64 class_knob(u64 class, u64 row, u64 low, u64 high)
{
	return clamp(schedctl_knobs[row + bounded(class, NR_CLASSES)], low, high);
}

#endif
#endif
