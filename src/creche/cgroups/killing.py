"""Ending everything in a cgroup, also what breeds: cgroup.kill, and where there is none, stop or freeze first."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Mapping

from ..errors import CgroupError
from . import files
from .hierarchy import Hierarchy

PASSES = 200
"""Rounds over cgroup.procs before a version 1 kill gives up; each ends all that the round saw."""


def kill(folders: Mapping[Hierarchy, str]) -> None:
    """SIGKILL to everything in one group, whose directory in each hierarchy *folders* gives. Raises CgroupError."""
    by = {name: path for hierarchy, path in folders.items() for name in hierarchy.controllers}
    for hierarchy, path in folders.items():
        if hierarchy.version == 2:
            kill_v2(path)
            return
    kill_v1(next(iter(folders.values())), freezer=by.get("freezer"), pids=by.get("pids"))


def kill_v2(folder: str) -> None:
    """SIGKILL to the cgroup and everything below it, at once and safe against forks (cgroup.kill, kernel 5.14)."""
    try:
        files.write(f"{folder}/cgroup.kill", "1")
    except CgroupError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise


def kill_v1(folder: str, *, freezer: str | None, pids: str | None) -> None:
    """SIGKILL to everything in the tree *folder*, by rounds; *freezer* and *pids* are its cgroups there, if any.

    In a round everything is brought to a halt first, or a bomb breeds faster than it dies: frozen; else forbidden
    to fork (pids.max 0); else stopped. What is frozen dies only once it is thawed (freezer-subsystem.rst).
    """
    if pids is not None and freezer is None:
        with contextlib.suppress(CgroupError):
            files.write(f"{pids}/pids.max", "0")
    for _ in range(PASSES):
        if not any(files.pids(path) for path in files.below(folder)):
            return
        if freezer is not None:
            freeze_v1(freezer, True)
        elif pids is None:
            _all(folder, signal.SIGSTOP)
        _all(folder, signal.SIGKILL)
        if freezer is not None:
            freeze_v1(freezer, False)
        files.until(lambda: not any(files.pids(path) for path in files.below(folder)), 0.02)
    raise CgroupError("processes in it outlive SIGKILL", path=folder, errno=errno.EBUSY)


def freeze_v1(folder: str, frozen: bool) -> None:
    """Write freezer.state; FROZEN may take a moment, and is asked for again while it says FREEZING."""
    files.write(f"{folder}/freezer.state", "FROZEN" if frozen else "THAWED")
    if frozen:
        files.until(lambda: files.read(f"{folder}/freezer.state").strip() == "FROZEN", 0.05)


def _all(folder: str, number: signal.Signals) -> None:
    seen: set[int] = set()
    while fresh := {pid for path in files.below(folder) for pid in files.pids(path)} - seen:
        for pid in fresh:
            _signal(folder, pid, number)
        seen |= fresh


def _signal(folder: str, pid: int, number: signal.Signals) -> None:
    """Signal *pid* if it is still the process of this cgroup: the pidfd is taken first, then the membership is read."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if any(pid in files.pids(path) for path in files.below(folder)):
            signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)
