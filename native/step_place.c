/* The Steps that place what was made: a root, what is attached and covered in it, and the pivot into it. */
#include "interp.h"
#include <asm/errno.h>
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/stat.h>

/* Where the caller's root stays the root, nothing else takes the stage away. */
STEP(UNSTAGE)
{
	long r = sys1(__NR_fchdir, slot_take(c, s->slot));

	if (r >= 0)
		r = sys2(__NR_umount2, ".", MNT_DETACH);
	if (r >= 0)
		r = sys1(__NR_chdir, "/");
	return r;
}

/* The container's root becomes a mount of its own on top of all, as pivot_root(2) wants it. */
STEP(ROOT)
{
	int tree = slot_take(c, s->slot);
	long r = tree < 0 ? tree : sys5(__NR_move_mount, tree, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH);

	return r < 0 ? r : slot_put(c, CRECHE_SLOT_ROOT, sys3(__NR_fcntl, tree, F_DUPFD_CLOEXEC, 3));
}

/* The directory that a path of the container's ends in, made where it is not there: its descriptor, and `last` the name
   below it. Directories are made below descriptors, never by path. */
static long make_parents(struct ctx *c, const char *path, char *buffer, const char **last)
{
	size_t n = text_length(path), cut = 1;
	long parent;

	if (n >= PATH_SIZE || path[0] != '/')
		return -ENAMETOOLONG;
	copy_bytes(buffer, path, n + 1);
	while (n > 1 && buffer[n - 1] == '/')
		buffer[--n] = 0;
	for (cut = n; cut > 1 && buffer[cut - 1] != '/'; cut--)
		;
	*last = path[1] ? buffer + cut : ".";
	buffer[cut - 1] = 0; /* the usual case: it is there */
	parent = resolve(c, cut > 1 ? buffer : "/", O_PATH | O_DIRECTORY, 0);
	buffer[cut - 1] = '/';
	if (parent != -ENOENT)
		return parent;
	parent = resolve(c, "/", O_PATH | O_DIRECTORY, 0);
	for (size_t i = 1, from = 1; i < cut && parent >= 0; i++) {
		long next;

		if (buffer[i] != '/')
			continue;
		buffer[i] = 0;
		next = resolve(c, buffer, O_PATH | O_DIRECTORY, 0);
		if (next == -ENOENT) {
			long r = sys3(__NR_mkdirat, parent, buffer + from, 0755);
			next = r < 0 && r != -EEXIST ? r : resolve(c, buffer, O_PATH | O_DIRECTORY, 0);
			if (r == -EEXIST && next == -ENOENT)
				next = -ELOOP; /* a link that leads nowhere inside */
		}
		sys1(__NR_close, parent);
		parent = next;
		buffer[i] = '/';
		from = i + 1;
	}
	return parent;
}

/* A new directory or empty file of that name. */
static long make_name(long parent, const char *name, int directory)
{
	long r;

	if (directory)
		return sys3(__NR_mkdirat, parent, name, 0755);
	r = sys4(__NR_openat, parent, name, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY | O_CLOEXEC, 0644);
	if (r >= 0)
		sys1(__NR_close, r);
	return r;
}

