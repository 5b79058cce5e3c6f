/* The init's work on files for its supervisor: as the container's root, below a directory that was opened before. */
#include "init_files.h"
#include <asm/errno.h>
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>

/* One name in a directory that came with the request: no link is followed, not even one that was put there this moment, and no
   ".." leads up. What a path from the root names is found by resolve(), inside of it. */
static long open_below(int base, const char *name, uint64_t flags, uint64_t mode)
{
	struct open_how how = {
		.flags = flags | O_CLOEXEC, .mode = mode, .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
	};

	return sys4(__NR_openat2, base, name, &how, sizeof how);
}

static long write_attribute(int fd, const char *name, int to)
{
	static char value[65536]; /* XATTR_SIZE_MAX */
	long size = to < 0 ? to : sys4(__NR_fgetxattr, fd, name, value, sizeof value);

	return size < 0 ? size : write_all(to, value, (size_t)size);
}

/* A tree of another container's layers, attached to nothing yet, gets a new name among our own. */
static long stage(int tree, int layers, const char *name)
{
	long r = sys3(__NR_mkdirat, layers, name, 0755);

	if (r < 0)
		return r;
	r = sys5(__NR_move_mount, tree, "", layers, name, MOVE_MOUNT_F_EMPTY_PATH);
	if (r < 0)
		sys3(__NR_unlinkat, layers, name, AT_REMOVEDIR);
	return r;
}

/* umount2(2) takes a path alone, and none leads to our layers. */
static long unstage(int layers, const char *name)
{
	long r, fd = open_below(layers, name, O_PATH | O_DIRECTORY, 0);

	if (fd < 0)
		return fd;
	r = sys1(__NR_fchdir, fd);
	sys1(__NR_close, fd);
	if (r >= 0) {
		r = sys2(__NR_umount2, ".", MNT_DETACH);
		sys1(__NR_chdir, "/");
	}
	return r < 0 ? r : sys3(__NR_unlinkat, layers, name, AT_REMOVEDIR);
}

/* `text` ends with a NUL at text[size]; SYMLINK's holds another, with the link's own text behind it. */
long file_request(struct ctx *c, const struct creche_request *request, const char *text, size_t size)
{
	int base = slot_take(c, CRECHE_SLOT_PASSED);
	uint64_t flags = (uint64_t)(uint32_t)request->number;
	size_t name = text_length(text);

	if (request->b == CRECHE_FILE_OPEN) {
		if (!(flags & O_PATH)) /* a FIFO or a device must not make us wait, nor become our terminal */
			flags |= O_NONBLOCK | O_NOCTTY;
		return base < 0 ? resolve(c, text, flags, request->a) : open_below(base, text, flags, request->a);
	}
	if (request->b == CRECHE_FILE_LAYER)
		return open_below(slot_take(c, CRECHE_SLOT_LAYERS), text, flags, 0);
	if (request->b == CRECHE_FILE_TREE)
		return sys3(__NR_open_tree, slot_take(c, CRECHE_SLOT_LAYERS), text, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
	if (request->b == CRECHE_FILE_UNSTAGE)
		return unstage(slot_take(c, CRECHE_SLOT_LAYERS), text);
	if (base < 0)
		return base;
	switch (request->b) {
	case CRECHE_FILE_MKDIR:
		return sys3(__NR_mkdirat, base, text, request->a);
	case CRECHE_FILE_UNLINK:
		return sys3(__NR_unlinkat, base, text, 0);
	case CRECHE_FILE_RMDIR:
		return sys3(__NR_unlinkat, base, text, AT_REMOVEDIR);
	case CRECHE_FILE_SYMLINK:
		return name < size ? sys3(__NR_symlinkat, text + name + 1, base, text) : -EINVAL;
	case CRECHE_FILE_MODE:
		return sys2(__NR_fchmod, base, request->a);
	case CRECHE_FILE_OWNER: /* of a name, or of the descriptor itself where that is empty */
		return sys5(__NR_fchownat, base, text, request->a & 0xffffffff, request->a >> 32, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW);
	case CRECHE_FILE_STAGE:
		return stage(base, slot_take(c, CRECHE_SLOT_LAYERS), text);
	case CRECHE_FILE_XATTR: /* written to a second descriptor; for an owner whom the mode keeps from reading it (xattr(7)) */
		return write_attribute(base, text, slot_take(c, CRECHE_SLOT_PASSED + 1));
	}
	return -EINVAL;
}
