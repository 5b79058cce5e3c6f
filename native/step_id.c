/* The Steps that set identities: names, ids, groups, capabilities, and what the parent writes about its child. */
#include "interp.h"
#include <asm/errno.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/fcntl.h>
#include <linux/if.h>
#include <linux/keyctl.h>
#include <linux/mount.h>
#include <linux/poll.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/securebits.h>
#include <linux/socket.h>
#include <linux/wait.h>

#ifndef SIOCSIFFLAGS
#define SIOCSIFFLAGS 0x8914
#endif

STEP(HOSTNAME) { return sys2(__NR_sethostname, TEXT(c, s), s->text_size); }
STEP(DOMAINNAME) { return sys2(__NR_setdomainname, TEXT(c, s), s->text_size); }

/* A fresh network namespace has its loopback down (network_namespaces(7)). */
STEP(LOOPBACK)
{
	struct ifreq request = { .ifr_ifrn.ifrn_name = "lo", .ifr_ifru.ifru_flags = IFF_UP };
	long fd = sys3(__NR_socket, AF_INET, 2 | 02000000 /* SOCK_DGRAM | SOCK_CLOEXEC */, 0), r;

	(void)c, (void)s;
	if (fd < 0)
		return fd;
	r = sys3(__NR_ioctl, fd, SIOCSIFFLAGS, &request);
	sys1(__NR_close, fd);
	return r;
}

/* The init becomes the container's own root (a, b), so that what it makes belongs to an id that is mapped. A change of
   ids sets dumpable to fs.suid_dumpable, which may be 1 (proc_sys_fs(5)); nothing that runs Steps is for guests to read. */
