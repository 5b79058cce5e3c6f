/* Descriptors and Plans over the control socket: what both ends do alike. */
#include "message.h"
#include <asm/errno.h>
#include <linux/fcntl.h>
#include <linux/memfd.h>

#define RIGHTS 1 /* SCM_RIGHTS */
#define SEALS (0x0001 | 0x0002 | 0x0004 | 0x0008) /* F_SEAL_SEAL, SHRINK, GROW, WRITE */

long packet_fds(struct packet *p, long received, int *fds, unsigned room)
{
	size_t at = 0;
	unsigned n = 0;
	int cut = received >= 0 && (p->header.msg_flags & CUT_OFF);

	while (received >= 0 && at + sizeof(struct wire_cmsg) <= p->header.msg_controllen) {
		struct wire_cmsg head;
		copy_bytes(&head, p->control + at, sizeof head);
		if (head.size < sizeof head || head.size > p->header.msg_controllen - at)
			break;
		for (size_t i = sizeof head; head.level == 1 && head.type == RIGHTS && i + sizeof(int) <= head.size; i += sizeof(int)) {
			int fd;
			copy_bytes(&fd, p->control + at + i, sizeof fd);
			if (n < room && !cut)
				fds[n++] = fd;
			else
				sys1(__NR_close, fd);
		}
		at += (head.size + 7) & ~(size_t)7;
	}
	return cut ? -EPROTO : (long)n;
}

static long sealed(const void *blob, size_t size)
{
	long fd = sys2(__NR_memfd_create, "creche-plan", MFD_CLOEXEC | MFD_ALLOW_SEALING), r;

	if (fd < 0)
		return fd;
	r = write_all((int)fd, blob, size);
	if (r >= 0)
		r = sys3(__NR_fcntl, fd, F_ADD_SEALS, SEALS);
	if (r < 0)
		sys1(__NR_close, fd);
	return r < 0 ? r : fd;
}

static long send_as(int socket, struct creche_request *request, const void *blob, size_t size, const int *fds, unsigned count,
		    int dont_wait, int as_memfd)
{
	struct packet p;
	int all[CRECHE_MAX_FDS + 1];
	unsigned n = 0;
	long r, plan = -1;

	request->size = (uint32_t)size;
	request->flags &= ~(uint32_t)CRECHE_BLOB_MEMFD;
	if (as_memfd) {
		plan = sealed(blob, size);
		if (plan < 0)
			return plan;
		all[n++] = (int)plan;
		request->flags |= CRECHE_BLOB_MEMFD;
	}
	copy_bytes(all + n, fds, count * sizeof(int));
	n += count;
	packet_data(&p, request, sizeof *request, blob, plan >= 0 ? 0 : size);
	if (n)
		packet_attach(&p, RIGHTS, all, n * sizeof(int));
	do
		r = sys3(__NR_sendmsg, socket, &p.header, SEND_QUIETLY | (dont_wait ? DONT_WAIT : 0));
	while (r == -EINTR);
	if (plan >= 0)
		sys1(__NR_close, plan);
	return r < 0 ? r : 0;
}

long send_request(int socket, struct creche_request *request, const void *blob, size_t size, const int *fds, unsigned count,
		  int dont_wait)
{
	long r = -EMSGSIZE;

	if (count > CRECHE_MAX_FDS || size > CRECHE_MAX_BLOB)
		return -E2BIG;
	if (size <= CRECHE_INLINE)
		r = send_as(socket, request, blob, size, fds, count, dont_wait, 0);
	/* A message must fit the socket's buffer whole, which may be a small one here (net.core.wmem_default). */
	return r == -EMSGSIZE && size ? send_as(socket, request, blob, size, fds, count, dont_wait, 1) : r;
}
