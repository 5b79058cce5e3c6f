"""What this kernel, user and machine allow, read once into a frozen value; probing changes nothing."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import attrs

from . import _surroundings as surroundings
from .spec.security import CAPABILITIES
from .values import Value

__all__ = [
    "CAPABILITIES",
    "DEFAULT_SUBID_COUNT",
    "DEFAULT_SUBID_START",
    "Extent",
    "Helper",
    "Machine",
    "probe",
]

#: Where root's containers live when neither "creche" nor "root" has lines in /etc/subuid: 4,096 ranges of 65,536 ids, which systemd's
#: "Users, Groups, UIDs and GIDs" leaves free (1879048192 to 2147483647), so no account and no nspawn container has them.
DEFAULT_SUBID_START = 0x7000_0000
DEFAULT_SUBID_COUNT = 0x1000_0000

#: The oldest kernel that is supported (RHEL 9).
KERNEL_FLOOR = (5, 14)


@attrs.frozen(eq=False, repr=False)
class Extent(Value):
    """One line of a uid_map or gid_map, user_namespaces(7): *count* ids from *inside* are *outside* in the parent."""

    inside: int
    outside: int
    count: int


class Helper(NamedTuple):
    """newuidmap(1) or newgidmap(1): where it is, and whether it has the privilege to do its work."""

    path: str
    privileged: bool


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Machine(Value):
    """Everything that decides what a Plan may hold, as one value; tests build theirs from `Machine.example()`."""

    # the kernel
    kernel: tuple[int, int, int]
    release: str
    arch: str
    namespaces: frozenset[
        str
    ]  # names in /proc/self/ns: "user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"
    landlock_abi: int | None = None  # None: not asked (see `probe`); 0: not there
    cap_last: int = len(CAPABILITIES) - 1

    # who we are
    uid: int
    euid: int
    gid: int
    egid: int
    groups: tuple[int, ...]
    user_name: str | None
    capabilities: frozenset[str]  # effective
    bounding: frozenset[str]
    no_new_privs: bool = False
    clone3_refused: int = 0  # the errno of a filter around us, where that was asked (see `probe`)
    refusal: str = ""  # why a container could not be made, where one was tried (see `starting`)
    seccomp: int = 0  # 0: no filter, 2: at least one (Seccomp in /proc/PID/status)

    # our user namespace, and which ids of it are ours to give
    uid_map: tuple[Extent, ...]
    gid_map: tuple[Extent, ...]
    setgroups_denied: bool = False
    subuid: tuple[tuple[int, int], ...] = ()  # (first id, count), as ids of our own user namespace
    subgid: tuple[tuple[int, int], ...] = ()
    subid_source: str = "none"  # where they are from, in words for people
    newuidmap: Helper | None = None
    newgidmap: Helper | None = None

    # switches; None where this kernel has no such sysctl
    max_user_namespaces: int | None = None
    max_net_namespaces: int | None = None
    unprivileged_userns_clone: int | None = None  # Debian's, 0 forbids
    apparmor_restrict_userns: int | None = None  # Ubuntu's, 1 forbids to all but named profiles
    apparmor_label: str | None = None  # what confines us, "unconfined" included; None without AppArmor
    selinux: bool = False  # in force: its file system is one that the kernel knows
    memfd_noexec: int = 0
    io_uring_disabled: int | None = None

    # the surroundings
    chrooted: bool = False  # certain when True; a chroot onto a mount point can't be seen from inside
    proc_mounted: bool = True
    proc_masks: tuple[str, ...] = ()  # mounts that cover parts of /proc: a fresh one is "too revealing"
    sys_masks: tuple[str, ...] = ()
    engine: str | None = (
        None  # "docker", "podman", "kubernetes", "wsl", "bwrap", …: for the wording of advice alone
    )

    @property
    def may_map_ids(self) -> bool:
        """Whether we may write any map of ids ourselves: CAP_SETUID and CAP_SETGID in our user namespace."""
        return {"CAP_SETUID", "CAP_SETGID"} <= self.capabilities

    @property
    def is_root(self) -> bool:
        """Whether we hold what root holds in our user namespace: ids and mounts."""
        return self.may_map_ids and "CAP_SYS_ADMIN" in self.capabilities

    @property
    def initial_user_namespace(self) -> bool:
        """Whether our ids are the machine's own: no user namespace around us that changes them."""
        return self.uid_map == (Extent(0, 0, 0xFFFF_FFFF),)

    @property
    def helpers_work(self) -> bool:
        """Whether newuidmap and newgidmap can serve us: there, privileged, and no no_new_privs in the way."""
        both = self.newuidmap, self.newgidmap
        return not self.no_new_privs and all(helper is not None and helper.privileged for helper in both)

    @property
    def many_ids(self) -> bool:
        """Whether a container can have more than one user: a range of ids, and a way to map it."""
        return bool(self.subuid and self.subgid) and (self.may_map_ids or self.helpers_work)

    @property
    def has_network_namespaces(self) -> bool:
        return "net" in self.namespaces

    @property
    def has_time_namespaces(self) -> bool:
        return "time" in self.namespaces

    @property
    def supported(self) -> bool:
        """Whether the kernel is 5.14 or later."""
        return self.kernel >= KERNEL_FLOOR

    @property
    def tmpfs_user_xattr(self) -> bool:
        """tmpfs stores user.* attributes, which overlayfs in a user namespace needs on its upper layer: 6.6."""
        return self.kernel >= (6, 6)

    @property
    def overlay_lowerdir_plus(self) -> bool:
        """overlayfs takes layers one at a time ("lowerdir+"): 6.7; before, one string of at most 255 bytes."""
        return self.kernel >= (6, 7)

    @property
    def overlay_by_fd(self) -> bool:
        """overlayfs takes its layers as descriptors: 6.13."""
        return self.kernel >= (6, 13)

    @property
    def tmpfs_idmap(self) -> bool:
        """tmpfs trees can be idmapped: 6.3."""
        return self.kernel >= (6, 3)

    @property
    def overlay_log(self) -> bool:
        """overlayfs tells in the fs context's log what it did not like: 6.5."""
        return self.kernel >= (6, 5)

    def has_id(self, uid: int) -> bool:
        """Whether *uid* exists in our user namespace."""
        return any(extent.inside <= uid < extent.inside + extent.count for extent in self.uid_map)

    @classmethod
    def example(cls) -> Machine:
        """An ordinary user on an ordinary machine, for tests: uid 1000 with 65,536 sub-ids, kernel 6.8, nothing odd."""
        whole = (Extent(0, 0, 0xFFFF_FFFF),)
        return cls(
            kernel=(6, 8, 0),
            release="6.8.0",
            arch="x86_64",
            namespaces=frozenset({"user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"}),
            landlock_abi=4,
            uid=1000,
            euid=1000,
            gid=1000,
            egid=1000,
            groups=(1000,),
            user_name="user",
            capabilities=frozenset(),
            bounding=frozenset(CAPABILITIES),
            uid_map=whole,
            gid_map=whole,
            subuid=((100_000, 65_536),),
            subgid=((100_000, 65_536),),
            subid_source="/etc/subuid",
            newuidmap=Helper("/usr/bin/newuidmap", True),
            newgidmap=Helper("/usr/bin/newgidmap", True),
            max_user_namespaces=63_000,
        )

    @classmethod
    def example_root(cls) -> Machine:
        """Root on that machine, with every capability and a private range of ids."""
        return attrs.evolve(
            cls.example(),
            uid=0,
            euid=0,
            gid=0,
            egid=0,
            groups=(0,),
            user_name="root",
            capabilities=frozenset(CAPABILITIES),
            subuid=((DEFAULT_SUBID_START, DEFAULT_SUBID_COUNT),),
            subgid=((DEFAULT_SUBID_START, DEFAULT_SUBID_COUNT),),
            subid_source="default",
        )


