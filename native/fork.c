/* What a template forks its runs with: a library without a C library, for any runtime that hands in its own fork. */
#include "enter.h"
#include "fork.h"
#include "init_talk.h"
#include <asm/errno.h>
#include <linux/fcntl.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/signal.h>
#include <linux/wait.h>

/* The template has its libraries loaded and has never run a guest's code. For each container it makes with one clone3 what will be
   its init, in namespaces of its own; that one forks the command, which waits, and executes the init's program. So the command is
   a child of its init as any other, in the same namespaces, and a copy of the template all the same. Its own Steps confine it
   before it returns to its runtime. */

static int slots[CRECHE_SLOTS];
static struct creche_failure failure;
static struct ctx ctx = { .slots = slots, .failure = &failure, .phase = CRECHE_PHASE_COMMAND };

/* One message, with its descriptors: their number; -EPIPE at the end of the socket. */
static long receive(int socket, struct creche_request *request, int *fds, unsigned room, long *size)
{
	struct packet p;
	long n, count;

	do {
		packet_data(&p, inbox, sizeof inbox - 8, 0, 0);
		p.header.msg_controllen = sizeof p.control;
		n = sys3(__NR_recvmsg, socket, &p.header, CLOSE_ON_EXEC);
	} while (n == -EINTR);
	count = packet_fds(&p, n, fds, room);
	if (n < (long)sizeof *request || count < 0)
		return n > 0 ? -EPROTO : -EPIPE;
	copy_bytes(request, inbox, sizeof *request);
	inbox[n] = 0; /* there is room: we receive less than the buffer */
	*size = n;
	return count;
}

/* Closes everything but the numbers that the command is to have, and the socket that is to hear of it. */
static long let_go(void)
{
	uint32_t next = 0;

	for (uint32_t i = 0; i < ctx.count; i++) {
		const struct creche_step *s = &ctx.steps[i];
		const uint32_t *pair = (const uint32_t *)(const void *)TEXT(&ctx, s);

		for (uint32_t j = 0; s->op == CRECHE_OP_DESCRIPTORS && j < s->text_size / 8; j++) {
			if (pair[2 * j + 1] > next)
				sys3(__NR_close_range, next, pair[2 * j + 1] - 1, 0);
			next = pair[2 * j + 1] + 1;
		}
	}
	if (ctx.report_fd < (int)next) /* DESCRIPTORS moved it above them all */
		return -EBADF;
	if (ctx.report_fd > (int)next)
		sys3(__NR_close_range, next, ctx.report_fd - 1, 0);
	sys3(__NR_close_range, ctx.report_fd + 1, ~0u, 0);
	/* From here on it is an ordinary process of its own user's, as after an exec. */
	return sys5(__NR_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0);
}

/* The Steps of any command, but that the last of them is told to the runtime instead of being carried out. */
static long confine(struct creche_forked *run)
{
	int gone = 0;
	long r = 0;

	for (uint32_t i = 0; i < ctx.count && r >= 0; i++) {
		const struct creche_step *s = &ctx.steps[i];

		if (!gone && (s->op == CRECHE_OP_SECCOMP || s->op == CRECHE_OP_EXEC)) {
			r = let_go();
			gone = 1;
			if (r < 0)
				interp_fail(&ctx, i, s, r);
		}
		if (r >= 0 && s->op == CRECHE_OP_EXEC) {
			*run = (struct creche_forked){ TEXT(&ctx, s), TEXT2(&ctx, s), s->text_size, s->text2_size };
			return 0;
		}
		if (r >= 0)
			r = interp_step(&ctx, i);
	}
	return r < 0 ? r : -EPROTO;
}

static void tell(uint32_t type)
{
	struct creche_reply message = { .type = type };

	copy_bytes(&message.failure, &failure, sizeof failure);
	/* The filter is in force: a program that may not even write and close is of no use to anybody. */
	if (sys3(__NR_write, ctx.report_fd, &message, sizeof message) != sizeof message || sys1(__NR_close, ctx.report_fd) < 0)
		leave(127);
}

