/* The init's talk with its supervisor: what it says, and the Plans that come with what it is told. */
#include "init_talk.h"
#include <asm/errno.h>
#include <linux/fcntl.h>
#include <linux/poll.h>

_Alignas(8) unsigned char inbox[CRECHE_INLINE + 64];

_Noreturn void leave(int status)
{
	sys1(__NR_exit_group, status);
	__builtin_trap(); /* a filter of a newborn's may forbid even that */
}

/* Waits until the control socket is ready for `events`; whoever supervised us being gone is the end of all of it.
   A fork of the supervisor may hold the socket open, hence the pidfd. */
static void await_control(short events)
{
	struct pollfd fds[2] = { { CONTROL, events, 0 }, { SUPERVISOR, POLLIN, 0 } };

	long seen;

	while ((seen = sys5(__NR_ppoll, fds, 2, 0, 0, 8)) < 0 && seen != -EINVAL)
		;
	if (seen < 0 || fds[1].revents)
		leave(seen < 0);
}

void reply(struct creche_reply *message, const int *fds, unsigned count, int pid)
{
	struct packet p;
	struct { int pid; unsigned uid, gid; } who = { pid, 0, 0 };
	long r;

	if (pid) {
		who.uid = (unsigned)sys0(__NR_getuid);
		who.gid = (unsigned)sys0(__NR_getgid);
	}
	do {
		packet_data(&p, message, sizeof *message, 0, 0);
		if (count)
			packet_attach(&p, 1 /* SCM_RIGHTS */, fds, count * sizeof(int));
		if (pid) /* the kernel translates the number for the reader: unix(7) */
			packet_attach(&p, 2 /* SCM_CREDENTIALS */, &who, sizeof who);
		r = sys3(__NR_sendmsg, CONTROL, &p.header, SEND_QUIETLY | DONT_WAIT);
		if (r == -EAGAIN)
			await_control(POLLOUT);
		else if (r == -ETOOMANYREFS && count)
			count = 0; /* a user's descriptors on their way are counted together: any guest of its can use them up (unix(7)) */
		else if (r < 0 && r != -EINTR)
			leave(1);
	} while (r < 0);
}

void reply_failure(uint32_t type, uint32_t id, const struct creche_failure *f)
{
	struct creche_reply message = { .type = type, .id = id };

	copy_bytes(&message.failure, f, sizeof *f);
	reply(&message, 0, 0, 0);
}

/* The Plan that came with a request: inline, or in a memfd whose seals say that it can't change under us. */
const void *plan_of(const struct creche_request *request, long received, int plan_fd)
{
	if (!(request->flags & CRECHE_BLOB_MEMFD)) {
		if (request->size != (size_t)received - sizeof *request)
			return 0;
		return inbox + sizeof *request;
	}
	long seals = sys3(__NR_fcntl, plan_fd, F_GET_SEALS, 0);
	if (seals < 0 || (seals & 0xe) != 0xe || !request->size || request->size > CRECHE_MAX_BLOB)
		return 0;
	if (sys3(__NR_lseek, plan_fd, 0, 2 /* SEEK_END */) != (long)request->size)
		return 0;
	long memory = sys6(__NR_mmap, 0, request->size, 1 /* PROT_READ */, 2 /* MAP_PRIVATE */, plan_fd, 0);
	return memory < 0 && memory > -4096 ? 0 : (const void *)memory;
}

void forget_plan(const struct creche_request *request, const void *plan)
{
	if (request->flags & CRECHE_BLOB_MEMFD)
		sys2(__NR_munmap, plan, request->size);
}
