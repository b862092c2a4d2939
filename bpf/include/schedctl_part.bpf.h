/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Reservations: parts of the CPUs that classes get in any case.
 *
 *   own CPUs   What makes whole CPUs is dealt out, from the last CPU down, among those that are on line, and anew when
 *              one comes or goes. The owner's tasks go first there, and nothing is charged for it.
 *   time       What is left of a reservation is time on the CPUs that nobody owns. Each reservation has a clock, which
 *              its class pushes on by what it receives divided by its part; while the clock is behind the real time the
 *              class is owed, and goes before all that are not. So nothing is rounded, and on one CPU all is time.
 *   others     OTHERS_SHARE is the reservation of all classes that have none. Classes that want more than is left
 *              beside it get less, pro rata.
 *   bound      Tasks that may run on CPUs of other classes only wait in BOUND_DSQ, by the time they came, and get the
 *              part KNOB_BOUND_SHARE of each such CPU. None waits for longer than about `fair_age_ns`: the more there
 *              are, the shorter is the turn of each. A timer ends it, for the kernel looks at slices once a tick only,
 *              4 ms at 250 Hz. The timers are gone when nobody holds the map any more; then ticks end the turns.
 *
 * The scheduler includes this after schedctl.bpf.h, has one queue for each class (of the same number) and class.param in
 * thousandths of all CPUs, that of class 0 being OTHERS_SHARE and the sum of the others' RESERVED, and defines FAIR_OWES as
 * part_owes before both.
 */
#ifndef SCHEDCTL_PART_BPF_H
#define SCHEDCTL_PART_BPF_H

#define MAX_CPUS 512	/* a power of 2; CPUs above share the records of those below */
#define BOUND_DSQ 0x800 /* tasks that may run on other classes' CPUs only; the scheduler makes and empties it */
#define BOUND 1		/* home of a task that waited there */
#define OWN_CPUS 64	/* of a class's CPUs, how many are looked at for one to take back */
#define BOUND_TURN_MIN 100000ULL /* ns; shorter ones would go into switching */

/* The reservation of a class. */
struct part {
	u64 low; /* its CPUs are among those from `low` to `high` */
	u64 high;
	u64 permille; /* of one CPU: what it has coming on the CPUs of nobody */
	u64 clock;    /* the time up to which it has had that */
};

struct cpu_record {
	u32 owner;	 /* class whose CPU it is; CLASS_OTHERS: nobody's */
	u32 running;	 /* class of the task that has it, as far as this scheduler knows */
	u64 bound_clock; /* when a task that is bound here may go before the owner */
	u64 lent_at;	 /* when a task of another class last ran here */
	bool online;
	bool turn;	 /* of bound tasks, while the owner has none */
	bool bound_runs; /* a bound task has it */
};

#define BPF_F_TIMER_CPU_PIN 2
#define CLOCK_MONOTONIC 1

struct bpf_timer {
	u64 opaque[2];
};

static long (*const bpf_timer_init)(struct bpf_timer *timer, void *map, u64 clock) = (void *)169;
static long (*const bpf_timer_set_callback)(struct bpf_timer *timer, void *callback) = (void *)170;
static long (*const bpf_timer_start)(struct bpf_timer *timer, u64 ns, u64 flags) = (void *)171;

struct bound_timer {
	struct bpf_timer timer;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_CPUS);
	__type(key, u32);
	__type(value, struct bound_timer);
} bound_timers SEC(".maps"); /* by CPU */

static struct part parts[NR_CLASSES];
static struct cpu_record cpus[MAX_CPUS];

static __in_line struct cpu_record *cpu_record(s32 cpu)
{
	return &cpus[(u32)cpu % MAX_CPUS];
}

/* Whose reservation the class's time is taken from: its own, or that of all which have none. */
static __noinline struct part *part_of(u64 class)
{
	class = bounded(class, NR_CLASSES);
	return &parts[bounded(classes[class].param ? class : CLASS_OTHERS, NR_CLASSES)];
}

/* Has the class not had yet what it has coming? */
static __noinline bool part_owes(u64 class, u64 now)
{
	const struct part *part = part_of(class);

	return part->permille && vtime_before(part->clock, now);
}

static __in_line bool is_own(const struct cpu_record *c, const struct schedctl_task *t)
{
	return c->owner != CLASS_OTHERS && c->owner == t->class;
}

/* A CPU that belongs to another class than the task's. */
static __in_line bool is_foreign(const struct cpu_record *c, const struct schedctl_task *t)
{
	return c->owner != CLASS_OTHERS && c->owner != t->class;
}

