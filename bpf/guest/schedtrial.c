// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * schedtrial: one run of one workload of a trial, in fixed units of work, printed as one JSON line of integers.
 *
 *   schedtrial [--seed N] [--comm NAME] [--others NAME] [--uid N] [--cgroup DIR] [--fifo PRIORITY] WORKLOAD ARGUMENTS
 *
 *   calibrate                                   work units a second here
 *   longtail JOBS FACTOR UNITS                  JOBS - 1 jobs of UNITS and one FACTOR times as long, released together
 *   mixed WHO WAKERS PERIOD_US WAKEUPS UNITS HOGS
 *                                               WAKERS sleep, wake, work UNITS, WAKEUPS times, beside HOGS that only
 *                                               compute; the class under test is WHO: wakers, or hogs (half of them)
 *   messaging GROUPS FDS LOOPS                  hackbench with these figures
 *   pipeline LINES STAGES ITEMS UNITS           LINES of STAGES processes joined by pipes, ITEMS through each line
 *   build SLOTS JOBS UNITS                      JOBS compile-like processes, SLOTS at a time, with what they need before
 *                                               and what needs them after
 *
 * Processes of the class under test are called by --comm, all others by --others; each `*` in a name becomes letters
 * that --seed chooses, other ones for each process, so that no name tells a job's length. --uid and --cgroup are what
 * else a class may be matched by. With --fifo the class is real-time work. Beside every workload but `mixed` two small
 * periodic tasks of the others run: a scheduler that neglects everything else shows in how late they are.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
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
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_US 1000LL
#define NS_PER_MS 1000000LL
#define NS_PER_S 1000000000LL
#define MAX_TASKS 1024
#define MAX_LATE 65536
#define UNIT_STEPS 2000
#define NAME_SIZE 16
#define CHUNK 16384
#define WATCHERS 2
#define WATCH_PERIOD (4 * NS_PER_MS)
#define WATCH_PART 40 /* a watcher works one 40th of its period */

/* What a group of processes did; in memory that all of them share. */
struct group {
	volatile uint64_t units;
	volatile int64_t cpu_ns, last_ns;
	volatile uint32_t count;
	int64_t late[MAX_LATE];
};

struct board {
	struct group class, others;
	volatile int stop;
};

static struct board *board;
static const char *class_name = "trial*", *others_name = "other*", *cgroup;
static uint64_t seed = 1;
static long uid = -1, priority; /* 0: the class is not real-time work */
static int gate[2]; /* a process of the workload starts when the writing end is closed */

