"""The containers of other processes that live now: told by the names of the cgroups in which processes are."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import attrs

from ..errors import CgroupError
from . import files, owner, reading
from .hierarchy import Hierarchy, standings
from .values import Stats


@attrs.frozen
class Living:
    """A container with limits: its name, the process that holds it, and where its cgroups are."""

    name: str
    owner: int
    folders: dict[Hierarchy, str]

    def stats(self) -> Stats:
        """What it uses now; None in a figure that nothing counts here."""
        return reading.stats(self.folders)


def living(proc: str = "/proc") -> tuple[Living, ...]:
    """Every container in which a process is, whose owner lives and is of this user (root sees all), by owner and name.

    Containers without limits have no cgroup and are not here, nor are those of another pid namespace: their names
    tell of pids that are not ours to judge.
    """
    mounts = files.read_or(f"{proc}/self/mountinfo")
    found: dict[str, Living] = {}
    seen: set[str] = set()
    for entry in os.listdir(proc):
        membership = ""
        with contextlib.suppress(CgroupError):  # it ended while we looked
            membership = files.read_or(f"{proc}/{entry}/cgroup") if entry.isdecimal() else ""
        if "/creche-" not in membership or membership in seen:
            continue
        seen.add(membership)
        leaf = next(_ours(membership), None)
        if leaf is not None and leaf not in found:
            holder, name = owner.holder_of(leaf)
            folders = _boxes(mounts, membership, leaf)
            if folders and _is_ours_to_see(holder):
                found[leaf] = Living(name, holder, folders)
    return tuple(sorted(found.values(), key=lambda one: (one.owner, one.name)))


def _ours(membership: str) -> Iterator[str]:
    for line in membership.splitlines():
        yield from (part for part in line.split("/") if owner.owned(part))


def _is_ours_to_see(holder: int) -> bool:
    with contextlib.suppress(OSError):
        return os.geteuid() in (0, os.stat(f"/proc/{holder}").st_uid)
    return False


def _boxes(mounts: str, membership: str, leaf: str) -> dict[Hierarchy, str]:
    """The box in each hierarchy that shows it: what is below it is the container's own affair."""
    found = {}
    for here in standings(mounts, membership):
        head, there, _ = f"{here.own}/".partition(f"/{leaf}/")
        if there:
            box = f"{head}/{leaf}"
            names = frozenset(files.read_or(f"{box}/cgroup.controllers").split())
            found[
                Hierarchy(here.version, box, names if here.version == 2 else here.controllers, here.point)
            ] = box
    return found
