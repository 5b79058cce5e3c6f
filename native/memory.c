/* What the compiler calls by itself where there is no C library. */
#include "interp.h"

/* For assignments of structs. */
void *memcpy(void *to, const void *from, size_t n)
{
	copy_bytes(to, from, n);
	return to;
}

void *memset(void *to, int byte, size_t n)
{
	unsigned char *t = to;

	while (n--) {
		*t++ = (unsigned char)byte;
		__asm__ volatile("" ::: "memory");
	}
	return to;
}
