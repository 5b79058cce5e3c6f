/* The threads that carry spawns out, their queue, and the handle that Python holds on each. */
#define _GNU_SOURCE
#include "spawn.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "init_elf.h"
#include "pool.h"

enum { IDLE_MS = 5000, SLOW_MS = 100, STARTS_A_CPU = 2 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t more = PTHREAD_COND_INITIALIZER, room = PTHREAD_COND_INITIALIZER;
static creche_job *first, **last = &first, *newest;
static unsigned queued, idle, workers, underway, most_underway;
static int prepared, supervisor_fd = -1, supervisor_pid, exe_fd = -1;

void jobs_lock(void) { pthread_mutex_lock(&lock); }
void jobs_unlock(void) { pthread_mutex_unlock(&lock); }

static void close_plan(struct plan *plan)
{
	for (unsigned i = 0; i < plan->fds.count; i++)
		close(plan->fds.list[i]);
	plan->fds.count = 0;
}

static void drop_plan(struct plan *plan)
{
	jobs_lock();
	close_plan(plan);
	jobs_unlock();
	free(plan->fds.list);
	free(plan->blob);
	plan->fds.list = 0;
	plan->blob = 0;
}

/* Closes what a job holds open, but for its pidfd. */
static void close_job(creche_job *job)
{
	int *const ends[] = { &job->socket, &job->child_socket };

	for (int i = 0; i < 2; i++) {
		if (*ends[i] >= 0)
			close(*ends[i]);
		*ends[i] = -1;
	}
	for (unsigned i = 0; i < job->join_count; i++)
		close(job->joins[i]);
	job->join_count = 0;
	close_plan(&job->parent);
	close_plan(&job->setup);
	close_plan(&job->command);
}

/* The loop has taken the child over, or there is none: with the lock held. */
static void settle(creche_job *job)
{
	if (job->underway) {
		underway--;
		pthread_cond_signal(&room);
	}
	job->underway = 0;
}

static void release(creche_job *job)
{
	if (__atomic_sub_fetch(&job->holders, 1, __ATOMIC_SEQ_CST))
		return;
	kill_and_reap(job); /* where nobody took it over */
	leave_view(job);
	jobs_lock();
	settle(job);
	close_job(job);
	if (job->newer)
		job->newer->older = job->older;
	else
		newest = job->older;
	if (job->older)
		job->older->newer = job->newer;
	jobs_unlock();
	drop_plan(&job->parent);
	drop_plan(&job->setup);
	drop_plan(&job->command);
	if (job->report)
		munmap(job->report, sizeof *job->report);
	free(job->stack);
	free(job);
}

static struct timespec in_ms(long ms)
{
	struct timespec at;

