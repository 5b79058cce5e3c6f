/* The init's commands, and those of them whose start is not looked for yet, since their end may come as soon. */
#ifndef CRECHE_INIT_BRIEF_H
#define CRECHE_INIT_BRIEF_H

#include "init_talk.h"

struct command {
	int pid;                /* 0: free */
	uint32_t id, flags;
	int report, pidfd, pty, listener; /* while it starts; report: -1 from then on */
	int failed;
	int64_t look_at;        /* a brief one's start is looked for then, unless it is dead by then; else 0 */
};

extern struct command commands[CRECHE_MAX_COMMANDS];
extern unsigned highest, unseen; /* the first that was never used; how many have a time in `look_at` */

/* Its exec wakes nobody, until that time. */
void look_later(struct command *command);
/* Its time has come, or it is dead, so that its end says that it was executed, too. */
void look_now(struct command *command);
/* Those whose time has come are looked for from now on; in how many microseconds to ask again. */
int64_t look_for_the_unseen(void);

#endif
