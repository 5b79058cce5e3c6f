/* The init's commands, and those of them that were executed and not told of yet. */
#ifndef CRECHE_INIT_BRIEF_H
#define CRECHE_INIT_BRIEF_H

#include "init_talk.h"

struct command {
	int pid;                /* 0: free */
	uint32_t id, flags;
	int report, pidfd, pty, listener; /* while it starts; report: -1 from then on */
	int failed;
	int64_t tell_at;        /* a brief one that was executed is told of then, and has its pidfd here until then; else 0 */
};

extern struct command commands[CRECHE_MAX_COMMANDS];
extern unsigned highest, untold; /* the first that was never used; how many were executed and not told of */

/* It was executed, and is told of with its end where that comes soon. */
void keep_back(struct command *command);
/* It is dead: its end says that it was executed, too. */
void need_not_tell(struct command *command);
/* Tells of those that live on, and says in how many microseconds to look again. */
int64_t tell_of_the_untold(void);

#endif
