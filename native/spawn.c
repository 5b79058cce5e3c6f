/* A spawn on threads of its own: clone3, the parent's Steps while the child waits, and the hand-over to the loop. */
#include "message.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/futex.h>
#include <linux/memfd.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/wait.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>
#include "init_elf.h"

enum { MAX_JOINS = 8, STACK = 65536, IDMAPPED = 512, WORKERS = 3, IDLE_SECONDS = 5 };

struct fds {
	int *list;
	unsigned count;
};

struct plan {
	void *blob;
	uint32_t size;
	struct fds fds;
};

/* Owned by the worker and by Python's handle, freed with the second of them. What the child touches lives here too, so
   it is there until the child has exec'd or died. */
typedef struct creche_job {
	struct creche_job *next;
	int holders, cancelled, state;
	uint32_t child_ready;          /* a futex */
	uint32_t flags;
	uint64_t namespaces;
	int socket, child_socket;      /* the control socket's two ends */
	int supervisor, exe;
	int joins[MAX_JOINS];
	unsigned join_count;
	struct plan parent, setup, command;
	uint32_t run_flags, rows, columns;
	int pid, pidfd, side;          /* side: where a joining child tells of the one that it made */
	long clone_result;
	struct creche_failure failure;
	void *stack;
	int slots[CRECHE_SLOTS];
} creche_job;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t more = PTHREAD_COND_INITIALIZER;
static creche_job *first, **last = &first;
static int idle, workers, prepared;
static int supervisor_fd = -1, supervisor_pid, exe_fd = -1;

/* ---- in the child: raw calls only, nothing that touches errno, a lock, the heap or stdio ---- */

static void futex(uint32_t *word, int operation, uint32_t value)
{
	sys6(__NR_futex, word, operation | FUTEX_PRIVATE_FLAG, value, 0, 0, 0);
}

static void say_ready(creche_job *job, uint32_t value)
{
	__atomic_store_n(&job->child_ready, value, __ATOMIC_SEQ_CST);
	futex(&job->child_ready, FUTEX_WAKE, 1);
}

/* The parent says GO when the maps are written, and hands over what it made meanwhile; a supervisor that is gone says
   nothing any more. The number of descriptors that came, or an error. */
static long await_go(int control, int supervisor, int *fds, unsigned room)
{
	struct creche_request go = { 0 };
	struct packet p;

	for (;;) {
		struct pollfd ready[2] = { { control, POLLIN, 0 }, { supervisor, POLLIN, 0 } };
		long r = sys5(__NR_ppoll, ready, 2, 0, 0, 8);
		if (r == -EINTR)
			continue;
		if (r < 0 || ready[1].revents)
			return -ECANCELED;
		packet_data(&p, &go, sizeof go, 0, 0);
		p.header.msg_controllen = sizeof p.control;
		r = sys3(__NR_recvmsg, control, &p.header, CLOSE_ON_EXEC);
		if (r != sizeof go || go.type != CRECHE_GO)
			return -ECANCELED;
		return packet_fds(&p, r, fds, room);
	}
}

static void tell(int socket, uint32_t type, const struct creche_failure *failure)
{
	struct packet p;
	struct creche_reply message = { .type = type };

	if (failure)
		copy_bytes(&message.failure, failure, sizeof *failure);
	packet_data(&p, &message, sizeof message, 0, 0);
	sys3(__NR_sendmsg, socket, &p.header, SEND_QUIETLY);
}

static void note(struct creche_failure *failure, uint32_t phase, uint32_t detail, long error)
{
	failure->phase = phase;
	failure->op = CRECHE_OP_COUNT;
	failure->detail = detail;
	failure->error = (int32_t)-error;
}

/* A fresh user namespace has all capabilities and, until the maps are there, an unmapped id, which loses them at exec;
   ambient ones stay (capabilities(7)). They leave `permitted` as it is, so the memory that we share stays dumpable. */