/* A target to mount on: what is there, or a new directory, or a new file. */
static long make_target(struct ctx *c, const char *path, int directory)
{
	char buffer[PATH_SIZE];
	const char *last = "";
	long parent, r, fd = resolve(c, path, O_PATH, 0);

	if (fd != -ENOENT)
		return fd;
	parent = make_parents(c, path, buffer, &last);
	if (parent < 0)
		return parent;
	r = make_name(parent, last, directory);
	/* A link that leads nowhere inside is not followed, and nothing is made at its end. */
	if (r == -EEXIST)
		r = -ELOOP;
	if (r >= 0)
		r = sys4(__NR_openat, parent, last, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
	sys1(__NR_close, parent);
	return r;
}

static long kind_of(int at, const char *name, int *directory)
{
	struct statx st;
	long r = sys5(__NR_statx, at, name, *name ? AT_SYMLINK_NOFOLLOW : AT_EMPTY_PATH, STATX_TYPE, &st);

	*directory = r >= 0 && (st.stx_mode & 0170000) == 0040000;
	return r;
}

static long is_directory(int fd, int *yes)
{
	return kind_of(fd, "", yes);
}

/* Attaches a mount where no path of ours leads through it: a place for trees that others are taken from (a detached
   mount can't be cloned before 6.15). The first lies over "/"; the others, in slot2 … text, lie below it (OPTIONAL: at a
   name that was made before). Over the container's root they would outlive the setup, to be reached by "/..". */
STEP(STAGE)
{
	int fd = slot_take(c, s->slot), base, directory;
	long r;

	if (fd < 0)
		return fd;
	if (s->slot2 == CRECHE_SLOT_NONE)
		return sys5(__NR_move_mount, fd, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH);
	base = slot_take(c, s->slot2);
	r = base < 0 ? base : is_directory(fd, &directory);
	if (r >= 0)
		r = make_name(base, TEXT(c, s), directory);
	if (r == -EEXIST && s->flags & CRECHE_OPTIONAL)
		r = 0;
	return r < 0 ? r : sys5(__NR_move_mount, fd, "", base, TEXT(c, s), MOVE_MOUNT_F_EMPTY_PATH);
}

/* Attaches a tree to its place, and lets go of it (KEEP_SLOT: not). With slot2 the place is a new name in that directory,
   which is one of ours: no need to look for links there. */
STEP(ATTACH)
{
	int tree = slot_take(c, s->slot), directory;
	long target, r;

	if (tree < 0)
		return tree;
	if (s->slot2 != CRECHE_SLOT_NONE) {
		int parent = slot_take(c, s->slot2);
		r = make_name(parent, TEXT(c, s), s->flags & CRECHE_DIRECTORY);
		if (r >= 0)
			r = sys5(__NR_move_mount, tree, "", parent, TEXT(c, s), MOVE_MOUNT_F_EMPTY_PATH);
		if (r >= 0 && !(s->flags & CRECHE_KEEP_SLOT))
			slot_drop(c, s->slot);
		return r;
	}
	r = is_directory(tree, &directory);
	if (r < 0)
		return r;
	/* Writes to /proc must reach the kernel: an image's link there would send them elsewhere (CVE-2019-19921). */
	target = s->flags & CRECHE_NO_LINK ? resolve(c, TEXT(c, s), O_PATH | O_NOFOLLOW | O_DIRECTORY, 0) : -ENOENT;
	if (target == -ENOENT)
		target = make_target(c, TEXT(c, s), directory);
	if (target < 0)
		return target;
	r = sys5(__NR_move_mount, tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
	sys1(__NR_close, target);
	if (r >= 0 && !(s->flags & CRECHE_KEEP_SLOT))
		slot_drop(c, s->slot);
	return r;
}

/* What is to be covered: the path itself, or with NO_LINK a name in what `slot` holds. */
static long covered(struct ctx *c, unsigned slot, const struct creche_step *s, const char **name)
{
	*name = s->flags & CRECHE_NO_LINK ? TEXT(c, s) : "";
	return **name ? slot_take(c, slot) : resolve_below(c, slot, TEXT(c, s), O_PATH, 0);
}

static long cover(int tree, int target, const char *name)
{
	long r = sys5(__NR_move_mount, tree, "", target, name, MOVE_MOUNT_F_EMPTY_PATH | (*name ? 0 : MOVE_MOUNT_T_EMPTY_PATH));

	sys1(__NR_close, tree);
	return r;
}

/* Lays an empty directory or an empty file over what is at a path (below slot2 where there is one: a proc of ours, from
   which nobody can move the names away meanwhile): text2 and text3 name them below the staged directory in `slot`. What is
   absent needs no mask. (A tree that is cloned and not used costs an RCU grace period to drop, so the right one is chosen
   first.) */
STEP(MASK)
{
	int stage = slot_take(c, s->slot), directory;
	const char *name;
	long tree, r, target = covered(c, s->slot2, s, &name);

	if (target == -ENOENT || target == -ENOTDIR)
		return 0;
	if (target < 0)
		return target;
	r = kind_of((int)target, name, &directory);
	if (r >= 0)
		r = tree = sys3(__NR_open_tree, stage, directory ? TEXT2(c, s) : TEXT3(c, s), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (r >= 0)
		r = cover((int)tree, (int)target, name);
	else if (r == -ENOENT && *name)
		r = 0;
	if (!*name)
		sys1(__NR_close, target);
	return r;
}

/* Makes what is at a path (below `slot` where there is one), with all that is mounted below it, read-only by a copy of it
   on top. */
STEP(READ_ONLY)
{
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_RDONLY };
	const char *name;
	long tree, r, target = covered(c, s->slot, s, &name);

	if (target == -ENOENT || target == -ENOTDIR)
		return 0;
	if (target < 0)
		return target;
	r = tree = sys3(__NR_open_tree, target, name, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE |
						      (*name ? AT_SYMLINK_NOFOLLOW : AT_EMPTY_PATH));
	if (r == -ENOENT && *name)
		return 0;
	if (r >= 0)
		r = sys5(__NR_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof attr);
	if (r >= 0)
		r = cover((int)tree, (int)target, name);
	else if (tree >= 0)
		sys1(__NR_close, tree);
	if (!*name)
		sys1(__NR_close, target);
	return r;
}

/* A directory: below the one in `slot` where there is one (one name), else in the root, with mode a (OPTIONAL: one that is
   there stays as it is). */
STEP(MKDIR)
{
	long fd, r = 0;

	if (s->slot != CRECHE_SLOT_NONE)
		return sys3(__NR_mkdirat, slot_take(c, s->slot), TEXT(c, s), s->a);
	fd = s->flags & CRECHE_OPTIONAL ? resolve(c, TEXT(c, s), O_PATH | O_DIRECTORY, 0) : -ENOENT;
	if (fd >= 0)
		return sys1(__NR_close, fd);
	fd = make_target(c, TEXT(c, s), 1);
	if (fd < 0)
		return fd;
	if (s->a) {
		long real = resolve(c, TEXT(c, s), O_RDONLY | O_DIRECTORY, 0);
		r = real < 0 ? real : sys2(__NR_fchmod, real, s->a);
		if (real >= 0)
			sys1(__NR_close, real);
	}
	sys1(__NR_close, fd);
	return r;
}

/* Below the directory in `slot` where there is one (one name), else in the root. */
STEP(SYMLINK)
{
	char buffer[PATH_SIZE];
	const char *last = "";
	long r, parent;

	if (s->slot != CRECHE_SLOT_NONE)
		return sys3(__NR_symlinkat, TEXT(c, s), slot_take(c, s->slot), TEXT2(c, s));
	parent = make_parents(c, TEXT2(c, s), buffer, &last);
	if (parent < 0)
		return parent;
	r = sys3(__NR_symlinkat, TEXT(c, s), parent, last);
	sys1(__NR_close, parent);
	return r == -EEXIST && s->flags & CRECHE_OPTIONAL ? 0 : r;
}

/* A file with given bytes: below the directory in `slot` where there is one (one name), else in the root. */
STEP(FILE)
{
	char buffer[PATH_SIZE];
	const char *last = TEXT(c, s);
	long parent, fd, r;

	parent = s->slot != CRECHE_SLOT_NONE ? slot_take(c, s->slot) : make_parents(c, TEXT(c, s), buffer, &last);
	if (parent < 0)
		return parent;
	fd = sys4(__NR_openat, parent, last, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY | O_CLOEXEC, s->a);
	if (s->slot == CRECHE_SLOT_NONE)
		sys1(__NR_close, parent);
	if (fd < 0)
		return fd;
	r = write_all((int)fd, TEXT2(c, s), s->text2_size);
	sys1(__NR_close, fd);
	return r;
}

/* A tree of its own made of one name below the staged directory in slot2 (RECURSIVE: with what is mounted below it). */
STEP(LINK_TREE)
{
	int from = slot_take(c, s->slot2);

	if (from < 0)
		return from;
	return slot_put(c, s->slot, sys3(__NR_open_tree, from, TEXT(c, s), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC |
								   (s->flags & CRECHE_RECURSIVE ? AT_RECURSIVE : 0)));
}

static long mount_id(int at, const char *path, uint64_t *id)
{
	struct statx st;
	long r = sys5(__NR_statx, at, path, *path ? 0 : AT_EMPTY_PATH, STATX_MNT_ID, &st);

	*id = st.stx_mnt_id;
	return r;
}

/* The container's root becomes "/", the old one goes: pivot_root(2), "pivot_root(".", ".")". Then the old root lies on
   top of the new one, and on top of it what was staged: umount2 takes the topmost of them, and "/.." leads there.
   With a stage in `slot`, that stays beneath the container's root for the resets to come: no path leads under a root, as
   none leads to the initial ramfs under a host's. */
STEP(PIVOT)
{
	int root = slot_take(c, CRECHE_SLOT_ROOT), lowest = s->slot == CRECHE_SLOT_NONE ? root : slot_take(c, s->slot);
	long r = sys1(__NR_fchdir, lowest);
	uint64_t ours = 0, top = 0;

	if (r >= 0)
		r = sys2(__NR_pivot_root, ".", ".");
	if (r >= 0)
		r = mount_id(root, "", &ours);
	for (int i = 0; r >= 0 && top != ours; i++) {
		r = i ? sys2(__NR_umount2, ".", MNT_DETACH) : 0;
		if (r >= 0)
			r = i < 8 ? mount_id(AT_FDCWD, "/..", &top) : -EBUSY;
	}
	if (r >= 0 && lowest != root) {
		r = sys1(__NR_fchdir, root);
		if (r >= 0)
			r = sys1(__NR_chroot, ".");
	}
	if (r >= 0)
		r = sys1(__NR_chdir, "/");
	return r;
}

/* Writes text2 to a file of the kernel below the directory in `slot` (OPTIONAL: where this kernel has it; OWN: what a command tells of itself,
   which a guest who may mount would else have told to a file of his own, laid over /proc/self: CVE-2019-16884). */
STEP(WRITE)
{
	struct open_how how = {
		.flags = O_WRONLY | O_CLOEXEC | O_NOFOLLOW, .resolve = s->flags & CRECHE_OWN ? RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS : 0
	};
	int at = slot_take(c, s->slot);
	long fd, r;

	if (at < 0)
		return at;
	fd = sys4(__NR_openat2, at, TEXT(c, s), &how, sizeof how);
	if (fd < 0)
		return fd == -ENOENT && s->flags & CRECHE_OPTIONAL ? 0 : fd;
	r = sys3(__NR_write, fd, TEXT2(c, s), s->text2_size);
	sys1(__NR_close, fd);
	return r < 0 ? r : 0;
}

STEP(CLOSE)
{
	slot_drop(c, s->slot);
	return 0;
}

/* A slot that the init keeps after its setup; with slot2, what that one holds moves there first. */
STEP(KEEP)
{
	if (s->slot >= 64)
		return -EINVAL;
	if (s->slot2 != CRECHE_SLOT_NONE) {
		long r = slot_put(c, s->slot, sys3(__NR_fcntl, slot_take(c, s->slot2), F_DUPFD_CLOEXEC, 3));
		if (r < 0)
			return r;
		slot_drop(c, s->slot2);
	}
	c->keep[s->slot / 32] |= 1u << s->slot % 32;
	return 0;
}
