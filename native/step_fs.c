/* The Steps that make mounts, each on a descriptor and attached to nothing yet. */
#include "interp.h"
#include <asm/errno.h>
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/stat.h>
#include <asm/statfs.h>

/* Opens what a Step names by path: on the caller's side, below the directory in slot2, or INSIDE the container's root. */
STEP(OPEN)
{
	long fd;
	uint64_t flags = O_PATH | (s->flags & CRECHE_DIRECTORY ? O_DIRECTORY : 0);

	if (s->flags & CRECHE_INSIDE)
		fd = resolve(c, TEXT(c, s), flags, 0);
	else if (s->slot2 != CRECHE_SLOT_NONE) {
		fd = slot_take(c, s->slot2);
		if (fd >= 0)
			fd = sys4(__NR_openat, fd, TEXT(c, s), flags | O_CLOEXEC | O_NOFOLLOW, 0);
	} else
		fd = sys4(__NR_openat, AT_FDCWD, TEXT(c, s), flags | O_CLOEXEC, 0);
	return slot_put(c, s->slot, fd);
}

/* A copy of the mounts at a path of the caller's side, attached to nothing yet. */
STEP(OPEN_TREE)
{
	return slot_put(c, s->slot, sys3(__NR_open_tree, AT_FDCWD, TEXT(c, s),
					 OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (s->flags & CRECHE_RECURSIVE ? AT_RECURSIVE : 0)));
}

/* Adds and removes mount attributes (a, b) on a whole tree: nothing below stays writable (mount_setattr(2)). */
STEP(MOUNT_ATTR)
{
	struct mount_attr attr = { .attr_set = s->a, .attr_clr = s->b };
	int fd = slot_take(c, s->slot);

	if (fd < 0)
		return fd;
	return sys5(__NR_mount_setattr, fd, "", AT_EMPTY_PATH | (s->flags & CRECHE_RECURSIVE ? AT_RECURSIVE : 0), &attr,
		    sizeof attr);
}

/* Nothing we mount may appear on the host: cut the propagation first (mount_namespaces(7)). */
STEP(PROPAGATION)
{
	struct mount_attr attr = { .propagation = s->a };

	(void)c;
	return sys5(__NR_mount_setattr, AT_FDCWD, "/", AT_RECURSIVE, &attr, sizeof attr);
}

STEP(FS_OPEN)
{
	return slot_put(c, s->slot, sys2(__NR_fsopen, TEXT(c, s), FSOPEN_CLOEXEC));
}

/* What the file system itself says of a refusal: its log, one line a read (fsopen's messages begin "e "). */
static long with_log(struct ctx *c, int fd, long error)
{
	char line[CRECHE_TEXT];
	long n;

	if (error >= 0)
		return error;
	while ((n = sys3(__NR_read, fd, line, sizeof line)) > 0) {
		if (line[n - 1] == '\n')
			n--;
		if (n > 2 && line[0] == 'e')
			failure_text(c, CRECHE_DETAIL_LOG, line + 2, (size_t)n - 2);
	}
	return error;
}

STEP(FS_STRING)
{
	int fd = slot_take(c, s->slot);

	return with_log(c, fd, sys5(__NR_fsconfig, fd, FSCONFIG_SET_STRING, TEXT(c, s), TEXT2(c, s), 0));
}

STEP(FS_FLAG)
{
	int fd = slot_take(c, s->slot);

	return with_log(c, fd, sys5(__NR_fsconfig, fd, FSCONFIG_SET_FLAG, TEXT(c, s), 0, 0));
}

/* Writes "/proc/self/fd/N": a path without commas, colons or length, that names what slot2 holds. */
static void fd_path(char *to, int fd)
{
	const char *prefix = "/proc/self/fd/";
	char digits[12];
	int n = 0;

	while (*prefix)
		*to++ = *prefix++;
	do
		digits[n++] = (char)('0' + fd % 10);
	while (fd /= 10);
	while (n)
		*to++ = digits[--n];
	*to = 0;
}

STEP(FS_FD)
{
	char path[32];
	int fd = slot_take(c, s->slot), layer = slot_take(c, s->slot2);

	if (layer < 0)
		return layer;
	fd_path(path, layer);
	return with_log(c, fd, sys5(__NR_fsconfig, fd, FSCONFIG_SET_STRING, TEXT(c, s), path, 0));
}

/* Layers of an overlay that lie beside each other in slot2: text is their names, each ended by a NUL, first the upper one and
   its work directory, which are made (or none, by no name), then the lower ones from the topmost on. */
