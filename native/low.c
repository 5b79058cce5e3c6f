/* Low numbers for the sockets of children, so that what a child takes along of our descriptors does not grow with their number. */
#define _GNU_SOURCE
#include "spawn.h"
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* A child that shares our table of descriptors gives itself one of its own, which holds all below the highest number that it
   needs (close_range(2)). With a thousand containers we have six thousand, to copy and to close. So its socket is lent a number
   that is kept from the first start on, when low ones are still free, by a copy of the init's program; whoever has closed that
   one may have given its number to another. */
static struct { int fd, lent; } low[WORKERS] = { { -1, 0 }, { -1, 0 }, { -1, 0 } };

/* With the lock held: 0 or -errno. */
int keep_low(int exe)
{
	for (int i = 0; i < WORKERS; i++) {
		if (low[i].lent || (low[i].fd >= 0 && fcntl(low[i].fd, F_GET_SEALS) == SEALS))
			continue;
		low[i].fd = fcntl(exe, F_DUPFD_CLOEXEC, 3);
		if (low[i].fd < 0)
			return -errno;
	}
	return 0;
}

/* Without one that is free, or ours still, the child takes the socket's own number: that is slower, and as good. */
void lend_low(creche_job *job)
{
	jobs_lock();
	for (int i = 0; i < WORKERS && job->low < 0; i++) {
		if (low[i].lent || fcntl(low[i].fd, F_GET_SEALS) != SEALS || dup3(job->child_socket, low[i].fd, O_CLOEXEC) < 0)
			continue;
		low[i].lent = 1;
		job->low = low[i].fd;
	}
	jobs_unlock();
}

/* The child has its own table, or is dead. */
void take_low_back(creche_job *job)
{
	jobs_lock();
	for (int i = 0; i < WORKERS && job->low >= 0; i++) {
		if (!low[i].lent || low[i].fd != job->low)
			continue;
		if (dup3(job->exe, low[i].fd, O_CLOEXEC) < 0) {
			close(low[i].fd);
			low[i].fd = -1;
		}
		low[i].lent = 0;
		job->low = -1;
	}
	jobs_unlock();
}

/* In a fork of the host program: what is lent is another's socket, which would never end. With the lock held. */
void forget_low(void)
{
	for (int i = 0; i < WORKERS; i++)
		if (low[i].lent) {
			close(low[i].fd);
			low[i].fd = -1;
			low[i].lent = 0;
		}
}
