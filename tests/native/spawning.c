/* The pool of spawns under sanitizers: the kernel is the real one, but clone3 does what a scene of the test wants. */
#include "pool.c"
#include <assert.h>
#include <linux/sched.h>
#include <poll.h>
#include <sys/wait.h>

/* spawning SCENE: ends with status 0 where all was well; an alarm ends what hangs. */

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static int stale = -1, gated, real_children, children;
static long trace[64];
static unsigned traced;
static int tracing;

static long raw(long nr, long a, long b, long c, long d, long e, long f)
{
	long r = syscall(nr, a, b, c, d, e, f);
	return r < 0 ? -errno : r;
}

/* clone3: a child that dies at once, or a failure as a cgroup's limit of pids gives it, after the pidfd's number is told. */
static long cloned(struct clone_args *args)
{
	if (gated) {
		pthread_mutex_lock(&gate);
		pthread_mutex_unlock(&gate);
	}
	if (real_children) {
		pid_t pid = fork();
		if (!pid)
			_exit(0);
		assert(pid > 0);
		__atomic_add_fetch(&children, 1, __ATOMIC_SEQ_CST);
		*(int *)(uintptr_t)args->parent_tid = pid;
		*(int *)(uintptr_t)args->pidfd = (int)raw(__NR_pidfd_open, pid, 0, 0, 0, 0, 0);
		if (args->flags & CLONE_CHILD_CLEARTID) /* as it lets go of the memory */
			__atomic_store_n((uint32_t *)(uintptr_t)args->child_tid, 0, __ATOMIC_SEQ_CST);
		return pid;
	}
	if (args->pidfd)
		*(int *)(uintptr_t)args->pidfd = stale;
	return -EAGAIN;
}

long creche_record(long nr, long a, long b, long c, long d, long e, long f)
{
	if (tracing && traced < 64)
		trace[traced++] = nr;
	if (nr == __NR_clone3)
		return cloned((struct clone_args *)a);
	if (tracing && (nr == __NR_prctl || nr == __NR_setns || nr == __NR_setgroups))
		return 0;
	return raw(nr, a, b, c, d, e, f);
}

static struct { struct creche_header header; char text[8]; } plan = {
	{ CRECHE_MAGIC, CRECHE_ABI, sizeof plan, 0, sizeof(struct creche_header), 0 }, "" };

static creche_job *without_plans(uint32_t flags, int *control)
{
	int error;
	creche_job *job = creche_job_new(flags, 0, 0, 0, control, &error);

	assert(job && !error && *control >= 0);
	return job;
}

static void give_plans(creche_job *job)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	assert(!creche_job_plan(job, CRECHE_PHASE_PARENT, &plan, sizeof plan, 0, 0));
	assert(!creche_job_plan(job, CRECHE_PHASE_SETUP, &plan, sizeof plan, &fd, 1));
	assert(!creche_job_plan(job, CRECHE_PHASE_COMMAND, &plan, sizeof plan, &fd, 1));
	creche_job_go(job);
	close(fd);
}

static creche_job *job(uint32_t flags, int *control)
{
	creche_job *job = without_plans(flags, control);

	give_plans(job);
	return job;
}

/* The end of the control socket, after whatever lies in it. */
static void ends(int control)
{
	char byte;
	struct pollfd fd = { control, POLLIN, 0 };
	assert(poll(&fd, 1, 10000) == 1);
	while (recv(control, &byte, 1, MSG_DONTWAIT) > 0)
		;
	assert(recv(control, &byte, 1, MSG_DONTWAIT) == 0 || errno == ECONNRESET);
	close(control);
}

static unsigned open_fds(void)
{
	unsigned n = 0;
	for (int fd = 0; fd < 1000; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* Every child is reaped, by the last who lets go of its job: soon, where that is a worker. */
static void no_child_is_left(void)
{
	siginfo_t info;
	for (int tries = 0; tries < 1000 && !waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT | __WALL); tries++)
		usleep(10000);
	assert(waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) == -1 && errno == ECHILD);
}

static void a_late_failure(void)
{
	struct creche_failure failure;
	int control;

	for (uint32_t flags = 0; flags < 8; flags++) {
		creche_job *one;
		stale = open("/dev/null", O_RDONLY | O_CLOEXEC); /* by now the number is another's */
		one = job(flags, &control);
		assert(!creche_job_submit(one));
		ends(control);
		assert(creche_job_state(one) == CRECHE_DEAD);
		assert(creche_job_failure(one, &failure) && failure.error == EAGAIN && failure.detail == CRECHE_DETAIL_CLONE);
		creche_job_cancel(one);
		assert(creche_job_take(one) == -1);
		creche_job_free(one);
		assert(fcntl(stale, F_GETFD) >= 0);
		close(stale);
	}
}

