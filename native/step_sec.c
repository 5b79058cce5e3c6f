/* The Steps that confine: no_new_privs, Landlock, seccomp. */
#include "message.h"
#include <asm/errno.h>
#include <linux/fcntl.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <linux/stat.h>

STEP(NO_NEW_PRIVS)
{
	(void)c, (void)s;
	return sys5(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

/* a: file system rights, b: network rights, text: the scopes (ABI 6), as eight bytes: landlock(7). */
STEP(LANDLOCK)
{
	struct { uint64_t fs, net, scoped; } rules = { s->a, s->b, 0 };
	size_t size = s->text_size == 8 ? 24 : s->b ? 16 : 8;

	if (s->text_size == 8)
		copy_bytes(&rules.scoped, TEXT(c, s), 8);
	return slot_put(c, s->slot, sys3(__NR_landlock_create_ruleset, &rules, size, 0));
}

STEP(LANDLOCK_PATH)
{
	enum { OF_FILES = 1 | 2 | 4 | 1 << 14 | 1 << 15 }; /* execute, write, read, truncate, ioctl: landlock(7) */
	struct landlock_path_beneath_attr rule = { .allowed_access = s->a };
	struct statx st;
	int set = slot_take(c, s->slot);
	long fd = resolve(c, TEXT(c, s), O_PATH, 0), r;

	if (fd == -ENOENT && s->flags & CRECHE_OPTIONAL)
		return 0;
	if (set < 0 || fd < 0)
		return set < 0 ? set : fd;
	r = sys5(__NR_statx, fd, "", AT_EMPTY_PATH, STATX_TYPE, &st);
	if (r >= 0 && (st.stx_mode & 0170000) != 0040000)
		rule.allowed_access &= OF_FILES; /* EINVAL for others */
	rule.parent_fd = (int)fd;
	if (r >= 0)
		r = sys4(__NR_landlock_add_rule, set, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
	sys1(__NR_close, fd);
	return r;
}

STEP(LANDLOCK_PORT)
{
	struct { uint64_t access, port; } rule = { s->a, s->b };
	int set = slot_take(c, s->slot);

	return set < 0 ? set : sys4(__NR_landlock_add_rule, set, 2 /* LANDLOCK_RULE_NET_PORT */, &rule, 0);
}

STEP(LANDLOCK_RESTRICT)
{
	int set = slot_take(c, s->slot);
	long r = set < 0 ? set : sys2(__NR_landlock_restrict_self, set, 0);

	slot_drop(c, s->slot);
	return r;
}

/* Where somebody listens, whoever started us gets the descriptor; it is close-on-exec from birth (seccomp(2)), so the command
   never has it. The filter that it belongs to is in force already: it passes this very message (abi.h). */
static long hand_over(struct ctx *c, int listener)
{
	struct packet p;
	char word = 0;
	long r;

	if (c->report_fd < 0)
		return -EBADF;
	packet_data(&p, &word, 1, 0, 0);
	packet_attach(&p, 1 /* SCM_RIGHTS */, &listener, sizeof listener);
	do
		r = sys6(__NR_sendmsg, c->report_fd, &p.header, SEND_QUIETLY, 0, CRECHE_HANDOVER_4, CRECHE_HANDOVER_5);
	while (r == -EINTR);
	return r < 0 ? r : 0;
}

/* text: the program, an array of sock_filter. a: SECCOMP_FILTER_FLAG_*. seccomp(2). */
STEP(SECCOMP)
{
	struct sock_fprog program = {
		.len = (unsigned short)(s->text_size / sizeof(struct sock_filter)),
		.filter = (struct sock_filter *)(uintptr_t)TEXT(c, s),
	};
	long r;

	if (!s->text_size || s->text_size / sizeof(struct sock_filter) > 4096 || s->text % 8)
		return -EINVAL;
	r = sys3(__NR_seccomp, SECCOMP_SET_MODE_FILTER, s->a, &program);
	return r >= 0 && s->a & SECCOMP_FILTER_FLAG_NEW_LISTENER ? hand_over(c, (int)r) : r;
}
