/* What a template calls: the protocol of docs/pools.md. */
#ifndef CRECHE_FORK_H
#define CRECHE_FORK_H

#include <stdint.h>

/* What a forked command is to do: its words and its variables, each ended by a NUL. */
struct creche_forked {
	const char *words, *variables;
	uint64_t words_size, variables_size;
};

/* Serves a template's supervisor on the socket `channel`. Returns in each forked command alone, confined, with its descriptors in
   place; the template's process ends in here, with its supervisor. `runtime_fork` is the runtime's own fork: 0 in the child, its number
   in the parent, else negative. The process has one thread. */
__attribute__((visibility("default"))) void creche_serve(int channel, long (*runtime_fork)(void), struct creche_forked *run);

#endif
