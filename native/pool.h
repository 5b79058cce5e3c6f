/* What Python calls: cffi reads this file too, so it holds plain declarations only. */
#ifndef CRECHE_POOL_H
#define CRECHE_POOL_H
#include "abi.h"

typedef struct creche_job creche_job;

/* A job with copies of what it is given, and our end of its control socket in `*control`, which is the caller's;
   or nothing and -errno in `*error`. */
creche_job *creche_job_new(uint32_t flags, uint64_t namespaces, const int *joins, unsigned join_count, int *control, int *error);
/* Gives the job one of its Plans (a phase of abi.h) with the descriptors that go with it, of which it keeps copies. */
int creche_job_plan(creche_job *job, uint32_t phase, const void *blob, uint32_t size, const int *fds, unsigned count);
/* Lets the job have the view of that number among its setup's descriptors, last; -ENOENT: nobody knows it yet. */
int creche_job_view(creche_job *job, uint64_t number);
/* Makes a view known: the Plans (of PARENT and SETUP) by which a process makes it, when the first job needs it. */
int creche_view_new(uint64_t number, const void *parent, uint32_t parent_size, const void *setup, uint32_t setup_size);
/* Lets go of what views hold: a user namespace each, which containers may lack. */
void creche_views_drop(void);
/* A number that stays the same while our root and the mounts below it do; 0: nobody is looking (views alone make us look). */
uint64_t creche_mounts(void);
void creche_job_run(creche_job *job, uint32_t flags, uint32_t rows, uint32_t columns);
/* Hands the job to a thread, which makes the child at once, and lets it wait for its Plans; a child that is a copy of us is
   made when they are there. From here on the control socket tells the loop how it goes. 0 or -errno. */
int creche_job_submit(creche_job *job);
/* The Plans are there. */
void creche_job_go(creche_job *job);
int creche_job_state(creche_job *job);
int creche_job_pid(creche_job *job);
/* The child's pidfd, which is the caller's from here on. */
int creche_job_take(creche_job *job);
/* Why the spawn failed, as far as no message of the init's says it: 1, or 0 where it did not. */
int creche_job_failure(creche_job *job, struct creche_failure *failure);
/* Whether a child without an init was about to exec, so that the end of its socket is the exec. */
int creche_job_executing(creche_job *job);
/* Ends a spawn wherever it is: in the queue, or in a worker that looks before it goes on; a child that is there dies now. */
void creche_job_cancel(creche_job *job);
void creche_job_free(creche_job *job);
/* Sends the init a request without waiting, `blob` being its Plan or path: 0, or -errno (-EAGAIN: not now). */
int creche_send(int socket, uint32_t type, uint32_t id, uint32_t flags, int32_t number, uint64_t a, uint64_t b, const void *blob, uint32_t size,
		const int *fds, unsigned count);

/* A message as it came: the descriptors are the caller's, `pid` is what the sender claims, as it is numbered here (unix(7)). */
struct creche_news {
	char message[344];              /* a struct creche_reply, if it is one of an init of ours */
	int32_t pid;
	uint32_t count;
	int32_t fds[8];
};

/* Takes a message off the control socket without waiting: its size, which is above that of `message` where it was longer;
   0 at the end, or -errno (-EAGAIN: none is there). Descriptors that the kernel had no room or no number for are not there. */
int creche_receive(int socket, struct creche_news *news);
/* Reaps the process of a pidfd without waiting: 1 and its status (as wait4(2) gives it) and what it and its children
   used; 0: it is not dead yet; -ECHILD: somebody else reaped it. usage: user and system microseconds, KiB, blocks. */
int creche_reap(int pidfd, int *status, uint64_t *usage);
/* Reads what lies in another process's memory: how many bytes, or -errno. It may wait for whoever serves that memory. */
long creche_peek(int pid, uint64_t address, void *to, uint32_t size);
/* Checks a Plan's form as the init would: 0 or -errno. */
int creche_check(const void *blob, uint32_t size);
const char *creche_op_name(unsigned op);
unsigned creche_op_count(void);
/* The program that tries things inside a container: an ELF file. */
const unsigned char *creche_probe(unsigned *size);
/* The library that a template forks with: an ELF file. */
const unsigned char *creche_fork_library(unsigned *size);
/* The init's program, as a descriptor that stays ours, or -errno. */
int creche_init_program(void);

#endif
