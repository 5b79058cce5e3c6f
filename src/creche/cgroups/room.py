"""Room below our own cgroup on version 2: where children with controllers may be, and making it where that is ours."""

from __future__ import annotations

import os
import re

import attrs

from ..errors import CgroupError
from . import files
from .hierarchy import Standing, beneath, common

WORTH = frozenset({"memory", "pids", "cpu"})
"""A version 2 hierarchy with none of these has its controllers in version 1: that is a hybrid."""

LEAF = "creche-supervisor"
"""The leaf that this process moves to where its own cgroup must be empty to have children with controllers."""

_UNITS = (".slice", ".scope", ".service", ".mount", ".socket", ".swap")
_SCOPE = re.compile(r"creche-\d+-\d+\.scope")  # systemd.scope_name: made by us, with Delegate=yes
_DELEGATED = (
    "trusted.delegate",
    "user.delegate",
)  # set by systemd on what Delegate= gave away (systemd.resource-control)


@attrs.frozen
class Room:
    """What `below` found: a directory, or the reasons why not."""

    folder: str | None = None
    controllers: frozenset[str] = frozenset()
    moved: str | None = None
    reasons: tuple[str, ...] = ()


def below(two: Standing, *, moving: bool = True, told: str | None = None) -> Room:
    """Room for cgroups at *two*; with *moving*, this process goes to a leaf if that is ours to do and makes room.

    *told* is a directory of which systemd itself says that it is delegated.
    """
    own = two.own
    if own is None:
        return Room(reasons=(f"our cgroup is not to be seen below {two.point}",))
    if two.readonly:
        return Room(reasons=(f"{two.point} is mounted read-only",))
    parent = os.path.dirname(own)
    if own != os.path.normpath(two.point) and _ours_above(own, parent):
        return Room(parent, controllers(parent))
    if (why := obstacle(own, alone=False)) is not None:
        return Room(reasons=(why,))
    if is_root(own):  # the one cgroup that may hold processes and have controllers below it
        return Room(own, controllers(own))
    if _managed(own) and own != told:
        return Room(reasons=(f"{own} is systemd's, without Delegate=yes",))
    if not controllers(own):
        return Room(reasons=(f"{own} has no controllers (its parent's cgroup.subtree_control gives none)",))
    if beneath(own) and not files.pids(own):
        return Room(own, controllers(own))
    if held := _held(own):
        return Room(reasons=(held,))
    if not moving:
        return Room(reasons=(f"{own} holds this process",))
    return _move(own)


def _held(own: str) -> str | None:
    """Who in the cgroup *own* is none of ours, or None."""
    strangers = set(files.pids(own)) - family()
    strangers &= set(files.pids(own))  # a child of ours that has ended meanwhile is none
    who = ", ".join(map(str, sorted(strangers)[:5]))
    return f"{own} also holds processes that are not ours to move ({who})" if strangers else None


def _move(own: str) -> Room:
    """The no-internal-process rule (cgroup-v2.rst): empty *own* by moving us and our children into a leaf."""
    leaf = f"{own}/{LEAF}"
    try:
        if not os.path.isdir(leaf):
            files.make(leaf)
        for _ in range(20):  # a child may fork meanwhile
            inside = files.pids(own)
            if not inside:
                break
            if held := _held(own):  # somebody else has been put here since
                return Room(reasons=(held,))
            for pid in inside:
                try:
                    files.write(f"{leaf}/cgroup.procs", str(pid))
                except CgroupError:
                    if pid in files.pids(own):
                        raise
    except CgroupError as error:
        return Room(reasons=(str(error),))
    return Room(own, controllers(own), moved=leaf)


def _ours_above(own: str, parent: str) -> bool:
    """Whether *parent* is the delegated directory and our own cgroup a leaf in it that we need not touch."""
    if obstacle(parent) is not None or is_root(parent):
        return False
    if os.path.basename(own) == LEAF or _delegated(parent):
        return True
    return os.geteuid() != 0 and not _managed(parent) and os.stat(parent).st_uid == os.geteuid()


