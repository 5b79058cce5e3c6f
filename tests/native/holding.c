/* The maker of an idmapped mount's user namespace, which dies by SIGKILL while it holds that one: nothing may be left. */
#include "step_idmap.c"
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

long write_of_process(int pid, int pidfd, const char *name, const char *text, size_t size)
{
	char path[64], state = 0;

	(void)pidfd, (void)name, (void)text, (void)size;
	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	while (state != 'S') { /* until it waits */
		FILE *stat = fopen(path, "r");
		if (!stat || fscanf(stat, "%*d (holding) %c", &state) != 1)
			return -1;
		fclose(stat);
	}
	printf("%d\n", pid);
	fflush(stdout);
	kill(getpid(), SIGKILL);
	return 0;
}

long open_of_process(int pid, int pidfd, const char *name, int flags) { return pid + pidfd + flags + !name; }
long slot_put(struct ctx *c, unsigned slot, long fd) { return c->slots[slot] = (int)fd; }

int main(void)
{
	printf("%ld\n", namespace_with("0 0 1\n", 6, "0 0 1\n", 6)); /* reached only where that failed */
	return 1;
}