def probe(*, landlock: bool = False, clone3: bool = False, fresh: bool = False) -> Machine:
    """Read what this process may do; remembered until its ids change.

    Reading takes well under a millisecond. `landlock=True` also asks the kernel for Landlock's version, which loads
    ctypes (some 5 ms, once); `clone3=True` whether a filter around us refuses that call. `fresh=True` reads everything again, for a process whose surroundings changed under it
    (a new user namespace, a sysctl). The pid is part of the key: a fork may have changed its surroundings.
    """
    if fresh:
        _read.cache_clear()
    machine = _read(os.getpid(), os.getresuid(), os.getresgid())
    if clone3 and machine.seccomp:
        machine = attrs.evolve(machine, clone3_refused=_clone3_refused())
    return attrs.evolve(machine, landlock_abi=_landlock_abi()) if landlock else machine


@lru_cache(maxsize=4)
def _read(_pid: int, uids: tuple[int, int, int], gids: tuple[int, int, int]) -> Machine:
    uname = os.uname()
    status = surroundings.parse_status(surroundings.text("/proc/thread-self/status"))
    uid_map = parse_id_map(surroundings.text("/proc/self/uid_map"))
    gid_map = parse_id_map(surroundings.text("/proc/self/gid_map"))
    mounts = surroundings.parse_mounts(surroundings.text("/proc/thread-self/mountinfo"))
    effective = capability_names(status.get("CapEff", "0"))
    name = surroundings.user_name(surroundings.text("/etc/passwd"), uids[1])
    maps_ids = {"CAP_SETUID", "CAP_SETGID"} <= effective
    subuid, source = sub_ids(surroundings.text("/etc/subuid"), name, uids[1], maps_ids, uid_map)
    subgid, _ = sub_ids(surroundings.text("/etc/subgid"), name, uids[1], maps_ids, gid_map)
    return Machine(
        kernel=surroundings.parse_release(uname.release),
        release=uname.release,
        arch=uname.machine,
        namespaces=frozenset(name for name in surroundings.names("/proc/self/ns") if "_for_" not in name),
        cap_last=surroundings.number("/proc/sys/kernel/cap_last_cap") or len(CAPABILITIES) - 1,
        uid=uids[0],
        euid=uids[1],
        gid=gids[0],
        egid=gids[1],
        groups=tuple(os.getgroups()),
        user_name=name,
        capabilities=effective,
        bounding=capability_names(status.get("CapBnd", "0")),
        no_new_privs=status.get("NoNewPrivs") == "1",
        seccomp=int(status.get("Seccomp", "0")),
        uid_map=uid_map,
        gid_map=gid_map,
        setgroups_denied=surroundings.text("/proc/self/setgroups").strip() == "deny",
        subuid=subuid,
        subgid=subgid,
        subid_source=source,
        newuidmap=_helper("newuidmap"),
        newgidmap=_helper("newgidmap"),
        max_user_namespaces=surroundings.number("/proc/sys/user/max_user_namespaces"),
        max_net_namespaces=surroundings.number("/proc/sys/user/max_net_namespaces"),
        unprivileged_userns_clone=surroundings.number("/proc/sys/kernel/unprivileged_userns_clone"),
        apparmor_restrict_userns=surroundings.number(
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
        ),
        apparmor_label=surroundings.apparmor_label(),
        selinux="\tselinuxfs\n" in surroundings.text("/proc/filesystems"),
        memfd_noexec=surroundings.number("/proc/sys/vm/memfd_noexec") or 0,
        io_uring_disabled=surroundings.number("/proc/sys/kernel/io_uring_disabled"),
        chrooted=bool(mounts) and "/" not in {mount.point for mount in mounts},
        proc_mounted=any(mount.point == "/proc" and mount.kind == "proc" for mount in mounts) or not mounts,
        proc_masks=surroundings.masks(mounts, "/proc", "proc"),
        sys_masks=surroundings.masks(mounts, "/sys", "sysfs"),
        engine=surroundings.engine(uname.release, mounts),
    )


