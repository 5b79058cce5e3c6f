/* A filter's listener on its way through the init. */
#ifndef CRECHE_INIT_LISTEN_H
#define CRECHE_INIT_LISTEN_H

/* The listener that a newborn command has sent, or -1 where there is none (yet). */
int take_listener(int report);
/* Lets the newborn on whose call waits, unless it has executed: then the call is its guest's, and not ours to answer. */
void let_on(int report, int listener);
#endif
