/* The Step that makes a mount's files nobody's, whoever comes to see them. */
#include "interp.h"
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <linux/wait.h>
#include <asm/errno.h>

static long write_own(const char *path, const char *text, size_t size)
{
	long fd = sys4(__NR_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0), r;

	if (fd < 0)
		return fd;
	r = sys3(__NR_write, fd, text, size);
	sys1(__NR_close, fd);
	return r < 0 ? r : 0;
}

/* In a user namespace of its own, with our memory and descriptors, while we sleep. Its one id stands for our root, and no id of
   ours stands for what is root's in the file system. */
static int open_strangers(void *arg)
{
	long *r = arg;

	*r = write_own("/proc/self/setgroups", "deny", 4);
	if (*r >= 0)
		*r = write_own("/proc/self/gid_map", "1 0 1", 5);
	if (*r >= 0)
		*r = write_own("/proc/self/uid_map", "1 0 1", 5);
	if (*r >= 0)
		*r = sys4(__NR_openat, AT_FDCWD, "/proc/self/ns/user", O_RDONLY | O_CLOEXEC, 0);
	return 0;
}

/* What lies in the mount itself is nobody's, whoever has its owner's id: of an owner's powers the one to take leases is left in a
   file system that is read-only, and all others would wait for him (fcntl(2), F_SETLEASE). */
STEP(UNOWNED)
{
	_Alignas(16) char stack[4096];
	long userns = -ENOSYS, child, r;
	struct clone_args args = { .flags = CLONE_NEWUSER | CLONE_VM | CLONE_VFORK | CLONE_FILES | CLONE_CLEAR_SIGHAND,
		.stack = (uint64_t)(uintptr_t)stack, .stack_size = sizeof stack };
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_IDMAP };
	int mount = slot_take(c, s->slot), status;

	if (mount < 0)
		return mount;
	child = sys_clone3_stack(&args, sizeof args, open_strangers, &userns);
	if (child < 0)
		return child;
	while (sys4(__NR_wait4, child, &status, __WALL, 0) == -EINTR)
		;
	if (userns < 0)
		return userns;
	attr.userns_fd = (uint64_t)userns;
	r = sys5(__NR_mount_setattr, mount, "", AT_EMPTY_PATH, &attr, sizeof attr);
	sys1(__NR_close, userns);
	return r;
}
