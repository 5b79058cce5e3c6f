"""Reading, writing, making and removing in a cgroup file system, each failure a CgroupError with its path."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator

from ..errors import CgroupError

_READ = os.O_RDONLY | os.O_CLOEXEC
# seq_file hands out a page at a time, or a little less where the next line (well below 2 KiB) would not fit in it:
# what is shorter than this was the last part.
_SHORT = 2048
_WRITE = os.O_WRONLY | os.O_CLOEXEC

HINTS = {
    errno.EACCES: "this user may not write there: have it delegated (systemd: Delegate=yes, by hand: chown)",
    errno.EPERM: "this user may not write there: have it delegated (systemd: Delegate=yes, by hand: chown)",
    errno.EROFS: "the cgroup file system is mounted read-only; mount it writable (docker run --privileged, "
    "podman run --security-opt unmask=ALL) or delegate another one",
    errno.EBUSY: "it holds processes, or its children hold more than the new limit allows",
    errno.ENOMEM: "a cgroup counts against the memory limit above it, which is used up: raise limits.memory, or end what holds it",
    errno.ENOSPC: "the machine's or the parent's cgroup limits are used up (cgroup.max.descendants)",
}


def failure(message: str, path: str, error: OSError, hint: str | None = None) -> CgroupError:
    """The CgroupError for what the kernel said of *path*, with the remedy where one is known."""
    number = error.errno or errno.EIO
    return CgroupError(message, path=path, errno=number, hint=hint or HINTS.get(number))


def read(path: str) -> str:
    """The whole text of a control file. Raises CgroupError."""
    try:
        fd = os.open(path, _READ)
        try:
            parts = [os.read(fd, 1 << 16)]
            while len(parts[-1]) >= _SHORT:
                parts.append(os.read(fd, 1 << 16))
        finally:
            os.close(fd)
    except OSError as error:
        raise failure("cannot be read", path, error) from error
    return os.fsdecode(b"".join(parts))


def read_or(path: str, otherwise: str = "") -> str:
    """As `read`, but *otherwise* where this kernel or controller has no such file."""
    try:
        return read(path)
    except CgroupError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
            return otherwise
        raise


def write(path: str, value: str) -> None:
    """Write *value* in one call, as control files want it. Raises CgroupError."""
    try:
        fd = os.open(path, _WRITE)
        try:
            os.write(fd, value.encode() or b"\n")  # an empty write would not reach the kernel's handler
        finally:
            os.close(fd)
    except OSError as error:
        raise failure(f"{value!r} cannot be written", path, error) from error


def make(path: str) -> None:
    """mkdir. Raises CgroupError."""
    try:
        os.mkdir(path, 0o755)
    except OSError as error:
        raise failure("cannot be made", path, error) from error


def pairs(text: str) -> dict[str, int]:
    """A flat keyed file (memory.stat, cpu.stat, …) as numbers; words that are none are left out."""
    split = (line.split() for line in text.splitlines())
    return {
        words[0]: int(words[1]) for words in split if len(words) == 2 and words[1].lstrip("-").isdecimal()
    }


def number(text: str) -> int | None:
    """A single value; None for "max" and for nothing."""
    text = text.strip()
    return int(text) if text.lstrip("-").isdecimal() else None


def pids(folder: str) -> tuple[int, ...]:
    """Who is in this very cgroup, as this process's pid namespace numbers them; nobody once it is gone."""
    return tuple(int(line) for line in read_or(os.path.join(folder, "cgroup.procs")).split())


def below(folder: str) -> Iterator[str]:
    """The cgroup's descendants, deepest first, and then itself; nothing where it does not exist (any more)."""
    stack = [(folder, False)]
    while stack:
        path, seen = stack.pop()
        if seen:
            yield path
            continue
        try:
            with os.scandir(path) as entries:
                children = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue
        stack.append((path, True))
        stack.extend((child, False) for child in children)


def removed(folder: str, *known: str) -> bool:
    """One attempt to remove a cgroup with all its descendants: True once it is gone, False while it is busy.

    *known* are its children as far as we made them: without others, no directory needs to be read.
    Raises CgroupError for a refusal that waiting does not cure.
    """
    if all([_gone(path) for path in known]) and _gone(folder):
        return True
    return all(_gone(path) for path in below(folder)) and not os.path.isdir(folder)


def _gone(path: str) -> bool:
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False  # it has children, or a process on its way out (cgroup-v2.rst, "Populated")
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise failure("cannot be removed", path, error) from error
    return True


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Ask *condition* again and again, in growing steps from 0.1 ms to 10 ms, for at most *seconds*."""
    deadline = time.monotonic() + seconds
    step = 0.0001
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(step)
        step = min(step * 2, 0.01)
    return True
