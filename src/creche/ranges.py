"""Private ranges of ids: each held by one live container, across supervisors, by a lock that its init keeps."""

from __future__ import annotations

import fcntl
import os
import stat
import struct

from .errors import UnsupportedError
from .machine import Machine
from .plan.ids import RANGE
from .spawn import SHORT, exhausted

__all__ = ["Reserved", "reserve"]

_FLOCK = struct.Struct("hhqqi4x")  # struct flock on 64-bit machines: fcntl(2)
#: Files of locks. The kernel walks all locks of a file whenever one of its descriptors is closed (fs/locks.c: locks_remove_posix), which each
#: start does a dozen times in three processes: with one file for all, the 2000th container paid half a millisecond for the others.
_FILES = 64
_next = 0


class Reserved:
    """A range that is ours as long as any process keeps `fd` (an open file description lock, fcntl(2)) open."""

    def __init__(self, base: int, count: int, fd: int) -> None:
        self.base, self.count, self.fd = base, count, fd

    def close(self) -> None:
        """Give up our own hold; a container's init may keep it."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def reserve(machine: Machine, count: int = RANGE) -> Reserved:
    """The next range of `count` ids that nobody holds. Raises UnsupportedError where there is none."""
    global _next
    # Each line of /etc/subuid holds so many ranges; a line that is smaller than one is one.
    lines = [(first, size, max(1, size // count)) for first, size in machine.subuid if size]
    total = sum(number for _, _, number in lines)
    for step in range(total):
        index = (_next + step) % total
        base, size = _nth(lines, index, count)
        fd = _open(machine, base // RANGE % _FILES)
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, base, 1, 0))
        except (BlockingIOError, PermissionError):
            os.close(fd)  # another container lives there
            continue
        except BaseException:
            os.close(fd)
            raise
        _next = index + 1
        return Reserved(base, min(count, size), fd)
    raise UnsupportedError(
        f"a free range of ids: all {total} that root has here are held by live containers ({machine.subid_source})",
        'add some for creche in /etc/subuid and /etc/subgid ("creche:1879048192:268435456"), or give an explicit uid_map',
    )


def _nth(lines: list[tuple[int, int, int]], index: int, count: int) -> tuple[int, int]:
    """The first id of a range, and how many the line that it is from has."""
    for first, size, number in lines:
        if index < number:
            return first + index * count, size
        index -= number
    raise IndexError(index)


_folder: str | None = None


def _open(machine: Machine, number: int) -> int:
    """One of the files whose bytes stand for ids. Their folder must be ours alone: another could hold all locks for ever."""
    global _folder
    refused = ""
    # Where /run is not ours, as in a user namespace of a user's: a folder by the id that others see us as.
    outside = next((e.outside + machine.euid - e.inside for e in machine.uid_map if 0 <= machine.euid - e.inside < e.count), machine.euid)
    for folder in ("/run/creche", f"/dev/shm/creche-{outside}"):
        try:
            if _folder != folder:
                os.makedirs(folder, mode=0o700, exist_ok=True)
                found = os.lstat(folder)
                if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
                    refused = f"{folder} is not a directory of ours alone"
                    continue
            fd = os.open(f"{folder}/ids.{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            _folder = folder  # looked at once: who could change it since is ourselves
            return fd
        except OSError as error:
            if error.errno in SHORT:  # the next folder would be another place than that of those who hold ranges now
                raise exhausted(error.errno) from None
            refused, _folder = str(error), None
    raise UnsupportedError(f"a place for the locks of id ranges ({refused})", "make /run/creche, owned by root with mode 0700, or give an explicit uid_map")
