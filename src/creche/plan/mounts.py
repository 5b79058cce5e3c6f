"""A container's file system as Steps: where its root comes from, what is mounted into it, what is masked."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ..errors import SpecError, UnsupportedError
from ..hostview import HostListing
from ..machine import Machine
from ..spec.filesystem import (
    Bind,
    DevPts,
    Directory,
    File,
    HostView,
    Mount,
    Mqueue,
    Overlay,
    Proc,
    Symlink,
    Sysfs,
    Tmpfs,
)
from ..spec.spec import Spec
from . import steps as st
from .covered import MASKED, READONLY
from .ids import Identity

__all__ = ["Mounts"]

RDONLY, NOSUID, NODEV, NOEXEC = 0x1, 0x2, 0x4, 0x8  # mount_setattr(2)
NODE = RDONLY | NOSUID | NOEXEC  # a device of the host's: written to all the same, but its mode and owner stay as they are
MS_PRIVATE = 1 << 18
MIB = 1 << 20
TMPFS_SIZE = 64 * MIB  #: of a Tmpfs without a size, and of /dev/shm
TMP_SIZE = 256 * MIB
UPPER_SIZE = 512 * MIB  #: of a throw-away upper layer
INODES = 65_536

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
DEV_LINKS = (("/proc/self/fd", "fd"), ("/proc/self/fd/0", "stdin"), ("/proc/self/fd/1", "stdout"), ("/proc/self/fd/2", "stderr"))


class Mounts:
    """Collects the Steps: what is opened on the host's side first, then what is built inside the root."""

    def __init__(self, spec: Spec, machine: Machine, who: Identity, view: HostListing, scratch: str | None, first: int = st.PASSED) -> None:
        self.spec, self.machine, self.who, self.view, self.scratch = spec, machine, who, view, scratch
        self.parent: list[st.Step] = []  # idmapped trees
        self.host: list[st.Step] = []
        self.build: list[st.Step] = []
        self.late: list[st.Step] = []
        self._stage: int | None = None
        self._staged = self._scratches = 0
        self._procs: list[str] = []  # where a proc is mounted; st.PROC is the last of them
        self._wanted = self._idmapped_count()
        self._first = first
        self._next = first + self._wanted
        self.userns = spec.namespaces.user is not False

    # ---- slots ----

    def _slot(self) -> int:
        self._next += 1
        return self._next - 1

    def _idmap(self, path: str, blame: str, *, recursive: bool = True) -> int:
        index = len(self.parent)
        self.parent.append(st.Idmap(slot=st.IDMAPPED + index, text=path, flags=st.RECURSIVE if recursive else 0, blame=blame))
        return self._first + index

    def _idmapped_count(self) -> int:
        spec = self.spec
        count = sum(1 for mount in spec.mounts if isinstance(mount, Bind) and self._idmaps(mount))
        if self.who.idmaps:
            for layer in (spec.rootfs, *spec.mounts):
                if isinstance(layer, Directory):
                    count += 1
                elif isinstance(layer, Overlay):
                    count += len(layer.lower) + (1 if layer.upper is not None or not self.machine.tmpfs_user_xattr else 0)
        return count

    def _idmaps(self, bind: Bind) -> bool:
        if bind.uid_map is not None:
            raise UnsupportedError("a Bind with id maps of its own", "give the whole container these maps (Spec.uid_map, gid_map)")
        if bind.idmap and not self.who.idmaps:
            raise UnsupportedError(
                "an idmapped mount: only root can make one, for a container in a range of its own",
                "leave Bind.idmap out: files keep their owners where the caller's own id is mapped",
            )
        return self.who.idmaps and (bind.idmap if bind.idmap is not None else not bind.readonly)

    # ---- pieces ----

    def _tree(self, path: str, blame: str, *, recursive: bool = True) -> int:
        slot = self._slot()
        self.host.append(st.OpenTree(slot=slot, text=path, flags=st.RECURSIVE if recursive else 0, blame=blame))
        return slot

    def _attributes(self, slot: int, attributes: int, blame: str, *, recursive: bool = True) -> None:
        if attributes:
            self.build.append(st.MountAttr(slot=slot, a=attributes, flags=st.RECURSIVE if recursive else 0, blame=blame))

    def _attach(self, slot: int, target: str, blame: str) -> None:
        self.build.append(st.Attach(slot=slot, text=target, blame=blame))

    def _new(self, kind: str, options: Iterable[tuple[str, str]], attributes: int, blame: str, slot: int | None = None) -> int:
        slot = self._slot() if slot is None else slot
        self.build.append(st.FsOpen(slot=slot, text=kind, blame=blame))
        self.build += [st.FsString(slot=slot, text=key, text2=value, blame=blame) for key, value in options]
        self.build.append(st.FsMount(slot=slot, a=attributes, blame=blame))
        return slot

    def _tmpfs(self, size: int, mode: int, blame: str, *, inodes: int | None = None, attributes: int = NOSUID | NODEV) -> int:
        inodes = inodes or max(1024, min(INODES, size // 4096))
        options = (("size", str(size)), ("nr_inodes", str(inodes)), ("mode", f"{mode:o}"))
        return self._new("tmpfs", options, attributes, blame)

    def _staging(self) -> int:
        """A small tmpfs for single files, and below it the trees that others are taken from.

        It lies over the old root and below the container's, so it is made first and goes with the old root: what is laid
        over the container's root itself could be reached by "/..".
        """
        if self._stage is None:
            spec = self.spec
            size = 64 * 1024 + sum(len(mount.content) + 4096 for mount in spec.mounts if isinstance(mount, File))
            layers = sum(1 + len(layer.lower) for layer in (spec.rootfs, *spec.mounts) if isinstance(layer, Overlay))
            self._stage = self._tmpfs(size, 0o755, "mounts", inodes=256 + 2 * len(spec.mounts) + layers)
            self.build.append(st.Stage(slot=self._stage))
        return self._stage

    def _stage_tree(self, slot: int, blame: str) -> None:
        self.build.append(st.Stage(slot=slot, slot2=self._staging(), text=f"s{self._staged}", blame=blame))
        self._staged += 1

    def _staged_file(self, content: bytes, mode: int, blame: str) -> int:
        stage, name = self._staging(), f"f{self._staged}"
        self._staged += 1
        self.build.append(st.MakeFile(slot=stage, text=name, text2=content, a=mode, blame=blame))
        slot = self._slot()
        self.build.append(st.LinkTree(slot=slot, slot2=stage, text=name, blame=blame))
        return slot

    # ---- overlays ----

    def _layers(self, overlay: Overlay, blame: str) -> tuple[list[int], int | None, int | None]:
        lowers = []
        if self.who.idmaps:
            for index, path in enumerate(overlay.lower):
                slot = self._idmap(path, f"{blame}.lower[{index}]", recursive=False)
                self._stage_tree(slot, f"{blame}.lower[{index}]")
                lowers.append(slot)
        else:
            for index, path in enumerate(overlay.lower):
                lowers.append(self._slot())
                self.host.append(st.Open(slot=lowers[-1], text=path, flags=st.DIRECTORY, blame=f"{blame}.lower[{index}]"))
        if overlay.upper is None or overlay.work is None:
            if self.machine.tmpfs_user_xattr or not self.userns:
                fresh = self._tmpfs(UPPER_SIZE, 0o755, blame)
                self._stage_tree(fresh, blame)
                self.build += [st.MakeDirectory(slot=fresh, text=name, a=0o755, blame=blame) for name in ("upper", "work")]
                return lowers, *self._below(fresh, "upper", "work", blame)
            if self.scratch is None:
                raise UnsupportedError("a throw-away upper layer: tmpfs has no user xattrs before Linux 6.6", "give Overlay an upper and a work")
            upper, work = f"{self.scratch}/{self._scratches}/upper", f"{self.scratch}/{self._scratches}/work"
            self._scratches += 1
        else:
            upper, work = overlay.upper, overlay.work
        if self.who.idmaps:
            pair_of = [os.path.normpath(path) for path in (upper, work)]
            if len({path.startswith("/") for path in pair_of}) == 2:
                raise SpecError(f"{blame}.work", work, "give upper and work both as absolute paths")
            common = os.path.commonpath(pair_of)
            # upper and work must lie in one mount (overlayfs.rst), so their common parent is what gets idmapped
            slot = self._idmap(common or ".", f"{blame}.upper", recursive=False)
            self._stage_tree(slot, f"{blame}.upper")
            names = [path[len(common) :].lstrip("/") for path in pair_of]
            return lowers, *self._below(slot, names[0], names[1], f"{blame}.upper")
        pair = self._slot(), self._slot()
        for slot, path, field in ((pair[0], upper, "upper"), (pair[1], work, "work")):
            self.host.append(st.Open(slot=slot, text=path, flags=st.DIRECTORY, blame=f"{blame}.{field}"))
        return lowers, *pair

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
        self.build += [st.FsFd(slot=slot, slot2=lower, text="lowerdir+", blame=blame) for lower in lowers]
        if upper is not None and work is not None:
            self.build.append(st.FsFd(slot=slot, slot2=upper, text="upperdir", blame=blame))
            self.build.append(st.FsFd(slot=slot, slot2=work, text="workdir", blame=blame))
        self.build.append(st.FsMount(slot=slot, a=attributes, blame=blame))
        return slot

    # ---- the root ----

    @property
    def _safe(self) -> int:
        """nosuid and nodev for what is the user's: a device or a setuid program in it is no power (mount(8))."""
        return NODEV | (NOSUID if self.spec.security.no_new_privs else 0)

    def root(self) -> None:
        """The container's root, and what every root of ours has: /proc, /dev, /tmp."""
        rootfs = self.spec.rootfs
        if rootfs is not None:
            self._staging()
        if rootfs is None:
            self.host.append(st.Open(slot=st.ROOT, text="/", flags=st.DIRECTORY))
        elif isinstance(rootfs, HostView):
            slot = self._tmpfs(4 * MIB, 0o755, "rootfs", inodes=4096)
            self.build.append(st.Root(slot=slot, blame="rootfs"))
            self._host_view()
            self.late.append(st.MountAttr(slot=slot, a=RDONLY, blame="rootfs"))
        else:
            if isinstance(rootfs, Directory):
                slot = self._idmap(rootfs.path, "rootfs.path") if self.who.idmaps else self._tree(rootfs.path, "rootfs.path")
                self._attributes(slot, self._safe | (RDONLY if rootfs.readonly else 0), "rootfs")
            else:
                slot = self._overlay(*self._layers(rootfs, "rootfs"), "rootfs", self._safe)
                if rootfs.readonly:
                    self.late.append(st.MountAttr(slot=slot, a=RDONLY, blame="rootfs.readonly"))
            self.build.append(st.Root(slot=slot, blame="rootfs.path" if isinstance(rootfs, Directory) else "rootfs"))

    def _host_view(self) -> None:
        """The host's list, each name made in a directory of ours, where there are no links to look out for."""
        folders = {"/": st.ROOT}
        etc: list[tuple[str, bytes]] = [("/etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n")]
        if self.spec.namespaces.network is not True and self.view.resolver is not None:
            etc.append(("/etc/resolv.conf", self.view.resolver))
        etc += [(path, content) for path, content in self.view.files if path != "/etc/hosts"]
        for path, directory in self.view.trees:
            tree = self._tree(path, "rootfs")
            self._attributes(tree, RDONLY | self._safe, "rootfs")
            self._attach_new(tree, path, folders, directory=directory)
        for path, target in self.view.links:
            folder, name = self._folder(path, folders)
            self.build.append(st.MakeSymlink(slot=folder, text=target, text2=name, blame="rootfs"))
        for path, content in etc:
            folder, name = self._folder(path, folders)
            self.build.append(st.MakeFile(slot=folder, text=name, text2=content, a=0o644, blame="rootfs"))
        self.build += [st.Close(slot=slot) for path, slot in folders.items() if path != "/"]

    def _folder(self, path: str, folders: dict[str, int]) -> tuple[int, str]:
        """The slot of a path's directory, made where it is new, and the name in it."""
        folder, name = os.path.split(path)
        if folder not in folders:
            above, own = self._folder(folder, folders)
            self.build.append(st.MakeDirectory(slot=above, text=own, a=0o755, blame="rootfs"))
            folders[folder] = self._slot()
            self.build.append(st.Open(slot=folders[folder], slot2=above, text=own, flags=st.DIRECTORY, blame="rootfs"))
        return folders[folder], name

    def _attach_new(self, slot: int, path: str, folders: dict[str, int], *, directory: bool, flags: int = 0) -> None:
        folder, name = self._folder(path, folders)
        flags |= st.DIRECTORY if directory else 0
        self.build.append(st.Attach(slot=slot, slot2=folder, text=name, flags=flags, blame="rootfs"))

    def base(self) -> None:
        """/proc, /dev, /tmp where the Spec does not mount something of its own there."""
        taken = {mount.target or "" for mount in self.spec.mounts if not isinstance(mount, Symlink)}
        if self.spec.rootfs is None:
            if self.spec.namespaces.pid is True and "/proc" not in taken:
                self._proc(Proc(), "namespaces.pid")
            elif "/proc" not in taken:
                self.host.append(st.Open(slot=st.PROC, text="/proc", flags=st.DIRECTORY))
                self._procs.append("/proc")
            return
        if "/proc" not in taken:
            self._proc(Proc(), "rootfs")
        if "/dev" not in taken:
            self._dev(taken)
        if "/tmp" not in taken:
            self._attach(self._tmpfs(TMP_SIZE, 0o1777, "rootfs"), "/tmp", "rootfs")

    def _proc(self, proc: Proc, blame: str) -> None:
        if self.spec.namespaces.pid is not True:
            # A fresh proc shows the PID namespace of whoever mounts it, and takes power over that (user_namespaces(7)).
            slot = self._tree("/proc", blame)
            self.host.append(st.Open(slot=st.PROC, text="/proc", flags=st.DIRECTORY))
            self._attributes(slot, NOSUID | NODEV | NOEXEC, blame)
            self.build.append(st.Attach(slot=slot, text=proc.target, flags=st.NO_LINK, blame=blame))
            self._procs.append(proc.target)
            return
        options = []
        if proc.hidepid is not None:
            options.append(("hidepid", str(proc.hidepid)))
        if proc.subset is not None:
            options.append(("subset", str(proc.subset)))
        self._new("proc", options, NOSUID | NODEV | NOEXEC, blame, slot=st.PROC)
        self.build.append(st.Attach(slot=st.PROC, text=proc.target, flags=st.KEEP_SLOT | st.NO_LINK, blame=blame))
        self._procs.append(proc.target)

    def _dev(self, taken: set[str]) -> None:
        if not isinstance(self.spec.rootfs, HostView):  # there the root itself is a tmpfs of ours, and read-only in the end
            self._attach(self._tmpfs(MIB, 0o755, "rootfs", inodes=1024), "/dev", "rootfs")
        else:
            self.build.append(st.MakeDirectory(text="/dev", a=0o755, blame="rootfs"))
        folders = {"/dev": self._slot()}
        self.build.append(st.Open(slot=folders["/dev"], text="/dev", flags=st.DIRECTORY | st.INSIDE, blame="rootfs"))
        for path in DEVICES:
            node = self._tree(path, "rootfs", recursive=False)
            self._attributes(node, NODE, "rootfs", recursive=False)
            self._attach_new(node, path, folders, directory=False)
        if "/dev/pts" not in taken:
            self._devpts(DevPts(), "rootfs")
        if "/dev/shm" not in taken:
            self._attach_new(self._tmpfs(TMPFS_SIZE, 0o1777, "rootfs"), "/dev/shm", folders, directory=True)
        if "/dev/mqueue" not in taken and self.spec.namespaces.ipc is True:
            self._attach_new(self._new("mqueue", (), NOSUID | NODEV | NOEXEC, "rootfs"), "/dev/mqueue", folders, directory=True)
        self.build += [st.MakeSymlink(slot=folders["/dev"], text=target, text2=name, blame="rootfs") for target, name in DEV_LINKS]
        self.build.append(st.Close(slot=folders["/dev"]))

    def _devpts(self, devpts: DevPts, blame: str) -> None:
        options = [("ptmxmode", "0666"), ("mode", "0620")]
        user = self.spec.namespaces.user
        mapped = self.who.maps_group(5) if user is True else any(e.inside <= 5 < e.inside + e.count for e in self.machine.gid_map)
        if mapped and isinstance(user, bool):  # what a joined one maps is not known
            options.append(("gid", "5"))  # EINVAL where it is not mapped
        self._new("devpts", options, NOSUID | NOEXEC, blame, slot=st.DEVPTS)
        self.build.append(st.Attach(slot=st.DEVPTS, text=devpts.target, flags=st.KEEP_SLOT, blame=blame))
        self.build.append(st.Keep(slot=st.DEVPTS))
        if devpts.target == "/dev/pts":
            self.build.append(st.MakeSymlink(text="pts/ptmx", text2="/dev/ptmx", flags=st.OPTIONAL, blame=blame))

    # ---- what the Spec mounts ----

    def all_mounts(self) -> None:
        for index, mount in enumerate(self.spec.mounts):
            self._mount(mount, f"mounts[{index}]")
        for index, path in enumerate(self.spec.devices):
            node = self._tree(path, f"devices[{index}]", recursive=False)
            self._attributes(node, NODE, f"devices[{index}]", recursive=False)
            self._attach(node, path, f"devices[{index}]")

    def _mount(self, mount: Mount, blame: str) -> None:
        if isinstance(mount, Bind):
            slot = self._idmap(mount.source, f"{blame}.source") if self._idmaps(mount) else self._tree(mount.source, f"{blame}.source")
            self._attributes(slot, _flags(mount), blame)
            self._attach(slot, mount.target, f"{blame}.target")
        elif isinstance(mount, Tmpfs):
            size = mount.size or TMPFS_SIZE
            if mount.copy_up:
                self._copy_up(mount, size, blame)
                return
            slot = self._tmpfs(size, mount.mode, blame, inodes=mount.inodes, attributes=_flags(mount))
            self._attach(slot, mount.target, f"{blame}.target")
        elif isinstance(mount, Overlay):
            assert mount.target is not None
            slot = self._overlay(*self._layers(mount, blame), blame, self._safe | (RDONLY if mount.readonly else 0))
            self._attach(slot, mount.target, f"{blame}.target")
        elif isinstance(mount, File):
            slot = self._staged_file(mount.content, mount.mode, blame)
            self._attributes(slot, self._safe | (RDONLY if mount.readonly else 0), blame)
            self._attach(slot, mount.target, f"{blame}.target")
        elif isinstance(mount, Symlink):
            self.build.append(st.MakeSymlink(text=mount.source, text2=mount.target, blame=f"{blame}.target"))
        elif isinstance(mount, Proc):
            self._proc(mount, blame)
        elif isinstance(mount, Sysfs):
            if self.spec.namespaces.network is not True:
                raise SpecError(blame, mount, "sysfs shows a network namespace's devices: give namespaces.network=True, or leave it out")
            slot = self._new("sysfs", (), RDONLY | NOSUID | NODEV | NOEXEC, blame)
            self.build.append(st.Attach(slot=slot, text=mount.target, flags=st.NO_LINK, blame=f"{blame}.target"))
        elif isinstance(mount, DevPts):
            self._devpts(mount, blame)
        elif isinstance(mount, Mqueue):
            self._attach(self._new("mqueue", (), NOSUID | NODEV | NOEXEC, blame), mount.target, f"{blame}.target")

    def _copy_up(self, mount: Tmpfs, size: int, blame: str) -> None:
        """A copy that costs nothing until it is written to: the tmpfs as the upper layer over what the root has there."""
        if self.userns and not self.machine.tmpfs_user_xattr:
            raise UnsupportedError("Tmpfs(copy_up=True): tmpfs has no user xattrs before Linux 6.6", "mount an Overlay with an upper and a work there, or the files one by one")
        lower = self._slot()
        self.build.append(st.Open(slot=lower, text=mount.target, flags=st.DIRECTORY | st.INSIDE, blame=f"{blame}.target"))
        fresh = self._tmpfs(size, 0o755, blame, inodes=mount.inodes)
        self._stage_tree(fresh, blame)
        self.build += [st.MakeDirectory(slot=fresh, text=name, a=mode, blame=blame) for name, mode in (("upper", mount.mode), ("work", 0o755))]
        slot = self._overlay([lower], *self._below(fresh, "upper", "work", blame), blame, _flags(mount))
        self._attach(slot, mount.target, f"{blame}.target")

    # ---- what is covered ----

    def covers(self) -> None:
        security = self.spec.security
        has_sys = any(isinstance(mount, Sysfs) or mount.target == "/sys" for mount in self.spec.mounts if not isinstance(mount, Symlink))
        binds = [mount.target for mount in self.spec.mounts if isinstance(mount, Bind) and mount.source.rstrip("/") == "/proc"]
        procs = dict.fromkeys(["/proc", *self._procs, *binds])  # wherever one lies
        own = self.spec.namespaces.pid is True and self._procs

        def ours(path: str) -> bool:
            if path.startswith("/proc/"):
                return self.view.shows(path.split("/")[2], to_root=not self.who.private and self.machine.may_map_ids)
            return has_sys

        def of(paths: tuple[str, ...] | None, defaults: tuple[str, ...]) -> Iterable[tuple[int, str]]:
            """Slots and paths: below the proc of ours where that can be, whose names nobody moves away while we work."""
            ordinary = () if security.privileged else tuple(path for path in defaults if ours(path))
            for path in ordinary if paths is None else paths:
                for place in [""] if not path.startswith("/proc/") else procs if paths is None else ["/proc"]:
                    if place and own and place == self._procs[-1]:
                        yield st.PROC, path.removeprefix("/proc/")
                    else:
                        yield st.NONE, place.rstrip("/") + path.removeprefix("/proc") if place else path

        masked, readonly = [*of(security.masked_paths, MASKED)], of(security.readonly_paths, READONLY)
        if masked:
            stage = self._staging()
            self.build.append(st.MakeDirectory(slot=stage, text="empty", a=0o555))
            self.build.append(st.MakeFile(slot=stage, text="nothing", a=0o444))
            self.build.append(st.MountAttr(slot=stage, a=RDONLY | NOSUID | NODEV | NOEXEC))  # and so are its clones
            for slot, path in masked:
                self.build.append(st.Mask(slot=stage, slot2=slot, text=path, text2="empty", text3="nothing", blame="security.masked_paths"))
        for slot, path in readonly:
            self.build.append(st.ReadOnly(slot=slot, text=path, blame="security.readonly_paths"))
        if self.spec.rootfs is None and self._stage is not None:
            self.build.append(st.Unstage(slot=self._stage))  # there is no old root to go with


def _flags(mount: Bind | Tmpfs) -> int:
    return (
        (RDONLY if mount.readonly else 0)
        | (NOSUID if mount.nosuid else 0)
        | (NODEV if mount.nodev else 0)
        | (NOEXEC if mount.noexec else 0)
    )