static long keep_capabilities(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	long r = sys2(__NR_capget, &header, data);

	if (r < 0)
		return r;
	data[0].inheritable = data[0].permitted;
	data[1].inheritable = data[1].permitted;
	r = sys2(__NR_capset, &header, data);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < 64; i++)
		if (data[i / 32].permitted >> i % 32 & 1)
			sys5(__NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i, 0, 0);
	return 0;
}

/* The child that becomes the init. It may share our memory, so it does as little as it can until then. */
static int enter_init(void *arg)
{
	creche_job *job = arg;
	char *argv[] = { "", 0 };
	int from[3] = { job->child_socket, job->supervisor, job->exe };
	struct creche_failure failure = { 0 };
	long r = 0;

	for (int i = 0; i < 3 && r >= 0; i++) { /* up, out of the way of 0, 1, 2 … */
		r = sys3(__NR_fcntl, from[i], F_DUPFD_CLOEXEC, 3);
		if (r >= 0)
			from[i] = (int)r;
	}
	for (int i = 0; i < 3 && r >= 0; i++) /* … then down to them; what else is open here belongs to others */
		r = sys3(__NR_dup3, from[i], i, i == 2 ? O_CLOEXEC : 0);
	if (r >= 0)
		r = sys3(__NR_close_range, 3, ~0u, 0);
	from[0] = r >= 0 ? 0 : from[0];
	if (r >= 0 && job->flags & CRECHE_SPAWN_AMBIENT)
		r = keep_capabilities();
	if (r >= 0) {
		say_ready(job, 1);
		r = await_go(0, 1, 0, 0);
		if (r < 0)
			return 127; /* nobody is there to hear of it */
	}
	if (r >= 0)
		r = sys5(__NR_execveat, 2, "", argv, argv + 1, AT_EMPTY_PATH);
	note(&failure, CRECHE_PHASE_CHILD, CRECHE_DETAIL_INIT, r);
	tell(from[0], CRECHE_FAILED, &failure);
	return 127;
}

/* Closes all descriptors but these few: everything is close-on-exec, but a child that waits must not hold on to the
   sockets of others. */
static void close_all_but(int *keep, unsigned count)
{
	unsigned from = 0;

	for (unsigned i = 1; i < count; i++)
		for (unsigned j = i; j && keep[j] < keep[j - 1]; j--) {
			int swap = keep[j];
			keep[j] = keep[j - 1];
			keep[j - 1] = swap;
		}
	for (unsigned i = 0; i < count; i++) {
		if (keep[i] < (int)from)
			continue;
		if ((unsigned)keep[i] > from)
			sys3(__NR_close_range, from, keep[i] - 1, 0);
		from = (unsigned)keep[i] + 1;
	}
	sys3(__NR_close_range, from, ~0u, 0);
}

static void tell_executing(struct ctx *c)
{
	tell(c->report_fd, CRECHE_EXECUTING, 0);
}

static long run_plan(struct ctx *c, const struct plan *plan, const int *fds, long count)
{
	long r;

	for (long i = 0; i < count; i++)
		c->slots[CRECHE_SLOT_PASSED + i] = fds[i];
	r = interp_open(c, plan->blob, plan->size);
	if (r < 0)
		interp_fail(c, 0, 0, r);
	return r < 0 ? r : interp_run(c);
}

/* The child without an init: a copy of our memory, which runs all of the Plan itself and then is the command. */
static int run_all(void *arg)
{
	creche_job *job = arg;
	int fds[CRECHE_MAX_FDS + 2];
	unsigned count = job->command.fds.count;
	struct ctx c = { .slots = job->slots, .failure = &job->failure, .phase = CRECHE_PHASE_SETUP, .report_fd = -1 };
	long r;

	copy_bytes(fds, job->command.fds.list, count * sizeof(int));
	fds[count] = job->child_socket;
	fds[count + 1] = job->supervisor;
	close_all_but(fds, count + 2);
	for (unsigned i = 0; i < CRECHE_SLOTS; i++)
		job->slots[i] = -1;
	r = await_go(job->child_socket, job->supervisor, fds, CRECHE_MAX_FDS);
	if (r < 0)
		return 127;
	r = run_plan(&c, &job->setup, fds, r);
	if (r >= 0) {
		c.phase = CRECHE_PHASE_COMMAND;
		c.report_fd = job->child_socket;
		c.about_to_exec = tell_executing;
		run_plan(&c, &job->command, job->command.fds.list, count); /* returns only where it failed */
	}
	tell(c.report_fd >= 0 ? c.report_fd : job->child_socket, CRECHE_FAILED, &job->failure);
	return 127;
}

