/* The init's part in user notification: a newborn's listener is taken, and what the newborn itself calls goes on. */
#include "init_listen.h"
#include "message.h"
#include <asm/ioctl.h>
#include <linux/poll.h>
#include <linux/seccomp.h>
#include <linux/time_types.h>

int take_listener(int report)
{
	struct packet p;
	char word;
	int fd = -1;
	long n;

	packet_data(&p, &word, 1, 0, 0);
	p.header.msg_controllen = sizeof p.control;
	n = sys3(__NR_recvmsg, report, &p.header, CLOSE_ON_EXEC | DONT_WAIT);
	return packet_fds(&p, n, &fd, 1) == 1 ? fd : -1;
}

/* Before its exec the newborn is our own code, alone in its process, and nobody's to look at: so SECCOMP_USER_NOTIF_FLAG_CONTINUE
   is safe for it, as it is for no guest (seccomp_unotify(2)). The end of the report comes with the exec, before the first
   instruction of the guest: as that is not there *after* a call was seen to wait, the call is the newborn's. */
void let_on(int report, int listener)
{
	struct pollfd end = { report, 0, 0 };
	struct __kernel_timespec at_once = { 0, 0 };
	struct seccomp_notif call = { 0 }; /* the kernel takes nothing but zeroes */
	struct seccomp_notif_resp go = { .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE };

	if (sys5(__NR_ppoll, &end, 1, &at_once, 0, 8) != 0)
		return;
	if (sys3(__NR_ioctl, listener, SECCOMP_IOCTL_NOTIF_RECV, &call) < 0)
		return; /* it was killed meanwhile */
	go.id = call.id;
	sys3(__NR_ioctl, listener, SECCOMP_IOCTL_NOTIF_SEND, &go);
}
