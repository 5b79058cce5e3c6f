/* The floor: what a container costs when nothing but the kernel is paid for, from clone3 to the reap, all in C. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* floor FOLDER [BYTES]: FOLDER holds `true` and `floor_init`; BYTES are kept resident, as a large parent would.
   Reads requests "KIND COUNT\n" and answers each with the nanoseconds that COUNT runs took, one after the other:
     exec     vfork and execve of the static true, no namespaces: the cheapest process there is
     bare     all namespaces, init and command, no mounts
     nonet    all namespaces but network, mounts, init and command
     all      all namespaces, mounts, init and command: the floor that the ratios speak of
     crowd    COUNT of these that stay, without a command: answered with the first tenth's median and the last's, of the clock's
              time and then of the processors' */

#define CLEAR_SIGHAND 0x100000000ULL
#define MS_MOVE_FROM 0x4 /* MOVE_MOUNT_F_EMPTY_PATH */
#define NODES 6

struct job {
	uint64_t namespaces;
	int mounts, stays, init, program; /* init: a memfd; program: of true, for `exec` */
	const char *folder;
	char path[4096]; /* of true, outside */
	const char *step; /* what failed, written by the child: it shares this memory */
	int error;
	sigset_t mask;
};

/* clone3 with a stack of its own: the child must not return through this frame, so it calls `child` and exits. */
static long clone3_call(void *args, size_t size, int (*child)(struct job *), struct job *job)
{
#if defined(__x86_64__)
	long result;
	register int (*fn)(struct job *) __asm__("r8") = child;
	register struct job *arg __asm__("r9") = job;
	__asm__ volatile("syscall\n\ttest %%rax, %%rax\n\tjnz 1f\n\txor %%ebp, %%ebp\n\tmov %%r9, %%rdi\n\tcall *%%r8\n\t"
			 "mov %%eax, %%edi\n\tmov $231, %%eax\n\tsyscall\n\thlt\n1:"
			 : "=a"(result)
			 : "a"((long)SYS_clone3), "D"(args), "S"(size), "r"(fn), "r"(arg)
			 : "rcx", "r11", "memory");
	return result;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = SYS_clone3;
	register long x0 __asm__("x0") = (long)args;
	register long x1 __asm__("x1") = (long)size;
	register int (*fn)(struct job *) __asm__("x9") = child;
	register struct job *arg __asm__("x10") = job;
	__asm__ volatile("svc 0\n\tcbnz x0, 1f\n\tmov x29, xzr\n\tmov x0, x10\n\tblr x9\n\tmov x8, #94\n\tsvc 0\n1:"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(fn), "r"(arg)
			 : "memory", "x30");
	return x0;
#else
#error "x86-64 and aarch64 only"
#endif
}

static char uid_map[32], gid_map[32];

static int put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t n = write(fd, text, strlen(text));
	close(fd);
	return n < 0 ? -1 : 0;
}

static int fs(const char *kind, const char *const options[][2], unsigned int attributes)
{
	int context = syscall(SYS_fsopen, kind, FSOPEN_CLOEXEC);
	if (context < 0)
		return -1;
	for (; options && (*options)[0]; options++)
		if (syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, (*options)[0], (*options)[1], 0) < 0)
			return -1;
	if (syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, 0, 0, 0) < 0)
		return -1;
	int mount = syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes);
	close(context);
	return mount;
}

static int attach(int mount, int root, const char *target)
{
	if (mount < 0)
		return -1;
	int result = syscall(SYS_move_mount, mount, "", root, target, MS_MOVE_FROM);
	close(mount);
	return result;
}

static int tree_readonly(const char *source)
{
	struct mount_attr readonly = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV};
	int tree = syscall(SYS_open_tree, AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
	if (tree < 0 ||
	    syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &readonly, sizeof readonly) < 0)
		return -1;
	return tree;
}

