/* What guests may change about the init itself, kept and put back. */
#ifndef CRECHE_INIT_SELF_H
#define CRECHE_INIT_SELF_H

#include "interp.h"

/* To be called before the first guest runs. */
void self_remember(void);
/* The same for what is a file, when there is a proc. */
void self_remember_files(struct ctx *c);

/* Puts it back; or -errno, with `what` the name of what can't be. */
long self_restore(struct ctx *c, const char **what);

#endif
