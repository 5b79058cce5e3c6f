"""What a filter's listener says and is told: the records of seccomp_unotify(2), decoded and encoded; pure."""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = ["Notification", "addfd", "answer", "decode"]

# struct seccomp_notif, seccomp_notif_resp and seccomp_notif_addfd; sizes are part of the numbers of the ioctls.
_CALL = struct.Struct("=QIIiIQ6Q")
_ANSWER = struct.Struct("=QqiI")
_ADDFD = struct.Struct("=QIIII")
CALL_SIZE = _CALL.size
RECV, SEND, ID_VALID, ADDFD = 0xC0502100, 0xC0182101, 0x40082102, 0x40182103  # SECCOMP_IOCTL_NOTIF_*
CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
ADDFD_SEND = 2  # SECCOMP_ADDFD_FLAG_SEND: the descriptor's number is the answer, in one step (5.14)


class Notification(NamedTuple):
    """One call that waits."""

    id: int
    pid: int  #: of the thread, as the reader's PID namespace sees it
    number: int
    arch: int  #: AUDIT_ARCH_*
    address: int  #: of the instruction after the call
    args: tuple[int, ...]


def decode(data: bytes | bytearray) -> Notification:
    """The record that NOTIF_RECV has filled in."""
    ident, pid, _flags, number, arch, address, *args = _CALL.unpack(data)
    return Notification(ident, pid, number & 0xFFFFFFFF, arch, address, tuple(args))


def ident(number: int) -> bytes:
    """What NOTIF_ID_VALID is asked."""
    return struct.pack("=Q", number)


def answer(ident: int, *, value: int = 0, errno: int = 0, flags: int = 0) -> bytes:
    """What NOTIF_SEND is given: the call's value, or the errno that it fails with."""
    return _ANSWER.pack(ident, value, -errno, flags)


def addfd(ident: int, fd: int, cloexec: int) -> bytes:
    """What NOTIF_ADDFD is given, to answer with a descriptor; `cloexec` is 0 or O_CLOEXEC."""
    return _ADDFD.pack(ident, ADDFD_SEND, fd, 0, cloexec)