/* ---- in the parent ---- */

static long clone_child(creche_job *job, uint64_t flags, int (*child)(void *))
{
	struct clone_args args;

	memset(&args, 0, sizeof args);
	args.flags = flags | job->namespaces | CLONE_PIDFD | CLONE_PARENT_SETTID | CLONE_CLEAR_SIGHAND;
	args.pidfd = (uintptr_t)&job->pidfd;
	args.parent_tid = (uintptr_t)&job->pid;
	args.stack = (uintptr_t)job->stack;
	args.stack_size = STACK;
	return sys_clone3_stack(&args, sizeof args, child, job);
}

static void *cloner(void *arg)
{
	creche_job *job = arg;

	job->clone_result = clone_child(job, CLONE_VM | CLONE_VFORK, enter_init);
	say_ready(job, 2);
	return 0;
}

static void kill_and_reap(creche_job *job)
{
	siginfo_t info;

	if (job->pidfd < 0)
		return;
	sys4(__NR_pidfd_send_signal, job->pidfd, SIGKILL, 0, 0);
	while (sys5(__NR_waitid, 3 /* P_PIDFD */, job->pidfd, &info, WEXITED | __WALL, 0) == -EINTR)
		;
	pthread_mutex_lock(&lock); /* a cancel may be about to use it */
	close(job->pidfd);
	job->pidfd = -1;
	pthread_mutex_unlock(&lock);
}

struct birth {
	long result;
	int pid;
};

/* Joins namespaces in a copied process of its own and makes the child from there, as a child of ours. */
static int join_and_clone(void *arg)
{
	creche_job *job = arg;
	struct birth birth = { 0, 0 };
	struct packet p;
	int pidfd = -1;
	struct clone_args args = { .flags = job->namespaces | CLONE_PARENT | CLONE_PIDFD | CLONE_CLEAR_SIGHAND,
		.pidfd = (uintptr_t)&pidfd };
	long r = 0;

	/* In there setgroups may be denied, and what groups a privileged caller has would stay for good. */
	sys2(__NR_setgroups, 0, 0);
	for (unsigned i = 0; i < job->join_count && r >= 0; i++) {
		r = sys2(__NR_setns, job->joins[i], 0);
		if (r < 0)
			birth.pid = (int)i;
	}
	if (r >= 0) {
		r = sys2(__NR_clone3, &args, sizeof args);
		if (r == 0)
			sys1(__NR_exit_group, job->flags & CRECHE_SPAWN_INIT ? enter_init(job) : run_all(job));
		birth.pid = (int)r;
		if (r < 0)
			birth.pid = -1;
	}
	birth.result = r;
	packet_data(&p, &birth, sizeof birth, 0, 0);
	if (pidfd >= 0)
		packet_attach(&p, 1, &pidfd, sizeof pidfd);
	sys3(__NR_sendmsg, job->side, &p.header, SEND_QUIETLY);
	return 0;
}

