/* The init under sanitizers, many lives of it, in a played kernel that knows which descriptors are open. */
#include "init.c"
#include <assert.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

/* libc's <stdlib.h> and the kernel's <signal.h> can't be read together. */
void *calloc(size_t, size_t);
void free(void *);
_Noreturn void abort(void);
long strtol(const char *, char **, int);

/* process1 SEED LIVES [storm]: in each life messages come, right ones and rubbish, commands start, fail and die, descriptors
   and processes run out. Whenever the init waits, just those descriptors may be open that it can account for. With
   `storm` its guests make orphans without end, and it must look around all the same. For libFuzzer (LIBFUZZER) its bytes
   are what chance decides otherwise. */

enum { NUMBERS = 4096, PROCESSES = 2048 };

static uint64_t state = 1;
static jmp_buf death;
static unsigned char is_open[NUMBERS];
static int storm, rounds, last_pid, reaped, ended;
static struct { int pid, zombie; } processes[PROCESSES];
static void *mapped;
static int64_t clock_us;
static unsigned long started, failed_starts, exited, killed, listeners, let_ons;

#ifdef LIBFUZZER
static const uint8_t *given; /* what decides, two bytes at a time; a life is over with the last of them */
static size_t left;
#endif

static uint64_t chance(void)
{
#ifdef LIBFUZZER
	if (left >= 2) {
		uint64_t drawn = given[0] | (uint64_t)given[1] << 8;
		given += 2, left -= 2;
		return drawn < 0xff00 ? drawn : drawn * 0x9e3779b97f4a7c15ull;
	}
	rounds = 1000;
#endif
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static uint64_t below(uint64_t n) { return chance() % n; }
static int seldom(void) { return below(40) == 0; }

static long new_fd(int from)
{
	if (below(from ? 40 : 20000) == 0)
		return -EMFILE;
	while (is_open[from])
		from++;
	assert(from < NUMBERS);
	is_open[from] = 1;
	return from;
}

static void close_fd(long fd)
{
	assert(fd >= 0 && fd < NUMBERS && is_open[fd]);
#ifdef PLANTED
	if (fd == 40)
		return; /* a leak, in lives that have come so far */
#endif
	is_open[fd] = 0;
}

/* Everything open is the init's own, or held by a command that starts, or in a slot that it keeps or was told to hold. */
static void account(void)
{
	unsigned char mine[NUMBERS] = { 1, 1, 1 };
	unsigned starts = 0, later = 0;

	for (unsigned i = 0; i < CRECHE_MAX_COMMANDS; i++)
		if (commands[i].pid && commands[i].report >= 0) {
			starts++;
			mine[commands[i].report] = mine[commands[i].pidfd] = 1;
			later += commands[i].look_at != 0;
			if (commands[i].pty >= 0)
				mine[commands[i].pty] = 1;
			if (commands[i].listener >= 0)
				mine[commands[i].listener] = 1;
		}
	assert(starts == starting && starts <= MAX_STARTING);
	assert(later == unseen); /* each of them has its report still */
	for (unsigned i = 0; i < CRECHE_SLOTS; i++)
		if (slots[i] >= 0) {
			assert((i < 64 && ctx.keep[i / 32] >> i % 32 & 1) || (i >= CRECHE_SLOT_PASSED && i < CRECHE_SLOT_PASSED + held));
			mine[slots[i]] = 1;
		}
	for (unsigned i = 0; i < NUMBERS; i++)
		assert(mine[i] == is_open[i]);
}

static void events(void)
{
	for (unsigned i = 0; i < CRECHE_MAX_COMMANDS; i++) {
		if (!commands[i].pid || below(6))
			continue;
		if (commands[i].report >= 0 && !births[i].marked && !births[i].failure.error)
			switch (below(4)) {
			case 0:
				births[i].failure.error = ENOENT; /* it tells, and dies */
				break;
			case 1:
				break; /* it dies, and says nothing */
			default:
				births[i].marked = 1;
				continue;
			}
		for (unsigned at = 0; at < PROCESSES; at++)
			if (processes[at].pid == commands[i].pid)
				processes[at].zombie = 1;
	}
}

static int is_zombie(int pid)
{
	for (unsigned i = 0; i < PROCESSES; i++)
		if (processes[i].pid == pid)
			return processes[i].zombie;
	return 0;
}

/* The starting command of a report; or 0. */
static struct command *reporting(long fd)
{
	for (unsigned i = 0; i < CRECHE_MAX_COMMANDS; i++)
		if (commands[i].pid && commands[i].report == fd)
			return &commands[i];
	return 0;
}

static int is_zombie(int pid);

static int has_ended(const struct command *command)
{
	return births[command - commands].marked || is_zombie(command->pid);
}

static long polled(struct pollfd *fds, long count, const void *timeout)
{
	long ready = 0;

	if (count == 1) { /* let_on asks whether a newborn has executed */
		struct command *command = reporting(fds[0].fd);
		assert(command && timeout && !fds[0].events);
		let_ons++;
		fds[0].revents = has_ended(command) ? POLLHUP : 0;
		return fds[0].revents != 0;
	}
	reaped = 0;
	if (count > 2) {
		if (!rounds) { /* as a setup leaves them */
			slots[CRECHE_SLOT_DEVPTS] = 3;
			is_open[3] = 1;
			ctx.keep[0] |= 1 << CRECHE_SLOT_DEVPTS;
		}
		account();
		if (unseen) { /* it will be looked for in time, and until then its report wakes nobody */
			const struct __kernel_timespec *wait = timeout;
			assert(wait && !wait->tv_sec && wait->tv_nsec <= CRECHE_BRIEF_US * 1000);
			for (long i = 3; i < count; i++)
				assert(!reporting(fds[i].fd) || !reporting(fds[i].fd)->look_at);
		}
		events();
		rounds++;
	}
	for (long i = 0; i < count; i++)
		fds[i].revents = 0;
	if (rounds > 400 || (storm && rounds > 3)) {
		fds[1].revents = POLLIN; /* the supervisor is gone */
		return 1;
	}
	if (seldom())
		return -EINTR;
	for (long i = 0; i < count; i++) {
		if (i == 0)
			fds[i].revents = (short)(fds[i].events && below(3) ? fds[i].events : 0);
		else if (i == 2)
			fds[i].revents = storm || below(2) ? POLLIN : 0;
		else if (i > 2) {
			struct command *command = fds[i].fd >= 0 ? reporting(fds[i].fd) : 0;
			assert(fds[i].fd < 0 || is_open[fds[i].fd]);
			if (command && has_ended(command))
				fds[i].revents = POLLHUP;
			else if (command && command->flags & CRECHE_RUN_LISTENER && below(3) == 0)
				fds[i].revents = POLLIN;
			else if (fds[i].fd >= 0 && !command && below(4) == 0)
				fds[i].revents = POLLIN; /* a call of a newborn's waits */
		}
		ready += fds[i].revents != 0;
	}
	return ready;
}

/* A newborn's listener: sent, not yet sent, or cut off as there was no number for it. */
static long received_listener(struct wire_msghdr *header)
{
	struct { struct wire_cmsg head; int fd; } *sent = header->msg_control;
	long fd;

	header->msg_controllen = 0;
	if (seldom())
		return below(2) ? -EAGAIN : 0;
	fd = new_fd(0);
	if (fd < 0)
		header->msg_flags = 8;
	else {
		sent->head = (struct wire_cmsg){ sizeof sent->head + sizeof(int), 1, 1 };
		sent->fd = (int)fd;
		header->msg_controllen = sent->head.size;
		listeners++;
	}
	return 1;
}

static long received(struct wire_msghdr *header)
{
	struct creche_request request = { .type = (uint32_t)(CRECHE_SETUP + below(CRECHE_RESET - CRECHE_SETUP + 1)), .id = (uint32_t)below(50), .a = 24, .b = 80,
		.number = 9 };
	struct { struct creche_header header; char text[8]; } plan = {
		{ CRECHE_MAGIC, CRECHE_ABI, sizeof plan, 0, sizeof(struct creche_header), 0 }, "" };
	unsigned char *to = header->msg_iov[0].base;
	size_t size = sizeof request + sizeof plan, count = below(3) ? below(4) : below(CRECHE_MAX_FDS + 1);
	int fds[CRECHE_MAX_FDS + 1];
	struct wire_cmsg head = { sizeof head, 1, 1 };

	if (below(2000) == 0)
		return below(2) ? 0 : -ECONNRESET;
	if (seldom())
		return -EAGAIN;
	request.size = sizeof plan;
	request.flags = (uint32_t)(below(2) ? CRECHE_RUN_PTY : 0) | (uint32_t)(below(2) ? CRECHE_RUN_BRIEF : 0) | (uint32_t)(below(2) ? CRECHE_RUN_LISTENER : 0) | (below(1000) ? 0 : CRECHE_RUN_MAIN) | (below(5) ? 0 : CRECHE_BLOB_MEMFD);
	if (request.type > CRECHE_RUN && (request.type != CRECHE_RESET || below(2)))
		request.flags = 0;
	if (request.type == CRECHE_OPEN_FILE) {
		size = sizeof request + below(10);
		request.b = below(CRECHE_FILE_UNSTAGE + 2);
	}
	if (request.flags & CRECHE_BLOB_MEMFD)
		size = sizeof request, count += below(100) != 0;
	if (below(2000) == 0)
		request.type = (uint32_t)chance();
	if (below(2000) == 0)
		request.size = (uint32_t)chance();
	if (below(2000) == 0)
		size = below(sizeof request + 1);
	assert(header->msg_iov[0].size >= size);
	memcpy(to, &request, size < sizeof request ? size : sizeof request);
	if (size > sizeof request)
		memcpy(to + sizeof request, &plan, size - sizeof request);
	if (below(2000) == 0)
		memset(to, (int)below(256), size);
	size_t n = 0;
	while (n < count) {
		long fd = new_fd(0);
		if (fd < 0) {
			header->msg_flags = 8; /* MSG_CTRUNC */
			break;
		}
		fds[n++] = (int)fd;
	}
	head.size += n * sizeof(int);
	header->msg_controllen = 0;
	if (n) {
		memcpy(header->msg_control, &head, sizeof head);
		memcpy((char *)header->msg_control + sizeof head, fds, n * sizeof(int));
		header->msg_controllen = head.size;
	}
	return (long)size;
}

static long sent(const struct wire_msghdr *header)
{
	const struct creche_reply *reply = header->msg_iov[0].base;
	size_t at = 0;

	assert(header->msg_iovlen == 1 && header->msg_iov[0].size == sizeof *reply);
	if (seldom())
		return -EAGAIN;
	if (below(2000) == 0)
		return -EPIPE;
	if (header->msg_controllen > sizeof(struct wire_cmsg) + 16 && seldom())
		return -ETOOMANYREFS;
	while (at < header->msg_controllen) {
		const struct wire_cmsg *head = (const void *)((const char *)header->msg_control + at);
		assert(head->level == 1 && at + head->size <= header->msg_controllen);
		for (size_t i = sizeof *head; head->type == 1 && i < head->size; i += sizeof(int))
			assert(is_open[*(const int *)((const char *)head + i)]);
		at += (head->size + 7) & ~(size_t)7;
	}
	assert(reply->type >= CRECHE_READY && reply->type <= CRECHE_OPENED);
	started += reply->type == CRECHE_STARTED;
	failed_starts += reply->type == CRECHE_START_FAILED;
	exited += reply->type == CRECHE_EXITED;
	return sizeof *reply;
}

static long zombie(void)
{
	if (storm)
		return 77777;
	for (unsigned i = 0; i < PROCESSES; i++)
		if (processes[i].zombie)
			return processes[i].pid;
	return 0;
}

static int anybody(void)
{
	for (unsigned i = 0; i < PROCESSES; i++)
		if (processes[i].pid)
			return 1;
	return 0;
}

long creche_record(long nr, long a, long b, long c, long d, long e, long f)
{
	(void)e, (void)f;
	assert(!ended);
	switch (nr) {
	case __NR_close:
		close_fd(a);
		return 0;
	case __NR_ppoll:
		return polled((struct pollfd *)a, b, (void *)c);
	case __NR_clock_gettime:
		clock_us += (int64_t)below(CRECHE_BRIEF_US / 4);
		*(struct __kernel_timespec *)b = (struct __kernel_timespec){ clock_us / 1000000, clock_us % 1000000 * 1000 };
		return 0;
	case __NR_recvmsg:
		return a == CONTROL ? received((struct wire_msghdr *)b) : received_listener((struct wire_msghdr *)b);
	case __NR_sendmsg:
		assert(a == CONTROL);
		return sent((struct wire_msghdr *)b);
	case __NR_exit_group:
		longjmp(death, 1 + (int)(a & 127));
	case __NR_signalfd4:
		is_open[2] = 1;
		return 2;
	case __NR_mmap:
		if (d & 0x20) { /* the births: as it begins */
			static struct birth all[CRECHE_MAX_COMMANDS];
			assert((size_t)b == sizeof all);
			memset(all, 0, sizeof all);
			return (long)all;
		}
		assert(!mapped && is_open[e]);
		mapped = calloc(1, (size_t)b);
		*(struct creche_header *)mapped = (struct creche_header){ CRECHE_MAGIC, CRECHE_ABI, (uint32_t)b, 0, sizeof(struct creche_header), 0 };
		return (long)mapped;
	case __NR_munmap:
		assert((void *)a == mapped);
		free(mapped);
		mapped = 0;
		return 0;
	case __NR_lseek:
		return sizeof(struct creche_header) + 8;
	case __NR_fcntl:
		assert(is_open[a]);
		return b == F_GET_SEALS ? 0xf : new_fd((int)c);
	case __NR_openat: case __NR_openat2: case __NR_open_tree:
		return seldom() ? -ENOENT : new_fd(3);
	case __NR_socketpair:
		a = d; /* and for the rest as a pipe */
		__attribute__((fallthrough));
	case __NR_pipe2: {
		long read = new_fd(3), write = read < 0 ? read : new_fd(3);
		if (write < 0) {
			if (read >= 0)
				close_fd(read);
			return write;
		}
		((int *)a)[0] = (int)read, ((int *)a)[1] = (int)write;
		return 0;
	}
	case __NR_clone3: {
		struct clone_args *args = (struct clone_args *)a;
		long fd = seldom() ? -EAGAIN : new_fd(3);
		if (fd < 0)
			return fd;
		*(int *)(uintptr_t)args->pidfd = (int)fd;
		if (seldom()) { /* late: the number is told, and is none */
			close_fd(fd);
			return -EAGAIN;
		}
		for (unsigned i = 0; i < PROCESSES; i++)
			if (!processes[i].pid) {
				processes[i].pid = ++last_pid;
				return last_pid;
			}
		abort();
	}
	case __NR_waitid:
		((int *)c)[4] = (int)zombie();
		assert(++reaped <= 2 * REAPED_AT_ONCE);
		return storm || anybody() ? 0 : -ECHILD;
	case __NR_wait4:
		memset((void *)d, 0, 144);
		*(int *)b = 9;
		for (unsigned i = 0; i < PROCESSES; i++)
			if (processes[i].pid == a)
				processes[i].pid = processes[i].zombie = 0;
		return a;
	case __NR_kill:
		killed++;
		for (unsigned i = 0; a == -1 && i < PROCESSES; i++)
			processes[i].zombie = processes[i].pid != 0;
		return 0;
	default:
		return 0;
	}
}

static void live(void)
{
	memset(is_open, 0, sizeof is_open);
	memset(processes, 0, sizeof processes);
	memset(commands, 0, sizeof commands);
	memset(&failure, 0, sizeof failure);
	memset(&reset, 0, sizeof reset);
	memset(ctx.keep, 0, sizeof ctx.keep);
	ctx.report_fd = -1;
	is_open[0] = is_open[1] = 1;
	highest = starting = held = unseen = 0;
	rounds = reaped = 0;
	last_pid = 1;
	if (!setjmp(death))
		begin();
	free(mapped);
	mapped = 0;
}

#ifdef LIBFUZZER
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	given = data, left = size, state = 1;
	clock_us = 0;
	live();
	return 0;
}
#else
int main(int argc, char **argv)
{
	long lives = argc > 2 ? strtol(argv[2], 0, 10) : 1;

	state = (argc > 1 ? (uint64_t)strtol(argv[1], 0, 10) : 1) * 0x9e3779b97f4a7c15ull + 1;
	storm = argc > 3;
	for (long i = 0; i < lives; i++)
		live();
	printf("%lu started, %lu failed to, %lu exited, %lu listeners, %lu calls of newborns\n", started, failed_starts, exited, listeners, let_ons);
	return 0;
}
#endif