def capability_names(mask: str) -> frozenset[str]:
    """A mask as /proc/PID/status writes it (hexadecimal) to the names it holds."""
    bits = int(mask, 16)
    return frozenset(name for number, name in enumerate(CAPABILITIES) if bits >> number & 1)


def parse_id_map(text: str) -> tuple[Extent, ...]:
    """/proc/PID/uid_map or gid_map to its lines; empty while no map has been written."""
    lines = (line.split() for line in text.splitlines())
    return tuple(Extent(int(inside), int(outside), int(count)) for inside, outside, count in lines)


def parse_sub_ids(text: str, names: Iterable[str]) -> tuple[tuple[int, int], ...]:
    """The ranges that subuid(5) gives to any of *names* (login names or ids in digits); broken lines give nothing."""
    wanted = set(names)
    found = []
    for line in text.splitlines():
        parts = line.split(":")
        if len(parts) == 3 and parts[0] in wanted and parts[1].isdecimal() and parts[2].isdecimal():
            start, count = int(parts[1]), int(parts[2])
            if count and start + count <= 0xFFFF_FFFF:
                found.append((start, count))
    return tuple(found)


def sub_ids(
    text: str, name: str | None, uid: int, may_map: bool, id_map: tuple[Extent, ...]
) -> tuple[tuple[tuple[int, int], ...], str]:
    """Which ids the caller may give to its containers, and where that was found.

    An ordinary user has what subuid(5) names. A caller that may map any id (root) takes the lines of "creche", or
    its own, or the documented default; inside a user namespace that lacks the default, the upper half of its
    largest range, away from the accounts that live in the lower one.
    """
    own = [str(uid), *([name] if name else [])]
    if may_map:
        for who in (["creche"], own):
            if ranges := parse_sub_ids(text, who):
                return ranges, f"/etc/subuid ({who[-1]})"
        end = DEFAULT_SUBID_START + DEFAULT_SUBID_COUNT
        if any(e.inside <= DEFAULT_SUBID_START and e.inside + e.count >= end for e in id_map):
            return ((DEFAULT_SUBID_START, DEFAULT_SUBID_COUNT),), "default"
        largest = max(id_map, key=lambda extent: extent.count, default=Extent(0, 0, 0))
        half = largest.count // 2
        if half:
            return ((largest.inside + largest.count - half, half),), "the upper half of our own ids"
        return (), "none"
    ranges = parse_sub_ids(text, own)
    return ranges, "/etc/subuid" if ranges else "none"