STEP(IDENTITY)
{
	long r = sys3(__NR_setresgid, s->b, s->b, s->b);

	(void)c;
	if (r >= 0)
		r = sys3(__NR_setresuid, s->a, s->a, s->a);
	sys5(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
	return r;
}

/* Capabilities outlive the change of ids that follows, until CAPABILITIES says which of them stay. */
STEP(KEEP_CAPS)
{
	(void)c, (void)s;
	return sys5(__NR_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0);
}

STEP(GROUPS)
{
	long r = sys2(__NR_setgroups, s->text_size / sizeof(uint32_t), TEXT(c, s));

	return r == -EPERM && s->flags & CRECHE_OPTIONAL ? 0 : r;
}

STEP(USER) { return step_IDENTITY(c, s); }

/* What is not there any more is not dropped again: to ask takes a quarter of the time, for credentials are copied only to be
   changed. */
static long keep_bounding(uint64_t mask)
{
	for (int i = 0; i < 64; i++) {
		long r;

		if (mask >> i & 1)
			continue;
		r = sys5(__NR_prctl, PR_CAPBSET_READ, i, 0, 0, 0);
		if (r == -EINVAL)
			break; /* past the last that this kernel knows */
		if (r > 0)
			r = sys5(__NR_prctl, PR_CAPBSET_DROP, i, 0, 0, 0);
		if (r < 0)
			return r;
	}
	return 0;
}

/* One list for every set: bounding, permitted, effective; inheritable and ambient only where it is not empty
   (capabilities(7)). Nothing is left to gain by a later exec. */
STEP(CAPABILITIES)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	uint32_t low = (uint32_t)s->a, high = (uint32_t)(s->a >> 32);
	long r;
	int may_drop;

	if (s->flags & CRECHE_BOUNDING) {
		r = keep_bounding(s->a);
		c->bounded = r >= 0;
		c->bounding = s->a;
		return r;
	}
	/* A change of ids leaves them permitted at most (KEEP_CAPS), but what follows looks at the effective ones. */
	r = sys2(__NR_capget, &header, data);
	if (r < 0)
		return r;
	data[0].effective = data[0].permitted;
	data[1].effective = data[1].permitted;
	if (s->flags & CRECHE_NOT_INHERITED) /* takes them from the ambient set as well */
		data[0].inheritable = data[1].inheritable = 0;
	r = sys2(__NR_capset, &header, data);
	if (r < 0 || s->flags & CRECHE_NOT_INHERITED)
		return r;
	/* A caller without power may not drop from the bounding set; with no_new_privs, which then must follow, that set gives
	   nothing to anybody (capabilities(7), execve(2)). */
	may_drop = data[0].effective >> CAP_SETPCAP & 1 || !(s->flags & CRECHE_NO_ROOT);
	r = may_drop && !(c->bounded && c->bounding == s->a) ? keep_bounding(s->a) : 0; /* a newborn command's is its init's */
	if (r < 0)
		return r;
	if (may_drop && s->flags & CRECHE_NO_ROOT) {
		r = sys5(__NR_prctl, PR_SET_SECUREBITS,
			 SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_KEEP_CAPS_LOCKED, 0, 0, 0);
		if (r < 0)
			return r;
	}
	sys5(__NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	data[0] = (struct __user_cap_data_struct){ low, low, low };
	data[1] = (struct __user_cap_data_struct){ high, high, high };
	r = sys2(__NR_capset, &header, data);
	if (r < 0)
		return r;
	for (int i = 0; i < 64; i++)
		if (s->a >> i & 1) {
			r = sys5(__NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i, 0, 0);
			if (r < 0)
				return r;
		}
	return 0;
}

static size_t decimal(char *to, int number)
{
	char digits[12];
	size_t n = 0, size;

	do
		digits[n++] = (char)('0' + number % 10);
	while (number /= 10);
	size = n;
	while (n)
		*to++ = digits[--n];
	*to = 0;
	return size;
}

long open_of_process(int pid, int pidfd, const char *name, int flags)
{
	char path[64] = "/proc/";
	size_t at = 6 + decimal(path + 6, pid);
	long fd, r;

	path[at++] = '/';
	if (at + text_length(name) >= sizeof path)
		return -ENAMETOOLONG;
	copy_bytes(path + at, name, text_length(name) + 1);
	fd = sys4(__NR_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0);
	r = fd < 0 ? 0 : sys4(__NR_pidfd_send_signal, pidfd, 0, 0, 0);
	if (r < 0)
		sys1(__NR_close, fd);
	return r < 0 ? r : fd;
}

long write_of_process(int pid, int pidfd, const char *name, const char *text, size_t size)
{
	long fd = open_of_process(pid, pidfd, name, O_WRONLY), r;

	if (fd < 0)
		return fd;
	r = sys3(__NR_write, fd, text, size); /* a map must come in one write: user_namespaces(7) */
	sys1(__NR_close, fd);
	return r < 0 ? r : 0;
}

static long write_of_child(struct ctx *c, const char *name, const char *text, size_t size)
{
	return write_of_process(c->pid_child, c->pidfd_child, name, text, size);
}

STEP(MAP)
{
	long r = 0;

	if (s->flags & CRECHE_DENY_SETGROUPS)
		r = write_of_child(c, "setgroups", "deny", 4);
	return r < 0 ? r : write_of_child(c, s->flags & CRECHE_GROUP_MAP ? "gid_map" : "uid_map", TEXT(c, s), s->text_size);
}

STEP(PROC_WRITE) { return write_of_child(c, TEXT(c, s), TEXT2(c, s), s->text2_size); }

struct tool {
	const char *path;
	char *argv[2 + 3 * 340 + 1]; /* a map has 340 lines at most: user_namespaces(7) */
	int says;
};

static int run_tool(void *arg)
{
	struct tool *tool = arg;
	char *envp[1] = { 0 };

	sys3(__NR_dup3, tool->says, 2, 0);
	sys3(__NR_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC); /* what a library of the host program left inheritable */
	sys3(__NR_execve, tool->path, tool->argv, envp);
	return 127;
}

/* Runs newuidmap or newgidmap, the one program that a spawn may need: text is its path, text2 its arguments after
   the pid, each ended by a NUL. What it says of a refusal is the failure's text. It asks the users' database, which may be
   far away: it does not outlive the child that it is for, which a cancel kills. */
STEP(MAP_TOOL)
{
	_Alignas(16) char stack[8192];
	char pid[12], said[CRECHE_TEXT];
	struct tool tool = { .path = TEXT(c, s) };
	int pidfd = -1;
	struct clone_args args = { .flags = CLONE_VM | CLONE_VFORK | CLONE_CLEAR_SIGHAND | CLONE_PIDFD,
		.pidfd = (uint64_t)(uintptr_t)&pidfd, .stack = (uint64_t)(uintptr_t)stack, .stack_size = sizeof stack };
	const char *word = TEXT2(c, s), *end = word + s->text2_size;
	int argc = 0, status = 0, gone = 0, pipe[2];
	long child, r, n;

	decimal(pid, c->pid_child);
	tool.argv[argc++] = (char *)TEXT(c, s);
	tool.argv[argc++] = pid;
	for (; word < end && argc < 2 + 3 * 340; word += text_length(word) + 1)
		tool.argv[argc++] = (char *)word;
	if (word < end)
		return -E2BIG;
	r = sys2(__NR_pipe2, pipe, O_CLOEXEC | O_NONBLOCK);
	if (r < 0)
		return r;
	tool.says = pipe[1];
	child = sys_clone3_stack(&args, sizeof args, run_tool, &tool);
	sys1(__NR_close, pipe[1]);
	r = child;
	if (child > 0) {
		struct pollfd ends[2] = { { pidfd, POLLIN, 0 }, { c->pidfd_child, POLLIN, 0 } };
		do
			r = sys5(__NR_ppoll, ends, 2, 0, 0, 8);
		while (r == -EINTR);
		gone = r > 0 && !ends[0].revents;
		if (gone)
			sys4(__NR_pidfd_send_signal, pidfd, 9 /* SIGKILL */, 0, 0);
		sys1(__NR_close, pidfd);
		do
			r = sys4(__NR_wait4, child, &status, __WALL, 0);
		while (r == -EINTR);
	}
	if (r == -ECHILD)
		r = 0; /* somebody's waitpid(-1) took it; if the map is not there, the next Step that needs it says so */
	if (gone)
		r = -EPIPE;
	if (r >= 0 && status) {
		n = sys3(__NR_read, pipe[0], said, sizeof said);
		if (n > 0 && said[n - 1] == '\n')
			n--;
		failure_text(c, CRECHE_DETAIL_TOOL, said, n > 0 ? (size_t)n : 0);
		r = status >> 8 == 127 ? -ENOENT : -EPERM;
	}
	sys1(__NR_close, pipe[0]);
	return r < 0 ? r : 0;
}

/* The parent writes its child's number to a cgroup.procs that it opened. */
STEP(ENTER)
{
	char text[12];
	int fd = slot_take(c, s->slot);
	long r;

	if (fd < 0)
		return fd;
	r = sys3(__NR_write, fd, text, decimal(text, c->pid_child));
	return r < 0 ? r : 0;
}

/* A session keyring that nobody has, and nothing in those of these uids, which outlive their processes: keyrings(7). A
   keyring is found by the real uid; power is by the effective one, which stays. Where a kernel has no keys, or something
   around us forbids them, guests have none either. */
STEP(KEYRINGS)
{
	const uint32_t *uids = (const uint32_t *)(const void *)TEXT(c, s);
	long r = sys2(__NR_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0), own = sys0(__NR_getuid);

	if (r == -ENOSYS || r == -EPERM)
		return 0;
	if (s->text % 4)
		return -EINVAL;
	for (uint32_t i = 0; r >= 0 && i < s->text_size / sizeof *uids; i++) {
		long persistent;

		r = sys3(__NR_setresuid, uids[i], -1, -1);
		if (r >= 0)
			r = sys2(__NR_keyctl, KEYCTL_CLEAR, KEY_SPEC_USER_KEYRING);
		if (r >= 0)
			r = sys2(__NR_keyctl, KEYCTL_CLEAR, KEY_SPEC_USER_SESSION_KEYRING);
		persistent = sys3(__NR_keyctl, KEYCTL_GET_PERSISTENT, -1, KEY_SPEC_SESSION_KEYRING);
		if (r >= 0 && persistent != -EOPNOTSUPP)
			r = persistent < 0 ? persistent : sys2(__NR_keyctl, KEYCTL_CLEAR, persistent);
	}
	if (r >= 0)
		r = sys2(__NR_keyctl, KEYCTL_CLEAR, KEY_SPEC_SESSION_KEYRING);
	own = sys3(__NR_setresuid, own, -1, -1);
	sys5(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
	return r < 0 ? r : own;
}
