/* What guests may change about the init itself: they may be of its own id, and what they set there commands inherit. */
#include "init_self.h"
#include <asm/errno.h>
#include <linux/fcntl.h>
#include <linux/ioprio.h>
#include <linux/openat2.h>
#include <linux/resource.h>

/* prlimit(2) looks at ids alone; sched_setattr(2), sched_setaffinity(2) and ioprio_set(2) want CAP_SYS_NICE too, since our
   capabilities are more than theirs, and a Spec may give it. Of the files in /proc/1 those of a process that is not dumpable
   belong to its user namespace's root (proc_pid(5)), and two ask for nothing but to be opened: a guest may be that root. A third,
   autogroup, is masked. */
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

static const struct { const char *name, *path, *before; } files[] = {
	{ "oom_score_adj", "self/oom_score_adj", "" },
	{ "the filter of core dumps", "self/coredump_filter", "0x" }, /* read without it, written as any number: core(5) */
};
enum { FILES = sizeof files / sizeof *files, LINE = 64 };
static char lines[FILES][LINE];

static int same(const void *one, const void *other, size_t size)
{
	const unsigned char *a = one, *b = other;

	while (size && *a == *b)
		a++, b++, size--;
	return !size;
}

/* On the proc that the slot holds and no other: who may mount could else put a file of his own in the way. */
static long open_own(struct ctx *c, unsigned file, uint64_t flags)
{
	struct open_how how = { flags | O_CLOEXEC, 0, RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS };
	int proc = slot_take(c, CRECHE_SLOT_PROC);

	return proc < 0 ? proc : sys4(__NR_openat2, proc, files[file].path, &how, sizeof how);
}

/* Its line, ended by NULs; a kernel built without the file has an empty one. */
static long read_own(struct ctx *c, unsigned file, char *line)
{
	long r, fd = open_own(c, file, O_RDONLY);

	for (unsigned i = 0; i < LINE; i++)
		line[i] = 0;
	if (fd == -ENOENT)
		return 0;
	if (fd < 0)
		return fd;
	r = sys3(__NR_read, fd, line, LINE - 1);
	sys1(__NR_close, fd);
	return r;
}

static long write_own(struct ctx *c, unsigned file, const char *text, size_t size)
{
	long r, fd = open_own(c, file, O_WRONLY);

	if (fd < 0)
		return fd;
	r = write_all((int)fd, text, size);
	sys1(__NR_close, fd);
	return r;
}

static long put_back(struct ctx *c, unsigned file)
{
	static char text[LINE + 2];
	size_t before = text_length(files[file].before), size = text_length(lines[file]);

	copy_bytes(text, files[file].before, before);
	copy_bytes(text + before, lines[file], size);
	return write_own(c, file, text, before + size);
}

void self_remember_files(struct ctx *c)
{
	for (unsigned i = 0; i < FILES; i++)
		read_own(c, i, lines[i]);
}

static long restore_files(struct ctx *c, const char **what)
{
	static char line[LINE];
	long r = 0;

	for (unsigned i = 0; i < FILES && r >= 0; i++) {
		*what = files[i].name;
		if (!lines[i][0])
			continue;
		r = read_own(c, i, line);
		if (r >= 0 && !same(line, lines[i], LINE))
			r = put_back(c, i);
	}
	return r;
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

long self_restore(struct ctx *c, const char **what)
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
	return r < 0 ? r : restore_files(c, what);
}
