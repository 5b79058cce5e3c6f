/* Sends to an init although guests have used up what their user may have on its way. */
#include "spawn.h"
#include <asm/errno.h>
#include <linux/resource.h>

/* Descriptors that were sent and not received are counted for a user, its guests' too, and held against the *sender's* soft
   limit (unix(7), ETOOMANYREFS). Guests have a hard one that is below ours, so ours is room enough for a moment: the limit is
   the whole process's, so only where nothing else goes, for one call, and by one thread at a time. */
long send_with_room(int socket, struct creche_request *request, const void *blob, size_t size, const int *fds, unsigned count)
{
	long r = send_request(socket, request, blob, size, fds, count, 1);
	struct rlimit64 usual, all;

	if (r != -ETOOMANYREFS)
		return r;
	jobs_lock();
	if (sys4(__NR_prlimit64, 0, RLIMIT_NOFILE, 0, &usual) >= 0 && usual.rlim_cur < usual.rlim_max) {
		all = (struct rlimit64){ usual.rlim_max, usual.rlim_max };
		sys4(__NR_prlimit64, 0, RLIMIT_NOFILE, &all, 0);
		r = send_request(socket, request, blob, size, fds, count, 1);
		sys4(__NR_prlimit64, 0, RLIMIT_NOFILE, &usual, 0);
	}
	jobs_unlock();
	return r;
}

/* The init's own limit: it sends pidfds, and nothing of it is inherited by a command, which has one of its Spec's. */
void take_room(void)
{
	struct rlimit64 limit;

	if (sys4(__NR_prlimit64, 0, RLIMIT_NOFILE, 0, &limit) >= 0) {
		limit.rlim_cur = limit.rlim_max;
		sys4(__NR_prlimit64, 0, RLIMIT_NOFILE, &limit, 0);
	}
}
