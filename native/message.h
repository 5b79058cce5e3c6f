/* One message with its descriptors, on either end of the control socket. */
#ifndef CRECHE_MESSAGE_H
#define CRECHE_MESSAGE_H

#include "interp.h"

/* The kernel's own layouts, since libc's headers and the kernel's can't be read together. */
struct wire_iovec {
	void *base;
	size_t size;
};

struct wire_msghdr {
	void *msg_name;
	int msg_namelen;
	struct wire_iovec *msg_iov;
	size_t msg_iovlen;
	void *msg_control;
	size_t msg_controllen;
	unsigned msg_flags;
};

enum { SEND_QUIETLY = 0x4000 /* MSG_NOSIGNAL */, DONT_WAIT = 0x40, CUT_OFF = 0x8 | 0x20 /* MSG_CTRUNC, MSG_TRUNC */,
	CLOSE_ON_EXEC = 0x40000000 /* MSG_CMSG_CLOEXEC */ };

struct wire_cmsg { /* as cmsg(3) lays it out on 64-bit machines */
	size_t size;
	int level, type;
};

struct packet {
	struct wire_msghdr header;
	struct wire_iovec parts[2];
	_Alignas(8) unsigned char control[1088];
};

static inline void packet_data(struct packet *p, const void *head, size_t head_size, const void *tail, size_t tail_size)
{
	p->header = (struct wire_msghdr){ 0 };
	p->parts[0] = (struct wire_iovec){ (void *)head, head_size };
	p->parts[1] = (struct wire_iovec){ (void *)tail, tail_size };
	p->header.msg_iov = p->parts;
	p->header.msg_iovlen = tail_size ? 2 : 1;
	p->header.msg_control = p->control;
	p->header.msg_controllen = 0;
}

static inline void packet_attach(struct packet *p, int type, const void *data, size_t size)
{
	unsigned char *at = p->control + p->header.msg_controllen;
	struct wire_cmsg head = { sizeof head + size, 1 /* SOL_SOCKET */, type };

	copy_bytes(at, &head, sizeof head);
	copy_bytes(at + sizeof head, data, size);
	p->header.msg_controllen += (sizeof head + size + 7) & ~(size_t)7;
}

/* Takes the descriptors out of what was received: their number, or -EPROTO where the kernel cut some off. */
long packet_fds(struct packet *p, long received, int *fds, unsigned room);

/* Sends a request with its Plan: inline, or where it is large as a sealed memfd (the first descriptor then). */
long send_request(int socket, struct creche_request *request, const void *blob, size_t size, const int *fds, unsigned count,
		  int dont_wait);
#endif
