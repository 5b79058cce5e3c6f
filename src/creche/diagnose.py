"""Why the kernel said no: an errno and the surroundings to one sentence for people and the command that helps.

The decisions (`why_no_userns`, `why_no_id_map`, `why_no_mount`) are pure functions of a Machine, an errno and
Evidence. `gather` collects the Evidence: harmless questions that change nothing, asked only after a failure.
"""

from __future__ import annotations

import errno as e
import os
from typing import NamedTuple

import attrs

from . import _surroundings as surroundings
from .machine import Machine, probe

__all__ = [
    "Evidence",
    "Refusal",
    "apparmor_profile",
    "gather",
    "mounted_below",
    "why_filtered",
    "why_no_id_map",
    "why_no_layer",
    "why_no_mount",
    "why_no_namespaces",
    "why_no_own_id",
    "why_no_userns",
    "writable_cgroup",
]


class Refusal(NamedTuple):
    """What forbids it, and what to do about it; both are text for people."""

    sentence: str
    hint: str


@attrs.frozen
class Evidence:
    """Answers to the questions that tell one cause of an errno from another."""

    #: errno of clone3(NULL, 0): EINVAL when the kernel itself answers, anything else from a filter. None: not asked.
    clone3: int | None = None
    #: errno of mount(2) onto a path that does not exist: ENOENT from the kernel, else from a filter.
    mount: int | None = None
    #: user.max_*_namespaces that are 0, by name ("max_net_namespaces").
    zero_limits: tuple[str, ...] = ()
    #: The program that AppArmor has to know: the interpreter, links resolved.
    executable: str = "/usr/bin/python3"


def gather(machine: Machine, errno: int) -> Evidence:
    """Ask the harmless questions that *errno* raises.

    A filter's refusal is told from the kernel's by calls that the kernel refuses for their arguments: seccomp looks
    at the number first. Only calls that have just been answered are asked again, so a filter that kills can't.
    """
    clone3 = None
    if errno in (e.EPERM, e.ENOSYS, e.EACCES) and machine.seccomp:
        from . import _raw

        clone3 = -_raw.syscall("clone3", 0, 0)
    zero: tuple[str, ...] = ()
    if errno in (e.ENOSPC, e.EUSERS):
        kinds = sorted(name for name in surroundings.names("/proc/sys/user") if name.endswith("_namespaces"))
        zero = tuple(name for name in kinds if surroundings.number("/proc/sys/user/" + name) == 0)
    return Evidence(clone3=clone3, zero_limits=zero, executable=_executable())


def _executable() -> str:
    try:
        return os.readlink("/proc/self/exe")
    except OSError:
        return "/usr/bin/python3"


def apparmor_profile(executable: str) -> str:
    """The AppArmor profile that gives user namespaces to *executable* alone, for /etc/apparmor.d."""
    name = "creche-" + os.path.basename(executable)
    quoted = f'"{executable}"' if " " in executable else executable
    return (
        "abi <abi/4.0>,\n"
        "include <tunables/global>\n"
        f"profile {name} {quoted} flags=(unconfined) {{\n"
        "  userns,\n"
        f"  include if exists <local/{name}>\n"
        "}\n"
    )


