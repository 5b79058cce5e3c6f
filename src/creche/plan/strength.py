"""A weaker Spec for surroundings that forbid the whole one, where it allows that (`Spec.min_strength`); pure."""

from __future__ import annotations

import os

import attrs

from ..errors import UnsupportedError
from ..hostview import HostListing
from ..machine import Machine
from ..spec.filesystem import Bind, HostView, Sysfs
from ..spec.namespaces import Namespaces
from ..spec.security import Landlock, SeccompRules, Security
from ..spec.spec import Spec
from ..spec.strength import Strength

__all__ = ["no_namespaces", "weaken"]

SCOPES_ABI = 6  #: Landlock knows signals and abstract sockets from Linux 6.12 on
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
SOCKETS = ("socket",)  # and with it pairs of datagrams; a pair of streams (socketpair) reaches nobody
#: What Landlock leaves open to a process of the same user (landlock(7), "Current limitations"), and namespaces would have closed.
LEFT_OPEN = (
    "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "fchownat", "lchown", "file_setattr", "setxattr", "lsetxattr", "fsetxattr",
    "setxattrat", "removexattr", "lremovexattr", "fremovexattr", "removexattrat", "utime", "utimes", "futimesat", "utimensat",
    "inotify_add_watch", "prlimit64", "setpriority", "ioprio_set", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler",
    "process_mrelease", "msgctl", "msgget", "msgrcv", "msgsnd", "semctl", "semget", "semop", "semtimedop", "shmat", "shmctl", "shmget", "mq_open", "mq_unlink",
)  # fmt: skip


def weaken(spec: Spec, machine: Machine, view: HostListing) -> tuple[Spec, Strength]:
    """The Spec that is really compiled, and the rung of the ladder that it stands on.

    FULL, and the Spec as it is, wherever that can be or nothing less is allowed (then the kernel's own refusal is told).
    Raises UnsupportedError where less is allowed and this Spec can't be had on that rung either.
    """
    least = Strength(spec.min_strength)
    if least is Strength.FULL or spec.namespaces.user is not True:
        return spec, Strength.FULL
    if why := no_namespaces(machine):
        if least is not Strength.LANDLOCK:
            raise UnsupportedError(f"min_strength {least.value!r}: {why}", "allow min_strength 'landlock', or lift that: creche doctor tells how")
        return _landlocked(spec, machine, view, why), Strength.LANDLOCK
    if spec.namespaces.network is True and (machine.max_net_namespaces == 0 or not machine.has_network_namespaces):
        return _without_network(spec), Strength.NO_NETWORK_NAMESPACE
    return spec, Strength.FULL


def no_namespaces(machine: Machine) -> str:
    """Why no container can be made of namespaces here, in words; empty where nothing is known to be in the way."""
    privileged = "CAP_SYS_ADMIN" in machine.capabilities
    if machine.clone3_refused:
        return f"a seccomp filter around this process refuses clone3 ({os.strerror(machine.clone3_refused)})"
    if "user" not in machine.namespaces:
        return "this kernel has no user namespaces"
    if machine.max_user_namespaces == 0:
        return "user namespaces are switched off (user.max_user_namespaces is 0)"
    if machine.unprivileged_userns_clone == 0 and not privileged:
        return "user namespaces are root's alone (kernel.unprivileged_userns_clone is 0)"
    if machine.apparmor_restrict_userns == 1 and machine.apparmor_label in (None, "unconfined") and not privileged:
        return "AppArmor takes every privilege from user namespaces (kernel.apparmor_restrict_unprivileged_userns is 1)"
    if machine.chrooted:
        return "this process is in a chroot, where nobody gets a user namespace"
    return machine.refusal


def _refuse(rung: Strength, field: str, why: str) -> UnsupportedError:
    return UnsupportedError(f"{field} on the rung {rung.value!r}, which is all that can be had here: {why}", "leave it out, or allow namespaces: creche doctor tells how")


