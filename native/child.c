/* What runs in a spawned child before it is the init or the command: raw system calls and nothing else. */
#include "enter.h"
#include "spawn.h"
#include <asm/errno.h>
#include <linux/close_range.h>
#include <linux/fcntl.h>
#include <linux/poll.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/time_types.h>

/* The child may share its maker's memory and thread-local storage, so nothing here touches errno, a lock, the heap or
   stdio: the kernel's headers alone are included. */

/* The parent says GO when the maps are written, and hands over what it made meanwhile; a supervisor that is gone says
   nothing any more. The number of descriptors that came, or an error. */
static long await_go(int control, int supervisor, int *fds, unsigned room)
{
	struct creche_request go = { 0 };
	struct packet p;

	for (;;) {
		struct pollfd ready[2] = { { control, POLLIN, 0 }, { supervisor, POLLIN, 0 } };
		long r = sys5(__NR_ppoll, ready, 2, 0, 0, 8);
		if (r == -EINTR)
			continue;
		if (r < 0 || ready[1].revents)
			return -ECANCELED;
		packet_data(&p, &go, sizeof go, 0, 0);
		p.header.msg_controllen = sizeof p.control;
		r = sys3(__NR_recvmsg, control, &p.header, CLOSE_ON_EXEC);
		if (r != sizeof go || go.type != CRECHE_GO)
			return -ECANCELED;
		return packet_fds(&p, r, fds, room);
	}
}

static void tell(int socket, uint32_t type, const struct creche_failure *failure)
{
	struct packet p;
	struct creche_reply message = { .type = type };

	copy_bytes(&message.failure, failure, sizeof *failure);
	packet_data(&p, &message, sizeof message, 0, 0);
	sys3(__NR_sendmsg, socket, &p.header, SEND_QUIETLY);
}

void note(struct creche_failure *failure, uint32_t phase, uint32_t detail, long error)
{
	failure->phase = phase;
	failure->index = ~0u; /* no Step's */
	failure->op = CRECHE_OP_COUNT;
	failure->detail = detail;
	failure->error = (int32_t)-error;
}

/* The child that becomes the init. It may share our memory, so it does as little as it can until then. */
int enter_init(void *arg)
{
	creche_job *job = arg;
	char *argv[] = { "", 0 };
	int from[3] = { job->low >= 0 ? job->low : job->child_socket, job->supervisor, job->exe }, top = 0;
	struct creche_failure failure = { 0 };
	long r;

	for (int i = 0; i < 3; i++)
		top = from[i] > top ? from[i] : top;
	/* First of all a table of its own, with no more in it than that: close_range(2). Until then nothing may change in it. */
	r = sys3(__NR_close_range, top + 1, ~0u, CLOSE_RANGE_UNSHARE);
	if (r >= 0)
		r = take_places(from);
	from[0] = r >= 0 ? 0 : from[0];
	take_room();
	if (r >= 0 && job->flags & CRECHE_SPAWN_AMBIENT)
		r = keep_capabilities();
	if (r >= 0 && !(job->flags & CRECHE_SPAWN_AT_ONCE)) {
		r = await_go(0, 1, 0, 0);
		if (r < 0)
			return 127; /* nobody is there to hear of it */
	}
	for (int tries = 0; r >= 0; tries++) {
		struct __kernel_timespec pause = { 0, 5000000 };
		r = sys5(__NR_execveat, 2, "", argv, argv + 1, AT_EMPTY_PATH);
		/* Another thread of the host program that was forking while we wrote it may still have it open for that. */
		if (r == -ETXTBSY && tries < 40)
			r = sys2(__NR_nanosleep, &pause, 0);
	}
	note(&failure, CRECHE_PHASE_CHILD, CRECHE_DETAIL_INIT, r);
	tell(from[0], CRECHE_FAILED, &failure);
	return 127;
}

/* Closes all descriptors but these few: everything is close-on-exec, but a child that waits must not hold on to the
   sockets of others. */
static void close_all_but(int *keep, unsigned count)
{
	unsigned from = 0;

	for (unsigned i = 1; i < count; i++)
		for (unsigned j = i; j && keep[j] < keep[j - 1]; j--) {
			int swap = keep[j];
			keep[j] = keep[j - 1];
			keep[j - 1] = swap;
		}
	for (unsigned i = 0; i < count; i++) {
		if (keep[i] < (int)from)
			continue;
		if ((unsigned)keep[i] > from)
			sys3(__NR_close_range, from, keep[i] - 1, 0);
		from = (unsigned)keep[i] + 1;
	}
	sys3(__NR_close_range, from, ~0u, 0);
}

long run_plan(struct ctx *c, const struct plan *plan, const int *fds, long count)
{
	long r;

	for (long i = 0; i < count; i++)
		c->slots[CRECHE_SLOT_PASSED + i] = fds[i];
	r = interp_open(c, plan->blob, plan->size);
	if (r < 0)
		interp_fail(c, 0, 0, r);
	return r < 0 ? r : interp_run(c);
}

/* The child without an init: a copy of our memory, which runs all of the Plan itself and then is the command. */
int run_all(void *arg)
{
	creche_job *job = arg;
	int fds[CRECHE_MAX_FDS + 2];
	unsigned count = job->command.fds.count;
	struct ctx c = { .slots = job->slots, .failure = &job->report->failure, .phase = CRECHE_PHASE_SETUP, .report_fd = -1 };
	long r;

	copy_bytes(fds, job->command.fds.list, count * sizeof(int));
	fds[count] = job->child_socket;
	fds[count + 1] = job->supervisor;
	close_all_but(fds, count + 2);
	for (unsigned i = 0; i < CRECHE_SLOTS; i++)
		job->slots[i] = -1;
	r = await_go(job->child_socket, job->supervisor, fds, CRECHE_MAX_FDS);
	if (r < 0)
		return 127;
	r = run_plan(&c, &job->setup, fds, r);
	if (r >= 0) {
		c.phase = CRECHE_PHASE_COMMAND;
		c.report_fd = job->child_socket; /* its end of file is the exec, or our death */
		c.marked = &job->report->marked;
		run_plan(&c, &job->command, job->command.fds.list, count); /* returns only where it failed */
	}
	return 127;
}

/* Joins namespaces in a copied process of its own and makes the child from there, as a child of our maker. What goes
   among strangers has a copy of the supervisor's memory: not for them to look at. */
int join_and_clone(void *arg)
{
	creche_job *job = arg;
	struct clone_args args = { .flags = job->namespaces | CLONE_PARENT | CLONE_CLEAR_SIGHAND };
	long birth[2] = { 0, -1 };

	sys5(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
	/* In there setgroups may be denied, and what groups a privileged caller has would stay for good. */
	sys2(__NR_setgroups, 0, 0);
	for (unsigned i = 0; i < job->join_count && birth[0] >= 0; i++) {
		birth[0] = sys2(__NR_setns, job->joins[i], 0);
		if (birth[0] < 0)
			birth[1] = i;
	}
	if (birth[0] >= 0) {
		birth[0] = sys2(__NR_clone3, &args, sizeof args);
		if (birth[0] == 0)
			sys1(__NR_exit_group, job->flags & CRECHE_SPAWN_INIT ? enter_init(job) : run_all(job));
	}
	sys3(__NR_write, job->side, birth, sizeof birth);
	return 0;
}
