/* The init's work on files for its supervisor: as the container's root, below a directory that was opened before. */
#include "init_files.h"
#include <asm/errno.h>
#include <linux/fcntl.h>
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
	case CRECHE_FILE_XATTR: /* written to a second descriptor; for an owner whom the mode keeps from reading it (xattr(7)) */
		return write_attribute(base, text, slot_take(c, CRECHE_SLOT_PASSED + 1));
	}
	return -EINVAL;
}
