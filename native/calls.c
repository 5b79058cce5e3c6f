/* What Python calls beside spawns: requests to a live init, reaping, looks into memory, and questions about the Steps. */
#define _GNU_SOURCE
#include "spawn.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include "pool.h"

int creche_send(int socket, struct creche_request *request, const void *blob, uint32_t size, const int *fds, unsigned count)
{
	return (int)send_with_room(socket, request, blob, size, fds, count);
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
