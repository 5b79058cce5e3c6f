/* What the init does with files for its supervisor. */
#ifndef CRECHE_INIT_FILES_H
#define CRECHE_INIT_FILES_H

#include "interp.h"

/* A descriptor where the request is to open, else 0; or -errno. */
long file_request(struct ctx *c, const struct creche_request *request, const char *text, size_t size);

#endif
