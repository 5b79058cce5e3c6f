"""inotify(7) by three calls of the C library: which files of a cgroup have changed."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator

from ..errors import CgroupError

MODIFY = 0x2
IGNORED = 0x8000  # the watch is gone: its file was removed
OVERFLOW = 0x4000  # the queue was full, and what happened is not known

_libc = ctypes.CDLL(None, use_errno=True)
_HEAD = struct.Struct("iIII")
_HINTS = {
    errno.ENOSPC: "this user's inotify watches are used up, three for each container that is watched: as root, "
    "sysctl fs.inotify.max_user_watches=65536",
    errno.EMFILE: "this user's inotify instances are used up, one for each loop: as root, "
    "sysctl fs.inotify.max_user_instances=512",
}


def _failure(what: str, path: str | None) -> CgroupError:
    number = ctypes.get_errno()
    return CgroupError(what, path=path, errno=number, hint=_HINTS.get(number))


def create() -> int:
    """A new inotify descriptor. Raises CgroupError."""
    fd: int = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        raise _failure("inotify cannot be had", None)
    return fd


def add(fd: int, path: str) -> int:
    """Watch a file for changes; the watch's number, the same for a file that is watched already. Raises CgroupError."""
    number: int = _libc.inotify_add_watch(fd, os.fsencode(path), MODIFY)
    if number < 0:
        raise _failure("cannot be watched", path)
    return number


def remove(fd: int, number: int) -> None:
    """End a watch; one whose file is gone has ended by itself."""
    _libc.inotify_rm_watch(fd, number)


def read(fd: int) -> Iterator[tuple[int, int]]:
    """(watch, mask) of everything that has happened; nothing where nothing has."""
    while True:
        try:
            data = os.read(fd, 1 << 14)
        except BlockingIOError:
            return
        at = 0
        while at < len(data):
            number, mask, _, length = _HEAD.unpack_from(data, at)
            yield number, mask
            at += _HEAD.size + length