STEP(LAYERS)
{
	const char *name = TEXT(c, s), *end = name + s->text_size;
	char path[32];
	int fd = slot_take(c, s->slot), folder = slot_take(c, s->slot2);
	long r = 0, layer;

	if (folder < 0)
		return folder;
	for (int n = 0; name < end && r >= 0; n++, name += text_length(name) + 1) {
		const char *key = n == 0 ? "upperdir" : n == 1 ? "workdir" : "lowerdir+";

		if (n < 2 && !*name)
			continue;
		r = n < 2 ? sys3(__NR_mkdirat, folder, name, 0755) : 0;
		if (r >= 0)
			r = layer = sys4(__NR_openat, folder, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
		if (r < 0)
			break;
		r = sys5(__NR_fsconfig, fd, FSCONFIG_SET_FD, key, 0, layer);
		if (r < 0) { /* from 6.13 on; the way by a path takes twice as long */
			fd_path(path, (int)layer);
			r = with_log(c, fd, sys5(__NR_fsconfig, fd, FSCONFIG_SET_STRING, key, path, 0));
		}
		sys1(__NR_close, layer);
	}
	return r;
}

/* The tmpfs in `slot` may have b inodes more than it uses, and a at least: what an overlay makes in its work directory must have
   room also where a guest has left none. */
STEP(ROOM)
{
	struct statfs found;
	char digits[24], *number = digits + sizeof digits;
	int fd = slot_take(c, s->slot);
	long r = sys2(__NR_fstatfs, fd, &found), again;
	uint64_t most;

	if (r < 0)
		return r;
	most = (uint64_t)(found.f_files - found.f_ffree) + s->b;
	if (most < s->a)
		most = s->a;
	*--number = 0;
	do
		*--number = (char)('0' + most % 10);
	while (most /= 10);
	r = again = sys3(__NR_fspick, fd, "", FSPICK_CLOEXEC | FSPICK_EMPTY_PATH);
	if (r < 0)
		return r;
	r = sys5(__NR_fsconfig, again, FSCONFIG_SET_STRING, "nr_inodes", number, 0);
	if (r >= 0)
		r = sys5(__NR_fsconfig, again, FSCONFIG_CMD_RECONFIGURE, 0, 0, 0);
	r = with_log(c, (int)again, r);
	sys1(__NR_close, again);
	return r;
}

STEP(FS_MOUNT)
{
	int fd = slot_take(c, s->slot);
	long r = with_log(c, fd, sys5(__NR_fsconfig, fd, FSCONFIG_CMD_CREATE, 0, 0, 0));

	if (r < 0)
		return r;
	return slot_put(c, s->slot, with_log(c, fd, sys3(__NR_fsmount, fd, FSMOUNT_CLOEXEC, s->a)));
}

/* The file system itself: no mount of it, whoever makes one, is ever written to again. */
STEP(FS_READ_ONLY)
{
	int mount = slot_take(c, s->slot);
	long fd = mount < 0 ? mount : sys3(__NR_fspick, mount, "", FSPICK_EMPTY_PATH | FSPICK_CLOEXEC), r;

	if (fd < 0)
		return fd;
	r = sys5(__NR_fsconfig, fd, FSCONFIG_SET_FLAG, "ro", 0, 0);
	if (r >= 0)
		r = sys5(__NR_fsconfig, fd, FSCONFIG_CMD_RECONFIGURE, 0, 0, 0);
	r = with_log(c, (int)fd, r);
	sys1(__NR_close, fd);
	return r;
}

/* Kernels before 6.7 take all lowers in one option string, and fsconfig's strings end at 256 bytes, so here is
   the old mount(2) with its page: lowers are slots a … a+b-1 (top first), upper slot2 and work slot2+1.
   Mounted over the staging directory, then taken off it again as a tree of its own. */
STEP(OVERLAY_OLD)
{
	char options[PATH_SIZE], path[32];
	size_t n = 0;
	long r;
	const char *word = "userxattr,lowerdir=";

	while (*word)
		options[n++] = *word++;
	for (uint64_t i = 0; i < s->b; i++) {
		int fd = slot_take(c, (unsigned)(s->a + i));
		if (fd < 0)
			return fd;
		fd_path(path, fd);
		if (n + text_length(path) + 80 > sizeof options)
			return -E2BIG;
		if (i)
			options[n++] = ':';
		copy_bytes(options + n, path, text_length(path));
		n += text_length(path);
	}
	for (int i = 0; s->slot2 != CRECHE_SLOT_NONE && i < 2; i++) {
		word = i ? ",workdir=" : ",upperdir=";
		while (*word)
			options[n++] = *word++;
		int fd = slot_take(c, s->slot2 + (unsigned)i);
		if (fd < 0)
			return fd;
		fd_path(path, fd);
		copy_bytes(options + n, path, text_length(path));
		n += text_length(path);
	}
	options[n] = 0;
	r = sys5(__NR_mount, "overlay", "/", "overlay", 0, s->flags & CRECHE_USERXATTR ? options : options + 10);
	if (r < 0)
		return r;
	/* "/" itself is still the old root for us: the new mount lies on top of it, reached by "/.." alone. */
	r = sys3(__NR_open_tree, AT_FDCWD, "/..", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	sys2(__NR_umount2, "/..", MNT_DETACH);
	return slot_put(c, s->slot, r);
}