def obstacle(folder: str, *, alone: bool = True) -> str | None:
    """Why no children with controllers can be made in *folder* and entered from where we are, or None."""
    if not os.path.isdir(folder):
        return f"{folder} is not there"
    for path in (folder, f"{folder}/cgroup.procs", f"{folder}/cgroup.subtree_control"):
        if not os.access(path, os.W_OK):
            return f"{path} is not ours to write"
    kind = files.read_or(f"{folder}/cgroup.type", "domain").strip()
    if kind not in ("domain", "domain threaded"):
        return f"{folder} is of the type {kind!r}"
    if alone and files.pids(folder) and not is_root(folder):
        return f"{folder} holds processes itself"
    return None


def reachable(folder: str, own: str) -> str | None:
    """Why processes of our cgroup *own* cannot be moved to *folder*, or None."""
    path = f"{common(folder, own)}/cgroup.procs"
    return (
        None
        if os.access(path, os.W_OK)
        else f"{path}, above both our cgroup and {folder}, is not ours to write"
    )


def controllers(folder: str) -> frozenset[str]:
    """The controllers that children of *folder* can have."""
    return frozenset(files.read_or(f"{folder}/cgroup.controllers").split())


def is_root(folder: str) -> bool:
    """Whether it is the hierarchy's real root, which alone has no cgroup.events; a namespace's root has one."""
    return not os.path.exists(f"{folder}/cgroup.events")


def family() -> set[int]:
    """This process and its descendants, as /proc/PID/task/TID/children tells."""
    found, stack = set(), [os.getpid()]
    while stack:
        pid = stack.pop()
        found.add(pid)
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                    stack.extend(map(int, file.read().split()))
        except OSError:
            continue
    return found


def in_scope(path: str) -> bool:
    """Whether the cgroup *path* is in a scope that systemd made for creche: for this process, or one above it."""
    return any(_SCOPE.fullmatch(name) for name in path.split("/"))


def _managed(folder: str) -> bool:
    """Whether systemd manages this cgroup for itself: named like a unit, and not given away."""
    return folder.endswith(_UNITS) and not _delegated(folder)


def _delegated(folder: str) -> bool:
    """Whether systemd marked it. A user's manager of version 252 marks nothing; there our scope's name must do."""
    if _SCOPE.fullmatch(os.path.basename(folder)):
        return True
    for name in _DELEGATED:
        try:
            if os.getxattr(folder, name) == b"1":
                return True
        except OSError:
            continue
    return False


def kind(two: Standing, folder: str) -> str:
    """What to call it: "container" at the root of a cgroup namespace, "v2" for root, else "delegated"."""
    if folder == os.path.normpath(two.point) and not is_root(folder):
        return "container"
    return "v2" if os.geteuid() == 0 else "delegated"


def remedy(two: Standing | None) -> str:
    """What would give us a place: the command or the setting, for where we seem to be."""
    if (
        two is not None
        and two.own is not None
        and two.own == os.path.normpath(two.point)
        and not is_root(two.own)
    ):
        return (
            "in a container: give it a writable cgroup of its own (docker run --cgroupns=private "
            "--security-opt writable-cgroups=true, or --privileged; podman run --security-opt unmask=ALL), "
            "with nothing but this program in it"
        )
    if two is None:
        return "as root: mount -t cgroup2 none /sys/fs/cgroup"
    if os.path.isdir(two.point) and not controllers(two.point) & WORTH:
        return (
            "boot with cgroup version 2 alone (systemd.unified_cgroup_hierarchy=1, or cgroup_no_v1=all): its controllers are "
            "in version 1 here, which is for root"
        )
    if os.path.isdir("/run/systemd/system"):
        return "under systemd: Delegate=yes in the unit, or start it by systemd-run --user --scope -p Delegate=yes …"
    return (
        f"as root: mkdir {two.point}/creche && chown -R {os.geteuid()} {two.point}/creche, start this program in it "
        "(echo its pid > cgroup.procs of a child), or set CRECHE_CGROUP to it"
    )