/*
 * 1 unless there is a CPU that the task of this class may run on and that is its class's or nobody's. Walks over CPUs are
 * global functions: the BPF verifier walks them once, and not for each way that leads there.
 */
__noinline int part_binds(struct task_struct *p __arg_trusted, u32 class)
{
	u32 nr_cpus = scx_bpf_nr_cpu_ids();

	for (u32 cpu = 0; cpu < MAX_CPUS && cpu < nr_cpus; cpu++) {
		if (!cpus[cpu].online || (cpus[cpu].owner != CLASS_OTHERS && cpus[cpu].owner != class))
			continue;
		if (bpf_cpumask_test_cpu(cpu, p->cpus_ptr))
			return 0;
	}
	return 1;
}

/* A CPU of the task's class that somebody has borrowed, or -1. */
__noinline int part_borrowed(struct task_struct *p __arg_trusted, u32 class)
{
	u64 low = parts[bounded(class, NR_CLASSES)].low, high = parts[bounded(class, NR_CLASSES)].high;

	for (u32 i = 0; i < OWN_CPUS && low + i <= high; i++) {
		const struct cpu_record *c = cpu_record(low + i);

		if (c->owner != class || c->running == class)
			continue;
		if (bpf_cpumask_test_cpu(low + i, p->cpus_ptr))
			return low + i;
	}
	return -1;
}

/* Take back a CPU of the task's class from whoever borrowed it. The CPU is marked at once: the next waker takes another. */
static __in_line void take_back(struct task_struct *p, const struct schedctl_task *t)
{
	struct schedctl_stats *stats = class_stats(t->class);
	int cpu = t->class == CLASS_OTHERS ? -1 : part_borrowed(p, t->class);

	if (cpu < 0)
		return;
	cpu_record(cpu)->running = t->class;
	scx_bpf_kick_cpu(cpu, SCX_KICK_PREEMPT);
	if (stats)
		stats->preempts++;
}

/* ops.enqueue: a class that did not use its reservation gets the lag's worth of it later, and no more. */
static __in_line void part_arrive(u64 class, u64 now)
{
	struct part *part = part_of(class);
	u64 earliest = now - fair_lag_ns * 1000 / max(part->permille, 1);

	if (vtime_before(part->clock, earliest))
		part->clock = earliest;
}

/*
 * Charge a task for `delta` ns: on its class's own CPU nothing, else to what its class is owed, and by weight when that
 * is nothing. Classes without a reservation are charged by weight in any case, so that they share theirs by it.
 */
static __noinline void part_charge(struct task_struct *p, struct schedctl_task *t, u64 delta, u64 now)
{
	struct cpu_record *c = cpu_record(bpf_get_smp_processor_id());
	struct part *part = part_of(t->class);
	bool owed = part->permille && vtime_before(part->clock, now), own = is_own(c, t);

	if (t->home == BOUND)
		c->bound_clock = min(max(c->bound_clock, now) + delta * 1000 / knob(KNOB_BOUND_SHARE), now + fair_age_ns);
	if (owed && !own)
		__sync_fetch_and_add(&part->clock, delta * 1000 / max(part->permille, 1));
	fair_charge_task(p, t, delta);
	if (!own && !(owed && part != &parts[CLASS_OTHERS]))
		fair_charge_queue(t, delta);
}

/* How long a bound task may run: as long as all that wait can, one after the other, in their part of `fair_age_ns`. */
static __noinline u64 bound_turn(void)
{
	u64 each = fair_age_ns * knob(KNOB_BOUND_SHARE) / 1000 / (dsq_length(BOUND_DSQ) + 1);

	return clamp(each, BOUND_TURN_MIN, knob(KNOB_BOUND_SLICE));
}

/* The turn of a bound task is over. */
static int bound_ends(void *map, u32 *cpu, struct bound_timer *timer)
{
	if (cpu_record(*cpu)->bound_runs)
		scx_bpf_kick_cpu(*cpu, SCX_KICK_PREEMPT);
	return 0;
}

/* ops.running */
static __in_line void bound_begins(struct cpu_record *c, const struct schedctl_task *t)
{
	u32 cpu = bpf_get_smp_processor_id() % MAX_CPUS;
	struct bound_timer *timer;

	if (t->home != BOUND)
		return;
	c->bound_runs = true;
	timer = bpf_map_lookup_elem(&bound_timers, &cpu);
	if (timer)
		bpf_timer_start(&timer->timer, bound_turn(), BPF_F_TIMER_CPU_PIN);
}

static long bound_timer_init(u64 i, void *unused)
{
	u32 cpu = i % MAX_CPUS;
	struct bound_timer *timer = bpf_map_lookup_elem(&bound_timers, &cpu);

	if (timer && !bpf_timer_init(&timer->timer, &bound_timers, CLOCK_MONOTONIC))
		bpf_timer_set_callback(&timer->timer, bound_ends);
	return 0;
}

