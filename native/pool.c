/* The threads that carry spawns out, and their queue. */
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
static pthread_cond_t more = PTHREAD_COND_INITIALIZER, room = PTHREAD_COND_INITIALIZER, plans = PTHREAD_COND_INITIALIZER;
static creche_job *first, **last = &first;
static unsigned queued, idle, workers, underway, most_underway;
static int prepared, supervisor_fd = -1, supervisor_pid, exe_fd = -1;

void jobs_lock(void) { pthread_mutex_lock(&lock); }
void jobs_unlock(void) { pthread_mutex_unlock(&lock); }

void settle(creche_job *job)
{
	if (job->underway) {
		underway--;
		pthread_cond_signal(&room);
	}
	job->underway = 0;
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
		drop_plans(job); /* what the child needed is not needed any more; the descriptors above all */
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
	pthread_cond_init(&plans, 0);
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

void notice_fork(void)
{
	if (supervisor_pid && supervisor_pid != getpid())
		forget();
}

int prepare(int *exe, int *supervisor)
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
	*exe = exe_fd;
	*supervisor = supervisor_fd;
	return exe_fd < 0 ? exe_fd : keep_low(exe_fd);
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

void creche_job_go(creche_job *job)
{
	jobs_lock();
	job->planned = 1;
	pthread_cond_broadcast(&plans);
	jobs_unlock();
}

/* Nobody waits for it any more; with the lock held. */
static void cancel(creche_job *job)
{
	__atomic_store_n(&job->cancelled, 1, __ATOMIC_SEQ_CST);
	pthread_cond_broadcast(&plans);
}

void give_up(creche_job *job)
{
	jobs_lock();
	if (!job->planned)
		cancel(job);
	jobs_unlock();
}

long await_plans(creche_job *job)
{
	int planned;

	jobs_lock();
	while (!job->planned && !job->cancelled)
		pthread_cond_wait(&plans, &lock);
	planned = job->planned;
	jobs_unlock();
	return planned ? 0 : -ECANCELED;
}

void creche_job_cancel(creche_job *job)
{
	creche_job **at = &first;

	jobs_lock();
	cancel(job);
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

int creche_init_program(void)
{
	int r, exe, supervisor;

	jobs_lock();
	r = prepare(&exe, &supervisor);
	jobs_unlock();
	return r < 0 ? r : exe;
}