/* A child whose memory is a copy of ours: straight, or by way of the namespaces that it joins. */
static long clone_copy(creche_job *job)
{
	long r;
	struct birth birth = { -EPROTO, -1 };
	struct packet p;
	int pair[2], status;
	struct clone_args args;

	if (!job->join_count)
		return clone_child(job, 0, job->flags & CRECHE_SPAWN_INIT ? enter_init : run_all);
	r = sys4(__NR_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair);
	if (r < 0)
		return r;
	memset(&args, 0, sizeof args);
	args.flags = CLONE_CLEAR_SIGHAND;
	args.stack = (uintptr_t)job->stack;
	args.stack_size = STACK;
	job->side = pair[1];
	r = sys_clone3_stack(&args, sizeof args, join_and_clone, job);
	close(pair[1]);
	if (r > 0) {
		long n;
		packet_data(&p, &birth, sizeof birth, 0, 0);
		p.header.msg_controllen = sizeof p.control;
		n = sys3(__NR_recvmsg, pair[0], &p.header, CLOSE_ON_EXEC);
		packet_fds(&p, n, &job->pidfd, 1);
		while (sys4(__NR_wait4, r, &status, __WALL, 0) == -EINTR)
			;
		r = birth.result;
		if (r > 0)
			job->pid = birth.pid;
		else if (birth.pid >= 0)
			failure_text(&(struct ctx){ .failure = &job->failure }, CRECHE_DETAIL_JOIN,
				     (char[1]){ (char)('0' + birth.pid) }, 1);
	}
	close(pair[0]);
	return r;
}

static int cancelled(creche_job *job)
{
	return __atomic_load_n(&job->cancelled, __ATOMIC_SEQ_CST);
}

/* The parent's half of the Plan, while the child waits for it; then all that the child needs to go on alone. */
static long parents_half(creche_job *job)
{
	struct ctx c = { .slots = job->slots, .failure = &job->failure, .phase = CRECHE_PHASE_PARENT,
		.pid_child = job->pid, .report_fd = -1 };
	struct creche_request request = { .type = CRECHE_GO };
	int fds[CRECHE_MAX_FDS], init = job->flags & CRECHE_SPAWN_INIT;
	unsigned count = job->setup.fds.count;
	long r;

	for (unsigned i = 0; i < CRECHE_SLOTS; i++)
		job->slots[i] = -1;
	memcpy(fds, job->setup.fds.list, count * sizeof(int));
	r = run_plan(&c, &job->parent, job->parent.fds.list, job->parent.fds.count);
	if (r >= 0 && init)
		r = send_request(job->socket, &request, 0, 0, 0, 0, 0);
	for (unsigned i = IDMAPPED; i < CRECHE_SLOTS && r >= 0; i++) {
		if (job->slots[i] < 0)
			continue;
		if (count == CRECHE_MAX_FDS) { /* more than a message can hold: unix(7), SCM_MAX_FD */
			request.type = CRECHE_HOLD;
			r = init ? send_request(job->socket, &request, 0, 0, fds, count, 0) : -E2BIG;
			count = 0;
		}
		fds[count++] = job->slots[i];
	}
	if (r >= 0 && !init)
		r = send_request(job->socket, &request, 0, 0, fds, count, 0);
	if (r >= 0 && init) {
		request.type = CRECHE_SETUP;
		r = send_request(job->socket, &request, job->setup.blob, job->setup.size, fds, count, 0);
	}
	if (r >= 0 && init && job->command.size) {
		request = (struct creche_request){ .type = CRECHE_RUN, .id = 1, .flags = job->run_flags, .a = job->rows, .b = job->columns };
		r = send_request(job->socket, &request, job->command.blob, job->command.size, job->command.fds.list,
				 job->command.fds.count, 0);
	}
	for (unsigned i = IDMAPPED; i < CRECHE_SLOTS; i++)
		if (job->slots[i] >= 0)
			close(job->slots[i]);
	/* A child that has died meanwhile has said why on the socket, which is for the loop to read. */
	return r == -EPIPE || r == -ECONNRESET ? 0 : r;
}

static void set_state(creche_job *job, int state)
{
	__atomic_store_n(&job->state, state, __ATOMIC_SEQ_CST);
}

