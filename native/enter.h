/* What a process does before it executes the init, wherever it was made. */
#ifndef CRECHE_ENTER_H
#define CRECHE_ENTER_H

#include "interp.h"

/* Puts the control socket, the supervisor's pidfd and the init's program at 0, 1 and 2 (close-on-exec), and closes all else. */
long take_places(int from[3]);
long keep_capabilities(void);

#endif
