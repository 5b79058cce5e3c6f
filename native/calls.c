/* What Python calls beside spawns: requests to a live init, reaping, looks into memory, and questions about the Steps. */
#define _GNU_SOURCE
#include "spawn.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include "pool.h"

int creche_send(int socket, uint32_t type, uint32_t id, uint32_t flags, int32_t number, uint64_t a, uint64_t b, const void *blob, uint32_t size,
		const int *fds, unsigned count)
{
	struct creche_request request = { .type = type, .id = id, .flags = flags, .number = number, .a = a, .b = b };

	return (int)send_with_room(socket, &request, blob, size, fds, count);
}

_Static_assert(sizeof(((struct creche_news *)0)->message) == sizeof(struct creche_reply), "a message of the init's fits just so");

int creche_receive(int socket, struct creche_news *news)
{
	union { struct cmsghdr align; char room[CMSG_SPACE(sizeof news->fds) + CMSG_SPACE(sizeof(struct ucred))]; } control;
	char more; /* one byte beyond a message of ours tells a longer one */
	struct iovec parts[2] = { { news->message, sizeof news->message }, { &more, 1 } };
	struct msghdr header = { .msg_iov = parts, .msg_iovlen = 2, .msg_control = &control, .msg_controllen = sizeof control };
	struct ucred who;
	long r = sys3(__NR_recvmsg, socket, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	news->pid = 0;
	news->count = 0;
	for (struct cmsghdr *c = r < 0 ? 0 : CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c)) {
		size_t size = c->cmsg_len - CMSG_LEN(0);
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
			news->count = (uint32_t)(size / sizeof(int));
			memcpy(news->fds, CMSG_DATA(c), news->count * sizeof(int));
		} else if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS && size == sizeof who) {
			memcpy(&who, CMSG_DATA(c), sizeof who);
			news->pid = who.pid;
		}
	}
	return (int)r;
}

int creche_check(const void *blob, uint32_t size)
{
	struct ctx c = { 0 };
	void *copy = malloc(size ? size : 1);
	int r;

	if (!copy)
		return -ENOMEM;
	memcpy(copy, blob, size);
	r = interp_open(&c, copy, size);
	free(copy);
	return r;
}

const char *creche_op_name(unsigned op)
{
	static const char *const names[] = {
#define X(name) #name,
		CRECHE_STEPS(X)
#undef X
	};
	return op < CRECHE_OP_COUNT ? names[op] : "";
}

unsigned creche_op_count(void) { return CRECHE_OP_COUNT; }

int creche_reap(int pidfd, int *status, uint64_t *usage)
{
	siginfo_t info;
	struct rusage used;
	long r;

	memset(&info, 0, sizeof info);
	r = sys5(__NR_waitid, 3 /* P_PIDFD */, pidfd, &info, WEXITED | WNOHANG | __WALL, &used);
	if (r < 0)
		return (int)r;
	if (!info.si_pid)
		return 0;
	*status = info.si_code == CLD_EXITED ? info.si_status << 8 : info.si_status | (info.si_code == CLD_DUMPED ? 0x80 : 0);
	usage[0] = (uint64_t)(used.ru_utime.tv_sec * 1000000 + used.ru_utime.tv_usec);
	usage[1] = (uint64_t)(used.ru_stime.tv_sec * 1000000 + used.ru_stime.tv_usec);
	usage[2] = (uint64_t)used.ru_maxrss;
	usage[3] = (uint64_t)used.ru_inblock;
	usage[4] = (uint64_t)used.ru_oublock;
	return 1;
}

/* Not by /proc/PID/mem, whose mode asks for the reader to be the process's user: here what counts is power over its user
   namespace alone (ptrace(2), process_vm_readv(2)). */
long creche_peek(int pid, uint64_t address, void *to, uint32_t size)
{
	struct iovec here = { to, size }, there = { (void *)(uintptr_t)address, size };

	return sys6(__NR_process_vm_readv, pid, &here, 1, &there, 1, 0);
}
