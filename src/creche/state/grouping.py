"""A history's older layers in groups, each a read-only overlay of its own: so a step lays few of them, however many there are."""

from __future__ import annotations

import os
from collections.abc import Iterable

from .. import _surroundings as surroundings

__all__ = ["Groups"]

SIZE = 8  # layers: each costs a step some 10 µs, and each group one mount of all below it, once
#: They lie on other file systems, and the kernel stacks no more than two (FILESYSTEM_MAX_STACK_DEPTH): a root over a group over these.
_STACKED = ("overlay", "ecryptfs", "aufs", "fuse", "virtiofs")

Names = tuple[str, ...]


class Groups:
    """The groups that are mounted, by the layers that they show, the lowest first; the lower ones of the Spec's are below each."""

    def __init__(self) -> None:
        self._places: dict[Names, str] = {}
        self._may: bool | None = None  # be made

    def below(self, names: Names) -> tuple[str | None, Names]:
        """The largest group that these layers begin with, and those that are not in it."""
        for size in range(len(names) // SIZE * SIZE, 0, -SIZE):
            if (place := self._places.get(names[:size])) is not None:
                return place, names[size:]
        return None, names

    def due(self, names: Names, lower: Iterable[str]) -> Names:
        """The layers that are to be a group, where there is none of them yet; `lower` are the Spec's."""
        first = names[: len(names) // SIZE * SIZE]
        if not first or first in self._places:
            return ()
        if self._may is None:
            self._may = may_be_stacked(lower)
        return first if self._may else ()

    def within(self, folder: str) -> Groups:
        """Of a branch, for which all of these lie in a folder."""
        other = Groups()
        other._places = {tuple(f"{folder}/{name}" for name in names): f"{folder}/{place}" for names, place in self._places.items()}
        other._may = self._may
        return other

    def add(self, names: Names, place: str) -> None:
        self._places[names] = place

    def take_stale(self, live: set[str]) -> list[str]:
        """The places of groups that show other layers than these; they are groups no more."""
        stale = [names for names in self._places if not live.issuperset(names)]
        return [self._places.pop(names) for names in stale]


def may_be_stacked(paths: Iterable[str]) -> bool:
    """Whether an overlay over an overlay over these directories is no more than the kernel takes."""
    kinds = {}
    for line in surroundings.text("/proc/self/mountinfo").splitlines():  # proc_pid_mountinfo(5)
        kinds[line.partition(" ")[0]] = line.partition(" - ")[2].partition(" ")[0]
    try:
        return all(kinds.get(_mount_of(path), "overlay").partition(".")[0] not in _STACKED for path in paths)
    except OSError:
        return False


def _mount_of(path: str) -> str:
    """The number of the mount that it lies on: proc_pid_fdinfo(5)."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        found = [line.split()[1] for line in surroundings.text(f"/proc/self/fdinfo/{fd}").splitlines() if line.startswith("mnt_id:")]
    finally:
        os.close(fd)
    return found[0] if found else ""
