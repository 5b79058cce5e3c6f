"""One mounted cgroup hierarchy as this process stands in it, read from /proc without changing anything."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import attrs

KNOWN = frozenset({"cpu", "cpuacct", "cpuset", "memory", "blkio", "io", "pids", "freezer", "hugetlb"})


@attrs.frozen(eq=False)  # the key of many look-ups: hashed by identity, as there is one object for each
class Hierarchy:
    """A hierarchy and the directory in it below which our cgroups go."""

    version: int  # 1 or 2
    folder: str  # absolute: where we may make cgroups
    controllers: frozenset[str]  # by the kernel's own names: version 1 says blkio and cpuacct
    point: str = ""  # where it is mounted

    @property
    def flat(self) -> bool:
        """Whether a limit holds for its own cgroup alone and not for those below: version 1's blkio.throttle."""
        return self.version == 1 and "blkio" in self.controllers

    def offers(self, controller: str) -> bool:
        """Whether *controller* (version 2's name) is here."""
        return controller in self.controllers or (
            self.version == 1 and controller == "io" and "blkio" in self.controllers
        )


@attrs.frozen
class Standing:
    """Where we are in one hierarchy: the mount, our own cgroup's directory below it, and whether we see it at all."""

    version: int
    point: str
    own: str | None  # our cgroup's directory; None where the mount does not show it
    controllers: frozenset[str]  # version 1: from the mount; version 2: of our cgroup
    readonly: bool


def memberships(text: str) -> dict[str, str]:
    """/proc/PID/cgroup as {controllers: path}; the key of version 2 is ""."""
    found = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        found[names] = path.removesuffix(" (deleted)")
    return found


def standings(mountinfo: str, membership: str) -> Iterator[Standing]:
    """Every mounted hierarchy with a controller that we use, and version 2's in any case; see proc_pid_cgroup(5)."""
    paths = memberships(membership)
    seen: set[str] = set()
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, kinds = left.split(" "), right.split(" ")
        if len(fields) < 6 or kinds[0] not in ("cgroup", "cgroup2"):
            continue
        root, point = _plain(fields[3]), _plain(fields[4])
        version = 2 if kinds[0] == "cgroup2" else 1
        names = frozenset(kinds[2].split(",")) & KNOWN if version == 1 else frozenset[str]()
        key = "" if version == 2 else next((k for k in paths if k and names & set(k.split(","))), None)
        if key is None or key not in paths or key in seen:
            continue
        seen.add(key)
        own = _inside(point, root, paths[key])
        if version == 2 and own is not None:
            names = _controllers(own)
        readonly = "ro" in fields[5].split(",") or "ro" in kinds[2].split(",")
        yield Standing(version, point, own, names, readonly)


def _plain(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _inside(point: str, root: str, path: str) -> str | None:
    """Where a mount of the subtree *root* shows the cgroup *path*; None where it does not ("/../…" is outside)."""
    if "/.." in path or root.startswith("/.."):
        return None
    if root == "/":
        below = path
    elif path == root or path.startswith(root + "/"):
        below = path[len(root) :]
    else:
        return None
    return os.path.normpath(point + "/" + below)


def _controllers(folder: str) -> frozenset[str]:
    try:
        with open(f"{folder}/cgroup.controllers", encoding="ascii") as file:
            return frozenset(file.read().split())
    except OSError:
        return frozenset()


def beneath(folder: str) -> frozenset[str]:
    """The controllers that a version 2 cgroup has already given its children."""
    try:
        with open(f"{folder}/cgroup.subtree_control", encoding="ascii") as file:
            return frozenset(file.read().split())
    except OSError:
        return frozenset()


def common(one: str, other: str) -> str:
    """The nearest directory above both: moving a process asks for its cgroup.procs (cgroup-v2.rst, "Delegation")."""
    return os.path.commonpath((one, other))