/* The command: nothing of the template's stays open, and nobody may look at it until it is confined. */
static void await_run(int work, struct creche_forked *run)
{
	struct creche_request request;
	int fds[CRECHE_MAX_FDS + 1];
	const void *plan;
	long count, first, size;

	sys5(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
	if (work > 0)
		sys3(__NR_close_range, 0, work - 1, 0);
	sys3(__NR_close_range, work + 1, ~0u, 0);
	ctx.report_fd = work;
	count = receive(work, &request, fds, CRECHE_MAX_FDS + 1, &size);
	first = request.flags & CRECHE_BLOB_MEMFD ? 1 : 0;
	if (count < first || request.type != CRECHE_RUN)
		leave(127);
	for (unsigned i = 0; i < CRECHE_SLOTS; i++)
		slots[i] = -1;
	for (long i = first; i < count; i++)
		slots[CRECHE_SLOT_PASSED + i - first] = fds[i];
	/* By now the root is the container's, for pivot_root(2) has moved everyone there, and nobody's command has been in it. */
	slot_put(&ctx, CRECHE_SLOT_ROOT, sys4(__NR_openat, AT_FDCWD, "/", O_PATH | O_DIRECTORY | O_CLOEXEC, 0));
	slot_put(&ctx, CRECHE_SLOT_PROC, sys4(__NR_openat, AT_FDCWD, "/proc", O_PATH | O_DIRECTORY | O_CLOEXEC, 0));
	plan = plan_of(&request, size, first ? fds[0] : -1);
	if (!plan || interp_open(&ctx, plan, request.size) < 0)
		interp_fail(&ctx, 0, 0, -EPROTO);
	if (failure.error || confine(run) < 0) {
		tell(CRECHE_START_FAILED);
		leave(127);
	}
	tell(CRECHE_STARTED);
}

static int nothing(void *unused)
{
	(void)unused;
	return 0;
}

/* A number is used up: OpenSSL 3 knows a fork by its number alone, so a command must not have the template's. */
static void pass_over(void)
{
	_Alignas(16) char stack[4096];
	struct clone_args args = { .flags = CLONE_VM | CLONE_VFORK, .exit_signal = SIGCHLD,
		.stack = (uint64_t)(uintptr_t)stack, .stack_size = sizeof stack };

	sys_clone3_stack(&args, sizeof args, nothing, 0);
	sys4(__NR_wait4, -1, 0, __WALL, 0);
}

/* Process 1 of the new namespaces, a copy of the template: when its maps are written it forks the command and becomes the init. Returns in
   the command alone. */
static void begin_container(int go, int channel, int number, int skip, int *fds, long (*runtime_fork)(void), struct creche_forked *run)
{
	char *argv[] = { "", 0 }, word;
	long r;

	sys1(__NR_close, channel);
	do
		r = sys3(__NR_read, go, &word, 1);
	while (r == -EINTR);
	if (r != 1 || sys1(__NR_chdir, "/") < 0) /* pivot_root(2) moves whoever stands at the root */
		leave(127);
	if (skip)
		pass_over();
	r = runtime_fork();
	if (r == 0 && sys0(__NR_getpid) == number) {
		await_run(fds[3], run);
		return;
	}
	if (r != number || take_places(fds) < 0 || keep_capabilities() < 0)
		leave(127);
	sys5(__NR_execveat, 2, "", argv, argv + 1, AT_EMPTY_PATH);
	leave(127);
}

/* The maps: those of the template's own container, id for id. */
static long write_maps(long pid, int pidfd, const char *text, const char *end)
{
	size_t size = text_length(text);
	const char *other = text + size + 1;
	long r;

	if (other >= end)
		return -EINVAL;
	r = write_of_process((int)pid, pidfd, "gid_map", text, size);
	return r < 0 ? r : write_of_process((int)pid, pidfd, "uid_map", other, text_length(other));
}

/* One container: whether this is its command. */
static int make_container(int channel, long (*runtime_fork)(void), struct creche_forked *run)
{
	struct creche_request request;
	struct creche_reply answer = { .type = CRECHE_STARTED };
	struct packet p;
	int fds[4], go[2], pidfd = -1, skip = sys0(__NR_getpid) == 2, number = skip ? 3 : 2;
	struct clone_args args = { .pidfd = (uint64_t)(uintptr_t)&pidfd, .exit_signal = SIGCHLD };
	long size, pid, r, count = receive(channel, &request, fds, 4, &size);

	if (count != 4 || request.type != CRECHE_FORK || sys2(__NR_pipe2, go, O_CLOEXEC) < 0)
		leave(count == -EPIPE ? 0 : 127);
	args.flags = request.a | CLONE_PIDFD;
	pid = r = sys2(__NR_clone3, &args, sizeof args);
	if (pid == 0) {
		sys1(__NR_close, go[1]);
		begin_container(go[0], channel, number, skip, fds, runtime_fork, run);
		return 1;
	}
	answer.failure.detail = CRECHE_DETAIL_CLONE;
	if (pid > 0) {
		r = write_maps(pid, pidfd, (const char *)inbox + sizeof request, (const char *)inbox + size);
		answer.failure.detail = CRECHE_DETAIL_NONE;
	}
	if (r >= 0)
		sys3(__NR_write, go[1], "", 1);
	answer.id = (uint32_t)number;
	if (r < 0) {
		answer.type = CRECHE_START_FAILED;
		answer.failure.error = (int32_t)-r;
	}
	packet_data(&p, &answer, sizeof answer, 0, 0);
	if (r >= 0)
		packet_attach(&p, 1 /* SCM_RIGHTS */, &pidfd, sizeof pidfd);
	sys1(__NR_close, go[0]);
	sys1(__NR_close, go[1]); /* untold, it ends */
	for (int i = 0; i < 4; i++)
		sys1(__NR_close, fds[i]);
	if (sys3(__NR_sendmsg, channel, &p.header, SEND_QUIETLY) < 0)
		leave(127);
	if (pid > 0)
		sys1(__NR_close, pidfd);
	return 0;
}

void creche_serve(int channel, long (*runtime_fork)(void), struct creche_forked *run)
{
	do /* those that have ended since are buried now; there are never more of them than of requests */
		while (sys4(__NR_wait4, -1, 0, WNOHANG | __WALL, 0) > 0)
			;
	while (!make_container(channel, runtime_fork, run));
}
