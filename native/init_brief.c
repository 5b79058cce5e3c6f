/* Commands that end as soon as they have begun: their start and end are one message, so whoever waits is woken once. */
#include "init_brief.h"
#include <linux/time_types.h>

struct command commands[CRECHE_MAX_COMMANDS];
unsigned highest, untold;

static int64_t now_us(void)
{
	struct __kernel_timespec now = { 0 };

	sys2(__NR_clock_gettime, 1 /* CLOCK_MONOTONIC */, &now);
	return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

void keep_back(struct command *command)
{
	command->tell_at = now_us() + CRECHE_BRIEF_US;
	untold++;
}

void need_not_tell(struct command *command)
{
	if (!command->tell_at)
		return;
	sys1(__NR_close, command->pidfd);
	command->tell_at = 0;
	untold--;
}

int64_t tell_of_the_untold(void)
{
	int64_t now = now_us(), left = CRECHE_BRIEF_US;

	for (unsigned i = 0; i < highest; i++) {
		struct creche_reply started = { .type = CRECHE_STARTED, .id = commands[i].id };
		if (!commands[i].pid || !commands[i].tell_at)
			continue;
		if (commands[i].tell_at > now) {
			left = commands[i].tell_at - now < left ? commands[i].tell_at - now : left;
			continue;
		}
		reply(&started, &commands[i].pidfd, 1, commands[i].pid);
		need_not_tell(&commands[i]);
	}
	return left;
}
