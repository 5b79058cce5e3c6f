"""A container's file system as Steps: where its root comes from, what is mounted into it, what is masked."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ..errors import SpecError, UnsupportedError
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
from . import steps as st
from .covered import MASKED, READONLY
from .pieces import MIB, NODEV, NOEXEC, NOSUID, RDONLY, Pieces
from .renewal import covers_trees

__all__ = ["Mounts", "place_of"]

NODE = RDONLY | NOSUID | NOEXEC  # a device of the host's: written to all the same, but its mode and owner stay as they are
MS_PRIVATE = 1 << 18
TMPFS_SIZE = 64 * MIB  #: of a Tmpfs without a size, and of /dev/shm
TMP_SIZE = 256 * MIB
MOST_PTYS = 1024  #: of the 3,072 that all devpts but the host's have together (kernel.pty.max without its reserve)

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
DEV_LINKS = (("/proc/self/fd", "fd"), ("/proc/self/fd/0", "stdin"), ("/proc/self/fd/1", "stdout"), ("/proc/self/fd/2", "stderr"))


def place_of(number: int) -> str:
    """Where a template's container has a layer for its forks."""
    return f"/dev/.creche/{number}"


class Mounts(Pieces):
    """A container's file system, piece by piece and in order."""

    _covered = True  # trees of the host's may have something else on them, and are not to be found by their paths

    # ---- the root ----

    @property
    def _safe(self) -> int:
        """nosuid and nodev for what is the user's: a device or a setuid program in it is no power (mount(8))."""
        return NODEV | (NOSUID if self.spec.security.no_new_privs else 0)

    def root(self) -> None:
        """The container's root, and what every root of ours has: /proc, /dev, /tmp."""
        rootfs = self.spec.rootfs
        self._covered = not isinstance(rootfs, HostView) or (self.sourced and covers_trees(self.spec, self.view))
        if rootfs is not None and (not self.shared or self._wants_stage) and (not self.layering or any(mount.source in self.kernels for mount in self.spec.mounts if isinstance(mount, Bind))):
            self._staging()  # in a root of other layers, for covers alone
        if rootfs is None:
            self.host.append(st.Open(slot=st.ROOT, text="/", flags=st.DIRECTORY))
        elif isinstance(rootfs, HostView):
            slot = self._tmpfs(4 * MIB, 0o755, "rootfs", inodes=4096)
            self.build.append(st.Root(slot=slot, blame="rootfs"))
            self._host_view()
            self.late.append(st.MountAttr(slot=slot, a=RDONLY, blame="rootfs"))
        else:
            if isinstance(rootfs, Directory):
                slot = self._tree(rootfs.path, "rootfs.path", idmap=(b"", b"") if self.who.idmaps else None)
                self._attributes(slot, self._safe | (RDONLY if rootfs.readonly else 0), "rootfs")
            else:
                slot = self._overlay(*self._layers(rootfs, "rootfs"), "rootfs", self._safe)
                if rootfs.readonly:
                    self.late.append(st.MountAttr(slot=slot, a=RDONLY, blame="rootfs.readonly"))
            self.build.append(st.Root(slot=slot, blame="rootfs.path" if isinstance(rootfs, Directory) else "rootfs"))

    @property
    def _wants_stage(self) -> bool:
        """Whether anything is taken from the stage, but for what looks empty."""
        return self.sourced or any(isinstance(mount, (File, Overlay)) or (isinstance(mount, Tmpfs) and mount.copy_up) for mount in self.spec.mounts)

    def _host_view(self) -> None:
        """The host's list: taken from what containers share, where they do."""
        if not self.shared:
            self._host_list({"/": st.ROOT})
            return
        for name in dict.fromkeys(["etc", *(path.split("/")[1] for path, _ in self.view.trees), "dev"]):
            tree = self._slot()
            self.build.append(st.LinkTree(slot=tree, slot2=st.VIEW, text=name, flags=st.RECURSIVE, blame="rootfs"))
            self._attach_new(tree, f"/{name}", {"/": st.ROOT}, directory=True)
        for path, target in self.view.links:
            if path.count("/") == 1:
                self.build.append(st.MakeSymlink(slot=st.ROOT, text=target, text2=path[1:], blame="rootfs"))

    def for_all(self) -> None:
        """What all containers with this HostView share, as a detached tree that is given away: no mount of it is ever written to,
        not by whoever has all capabilities in a container, and nobody owns it."""
        root = self._tmpfs(4 * MIB, 0o755, "rootfs", inodes=4096)
        self._covered = False
        folders = {"/": root}
        self._host_list(folders)
        folder = self._folder("/dev/null", folders)[0]
        self._nodes(folders)
        for name in ("pts", "shm", *(("mqueue",) if self.spec.namespaces.ipc is True else ())):
            self.build.append(st.MakeDirectory(slot=folder, text=name, a=0o755, blame="rootfs"))
        self.build.append(st.MakeSymlink(slot=folder, text="pts/ptmx", text2="ptmx", blame="rootfs"))
        self._nothing(root)
        self.build.append(st.Unowned(slot=root, blame="rootfs"))
        self.build.append(st.FsReadOnly(slot=root, blame="rootfs"))
        self.build.append(st.MountAttr(slot=root, a=RDONLY | NOSUID | NODEV, blame="rootfs"))
        self.build.append(st.Keep(slot=st.GIVEN, slot2=root))

    def _nothing(self, slot: int) -> None:
        """What looks empty, for what is masked."""
        self.build.append(st.MakeDirectory(slot=slot, text="empty", a=0o555))
        self.build.append(st.MakeFile(slot=slot, text="nothing", a=0o444))

    def _host_list(self, folders: dict[str, int]) -> None:
        """Each name of it made in a directory of ours, where there are no links to look out for."""
        etc: list[tuple[str, bytes]] = [("/etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n")]
        if self.spec.namespaces.network is not True and self.view.resolver is not None:
            etc.append(("/etc/resolv.conf", self.view.resolver))
        etc += [(path, content) for path, content in self.view.files if path != "/etc/hosts"]
        for path, directory in self.view.trees:
            tree = self._own_tree(path, RDONLY | self._safe)
            self._attach_new(tree, path, folders, directory=directory)
        for path, target in self.view.links:
            folder, name = self._folder(path, folders)
            self.build.append(st.MakeSymlink(slot=folder, text=target, text2=name, blame="rootfs"))
        for path, content in etc:
            folder, name = self._folder(path, folders)
            self.build.append(st.MakeFile(slot=folder, text=name, text2=content, a=0o644, blame="rootfs"))
        self.build += [st.Close(slot=slot) for path, slot in folders.items() if path != "/"]

    def _own_tree(self, path: str, attributes: int, *, recursive: bool = True) -> int:
        """A tree of the host's at its own path in a HostView. For a reset it is taken from there, where nobody could have
        put anything in its place: a guest can neither write to that root nor mount."""
        if self._covered:
            slot = self._tree(path, "rootfs", recursive=recursive)
        else:
            slot = self._slot()
            if self.again:
                self.host.append(st.Open(slot=slot, text=path, flags=st.INSIDE, blame="rootfs"))
                return slot
            self.host.append(st.OpenTree(slot=slot, text=path, flags=st.RECURSIVE if recursive else 0, blame="rootfs"))
        self._attributes(slot, attributes, "rootfs", recursive=recursive)
        return slot

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
            return
        if "/proc" not in taken:
            self._proc(Proc(), "rootfs", new=self._fresh)
        if "/dev" not in taken:
            self._dev(taken)
        if isinstance(self.spec.rootfs, Overlay) and self.spec.rootfs.history and "/tmp" not in taken:
            self.build.append(st.MakeDirectory(text="/tmp", a=0o1777, flags=st.OPTIONAL, blame="rootfs.history"))
        elif "/tmp" not in taken:
            self._attach(self._tmpfs(TMP_SIZE, 0o1777, "rootfs"), "/tmp", "rootfs", new=self._fresh)

    @property
    def _fresh(self) -> bool:
        """Whether the root is a new directory of ours, in which our own names are new as well."""
        return isinstance(self.spec.rootfs, HostView)

    def _proc(self, proc: Proc, blame: str, *, new: bool = False) -> None:
        if self.spec.namespaces.pid is not True:
            # A fresh proc shows the PID namespace of whoever mounts it, and takes power over that (user_namespaces(7)).
            slot = self._tree("/proc", blame)
            self.host.append(st.Open(slot=st.PROC, text="/proc", flags=st.DIRECTORY))
            self._attributes(slot, NOSUID | NODEV | NOEXEC, blame)
            self._attach_kernels((("/proc", ""),), slot, proc.target, blame, flags=st.NO_LINK, new=new)
            return
        options = []
        if proc.hidepid is not None:
            options.append(("hidepid", str(proc.hidepid)))
        if proc.subset is not None:
            options.append(("subset", str(proc.subset)))
        first = not any(slot == st.PROC for _, slot, _ in self._kernels)
        slot = self._new("proc", options, NOSUID | NODEV | NOEXEC, blame, slot=st.PROC if first else None)
        self._attach_kernels((("/proc", ""),), slot, proc.target, blame, flags=st.NO_LINK, new=new)

    def _dev(self, taken: set[str]) -> None:
        if self.shared:
            self._dev_writable()
            return
        if not isinstance(self.spec.rootfs, HostView):  # there the root itself is a tmpfs of ours, and read-only in the end
            self._attach(self._tmpfs(MIB, 0o755, "rootfs", inodes=1024), "/dev", "rootfs")
        else:
            self.build.append(st.MakeDirectory(text="/dev", a=0o755, blame="rootfs"))
        folders = {"/dev": self._slot()}
        self.build.append(st.Open(slot=folders["/dev"], text="/dev", flags=st.DIRECTORY | st.INSIDE, blame="rootfs"))
        self._nodes(folders)
        if "/dev/pts" not in taken:
            self._devpts(DevPts(), "rootfs")
        if "/dev/shm" not in taken:
            self._attach_new(self._tmpfs(TMPFS_SIZE, 0o1777, "rootfs"), "/dev/shm", folders, directory=True)
        if "/dev/mqueue" not in taken and self.spec.namespaces.ipc is True:
            self._attach_new(self._new("mqueue", (), NOSUID | NODEV | NOEXEC, "rootfs"), "/dev/mqueue", folders, directory=True)
        self.build.append(st.Close(slot=folders["/dev"]))

    def _dev_writable(self) -> None:
        """What /dev has beside its nodes, where those are there already."""
        self._devpts(DevPts(), "rootfs")
        self._attach(self._tmpfs(TMPFS_SIZE, 0o1777, "rootfs"), "/dev/shm", "rootfs")
        if self.spec.namespaces.ipc is True:
            self._attach(self._new("mqueue", (), NOSUID | NODEV | NOEXEC, "rootfs"), "/dev/mqueue", "rootfs")

    def _nodes(self, folders: dict[str, int]) -> None:
        for path in DEVICES:
            node = self._own_tree(path, NODE, recursive=False)
            self._attach_new(node, path, folders, directory=False)
        self.build += [st.MakeSymlink(slot=folders["/dev"], text=target, text2=name, blame="rootfs") for target, name in DEV_LINKS]

    def _devpts(self, devpts: DevPts, blame: str) -> None:
        options = [("ptmxmode", "0666"), ("mode", "0620"), ("max", str(MOST_PTYS))]
        user = self.spec.namespaces.user
        mapped = self.who.maps_group(5) if user is True else any(e.inside <= 5 < e.inside + e.count for e in self.machine.gid_map)
        if mapped and isinstance(user, bool):  # what a joined one maps is not known
            options.append(("gid", "5"))  # EINVAL where it is not mapped
        self._new("devpts", options, NOSUID | NOEXEC, blame, slot=st.DEVPTS)
        self.build.append(st.Attach(slot=st.DEVPTS, text=devpts.target, flags=st.KEEP_SLOT, blame=blame))
        self.build.append(st.Keep(slot=st.DEVPTS))
        if devpts.target == "/dev/pts" and not self.shared:
            self.build.append(st.MakeSymlink(text="pts/ptmx", text2="/dev/ptmx", flags=st.OPTIONAL, blame=blame))

    # ---- what the Spec mounts ----

    def all_mounts(self) -> None:
        for index, mount in enumerate(self.spec.mounts):
            self._mount(mount, f"mounts[{index}]")
        for index, path in enumerate(self.spec.devices):
            node = self._tree(path, f"devices[{index}]", recursive=False)
            self._attributes(node, NODE, f"devices[{index}]", recursive=False)
            self._attach(node, path, f"devices[{index}]")

        for number, (path, recursive) in enumerate(self.for_forks):
            layer = self._tree(path, "rootfs", recursive=recursive, idmap=(b"", b"") if self.who.idmaps else None)
            self._attributes(layer, RDONLY, "rootfs", recursive=recursive)
            self._attach(layer, place_of(number), "rootfs")

    def _mount(self, mount: Mount, blame: str) -> None:
        if isinstance(mount, Bind):
            slot = self._tree(mount.source, f"{blame}.source", idmap=self._own_maps(mount, blame) if self._idmaps(mount) else None)
            self._attributes(slot, _flags(mount), blame)
            if shown := self.kernels.get(mount.source):
                self._attach_kernels(shown, slot, mount.target, f"{blame}.target")
            else:
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
            self._attach_kernels((("/sys", ""),), slot, mount.target, f"{blame}.target", flags=st.NO_LINK)
        elif isinstance(mount, DevPts):
            self._devpts(mount, blame)
        elif isinstance(mount, Mqueue):
            self._attach(self._new("mqueue", (), NOSUID | NODEV | NOEXEC, blame), mount.target, f"{blame}.target")

    # ---- in a container that goes on: what guests wrote to, other layers of the root ----

    def renew(self) -> int:
        """Each file system that guests write to is made anew in its place. The former ones are gathered in a stage, and go with it all at once.

        The slot is a /proc in which nothing is covered, which goes with them.
        """
        before, self.build = self.build, []
        self._dev_writable()
        if not any(mount.target == "/tmp" for mount in self.spec.mounts):
            self._attach(self._tmpfs(TMP_SIZE, 0o1777, "rootfs"), "/tmp", "rootfs")
        for index, mount in enumerate(self.spec.mounts):
            if isinstance(mount, (Tmpfs, DevPts, Mqueue)):
                self._mount(mount, f"mounts[{index}]")
        made, self.build = self.build, before
        self._staging()
        for step in made:
            if isinstance(step, st.Attach):
                former = self._slot()
                self.build.append(st.Open(slot=former, text=step.text, flags=st.DIRECTORY | st.INSIDE, blame=step.blame))
                self._stage_tree(former, step.blame)
            self.build.append(step)
        proc = self._slot()
        self.build.append(st.LinkTree(slot=proc, slot2=st.PROC, text=".", blame="sysctl"))
        self._stage_tree(proc, "sysctl")
        return proc

    def other_layers(self) -> None:
        """The root anew, and all that is mounted in it moved there: what lies at the top of a root can't be moved away by a guest."""
        self.layering = True
        self.root()
        root, self.build = self.build, []
        self.base()  # for the sake of the places in the stage that it takes
        taken = {mount.target or "" for mount in self.spec.mounts if not isinstance(mount, Symlink)}
        moved = [path for path in ("/proc", "/dev") if path not in taken]
        self.build = root
        moved += [mount.target for mount in self.spec.mounts if not isinstance(mount, (Bind, Symlink)) and mount.target]
        for path in moved:
            slot = self._slot()
            self.host.append(st.Open(slot=slot, text=path, flags=st.INSIDE, blame="rootfs.history"))
            self.build.append(st.Attach(slot=slot, text=path, blame="rootfs.history"))
        if "/tmp" not in taken:
            self.build.append(st.MakeDirectory(text="/tmp", a=0o1777, flags=st.OPTIONAL, blame="rootfs.history"))
        fresh: list[tuple[str, int, str]] = []  # what moved is covered still
        for index, mount in enumerate(self.spec.mounts):
            before, covered = self.build, len(self._kernels)
            if isinstance(mount, Symlink):
                self.build.append(st.MakeSymlink(text=mount.source, text2=mount.target, flags=st.OPTIONAL, blame=f"mounts[{index}].target"))
                continue
            if not isinstance(mount, Bind) or any(mount.target.startswith(path + "/") for path in moved):
                self.build = []  # it has been moved; its places in the stage are taken
            self._mount(mount, f"mounts[{index}]")
            if self.build is before:
                fresh += self._kernels[covered:]
            self.build = before
        self._kernels = fresh
        self._ours = {target: slot for target, slot in self._ours.items() if slot in {slot for _, slot, _ in fresh}}
        if fresh:
            self.covers()

    def _copy_up(self, mount: Tmpfs, size: int, blame: str) -> None:
        """A copy that costs nothing until it is written to: the tmpfs as the upper layer over what the root has there."""
        if self.userns and not self.machine.tmpfs_user_xattr:
            raise UnsupportedError("Tmpfs(copy_up=True): tmpfs has no user xattrs before Linux 6.6", "mount an Overlay with an upper and a work there, or the files one by one")
        lower = self._slot()
        self.build.append(st.Open(slot=lower, text=mount.target, flags=st.DIRECTORY | st.INSIDE, blame=f"{blame}.target"))
        fresh = self._tmpfs(size, 0o755, blame, inodes=mount.inodes)
        self._stage_fresh(fresh, blame)
        self.build += [st.MakeDirectory(slot=fresh, text=name, a=mode, blame=blame) for name, mode in (("upper", mount.mode), ("work", 0o755))]
        slot = self._overlay([lower], *self._below(fresh, "upper", "work", blame), blame, _flags(mount))
        self._attach(slot, mount.target, f"{blame}.target")

    # ---- what is covered ----

    def covers(self) -> None:
        security, ours = self.spec.security, self._ours
        # Where they may lie by no mount that we know of: in the caller's own root, in one that was made ready outside.
        has_sys = not isinstance(self.spec.rootfs, HostView | Overlay) or any(mount.target == "/sys" for mount in self.spec.mounts)
        others = set() if self.layering else {"/proc", *(["/sys"] if has_sys else [])} - ours.keys()
        root = self.spec.rootfs.path if isinstance(self.spec.rootfs, Directory) else "/" if self.spec.rootfs is None else ""
        elsewhere = [(shows, st.NONE, "/" + place) for shows, place in self.kernels.get(root, ()) if place not in ("proc", "sys")]

        def there(path: str) -> bool:
            name = path.removeprefix("/proc/")
            return name == path or self.view.shows(name, to_root=not self.who.private and self.machine.may_map_ids)

        def of(paths: tuple[str, ...] | None, defaults: tuple[str, ...]) -> Iterable[tuple[int, str, int]]:
            """Slots and paths: below the very trees that show them, whose names nobody moves away while we work."""
            if paths is not None:  # the Spec's own: as they are called inside
                for path in paths:
                    top, _, rest = path[1:].partition("/")
                    if rest and "/" + top in ours:
                        yield ours["/" + top], rest, 0
                    elif not self.layering:
                        yield st.NONE, path, 0
                return
            for path in () if security.privileged else filter(there, defaults):
                for shows, slot, place in (*self._kernels, *elsewhere):
                    if path.startswith(shows + "/"):  # what a Bind names itself was asked for
                        below = (place + path.removeprefix(shows)).lstrip("/" if slot != st.NONE else "")
                        yield slot, below, 0 if slot == st.NONE or "/" in below else st.NO_LINK
                if "/" + path.split("/")[1] in others:
                    yield st.NONE, path, 0

        masked, readonly = [*of(security.masked_paths, MASKED)], of(security.readonly_paths, READONLY)
        if masked:
            stage = st.VIEW if self.shared else self._staging()
            if not self.shared:
                self._nothing(stage)
                self.build.append(st.MountAttr(slot=stage, a=RDONLY | NOSUID | NODEV | NOEXEC))  # and so are its clones
            for slot, path, flags in masked:
                self.build.append(st.Mask(slot=stage, slot2=slot, text=path, text2="empty", text3="nothing", flags=flags, blame="security.masked_paths"))
        for slot, path, flags in readonly:
            self.build.append(st.ReadOnly(slot=slot, text=path, flags=flags, blame="security.readonly_paths"))
        if self.spec.rootfs is None and self._stage is not None:
            self.build.append(st.Unstage(slot=self._stage))  # there is no old root to go with


def _flags(mount: Bind | Tmpfs) -> int:
    return (
        (RDONLY if mount.readonly else 0)
        | (NOSUID if mount.nosuid else 0)
        | (NODEV if mount.nodev else 0)
        | (NOEXEC if mount.noexec else 0)
    )
