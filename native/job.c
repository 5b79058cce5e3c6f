/* The handle that Python holds on a spawn: made, given its Plans, asked how it goes, and let go of. */
#define _GNU_SOURCE
#include "spawn.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include "pool.h"

creche_job *newest;

static void close_plan(struct plan *plan)
{
	for (unsigned i = 0; i < plan->fds.count; i++)
		close(plan->fds.list[i]);
	plan->fds.count = 0;
}

static void drop_plan(struct plan *plan)
{
	struct plan dropped;

	jobs_lock();
	close_plan(plan);
	dropped = *plan;
	*plan = (struct plan){ 0 };
	jobs_unlock();
	free(dropped.fds.list);
	free(dropped.blob);
}

void drop_plans(creche_job *job)
{
	drop_plan(&job->parent);
	drop_plan(&job->setup);
	drop_plan(&job->command);
}

void close_job(creche_job *job)
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

void release(creche_job *job)
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
	drop_plans(job);
	if (job->report)
		munmap(job->report, sizeof *job->report);
	free(job->stack);
	free(job);
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
	int ends[2], r = prepare(&job->exe, &job->supervisor);

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
	notice_fork();
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
	void *copy;
	int r;

	if (count > CRECHE_MAX_FDS || !size)
		return -EINVAL;
	copy = malloc(size);
	if (!copy)
		return -ENOMEM;
	memcpy(copy, blob, size);
	jobs_lock();
	r = job->cancelled ? -ECANCELED : plan->blob ? -EINVAL : copy_fds(&plan->fds, fds, count);
	if (r >= 0) {
		plan->blob = copy;
		plan->size = size;
		copy = 0;
	}
	jobs_unlock();
	free(copy);
	return r;
}

void creche_job_run(creche_job *job, uint32_t flags, uint32_t rows, uint32_t columns)
{
	job->run_flags = flags;
	job->rows = rows;
	job->columns = columns;
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

void creche_job_free(creche_job *job)
{
	give_up(job);
	release(job);
}
