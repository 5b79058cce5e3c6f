"""Whose a cgroup is, told by its name, and clearing away those whose owner is dead."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterable

from ..errors import CgroupError
from . import files, killing
from .hierarchy import Hierarchy

_NAME = re.compile(r"creche-(\d+)-(\d+)-(\d+)-")


def prefix() -> str:
    """How the names of this process's cgroups begin: creche-PID-STARTTIME-PIDNAMESPACE-.

    A pid is used again, a pid together with its start time (proc_pid_stat(5), field 22) is not; and only who
    shares our pid namespace may judge whether we live.
    """
    return _prefix(os.getpid())


@functools.lru_cache(maxsize=1)
def _prefix(pid: int) -> str:
    return f"creche-{pid}-{start_time(pid)}-{_pid_namespace()}-"


def start_time(pid: int) -> int | None:
    """When *pid* started, in ticks since boot, or None where there is no such process (a zombie is none)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            words = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if words[0] in (b"Z", b"X") else int(words[19])


def _pid_namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino


def orphaned(name: str) -> bool:
    """Whether *name* is a cgroup of ours whose supervisor is dead; False in doubt, and for every other name."""
    match = _NAME.match(name)
    if match is None:
        return False
    pid, started, namespace = map(int, match.groups())
    return namespace == _pid_namespace() and start_time(pid) != started


def owned(name: str) -> bool:
    """Whether *name* is a cgroup of a supervisor in our pid namespace that lives; False for every other name."""
    match = _NAME.match(name)
    return (
        match is not None and int(match[3]) == _pid_namespace() and start_time(int(match[1])) == int(match[2])
    )


def holder_of(name: str) -> tuple[int, str]:
    """The pid of the supervisor of a cgroup that is `owned`, and the container's name."""
    match = _NAME.match(name)
    assert match is not None, name
    return int(match[1]), name[match.end() :]


def sweep(hierarchies: Iterable[Hierarchy]) -> list[str]:
    """Kill what still runs in the orphaned cgroups and remove them, over all hierarchies; those that are gone now.

    What is not ours to remove, or not yet empty, is left for the next start.
    """
    found: dict[str, dict[Hierarchy, str]] = {}
    for hierarchy in hierarchies:
        for path in orphans(hierarchy.folder):
            found.setdefault(os.path.basename(path), {})[hierarchy] = path
    gone = []
    for folders in found.values():
        with contextlib.suppress(CgroupError):
            killing.kill(folders)
        for path in folders.values():
            with contextlib.suppress(CgroupError):
                if files.until(lambda path=path: files.removed(path), 1.0):  # type: ignore[misc]
                    gone.append(path)
    return gone


def orphans(folder: str) -> list[str]:
    """The orphaned cgroups in *folder* which this user made."""
    try:
        names = [name for name in os.listdir(folder) if orphaned(name)]
    except OSError:
        return []
    found = []
    for path in (f"{folder}/{name}" for name in sorted(names)):
        with contextlib.suppress(OSError):
            if os.stat(path).st_uid == os.geteuid():
                found.append(path)
    return found
