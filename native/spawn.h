/* A spawn under way: what the child, its parent's thread and Python's handle share. */
#ifndef CRECHE_SPAWN_H
#define CRECHE_SPAWN_H

#include "message.h"

enum { MAX_JOINS = 8, STACK = 65536, IDMAPPED = 512, WORKERS = 3 };
enum { SEALS = 15 /* of the init's program: F_SEAL_SEAL, _SHRINK, _GROW and _WRITE, fcntl(2) */ };

struct fds {
	int *list;
	unsigned count;
};

struct plan {
	void *blob;
	uint32_t size;
	struct fds fds;
};

/* How a child without an init fared: in memory that it shares with us however it was made, since a filter of its own
   may forbid it to say so. */
struct report {
	struct creche_failure failure;
	int marked;                    /* it was about to exec */
};

/* Owned by the worker and by Python's handle, freed with the second of them. What the child touches lives here too, so
   it is there until the child has exec'd or died. */
typedef struct creche_job {
	struct view *view;             /* what its HostView shares */
	struct creche_job *next;       /* in the queue */
	struct creche_job *older, *newer; /* among all there are */
	int holders, cancelled, state;
	int planned;                   /* it has all its Plans */
	int underway;                  /* begun, and not yet taken over by the loop */
	uint32_t shares;               /* our memory with the child: a futex that the kernel clears */
	uint32_t flags;
	uint64_t namespaces;
	int socket, child_socket;      /* the control socket's two ends */
	int low;                       /* the latter, where a child that shares our table finds it */
	int supervisor, exe;
	int joins[MAX_JOINS];
	unsigned join_count;
	struct plan parent, setup, command;
	uint32_t run_flags, rows, columns;
	int pid;
	int made;                      /* where clone3 puts a pidfd, which is none if it then fails */
	int pidfd;                     /* the child's, once it is sure to be one */
	int side;                      /* where a joining child tells of the one that it made */
	struct creche_failure failure;
	struct report *report;
	void *stack;
	int slots[CRECHE_SLOTS];
} creche_job;

/* child.c: raw calls only, nothing that touches errno, a lock, the heap or stdio. */
int enter_init(void *job);
int run_all(void *job);
int join_and_clone(void *job);
long run_plan(struct ctx *c, const struct plan *plan, const int *fds, long count);
void note(struct creche_failure *failure, uint32_t phase, uint32_t detail, long error);

/* low.c */
int keep_low(int exe);
void lend_low(creche_job *job);
void take_low_back(creche_job *job);
void forget_low(void);

/* spawn.c */
void carry_out(creche_job *job);
void finish(creche_job *job, int state);
void kill_and_reap(creche_job *job);

/* job.c */
extern creche_job *newest;             /* of all there are; with the lock held */
void close_job(creche_job *job);       /* what it holds open, but for its pidfd: with the lock held */
void drop_plans(creche_job *job);
void release(creche_job *job);

/* pool.c: what another thread may look at (pidfd, plans, sockets) changes between the first two. */
void jobs_lock(void);
void jobs_unlock(void);
void notice_fork(void);                /* one that libc did not see */
int prepare(int *exe, int *supervisor); /* what all jobs share, once a process: with the lock held; 0 or -errno */
void settle(creche_job *job);          /* the loop has taken the child over, or there is none: with the lock held */
long await_plans(creche_job *job);     /* 0, or -ECANCELED where they will not come */
void give_up(creche_job *job);         /* they will not, if they have not */

/* room.c */
long send_with_room(int socket, struct creche_request *request, const void *blob, size_t size, const int *fds, unsigned count);
void take_room(void);

/* view.c */
long add_view(creche_job *job);
void leave_view(creche_job *job);
void drop_trees(void);
#endif
