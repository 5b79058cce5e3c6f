/* What containers with the same HostView share: made by a process of its own, kept as a detached tree while starts go on. */
#define _GNU_SOURCE
#include "spawn.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "pool.h"

#ifndef STATX_MNT_ID_UNIQUE
#define STATX_MNT_ID_UNIQUE 0x4000 /* from 6.8 on */
#endif
#ifndef CLONE_NEWUSER
#include <linux/sched.h>
#endif
#ifndef __NR_listmount
#define __NR_listmount 458 /* from 6.8 on, on every architecture */
#endif

enum { MOST_VIEWS = 8, LOOK_MS = 50 };

/* What a descriptor or a path names: a number that a host program closed, another file may have by now. */
struct identity {
	uint64_t mount, inode;
};

struct view {
	struct view *next;
	uint64_t number;
	unsigned holders; /* the list, and jobs */
	void *plans[2];
	uint32_t sizes[2];
	int tree;
	struct identity is;
};

/* All with the lock held. */
static struct view *views;
static int changes = -1; /* of the mounts that trees were taken from: proc_pid_mountinfo(5) */
static struct identity changes_is, place;
static uint64_t mounts; /* one more with each change that was seen */
static uint64_t print; /* of the mount table as it was then; 0: it is not known */
static uint64_t drops; /* of all trees: what was begun before one is not kept */

static int identify(int fd, const char *path, struct identity *is)
{
	struct statx st;
	long r = sys5(__NR_statx, fd, path, *path ? 0 : AT_EMPTY_PATH, STATX_MNT_ID_UNIQUE | STATX_INO, &st);

	*is = (struct identity){ r < 0 ? 0 : st.stx_mnt_id, r < 0 ? 0 : st.stx_ino };
	return r >= 0;
}

static int is_still(int fd, const struct identity *is)
{
	struct identity now;

	return fd >= 0 && identify(fd, "", &now) && now.mount == is->mount && now.inode == is->inode;
}

static void drop_tree(struct view *view)
{
	if (is_still(view->tree, &view->is))
		close(view->tree);
	view->tree = -1;
}

void drop_trees(void)
{
	drops++;
	for (struct view *view = views; view; view = view->next)
		drop_tree(view);
	if (is_still(changes, &changes_is))
		close(changes);
	changes = -1;
}

void creche_views_drop(void)
{
	jobs_lock();
	drop_trees();
	jobs_unlock();
}

/* A change is told but once (fs/proc_namespace.c: mounts_poll), so the descriptor that told it goes: the next to ask is to know, too. */
static int nothing_changed(void)
{
	struct pollfd fd = { changes, POLLPRI, 0 };
	struct identity now;

	if (!is_still(changes, &changes_is))
		return 0;
	if (identify(AT_FDCWD, "/", &now) && now.mount == place.mount && now.inode == place.inode && poll(&fd, 1, 0) == 0)
		return 1;
	close(changes);
	changes = -1;
	return 0;
}

uint64_t creche_mounts(void)
{
	uint64_t number;

	jobs_lock();
	number = nothing_changed() ? mounts : 0;
	jobs_unlock();
	return number;
}

static uint64_t mixed(uint64_t hash, const void *data, size_t size)
{
	for (const unsigned char *byte = data; size--; byte++)
		hash = (hash ^ *byte) * 0x100000001b3; /* FNV-1a, 64 bits */
	return hash;
}

/* The mount table in a number: the text that says where each is and how, and the numbers that no other mount will ever have, while
   those in the text are given again (listmount(2)). 0 where it can't be read. */
static uint64_t print_of(int mountinfo)
{
	struct { uint32_t size, fd; uint64_t within, after; } request = { sizeof request, 0, ~0ull /* LSMT_ROOT */, 0 };
	uint64_t hash = 0xcbf29ce484222325, ids[256];
	char text[4096];
	long n;

	while ((n = read(mountinfo, text, sizeof text)) > 0)
		hash = mixed(hash, text, (size_t)n);
	if (n < 0)
		return 0;
	while ((n = sys4(__NR_listmount, &request, ids, sizeof ids / sizeof *ids, 0)) > 0) {
		hash = mixed(hash, ids, (size_t)n * sizeof *ids);
		request.after = ids[n - 1];
	}
	return n < 0 ? 0 : hash;
}

/* Trees taken from another root, or before a mount was made or went there, are not what a HostView shows now. One that came and
   went again, as each run of some container engines makes it, has left no trace. */
static void look_for_changes(void)
{
	struct identity root;
	uint64_t now;
	int fd;

	if (nothing_changed())
		return;
	fd = open("/proc/thread-self/mountinfo", O_RDONLY | O_CLOEXEC); /* what changes from here on, it tells */
	now = fd < 0 ? 0 : print_of(fd);
	if (!identify(AT_FDCWD, "/", &root) || root.mount != place.mount || root.inode != place.inode || !now || now != print) {
		drop_trees();
		mounts++;
	}
	place = root;
	print = now;
	changes = fd;
	identify(changes, "", &changes_is);
}

static void let_go(struct view *view)
{
	if (--view->holders)
		return;
	drop_tree(view);
	free(view->plans[0]);
	free(view->plans[1]);
	free(view);
}

