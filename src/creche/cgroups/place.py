"""Where on this machine our cgroups go, and making a container's group there."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import attrs

from ..errors import CgroupError, UnsupportedError
from . import files, room
from .applying import apply, enable, needed, prepare
from .group import Group, check_name
from .hierarchy import Hierarchy
from .owner import prefix, sweep

if TYPE_CHECKING:
    from ..spec.limits import Limits

FIGURES = ("memory",)
"""Controllers that every group gets where they are to be had: for the peak, and for telling an OOM by command."""

DESCENDANTS = 4096
"""cgroup.max.descendants of a box: a guest of our own user could else make so many that removing takes for ever."""

_DELEGABLE = frozenset({"cpu", "cpuset", "io", "memory", "pids"})
"""What systemd's Delegate= can name (systemd.resource-control(5)) and we have limits for."""

_swept: set[tuple[int, Place]] = set()


@attrs.frozen
class Place:
    """One answer to "where may we make cgroups": found by `find_place`, the same for the whole process."""

    kind: str  # "v2", "systemd", "delegated", "container", "hybrid", "v1" or "none"
    hierarchies: tuple[Hierarchy, ...] = ()
    moved: str | None = None  # the leaf that this process was moved to so that there is room, or None
    reasons: tuple[str, ...] = ()  # why the kinds before this one were not to be had
    hint: str | None = None  # what would give (more of) a place

    @property
    def usable(self) -> bool:
        """Whether any cgroup can be made here."""
        return bool(self.hierarchies)

    def controllers(self) -> frozenset[str]:
        """The controllers to be had here, by version 2's names."""
        names = frozenset[str]().union(*(h.controllers for h in self.hierarchies))
        return (names - {"blkio"}) | ({"io"} if "blkio" in names else set())

    def create(self, name: str, limits: Limits, *, figures: bool = True) -> Group:
        """Make the cgroups of one container, with *limits* in force. *figures*: also what is only to be counted.

        Raises UnsupportedError (what is missing, and what would give it), CgroupError (the kernel's refusal).
        What was made before a failure is removed.
        """
        self.require(limits)
        if (os.getpid(), self) not in _swept:
            _swept.add((os.getpid(), self))
            self.sweep()
        wanted = dict.fromkeys(needed(limits))
        if figures:
            wanted.update(dict.fromkeys(name for name in FIGURES if self.home(name)))
        folders: dict[Hierarchy, str] = {}
        leaf = f"{prefix()}{check_name(name)}"
        try:
            for hierarchy in self._chosen(wanted):
                self._make(hierarchy, f"{hierarchy.folder}/{leaf}", wanted)
                folders[hierarchy] = f"{hierarchy.folder}/{leaf}"
            done = apply(folders, limits, None)
        except BaseException:
            for hierarchy in self.hierarchies:
                with contextlib.suppress(CgroupError):
                    files.removed(f"{hierarchy.folder}/{leaf}")
            raise
        return Group(name, folders, done.limits, self)

    def require(self, limits: Limits) -> None:
        """UnsupportedError where *limits* needs what is not here. Changes nothing."""
        for controller, field in needed(limits).items():
            if self.home(controller) is None:
                raise self.lacks(controller, field)
        if limits.cpu_time is not None and not any(h.version == 2 or h.offers("cpuacct") for h in self.hierarchies):
            raise self.lacks("cpuacct", "cpu_time")  # version 2 counts processor time without a controller

    def home(self, controller: str) -> Hierarchy | None:
        """The hierarchy that has *controller* (version 2's name), or None."""
        return next((h for h in self.hierarchies if h.offers(controller)), None)

    def lacks(self, controller: str, field: str) -> UnsupportedError:
        """The refusal of limits.*field*, with the remedy that fits this place."""
        if not self.usable:
            why = "; ".join(self.reasons) or "no cgroup file system is mounted"
            return UnsupportedError(f"limits.{field}: no cgroup can be made here ({why})", hint=self.hint)
        has = ", ".join(sorted(self.controllers())) or "none"
        return UnsupportedError(
            f"limits.{field}: the {controller} controller is not to be had here ({self.kind} has: {has})",
            hint=self._remedy(controller),
        )

    def _remedy(self, controller: str) -> str:
        folder, point = self.hierarchies[0].folder, self.hierarchies[0].point
        if self.kind not in ("v1", "hybrid") and point and room.is_root(point) and controller not in room.controllers(point):
            return f"a kernel with the {controller} controller, and not in use by version 1 ({point}/cgroup.controllers has those to be had)"
        # What is written by hand into a directory of systemd's, it takes back.
        if f"/user@{os.geteuid()}.service/" in folder and controller in _DELEGABLE:
            return (
                "as root: systemctl edit user@.service, with [Service] Delegate=cpu cpuset io memory pids, "
                f"then systemctl restart user@{os.geteuid()} (which ends what runs in it)"
            )
        if self.kind == "container":
            return f"the engine must give {controller} to the container's cgroup (its host: cgroup.subtree_control)"
        if self.kind == "v1":
            return f"as root: mount -t cgroup -o {controller} {controller} /sys/fs/cgroup/{controller}"
        if self.kind == "hybrid":
            return (
                f"boot with cgroup version 2 (systemd.unified_cgroup_hierarchy=1), or mount v1's {controller}"
            )
        return f"as root: echo +{controller} > {os.path.dirname(folder)}/cgroup.subtree_control, from the top down"

    def _chosen(self, wanted: dict[str, None]) -> list[Hierarchy]:
        """Version 2's hierarchy first, as it kills and freezes; then those of version 1 with a wanted controller."""
        homes = [self.home(name) for name in wanted]
        kill = [h for h in self.hierarchies if h.version == 2]
        if not kill:
            extra = ("freezer", "cpuacct")
            kill = [h for h in self.hierarchies if any(name in h.controllers for name in extra)]
        return list(dict.fromkeys([*kill, *(home for home in homes if home is not None)]))

    def _make(self, hierarchy: Hierarchy, folder: str, wanted: dict[str, None]) -> None:
        if hierarchy.version == 2:
            enable(hierarchy.folder, (name for name in wanted if hierarchy.offers(name)))
        files.make(folder)
        prepare(hierarchy, folder)
        if hierarchy.version == 2:
            files.write(f"{folder}/cgroup.max.descendants", str(DESCENDANTS))
            if counted := [name for name in FIGURES if name in wanted and hierarchy.offers(name)]:
                files.write(f"{folder}/cgroup.subtree_control", " ".join(f"+{name}" for name in counted))  # new: it gives none yet

    def extend(self, group: Group, limits: Limits) -> None:
        """Give *group* the controllers that it was made without and *limits* needs, its processes brought along."""
        self.require(limits)
        wanted = dict.fromkeys(name for name in needed(limits))
        for hierarchy in self._chosen(wanted):
            if hierarchy.version == 2:
                enable(hierarchy.folder, (name for name in wanted if hierarchy.offers(name)))
            elif hierarchy not in group.folders:
                group.adopt(hierarchy, f"{hierarchy.folder}/{prefix()}{group.name}")

    def sweep(self) -> list[str]:
        """Kill and remove what supervisors of ours left that are dead; the directories that were removed."""
        return sweep(self.hierarchies)
