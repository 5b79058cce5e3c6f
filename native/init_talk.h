/* What the init says to its supervisor, and hears from it. */
#ifndef CRECHE_INIT_TALK_H
#define CRECHE_INIT_TALK_H

#include "message.h"

/* Freestanding: no libc, no allocation, no environment; nothing here trusts a guest, and little the supervisor.
   It is executed from a sealed memfd with these descriptors and no others: */
enum { CONTROL = 0, SUPERVISOR = 1, CHILDREN = 2 /* a signalfd, made here */ };

extern _Alignas(8) unsigned char inbox[CRECHE_INLINE + 64];

_Noreturn void leave(int status);
void reply(struct creche_reply *message, const int *fds, unsigned count, int pid);
void reply_failure(uint32_t type, uint32_t id, const struct creche_failure *f);
const void *plan_of(const struct creche_request *request, long received, int plan_fd);
void forget_plan(const struct creche_request *request, const void *plan);

#endif