static void a_dead_reader(void)
{
	char junk[64] = { 0 };
	int control;
	creche_job *one = job(CRECHE_SPAWN_INIT, &control);

	real_children = 1;
	while (send(one->socket, junk, sizeof junk, MSG_DONTWAIT) > 0)
		;
	assert(errno == EAGAIN);
	assert(!creche_job_submit(one));
	while (creche_job_state(one) < CRECHE_RUNNING)
		usleep(1000);
	ends(control);
	creche_job_free(one);
	no_child_is_left();
}

static void a_cancel_in_the_queue(void)
{
	int controls[WORKERS + 1];
	creche_job *jobs[WORKERS + 1];
	struct creche_failure failure;

	gated = 1;
	pthread_mutex_lock(&gate);
	for (int i = 0; i <= WORKERS; i++) {
		jobs[i] = job(CRECHE_SPAWN_INIT, &controls[i]);
		assert(!creche_job_submit(jobs[i]));
	}
	creche_job_cancel(jobs[WORKERS]);
	ends(controls[WORKERS]);
	assert(creche_job_state(jobs[WORKERS]) == CRECHE_DEAD);
	assert(creche_job_failure(jobs[WORKERS], &failure) && failure.error == ECANCELED);
	creche_job_free(jobs[WORKERS]);
	for (int i = 0; i < WORKERS; i++)
		creche_job_cancel(jobs[i]);
	pthread_mutex_unlock(&gate);
	for (int i = 0; i < WORKERS; i++) {
		ends(controls[i]);
		creche_job_free(jobs[i]);
	}
}

/* A child is made before its Plans are there; they may come, or never: its job is cancelled then, or let go of. A copy is not made. */
static void plans_that_come_late(void)
{
	struct creche_failure failure;
	unsigned before;

	real_children = 1;
	before = open_fds();
	for (uint32_t flags = 0; flags < 4; flags++) {
		for (int end = 0; end < 3; end++) {
			int control, copy = flags & CRECHE_SPAWN_COPY, made = children;
			creche_job *one = without_plans(flags, &control);
			assert(!creche_job_submit(one));
			while (creche_job_state(one) != CRECHE_CLONING || (!copy && __atomic_load_n(&children, __ATOMIC_SEQ_CST) == made))
				usleep(1000);
			usleep(20000);
			assert(creche_job_state(one) == CRECHE_CLONING && (!copy || __atomic_load_n(&children, __ATOMIC_SEQ_CST) == made));
			if (end == 0)
				give_plans(one);
			else if (end == 1)
				creche_job_cancel(one);
			else
				creche_job_free(one);
			ends(control);
			if (end == 2)
				continue;
			assert(creche_job_state(one) == (end ? CRECHE_DEAD : CRECHE_RUNNING));
			assert(!end || (creche_job_failure(one, &failure) && failure.error == ECANCELED));
			creche_job_free(one);
		}
	}
	/* What all jobs share, and the low numbers, are kept. */
	for (int tries = 0; open_fds() > before + 2 + WORKERS && tries < 500; tries++)
		usleep(10000);
	assert(open_fds() <= before + 2 + WORKERS);
	no_child_is_left();
}

/* A fork of the host program while a spawn is under way keeps no end of its socket, and can make spawns of its own. */
static void a_fork(void)
{
	int control, status, theirs;
	creche_job *one = job(CRECHE_SPAWN_INIT, &control);
	pid_t pid;

	gated = 1;
	pthread_mutex_lock(&gate);
	assert(!creche_job_submit(one));
	while (creche_job_state(one) != CRECHE_CLONING)
		usleep(1000);
	pid = fork();
	if (!pid) {
		creche_job *own;
		alarm(20);
		gated = 0;
		own = job(CRECHE_SPAWN_INIT, &theirs);
		assert(!creche_job_submit(own));
		ends(theirs);
		creche_job_free(own);
		creche_job_cancel(one);
		creche_job_free(one);
		pause();
	}
	pthread_mutex_unlock(&gate);
	ends(control);
	kill(pid, SIGKILL);
	assert(waitpid(pid, &status, 0) == pid && WTERMSIG(status) == SIGKILL); /* and not of an assertion before */
	creche_job_free(one);
}

static int is_device(int fd)
{
	struct stat st;

	return !fstat(fd, &st) && S_ISCHR(st.st_mode);
}

/* The host program becomes a daemon, closes all that is open and opens files of its own under the same numbers. */
static void all_is_closed(void)
{
	int control, before = -1;

	for (int round = 0; round < 2; round++) {
		creche_job *one = job(CRECHE_SPAWN_INIT, &control);
		assert(!raw(__NR_pidfd_send_signal, one->supervisor, 0, 0, 0, 0, 0));
		assert(fcntl(one->exe, F_GET_SEALS) == SEALS);
		assert(before < 0 || fcntl(before, F_GETFD) >= 0);
		lend_low(one);
		assert(one->low >= 0);
		take_low_back(one);
		for (int fd = 3; before >= 0 && fd < before + 10; fd++)
			assert(is_device(fd)); /* theirs still */
		creche_job_free(one);
		close(control);
		before = exe_fd;
		syscall(__NR_close_range, 3, ~0u, 0);
		while (open("/dev/null", O_RDONLY | O_CLOEXEC) < before + 10)
			;
	}
	creche_job *late = job(CRECHE_SPAWN_INIT, &control);
	syscall(__NR_close_range, 3, ~0u, 0);
	while (open("/dev/null", O_RDONLY | O_CLOEXEC) < before + 20)
		;
	lend_low(late);
	assert(late->low < 0);
	creche_job_free(late);
}