static const char *make_dev(int root)
{
	static const char *const nodes[NODES] = {"null", "zero", "full", "random", "urandom", "tty"};
	static const char *const links[][2] = {{"/proc/self/fd", "dev/fd"},
					       {"/proc/self/fd/0", "dev/stdin"},
					       {"/proc/self/fd/1", "dev/stdout"},
					       {"/proc/self/fd/2", "dev/stderr"},
					       {"pts/ptmx", "dev/ptmx"}};
	static const char *const options[][2] = {{"mode", "755"}, {"size", "65536"}, {0, 0}};
	static const char *const pts[][2] = {{"ptmxmode", "0666"}, {"mode", "0620"}, {0, 0}};
	char source[24], target[24];
	if (attach(fs("tmpfs", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC), root, "dev") < 0)
		return "/dev";
	for (int i = 0; i < NODES; i++) {
		snprintf(source, sizeof source, "/dev/%s", nodes[i]);
		snprintf(target, sizeof target, "dev/%s", nodes[i]);
		int file = openat(root, target, O_CREAT | O_WRONLY | O_CLOEXEC, 0666);
		int node = syscall(SYS_open_tree, AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
		if (file < 0 || attach(node, root, target) < 0)
			return nodes[i];
		close(file);
	}
	for (size_t i = 0; i < sizeof links / sizeof *links; i++)
		if (symlinkat(links[i][0], root, links[i][1]) < 0)
			return links[i][1];
	if (mkdirat(root, "dev/shm", 01777) < 0 || mkdirat(root, "dev/pts", 0755) < 0)
		return "dev/shm";
	return attach(fs("devpts", pts, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC), root, "dev/pts") < 0 ? "/dev/pts" : 0;
}

/* A tmpfs as the root, /usr of the host read-only, proc, tmp, dev; then the old root goes and the new one is read-only. */
static const char *make_view(const struct job *job)
{
	static const char *const directories[] = {"usr", "proc", "tmp", "dev", "bench"};
	static const char *const links[] = {"bin", "sbin", "lib", "lib64"};
	static const char *const root_options[][2] = {{"mode", "755"}, {"size", "1M"}, {0, 0}};
	static const char *const tmp_options[][2] = {{"mode", "1777"}, {"size", "64M"}, {0, 0}};
	struct mount_attr readonly = {.attr_set = MOUNT_ATTR_RDONLY};
	char to[16];

	if (syscall(SYS_mount, 0, "/", 0, MS_SLAVE | MS_REC, 0) < 0)
		return "propagation";
	/* The sources first: the new root is staged on /tmp, which they may lie in. */
	int usr = tree_readonly("/usr"), bench = tree_readonly(job->folder);
	int root = fs("tmpfs", root_options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
	if (root < 0 || syscall(SYS_move_mount, root, "", AT_FDCWD, "/tmp", MS_MOVE_FROM) < 0)
		return "the root's tmpfs";
	for (size_t i = 0; i < sizeof directories / sizeof *directories; i++)
		if (mkdirat(root, directories[i], 0755) < 0)
			return directories[i];
	for (size_t i = 0; i < sizeof links / sizeof *links; i++) {
		snprintf(to, sizeof to, "usr/%s", links[i]);
		if (symlinkat(to, root, links[i]) < 0)
			return links[i];
	}
	if (attach(usr, root, "usr") < 0)
		return "/usr";
	if (attach(bench, root, "bench") < 0)
		return "/bench";
	if (attach(fs("proc", 0, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC), root, "proc") < 0)
		return "/proc";
	if (attach(fs("tmpfs", tmp_options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV), root, "tmp") < 0)
		return "/tmp";
	const char *failed = make_dev(root);
	if (failed)
		return failed;
	if (syscall(SYS_mount_setattr, root, "", AT_EMPTY_PATH, &readonly, sizeof readonly) < 0)
		return "read-only root";
	if (fchdir(root) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 ||
	    syscall(SYS_umount2, ".", 2 /* MNT_DETACH */) < 0 || chdir("/") < 0)
		return "pivot_root";
	return 0;
}

static const char *loopback(void)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		return "loopback";
	close(fd);
	return 0;
}

static int child(struct job *job)
{
	char *const argv[] = {"init", job->stays ? 0 : job->mounts ? "/bench/true" : job->path, 0};
	static char *const envp[] = {0};
	const char *failed = 0;
	if (job->namespaces & CLONE_NEWUSER) {
		if (put("/proc/self/setgroups", "deny") < 0 || put("/proc/self/uid_map", uid_map) < 0 ||
		    put("/proc/self/gid_map", gid_map) < 0)
			failed = "id maps";
		if (!failed && (job->namespaces & CLONE_NEWNET))
			failed = loopback();
		if (!failed && sethostname("floor", 5) < 0)
			failed = "hostname";
		if (!failed && job->mounts)
			failed = make_view(job);
	}
	if (!failed) {
		sigprocmask(SIG_SETMASK, &job->mask, 0);
		syscall(SYS_execveat, job->namespaces ? job->init : job->program, "", argv, envp, AT_EMPTY_PATH);
		failed = "execveat";
	}
	job->error = errno; /* the cloner sleeps, so its errno is ours for now */
	job->step = failed;
	return 1;
}

static int load(const char *folder, const char *name)
{
	char path[4096], buffer[65536];
	snprintf(path, sizeof path, "%s/%s", folder, name);
	int from = open(path, O_RDONLY | O_CLOEXEC);
	int to = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (from < 0 || to < 0) {
		perror(path);
		exit(1);
	}
	for (ssize_t n; (n = read(from, buffer, sizeof buffer)) > 0;)
		if (write(to, buffer, n) != n)
			exit(1);
	close(from);
	fcntl(to, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
	return to;
}

static int spawn(struct job *job, void *stack, size_t size)
{
	int pidfd = -1;
	siginfo_t info = {0};
	sigset_t all;
	struct {
		uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
	} args = {
		.flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLEAR_SIGHAND | job->namespaces,
		.pidfd = (uintptr_t)&pidfd,
		.exit_signal = SIGCHLD,
		.stack = (uintptr_t)stack,
		.stack_size = size,
	};
	job->step = 0;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &job->mask);
	long pid = clone3_call(&args, sizeof args, child, job);
	sigprocmask(SIG_SETMASK, &job->mask, 0);
	if (pid < 0) {
		job->step = "clone3";
		job->error = -pid;
		return -1;
	}
	if (job->stays && !job->step) {
		close(pidfd);
		return pid;
	}
	int reaped = waitid(P_PIDFD, pidfd, &info, WEXITED);
	close(pidfd);
	if (!job->step && (reaped < 0 || info.si_code != CLD_EXITED || info.si_status)) {
		job->step = "the command";
		job->error = info.si_status;
	}
	return job->step ? -1 : 0;
}

static long long now(clockid_t clock)
{
	struct timespec time = {0};
	clock_gettime(clock, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static long long used(int pid)
{
	clockid_t clock;
	return clock_getcpuclockid(pid, &clock) ? 0 : now(clock);
}

static int compare(const void *one, const void *other)
{
	long long a = *(const long long *)one, b = *(const long long *)other;
	return (a > b) - (a < b);
}

static int crowd(struct job *job, void *stack, size_t size, unsigned int count)
{
	unsigned int tenth = count / 10, made = 0;
	int *pids = calloc(count + 1, sizeof *pids);
	long long *times[2] = {calloc(count + 1, sizeof **times), calloc(count + 1, sizeof **times)};
	if (!pids || !times[0] || !times[1]) {
		free(pids);
		free(times[0]);
		free(times[1]);
		return -1;
	}
	while (made < count) {
		long long begin = now(CLOCK_MONOTONIC), begin_used = now(CLOCK_PROCESS_CPUTIME_ID);
		pids[made] = spawn(job, stack, size);
		if (pids[made] < 0)
			break;
		times[0][made] = now(CLOCK_MONOTONIC) - begin;
		times[1][made] = now(CLOCK_PROCESS_CPUTIME_ID) - begin_used + used(pids[made]);
		made++;
	}
	int whole = tenth && made == count;
	for (unsigned int i = 0; i < made; i++) {
		kill(pids[i], SIGKILL); /* ours, and not yet reaped */
		waitpid(pids[i], 0, 0);
	}
	for (int i = 0; i < 2; i++) {
		long long *last = times[i] + count - tenth;
		if (whole) {
			qsort(times[i], tenth, sizeof *last, compare);
			qsort(last, tenth, sizeof *last, compare);
			printf("%c%lld, %lld", i ? ',' : '[', times[i][tenth / 2], last[tenth / 2]);
		}
		free(times[i]);
	}
	if (whole)
		puts("]");
	free(pids);
	return whole ? 0 : -1;
}

int main(int argc, char **argv)
{
	enum { STACK = 256 * 1024 };
	const uint64_t every = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS |
			       CLONE_NEWCGROUP;
	char kind[16];
	unsigned int count;
	if (argc < 2) {
		fputs("usage: floor FOLDER [BYTES]\n", stderr);
		return 2;
	}
	struct job job = {.folder = argv[1], .init = load(argv[1], "floor_init"), .program = load(argv[1], "true")};
	snprintf(job.path, sizeof job.path, "%s/true", argv[1]);
	void *stack = mmap(0, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	size_t resident = argc > 2 ? strtoull(argv[2], 0, 10) : 0;
	if (resident) {
		void *memory = mmap(0, resident, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (memory == MAP_FAILED)
			return 1;
		memset(memory, 1, resident);
	}
	snprintf(uid_map, sizeof uid_map, "0 %u 1", geteuid());
	snprintf(gid_map, sizeof gid_map, "0 %u 1", getegid());
	while (scanf("%15s %u", kind, &count) == 2) {
		job.namespaces = !strcmp(kind, "exec") ? 0 : !strcmp(kind, "nonet") ? every & ~CLONE_NEWNET : every;
		job.mounts = strcmp(kind, "bare") != 0;
		job.stays = !strcmp(kind, "crowd");
		long long begin = now(CLOCK_MONOTONIC);
		int failed = job.stays && crowd(&job, stack, STACK, count) < 0;
		for (unsigned int i = 0; i < count && !job.stays && !failed; i++)
			failed = spawn(&job, stack, STACK) < 0;
		if (failed) {
			fprintf(stderr, "floor: %s: %s\n", job.step ? job.step : kind, strerror(job.error));
			return 1;
		}
		if (!job.stays)
			printf("%lld\n", now(CLOCK_MONOTONIC) - begin);
		fflush(stdout);
	}
	return 0;
}
