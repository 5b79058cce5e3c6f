/* The Steps that give a command its descriptors, terminal, limits and place, and in the end execute it. */
#include "interp.h"
#include <asm/errno.h>
#include <asm/ioctls.h>
#include <linux/close_range.h>
#include <linux/fcntl.h>
#include <linux/resource.h>
#include <linux/signal.h>
#include <linux/time_types.h>

STEP(SETSID)
{
	(void)c, (void)s;
	return sys0(__NR_setsid);
}

/* The command's end of the terminal, from the master and not by a path that a guest may have laid (a, b: which of
   0, 1, 2 it is): ioctl_tty(2), TIOCGPTPEER. */
STEP(PTY)
{
	int master = slot_take(c, CRECHE_SLOT_PTY);
	long fd;

	if (master < 0)
		return master;
	fd = sys3(__NR_ioctl, master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return fd;
	slot_drop(c, CRECHE_SLOT_PTY);
	if (s->b) { /* it belongs to whoever the command will be */
		long r = sys3(__NR_fchown, fd, s->a, -1);
		if (r < 0)
			return r;
	}
	return slot_put(c, s->slot, fd);
}

/* Gives the pipes to the command's user, so that it may open /dev/stdout again (pipes are owned by their maker). */
STEP(OWN)
{
	int fd = slot_take(c, s->slot);

	return fd < 0 ? fd : sys3(__NR_fchown, fd, s->a, s->b);
}

/* Puts descriptors at their numbers: text is pairs of (slot, number), ascending by number. First everything goes
   up above the highest number wanted, then down to its place, so that no place is taken before it is empty;
   whatever is not on the list closes at exec. Flag a: 0 becomes the controlling terminal. */
STEP(DESCRIPTORS)
{
	const uint32_t *pair = (const uint32_t *)(const void *)TEXT(c, s);
	uint32_t count = s->text_size / 8, above = 3, next = 0;
	int high[CRECHE_MAX_FDS];
	long r;

	if (count > CRECHE_MAX_FDS || s->text % 4)
		return -EINVAL;
	for (uint32_t i = 0; i < count; i++) {
		if (pair[2 * i + 1] > 1u << 20 || (i && pair[2 * i + 1] <= pair[2 * i - 1]))
			return -EINVAL;
		above = pair[2 * i + 1] + 1 > above ? pair[2 * i + 1] + 1 : above;
	}
	for (uint32_t i = 0; i < count; i++) {
		int fd = slot_take(c, pair[2 * i]);
		if (fd < 0)
			return fd;
		r = sys3(__NR_fcntl, fd, F_DUPFD_CLOEXEC, above);
		if (r < 0)
			return r;
		high[i] = (int)r;
	}
	if (c->report_fd >= 0) {
		r = sys3(__NR_fcntl, c->report_fd, F_DUPFD_CLOEXEC, above);
		if (r < 0)
			return r;
		c->report_fd = (int)r;
	}
	/* The slots that later Steps still use move up with it. */
	for (unsigned i = 0; i < CRECHE_SLOT_PASSED; i++)
		if (c->slots[i] >= 0 && (uint32_t)c->slots[i] < above) {
			r = sys3(__NR_fcntl, c->slots[i], F_DUPFD_CLOEXEC, above);
			if (r < 0)
				return r;
			c->slots[i] = (int)r;
		}
	for (uint32_t i = 0; i < count; i++) {
		uint32_t number = pair[2 * i + 1];
		if (number > next) {
			r = sys3(__NR_close_range, next, number - 1, CLOSE_RANGE_CLOEXEC);
			if (r < 0)
				return r;
		}
		r = sys3(__NR_dup3, high[i], number, 0);
		if (r < 0)
			return r;
		next = number + 1;
	}
	r = sys3(__NR_close_range, next, ~0u, CLOSE_RANGE_CLOEXEC);
	if (r >= 0 && s->a)
		r = sys3(__NR_ioctl, 0, TIOCSCTTY, 0);
	return r;
}

STEP(RLIMIT)
{
	struct rlimit64 limit = { s->a, s->b };

	(void)c;
	return sys4(__NR_prlimit64, 0, s->slot, &limit, 0);
}

STEP(UMASK)
{
	(void)c;
	sys1(__NR_umask, s->a);
	return 0;
}

STEP(NICE)
{
	(void)c;
	return sys3(__NR_setpriority, 0 /* PRIO_PROCESS */, 0, (int)(int64_t)s->a);
}

/* A newborn command goes into its cgroup by its own hand, through a descriptor that the supervisor opened. */
STEP(CGROUP)
{
	int fd = slot_take(c, s->slot);
	long r;

	if (fd < 0)
		return fd;
	r = sys3(__NR_write, fd, "0", 1);
	return r < 0 ? r : 0;
}

STEP(UNSHARE)
{
	(void)c;
	return sys1(__NR_unshare, s->a);
}

/* As the command's user, so that a directory it may not enter is told, not passed over. */
STEP(CHDIR)
{
	long fd = resolve(c, TEXT(c, s), O_PATH | O_DIRECTORY, 0);
	long r;

	if (fd < 0)
		return fd;
	r = sys1(__NR_fchdir, fd);
	sys1(__NR_close, fd);
	return r;
}

/* Every disposition back to its default, none blocked: CLONE_CLEAR_SIGHAND leaves ignored signals ignored, and Python
   ignores SIGPIPE and SIGXFSZ (clone(2)). */
STEP(SIGNALS)
{
	struct { void *handler; unsigned long flags; void *restorer; uint64_t mask; } fresh = { 0 };
	uint64_t none = 0;

	(void)c;
	for (int i = 1; i <= 64 && !s->a; i++) /* a: they are so already, for the init has none of its own */
		sys4(__NR_rt_sigaction, i, &fresh, 0, 8); /* EINVAL for SIGKILL and SIGSTOP, which have no other */
	return sys4(__NR_rt_sigprocmask, SIG_SETMASK, &none, 0, 8);
}

/* The NUL-ended strings in a text as a list, as execve wants it; 0 where they are fewer than `count`. */
static int strings(char **list, const char *text, uint32_t size, uint64_t count)
{
	const char *end = text + size;

	for (uint64_t i = 0; i < count; i++) {
		if (text >= end)
			return 0;
		list[i] = (char *)text;
		text += text_length(text) + 1;
	}
	list[count] = 0;
	return 1;
}

/* Tries the places in text3 in order, as execvp(3) does but without its shell for a file of no known format.
   argv is text (a of them), envp is text2 (b of them). A slot other than none is the number of a descriptor that is executed
   instead: it is in its place by then. */
STEP(EXEC)
{
	const char *place = TEXT3(c, s), *end = place + s->text3_size;
	long result = -ENOENT, r;
	char **argv, **envp;

	if (s->a > s->text_size || s->b > s->text2_size) /* each takes a byte at least; and the next line must not overflow */
		return -EINVAL;
	r = sys6(__NR_mmap, 0, (s->a + s->b + 2) * sizeof(char *), 3 /* PROT_READ | PROT_WRITE */, 0x22 /* MAP_PRIVATE | MAP_ANONYMOUS */, -1, 0);
	if (r <= 0)
		return r ? r : -ENOMEM;
	argv = (char **)r;
	envp = argv + s->a + 1;
	if (!strings(argv, TEXT(c, s), s->text_size, s->a) || !strings(envp, TEXT2(c, s), s->text2_size, s->b))
		return -EINVAL;
	if (s->slot != CRECHE_SLOT_NONE) {
		if (c->marked)
			*c->marked = 1;
		return sys5(__NR_execveat, s->slot, "", argv, envp, AT_EMPTY_PATH);
	}
	for (; place < end; place += text_length(place) + 1) {
		if (c->marked)
			*c->marked = 1;
		for (int tries = 0;; tries++) {
			struct __kernel_timespec pause = { 0, 5000000 };
			r = sys3(__NR_execve, place, argv, envp);
			/* Another thread of the host program that is just forking may hold the file open for writing. */
			if (r != -ETXTBSY || tries == 40)
				break;
			sys2(__NR_nanosleep, &pause, 0);
		}
		if (r == -ENOENT && sys4(__NR_faccessat, AT_FDCWD, place, 0, 0) == 0) {
			failure_text(c, CRECHE_DETAIL_INTERPRETER, place, text_length(place));
			return r;
		}
		if (r == -ENOTDIR && place == TEXT3(c, s) && place + text_length(place) + 1 >= end) /* there is no other */
			result = r, failure_text(c, CRECHE_DETAIL_NONE, place, text_length(place));
		if (r == -ENOENT || r == -ENOTDIR)
			continue;
		if (r == -EACCES) { /* another place may do, but if none does, this is what to tell */
			result = r;
			failure_text(c, CRECHE_DETAIL_NONE, place, text_length(place));
			continue;
		}
		failure_text(c, CRECHE_DETAIL_NONE, place, text_length(place));
		return r;
	}
	return result;
}
