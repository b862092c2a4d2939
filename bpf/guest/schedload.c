// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * schedload: small loads for a scheduler, each printing one JSON line about how it fared.
 *
 *   schedload [--comm NAME] [--cgroup DIR] [--nice N] [--policy other|batch|idle] [--after SECONDS] LOAD ARGUMENTS
 *                                                                        (the options may also come last)
 *
 *   wakers N PERIOD_US SECONDS   N threads sleep to absolute times; how late they woke, in us
 *   spin N SECONDS               N processes compute; of each the work units, the CPU ns and the longest time between
 *                                two units, in us
 *   batch N FACTOR UNITS         N jobs of UNITS work units and one FACTOR times as long, started together; when each
 *                                ended, in ms
 *   calibrate                    work units a millisecond here, to choose UNITS by
 *   forkstorm SECONDS            fork, exit, wait, again; how many, and the slowest in us
 *   execstorm N SECONDS          N processes fork, execute, wait, again; how many each, and the slowest in us
 *   affinity N SECONDS           N threads compute and keep moving themselves between CPUs; moves and work units
 *   yieldstorm N SECONDS         N processes do nothing but sched_yield(); how many each, and their CPU ns
 *   pingpong N SECONDS           N pairs of processes pass a byte to and fro, each asleep while the other runs; rounds of
 *                                each pair, and their CPU ns
 *   crowd N UNITS                N threads that become runnable together and do UNITS work units; how long until the
 *                                first and the last was done, in ms
 *   rthog CPU SECONDS            one SCHED_FIFO task keeps CPU busy; its CPU ns
 *   pipe TRIPS                   two processes hand a word to and fro through pipes, TRIPS times, as `perf bench sched
 *                                pipe` does; how long it took, in ns
 *   walk N KIB SECONDS           N processes each go through KIB of memory of their own, line by line, again and again:
 *                                work that lives from what is in the caches; 1000 lines a unit, and how often they were
 *                                switched, by themselves and by others
 *   kworker SECONDS              from SCHED_FIFO, ask a bound kernel worker of every CPU for something, every 20 ms;
 *                                how long all of them took, in us
 *   other COMMAND ...            return to SCHED_OTHER and execute COMMAND
 *
 * --comm sets the process name, --cgroup joins a cgroup (made when missing), --nice sets the nice value: what a policy
 * may tell workloads apart by. --after lets `spin` sleep that long before it computes for its SECONDS. Work
 * units are fixed amounts of arithmetic, so that they can be compared between runs.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_US 1000LL
#define NS_PER_MS 1000000LL
#define NS_PER_S 1000000000LL
#define MAX_TASKS 4096
#define UNIT_STEPS 20000

static char comm[16];
static int64_t after_ns;

static void die(const char *what)
{
	fprintf(stderr, "schedload: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void __attribute__((noreturn)) usage(void)
{
	fputs("usage: schedload [--comm NAME] [--cgroup DIR] [--nice N] [--policy other|batch|idle] "
	      "wakers N PERIOD_US SECONDS | spin N SECONDS | batch N FACTOR UNITS | calibrate | forkstorm SECONDS | "
	      "execstorm N SECONDS | affinity N SECONDS | yieldstorm N SECONDS | pingpong N SECONDS | "
	      "crowd N UNITS | rthog CPU SECONDS | pipe TRIPS | walk N KIB SECONDS | kworker SECONDS | "
	      "other COMMAND...\n", stderr);
	exit(2);
}

static double number(const char *text, double least, double most)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end || !(value >= least && value <= most)) {
		fprintf(stderr, "schedload: %s is not a number from %g to %g\n", text, least, most);
		exit(2);
	}
	return value;
}

static int64_t clock_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

