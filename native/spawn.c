/* A spawn in its parent: clone3, the parent's Steps while the child waits, and the hand-over to the loop. */
#define _GNU_SOURCE
#include "spawn.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <linux/time_types.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static long clone_child(creche_job *job, uint64_t flags, int (*child)(void *))
{
	struct clone_args args;

	memset(&args, 0, sizeof args);
	args.flags = flags | job->namespaces | CLONE_PIDFD | CLONE_PARENT_SETTID | CLONE_CLEAR_SIGHAND;
	args.pidfd = (uintptr_t)&job->made;
	args.parent_tid = (uintptr_t)&job->pid;
	args.child_tid = (uintptr_t)&job->shares; /* looked at with CLONE_CHILD_CLEARTID alone */
	args.stack = (uintptr_t)job->stack;
	args.stack_size = STACK;
	return sys_clone3_stack(&args, sizeof args, child, job);
}

void kill_and_reap(creche_job *job)
{
	siginfo_t info;

	if (job->pidfd < 0)
		return;
	sys4(__NR_pidfd_send_signal, job->pidfd, SIGKILL, 0, 0);
	while (sys5(__NR_waitid, 3 /* P_PIDFD */, job->pidfd, &info, WEXITED | __WALL, 0) == -EINTR)
		;
	jobs_lock(); /* a cancel may be about to use it */
	close(job->pidfd);
	job->pidfd = -1;
	jobs_unlock();
}

/* A clone3 that fails late (the cgroup's pids) has told the number of a pidfd that is none any more, and may be another's
   by now: so it is looked at only when there is a child. */
static void adopt(creche_job *job, int pidfd)
{
	jobs_lock();
	job->pidfd = pidfd;
	jobs_unlock();
}

/* A child whose memory is a copy of ours and which joins namespaces: a process of its own enters them and makes it. */
static long clone_joined(creche_job *job)
{
	long birth[2] = { -EPROTO, -1 }, r, joiner;
	int ends[2], status;
	struct clone_args args;

	r = sys2(__NR_pipe2, ends, O_CLOEXEC | O_NONBLOCK);
	if (r < 0)
		return r;
	memset(&args, 0, sizeof args);
	args.flags = CLONE_CLEAR_SIGHAND;
	args.stack = (uintptr_t)job->stack;
	args.stack_size = STACK;
	job->side = ends[1];
	joiner = r = sys_clone3_stack(&args, sizeof args, join_and_clone, job);
	close(ends[1]);
	if (r > 0) {
		/* Its end first: a fork of the host program in between holds the pipe open for long. */
		while (sys4(__NR_wait4, joiner, &status, __WALL, 0) == -EINTR)
			;
		if (sys3(__NR_read, ends[0], birth, sizeof birth) != sizeof birth)
			birth[0] = -EPROTO;
		r = birth[0];
		if (r < 0 && birth[1] >= 0)
			failure_text(&(struct ctx){ .failure = &job->failure }, CRECHE_DETAIL_JOIN,
				     (char[1]){ (char)('0' + birth[1]) }, 1);
	}
	close(ends[0]);
	if (r <= 0)
		return r;
	job->pid = (int)r; /* not reaped before we do it: the number is its own */
	r = sys2(__NR_pidfd_open, job->pid, 0);
	if (r < 0) {
		sys2(__NR_kill, job->pid, SIGKILL);
		while (sys4(__NR_wait4, job->pid, &status, __WALL, 0) == -EINTR)
			;
		return r;
	}
	adopt(job, (int)r);
	return job->pid;
}

static long clone_copy(creche_job *job)
{
	long r;

	if (job->join_count)
		return clone_joined(job);
	r = clone_child(job, 0, job->flags & CRECHE_SPAWN_INIT ? enter_init : run_all);
	/* Where a filter around us refuses clone3 (containers' default ones answer ENOSYS, for they can't look at its flags), the
	   old call serves a child without namespaces. */
	if (r == -ENOSYS && !job->namespaces && !(job->flags & CRECHE_SPAWN_INIT)) {
		r = sys5(__NR_clone, CLONE_PIDFD, 0, &job->made, 0, 0);
		if (r == 0)
			sys1(__NR_exit_group, run_all(job));
		job->pid = (int)r;
	}
	if (r > 0)
		adopt(job, job->made);
	return r;
}

/* A child that shares our memory until its exec. It is no vfork(2): we go on meanwhile, since it waits for our half of the
   Plan. It has our thread-local storage too, of which it touches nothing (child.c). When it lets go of the memory, the kernel
   clears `shares` and wakes us (set_tid_address(2)). */
static long clone_shared(creche_job *job)
{
	long r;

	lend_low(job);
	job->shares = 1;
	r = clone_child(job, CLONE_VM | CLONE_FILES | CLONE_CHILD_CLEARTID, enter_init);
	if (r > 0)
		adopt(job, job->made);
	else
		job->shares = 0;
	return r;
}

/* Its stack and its Plan are ours to free only when it has executed the init, or is dead. That word is not cleared for a child
   whose core is dumped (before 5.16), so its pidfd is asked as well. */
static void await_exec(creche_job *job)
{
	struct pollfd dead = { job->pidfd, POLLIN, 0 };
	uint32_t shares;

	while ((shares = __atomic_load_n(&job->shares, __ATOMIC_SEQ_CST))) {
		struct __kernel_timespec now = { 0, 0 }, second = { 1, 0 };
		if (sys5(__NR_ppoll, &dead, 1, &now, 0, 8) > 0)
			break;
		sys6(__NR_futex, &job->shares, FUTEX_WAIT, shares, &second, 0, 0); /* the kernel's wake is not a private one */
	}
}