def _denying(security: Security, rung: Strength, names: tuple[str, ...]) -> SeccompRules:
    """The filter with these calls taken from it."""
    rules = security.seccomp
    if isinstance(rules, str):
        rules = SeccompRules(base=rules)
    if not isinstance(rules, SeccompRules):
        raise _refuse(rung, "security.seccomp", "the filter must refuse more there, which a profile of one's own, or none, does not")
    if both := sorted({*rules.allow, *rules.notify} & set(names)):
        raise _refuse(rung, "security.seccomp", f"{both[0]} must be refused there")
    return attrs.evolve(rules, deny=tuple(dict.fromkeys((*rules.deny, *names))))


def _without_network(spec: Spec) -> Spec:
    rung = Strength.NO_NETWORK_NAMESPACE
    for mount in spec.mounts:
        if isinstance(mount, Sysfs):
            raise _refuse(rung, "mounts", "a sysfs belongs to a network namespace")
    if any(name.startswith("net.") for name in spec.sysctl):
        raise _refuse(rung, "sysctl", "net.… belongs to a network namespace")
    return attrs.evolve(
        spec,
        namespaces=attrs.evolve(spec.namespaces, network=False),
        security=attrs.evolve(spec.security, seccomp=_denying(spec.security, rung, SOCKETS)),
    )


def _landlocked(spec: Spec, machine: Machine, view: HostListing, why: str) -> Spec:
    rung, security, kinds = Strength.LANDLOCK, spec.security, attrs.asdict(spec.namespaces)
    if (machine.landlock_abi or 0) < SCOPES_ABI:
        raise UnsupportedError(f"min_strength 'landlock': {why}; and this kernel's Landlock (ABI {machine.landlock_abi or 0}) knows no scopes, which came with {SCOPES_ABI} (Linux 6.12)", "boot a newer kernel, or lift the first")
    asked = {
        "uid_map": spec.uid_map, "gid_map": spec.gid_map, "hostname": spec.hostname, "domainname": spec.domainname, "sysctl": spec.sysctl,
        "time_offsets": spec.time_offsets, "tty": spec.tty, "security.capabilities": security.capabilities, "security.privileged": security.privileged,
        "security.masked_paths": security.masked_paths, "security.readonly_paths": security.readonly_paths, "security.landlock": security.landlock,
    }  # fmt: skip
    for field, value in asked.items():
        if value:
            raise _refuse(rung, field, "it takes namespaces, or a Landlock of one's own")
    if spec.command is None:
        raise _refuse(rung, "command", "without an init of ours there must be one")
    if not isinstance(spec.rootfs, HostView):
        raise _refuse(rung, "rootfs", "there are no mounts, so it must be HostView()")
    if not security.no_new_privs:
        raise _refuse(rung, "security.no_new_privs", "Landlock and the filter need it")
    for name, value in kinds.items():
        if not isinstance(value, bool):
            raise _refuse(rung, f"namespaces.{name}", "no namespace can be joined")
    read, write = [path for path, _ in view.trees] + [path for path, _ in view.files], [*DEVICES, *spec.devices]
    run = [path for path, directory in view.trees if directory and not path.startswith("/etc")]
    for index, mount in enumerate(spec.mounts):
        if not isinstance(mount, Bind) or os.path.normpath(mount.source) != mount.target or mount.uid_map or mount.idmap:
            raise _refuse(rung, f"mounts[{index}]", "there are no mounts, so it must be a Bind of a path to itself")
        read.append(mount.target)
        write += [] if mount.readonly else [mount.target]
        run += [] if mount.noexec else [mount.target]
    rules = Landlock(read=_unique([*read, *write]), write=_unique(write), execute=_unique(run), scoped=True)
    sockets = SOCKETS if spec.namespaces.network is True else ()
    return attrs.evolve(
        spec, init=False, rootfs=None, mounts=(), devices=(),
        namespaces=Namespaces(**dict.fromkeys(kinds, False)),
        security=attrs.evolve(security, landlock=rules, seccomp=_denying(security, rung, (*LEFT_OPEN, *sockets))),
    )  # fmt: skip


def _unique(paths: list[str]) -> list[str]:
    return list(dict.fromkeys(paths))