void leave_view(creche_job *job)
{
	jobs_lock();
	if (job->view)
		let_go(job->view);
	job->view = 0;
	jobs_unlock();
}

int creche_job_view(creche_job *job, uint64_t number)
{
	struct view *view;

	jobs_lock();
	for (view = views; view && view->number != number; view = view->next)
		;
	if (view && !job->view) {
		view->holders++;
		job->view = view;
	}
	jobs_unlock();
	return view ? 0 : -ENOENT;
}

int creche_view_new(uint64_t number, const void *parent, uint32_t parent_size, const void *setup, uint32_t setup_size)
{
	struct view *view = calloc(1, sizeof *view), **at = &views;
	const void *blobs[2] = { parent, setup };
	const uint32_t sizes[2] = { parent_size, setup_size };
	unsigned known = 0;

	if (!view)
		return -ENOMEM;
	view->tree = -1;
	view->number = number;
	view->holders = 1;
	for (int i = 0; i < 2; i++) {
		view->plans[i] = malloc(sizes[i]);
		view->sizes[i] = sizes[i];
		if (!view->plans[i]) {
			let_go(view);
			return -ENOMEM;
		}
		memcpy(view->plans[i], blobs[i], sizes[i]);
	}
	jobs_lock();
	view->next = views;
	views = view;
	for (; *at; at = &(*at)->next)
		if (++known > MOST_VIEWS) {
			struct view *oldest = *at;
			*at = 0;
			let_go(oldest);
			break;
		}
	jobs_unlock();
	return 0;
}

/* The tree that its process gives away, or why there is none. */
static long receive(creche_job *job, int control)
{
	struct creche_reply message;
	struct packet p;
	struct pollfd fd = { control, POLLIN, 0 };
	int tree = -1;
	long n;

	while ((n = poll(&fd, 1, LOOK_MS)) <= 0) {
		if (__atomic_load_n(&job->cancelled, __ATOMIC_SEQ_CST))
			return -ECANCELED;
		if (n < 0 && errno != EINTR)
			return -errno;
	}
	packet_data(&p, &message, sizeof message, 0, 0);
	p.header.msg_controllen = sizeof p.control;
	n = sys3(__NR_recvmsg, control, &p.header, CLOSE_ON_EXEC);
	if (n < 0)
		return n == -ECONNRESET ? -EPIPE : n;
	if (packet_fds(&p, n, &tree, 1) == 1 && n == sizeof message && message.type == CRECHE_READY)
		return tree;
	if (tree >= 0)
		close(tree);
	if (n == sizeof message && message.type == CRECHE_FAILED)
		job->failure = message.failure;
	return n == sizeof message && message.type == CRECHE_FAILED ? -message.failure.error : -EPIPE;
}

/* In namespaces of its own, as the container's: what it takes from the host's mounts is as locked there as it would be in a
   container (mount_namespaces(7)), and the file system that it makes is no container's to change. */
static long build(creche_job *job, const struct view *view)
{
	static const uint32_t phases[2] = { CRECHE_PHASE_PARENT, CRECHE_PHASE_SETUP };
	int control, error = 0;
	creche_job *maker = creche_job_new(CRECHE_SPAWN_INIT, CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID, 0, 0, &control, &error);
	long r = maker ? 0 : error;

	if (!maker)
		return r;
	for (int i = 0; i < 2 && r >= 0; i++)
		r = creche_job_plan(maker, phases[i], view->plans[i], view->sizes[i], 0, 0);
	if (r >= 0) {
		creche_job_go(maker);
		carry_out(maker);
		r = receive(job, control);
	}
	if (r < 0 && !job->failure.error)
		creche_job_failure(maker, &job->failure);
	if (r < 0 && !job->failure.error)
		note(&job->failure, CRECHE_PHASE_CHILD, CRECHE_DETAIL_CLONE, r);
	if (r < 0)
		job->failure.phase |= CRECHE_PHASE_VIEW;
	close(control);
	creche_job_free(maker); /* and its process with it */
	return r;
}

/* Puts the job's view among the descriptors of its setup. Two that miss it at the same time each make it: neither waits for the
   other, whose disk may hang. */
long add_view(creche_job *job)
{
	struct view *view = job->view;
	uint64_t begun;
	long tree = -1;

	if (!view)
		return 0;
	jobs_lock();
	look_for_changes();
	begun = drops;
	if (is_still(view->tree, &view->is))
		tree = fcntl(view->tree, F_DUPFD_CLOEXEC, 3);
	jobs_unlock();
	if (tree < 0) {
		tree = build(job, view);
		if (tree < 0)
			return tree;
		jobs_lock();
		if (begun == drops) { /* a change that another has seen meanwhile is not told again */
			drop_tree(view);
			view->tree = fcntl((int)tree, F_DUPFD_CLOEXEC, 3);
			identify(view->tree, "", &view->is);
		}
		jobs_unlock();
	}
	if (job->setup.fds.count == CRECHE_MAX_FDS) { /* the message has no room for one more */
		close((int)tree);
		return -E2BIG;
	}
	jobs_lock();
	job->setup.fds.list[job->setup.fds.count++] = (int)tree; /* copy_fds leaves room for it */
	jobs_unlock();
	return 0;
}