static int64_t now(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

static void sleep_until(int64_t when)
{
	struct timespec ts = { .tv_sec = when / NS_PER_S, .tv_nsec = when % NS_PER_S };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
		;
}

static void *shared(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		die("mmap");
	return memory;
}

/* A fixed amount of arithmetic that no compiler may drop. */
static void work_unit(void)
{
	static volatile uint64_t sink;
	uint64_t x = sink | 1;

	for (int i = 0; i < UNIT_STEPS; i++)
		x = x * 6364136223846793005ULL + 1442695040888963407ULL;
	sink = x;
}

static void join_cgroup(const char *dir)
{
	char path[PATH_MAX];
	FILE *file;

	if (mkdir(dir, 0755) && errno != EEXIST)
		die(dir);
	snprintf(path, sizeof(path), "%s/cgroup.procs", dir);
	file = fopen(path, "w");
	if (!file || fprintf(file, "0\n") < 0 || fclose(file))
		die(path);
}

/* A thread has a name of its own: each names itself, and a policy by process name finds all of them. */
static void take_name(void)
{
	if (comm[0])
		prctl(PR_SET_NAME, comm);
}

static int ascending(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return x < y ? -1 : x > y;
}

/* ---- wakers ---- */

struct waker {
	pthread_t thread;
	int64_t first, period, end;
	int64_t *late;
	size_t count, room;
};

static void *waker_thread(void *argument)
{
	struct waker *self = argument;
	int64_t when = self->first;

	take_name();
	while (when < self->end && self->count < self->room) {
		int64_t late;

		sleep_until(when);
		late = now() - when;
		self->late[self->count++] = late;
		/* Overslept periods are not made up for: a late waker would otherwise look like a busy one. */
		when += self->period * (1 + late / self->period);
	}
	return NULL;
}

static int wakers(int n, int64_t period, int64_t duration)
{
	struct waker *all = calloc(n, sizeof(*all));
	size_t total = 0, at = 0;
	int64_t *late, start = now() + 10 * NS_PER_MS;

	for (int i = 0; i < n; i++) {
		/* Staggered, so that they are n wakeups and not one burst. */
		all[i].first = start + period * i / n;
		all[i].period = period;
		all[i].end = start + duration;
		all[i].room = duration / period + 2;
		all[i].late = calloc(all[i].room, sizeof(int64_t));
		if (!all[i].late || pthread_create(&all[i].thread, NULL, waker_thread, &all[i]))
			die("thread");
	}
	for (int i = 0; i < n; i++) {
		pthread_join(all[i].thread, NULL);
		total += all[i].count;
	}
	late = calloc(total + 1, sizeof(*late));
	for (int i = 0; i < n; i++) {
		memcpy(late + at, all[i].late, all[i].count * sizeof(*late));
		at += all[i].count;
	}
	qsort(late, total, sizeof(*late), ascending);
	printf("{\"load\":\"wakers\",\"threads\":%d,\"count\":%zu,\"expected\":%lld,"
	       "\"p50_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f}\n",
	       n, total, (long long)(duration / period) * n, late[total / 2] / 1e3, late[total * 99 / 100] / 1e3,
	       late[total ? total - 1 : 0] / 1e3);
	return total == 0;
}

/* ---- processes that compute: spin, batch ---- */

struct tally {
	int go; /* a futex: those that wait for it are no load while the others are still being made */
	int64_t begin_ns;
	struct {
		uint64_t units;
		int64_t cpu_ns, done_ns, gap_ns, left, thrown_out;
	} of[MAX_TASKS];
};

static void set_policy(pid_t task, int policy, int priority)
{
	struct sched_param param = { .sched_priority = priority };

	if (sched_setscheduler(task, policy, &param))
		die("sched_setscheduler");
}

static void print_list(const char *name, const struct tally *tally, int n, int64_t (*value)(const struct tally *, int))
{
	printf("\"%s\":[", name);
	for (int i = 0; i < n; i++)
		printf("%s%lld", i ? "," : "", (long long)value(tally, i));
	printf("]");
}

static int64_t units_of(const struct tally *tally, int i)
{
	return tally->of[i].units;
}

static int64_t cpu_of(const struct tally *tally, int i)
{
	return tally->of[i].cpu_ns;
}

static int64_t gap_of(const struct tally *tally, int i)
{
	return tally->of[i].gap_ns / NS_PER_US;
}

/* Every process is there before the first one starts: forking under load would favour the early ones. */
static struct tally *start_together(int n, void (*body)(struct tally *, int, int64_t), int64_t argument, pid_t *pids)
{
	struct tally *tally = shared(sizeof(*tally));
	struct rusage used;

	for (int i = 0; i < n; i++) {
		pids[i] = fork();
		if (pids[i] < 0)
			die("fork");
		if (pids[i] == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			take_name();
			while (!__atomic_load_n(&tally->go, __ATOMIC_ACQUIRE))
				syscall(SYS_futex, &tally->go, FUTEX_WAIT, 0, NULL, NULL, 0);
			body(tally, i, argument);
			getrusage(RUSAGE_SELF, &used);
			tally->of[i].left = used.ru_nvcsw;
			tally->of[i].thrown_out = used.ru_nivcsw;
			tally->of[i].cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
			tally->of[i].done_ns = now();
			_exit(0);
		}
	}
	sleep_until(now() + 20 * NS_PER_MS);
	tally->begin_ns = now();
	__atomic_store_n(&tally->go, 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, &tally->go, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
	return tally;
}

static void wait_for_all(void)
{
	while (wait(NULL) > 0 || errno == EINTR)
		;
}

static void spin_body(struct tally *tally, int self, int64_t duration)
{
	/* From when all could start, not from when this one first ran: one that is left waiting there is late as well. */
	int64_t last = tally->begin_ns + after_ns, end = last + duration, here;

	if (after_ns)
		sleep_until(last);
	while ((here = now()) < end) {
		if (here - last > tally->of[self].gap_ns)
			tally->of[self].gap_ns = here - last;
		last = here;
		work_unit();
		tally->of[self].units++;
	}
	if (here - last > tally->of[self].gap_ns)
		tally->of[self].gap_ns = here - last;
}

static int spin(int n, int64_t duration)
{
	static pid_t pids[MAX_TASKS];
	struct tally *tally = start_together(n, spin_body, duration, pids);
	uint64_t units = 0;

	wait_for_all();
	for (int i = 0; i < n; i++)
		units += tally->of[i].units;
	printf("{\"load\":\"spin\",");
	print_list("cpu_ns", tally, n, cpu_of);
	printf(",");
	print_list("units", tally, n, units_of);
	printf(",");
	print_list("gap_us", tally, n, gap_of);
	printf(",\"total_units\":%llu}\n", (unsigned long long)units);
	return 0;
}

/*
 * How many work units take a millisecond here. The median of a few: preemption makes some too slow, and on an emulated
 * CPU the clock now and then stands still for one.
 */
static double units_per_ms(void)
{
	enum { TRIES = 9, UNITS = 400 };
	int64_t took[TRIES];

	for (int i = 0; i < TRIES; i++) {
		int64_t begin = now();

		for (int unit = 0; unit < UNITS; unit++)
			work_unit();
		took[i] = now() - begin;
	}
	qsort(took, TRIES, sizeof(*took), ascending);
	return (double)UNITS * NS_PER_MS / (took[TRIES / 2] + 1);
}

static int calibrate(void)
{
	printf("{\"load\":\"calibrate\",\"units_per_ms\":%.1f}\n", units_per_ms());
	return 0;
}

static int long_factor;

static void batch_body(struct tally *tally, int self, int64_t units)
{
	int64_t mine = self == 0 ? units * long_factor : units;

	while (mine-- > 0)
		work_unit();
	tally->of[self].units = 1;
}

static int batch(int n, int factor, int64_t units)
{
	static pid_t pids[MAX_TASKS];
	int64_t last = 0, begin;
	struct tally *tally;

	long_factor = factor;
	tally = start_together(n + 1, batch_body, units, pids);
	begin = tally->begin_ns;
	wait_for_all();
	printf("{\"load\":\"batch\",\"long_ms\":%.1f,\"short_ms\":[", (tally->of[0].done_ns - begin) / 1e6);
	for (int i = 0; i <= n; i++) {
		if (i)
			printf("%s%.1f", i > 1 ? "," : "", (tally->of[i].done_ns - begin) / 1e6);
		if (tally->of[i].done_ns > last)
			last = tally->of[i].done_ns;
	}
	printf("],\"makespan_ms\":%.1f}\n", (last - begin) / 1e6);
	return 0;
}

/* ---- forkstorm ---- */

static int forkstorm(int64_t duration)
{
	int64_t begin, end = now() + duration, slowest = 0, sum = 0;
	unsigned long long forks = 0;

	while ((begin = now()) < end) {
		pid_t pid = fork();
		int64_t took;

		if (pid < 0)
			die("fork");
		if (pid == 0)
			_exit(0);
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
		took = now() - begin;
		sum += took;
		forks++;
		if (took > slowest)
			slowest = took;
	}
	printf("{\"load\":\"forkstorm\",\"forks\":%llu,\"mean_us\":%.1f,\"max_us\":%.1f}\n", forks,
	       forks ? sum / 1e3 / forks : 0.0, slowest / 1e3);
	return 0;
}

/* ---- execstorm, yieldstorm ---- */

static void execstorm_body(struct tally *tally, int self, int64_t duration)
{
	int64_t begin, end = tally->begin_ns + duration;

	while ((begin = now()) < end) {
		pid_t pid = fork();
		int64_t took;

		if (pid < 0)
			die("fork");
		if (pid == 0) {
			execl("/proc/self/exe", "schedload", "nothing", NULL);
			_exit(1);
		}
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
		took = now() - begin;
		if (took > tally->of[self].gap_ns)
			tally->of[self].gap_ns = took;
		tally->of[self].units++;
	}
}

static int execstorm(int n, int64_t duration)
{
	static pid_t pids[MAX_TASKS];
	struct tally *tally = start_together(n, execstorm_body, duration, pids);

	wait_for_all();
	printf("{\"load\":\"execstorm\",");
	print_list("execs", tally, n, units_of);
	printf(",");
	print_list("max_us", tally, n, gap_of);
	printf("}\n");
	return 0;
}

static void yieldstorm_body(struct tally *tally, int self, int64_t duration)
{
	int64_t end = tally->begin_ns + duration;

	while (now() < end) {
		sched_yield();
		tally->of[self].units++;
	}
}

static int yieldstorm(int n, int64_t duration)
{
	static pid_t pids[MAX_TASKS];
	struct tally *tally = start_together(n, yieldstorm_body, duration, pids);

	wait_for_all();
	printf("{\"load\":\"yieldstorm\",");
	print_list("yields", tally, n, units_of);
	printf(",");
	print_list("cpu_ns", tally, n, cpu_of);
	printf("}\n");
	return 0;
}

/* ---- pingpong ---- */

static int (*pingpong_pipes)[2]; /* of pair I: 2 I goes there, 2 I + 1 comes back */

static void pingpong_body(struct tally *tally, int self, int64_t duration)
{
	int64_t end = tally->begin_ns + duration;
	int second = self % 2, in = pingpong_pipes[self - second + !second][0], out = pingpong_pipes[self][1];
	char more = 1;

	while (more) {
		if (!second) {
			more = now() < end;
			if (write(out, &more, 1) != 1)
				die("write");
		}
		if (read(in, &more, 1) != 1)
			die("read");
		if (second && write(out, &more, 1) != 1)
			die("write");
		tally->of[self].units++;
	}
}

static int pingpong(int n, int64_t duration)
{
	static pid_t pids[MAX_TASKS];
	struct tally *tally;

	pingpong_pipes = calloc(2 * n, sizeof(*pingpong_pipes));
	for (int i = 0; i < 2 * n; i++)
		if (pipe(pingpong_pipes[i]))
			die("pipe");
	tally = start_together(2 * n, pingpong_body, duration, pids);
	wait_for_all();
	printf("{\"load\":\"pingpong\",");
	print_list("rounds", tally, 2 * n, units_of);
	printf(",");
	print_list("cpu_ns", tally, 2 * n, cpu_of);
	printf("}\n");
	return 0;
}

/* ---- crowd ---- */

static struct {
	int go; /* a futex: nobody computes while the others are still being made */
	int64_t units;
	int64_t *done;
} crowd_of;

static void *crowd_thread(void *argument)
{
	int64_t *done = argument;

	take_name();
	while (!__atomic_load_n(&crowd_of.go, __ATOMIC_ACQUIRE))
		syscall(SYS_futex, &crowd_of.go, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
	for (int64_t i = 0; i < crowd_of.units; i++)
		work_unit();
	*done = now();
	return NULL;
}

static int crowd(int n, int64_t units)
{
	pthread_t *threads = calloc(n, sizeof(*threads));
	pthread_attr_t small;
	int64_t begin, made = now(), last;

	crowd_of.units = units;
	crowd_of.done = calloc(n, sizeof(*crowd_of.done));
	pthread_attr_init(&small);
	/* With the smallest stack and no guard page, neither birth nor end changes page tables: on an emulated machine of
	 * many CPUs a shootdown for each of thousands would take longer than all the work. */
	pthread_attr_setstacksize(&small, PTHREAD_STACK_MIN);
	pthread_attr_setguardsize(&small, 0);
	for (int i = 0; i < n; i++)
		if (pthread_create(&threads[i], &small, crowd_thread, &crowd_of.done[i]))
			die("thread");
	begin = now();
	__atomic_store_n(&crowd_of.go, 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, &crowd_of.go, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
	for (int i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	qsort(crowd_of.done, n, sizeof(*crowd_of.done), ascending);
	last = crowd_of.done[n - 1];
	printf("{\"load\":\"crowd\",\"tasks\":%d,\"made_ms\":%.1f,\"first_ms\":%.1f,\"last_ms\":%.1f}\n", n,
	       (begin - made) / 1e6, (crowd_of.done[0] - begin) / 1e6, (last - begin) / 1e6);
	return 0;
}

/* ---- from the real-time class: rthog, kworker ---- */

static int rthog(int cpu, int64_t duration)
{
	cpu_set_t mask;
	int64_t end;

	CPU_ZERO(&mask);
	CPU_SET(cpu, &mask);
	if (sched_setaffinity(0, sizeof(mask), &mask))
		die("sched_setaffinity");
	set_policy(0, SCHED_FIFO, 10);
	end = now() + duration;
	while (now() < end)
		work_unit();
	printf("{\"load\":\"rthog\",\"cpu_ns\":%lld}\n", (long long)clock_ns(CLOCK_PROCESS_CPUTIME_ID));
	return 0;
}

/*
 * Writing to vm.stat_refresh runs a work item on the per-CPU worker of every CPU and waits for all of them. The asking
 * task is out of the tested scheduler's reach; the workers, bound to one CPU each, are not.
 */
static int kworker(int64_t duration)
{
	static const char *const path = "/proc/sys/vm/stat_refresh";
	size_t count = 0, room = duration / (20 * NS_PER_MS) + 2;
	int64_t *took = calloc(room, sizeof(*took)), end;
	int file = open(path, O_WRONLY);

	if (file < 0)
		die(path);
	set_policy(0, SCHED_FIFO, 10);
	end = now() + duration;
	while (count < room && now() < end) {
		int64_t begin = now();

		if (pwrite(file, "1", 1, 0) < 0)
			die(path);
		took[count++] = now() - begin;
		sleep_until(now() + 20 * NS_PER_MS);
	}
	qsort(took, count, sizeof(*took), ascending);
	printf("{\"load\":\"kworker\",\"count\":%zu,\"p50_us\":%.1f,\"max_us\":%.1f}\n", count, took[count / 2] / 1e3,
	       took[count ? count - 1 : 0] / 1e3);
	return count == 0;
}

/* ---- affinity ---- */

struct mover {
	pthread_t thread;
	int64_t end;
	unsigned int seed;
	uint64_t moves, units, refused;
	cpu_set_t allowed;
};

static void *mover_thread(void *argument)
{
	struct mover *self = argument;
	int cpus[CPU_SETSIZE], n = 0;

	take_name();
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &self->allowed))
			cpus[n++] = cpu;
	while (now() < self->end) {
		cpu_set_t mask;

		/* Every other move opens the whole set again, so that the scheduler chooses now and then. */
		if (self->moves & 1) {
			mask = self->allowed;
		} else {
			CPU_ZERO(&mask);
			CPU_SET(cpus[rand_r(&self->seed) % n], &mask);
		}
		if (sched_setaffinity(0, sizeof(mask), &mask))
			self->refused++; /* the CPU went off line meanwhile */
		self->moves++;
		for (int i = 0; i < 4; i++, self->units++)
			work_unit();
		if ((self->moves & 15) == 0)
			sleep_until(now() + 200 * NS_PER_US);
	}
	return NULL;
}

static int affinity(int n, int64_t duration)
{
	struct mover *all = calloc(n, sizeof(*all));
	uint64_t moves = 0, units = 0, refused = 0, least = UINT64_MAX;
	int64_t end = now() + duration;

	for (int i = 0; i < n; i++) {
		all[i].end = end;
		all[i].seed = i + 1;
		if (sched_getaffinity(0, sizeof(all[i].allowed), &all[i].allowed) ||
		    pthread_create(&all[i].thread, NULL, mover_thread, &all[i]))
			die("thread");
	}
	for (int i = 0; i < n; i++) {
		pthread_join(all[i].thread, NULL);
		moves += all[i].moves;
		units += all[i].units;
		refused += all[i].refused;
		if (all[i].moves < least)
			least = all[i].moves;
	}
	printf("{\"load\":\"affinity\",\"threads\":%d,\"moves\":%llu,\"least_moves\":%llu,\"refused\":%llu,\"units\":%llu}\n",
	       n, (unsigned long long)moves, (unsigned long long)least, (unsigned long long)refused,
	       (unsigned long long)units);
	return 0;
}

/* ---- what a switch costs: pipe, walk ---- */

static void hand_over(int from, int to, uint64_t trips, int first)
{
	uint32_t word = 0;

	for (uint64_t i = 0; i < trips; i++) {
		if (first && write(to, &word, sizeof(word)) != sizeof(word))
			die("pipe");
		if (read(from, &word, sizeof(word)) != sizeof(word))
			die("pipe");
		if (!first && write(to, &word, sizeof(word)) != sizeof(word))
			die("pipe");
	}
}

static int pipe_load(uint64_t trips)
{
	int there[2], back[2], status;
	int64_t begin;
	pid_t pid;

	if (pipe(there) || pipe(back))
		die("pipe");
	pid = fork();
	if (pid < 0)
		die("fork");
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		take_name();
		hand_over(there[0], back[1], trips, 0);
		_exit(0);
	}
	begin = now();
	hand_over(back[0], there[1], trips, 1);
	printf("{\"load\":\"pipe\",\"trips\":%llu,\"elapsed_ns\":%lld}\n", (unsigned long long)trips,
	       (long long)(now() - begin));
	return waitpid(pid, &status, 0) != pid || status;
}

static size_t walk_bytes;

static void walk_body(struct tally *tally, int self, int64_t duration)
{
	enum { LINE = 64, LINES_A_UNIT = 1000, STEP = 40487 }; /* a prime: every line once before the first again */
	int64_t end = tally->begin_ns + duration;
	size_t lines = walk_bytes / LINE, at = 0;
	volatile uint8_t *memory = malloc(walk_bytes);

	if (!memory)
		die("malloc");
	while (now() < end) {
		for (int i = 0; i < LINES_A_UNIT; i++) {
			memory[at * LINE]++;
			at = (at + STEP) % lines;
		}
		tally->of[self].units++;
	}
}

static int walk(int n, size_t kib, int64_t duration)
{
	static pid_t pids[MAX_TASKS];
	struct tally *tally;
	long long units = 0, left = 0, thrown_out = 0;

	walk_bytes = kib * 1024;
	tally = start_together(n, walk_body, duration, pids);
	wait_for_all();
	for (int i = 0; i < n; i++) {
		units += tally->of[i].units;
		left += tally->of[i].left;
		thrown_out += tally->of[i].thrown_out;
	}
	printf("{\"load\":\"walk\",\"units\":%lld,\"left\":%lld,\"thrown_out\":%lld}\n", units, left, thrown_out);
	return 0;
}

static int policy_named(const char *name)
{
	if (!strcmp(name, "other"))
		return SCHED_OTHER;
	if (!strcmp(name, "batch"))
		return SCHED_BATCH;
	if (!strcmp(name, "idle"))
		return SCHED_IDLE;
	usage();
}

static int other(char **argv)
{
	set_policy(0, SCHED_OTHER, 0);
	execvp(argv[0], argv);
	fprintf(stderr, "schedload: %s: %s\n", argv[0], strerror(errno));
	return 127;
}

/* Options up to the first word that is none; returns how many words they took. */
static int take_options(int argc, char **argv)
{
	int taken = 0;

	for (; taken + 1 < argc && !strncmp(argv[taken], "--", 2); taken += 2) {
		const char *value = argv[taken + 1];

		if (!strcmp(argv[taken], "--comm"))
			snprintf(comm, sizeof(comm), "%s", value);
		else if (!strcmp(argv[taken], "--cgroup"))
			join_cgroup(value);
		else if (!strcmp(argv[taken], "--nice")) {
			if (setpriority(PRIO_PROCESS, 0, number(value, -20, 19)))
				die("setpriority");
		} else if (!strcmp(argv[taken], "--policy"))
			set_policy(0, policy_named(value), 0);
		else if (!strcmp(argv[taken], "--after"))
			after_ns = number(value, 0, 86400) * NS_PER_S;
		else
			usage();
	}
	return taken;
}

int main(int argc, char **argv)
{
	const char *load;
	int taken, left = 0;

	argv++, argc--;
	taken = take_options(argc, argv);
	argv += taken, argc -= taken;
	if (argc < 1)
		usage();
	load = *argv++;
	argc--;
	if (!strcmp(load, "other") && argc) {
		take_name();
		return other(argv);
	}
	while (left < argc && strncmp(argv[left], "--", 2))
		left++;
	if (left + take_options(argc - left, argv + left) != argc)
		usage();
	take_name();
	if (!strcmp(load, "wakers") && left == 3)
		return wakers(number(argv[0], 1, MAX_TASKS), number(argv[1], 10, 1e8) * NS_PER_US,
			      number(argv[2], 0.01, 86400) * NS_PER_S);
	if (!strcmp(load, "spin") && left == 2)
		return spin(number(argv[0], 1, MAX_TASKS), number(argv[1], 0.01, 86400) * NS_PER_S);
	if (!strcmp(load, "batch") && left == 3)
		return batch(number(argv[0], 1, MAX_TASKS - 1), number(argv[1], 1, 1000), number(argv[2], 1, 1e9));
	if (!strcmp(load, "calibrate") && left == 0)
		return calibrate();
	if (!strcmp(load, "forkstorm") && left == 1)
		return forkstorm(number(argv[0], 0.01, 86400) * NS_PER_S);
	if (!strcmp(load, "execstorm") && left == 2)
		return execstorm(number(argv[0], 1, MAX_TASKS), number(argv[1], 0.01, 86400) * NS_PER_S);
	if (!strcmp(load, "nothing") && left == 0)
		return 0;
	if (!strcmp(load, "yieldstorm") && left == 2)
		return yieldstorm(number(argv[0], 1, MAX_TASKS), number(argv[1], 0.01, 86400) * NS_PER_S);
	if (!strcmp(load, "pingpong") && left == 2)
		return pingpong(number(argv[0], 1, MAX_TASKS / 2), number(argv[1], 0.01, 86400) * NS_PER_S);
	if (!strcmp(load, "crowd") && left == 2)
		return crowd(number(argv[0], 1, MAX_TASKS), number(argv[1], 0, 1e9));
	if (!strcmp(load, "rthog") && left == 2)
		return rthog(number(argv[0], 0, CPU_SETSIZE - 1), number(argv[1], 0.01, 86400) * NS_PER_S);
	if (!strcmp(load, "kworker") && left == 1)
		return kworker(number(argv[0], 0.01, 86400) * NS_PER_S);
	if (!strcmp(load, "pipe") && left == 1)
		return pipe_load(number(argv[0], 1, 1e9));
	if (!strcmp(load, "walk") && left == 3)
		return walk(number(argv[0], 1, MAX_TASKS), number(argv[1], 1, 1 << 20), number(argv[2], 0.01, 86400) * NS_PER_S);
	if (!strcmp(load, "affinity") && left == 2)
		return affinity(number(argv[0], 1, MAX_TASKS), number(argv[1], 0.01, 86400) * NS_PER_S);
	usage();
}