static void die(const char *what)
{
	fprintf(stderr, "schedtrial: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void usage(void)
{
	fputs("usage: schedtrial [--seed N] [--comm NAME] [--others NAME] [--uid N] [--cgroup DIR] [--fifo PRIORITY] "
	      "calibrate | "
	      "longtail JOBS FACTOR UNITS | mixed wakers|hogs WAKERS PERIOD_US WAKEUPS UNITS HOGS | "
	      "messaging GROUPS FDS LOOPS | pipeline LINES STAGES ITEMS UNITS | build SLOTS JOBS UNITS\n", stderr);
	exit(2);
}

static long number(const char *text, long least, long most)
{
	char *end;
	long value = strtol(text, &end, 10);

	if (end == text || *end || value < least || value > most) {
		fprintf(stderr, "schedtrial: %s is not a whole number from %ld to %ld\n", text, least, most);
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

/* splitmix64: the same sequence for the same seed, everywhere. */
static uint64_t mix(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ULL;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return z ^ z >> 31;
}

/* A fixed amount of arithmetic that no compiler may drop. */
static void work(uint64_t units)
{
	static volatile uint64_t sink;
	uint64_t x = sink | 1;

	for (uint64_t i = 0; i < units * UNIT_STEPS; i++)
		x = x * 6364136223846793005ULL + 1442695040888963407ULL;
	sink = x;
}

static void name_from(const char *pattern, unsigned int which, char *name)
{
	uint64_t state = seed * 1000003 + which;
	size_t used = 0;

	for (; *pattern && used < NAME_SIZE - 1; pattern++) {
		if (*pattern != '*') {
			name[used++] = *pattern;
			continue;
		}
		for (int i = 0; i < 6 && used < NAME_SIZE - 1; i++)
			name[used++] = 'a' + mix(&state) % 26;
	}
	name[used] = 0;
}

static void join_class(unsigned int which)
{
	char name[NAME_SIZE];

	name_from(class_name, which, name);
	prctl(PR_SET_NAME, name);
	if (cgroup) {
		char path[PATH_MAX];
		FILE *file;

		snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup);
		file = fopen(path, "w");
		if (!file || fprintf(file, "0\n") < 0 || fclose(file))
			die(path);
	}
	if (priority && sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){ .sched_priority = priority }))
		die("SCHED_FIFO");
	if (uid >= 0 && (setgid(uid) || setuid(uid)))
		die("setuid");
}

/* A child that dies with us; it waits at the gate unless told otherwise. */
static pid_t child(void)
{
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	if (pid == 0)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

static void wait_at_gate(void)
{
	char byte;

	close(gate[1]);
	while (read(gate[0], &byte, 1) < 0 && errno == EINTR)
		;
}

static int64_t open_gate(void)
{
	int64_t begin;

	sleep_until(now() + 15 * NS_PER_MS); /* all are at the gate by then */
	begin = now();
	close(gate[1]);
	return begin;
}

static void finish(struct group *group, uint64_t units)
{
	int64_t end = now(), seen = group->last_ns;

	__atomic_add_fetch(&group->units, units, __ATOMIC_RELAXED);
	__atomic_add_fetch(&group->cpu_ns, clock_ns(CLOCK_PROCESS_CPUTIME_ID), __ATOMIC_RELAXED);
	while (end > seen && !__atomic_compare_exchange_n(&group->last_ns, &seen, end, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
	_exit(0);
}

static void note_late(struct group *group, int64_t late)
{
	uint32_t at = __atomic_fetch_add(&group->count, 1, __ATOMIC_RELAXED);

	if (at < MAX_LATE)
		group->late[at] = late;
}

/* Wake up every `period`, `wakeups` times (0: until it is over), and work a little each time. */
static void waker(struct group *group, int64_t first, int64_t period, uint64_t wakeups, uint64_t units)
{
	uint64_t done = 0;

	for (int64_t when = first; wakeups ? done < wakeups : !board->stop; done++) {
		int64_t late;

		sleep_until(when);
		late = now() - when;
		note_late(group, late);
		work(units);
		when += period * (1 + late / period); /* what was overslept is not made up for */
	}
	finish(group, done);
}

static int ascending(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return x < y ? -1 : x > y;
}

static int64_t units_per_second(void)
{
	enum { TRIES = 25, UNITS = 30000 };
	int64_t took[TRIES];

	for (int i = 0; i < TRIES; i++) {
		int64_t begin = now();

		work(UNITS);
		took[i] = now() - begin;
	}
	qsort(took, TRIES, sizeof(*took), ascending); /* the median: as fast as this machine is while others use it too */
	return UNITS * NS_PER_S / (took[TRIES / 2] + 1);
}

/* Two small periodic tasks of the others, until `stop`. */
static void start_watchers(pid_t *pids, uint64_t units)
{
	for (int i = 0; i < WATCHERS; i++) {
		char name[NAME_SIZE];

		pids[i] = child();
		if (pids[i])
			continue;
		name_from(others_name, 5000 + i, name);
		prctl(PR_SET_NAME, name);
		wait_at_gate();
		waker(&board->others, now() + WATCH_PERIOD * i / WATCHERS, WATCH_PERIOD, 0, units);
	}
}

static void reap(const pid_t *pids, int n, const char *what)
{
	for (int i = 0; i < n; i++) {
		int status;

		while (waitpid(pids[i], &status, 0) < 0)
			if (errno != EINTR)
				die("waitpid");
		if (status) {
			fprintf(stderr, "schedtrial: a process of %s failed (%#x)\n", what, status);
			exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
		}
	}
}

static void print_group(const char *name, struct group *group)
{
	static const int percent[] = { 50, 90, 95, 99 };
	uint32_t n = group->count < MAX_LATE ? group->count : MAX_LATE;

	printf(",\"%s\":{\"units\":%llu,\"cpu_ns\":%lld", name, (unsigned long long)group->units, (long long)group->cpu_ns);
	if (n) {
		qsort(group->late, n, sizeof(int64_t), ascending);
		for (size_t i = 0; i < sizeof(percent) / sizeof(*percent); i++)
			printf(",\"late_p%d_ns\":%lld", percent[i], (long long)group->late[(uint64_t)(n - 1) * percent[i] / 100]);
		printf(",\"late_count\":%u", n);
	}
	printf("}");
}

static int report(const char *workload, int64_t elapsed)
{
	printf("{\"workload\":\"%s\",\"elapsed_ns\":%lld,\"cpus\":%ld", workload, (long long)elapsed,
	       sysconf(_SC_NPROCESSORS_ONLN));
	print_group("class", &board->class);
	print_group("others", &board->others);
	printf("}\n");
	return 0;
}

/* ---- longtail ---- */

static int longtail(int jobs, int factor, uint64_t units, uint64_t watch)
{
	pid_t pids[MAX_TASKS], watchers[WATCHERS];
	uint64_t state = seed;
	int tail = mix(&state) % jobs;
	int64_t begin;

	start_watchers(watchers, watch);
	for (int i = 0; i < jobs; i++) {
		pids[i] = child();
		if (pids[i])
			continue;
		join_class(i);
		wait_at_gate();
		work(i == tail ? units * factor : units);
		finish(&board->class, 1);
	}
	begin = open_gate();
	reap(pids, jobs, "longtail");
	board->stop = 1;
	reap(watchers, WATCHERS, "the others");
	return report("longtail", board->class.last_ns - begin);
}

/* ---- mixed ---- */

static void hog(struct group *group)
{
	uint64_t units = 0;

	for (; !board->stop; units += 8)
		work(8);
	finish(group, units);
}

static int mixed(int hogs_are_class, int wakers, int64_t period, uint64_t wakeups, uint64_t units, int hogs)
{
	pid_t pids[MAX_TASKS], *sleepers = pids + hogs;
	int64_t begin;
	char name[NAME_SIZE];

	for (int i = 0; i < hogs + wakers; i++) {
		int is_hog = i < hogs, in_class = is_hog ? hogs_are_class && i % 2 == 0 : !hogs_are_class;
		struct group *group = in_class ? &board->class : &board->others;

		pids[i] = child();
		if (pids[i])
			continue;
		if (in_class) {
			join_class(i);
		} else {
			name_from(others_name, i, name);
			prctl(PR_SET_NAME, name);
		}
		wait_at_gate();
		if (is_hog)
			hog(group);
		waker(group, now() + period * (i - hogs) / wakers, period, wakeups, units);
	}
	begin = open_gate();
	reap(sleepers, wakers, "mixed");
	begin = now() - begin;
	board->stop = 1;
	reap(pids, hogs, "mixed");
	return report("mixed", begin);
}

/* ---- what is executed by the class: under a name of its own, by a link of that name ---- */

static void execute_as(unsigned int which, const char *program, char **argv)
{
	char name[NAME_SIZE], link[64];

	name_from(class_name, which, name);
	snprintf(link, sizeof(link), "/tmp/schedtrial/%s", name);
	if (symlink(program, link) && errno != EEXIST)
		die(link);
	argv[0] = link;
	execv(link, argv);
	fprintf(stderr, "schedtrial: %s: %s\n", program, strerror(errno));
	_exit(127);
}

static void make_folder(void)
{
	if (mkdir("/tmp/schedtrial", 0777) && errno != EEXIST)
		die("/tmp/schedtrial");
	if (chmod("/tmp/schedtrial", 0777))
		die("/tmp/schedtrial");
}

/* ---- messaging ---- */

static int messaging(const char *groups, const char *fds, const char *loops, uint64_t watch)
{
	char *argv[] = { NULL, "-g", (char *)groups, "-f", (char *)fds, "-l", (char *)loops, NULL };
	pid_t pid, watchers[WATCHERS];
	struct rusage used;
	char text[4096];
	size_t length = 0;
	int out[2], status;
	double seconds;
	char *found;
	ssize_t got;

	make_folder();
	start_watchers(watchers, watch);
	if (pipe(out))
		die("pipe");
	pid = child();
	if (pid == 0) {
		dup2(out[1], 1);
		close(out[0]), close(out[1]);
		join_class(0);
		wait_at_gate();
		execute_as(0, "/bin/hackbench", argv);
	}
	close(out[1]);
	open_gate();
	while (length < sizeof(text) - 1 && (got = read(out[0], text + length, sizeof(text) - 1 - length)) > 0)
		length += got;
	text[length] = 0;
	if (wait4(pid, &status, 0, &used) != pid)
		die("wait4");
	board->stop = 1;
	reap(watchers, WATCHERS, "the others");
	found = strstr(text, "Time: ");
	if (status || !found || sscanf(found, "Time: %lf", &seconds) != 1 || !(seconds > 0)) {
		fprintf(stderr, "schedtrial: hackbench gave no time (%#x): %s\n", status, text);
		return WIFEXITED(status) && WEXITSTATUS(status) ? WEXITSTATUS(status) : 1;
	}
	board->class.units = strtoul(groups, NULL, 10) * strtoul(fds, NULL, 10) * strtoul(fds, NULL, 10) * strtoul(loops, NULL, 10);
	board->class.cpu_ns = (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * NS_PER_S +
			      (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * NS_PER_US;
	return report("messaging", seconds * NS_PER_S);
}

/* ---- pipeline ---- */

struct token {
	int64_t born;
};

static void pass_on(int from, int to, uint64_t items, uint64_t units, int last)
{
	struct token token;

	for (uint64_t i = 0; i < items; i++) {
		if (read(from, &token, sizeof(token)) != sizeof(token))
			die("pipe");
		work(units);
		if (last) /* the token becomes leave to send another one */
			note_late(&board->class, now() - token.born);
		if (write(to, &token, sizeof(token)) != sizeof(token))
			die("pipe");
	}
}

static void source(int leave, int to, uint64_t items, uint64_t units)
{
	enum { IN_FLIGHT = 4 };
	struct token token;

	for (uint64_t i = 0; i < items; i++) {
		if (i >= IN_FLIGHT && read(leave, &token, sizeof(token)) != sizeof(token))
			die("pipe");
		token.born = now();
		work(units);
		if (write(to, &token, sizeof(token)) != sizeof(token))
			die("pipe");
	}
}

static int pipeline(int lines, int stages, uint64_t items, uint64_t units, uint64_t watch)
{
	pid_t pids[MAX_TASKS], watchers[WATCHERS];
	int64_t begin;
	int ends[MAX_TASKS][2];

	start_watchers(watchers, watch);
	for (int line = 0; line < lines; line++) {
		for (int stage = 0; stage < stages; stage++) /* pipe k leads to stage k; pipe 0 is the way back */
			if (pipe(ends[stage]))
				die("pipe");
		for (int stage = 0; stage < stages; stage++) {
			int which = line * stages + stage, next = ends[(stage + 1) % stages][1];

			pids[which] = child();
			if (pids[which])
				continue;
			join_class(which);
			wait_at_gate();
			if (stage == 0)
				source(ends[0][0], next, items, units);
			else
				pass_on(ends[stage][0], next, items, units, stage == stages - 1);
			finish(&board->class, stage == stages - 1 ? items : 0);
		}
		/* Ours stay open until the end: the last tokens sent back have no reader, and need none. */
	}
	begin = open_gate();
	reap(pids, lines * stages, "pipeline");
	board->stop = 1;
	reap(watchers, WATCHERS, "the others");
	return report("pipeline", board->class.last_ns - begin);
}

/* ---- build: generate, compile, archive, link ---- */

enum { GENERATED = 2, A_LIBRARY = 4 };

static void copy_through(const char *path, int flags)
{
	static char chunk[CHUNK];
	int fd = open(path, flags, 0666);
	ssize_t done;

	if (fd < 0)
		die(path);
	for (int i = 0; i < 4; i++) {
		done = flags & O_CREAT ? write(fd, chunk, CHUNK) : read(fd, chunk, CHUNK);
		if (done < 0)
			die(path);
	}
	close(fd);
}

/* What an executed step does: read its inputs, compute, write its output. */
static int step(uint64_t units, const char *output, char **inputs)
{
	for (; *inputs; inputs++)
		copy_through(*inputs, O_RDONLY);
	work(units);
	copy_through(output, O_WRONLY | O_CREAT | O_TRUNC);
	return 0;
}

static int ready(int job, int compiles, int libraries, const char *done)
{
	int first = 0, last = 0; /* what it needs: jobs first to last - 1 */

	if (job >= GENERATED + compiles + libraries) {
		first = GENERATED + compiles, last = first + libraries;
	} else if (job >= GENERATED + compiles) {
		first = GENERATED + (job - GENERATED - compiles) * A_LIBRARY;
		last = first + A_LIBRARY < GENERATED + compiles ? first + A_LIBRARY : GENERATED + compiles;
	} else if (job >= GENERATED) {
		first = job % GENERATED, last = first + 1;
	}
	for (; first < last; first++)
		if (!done[first])
			return 0;
	return 1;
}

static pid_t start_step(int job, int compiles, uint64_t units)
{
	char amount[24], output[64], input[64], *argv[] = { NULL, "step", amount, output, input, NULL };
	uint64_t state = seed * 7919 + job;
	pid_t pid;

	/* A compile takes half to twice the units; what comes before and after is short. */
	snprintf(amount, sizeof(amount), "%llu", (unsigned long long)(job >= GENERATED && job < GENERATED + compiles ?
		 units / 2 + mix(&state) % (units * 3 / 2 + 1) : units / 2));
	snprintf(output, sizeof(output), "/tmp/schedtrial/out.%d", job);
	snprintf(input, sizeof(input), "/tmp/schedtrial/out.%d", job >= GENERATED ? job % GENERATED : 0);
	if (job < GENERATED)
		argv[4] = NULL;
	pid = child();
	if (pid == 0)
		execute_as(100 + job, "/bin/schedtrial", argv);
	return pid;
}

/* The part of make: it is of the class too, as a build's make would be. */
static void make(int slots, int compiles, uint64_t units)
{
	int libraries = (compiles + A_LIBRARY - 1) / A_LIBRARY, jobs = GENERATED + compiles + libraries + 1;
	char started[MAX_TASKS] = { 0 }, done[MAX_TASKS] = { 0 };
	pid_t pids[MAX_TASKS] = { 0 };
	struct rusage used;

	for (int running = 0, finished = 0; finished < jobs;) {
		int status, job;
		pid_t pid;

		for (job = 0; job < jobs && running < slots; job++) {
			if (started[job] || !ready(job, compiles, libraries, done))
				continue;
			started[job] = 1;
			pids[job] = start_step(job, compiles, units);
			running++;
		}
		pid = wait(&status);
		if (pid < 0 || status)
			die("a step of the build");
		for (job = 0; pids[job] != pid; job++)
			;
		done[job] = 1;
		finished++, running--;
	}
	getrusage(RUSAGE_CHILDREN, &used);
	board->class.cpu_ns = (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * NS_PER_S +
			      (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * NS_PER_US;
	finish(&board->class, compiles);
}

static int build(int slots, int compiles, uint64_t units, uint64_t watch)
{
	pid_t pid, watchers[WATCHERS];
	int64_t begin;

	make_folder();
	start_watchers(watchers, watch);
	pid = child();
	if (pid == 0) {
		join_class(0);
		wait_at_gate();
		make(slots, compiles, units);
	}
	begin = open_gate();
	reap(&pid, 1, "build");
	board->stop = 1;
	reap(watchers, WATCHERS, "the others");
	return report("build", board->class.last_ns - begin);
}

/* ---- the command line ---- */

/* Options up to the first word that is none; `watch` is how much a watcher works each time. */
static int take_options(int argc, char **argv, uint64_t *watch)
{
	int taken = 0;

	for (; taken + 1 < argc && !strncmp(argv[taken], "--", 2); taken += 2) {
		const char *value = argv[taken + 1];

		if (!strcmp(argv[taken], "--comm"))
			class_name = value;
		else if (!strcmp(argv[taken], "--others"))
			others_name = value;
		else if (!strcmp(argv[taken], "--seed"))
			seed = number(value, 0, LONG_MAX);
		else if (!strcmp(argv[taken], "--uid"))
			uid = number(value, 0, INT_MAX);
		else if (!strcmp(argv[taken], "--cgroup"))
			cgroup = value;
		else if (!strcmp(argv[taken], "--fifo"))
			priority = number(value, 1, 99);
		else if (!strcmp(argv[taken], "--watch"))
			*watch = number(value, 0, LONG_MAX);
		else
			usage();
	}
	return taken;
}

int main(int argc, char **argv)
{
	uint64_t watch = 0;
	const char *what;
	int taken;

	argv++, argc--;
	if (argc >= 3 && !strcmp(*argv, "step"))
		return step(number(argv[1], 0, LONG_MAX), argv[2], argv + 3);
	taken = take_options(argc, argv, &watch);
	argv += taken, argc -= taken;
	if (argc < 1)
		usage();
	what = *argv++, argc--;
	if (!strcmp(what, "calibrate") && argc == 0) {
		int64_t rate = units_per_second();

		printf("{\"units_per_s\":%lld,\"watch_units\":%lld}\n", (long long)rate,
		       (long long)(rate * WATCH_PERIOD / NS_PER_S / WATCH_PART));
		return 0;
	}
	board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (board == MAP_FAILED || pipe(gate))
		die("memory");
	umask(0); /* what one user's run leaves in /tmp another's may write over */
	if (cgroup && mkdir(cgroup, 0755) && errno != EEXIST)
		die(cgroup);
	if (!strcmp(what, "longtail") && argc == 3)
		return longtail(number(argv[0], 2, MAX_TASKS), number(argv[1], 1, 1000), number(argv[2], 1, LONG_MAX / 1000),
				watch);
	if (!strcmp(what, "mixed") && argc == 6 && (!strcmp(argv[0], "wakers") || !strcmp(argv[0], "hogs")))
		return mixed(!strcmp(argv[0], "hogs"), number(argv[1], 1, 256), number(argv[2], 100, 1000000) * NS_PER_US,
			     number(argv[3], 1, 100000), number(argv[4], 0, LONG_MAX / 1000), number(argv[5], 0, 256));
	if (!strcmp(what, "messaging") && argc == 3) {
		for (int i = 0; i < 3; i++)
			number(argv[i], 1, 100000);
		return messaging(argv[0], argv[1], argv[2], watch);
	}
	if (!strcmp(what, "pipeline") && argc == 4)
		return pipeline(number(argv[0], 1, 32), number(argv[1], 2, 16), number(argv[2], 1, 100000),
				number(argv[3], 0, LONG_MAX / 1000), watch);
	if (!strcmp(what, "build") && argc == 3)
		return build(number(argv[0], 1, 256), number(argv[1], 1, 512), number(argv[2], 2, LONG_MAX / 1000), watch);
	usage();
}
