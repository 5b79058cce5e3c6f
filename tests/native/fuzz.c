/* Feeds the step interpreter with Plans that are random, or nearly right, while the kernel is played by chance. */
#include "interp.h"
#include "message.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* fuzz SEED COUNT: built with CRECHE_RECORD, so that no Step reaches the kernel, and under ASan and UBSan, which watch
   every byte that a Step or the played kernel touches: the Plan lies in a block of just its size. Ends with a line of
   counts; whatever is wrong ends it earlier. With PLANTED it has a fault of its own, to show that one is found. */

static uint64_t state;
static unsigned long calls;
static void *mapped[64];
static unsigned maps;

static uint64_t chance(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static uint64_t below(uint64_t n) { return chance() % n; }

/* Reads as the kernel would: each byte of a path, of a buffer. */
static void reads(const void *at, size_t size)
{
	volatile unsigned char sum = 0;
	for (size_t i = 0; i < size; i++)
		sum += ((const unsigned char *)at)[i];
	(void)sum;
}

static void reads_path(long at) { reads((const char *)at, strlen((const char *)at) + 1); }

static long refuses(void)
{
	static const int errors[] = { EINTR, ENOENT, EACCES, EPERM, EINVAL, EAGAIN, ENOSYS, EBUSY, ELOOP, EEXIST, ENOTDIR, ETXTBSY, ENOSPC };
	return -errors[below(sizeof errors / sizeof *errors)];
}

static long some_fd(void) { return 3 + (long)below(2000); }

/* What each call does with its arguments' memory; then success or an error by chance. */
long creche_record(long nr, long a, long b, long c, long d, long e, long f)
{
	int ok = below(8) != 0;
	(void)a, (void)e, (void)f;
	if (++calls % 1000000 == 0) {
		fprintf(stderr, "a Plan that never ends\n");
		abort();
	}
	switch (nr) {
	case __NR_close: case __NR_fchdir: case __NR_fchmod: case __NR_fchown: case __NR_umask: case __NR_setsid: case __NR_unshare:
	case __NR_setresuid: case __NR_setresgid: case __NR_dup3: case __NR_close_range: case __NR_nanosleep: case __NR_setpriority:
	case __NR_landlock_restrict_self:
		return ok ? 0 : refuses();
	case __NR_openat: case __NR_openat2: case __NR_open_tree:
		reads_path(b);
		return ok ? some_fd() : refuses();
	case __NR_fspick:
		reads_path(b);
		return ok ? some_fd() : refuses();
	case __NR_fstatfs:
		memset((void *)b, (int)below(256), 120);
		return ok ? 0 : refuses();
	case __NR_fsopen: case __NR_memfd_create:
		reads_path(a);
		return ok ? some_fd() : refuses();
	case __NR_fcntl: case __NR_fsmount: case __NR_socket: case __NR_landlock_create_ruleset:
		return ok ? some_fd() : refuses();
	case __NR_fsconfig:
		if (c)
			reads_path(c);
		if (d && b == 1)
			reads_path(d);
		return ok ? 0 : refuses();
	case __NR_mkdirat: case __NR_faccessat:
		reads_path(b);
		return ok ? 0 : refuses();
	case __NR_symlinkat:
		reads_path(a), reads_path(c);
		return ok ? 0 : refuses();
	case __NR_move_mount:
		reads_path(b), reads_path(d);
		return ok ? 0 : refuses();
	case __NR_mount_setattr:
		reads_path(b), reads((void *)d, e);
		return ok ? 0 : refuses();
	case __NR_chdir: case __NR_umount2:
		reads_path(a);
		return ok ? 0 : refuses();
	case __NR_pivot_root:
		reads_path(a), reads_path(b);
		return ok ? 0 : refuses();
	case __NR_mount:
		reads_path(a), reads_path(b), reads_path(c), reads_path(e);
		return ok ? 0 : refuses();
	case __NR_statx:
		reads_path(b);
		memset((void *)e, (int)below(256), 256);
		return ok ? 0 : refuses();
	case __NR_write:
		reads((void *)b, (size_t)c);
		return ok ? (c ? 1 + (long)below((uint64_t)c) : 0) : refuses();
	case __NR_read: {
		long n = ok && c ? (long)below((uint64_t)c + 1) : 0;
		for (long i = 0; i < n; i++)
			((unsigned char *)b)[i] = (unsigned char)(below(3) ? 'e' : below(256));
		return ok ? n : refuses();
	}
	case __NR_sethostname: case __NR_setdomainname:
		reads((void *)a, (size_t)b);
		return ok ? 0 : refuses();
	case __NR_setgroups:
		reads((void *)b, (size_t)a * 4);
		return ok ? 0 : refuses();
	case __NR_seccomp: {
		const struct { unsigned short count; void *filter; } *program = (void *)c;
		reads(program->filter, program->count * (size_t)8);
		return !ok ? refuses() : b & 8 ? some_fd() : 0; /* SECCOMP_FILTER_FLAG_NEW_LISTENER */
	}
	case __NR_sendmsg: { /* a listener on its way to the init */
		const struct wire_msghdr *header = (void *)b;
		for (size_t i = 0; i < header->msg_iovlen; i++)
			reads(header->msg_iov[i].base, header->msg_iov[i].size);
		reads(header->msg_control, header->msg_controllen);
		return ok ? 1 : refuses();
	}
	case __NR_execve: {
		reads_path(a);
		for (char **word = (char **)b; *word; word++)
			reads_path((long)*word);
		for (char **word = (char **)c; word && *word; word++)
			reads_path((long)*word);
		return refuses();
	}
	case __NR_execveat:
		for (char **word = (char **)c; *word; word++)
			reads_path((long)*word);
		for (char **word = (char **)d; word && *word; word++)
			reads_path((long)*word);
		return refuses();
	case __NR_mmap: {
		if ((size_t)b > 64 << 20 || !b || maps == sizeof mapped / sizeof *mapped)
			return b ? -ENOMEM : -EINVAL;
		mapped[maps] = calloc(1, (size_t)b); /* ASan knows its end, as the kernel knows a page's */
		return (long)mapped[maps++];
	}
	case __NR_pipe2:
		((int *)a)[0] = (int)some_fd(), ((int *)a)[1] = (int)some_fd();
		return ok ? 0 : refuses();
	case __NR_wait4:
		*(int *)b = (int)below(65536);
		return ok ? a : refuses();
	case __NR_clone3:
		return ok ? 1000 : refuses();
	default: /* prctl, capset, ioctl, rt_sigaction, …: numbers and records of a fixed size */
		return ok ? 0 : refuses();
	}
}

#ifndef LIBFUZZER
/* A Plan in a block of its own: a right header, some Steps, some texts. */
static unsigned char *plan(uint32_t *size)
{
	uint32_t count = (uint32_t)below(12), texts = 8 + (uint32_t)below(below(20) ? 200 : 9000);
	uint32_t area = (uint32_t)(sizeof(struct creche_header) + count * sizeof(struct creche_step));
	*size = area + texts;
	unsigned char *blob = malloc(*size);
	struct creche_header header = { CRECHE_MAGIC, CRECHE_ABI, *size, count, area, 0 };
	struct creche_step *steps = (void *)(blob + sizeof header);
	memcpy(blob, &header, sizeof header);
	for (uint32_t i = 0; i < texts; i++)
		blob[area + i] = (unsigned char)(below(5) ? (uint64_t)"/a.b/"[below(5)] : below(3) ? 0 : below(256));
	blob[*size - 1] = 0;
	for (uint32_t i = 0; i < count; i++) {
		struct creche_step *s = &steps[i];
		*s = (struct creche_step){ .op = (uint16_t)below(CRECHE_OP_COUNT), .flags = (uint32_t)chance() };
		s->slot = below(4) ? (uint16_t)below(24) : below(2) ? CRECHE_SLOT_NONE : (uint16_t)below(CRECHE_SLOTS);
		s->slot2 = below(3) ? CRECHE_SLOT_NONE : (uint16_t)below(CRECHE_SLOTS);
		s->a = below(3) ? below(8) : below(2) ? chance() : 1ull << below(64);
		s->b = below(3) ? below(8) : below(2) ? chance() : 1ull << below(64);
		for (int t = 0; t < 3; t++) { /* a text ends where a NUL is */
			uint32_t at = area + (uint32_t)below(texts), end = at + (uint32_t)below(texts);
			end = end < *size ? end : *size - 1;
			if (below(4))
				end = at + (uint32_t)strlen((char *)blob + at);
			else
				blob[end] = 0;
			if (t == 0)
				s->text = at, s->text_size = end - at;
			else if (t == 1)
				s->text2 = at, s->text2_size = end - at;
			else
				s->text3 = at, s->text3_size = end - at;
		}
	}
	if (below(3) == 0)
		for (uint64_t flips = 1 + below(6); flips; flips--)
			blob[below(*size)] = (unsigned char)chance();
	if (below(16) == 0)
		*size = (uint32_t)below(*size + 1); /* cut short: the block is then longer than what is told, and that is too long */
	return blob;
}
#endif

static void packets(void)
{
	struct packet p;
	int fds[CRECHE_MAX_FDS];
	unsigned room = (unsigned)below(CRECHE_MAX_FDS + 1);
	packet_data(&p, fds, 0, 0, 0);
	for (size_t i = 0; i < sizeof p.control; i++)
		p.control[i] = (unsigned char)(below(3) ? below(40) * (i % 8 == 0) : below(256));
	p.header.msg_controllen = below(sizeof p.control + 1);
	p.header.msg_flags = (unsigned)below(64);
	long n = packet_fds(&p, (long)below(3) - 1, fds, room);
	if (n > (long)room)
		abort();
}

#ifdef LIBFUZZER
/* For libFuzzer: the first byte says whether what follows is a Plan as it is, or Steps and texts to make a well-formed one
   of (so many Steps), whose texts lie inside the text area. */
static void put_right(unsigned char *blob, uint32_t size, uint32_t count)
{
	uint32_t area = (uint32_t)(sizeof(struct creche_header) + count * sizeof(struct creche_step)), texts = size - area;
	struct creche_header header = { CRECHE_MAGIC, CRECHE_ABI, size, count, area, 0 };
	struct creche_step *steps = (void *)(blob + sizeof header);
	memcpy(blob, &header, sizeof header);
	blob[size - 1] = 0;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t *text[3] = { &steps[i].text, &steps[i].text2, &steps[i].text3 };
		steps[i].op %= CRECHE_OP_COUNT;
		steps[i].slot = steps[i].slot % 4 ? steps[i].slot % 32 : CRECHE_SLOT_NONE;
		steps[i].slot2 = steps[i].slot2 % 4 ? steps[i].slot2 % 32 : CRECHE_SLOT_NONE;
		for (int t = 0; t < 3; t++) {
			text[t][0] = area + text[t][0] % texts;
			/* up to the first NUL, or to a later one: what follows may be another string of it */
			uint32_t end = text[t][0] + text[t][1] % (size - text[t][0]);
			while (blob[end])
				end++;
			text[t][1] = end - text[t][0];
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int slots[CRECHE_SLOTS];
	int marked = 0;
	struct creche_failure failure = { 0 };
	struct ctx c = { .slots = slots, .failure = &failure, .report_fd = size & 1 ? 7 : -1, .pidfd_child = 5, .pid_child = 1234,
		.marked = &marked };
	uint32_t count = size ? data[0] % 16 : 0;
	size_t least = sizeof(struct creche_header) + count * sizeof(struct creche_step) + 1;
	unsigned char *blob;

	if (!size || (count && size - 1 < least))
		return -1;
	blob = malloc(size - 1 + (size == 1));
	memcpy(blob, data + 1, size - 1);
	if (count)
		put_right(blob, (uint32_t)size - 1, count);
	state = 0x9e3779b97f4a7c15ull;
	for (size_t i = 0; i < size; i++)
		state = (state ^ data[i]) * 0x100000001b3ull + 1;
	for (unsigned slot = 0; slot < CRECHE_SLOTS; slot++)
		slots[slot] = slot % 5 ? 100 + (int)slot : -1;
	calls = 0;
	if (interp_open(&c, blob, (uint32_t)size - 1) == 0 && interp_run(&c) < 0 &&
	    (failure.index >= c.count || failure.error <= 0 || failure.text_size > CRECHE_TEXT))
		abort();
	packets();
	free(blob);
	while (maps)
		free(mapped[--maps]);
	return 0;
}
#else
int main(int argc, char **argv)
{
	static int slots[CRECHE_SLOTS], marked;
	unsigned long accepted = 0, finished = 0, count = argc > 2 ? strtoul(argv[2], 0, 10) : 1000;
	state = (argc > 1 ? strtoull(argv[1], 0, 10) : 1) * 0x9e3779b97f4a7c15ull + 1;
	for (unsigned long i = 0; i < count; i++) {
		struct creche_failure failure = { 0 };
		struct ctx c = { .slots = slots, .failure = &failure, .phase = (uint32_t)below(4), .report_fd = (int)below(3) - 1,
			.pidfd_child = 5, .pid_child = (int)below(1 << 22), .marked = below(2) ? &marked : 0 };
		uint32_t size;
		unsigned char *blob = plan(&size);
		unsigned char *exact = malloc(size + (size == 0));
		memcpy(exact, blob, size);
		free(blob);
		for (unsigned slot = 0; slot < CRECHE_SLOTS; slot++)
			slots[slot] = below(3) ? (int)some_fd() : -1;
#ifdef PLANTED
		if (i == count / 2)
			reads(exact, size + 1);
#endif
		calls = 0;
		if (interp_open(&c, exact, size) == 0) {
			accepted++;
			long r = interp_run(&c);
			finished += r >= 0;
			if (r < 0 && (failure.index >= c.count || failure.error <= 0 || failure.text_size > CRECHE_TEXT))
				abort();
		}
		free(exact);
		while (maps)
			free(mapped[--maps]);
		packets();
	}
	printf("%lu plans, %lu well-formed, %lu run to their end\n", count, accepted, finished);
	return 0;
}
#endif