def _install_profile(executable: str) -> str:
    name = "creche-" + os.path.basename(executable)
    return (
        f"let AppArmor allow it to {executable} (and every program that runs in it):\n"
        f"sudo tee /etc/apparmor.d/{name} <<'END'\n{apparmor_profile(executable)}END\n"
        f"sudo apparmor_parser -r /etc/apparmor.d/{name}\n"
        "or to everybody: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    )


def _sysctl(name: str, value: int) -> str:
    return f"sudo sysctl -w {name}={value}    # to keep it: a line in /etc/sysctl.d/90-creche.conf"


#: What to give to the engine around us, by what is in the way. "" is any other engine.
_FILTER = {
    "docker": "start the outer container with: docker run --security-opt seccomp=unconfined …"
    " (compose: security_opt: [seccomp=unconfined]), or with a profile that allows clone3, clone, unshare, mount,"
    " umount2, pivot_root, setns, sethostname, setdomainname, fsopen, fsconfig, fsmount, move_mount, open_tree and mount_setattr",
    "podman": "start the outer container with: podman run --security-opt seccomp=unconfined …,"
    " or with a profile that allows clone3, unshare, mount, pivot_root, setns, sethostname, setdomainname and the new mount calls",
    "kubernetes": "in the pod: securityContext: {seccompProfile: {type: Unconfined}}, or a Localhost profile that"
    " allows clone3, unshare, mount, pivot_root, setns, sethostname, setdomainname and the new mount calls",
    "": "the filter came with whoever started us (a container engine, systemd's SystemCallFilter= or"
    " RestrictNamespaces=, a sandbox): allow clone3, unshare, mount, pivot_root, setns and sethostname there",
}
_UNMASK = {
    "bwrap": "bwrap's --proc covers parts of the new one: share the outer one (--bind /proc /proc, without"
    " --unshare-pid), or mount one whole proc elsewhere in its view",
    "docker": "start the outer container with: docker run --security-opt systempaths=unconfined …",
    "podman": "start the outer container with: podman run --security-opt unmask=ALL …",
    "kubernetes": "in the pod: hostUsers: false and in the container securityContext: {procMount: Unmasked}",
    "": "whoever started us covers parts of /proc: have it mount one whole proc anywhere in our view"
    " (systemd: ProcSubset=all, ProtectKernelTunables=no, ProtectKernelLogs=no)",
}
_LSM = {
    "docker": "start the outer container with: docker run --security-opt apparmor=unconfined …",
    "podman": "start the outer container with: podman run --security-opt apparmor=unconfined"
    " --security-opt label=disable …",
    "kubernetes": "in the container: securityContext: {appArmorProfile: {type: Unconfined}}",
    "": "the reason is in the kernel's log: sudo dmesg | grep -iE 'apparmor|avc' | tail",
}


#: How an engine is told to give its container a cgroup that can be written to.
_WRITABLE = {
    "docker": "start the outer container with: docker run --security-opt writable-cgroups=true … where your Docker"
    " knows it, else --cgroupns=host -v /sys/fs/cgroup:/sys/fs/cgroup:rw",
    "podman": "start the outer container with: podman run --security-opt unmask=ALL … (cgroup v2), or with"
    " --cgroupns=host -v /sys/fs/cgroup:/sys/fs/cgroup:rw (cgroup v1)",
    "kubernetes": "the node's runtime must mount cgroups writable (containerd: cgroup_writable; CRI-O: the annotation"
    " io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw), or leave limits to the pod",
}


def _for_engine(table: dict[str, str], machine: Machine) -> str:
    return table.get(machine.engine or "", table[""])


def why_no_namespaces(errno: int, *, user: bool = True) -> Refusal:
    """Why clone3 with new namespaces answered *errno* just now, to this process: `why_no_userns` with its facts."""
    machine = probe(fresh=True)
    return why_no_userns(machine, errno, gather(machine, errno), user=user)


def why_no_userns(
    machine: Machine, errno: int, evidence: Evidence | None = None, *, user: bool = True
) -> Refusal:
    """Why clone3 with new namespaces answered *errno*; `user=False` where no user namespace was asked for.

    The order matters: a filter answers before the kernel looks at anything, then come limits, switches, ids.
    """
    found = gather(machine, errno) if evidence is None else evidence
    if errno in (e.EPERM, e.ENOSYS) and found.clone3 not in (None, e.EINVAL):
        name = e.errorcode.get(found.clone3, str(found.clone3))
        return Refusal(
            f"a seccomp filter around this process answers clone3 with {name}, so it can't make namespaces",
            _for_engine(_FILTER, machine),
        )
    if errno == e.ENOSYS:
        return Refusal(
            f"this kernel (it calls itself {machine.release}) has no clone3",
            "a kernel of 5.14 or later is needed",
        )
    if errno == e.EINVAL:
        return _missing_kind(machine)
    if errno in (e.ENOSPC, e.EUSERS):
        return _at_a_limit(machine, found)
    if errno == e.EAGAIN:
        return Refusal(
            "there is no room for another process here: RLIMIT_NPROC (ulimit -u) or a pids.max around us",
            "raise the one that is reached: ulimit -u, or the pids limit of the service or container around us",
        )
    if errno == e.ENOMEM:
        return Refusal(
            "the kernel has no memory for another process, or the init of our own pid namespace has ended",
            "see memory.max of the cgroup around us, or leave the namespace whose process 1 is gone",
        )
    if errno == e.EACCES:
        return Refusal(
            "a security module (SELinux, AppArmor or BPF) forbids user namespaces to us", _lsm(machine)
        )
    if errno == e.EPERM:
        return _not_permitted(machine, found, user)
    return Refusal(f"clone3 answered {os.strerror(errno)}", "creche doctor tells more")


def _missing_kind(machine: Machine) -> Refusal:
    expected = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
    missing = [kind for kind in expected if kind not in machine.namespaces]
    if not missing:
        return Refusal(
            "the kernel found the combination of namespaces invalid", "creche plan shows what it was asked"
        )
    kinds = ", ".join(missing)
    return Refusal(
        f"this kernel was built without {kinds} namespaces",
        f"run another kernel, or do without: namespaces=Namespaces({missing[0]}=False)",
    )


def _at_a_limit(machine: Machine, found: Evidence) -> Refusal:
    if machine.max_user_namespaces == 0:
        return Refusal(
            "user namespaces are switched off: user.max_user_namespaces is 0 here",
            _sysctl("user.max_user_namespaces", 15_000),
        )
    if found.zero_limits:
        name = found.zero_limits[0]
        return Refusal(f"user.{name} is 0 here", _sysctl(f"user.{name}", 15_000))
    where = "" if machine.initial_user_namespace else ", here or in a user namespace around us"
    return Refusal(
        f"the number of namespaces is at its limit (user.max_*_namespaces{where}, or 32 levels deep)",
        "end containers that are no longer needed, or raise it: "
        + _sysctl("user.max_user_namespaces", 60_000),
    )


def _not_permitted(machine: Machine, found: Evidence, user: bool) -> Refusal:
    admin = "CAP_SYS_ADMIN" in machine.capabilities
    if not user:
        sentence = "making namespaces without a user namespace takes CAP_SYS_ADMIN"
        return Refusal(sentence, "leave namespaces.user on, or run as root")
    if machine.unprivileged_userns_clone == 0 and not admin:
        return Refusal(
            "user namespaces are for root alone: kernel.unprivileged_userns_clone is 0",
            _sysctl("kernel.unprivileged_userns_clone", 1),
        )
    if machine.apparmor_restrict_userns and not admin:
        return Refusal(
            "AppArmor forbids user namespaces to programs without a profile that allows them"
            " (kernel.apparmor_restrict_unprivileged_userns is 1)",
            _install_profile(found.executable),
        )
    if not (machine.has_id(machine.euid) and _has(machine.gid_map, machine.egid)):
        return Refusal(
            f"our user or group ({machine.euid}:{machine.egid}) has no id in the user namespace around us",
            "have whoever made that namespace map it, or change to a user that exists in it",
        )
    if machine.chrooted:
        return Refusal(
            "this process is in a chroot, and the kernel gives no user namespace to a chrooted process",
            "enter the tree with a pivot_root instead of chroot: as a Container with rootfs=Directory(…), with"
            " bwrap --bind DIR /, or systemd-nspawn -D DIR",
        )
    if machine.apparmor_label not in (None, "unconfined"):
        return Refusal(
            f"AppArmor's profile {machine.apparmor_label} forbids user namespaces to us", _lsm(machine)
        )
    return Refusal(
        "the kernel forbids user namespaces to us, and no sysctl or filter is the cause: most likely a chroot onto a"
        " mount point, else a security module",
        "leave the chroot (a pivot_root does not have this limit), or see sudo dmesg | tail",
    )


def _has(id_map: tuple[object, ...], gid: int) -> bool:
    return any(x.inside <= gid < x.inside + x.count for x in id_map)  # type: ignore[attr-defined]


def _lsm(machine: Machine) -> str:
    return _for_engine(_LSM, machine)


def why_filtered(machine: Machine, call: str, errno: int) -> Refusal:
    """Why *call* was refused where the kernel itself allows it: in namespaces of its caller's own."""
    name = e.errorcode.get(errno, str(errno))
    return Refusal(
        f"a seccomp filter around this process answers {call} with {name}", _without(machine, call)
    )


def _without(machine: Machine, call: str) -> str:
    """The engine's remedy, and for a name the way to do without it."""
    other = "; or do without a name of its own: Namespaces(uts=False), creche run --uts host"
    return _for_engine(_FILTER, machine) + (other if call in ("sethostname", "setdomainname") else "")


def why_no_own_id(machine: Machine, errno: int, evidence: Evidence | None = None) -> Refusal:
    """Why the kernel refused to map our own id alone into a new user namespace."""
    if errno == e.EPERM and machine.euid == 0 and "CAP_SETFCAP" not in machine.capabilities:
        return Refusal(
            "this process is user 0 without CAP_SETFCAP, and such a one can't give its id 0 to a user namespace"
            " (user_namespaces(7), since Linux 5.12)",
            "run it as another user than 0 (creche run -u 1000, docker run --user 1000), or leave it the capability"
            " (--cap-add SETFCAP)",
        )
    return why_no_userns(machine, errno, evidence)


def why_no_id_map(machine: Machine, errno: int = e.EPERM, message: str = "") -> Refusal:
    """Why a user namespace got no range of ids: *message* is what newuidmap or newgidmap wrote, if they ran."""
    if machine.may_map_ids:
        ids = sum(extent.count for extent in machine.uid_map)
        what = (
            f"the kernel refused the id map ({os.strerror(errno)})"
            if machine.subuid
            else "no ids to give away"
        )
        return Refusal(
            f"{what}: the user namespace around us has {ids:,} of them",
            "start the container around us with more ids, for example 65,536",
        )
    if not (machine.subuid and machine.subgid):
        who = machine.user_name or str(machine.euid)
        missing = "/etc/subuid" if not machine.subuid else "/etc/subgid"
        return Refusal(
            f"{who} has no range of ids in {missing}, so a container of theirs has one user",
            f"sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {who}"
            "    # any 65,536 ids that nobody has",
        )
    helpers = [helper for helper in (machine.newuidmap, machine.newgidmap) if helper is not None]
    if len(helpers) < 2:
        return Refusal(
            "newuidmap and newgidmap, which map a range of ids for an ordinary user, are not installed",
            "sudo apt install uidmap    # Fedora, RHEL: dnf install shadow-utils",
        )
    if machine.no_new_privs:
        return Refusal(
            "this process has no_new_privs, so the setuid helper newuidmap runs without the privilege it needs",
            "start us without it (systemd: NoNewPrivileges=no; docker: no --security-opt no-new-privileges;"
            " kubernetes: allowPrivilegeEscalation: true), or use one user: leave uid_map out",
        )
    weak = [helper.path for helper in helpers if not helper.privileged]
    if weak:
        return Refusal(
            f"{weak[0]} is neither setuid root nor has it file capabilities",
            f"sudo chmod u+s {' '.join(weak)}    # or reinstall the package uidmap",
        )
    return Refusal(
        f"newuidmap refused the map: {message.strip() or os.strerror(errno)}",
        "compare the ids of uid_map and gid_map with /etc/subuid and /etc/subgid",
    )


def writable_cgroup(machine: Machine) -> str | None:
    """How the engine around us is told to give us a cgroup that can be written to; None where there is none, or nothing is known."""
    return _WRITABLE.get(machine.engine or "")


def mounted_below(path: str) -> tuple[str, ...]:
    """What is mounted in a folder: the places, in the order in which they were mounted."""
    top = os.path.realpath(path).rstrip("/") + "/"
    mounts = surroundings.parse_mounts(surroundings.text("/proc/thread-self/mountinfo"))
    return tuple(dict.fromkeys(mount.point for mount in mounts if mount.point.startswith(top) and mount.point != top))


def why_no_layer(below: tuple[str, ...]) -> Refusal:
    """Why a folder was no layer of an overlay, with what is mounted in it (`mounted_below`)."""
    if not below:
        return Refusal(
            "it is not a place that can be a layer: a file of /proc, or a mount that was made unbindable",
            "give a folder of a disk or of a tmpfs",
        )
    places = ", ".join(below[:3]) + (", …" if len(below) > 3 else "")
    return Refusal(
        f"a layer is one file system alone, others are mounted in this one ({places}), and who is not root may not see what they cover"
        " (mount_namespaces(7))",
        "give folders in which nothing is mounted, such as /usr, each with its place (Overlay(['/usr'], target='/usr')), or start as root",
    )


def why_no_mount(machine: Machine, errno: int, kind: str = "", evidence: Evidence | None = None) -> Refusal:
    """Why a mount inside the container's own user and mount namespace was refused; *kind* is the file system's."""
    found = evidence or Evidence(executable=_executable())
    if errno in (e.EPERM, e.EACCES) and kind in ("proc", "sysfs"):
        masked = machine.proc_masks if kind == "proc" else machine.sys_masks
        if masked:
            return Refusal(
                f"the kernel lets us mount no new {kind}, since the one around us is partly covered"
                f" ({', '.join(masked[:3])}{', …' if len(masked) > 3 else ''}): mount too revealing",
                _for_engine(_UNMASK, machine),
            )
        if kind == "proc" and not machine.proc_mounted:
            return Refusal(
                "there is no whole /proc in our view, so the kernel lets us mount no new one",
                "mount proc on /proc where we run, then try again",
            )
        if kind == "sysfs":
            return Refusal(
                "a new sysfs needs a network namespace of its own and a whole /sys in our view",
                "keep namespaces.network on, or bind what is needed: Bind('/sys/…', '/sys/…', readonly=True)",
            )
    if errno in (e.EPERM, e.ENOSYS) and found.mount not in (None, e.ENOENT):
        return Refusal(
            f"a seccomp filter around this process answers mount with {e.errorcode.get(found.mount or 0, '?')}",
            _for_engine(_FILTER, machine),
        )
    if errno == e.ENODEV:
        return Refusal(
            f"this kernel has no file system {kind}", f"load it (sudo modprobe {kind}) or do without"
        )
    if errno in (e.EPERM, e.EACCES):
        if machine.apparmor_restrict_userns and "CAP_SYS_ADMIN" not in machine.capabilities:
            return Refusal(
                "AppArmor takes every privilege from user namespaces of programs without a profile"
                " (kernel.apparmor_restrict_unprivileged_userns is 1)",
                _install_profile(found.executable),
            )
        if machine.apparmor_label not in (None, "unconfined"):
            return Refusal(f"AppArmor's profile {machine.apparmor_label} forbids mounts", _lsm(machine))
        if machine.seccomp:
            return Refusal(
                "mounting is refused, most likely by the seccomp filter around this process",
                _for_engine(_FILTER, machine),
            )
    return Refusal(f"mounting {kind or 'it'} was refused: {os.strerror(errno)}", "creche doctor tells more")