	clock_gettime(CLOCK_REALTIME, &at);
	at.tv_sec += ms / 1000;
	at.tv_nsec += ms % 1000 * 1000000;
	if (at.tv_nsec >= 1000000000) {
		at.tv_nsec -= 1000000000;
		at.tv_sec++;
	}
	return at;
}

/* Children that set themselves up compete with the loop's thread for the processors: of 64 at once it got its turn every
   100 ms, of a few it does not notice. What is still under way after SLOW_MS waits for a disk, say, or for the loop
   itself, and keeps nobody back any more. */
static void wait_for_room(void)
{
	struct timespec until = in_ms(SLOW_MS);

	while (underway >= most_underway)
		if (pthread_cond_timedwait(&room, &lock, &until) == ETIMEDOUT) {
			for (creche_job *job = newest; job; job = job->older)
				settle(job);
			break;
		}
}

static void *worker(void *unused)
{
	(void)unused;
	prctl(PR_SET_NAME, "creche-spawn", 0, 0, 0);
	jobs_lock();
	for (;;) {
		struct timespec until = in_ms(IDLE_MS);
		creche_job *job;

		idle++;
		while (!first && pthread_cond_timedwait(&more, &lock, &until) != ETIMEDOUT)
			;
		idle--;
		if (!first)
			break;
		wait_for_room();
		if (!first) /* another took it, or it was cancelled */
			continue;
		job = first;
		first = job->next;
		if (!first)
			last = &first;
		queued--;
		job->underway = 1;
		underway++;
		jobs_unlock();
		carry_out(job);
		/* What the child needed is not needed any more; the descriptors above all. */
		drop_plan(&job->parent);
		drop_plan(&job->setup);
		drop_plan(&job->command);
		release(job);
		jobs_lock();
	}
	if (!--workers)
		drop_trees(); /* nobody starts anything: what lies below must not be kept busy */
	jobs_unlock();
	return 0;
}

/* A fork of the host program has none of our threads: it begins anew. What jobs hold open is the other's: kept open here,
   a control socket would never end, and a stranger's child would be ours to kill. */
static void forget(void)
{
	pthread_mutex_init(&lock, 0);
	pthread_cond_init(&more, 0);
	pthread_cond_init(&room, 0);
	for (creche_job *job = newest; job; job = job->older) {
		close_job(job);
		if (job->pidfd >= 0)
			close(job->pidfd);
		job->pidfd = -1;
		job->underway = 0;
	}
	forget_low();
	first = 0;
	last = &first;
	queued = idle = workers = underway = 0;
	drop_trees();
	if (supervisor_fd >= 0)
		close(supervisor_fd);
	supervisor_fd = -1;
	supervisor_pid = 0;
}

static int open_exe(void)
{
	char path[64];
	int fd = memfd_create("creche-init", MFD_CLOEXEC | MFD_ALLOW_SEALING | 0x10 /* MFD_EXEC, from 6.3 */), r;

	if (fd < 0 && errno == EINVAL)
		fd = memfd_create("creche-init", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	r = (int)write_all(fd, (const char *)init_elf, sizeof init_elf);
	if (r >= 0 && (fchmod(fd, 0555) < 0 || fcntl(fd, F_ADD_SEALS, SEALS) < 0))
		r = -errno;
	if (r >= 0) { /* what is open for writing can't be executed: execve(2), ETXTBSY */
		snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
		r = open(path, O_RDONLY | O_CLOEXEC);
		if (r < 0)
			r = -errno;
	}
	close(fd);
	return r;
}

/* Once a process, with the lock held: 0 or -errno. */
static int prepare(void)
{
	cpu_set_t cpus;

	if (!prepared && pthread_atfork(jobs_lock, jobs_unlock, forget))
		return -ENOMEM;
	if (!prepared)
		most_underway = STARTS_A_CPU * (sched_getaffinity(0, sizeof cpus, &cpus) < 0 ? 4 : (unsigned)CPU_COUNT(&cpus));
	prepared = 1;
	/* A host program that became a daemon has closed all that is open, ours as well: the numbers may be others' by now. */
	if (supervisor_fd >= 0 && sys4(__NR_pidfd_send_signal, supervisor_fd, 0, 0, 0) < 0)
		supervisor_fd = -1;
	if (exe_fd >= 0 && fcntl(exe_fd, F_GET_SEALS) != SEALS)
		exe_fd = -1;
	if (supervisor_fd < 0) {
		supervisor_pid = getpid();
		supervisor_fd = (int)sys2(__NR_pidfd_open, supervisor_pid, 0);
		if (supervisor_fd < 0)
			return supervisor_fd;
	}
	if (exe_fd < 0)
		exe_fd = open_exe();
	return exe_fd < 0 ? exe_fd : keep_low(exe_fd);
}

static int copy_fds(struct fds *to, const int *from, unsigned count)
{
	to->count = 0;
	to->list = malloc((count + 1) * sizeof(int));
	if (!to->list)
		return -ENOMEM;
	for (; to->count < count; to->count++) {
		to->list[to->count] = fcntl(from[to->count], F_DUPFD_CLOEXEC, 3);
		if (to->list[to->count] < 0)
			return -errno;
	}
	return 0;
}

/* Fills in what a job has from the beginning; with the lock held, so that a fork finds it whole. */
static int fill(creche_job *job, const int *joins, unsigned join_count, int *control)
{
	struct fds others;
	int ends[2], r = prepare();

	if (!r && join_count > MAX_JOINS)
		r = -EINVAL;
	if (!r && !(job->stack = malloc(STACK)))
		r = -ENOMEM;
	if (!r && job->flags & CRECHE_SPAWN_COPY) {
		void *memory = mmap(0, sizeof *job->report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		job->report = memory == MAP_FAILED ? 0 : memory;
		r = job->report ? 0 : -ENOMEM;
	}
	if (!r) {
		r = copy_fds(&others, joins, join_count);
		if (others.list)
			memcpy(job->joins, others.list, others.count * sizeof(int));
		job->join_count = others.count;
		free(others.list);
	}
	if (!r && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		r = -errno;
	if (r)
		return r;
	*control = ends[0];
	job->child_socket = ends[1];
	job->socket = fcntl(ends[0], F_DUPFD_CLOEXEC, 3);
	if (job->socket < 0) {
		r = -errno;
		close(ends[0]);
		*control = -1;
	}
	job->exe = exe_fd;
	job->supervisor = supervisor_fd;
	return r;
}

creche_job *creche_job_new(uint32_t flags, uint64_t namespaces, const int *joins, unsigned join_count, int *control, int *error)
{
	creche_job *job = calloc(1, sizeof *job);

	*control = -1;
	*error = -ENOMEM;
	if (!job)
		return 0;
	job->flags = flags;
	job->namespaces = namespaces;
	job->socket = job->child_socket = job->low = job->pidfd = job->made = -1;
	job->holders = 1;
	if (supervisor_pid && supervisor_pid != getpid())
		forget(); /* a fork that libc did not see */
	jobs_lock();
	job->older = newest;
	if (newest)
		newest->newer = job;
	newest = job;
	*error = fill(job, joins, join_count, control);
	jobs_unlock();
	if (!*error)
		return job;
	release(job);
	return 0;
}

int creche_job_plan(creche_job *job, uint32_t phase, const void *blob, uint32_t size, const int *fds, unsigned count)
{
	struct plan *plan = phase == CRECHE_PHASE_PARENT ? &job->parent : phase == CRECHE_PHASE_SETUP ? &job->setup : &job->command;
	int r;

	if (count > CRECHE_MAX_FDS || !size || plan->blob)
		return -EINVAL;
	plan->blob = malloc(size);
	if (!plan->blob)
		return -ENOMEM;
	memcpy(plan->blob, blob, size);
	plan->size = size;
	jobs_lock();
	r = copy_fds(&plan->fds, fds, count);
	jobs_unlock();
	return r;
}

void creche_job_run(creche_job *job, uint32_t flags, uint32_t rows, uint32_t columns)
{
	job->run_flags = flags;
	job->rows = rows;
	job->columns = columns;
}

int creche_job_submit(creche_job *job)
{
	sigset_t all, before;
	pthread_t thread;
	pthread_attr_t attributes;
	int r = 0;

	jobs_lock();
	if (queued >= idle && workers < WORKERS) {
		/* The children inherit a thread's mask: none of the host's handlers may run in one. */
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &before);
		pthread_attr_init(&attributes);
		pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
		pthread_attr_setstacksize(&attributes, 256 * 1024);
		r = pthread_create(&thread, &attributes, worker, 0);
		pthread_attr_destroy(&attributes);
		pthread_sigmask(SIG_SETMASK, &before, 0);
		if (!r)
			workers++;
		else if (workers)
			r = 0;
	}
	if (!r) {
		__atomic_add_fetch(&job->holders, 1, __ATOMIC_SEQ_CST);
		job->next = 0;
		*last = job;
		last = &job->next;
		queued++;
		pthread_cond_signal(&more);
	}
	jobs_unlock();
	return -r;
}

int creche_job_state(creche_job *job) { return __atomic_load_n(&job->state, __ATOMIC_SEQ_CST); }
int creche_job_pid(creche_job *job) { return job->pid; }

int creche_job_take(creche_job *job)
{
	int fd;

	jobs_lock();
	fd = job->pidfd;
	job->pidfd = -1;
	settle(job);
	jobs_unlock();
	return fd;
}

int creche_job_failure(creche_job *job, struct creche_failure *failure)
{
	*failure = job->failure;
	if (!failure->error && job->report)
		*failure = job->report->failure;
	return failure->error != 0;
}

int creche_job_executing(creche_job *job)
{
	return job->report && job->report->marked && !job->report->failure.error;
}

void creche_job_cancel(creche_job *job)
{
	creche_job **at = &first;

	__atomic_store_n(&job->cancelled, 1, __ATOMIC_SEQ_CST);
	jobs_lock();
	while (*at && *at != job)
		at = &(*at)->next;
	if (*at) { /* no worker has it: it ends here, whatever they are busy with */
		*at = job->next;
		if (!*at)
			last = at;
		queued--;
	} else {
		at = 0;
		if (job->pidfd >= 0)
			sys4(__NR_pidfd_send_signal, job->pidfd, SIGKILL, 0, 0);
	}
	jobs_unlock();
	if (at) {
		note(&job->failure, CRECHE_PHASE_CHILD, CRECHE_DETAIL_CLONE, -ECANCELED);
		finish(job, CRECHE_DEAD);
		release(job);
	}
}

void creche_job_free(creche_job *job) { release(job); }

int creche_init_program(void)
{
	int r;

	jobs_lock();
	r = prepare();
	jobs_unlock();
	return r < 0 ? r : exe_fd;
}
