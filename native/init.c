/* Process 1 of a container: sets it up, starts commands, reaps everything, and ends with its supervisor. */
#include "init_brief.h"
#include "init_files.h"
#include "init_listen.h"
#include "init_self.h"
#include <asm/errno.h>
#include <asm/ioctls.h>
#include <linux/close_range.h>
#include <linux/fcntl.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/signal.h>
#include <linux/time_types.h>
#include <linux/wait.h>
#include <linux/poll.h>

enum { MAX_STARTING = 128, REAPED_AT_ONCE = 64 };

/* What a newborn command tells us, in memory that we share: the filter that it has by then may forbid it every call, and
   nothing that it does can make us wait. Its pipe is there for the end of it alone. */
struct birth {
	struct creche_failure failure;
	int marked;             /* it was about to exec */
};

static int slots[CRECHE_SLOTS];
static struct birth *births; /* one for each of them */
static unsigned starting;
static struct creche_failure failure;
static struct ctx ctx = { .slots = slots, .failure = &failure, .report_fd = -1 };

static unsigned held; /* descriptors that came ahead of their request, for which one message has no room */

static void fill_slots(const int *fds, long count)
{
	for (long i = 0; i < count; i++)
		slot_put(&ctx, CRECHE_SLOT_PASSED + held + (unsigned)i, fds[i]);
}

static void empty_slots(int all)
{
	for (unsigned i = 0; i < CRECHE_SLOTS; i++)
		if (all || i >= 64 || !(ctx.keep[i / 32] >> i % 32 & 1))
			slot_drop(&ctx, i);
}

static void set_up(const struct creche_request *request, const void *plan)
{
	struct creche_reply ready = { .type = CRECHE_READY };

	ctx.phase = CRECHE_PHASE_SETUP;
	if (interp_open(&ctx, plan, request->size) < 0)
		interp_fail(&ctx, 0, 0, -EPROTO);
	if (failure.error || interp_run(&ctx) < 0) {
		reply_failure(CRECHE_FAILED, 0, &failure);
		leave(1);
	}
	empty_slots(0);
	if (!(request->flags & CRECHE_QUIET)) {
		int given = slot_take(&ctx, CRECHE_SLOT_GIVEN);
		reply(&ready, &given, given >= 0, 0);
	}
}

/* A reset under way: everything is killed first, and nobody is heard until the last of them is buried. */
static struct { struct creche_request request; const void *plan; int waits, kills; } reset;

static void begin_reset(const struct creche_request *request, const void *plan)
{
	copy_bytes(&reset.request, request, sizeof *request);
	reset.plan = plan;
	reset.waits = reset.kills = 1;
}

/* Then the same Steps as at the start make all of it anew, what they were given then being with us still. */
static void end_reset(void)
{
	const char *what = "";
	long r = self_restore(&ctx, &what);

	if (r < 0) {
		failure_text(&ctx, CRECHE_DETAIL_SELF, what, text_length(what));
		ctx.phase = CRECHE_PHASE_SETUP;
		interp_fail(&ctx, 0, 0, r);
		reply_failure(CRECHE_FAILED, 0, &failure);
		leave(1);
	}
	set_up(&reset.request, reset.plan);
	forget_plan(&reset.request, reset.plan);
	reset.waits = 0;
}

/* The newborn command: a copy of us, undumpable until its exec, and first of all rid of our descriptors. */
static _Noreturn void become(const void *plan, uint32_t size, struct birth *birth)
{
	sys3(__NR_close_range, CONTROL, CHILDREN, 0);
	ctx.phase = CRECHE_PHASE_COMMAND;
	ctx.failure = &birth->failure;
	ctx.marked = &birth->marked;
	if (interp_open(&ctx, plan, size) < 0)
		interp_fail(&ctx, 0, 0, -EPROTO);
	else
		interp_run(&ctx);
	leave(127);
}

static struct command *free_command(void)
{
	for (unsigned i = 0; i < CRECHE_MAX_COMMANDS; i++)
		if (!commands[i].pid) {
			if (i >= highest)
				highest = i + 1;
			return &commands[i];
		}
	return 0;
}

