"""Removes a tree of files, whoever of the container's users they belong to, by the power of the namespace that made them."""

from __future__ import annotations

import errno
import os

from .errors import FileError
from .machine import Machine, probe
from .running import run
from .spec.filesystem import Bind
from .spec.identity import IdMap
from .spec.security import Security
from .spec.spec import Spec

__all__ = ["remove_tree"]


async def remove_tree(path: str | bytes | os.PathLike[str]) -> None:
    """Remove `path` and all below it, also what belongs to sub-ids, or to nobody who may be asked (mode 000).

    What a container wrote as another of its users is a stranger's on the host, and overlayfs leaves directories that
    their owner can't enter. Here a container that maps all ids that are the caller's to give removes them. Mounts below
    are not crossed, links not followed. What is not there is well.

    Raises FileError where something remains: it belongs to ids that are not the caller's, or is busy.

    >>> await remove_tree("/srv/job-17/upper")
    """
    path = os.path.abspath(os.fsdecode(path))
    if not os.path.lexists(path):
        return
    parent, name = os.path.split(path)
    if not name:
        raise FileError(path, errno.EBUSY)
    machine = probe()
    spec = Spec(
        ["rm", "-rf", "--one-file-system", "--", f"/mnt/{name}"],
        uid_map=_maps(machine, machine.euid, machine.subuid), gid_map=_maps(machine, machine.egid, machine.subgid),
        mounts=[Bind(parent, "/mnt")], security=Security(capabilities=["CAP_DAC_OVERRIDE", "CAP_FOWNER"]),
    )  # fmt: skip
    result = await run(spec)
    if os.path.lexists(path):
        said = result.stderr.decode(errors="replace").strip().replace("/mnt/", parent.rstrip("/") + "/")
        raise FileError(path, errno.EPERM, f"it could not be removed wholly: {said.splitlines()[0] if said else result.exit.explain()}")


def _maps(machine: Machine, own: int, ranges: tuple[tuple[int, int], ...]) -> list[IdMap]:
    """Every id that is the caller's: all there are for a root, else its own and its sub-ids."""
    if machine.may_map_ids:
        extents = machine.uid_map if ranges == machine.subuid else machine.gid_map
        return [IdMap(extent.inside, extent.inside, min(extent.count, 2**32 - 1 - extent.inside)) for extent in extents]
    maps = [IdMap(0, own, 1)]
    if machine.many_ids:
        for first, count in ranges:
            maps.append(IdMap(maps[-1].inside + maps[-1].count, first, count))
    return maps
