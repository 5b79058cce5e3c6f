/* Commands that end as soon as they have begun: neither their exec nor its news wakes anybody, for their start and end are one message. */
#include "init_brief.h"
#include <linux/time_types.h>

struct command commands[CRECHE_MAX_COMMANDS];
unsigned highest, unseen;

static int64_t now_us(void)
{
	struct __kernel_timespec now = { 0 };

	sys2(__NR_clock_gettime, 1 /* CLOCK_MONOTONIC */, &now);
	return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

void look_later(struct command *command)
{
	command->look_at = now_us() + CRECHE_BRIEF_US;
	unseen++;
}

void look_now(struct command *command)
{
	unseen -= command->look_at != 0;
	command->look_at = 0;
}

int64_t look_for_the_unseen(void)
{
	int64_t now = now_us(), left = CRECHE_BRIEF_US;

	for (unsigned i = 0; i < highest; i++) {
		struct command *command = &commands[i];
		if (!command->pid || !command->look_at)
			continue;
		if (command->look_at <= now)
			look_now(command);
		else if (command->look_at - now < left)
			left = command->look_at - now;
	}
	return left;
}