static void carry_out(creche_job *job)
{
	pthread_t thread;
	int shared = !(job->flags & CRECHE_SPAWN_COPY);
	long r = 0;

	set_state(job, CRECHE_CLONING);
	if (cancelled(job))
		r = -ECANCELED;
	else if (shared) {
		r = -pthread_create(&thread, 0, cloner, job);
		if (r >= 0) {
			uint32_t ready;
			while (!(ready = __atomic_load_n(&job->child_ready, __ATOMIC_SEQ_CST)))
				futex(&job->child_ready, FUTEX_WAIT, 0);
			if (ready != 1) {
				pthread_join(thread, 0);
				shared = 0;
				r = job->clone_result < 0 ? job->clone_result : 0;
			}
		}
	} else {
		r = clone_copy(job);
	}
	if (r < 0 && !job->failure.error)
		note(&job->failure, CRECHE_PHASE_CHILD, job->failure.detail ? job->failure.detail : CRECHE_DETAIL_CLONE, r);
	if (r >= 0) {
		set_state(job, CRECHE_WAITING);
		r = cancelled(job) ? -ECANCELED : parents_half(job);
		if (r < 0 && !job->failure.error)
			note(&job->failure, CRECHE_PHASE_PARENT, CRECHE_DETAIL_NONE, r);
		if (r < 0 && job->pidfd >= 0)
			sys4(__NR_pidfd_send_signal, job->pidfd, SIGKILL, 0, 0);
		if (shared)
			pthread_join(thread, 0);
		if (r < 0)
			kill_and_reap(job);
	}
	set_state(job, r < 0 ? CRECHE_DEAD : CRECHE_RUNNING);
	/* Only now: the end of this socket wakes the loop, which then reads the state. */
	close(job->child_socket);
	job->child_socket = -1;
}

static void drop_plan(struct plan *plan)
{
	for (unsigned i = 0; i < plan->fds.count; i++)
		close(plan->fds.list[i]);
	plan->fds.count = 0;
	free(plan->fds.list);
	free(plan->blob);
	plan->fds.list = 0;
	plan->blob = 0;
}

static void release(creche_job *job)
{
	if (__atomic_sub_fetch(&job->holders, 1, __ATOMIC_SEQ_CST))
		return;
	if (job->pidfd >= 0)
		kill_and_reap(job); /* nobody took it over */
	close(job->socket);
	if (job->child_socket >= 0)
		close(job->child_socket);
	for (unsigned i = 0; i < job->join_count; i++)
		close(job->joins[i]);
	drop_plan(&job->parent);
	drop_plan(&job->setup);
	drop_plan(&job->command);
	free(job->stack);
	free(job);
}

static void *worker(void *unused)
{
	(void)unused;
	prctl(PR_SET_NAME, "creche-spawn", 0, 0, 0);
	pthread_mutex_lock(&lock);
	for (;;) {
		struct timespec until;
		creche_job *job;

		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += IDLE_SECONDS;
		idle++;
		while (!first && pthread_cond_timedwait(&more, &lock, &until) != ETIMEDOUT)
			;
		idle--;
		if (!first)
			break;
		job = first;
		first = job->next;
		if (!first)
			last = &first;
		pthread_mutex_unlock(&lock);
		carry_out(job);
		/* What the child needed is not needed any more; the descriptors above all. */
		drop_plan(&job->parent);
		drop_plan(&job->setup);
		drop_plan(&job->command);
		release(job);
		pthread_mutex_lock(&lock);
	}
	workers--;
	pthread_mutex_unlock(&lock);
	return 0;
}

/* A fork of the host program has none of our threads: it begins anew. */
static void forget(void)
{
	pthread_mutex_init(&lock, 0);
	pthread_cond_init(&more, 0);
	first = 0;
	last = &first;
	idle = workers = 0;
	if (supervisor_fd >= 0)
		close(supervisor_fd);
	supervisor_fd = -1;
}