static int cancelled(creche_job *job)
{
	return __atomic_load_n(&job->cancelled, __ATOMIC_SEQ_CST);
}

/* Sends, waiting while the socket is full, but not for a child that is dead: its end of the socket is here as well, so
   it would never be told. */
static long send_to(creche_job *job, struct creche_request *request, const struct plan *plan, const int *fds, unsigned count)
{
	for (;;) {
		long r = send_with_room(job->socket, request, plan ? plan->blob : 0, plan ? plan->size : 0, fds, count);
		struct pollfd wait[2] = { { job->socket, POLLOUT, 0 }, { job->pidfd, POLLIN, 0 } };
		if (r != -EAGAIN)
			return r;
		r = sys5(__NR_ppoll, wait, 2, 0, 0, 8);
		if (r < 0 && r != -EINTR)
			return r;
		if (r > 0 && wait[1].revents)
			return -EPIPE;
	}
}

/* What the child needs to go on alone: the word to go, the trees made for it, and its Plans. */
static long hand_over(creche_job *job)
{
	struct creche_request request = { .type = CRECHE_GO };
	int fds[CRECHE_MAX_FDS], init = job->flags & CRECHE_SPAWN_INIT;
	unsigned count = job->setup.fds.count;
	long r = 0;

	memcpy(fds, job->setup.fds.list, count * sizeof(int));
	if (init && !(job->flags & CRECHE_SPAWN_AT_ONCE))
		r = send_to(job, &request, 0, 0, 0);
	for (unsigned i = IDMAPPED; i < CRECHE_SLOTS && r >= 0; i++) {
		if (job->slots[i] < 0)
			continue;
		if (count == CRECHE_MAX_FDS) { /* more than a message can hold: unix(7), SCM_MAX_FD */
			request.type = CRECHE_HOLD;
			r = init ? send_to(job, &request, 0, fds, count) : -E2BIG;
			count = 0;
		}
		fds[count++] = job->slots[i];
	}
	if (r >= 0 && !init)
		return send_to(job, &request, 0, fds, count);
	if (r >= 0) {
		request.type = CRECHE_SETUP;
		request.flags = job->command.size ? CRECHE_QUIET : 0;
		r = send_to(job, &request, &job->setup, fds, count);
	}
	if (r >= 0 && job->command.size) {
		request = (struct creche_request){ .type = CRECHE_RUN, .id = 1, .flags = job->run_flags, .a = job->rows, .b = job->columns };
		r = send_to(job, &request, &job->command, job->command.fds.list, job->command.fds.count);
	}
	return r;
}

/* The parent's half of the Plan, while the child waits for it. */
static long parents_half(creche_job *job)
{
	struct ctx c = { .slots = job->slots, .failure = &job->failure, .phase = CRECHE_PHASE_PARENT,
		.pid_child = job->pid, .pidfd_child = job->pidfd, .report_fd = -1 };
	long r;

	for (unsigned i = 0; i < CRECHE_SLOTS; i++)
		job->slots[i] = -1;
	r = run_plan(&c, &job->parent, job->parent.fds.list, job->parent.fds.count);
	if (r >= 0)
		r = hand_over(job);
	for (unsigned i = IDMAPPED; i < CRECHE_SLOTS; i++)
		if (job->slots[i] >= 0)
			close(job->slots[i]);
	/* A child that has died meanwhile has said why, where the loop will read it. */
	return r == -EPIPE || r == -ECONNRESET ? 0 : r;
}

/* The end of this socket wakes the loop, which then reads the state: so the state comes first. */
void finish(creche_job *job, int state)
{
	__atomic_store_n(&job->state, state, __ATOMIC_SEQ_CST);
	jobs_lock();
	close(job->child_socket);
	job->child_socket = -1;
	jobs_unlock();
}

void carry_out(creche_job *job)
{
	long r, waited, copy = job->flags & CRECHE_SPAWN_COPY;

	__atomic_store_n(&job->state, CRECHE_CLONING, __ATOMIC_SEQ_CST);
	r = copy ? await_plans(job) : 0; /* it has them with our memory */
	if (r >= 0)
		r = cancelled(job) ? -ECANCELED : copy ? clone_copy(job) : clone_shared(job);
	if (r < 0 && !job->failure.error)
		note(&job->failure, CRECHE_PHASE_CHILD, job->failure.detail ? job->failure.detail : CRECHE_DETAIL_CLONE, r);
	waited = await_plans(job); /* the loop may be at them, though there is no child */
	if (r >= 0) {
		__atomic_store_n(&job->state, CRECHE_WAITING, __ATOMIC_SEQ_CST);
		r = waited < 0 || cancelled(job) ? -ECANCELED : add_view(job);
		if (r >= 0)
			r = parents_half(job);
		if (r < 0 && !job->failure.error)
			note(&job->failure, CRECHE_PHASE_PARENT, CRECHE_DETAIL_NONE, r);
		if (r < 0)
			sys4(__NR_pidfd_send_signal, job->pidfd, SIGKILL, 0, 0);
		await_exec(job);
		if (r < 0)
			kill_and_reap(job);
	}
	take_low_back(job);
	finish(job, r < 0 ? CRECHE_DEAD : CRECHE_RUNNING);
}