/* May a bound task go before the owner? What it runs is charged; where none is found the next look is a slice away. */
static __in_line bool bound_is_due(struct cpu_record *c, u64 now)
{
	if (!dsq_length(BOUND_DSQ))
		return false;
	if (dsq_oldest_ns(BOUND_DSQ, now) > fair_age_ns)
		return true;
	if (now < c->bound_clock)
		return false;
	c->bound_clock = now + knob(KNOB_BOUND_SLICE);
	return true;
}

/* An owner that never lets go lends its CPU once each age: who can run nowhere else for the moment must not starve. */
static __in_line bool must_lend(struct cpu_record *c, u64 now)
{
	if (c->owner == CLASS_OTHERS || minus(now, c->lent_at) <= fair_age_ns)
		return false;
	c->lent_at = now;
	return true;
}

/* ops.dispatch: take a task of another class than the owner, of the one that needs it most. */
static __noinline bool part_lend(u64 owner, u64 now)
{
	int picked = fair_pick(now, owner + 1);

	return picked >= 0 && fair_take(bounded(picked & (FAIR_AGED - 1), NR_QUEUES), now);
}

/* --- Dealing ---------------------------------------------------------------------------------------------------------- */

/* In memory and not on the stack, where the BPF verifier would follow each value through all steps. */
struct deal {
	u64 cpus;  /* on line */
	u64 class; /* the one that gets its CPUs now */
	u64 left;  /* how many it still has to get */
	u64 cpu;   /* the one that is given away next */
};

static struct deal deal;

static __in_line struct deal *the_deal(void)
{
	struct deal *d = &deal;

	asm volatile("" : "+r"(d)); /* else clang takes the struct apart */
	return d;
}

static long deal_count(u64 i, void *unused)
{
	struct deal *d = the_deal();

	d->cpus += cpus[i % MAX_CPUS].online;
	return 0;
}

/* The class's part in thousandths of a CPU. */
static __in_line u64 deal_part(const struct deal *d, u64 class)
{
	u64 share = classes[class].param, most = 1000 - OTHERS_SHARE;

	if (class != CLASS_OTHERS && RESERVED > most)
		share = share * most / RESERVED;
	return share * d->cpus;
}

/* One step: give the next CPU to the class whose turn it is, or go on to the next class; others, the last, get the rest. */
static long deal_step(u64 i, void *unused)
{
	struct deal *d = the_deal();
	u64 class = bounded(d->class, NR_CLASSES), thousandths;

	if (d->left) {
		struct cpu_record *c = cpu_record(d->cpu);

		c->owner = class;
		d->left -= c->online;
		parts[class].low = d->cpu;
		return !d->cpu--;
	}
	class = bounded(class + 1, NR_CLASSES);
	thousandths = deal_part(d, class);
	parts[class].permille = class == CLASS_OTHERS ? thousandths : thousandths % 1000;
	parts[class].high = d->cpu;
	parts[class].low = d->cpu + 1;
	d->class = class;
	d->left = class == CLASS_OTHERS ? MAX_CPUS + 1 : thousandths / 1000;
	return 0;
}

/*
 * Deal out the CPUs that are on line; never two at once, for a CPU comes or goes under a lock of the kernel. One loop over
 * CPUs and classes together: one inside the other is too large for the BPF verifier of 7.3 with 255 classes.
 */
__noinline int part_deal(u32 nr_cpus)
{
	struct deal *d = the_deal();

	d->cpus = d->class = d->left = 0;
	d->cpu = min(nr_cpus, MAX_CPUS) - 1;
	bpf_loop(MAX_CPUS, deal_count, NULL, 0);
	bpf_loop(MAX_CPUS + NR_CLASSES, deal_step, NULL, 0);
	return 0;
}

/* In ops.init. */
static __in_line void part_init_cpus(void)
{
	const struct cpumask *online = scx_bpf_get_online_cpumask();

#pragma unroll 1
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
		cpus[cpu].online = bpf_cpumask_test_cpu(cpu, online);
	scx_bpf_put_cpumask(online);
	bpf_loop(min(scx_bpf_nr_cpu_ids(), MAX_CPUS), bound_timer_init, NULL, 0);
	part_deal(scx_bpf_nr_cpu_ids());
}

/* In ops.cpu_online and ops.cpu_offline: reservations are parts of what is there. */
static __in_line void part_cpu(s32 cpu, bool online)
{
	cpu_record(cpu)->online = online;
	part_deal(scx_bpf_nr_cpu_ids());
}

#endif
