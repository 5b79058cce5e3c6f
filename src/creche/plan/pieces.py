"""The pieces that a container's mounts are made of: slots, trees, fresh file systems, a stage out of sight, overlays."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from ..errors import SpecError, UnsupportedError
from ..hostview import HostListing
from ..kernelfs import Shown
from ..machine import Machine
from ..spec.filesystem import Bind, Directory, File, Overlay
from ..spec.spec import Spec
from . import steps as st
from .ids import Identity, map_text, through
from .renewal import keeps_sources

__all__ = ["Pieces"]

RDONLY, NOSUID, NODEV, NOEXEC = 0x1, 0x2, 0x4, 0x8  # mount_setattr(2)
MIB = 1 << 20
UPPER_SIZE = 512 * MIB  #: of a throw-away upper layer
INODES = 65_536
OWN, BELOW = "o", "b"  #: where layers lie: a container's own, and those that it is a branch of
FIRST = (f"{OWN}/u1", f"{OWN}/w1")  #: a history's first layer, and its work directory


def layers_text(names: Iterable[str]) -> bytes:
    """As the Step takes them: the upper one, its work directory, the lower ones from the topmost on."""
    return b"".join(name.encode() + b"\0" for name in names)


def inodes_of(size: int) -> int:
    """How many a tmpfs of so many bytes has."""
    return max(1024, min(INODES, size // 4096))


class Pieces:
    """Collects Steps: what is opened on the host's side first, then what is built inside the root."""

    def __init__(
        self, spec: Spec, machine: Machine, who: Identity, view: HostListing, kernels: Mapping[str, Shown], scratch: str | None,
        first: int = st.PASSED, again: bool = False, branch: int | None = None, room: int = UPPER_SIZE, shared: bool = False,
        nested: bool = False, for_forks: tuple[tuple[str, bool], ...] = (),
    ) -> None:  # fmt: skip
        self.spec, self.machine, self.who, self.view, self.kernels, self.scratch = spec, machine, who, view, kernels, scratch
        self.shared = shared  # the unchanging part of a HostView is taken from what all containers have of it
        self.again = again  # for a reset: of what came from the host, the init has all that is needed
        self.sourced = not nested and keeps_sources(spec, view)  # what is nested is used once
        self.for_forks = for_forks  # what a template has for its forks
        self.parent: list[st.Step] = []  # idmapped trees
        self.host: list[st.Step] = []
        self.build: list[st.Step] = []
        self.late: list[st.Step] = []
        self.branch = branch  # the slot of the layers that it is a branch of
        self.room = room  # bytes of a history's layers
        self.layering = False  # again, but for other layers of the root alone
        self.layers: int | None = None  # the slot in which the root's throw-away upper layer lies
        self._stage: int | None = None
        self._staged = self._scratches = 0
        self._kernels: list[tuple[str, int, str]] = []  # what shows files of the kernel: which, the slot of the tree, the place in it
        self._ours: dict[str, int] = {}  # the slots of those that are mounted at /proc and /sys
        self._wanted = self._idmapped_count()
        self._first = first
        self._next = first + self._wanted
        self.userns = spec.namespaces.user is not False

    # ---- slots ----

    def _slot(self) -> int:
        self._next += 1
        return self._next - 1

    def _idmap(self, path: str, blame: str, *, recursive: bool = True, maps: tuple[bytes, bytes] = (b"", b"")) -> int:
        """A tree that the parent makes, idmapped to the container's ids or by `maps` of its own."""
        index = len(self.parent)
        self.parent.append(
            st.Idmap(slot=st.IDMAPPED + index, text=path, text2=maps[0], text3=maps[1], flags=st.RECURSIVE if recursive else 0, blame=blame)
        )
        return self._first + index

    def _own_maps(self, bind: Bind, blame: str) -> tuple[bytes, bytes]:
        if bind.uid_map is None or bind.gid_map is None:
            return b"", b""
        container = (self.who.uid_map, self.who.gid_map) if self.who.new else (None, None)
        return (
            map_text(through(bind.uid_map, container[0], f"{blame}.uid_map")),
            map_text(through(bind.gid_map, container[1], f"{blame}.gid_map")),
        )

    @property
    def _sources(self) -> int:
        """Where trees of the host's are kept for resets, where they are: the stage itself, which then stays."""
        return st.SOURCES if self.again and self.sourced else self._staging()

    def _idmapped_count(self) -> int:
        spec = self.spec
        count = sum(1 for mount in spec.mounts if isinstance(mount, Bind) and self._idmaps(mount))
        if self.who.idmaps:
            count += len(self.for_forks)
            for layer in (spec.rootfs, *spec.mounts):
                if isinstance(layer, Directory):
                    count += 1
                elif isinstance(layer, Overlay):
                    count += len(layer.lower) + (1 if layer.upper is not None or not self.machine.tmpfs_user_xattr else 0)
        return count

    def _idmaps(self, bind: Bind) -> bool:
        if bind.uid_map is not None:
            if not self.machine.is_root:
                raise UnsupportedError(
                    "a Bind with id maps of its own: it takes root's power over the file system",
                    "start as root, or give the whole container these maps (Spec.uid_map, gid_map), as an ordinary user may with sub-ids",
                )
            if not isinstance(self.spec.namespaces.user, bool):
                raise UnsupportedError("a Bind with id maps of its own in a user namespace that is joined: what that one maps is not known", "leave namespaces.user True")
            return True
        if bind.idmap and not self.who.idmaps:
            raise UnsupportedError(
                "an idmapped mount: only root can make one, for a container in a range of its own",
                "leave Bind.idmap out: files keep their owners where the caller's own id is mapped",
            )
        return self.who.idmaps and (bind.idmap if bind.idmap is not None else not bind.readonly)

    # ---- pieces ----

    def _tree(self, path: str, blame: str, *, recursive: bool = True, idmap: tuple[bytes, bytes] | None = None) -> int:
        """A tree of the host's to attach: itself, or a copy of one that stays with the init for resets."""
        flags = st.RECURSIVE if recursive else 0
        if idmap is not None:
            slot = self._idmap(path, blame, recursive=recursive, maps=idmap)
        else:
            slot = self._slot()
            if not (self.again and self.sourced):
                self.host.append(st.OpenTree(slot=slot, text=path, flags=flags, blame=blame))
        if not self.sourced:
            return slot
        name = self._stage_tree(slot, blame)
        copy = self._slot()
        self.build.append(st.LinkTree(slot=copy, slot2=self._sources, text=name, flags=flags, blame=blame))
        return copy

    def _attributes(self, slot: int, attributes: int, blame: str, *, recursive: bool = True) -> None:
        if attributes:
            self.build.append(st.MountAttr(slot=slot, a=attributes, flags=st.RECURSIVE if recursive else 0, blame=blame))

    def _attach(self, slot: int, target: str, blame: str, *, flags: int = 0, new: bool = False) -> None:
        """`new`: a name at the top of a root where there is none of that yet, for a directory."""
        if new:
            self.build.append(st.Attach(slot=slot, slot2=st.ROOT, text=target[1:], flags=flags | st.DIRECTORY, blame=blame))
        else:
            self.build.append(st.Attach(slot=slot, text=target, flags=flags, blame=blame))

    def _attach_kernels(self, shown: Shown, slot: int, target: str, blame: str, *, flags: int = 0, new: bool = False) -> None:
        """Attaches a tree with files of the kernel in it, and remembers it: what is covered there is covered below the tree itself."""
        self._attach(slot, target, blame, flags=flags | st.KEEP_SLOT, new=new)
        self._kernels += [(path, slot, place) for path, place in shown]
        if target in ("/proc", "/sys"):
            self._ours[target] = slot

    def _new(self, kind: str, options: Iterable[tuple[str, str]], attributes: int, blame: str, slot: int | None = None) -> int:
        slot = self._slot() if slot is None else slot
        self.build.append(st.FsOpen(slot=slot, text=kind, blame=blame))
        self.build += [st.FsString(slot=slot, text=key, text2=value, blame=blame) for key, value in options]
        self.build.append(st.FsMount(slot=slot, a=attributes, blame=blame))
        return slot

    def _tmpfs(self, size: int, mode: int, blame: str, *, inodes: int | None = None, attributes: int = NOSUID | NODEV) -> int:
        inodes = inodes or inodes_of(size)
        options = (("size", str(size)), ("nr_inodes", str(inodes)), ("mode", f"{mode:o}"))
        return self._new("tmpfs", options, attributes, blame)

    @property
    def stage(self) -> int:
        """The slot of the stage; made where it is not yet."""
        return self._staging()

    def _staging(self) -> int:
        """A small tmpfs for single files, and below it the trees that others are taken from.

        It lies over the old root and below the container's, so it is made first and goes with the old root, or stays
        beneath the new one for resets: what is laid over the container's root itself could be reached by "/..".
        """
        if self._stage is None:
            spec = self.spec
            size = 64 * 1024 + sum(len(mount.content) + 4096 for mount in spec.mounts if isinstance(mount, File))
            layers = sum(1 + len(layer.lower) for layer in (spec.rootfs, *spec.mounts) if isinstance(layer, Overlay))
            self._stage = self._tmpfs(size, 0o755, "mounts", inodes=256 + 2 * len(spec.mounts) + layers)
            self.build.append(st.Stage(slot=self._stage))
        return self._stage

    def _stage_tree(self, slot: int, blame: str) -> str:
        """A place in the stage for a tree of the host's: its name there, where a reset finds it again."""
        name, self._staged = f"s{self._staged}", self._staged + 1
        if not (self.again and self.sourced):
            self.build.append(st.Stage(slot=slot, slot2=self._staging(), text=name, blame=blame))
        return name

    def _stage_layer(self, slot: int, blame: str) -> None:
        """The same for a layer, which is used where it lies."""
        name = self._stage_tree(slot, blame)
        if self.again and self.sourced:
            self.build.append(st.Open(slot=slot, slot2=st.SOURCES, text=name, flags=st.DIRECTORY, blame=blame))

    def _stage_fresh(self, slot: int, blame: str) -> None:
        """The same for a fresh tmpfs; in a reset it takes the place of the former one, which goes with the old root."""
        name, self._staged = f"s{self._staged}", self._staged + 1
        if self.again and self.sourced:
            former = self._slot()
            self.build.append(st.Open(slot=former, slot2=st.SOURCES, text=name, flags=st.DIRECTORY, blame=blame))
            self.build.append(st.Stage(slot=former, slot2=self._staging(), text=name, blame=blame))
        self.build.append(st.Stage(slot=slot, slot2=self._sources, text=name, flags=st.OPTIONAL if self.again else 0, blame=blame))

    def _staged_file(self, content: bytes, mode: int, blame: str) -> int:
        stage, name = self._staging(), f"f{self._staged}"
        self._staged += 1
        self.build.append(st.MakeFile(slot=stage, text=name, text2=content, a=mode, blame=blame))
        slot = self._slot()
        self.build.append(st.LinkTree(slot=slot, slot2=stage, text=name, blame=blame))
        return slot

    # ---- overlays ----

    def _layers(self, overlay: Overlay, blame: str) -> tuple[list[int], int | None, int | None]:
        lowers = [self._layer(path, f"{blame}.lower[{index}]") for index, path in enumerate(overlay.lower)]
        if overlay.upper is not None and overlay.work is not None:
            return lowers, *self._named(overlay.upper, overlay.work, blame)
        if overlay.history:
            self.layers = self._layered(blame)
            return lowers, None, None
        if self.machine.tmpfs_user_xattr or not self.userns:
            fresh = self._tmpfs(UPPER_SIZE, 0o755, blame)
            self._stage_fresh(fresh, blame)
            self.build += [st.MakeDirectory(slot=fresh, text=name, a=0o755, blame=blame) for name in ("upper", "work")]
            if overlay is self.spec.rootfs:
                self.layers = fresh
            return lowers, *self._below(fresh, "upper", "work", blame)
        if self.scratch is None:
            raise UnsupportedError("a throw-away upper layer: tmpfs has no user xattrs before Linux 6.6", "give Overlay an upper and a work")
        folder, self._scratches = f"{self.scratch}/{self._scratches}", self._scratches + 1
        if self.sourced:
            slot = self._layer(folder, f"{blame}.upper")
            if overlay is self.spec.rootfs:
                self.layers = slot
            return lowers, *self._below(slot, "upper", "work", f"{blame}.upper")
        return lowers, *self._named(f"{folder}/upper", f"{folder}/work", blame)

    def _layered(self, blame: str) -> int:
        """Where the layers of a history lie side by side; with another set of them it is the one there is."""
        if self.layering:
            self._staged += 1
            return st.LAYERS
        fresh = self._tmpfs(self.room, 0o755, blame)
        self._stage_fresh(fresh, blame)
        self.build.append(st.MakeDirectory(slot=fresh, text=OWN, a=0o755, blame=blame))
        if self.branch is not None:
            tree = self.branch
            if self.again:
                tree = self._slot()
                self.build.append(st.LinkTree(slot=tree, slot2=st.LAYERS, text=BELOW, flags=st.RECURSIVE, blame=blame))
            self._attributes(tree, RDONLY | NOSUID | NODEV, blame)
            self.build.append(st.Stage(slot=tree, slot2=fresh, text=BELOW, blame=blame))
        return fresh

    def _layer(self, path: str, blame: str) -> int:
        """A directory of the host's as a layer; for resets it is kept as a mount, since overlayfs takes no detached one."""
        if self.who.idmaps:
            slot = self._idmap(path, blame, recursive=False)
        else:
            slot = self._slot()
            if not self.sourced:
                self.host.append(st.Open(slot=slot, text=path, flags=st.DIRECTORY, blame=blame))
                return slot
            if not self.again:
                self.host.append(st.OpenTree(slot=slot, text=path, blame=blame))
        self._stage_layer(slot, blame)
        return slot

    def _named(self, upper: str, work: str, blame: str) -> tuple[int, int]:
        if self.who.idmaps:
            pair_of = [os.path.normpath(path) for path in (upper, work)]
            if len({path.startswith("/") for path in pair_of}) == 2:
                raise SpecError(f"{blame}.work", work, "give upper and work both as absolute paths")
            common = os.path.commonpath(pair_of)
            # upper and work must lie in one mount (overlayfs.rst), so their common parent is what gets idmapped
            slot = self._idmap(common or ".", f"{blame}.upper", recursive=False)
            self._stage_layer(slot, f"{blame}.upper")
            names = [path[len(common) :].lstrip("/") for path in pair_of]
            return self._below(slot, names[0], names[1], f"{blame}.upper")
        pair = self._slot(), self._slot()
        for slot, path, field in ((pair[0], upper, "upper"), (pair[1], work, "work")):
            self.host.append(st.Open(slot=slot, text=path, flags=st.DIRECTORY, blame=f"{blame}.{field}"))
        return pair

    def _below(self, slot: int, first: str, second: str, blame: str) -> tuple[int, int]:
        pair = self._slot(), self._slot()
        for at, name in zip(pair, (first, second), strict=True):
            self.build.append(st.Open(slot=at, slot2=slot, text=name, flags=st.DIRECTORY, blame=blame))
        return pair

    def _overlay(self, lowers: list[int], upper: int | None, work: int | None, blame: str, attributes: int) -> int:
        slot = self._slot()
        if not self.machine.overlay_lowerdir_plus:
            if upper is not None and work != upper + 1:
                raise AssertionError("upper and work are made side by side")
            self.build.append(
                st.OverlayOld(slot=slot, slot2=st.NONE if upper is None else upper, a=lowers[0], b=len(lowers),
                              flags=st.USERXATTR if self.userns else 0, blame=blame)
            )  # fmt: skip
            self._attributes(slot, attributes, blame)
            return slot
        self.build.append(st.FsOpen(slot=slot, text="overlay", blame=blame))
        if self.userns:
            self.build.append(st.FsFlag(slot=slot, text="userxattr", blame=blame))
        if blame == "rootfs" and self.layers is not None and upper is None:
            self.build.append(st.Layers(slot=slot, slot2=self.layers, text=layers_text(FIRST), blame="rootfs.history"))
        self.build += [st.FsFd(slot=slot, slot2=lower, text="lowerdir+", blame=blame) for lower in lowers]
        if upper is not None and work is not None:
            self.build.append(st.FsFd(slot=slot, slot2=upper, text="upperdir", blame=blame))
            self.build.append(st.FsFd(slot=slot, slot2=work, text="workdir", blame=blame))
        self.build.append(st.FsMount(slot=slot, a=attributes, blame=blame))
        return slot
