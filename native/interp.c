/* The step interpreter: fetch a Step, run it, record a failure. It decides nothing. */
#include "interp.h"
#include <asm/errno.h>
#include <linux/fcntl.h>
#include <linux/openat2.h>

static long (*const steps[])(struct ctx *, const struct creche_step *) = {
#define X(name) step_##name,
	CRECHE_STEPS(X)
#undef X
};

size_t text_length(const char *s)
{
	size_t n = 0;
	while (s[n]) {
		n++;
		__asm__ volatile("" ::: "memory"); /* or the compiler makes this a call of strlen, which the init lacks */
	}
	return n;
}

void copy_bytes(void *to, const void *from, size_t n)
{
	unsigned char *t = to;
	const unsigned char *f = from;
	for (size_t i = 0; i < n; i++) {
		t[i] = f[i];
		__asm__ volatile("" ::: "memory");
	}
}

long write_all(int fd, const char *data, size_t n)
{
	while (n) {
		long r = sys3(__NR_write, fd, data, n);
		if (r == -EINTR)
			continue;
		if (r < 0)
			return r;
		data += r;
		n -= (size_t)r;
	}
	return 0;
}

/* A text lies wholly inside the text area and ends with the NUL that its size does not count. */
static int good_text(const struct ctx *c, uint32_t area, uint32_t at, uint32_t size)
{
	return at >= area && at < c->size && size < c->size - at && c->blob[at + size] == 0;
}

/* Checks a Plan's form once, so that no Step needs to: 0, or -EINVAL. The memory must be 8-aligned. */
int interp_open(struct ctx *c, const void *blob, uint32_t size)
{
	const struct creche_header *h = blob;

	if (size < sizeof *h || size > CRECHE_MAX_BLOB || (uintptr_t)blob % 8)
		return -EINVAL;
	if (h->magic != CRECHE_MAGIC || h->abi != CRECHE_ABI || h->size != size || h->steps > CRECHE_MAX_STEPS)
		return -EINVAL;
	if (h->text != sizeof *h + h->steps * sizeof(struct creche_step) || h->text >= size)
		return -EINVAL;
	c->blob = blob;
	c->size = size;
	c->count = h->steps;
	c->steps = (const struct creche_step *)(c->blob + sizeof *h);
	for (uint32_t i = 0; i < c->count; i++) {
		const struct creche_step *s = &c->steps[i];
		if (s->op >= CRECHE_OP_COUNT || (s->slot >= CRECHE_SLOTS && s->slot != CRECHE_SLOT_NONE) ||
		    (s->slot2 >= CRECHE_SLOTS && s->slot2 != CRECHE_SLOT_NONE))
			return -EINVAL;
		if (!good_text(c, h->text, s->text, s->text_size) || !good_text(c, h->text, s->text2, s->text2_size) ||
		    !good_text(c, h->text, s->text3, s->text3_size))
			return -EINVAL;
	}
	return 0;
}

void failure_text(struct ctx *c, uint32_t detail, const char *text, size_t size)
{
	struct creche_failure *f = c->failure;

	f->detail = detail;
	f->text_size = (uint32_t)(size < CRECHE_TEXT ? size : CRECHE_TEXT);
	copy_bytes(f->text, text, f->text_size);
}

void interp_fail(struct ctx *c, uint32_t index, const struct creche_step *s, long error)
{
	c->failure->phase = c->phase;
	c->failure->index = s ? index : ~0u;
	c->failure->op = s ? s->op : CRECHE_OP_COUNT;
	c->failure->blame = s ? s->blame : 0;
	c->failure->error = (int32_t)-error;
}

long interp_step(struct ctx *c, uint32_t i)
{
	long r = steps[c->steps[i].op](c, &c->steps[i]);

	if (r < 0)
		interp_fail(c, i, &c->steps[i], r);
	return r < 0 ? r : 0;
}

long interp_run(struct ctx *c)
{
	long r = 0;

	for (uint32_t i = 0; i < c->count && r >= 0; i++)
		r = interp_step(c, i);
	return r;
}

int slot_take(struct ctx *c, unsigned slot)
{
	return slot < CRECHE_SLOTS && c->slots[slot] >= 0 ? c->slots[slot] : -EBADF;
}

void slot_drop(struct ctx *c, unsigned slot)
{
	if (slot >= CRECHE_SLOTS)
		return;
	if (c->slots[slot] >= 0)
		sys1(__NR_close, c->slots[slot]);
	c->slots[slot] = -1;
}

long slot_put(struct ctx *c, unsigned slot, long fd)
{
	if (fd < 0)
		return fd;
	if (slot >= CRECHE_SLOTS) {
		sys1(__NR_close, fd);
		return -EINVAL;
	}
	slot_drop(c, slot);
	c->slots[slot] = (int)fd;
	return 0;
}

long resolve(struct ctx *c, const char *path, uint64_t flags, uint64_t mode)
{
	return resolve_below(c, CRECHE_SLOT_NONE, path, flags, mode);
}

long resolve_below(struct ctx *c, unsigned slot, const char *path, uint64_t flags, uint64_t mode)
{
	struct open_how how = {
		.flags = flags | O_CLOEXEC, .mode = mode, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
	};
	int root = slot_take(c, slot == CRECHE_SLOT_NONE ? CRECHE_SLOT_ROOT : slot);
	long r = root;

	if (root < 0)
		return root;
	/* Any rename or mount on the machine makes openat2 answer EAGAIN where ".." is met: try again, but not for ever. */
	for (int tries = 0; tries < 1000; tries++) {
		r = sys4(__NR_openat2, root, path, &how, sizeof how);
		if (r != -EAGAIN && r != -EINTR)
			break;
	}
	return r;
}
