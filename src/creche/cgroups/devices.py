"""The block device behind a path, by the number that the io controllers take."""

from __future__ import annotations

import os
import stat

from ..errors import CgroupError, UnsupportedError


def device(path: str, sys: str = "/sys") -> str:
    """ "major:minor" of the whole disk for a device node, a partition, or any file on a disk's file system.

    Raises CgroupError where there is no such path, UnsupportedError where no one block device is behind it.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise CgroupError(f"limits.io[{path!r}] can't be looked at", path=path, errno=error.errno, hint="name a disk, or a file or directory on it") from error
    if stat.S_ISBLK(found.st_mode):
        number = found.st_rdev
    elif stat.S_ISCHR(found.st_mode):
        raise UnsupportedError(
            f"limits.io[{path!r}] is a character device, not a block device",
            hint="name the disk or a file on it",
        )
    else:
        number = found.st_dev
    name = f"{os.major(number)}:{os.minor(number)}"
    folder = os.path.join(sys, "dev/block", name)
    if os.major(number) == 0 or not os.path.exists(folder):
        raise UnsupportedError(
            f"limits.io[{path!r}]: its file system has no block device of its own ({name}: tmpfs, overlay, btrfs, …)",
            hint="name the disk below it, such as /dev/sda",
        )
    if os.path.exists(os.path.join(folder, "partition")):  # io.max answers ENODEV for partitions
        with open(os.path.join(folder, "..", "dev"), encoding="ascii") as file:
            return file.read().strip()
    return name


def weighing(sys: str = "/sys") -> tuple[str, ...]:
    """The control files of a weight that some disk here goes by: BFQ has one, io.cost another; each ignores the other's."""
    found = []
    for name in os.listdir(os.path.join(sys, "block")):
        if "[bfq]" in _text(os.path.join(sys, "block", name, "queue/scheduler")):
            found.append("bfq.weight")
            break
    if "enable=1" in _text(os.path.join(sys, "fs/cgroup/io.cost.qos")):
        found.append("weight")
    return tuple(found)


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""
