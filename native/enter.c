/* How a process gets ready to execute the init: its three descriptors at their places, and its capabilities kept. */
#include "enter.h"
#include <linux/capability.h>
#include <linux/fcntl.h>
#include <linux/prctl.h>

long take_places(int from[3])
{
	long r = 0;

	for (int i = 0; i < 3 && r >= 0; i++) { /* up, out of the way of 0, 1, 2 … */
		r = sys3(__NR_fcntl, from[i], F_DUPFD_CLOEXEC, 3);
		if (r >= 0)
			from[i] = (int)r;
	}
	for (int i = 0; i < 3 && r >= 0; i++) /* … then down to them; what else is open here belongs to others */
		r = sys3(__NR_dup3, from[i], i, i == 2 ? O_CLOEXEC : 0);
	return r < 0 ? r : sys3(__NR_close_range, 3, ~0u, 0);
}

/* A fresh user namespace has all capabilities and, until the maps are there, an unmapped id, which loses them at exec;
   ambient ones stay (capabilities(7)). They leave `permitted` as it is, so the memory that we share stays dumpable. */
long keep_capabilities(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	long r = sys2(__NR_capget, &header, data);

	if (r < 0)
		return r;
	data[0].inheritable = data[0].permitted;
	data[1].inheritable = data[1].permitted;
	r = sys2(__NR_capset, &header, data);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < 64; i++)
		if (data[i / 32].permitted >> i % 32 & 1)
			sys5(__NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i, 0, 0);
	return 0;
}