static int open_exe(void)
{
	char path[64];
	int fd = memfd_create("creche-init", MFD_CLOEXEC | MFD_ALLOW_SEALING | 0x10 /* MFD_EXEC, from 6.3 */), r;

	if (fd < 0 && errno == EINVAL)
		fd = memfd_create("creche-init", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	if (write_all(fd, (const char *)init_elf, sizeof init_elf) < 0 || fchmod(fd, 0555) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	/* What is open for writing can't be executed: execve(2), ETXTBSY. */
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	r = open(path, O_RDONLY | O_CLOEXEC);
	if (r < 0)
		r = -errno;
	close(fd);
	return r;
}

/* Once a process: 0 or -errno. Called with the GIL held. */
static int prepare(void)
{
	if (!prepared) {
		pthread_atfork(0, 0, forget);
		prepared = 1;
	}
	if (supervisor_fd < 0) {
		supervisor_pid = getpid();
		supervisor_fd = (int)sys2(__NR_pidfd_open, supervisor_pid, 0);
		if (supervisor_fd < 0)
			return supervisor_fd;
	}
	if (exe_fd < 0)
		exe_fd = open_exe();
	return exe_fd < 0 ? exe_fd : 0;
}

/* ---- what Python calls ---- */

static int copy_fds(struct fds *to, const int *from, unsigned count)
{
	to->list = malloc((count + 1) * sizeof(int));
	if (!to->list)
		return -ENOMEM;
	for (to->count = 0; to->count < count; to->count++) {
		to->list[to->count] = fcntl(from[to->count], F_DUPFD_CLOEXEC, 3);
		if (to->list[to->count] < 0)
			return -errno;
	}
	return 0;
}

/* A job that owns copies of all it is given: 0 in `*error`, or -errno and nothing. */
creche_job *creche_job_new(uint32_t flags, uint64_t namespaces, int socket, int child_socket, const int *joins,
			   unsigned join_count, int *error)
{
	creche_job *job = calloc(1, sizeof *job);
	struct fds ends = { 0, 0 }, others = { 0, 0 };

	*error = job ? prepare() : -ENOMEM;
	if (!*error && join_count > MAX_JOINS)
		*error = -EINVAL;
	if (!*error && !(job->stack = malloc(STACK)))
		*error = -ENOMEM;
	if (!*error)
		*error = copy_fds(&ends, (int[]){ socket, child_socket }, 2);
	if (!*error)
		*error = copy_fds(&others, joins, join_count);
	if (*error) {
		drop_plan(&(struct plan){ .fds = ends });
		drop_plan(&(struct plan){ .fds = others });
		if (job)
			free(job->stack);
		free(job);
		return 0;
	}
	job->holders = 1;
	job->flags = flags;
	job->namespaces = namespaces;
	job->socket = ends.list[0];
	job->child_socket = ends.list[1];
	job->pidfd = -1;
	job->exe = exe_fd;
	job->supervisor = supervisor_fd;
	memcpy(job->joins, others.list, join_count * sizeof(int));
	job->join_count = join_count;
	free(ends.list);
	free(others.list);
	return job;
}

/* Gives the job one of its Plans (a phase of abi.h) with the descriptors that go with it, of which it keeps copies. */
int creche_job_plan(creche_job *job, uint32_t phase, const void *blob, uint32_t size, const int *fds, unsigned count)
{
	struct plan *plan = phase == CRECHE_PHASE_PARENT ? &job->parent : phase == CRECHE_PHASE_SETUP ? &job->setup : &job->command;

	if (count > CRECHE_MAX_FDS || plan->blob)
		return -EINVAL;
	plan->blob = malloc(size);
	if (!plan->blob)
		return -ENOMEM;
	memcpy(plan->blob, blob, size);
	plan->size = size;
	return copy_fds(&plan->fds, fds, count);
}

void creche_job_run(creche_job *job, uint32_t flags, uint32_t rows, uint32_t columns)
{
	job->run_flags = flags;
	job->rows = rows;
	job->columns = columns;
}

/* Hands the job to a thread. From here on its control socket tells the loop how it goes. 0 or -errno. */
int creche_job_submit(creche_job *job)
{
	sigset_t all, before;
	pthread_t thread;
	pthread_attr_t attributes;
	int r = 0;

	pthread_mutex_lock(&lock);
	if (!idle && workers < WORKERS) {
		/* The children inherit a thread's mask: none of the host's handlers may run in one. */
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &before);
		pthread_attr_init(&attributes);
		pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
		pthread_attr_setstacksize(&attributes, 256 * 1024);
		r = pthread_create(&thread, &attributes, worker, 0);
		pthread_attr_destroy(&attributes);
		pthread_sigmask(SIG_SETMASK, &before, 0);
		if (!r)
			workers++;
		else if (workers)
			r = 0;
	}
	if (!r) {
		job->holders++;
		job->next = 0;
		*last = job;
		last = &job->next;
		pthread_cond_signal(&more);
	}
	pthread_mutex_unlock(&lock);
	return -r;
}

int creche_job_state(creche_job *job) { return __atomic_load_n(&job->state, __ATOMIC_SEQ_CST); }
int creche_job_pid(creche_job *job) { return job->pid; }

/* The child's pidfd, which is the caller's from here on. */
int creche_job_take(creche_job *job)
{
	int fd = job->pidfd;

	job->pidfd = -1;
	return fd;
}

/* Why a job is dead. */
void creche_job_failure(creche_job *job, struct creche_failure *failure) { *failure = job->failure; }

/* Ends a spawn wherever it is: the worker looks before it goes on, and a child that is there already dies now. */
void creche_job_cancel(creche_job *job)
{
	__atomic_store_n(&job->cancelled, 1, __ATOMIC_SEQ_CST);
	pthread_mutex_lock(&lock);
	if (job->pidfd >= 0)
		sys4(__NR_pidfd_send_signal, job->pidfd, SIGKILL, 0, 0);
	pthread_mutex_unlock(&lock);
}

void creche_job_free(creche_job *job) { release(job); }

/* Sends the init a request without waiting: 0, or -errno (-EAGAIN: not now). */
int creche_send(int socket, struct creche_request *request, const void *blob, uint32_t size, const int *fds, unsigned count)
{
	return (int)send_request(socket, request, blob, size, fds, count, 1);
}

/* Checks a Plan's form as the init would: 0 or -errno. */
int creche_check(const void *blob, uint32_t size)
{
	struct ctx c = { 0 };
	void *copy = malloc(size ? size : 1);
	int r;

	if (!copy)
		return -ENOMEM;
	memcpy(copy, blob, size);
	r = interp_open(&c, copy, size);
	free(copy);
	return r;
}

const char *creche_op_name(unsigned op)
{
	static const char *const names[] = {
#define X(name) #name,
		CRECHE_STEPS(X)
#undef X
	};
	return op < CRECHE_OP_COUNT ? names[op] : "";
}

unsigned creche_op_count(void) { return CRECHE_OP_COUNT; }

/* Reaps the process of a pidfd without waiting: 1 and its status (as wait4(2) gives it) and what it and its children
   used; 0: it is not dead yet; -ECHILD: somebody else reaped it. usage: user and system microseconds, KiB, blocks. */
int creche_reap(int pidfd, int *status, uint64_t *usage)
{
	siginfo_t info;
	struct rusage used;
	long r;

	memset(&info, 0, sizeof info);
	r = sys5(__NR_waitid, 3 /* P_PIDFD */, pidfd, &info, WEXITED | WNOHANG | __WALL, &used);
	if (r < 0)
		return (int)r;
	if (!info.si_pid)
		return 0;
	*status = info.si_code == CLD_EXITED ? info.si_status << 8 : info.si_status | (info.si_code == CLD_DUMPED ? 0x80 : 0);
	usage[0] = (uint64_t)(used.ru_utime.tv_sec * 1000000 + used.ru_utime.tv_usec);
	usage[1] = (uint64_t)(used.ru_stime.tv_sec * 1000000 + used.ru_stime.tv_usec);
	usage[2] = (uint64_t)used.ru_maxrss;
	usage[3] = (uint64_t)used.ru_inblock;
	usage[4] = (uint64_t)used.ru_oublock;
	return 1;
}
