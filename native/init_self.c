/* What guests may change about the init itself: they may be of its own id, and what they set there commands inherit. */
#include "init_self.h"
#include <asm/errno.h>
#include <linux/ioprio.h>
#include <linux/resource.h>

/* prlimit(2) looks at ids alone; sched_setattr(2), sched_setaffinity(2) and ioprio_set(2) want CAP_SYS_NICE too, since our
   capabilities are more than theirs, and a Spec may give it. All else of a process takes one that is dumpable. */
struct scheduling { /* struct sched_attr, the part that every kernel has: sched_setattr(2) */
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

static struct rlimit64 limits[RLIM_NLIMITS];
static struct scheduling scheduling;
static unsigned long processors[128], processors_size;
static long priority; /* of input and output */

static int same(const void *one, const void *other, size_t size)
{
	const unsigned char *a = one, *b = other;

	while (size && *a == *b)
		a++, b++, size--;
	return !size;
}

void self_remember(void)
{
	long size;

	for (unsigned i = 0; i < RLIM_NLIMITS; i++)
		sys4(__NR_prlimit64, 0, i, 0, &limits[i]);
	sys4(__NR_sched_getattr, 0, &scheduling, sizeof scheduling, 0);
	size = sys3(__NR_sched_getaffinity, 0, sizeof processors, processors);
	processors_size = size < 0 ? 0 : (unsigned long)size;
	priority = sys2(__NR_ioprio_get, IOPRIO_WHO_PROCESS, 0);
}

long self_restore(const char **what)
{
	static struct rlimit64 limit;
	static struct scheduling now;
	long r = 0;

	*what = "rlimits";
	for (unsigned i = 0; i < RLIM_NLIMITS && r >= 0; i++) {
		r = sys4(__NR_prlimit64, 0, i, 0, &limit);
		if (r >= 0 && !same(&limit, &limits[i], sizeof limit))
			r = sys4(__NR_prlimit64, 0, i, &limits[i], 0);
	}
	if (r < 0)
		return r;
	*what = "nice";
	r = sys4(__NR_sched_getattr, 0, &now, sizeof now, 0);
	if (r >= 0 && !same(&now, &scheduling, sizeof now))
		r = sys3(__NR_sched_setattr, 0, &scheduling, 0);
	if (r < 0)
		return r;
	if (processors_size) /* always allowed, as far as the cpuset goes */
		sys3(__NR_sched_setaffinity, 0, processors_size, processors);
	*what = "the priority of input and output";
	if (sys2(__NR_ioprio_get, IOPRIO_WHO_PROCESS, 0) != priority)
		r = sys3(__NR_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority);
	return r < 0 ? r : 0;
}
