/* The Step that makes idmapped trees, on the parent's side: to the child's ids, or by maps that one mount has to itself. */
#include "interp.h"
#include <asm/errno.h>
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/wait.h>

/* Lives in a new user namespace until it is killed, or whose memory it shares is dead (a signal wakes ppoll). */
static int hold(void *maker)
{
	sys5(__NR_prctl, PR_SET_PDEATHSIG, 9 /* SIGKILL */, 0, 0, 0);
	while (sys0(__NR_getppid) == *(const int *)maker)
		sys5(__NR_ppoll, 0, 0, 0, 0, 8);
	return 0;
}

/* A user namespace with these maps and nobody in it. Its one process changes nothing of the memory that it shares with us; what
   it does is wait, while the maps are written from outside (user_namespaces(7)). */
static long namespace_with(const char *uid_map, size_t uid_size, const char *gid_map, size_t gid_size)
{
	_Alignas(16) char stack[4096];
	int pidfd = -1, us = (int)sys0(__NR_getpid), status;
	struct clone_args args = { .flags = CLONE_NEWUSER | CLONE_VM | CLONE_FILES | CLONE_CLEAR_SIGHAND | CLONE_PIDFD,
		.pidfd = (uint64_t)(uintptr_t)&pidfd, .stack = (uint64_t)(uintptr_t)stack, .stack_size = sizeof stack };
	long holder = sys_clone3_stack(&args, sizeof args, hold, &us), r;

	if (holder < 0)
		return holder;
	r = write_of_process((int)holder, pidfd, "gid_map", gid_map, gid_size);
	if (r >= 0)
		r = write_of_process((int)holder, pidfd, "uid_map", uid_map, uid_size);
	if (r >= 0)
		r = open_of_process((int)holder, pidfd, "ns/user", O_RDONLY);
	sys4(__NR_pidfd_send_signal, pidfd, 9 /* SIGKILL */, 0, 0);
	sys1(__NR_close, pidfd);
	while (sys4(__NR_wait4, holder, &status, __WALL, 0) == -EINTR) /* its stack is ours: not before it is dead */
		;
	return r;
}

/* A tree of the host's, detached and idmapped: only somebody privileged over its file system can make it, and it travels to
   the init with the setup message. By the maps in text2 and text3 where they are given. mount_setattr(2). */
STEP(IDMAP)
{
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_IDMAP };
	uint32_t below = s->flags & CRECHE_RECURSIVE ? AT_RECURSIVE : 0;
	long tree, userns, r;

	tree = sys3(__NR_open_tree, AT_FDCWD, TEXT(c, s), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | below);
	if (tree < 0)
		return tree;
	userns = s->text2_size ? namespace_with(TEXT2(c, s), s->text2_size, TEXT3(c, s), s->text3_size)
			       : open_of_process(c->pid_child, c->pidfd_child, "ns/user", O_RDONLY);
	r = userns;
	if (userns >= 0) {
		attr.userns_fd = (uint64_t)userns;
		r = sys5(__NR_mount_setattr, tree, "", AT_EMPTY_PATH | below, &attr, sizeof attr);
		sys1(__NR_close, userns);
	}
	if (r < 0) {
		sys1(__NR_close, tree);
		return r;
	}
	return slot_put(c, s->slot, tree);
}
