/* Makes the calls that it is told to, inside a container, and tells what the kernel answered: for audits. It decides nothing. */
#include "sys.h"
#include <linux/prctl.h>

enum { MOST = 65536 };

/* One call. Bits of `texts` say which of its arguments are places in the request, bits of `last` which are the answer to the
   call before it: a descriptor, mostly. */
struct trial {
	uint64_t number;
	uint32_t texts, last;
	uint64_t args[6];
};

static _Alignas(8) unsigned char request[MOST];

/* stdin: two words (its own size, the number of trials), the trials, their texts. stdout: an answer each, at once, for one of
   them may be the last. */
__attribute__((used)) static _Noreturn void probe(void)
{
	uint64_t *head = (uint64_t *)request;
	size_t have = 0;
	long last = 0, n;

	/* Its program can't be read, so that nobody could trace it until here; nor from here on (ptrace(2)). */
	sys5(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
	while (have < 16 || have < head[0]) {
		n = have < MOST ? sys3(__NR_read, 0, request + have, MOST - have) : -1;
		if (n <= 0)
			sys1(__NR_exit_group, 1);
		have += (size_t)n;
	}
	for (uint64_t i = 0; i < head[1] && 16 + (i + 1) * sizeof(struct trial) <= have; i++) {
		const struct trial *trial = (const struct trial *)(request + 16) + i;
		long args[6];

		for (unsigned a = 0; a < 6; a++) {
			args[a] = trial->last >> a & 1 ? last : (long)trial->args[a];
			if (trial->texts >> a & 1 && trial->args[a] < MOST)
				args[a] = (long)(request + trial->args[a]);
		}
		last = sys6(trial->number, args[0], args[1], args[2], args[3], args[4], args[5]);
		sys3(__NR_write, 1, &last, sizeof last);
	}
	sys1(__NR_exit_group, 0);
	__builtin_trap();
}

#if defined __x86_64__
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tand $-16, %rsp\n\tcall probe\n");
#else
__asm__(".globl _start\n_start:\n\tmov x29, xzr\n\tbl probe\n");
#endif