def _helper(name: str) -> Helper | None:
    """The helper as newuidmap(1) is found by a shell, and whether it is setuid root or has file capabilities."""
    for folder in ("/usr/bin", "/bin", "/usr/local/bin", *os.get_exec_path()):
        path = os.path.join(folder, name)
        try:
            found = os.stat(path)
        except OSError:
            continue
        if stat.S_ISREG(found.st_mode) and os.access(path, os.X_OK):
            privileged = bool(found.st_mode & stat.S_ISUID) and found.st_uid == 0
            return Helper(path, privileged or _has_file_capabilities(path))
    return None


def _has_file_capabilities(path: str) -> bool:
    try:
        return bool(os.getxattr(path, "security.capability"))
    except OSError:
        return False


@lru_cache(maxsize=1)
def _clone3_refused() -> int:
    """What a filter answers to clone3; 0 where the kernel itself does: EINVAL for arguments of no size, before anything else.

    A filter that killed for it would have killed us already: the C library makes threads by that call.
    """
    from . import _raw

    answer = -_raw.syscall("clone3", 0, 0)
    return 0 if answer == errno.EINVAL else answer


def _landlock_abi() -> int:
    """Landlock's version, by landlock_create_ruleset(2) with LANDLOCK_CREATE_RULESET_VERSION; 0 where it is off."""
    from . import _raw

    return max(_raw.syscall("landlock_create_ruleset", 0, 0, 1), 0)