static void joining_is_undumpable(void)
{
	int pipe_ends[2];
	long birth[2];
	creche_job one = { .join_count = 2 };

	assert(!pipe(pipe_ends));
	one.side = pipe_ends[1];
	tracing = 1;
	join_and_clone(&one);
	tracing = 0;
	assert(trace[0] == __NR_prctl);
	assert(trace[2] == __NR_setns && trace[3] == __NR_setns && trace[4] == __NR_clone3);
	assert(read(pipe_ends[0], birth, sizeof birth) == sizeof birth && birth[0] == -EAGAIN && birth[1] == -1);
}

static void submits_one(void)
{
	int control;
	creche_job *one = job(CRECHE_SPAWN_INIT, &control);

	assert(!creche_job_submit(one));
	creche_job_cancel(one);
	ends(control);
	creche_job_free(one);
}

/* A view whose maker dies fails the start that needs it, and leaves nothing; the oldest of many is forgotten. */
static void a_view(void)
{
	struct creche_failure failure;
	creche_job *one;
	unsigned before;
	int control;

	real_children = 1;
	submits_one();
	before = open_fds();
	for (uint64_t number = 1; number <= 20; number++)
		assert(!creche_view_new(number, &plan, sizeof plan, &plan, sizeof plan));
	one = job(CRECHE_SPAWN_INIT, &control);
	assert(creche_job_view(one, 1) == -ENOENT && creche_job_view(one, 99) == -ENOENT && !creche_job_view(one, 20));
	for (uint64_t number = 21; number <= 40; number++) /* forgotten while a job has it */
		assert(!creche_view_new(number, &plan, sizeof plan, &plan, sizeof plan));
	assert(!creche_job_submit(one));
	ends(control);
	assert(creche_job_state(one) == CRECHE_DEAD && creche_job_failure(one, &failure) && failure.error == EPIPE);
	creche_job_free(one);
	drop_trees();
	for (int tries = 0; open_fds() > before && tries < 500; tries++)
		usleep(10000);
	assert(open_fds() <= before);
	no_child_is_left();
}

static void *submits(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;

	for (int i = 0; i < 100; i++) {
		int control;
		int late = rand_r(&seed) % 2;
		creche_job *one = late ? without_plans(CRECHE_SPAWN_INIT, &control) : job(CRECHE_SPAWN_INIT, &control);
		if (!(rand_r(&seed) % 16)) { /* made, and never submitted */
			close(control);
			creche_job_free(one);
			continue;
		}
		assert(!creche_job_submit(one));
		if (late && rand_r(&seed) % 4)
			give_plans(one);
		else if (late && rand_r(&seed) % 2) { /* let go of before its Plans are there */
			close(control);
			creche_job_free(one);
			continue;
		} else if (late) {
			creche_job_cancel(one);
		}
		switch (rand_r(&seed) % 3) {
		case 0:
			creche_job_cancel(one);
			ends(control);
			break;
		case 1:
			ends(control);
			creche_job_cancel(one);
			break;
		default: /* let go of while it is under way */
			creche_job_cancel(one);
			close(control);
		}
		creche_job_free(one);
	}
	return 0;
}

static void a_storm(void)
{
	pthread_t threads[4];
	unsigned before;

	real_children = 1;
	submits((void *)9);
	before = open_fds();
	for (uintptr_t i = 0; i < 4; i++)
		assert(!pthread_create(&threads[i], 0, submits, (void *)(i + 1)));
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], 0);
	for (int tries = 0; open_fds() > before && tries < 500; tries++)
		usleep(10000); /* what was let go of, a worker ends */
	assert(open_fds() <= before);
	no_child_is_left();
}

int main(int argc, char **argv)
{
	static const struct { const char *name; void (*play)(void); } scenes[] = {
		{ "a-late-failure", a_late_failure }, { "a-dead-reader", a_dead_reader }, { "a-fork", a_fork },
		{ "a-cancel-in-the-queue", a_cancel_in_the_queue }, { "joining-is-undumpable", joining_is_undumpable },
		{ "all-is-closed", all_is_closed }, { "a-storm", a_storm }, { "a-view", a_view },
		{ "plans-that-come-late", plans_that_come_late },
	};

	alarm(60);
	for (unsigned i = 0; i < sizeof scenes / sizeof *scenes; i++)
		if (argc == 2 && !strcmp(argv[1], scenes[i].name)) {
			scenes[i].play();
			return 0;
		}
	return 2;
}