static long start(const struct creche_request *request, const void *plan, struct command *command)
{
	int report[2];
	struct birth *birth = &births[command - commands];
	struct clone_args args = { .flags = CLONE_PIDFD, .pidfd = (uint64_t)(uintptr_t)&command->pidfd, .exit_signal = SIGCHLD };
	long r;

	command->report = command->pidfd = command->pty = command->listener = -1;
	command->id = request->id;
	command->flags = request->flags;
	command->failed = 0;
	command->look_at = 0;
	*birth = (struct birth){ 0 };
	if (request->flags & CRECHE_RUN_PTY) {
		struct { unsigned short rows, columns, x, y; } size = { (unsigned short)request->a, (unsigned short)request->b, 0, 0 };
		int devpts = slot_take(&ctx, CRECHE_SLOT_DEVPTS);
		r = devpts < 0 ? devpts : sys4(__NR_openat, devpts, "ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC, 0);
		if (r < 0)
			return r;
		command->pty = (int)r;
		int unlock = 0;
		r = sys3(__NR_ioctl, command->pty, TIOCSPTLCK, &unlock);
		if (r >= 0)
			r = sys3(__NR_ioctl, command->pty, TIOCSWINSZ, &size);
		if (r >= 0)
			r = sys3(__NR_fcntl, command->pty, F_DUPFD_CLOEXEC, 3);
		if (r < 0)
			goto failed;
		slot_put(&ctx, CRECHE_SLOT_PTY, r);
	}
	/* The end of it alone speaks, but for a listener, which takes a socket. */
	r = request->flags & CRECHE_RUN_LISTENER ? sys4(__NR_socketpair, 1 /* AF_UNIX */, 5 /* SOCK_SEQPACKET */ | O_CLOEXEC, 0, report)
						 : sys2(__NR_pipe2, report, O_CLOEXEC);
	if (r < 0)
		goto failed;
	command->report = report[0];
	ctx.report_fd = report[1];
	r = sys2(__NR_clone3, &args, sizeof args);
	if (r == 0) {
		sys1(__NR_close, report[0]);
		become(plan, request->size, birth);
	}
	sys1(__NR_close, report[1]);
	if (r > 0) {
		command->pid = (int)r;
		starting++;
		if (request->flags & CRECHE_RUN_BRIEF && !(request->flags & (CRECHE_RUN_PTY | CRECHE_RUN_LISTENER)))
			look_later(command);
		return 0;
	}
	sys1(__NR_close, command->report);
failed:
	if (command->pty >= 0)
		sys1(__NR_close, command->pty);
	return r;
}

/* A command that was forked before we were executed, from a template: ours to reap as any other. */
static long adopt(const struct creche_request *request, struct command *command)
{
	struct creche_reply started = { .type = CRECHE_STARTED, .id = request->id };
	int pidfd = (int)sys2(__NR_pidfd_open, request->number, 0);

	if (pidfd < 0)
		return pidfd;
	*command = (struct command){ .pid = request->number, .id = request->id, .report = -1, .pidfd = -1, .pty = -1, .listener = -1 };
	reply(&started, &pidfd, 1, command->pid);
	sys1(__NR_close, pidfd);
	return 0;
}

static void run(const struct creche_request *request, const void *plan)
{
	struct command *command = free_command();
	struct creche_failure none = { .phase = CRECHE_PHASE_COMMAND, .index = ~0u, .op = CRECHE_OP_COUNT,
		.detail = CRECHE_DETAIL_CLONE };
	long r = !command ? -EAGAIN : request->flags & CRECHE_RUN_FORKED ? adopt(request, command) : start(request, plan, command);

	if (r < 0) {
		none.error = (int32_t)-r;
		reply_failure(CRECHE_START_FAILED, request->id, &none);
		if (request->flags & CRECHE_RUN_MAIN)
			leave(1);
	}
}

/* A starting command's pipe has ended: it has executed (with the mark and no failure), or it is dead. Whose start is not looked
   for yet is dead, and its end says both. */
static void hear(struct command *command)
{
	struct birth *birth = &births[command - commands];
	struct creche_reply started = { .type = CRECHE_STARTED, .id = command->id };
	int fds[3] = { command->pidfd };
	unsigned count = 1;

	if (command->flags & CRECHE_RUN_LISTENER && command->listener < 0)
		command->listener = take_listener(command->report); /* it may have sent it just before */
	if (command->pty >= 0)
		fds[count++] = command->pty;
	if (command->listener >= 0)
		fds[count++] = command->listener;
	sys1(__NR_close, command->report);
	command->report = -1;
	starting--;
	if (!birth->failure.error && !birth->marked)
		interp_fail(&(struct ctx){ .failure = &birth->failure, .phase = CRECHE_PHASE_COMMAND }, 0, 0, -ECHILD);
	command->failed = birth->failure.error != 0;
	/* Where it failed it is dying, and told of once it is buried: whoever cancelled its start finds nothing left. */
	if (!command->failed && !command->look_at)
		reply(&started, fds, count, command->pid);
	while (count)
		sys1(__NR_close, fds[--count]);
}

/* Something came of a starting command: its listener, a call of its own that waits there, or the end of its report. */
static void attend(struct command *command, const struct pollfd *seen)
{
	if (seen->fd == command->listener)
		let_on(command->report, command->listener);
	else if (seen->revents & ~POLLIN || !(command->flags & CRECHE_RUN_LISTENER))
		hear(command);
	else if (command->listener < 0)
		command->listener = take_listener(command->report);
}

/* Reaps a few of the dead, and says whether there may be more (-1: nobody is left at all): a guest can make orphans as fast as we bury them, and
   whoever supervises us must be heard meanwhile. */
static int reap(void)
{
	struct { struct { long sec, us; } user, system; long maxrss, ix, id, is, minor, major, swap, in, out, sent, received,
		signals, voluntary, involuntary; } usage;
	union { struct { int number, error, code, pad, pid; } seen; unsigned char room[128]; } info;
	int status;
	long pid;

	for (int n = 0; n < REAPED_AT_ONCE; n++) {
		struct command *command = 0;

		info.seen.pid = 0;
		if (sys5(__NR_waitid, 0 /* P_ALL */, 0, &info, WEXITED | WNOHANG | WNOWAIT | __WALL, 0) < 0)
			return -1;
		if (!(pid = info.seen.pid))
			return 0;
		for (unsigned i = 0; i < highest && !command; i++)
			if (commands[i].pid == pid)
				command = &commands[i];
		/* Its start is told while it is a zombie still: there is no credential of a pid that is gone. */
		if (command && command->report >= 0)
			hear(command);
		if (sys4(__NR_wait4, pid, &status, __WALL, &usage) != pid)
			return 0;
		if (command) {
			uint32_t flags = command->flags;
			command->pid = 0;
			look_now(command);
			if (command->failed)
				reply_failure(CRECHE_START_FAILED, command->id, &births[command - commands].failure);
			else {
				struct creche_reply message = {
					.type = CRECHE_EXITED, .id = command->id, .status = status,
					.user_us = (uint64_t)(usage.user.sec * 1000000 + usage.user.us),
					.system_us = (uint64_t)(usage.system.sec * 1000000 + usage.system.us),
					.maxrss_kib = (uint64_t)usage.maxrss, .minor_faults = (uint64_t)usage.minor,
					.major_faults = (uint64_t)usage.major, .blocks_in = (uint64_t)usage.in,
					.blocks_out = (uint64_t)usage.out, .voluntary_switches = (uint64_t)usage.voluntary,
					.involuntary_switches = (uint64_t)usage.involuntary,
				};
				reply(&message, 0, 0, 0);
			}
			if (flags & CRECHE_RUN_MAIN)
				leave(0); /* and everything in the container with us: pid_namespaces(7) */
		}
	}
	return 1;
}

static void work_on_file(const struct creche_request *request, const char *text, size_t size)
{
	struct creche_reply message = { .type = CRECHE_OPENED, .id = request->id };
	int fd = (int)file_request(&ctx, request, text, size), opened = fd >= 0 && (request->b == CRECHE_FILE_OPEN || request->b == CRECHE_FILE_LAYER || request->b == CRECHE_FILE_TREE);

	if (fd < 0)
		message.status = fd;
	reply(&message, &fd, opened, 0);
	if (opened)
		sys1(__NR_close, fd);
}

static void obey(void)
{
	struct packet p;
	struct creche_request request;
	int fds[CRECHE_MAX_FDS + 1];
	long n, count, first;
	const void *plan = 0;

	packet_data(&p, inbox, sizeof inbox - 8, 0, 0);
	p.header.msg_controllen = sizeof p.control;
	n = sys3(__NR_recvmsg, CONTROL, &p.header, CLOSE_ON_EXEC | DONT_WAIT);
	if (n == -EINTR || n == -EAGAIN)
		return;
	count = packet_fds(&p, n, fds, CRECHE_MAX_FDS + 1);
	if (n < (long)sizeof request || count < 0)
		leave(n == 0 ? 0 : 1);
	copy_bytes(&request, inbox, sizeof request);
	first = request.flags & CRECHE_BLOB_MEMFD ? 1 : 0;
	if (first > count)
		leave(1);
	fill_slots(fds + first, count - first);
	if (request.type == CRECHE_HOLD && !first) {
		held += (unsigned)count;
		return;
	}
	held = 0;
	if (request.type == CRECHE_SETUP || request.type == CRECHE_RUN || request.type == CRECHE_RESET) {
		plan = plan_of(&request, n, first ? fds[0] : -1);
		if (!plan)
			leave(1);
		if (request.type == CRECHE_RESET)
			begin_reset(&request, plan);
		else if (request.type == CRECHE_SETUP)
			set_up(&request, plan), self_remember_files(&ctx);
		else
			run(&request, plan);
		if (request.type != CRECHE_RESET)
			forget_plan(&request, plan);
	} else if (request.type == CRECHE_SIGNAL && !request.id) {
		sys2(__NR_kill, -1, request.number); /* all that we may signal, which is all but ourselves: kill(2) */
	} else if (request.type == CRECHE_SIGNAL) {
		for (unsigned i = 0; i < highest; i++)
			if (commands[i].pid && commands[i].id == request.id)
				sys2(__NR_kill, commands[i].pid, request.number);
	} else if (request.type == CRECHE_OPEN_FILE) {
		inbox[n] = 0; /* there is room: we receive less than the buffer */
		work_on_file(&request, (const char *)inbox + sizeof request, (size_t)n - sizeof request);
	} else
		leave(1);
	if (first)
		sys1(__NR_close, fds[0]);
	empty_slots(0);
}

_Noreturn void begin(void)
{
	static struct pollfd fds[3 + 2 * MAX_STARTING];
	static struct command *who[2 * MAX_STARTING];
	uint64_t children = 1u << (SIGCHLD - 1);
	long births_at, more = 1; /* a command that was forked before us may be dead, its signal lost */
	struct { void *handler; unsigned long flags; void *restorer; uint64_t mask; } fresh = { 0 };

	/* Readable memory of ours is dumpable after an exec: not for guests. */
	sys5(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
	sys1(__NR_umask, 0); /* modes are what the Plan says; each command sets its own */
	/* Process 1 gets no signal that it does not handle (pid_namespaces(7)); one that it blocks would wait in a queue, which
	   guests could fill. */
	for (int i = 1; i <= 64; i++)
		sys4(__NR_rt_sigaction, i, &fresh, 0, 8);
	sys4(__NR_rt_sigprocmask, SIG_SETMASK, &children, 0, 8);
	for (unsigned i = 0; i < CRECHE_SLOTS; i++)
		slots[i] = -1;
	if (sys4(__NR_signalfd4, -1, &children, 8, O_CLOEXEC | O_NONBLOCK) != CHILDREN)
		leave(1);
	births_at = sys6(__NR_mmap, 0, CRECHE_MAX_COMMANDS * sizeof *births, 3 /* PROT_READ | PROT_WRITE */,
			 0x21 /* MAP_SHARED | MAP_ANONYMOUS */, -1, 0);
	if (births_at < 0 && births_at > -4096)
		leave(1);
	births = (struct birth *)births_at;
	self_remember();
	for (;;) {
		unsigned n = 3, full = starting >= MAX_STARTING || reset.waits;
		struct __kernel_timespec soon = { 0 }, *wait = more || reset.kills ? &soon : 0;
		if (unseen) {
			int64_t left = look_for_the_unseen();
			if (unseen && !wait)
				soon.tv_nsec = left * 1000, wait = &soon;
		}
		fds[0] = (struct pollfd){ CONTROL, full ? 0 : POLLIN, 0 };
		fds[1] = (struct pollfd){ SUPERVISOR, POLLIN, 0 };
		fds[2] = (struct pollfd){ CHILDREN, POLLIN, 0 };
		for (unsigned i = 0; i < highest; i++) /* no more than MAX_STARTING of them */
			for (int j = 0; j < 2 && commands[i].pid && commands[i].report >= 0 && !commands[i].look_at; j++) {
				who[n - 3] = &commands[i];
				fds[n++] = (struct pollfd){ j ? commands[i].listener : commands[i].report, POLLIN, 0 };
			}
		long seen = sys5(__NR_ppoll, fds, n, wait, 0, 8);
		if (seen == -EINVAL) /* a guest has lowered our limit of descriptors (prlimit(2)): deaf, we would outlive our supervisor */
			leave(1);
		if (seen < 0)
			continue;
		if (fds[1].revents || (fds[0].revents & (POLLHUP | POLLERR) && !(fds[0].revents & POLLIN)))
			leave(0);
		for (unsigned i = 3; i < n; i++)
			if (fds[i].revents && who[i - 3]->report >= 0)
				attend(who[i - 3], &fds[i]);
		if (fds[2].revents) {
			unsigned char info[128 * 4];
			sys3(__NR_read, CHILDREN, info, sizeof info);
			more = 1;
		}
		if (reset.waits && (more || reset.kills)) {
			sys2(__NR_kill, -1, SIGKILL);
			reset.kills = 0;
			more = 1;
		}
		if (more)
			more = reap();
		if (more < 0) {
			more = 0;
			if (reset.waits)
				end_reset();
		}
		if (fds[0].revents & POLLIN)
			obey();
	}
}
