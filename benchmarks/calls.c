/* Two million calls that do nothing, and as many reads of a byte: nanoseconds of processor time for each, on one line. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { COUNT = 2000000 };

static double used(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

int main(void)
{
	double begin = used(), middle;
	int zero = open("/dev/zero", O_RDONLY);
	char byte;

	for (int i = 0; i < COUNT; i++)
		syscall(SYS_getpid);
	middle = used();
	for (int i = 0; i < COUNT; i++)
		if (read(zero, &byte, 1) != 1)
			return 1;
	printf("%.1f %.1f\n", (middle - begin) / COUNT * 1e9, (used() - middle) / COUNT * 1e9);
	return 0;
}
