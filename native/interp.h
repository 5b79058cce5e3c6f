/* The step interpreter's state, shared by the files that hold the Steps. */
#ifndef CRECHE_INTERP_H
#define CRECHE_INTERP_H

#include "abi.h"
#include "sys.h"

/* What the kernel's headers lack, or older ones of them. */
#define PATH_SIZE 4096
#define MNT_DETACH 2
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

struct ctx {
	const unsigned char *blob;      /* header, steps, texts: checked by interp_open */
	const struct creche_step *steps;
	uint32_t size, count;
	int *slots;                     /* CRECHE_SLOTS descriptors, -1 where empty */
	struct creche_failure *failure;
	uint32_t phase;
	uint32_t keep[2];               /* slots below 64 that outlive the setup, as bits */
	int pidfd_child;                /* PARENT: a pidfd of the child */
	int pid_child;                  /* PARENT: its number */
	int report_fd;                  /* COMMAND: its end tells of the exec; moves away when a Step wants its number */
	int *marked;                    /* COMMAND: set just before execve */
	int bounded;                    /* the bounding set is no larger than `bounding` */
	uint64_t bounding;
};

enum op {
#define X(name) CRECHE_OP_##name,
	CRECHE_STEPS(X)
#undef X
	CRECHE_OP_COUNT
};

#define STEP(name) long step_##name(struct ctx *c, const struct creche_step *s)
#define X(name) STEP(name);
CRECHE_STEPS(X)
#undef X

int interp_open(struct ctx *c, const void *blob, uint32_t size);
long interp_step(struct ctx *c, uint32_t index);
long interp_run(struct ctx *c);
void interp_fail(struct ctx *c, uint32_t index, const struct creche_step *s, long error);

static inline const char *text_of(const struct ctx *c, uint32_t at) { return (const char *)c->blob + at; }
#define TEXT(c, s) text_of(c, (s)->text)
#define TEXT2(c, s) text_of(c, (s)->text2)
#define TEXT3(c, s) text_of(c, (s)->text3)

/* Slots: `take` gives an open descriptor or -EBADF, `put` fills one and closes what was there. */
int slot_take(struct ctx *c, unsigned slot);
long slot_put(struct ctx *c, unsigned slot, long fd);
void slot_drop(struct ctx *c, unsigned slot);

/* Opens a path inside the container's root: no link, no "..", no magic link leads out of it (openat2(2)). */
long resolve(struct ctx *c, const char *path, uint64_t flags, uint64_t mode);
/* The same below what a slot holds, where it is one. */
long resolve_below(struct ctx *c, unsigned slot, const char *path, uint64_t flags, uint64_t mode);

/* On the parent's side: a file of a child's under /proc. Its number is its own until it is reaped; that nobody else has done
   that (a host program's waitpid with __WALL) its pidfd tells. */
long open_of_process(int pid, int pidfd, const char *name, int flags);
long write_of_process(int pid, int pidfd, const char *name, const char *text, size_t size);

void failure_text(struct ctx *c, uint32_t detail, const char *text, size_t size);
size_t text_length(const char *s);
void copy_bytes(void *to, const void *from, size_t n);
long write_all(int fd, const char *data, size_t n);
#endif
