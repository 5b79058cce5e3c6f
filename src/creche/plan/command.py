"""One command as Steps: descriptors, ids, limits, confinement, exec; the first and every later one alike."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Set

from attrs import frozen

from ..errors import SpecError, UnsupportedError
from ..machine import CAPABILITIES, Machine
from ..spec.filesystem import HostView
from ..spec.spec import Spec
from ..spec.tuning import RLIMIT_NAMES
from ..values import Value
from . import steps as st
from .ids import Identity, may_set_groups, no_groups
from .landlock import landlock_steps, tcp_steps
from .seccomp import Filter, compile_filter
from .seccomp.filters import NEW_LISTENER

__all__ = ["Account", "Descriptor", "Limited", "capability_mask", "confining_steps", "environment", "exec_step", "filter_of", "listens"]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NEWCGROUP = 0x0200_0000
_RESOURCES = {
    "cpu": 0, "fsize": 1, "data": 2, "stack": 3, "core": 4, "rss": 5, "nproc": 6, "nofile": 7, "memlock": 8, "as": 9,
    "locks": 10, "sigpending": 11, "msgqueue": 12, "nice": 13, "rtprio": 14, "rttime": 15,
}  # fmt: skip
Limited = tuple[tuple[str, tuple[int, int]], ...]  #: resource limits by name: soft, hard
assert _RESOURCES.keys() == RLIMIT_NAMES.keys()


@frozen(eq=False, repr=False)
class Account(Value):
    """Who the command is inside: numbers, looked up already."""

    uid: int
    gid: int
    groups: tuple[int, ...] | None = None
    home: str | None = None


@frozen(eq=False, repr=False)
class Descriptor(Value):
    """A descriptor of the command: its number there, and whether it is a pipe of ours."""

    number: int
    pipe: bool = False


def environment(spec: Spec, account: Account, caller: Mapping[str, str]) -> dict[str, str]:
    """The command's whole environment: nothing of the caller's but what was asked for."""
    if spec.env is None:
        home = account.home
        if home is None:
            home = "/tmp" if isinstance(spec.rootfs, HostView) else ("/root" if account.uid == 0 else "/")
        result = {"PATH": PATH, "HOME": home, "LANG": "C.UTF-8"}
    else:
        result = dict(spec.env)
    for name in spec.inherit_env:
        if name in caller:
            result[name] = caller[name]
    return result


def _strings(words: list[str] | tuple[str, ...]) -> bytes:
    return b"".join(word.encode("utf-8", "surrogateescape") + b"\0" for word in words)


def capability_mask(spec: Spec) -> int:
    """The capabilities that a command keeps, as bits."""
    return sum(1 << CAPABILITIES.index(name) for name in spec.security.capabilities)


def confining_steps(
    spec: Spec, machine: Machine, who: Identity, account: Account, descriptors: tuple[Descriptor, ...], *, cgroups: int, rlimits: Limited
) -> list[st.Step]:
    """The Steps of one command but the last: the same for commands that differ in their words and variables alone.

    Passed with it: its descriptors in order, then `cgroups` descriptors of cgroup.procs.
    """
    steps: list[st.Step] = [st.SetSid()]
    security = spec.security
    passed = {item.number: st.PASSED + index for index, item in enumerate(descriptors)}
    if spec.tty is not None:
        slot = st.PASSED + len(descriptors) + cgroups
        other = account.uid != who.uid
        steps.append(st.Pty(slot=slot, a=account.uid, b=int(other), blame="tty"))
        for number in (0, 1, 2):
            passed[number] = slot
    elif who.new and not who.private and account.uid != who.uid:
        # The pipes are the caller's; whoever the command is must be able to open /dev/stdout again.
        steps += [
            st.Own(slot=passed[item.number], a=account.uid, b=account.gid, blame="user") for item in descriptors if item.pipe
        ]
    for index in range(cgroups):
        steps.append(st.Cgroup(slot=st.PASSED + len(descriptors) + index, blame="limits"))
    if cgroups and spec.namespaces.cgroup is True:
        steps.append(st.Unshare(a=NEWCGROUP, blame="namespaces.cgroup"))
    pairs = b"".join(struct.pack("=II", slot, number) for number, slot in sorted(passed.items()))
    steps.append(st.Descriptors(text=pairs, a=int(spec.tty is not None), blame="pass_fds" if spec.pass_fds else "stdin"))
    if spec.nice is not None:  # before a limit of it
        steps.append(st.Nice(a=spec.nice, blame="nice"))
    limits = {**dict(rlimits), **spec.rlimits}
    # What follows opens descriptors of its own, so their limit comes last; but to raise a hard one takes the power that goes before.
    late = {"nofile"} if spec.namespaces.user is not False else set()
    steps += _limits(limits, limits.keys() - late)
    steps.append(st.Umask(a=0o022 if spec.umask is None else spec.umask, blame="umask"))
    if spec.oom_score_adj is not None and spec.has_init:
        steps.append(st.Write(slot=st.PROC, text="self/oom_score_adj", text2=str(spec.oom_score_adj), flags=st.OWN, blame="oom_score_adj"))
    mask = capability_mask(spec)
    steps.append(st.KeepCaps())
    steps += _ids(spec, machine, who, account)
    if security.selinux is not None and not machine.selinux:
        raise UnsupportedError("security.selinux: SELinux is not in force in this kernel", "boot with it (selinux=1 security=selinux), or leave the field out")
    for label, path, field in ((security.apparmor, "self/attr/apparmor/exec", "apparmor"), (security.selinux, "self/attr/exec", "selinux")):
        if label is not None:
            text = f"exec {label}" if field == "apparmor" else label
            steps.append(st.Write(slot=st.PROC, text=path, text2=text, flags=st.OWN, blame=f"security.{field}"))
    if security.privileged and not security.capabilities:
        # Root has them all by its exec; what others could inherit would be theirs by a file that says so (CVE-2022-24769).
        steps.append(st.Capabilities(flags=st.NOT_INHERITED, blame="security.privileged"))
    else:
        steps.append(st.Capabilities(a=mask, flags=st.NO_ROOT if security.no_new_privs else 0, blame="security.capabilities"))
    if security.no_new_privs:
        steps.append(st.NoNewPrivs(blame="security.no_new_privs"))
    steps.append(st.Chdir(text=spec.cwd or "/", blame="cwd"))
    steps += landlock_steps(security.landlock, machine)
    steps += _limits(limits, late)
    steps.append(st.Signals(a=int(spec.has_init)))
    steps += tcp_steps(security.landlock, machine)
    steps += _filters(spec, machine)
    return steps


def exec_step(spec: Spec, words: tuple[str, ...], account: Account, caller: Mapping[str, str]) -> st.Exec:
    """The last Step of the command `words`."""
    variables = environment(spec, account, caller)
    name = words[0]
    if "/" in name:
        places = [name]
    else:
        places = [f"{folder or '.'}/{name}" for folder in variables.get("PATH", PATH).split(":")]
    return st.Exec(
        text=_strings(words), a=len(words),
        text2=_strings([f"{key}={value}" for key, value in variables.items()]), b=len(variables),
        text3=_strings(places), blame="command",
    )  # fmt: skip


def filter_of(spec: Spec, machine: Machine) -> Filter | None:
    """The filter of a command, compiled once for all that have the same."""
    security = spec.security
    return compile_filter(
        security.seccomp,
        arch=machine.arch,
        capabilities=frozenset(CAPABILITIES) if security.privileged and not security.capabilities else frozenset(security.capabilities),
        kernel=machine.kernel[:2],
        report=security.seccomp_report,
    )


def listens(steps: Iterable[st.Step]) -> bool:
    """Whether a command with these Steps brings a listener with it."""
    return any(isinstance(step, st.Seccomp) and step.a & NEW_LISTENER for step in steps)


def _filters(spec: Spec, machine: Machine) -> list[st.Step]:
    security, compiled = spec.security, filter_of(spec, machine)
    if compiled is None:
        return []
    if not security.no_new_privs and not security.capabilities and not security.privileged:
        raise SpecError("security.no_new_privs", False, "a seccomp filter needs it, or CAP_SYS_ADMIN: leave it True, or give seccomp=None")
    last = st.Seccomp(text=compiled.program, a=compiled.flags, blame="security.seccomp")
    if not compiled.needs_listener:
        return [last]
    return [st.Seccomp(text=compiled.listener, a=compiled.listener_flags, blame="security.seccomp"), last]


def _limits(limits: Mapping[str, tuple[int, int]], names: Set[str]) -> list[st.Step]:
    return [st.Rlimit(slot=_RESOURCES[name], a=soft, b=hard, blame=f"rlimits.{name}") for name, (soft, hard) in limits.items() if name in names]


def _ids(spec: Spec, machine: Machine, who: Identity, account: Account) -> list[st.Step]:
    steps: list[st.Step] = []
    if account.groups:
        if not may_set_groups(machine, who):
            raise SpecError("groups", spec.groups, "setgroups is denied where one id is mapped: give sub-ids and an explicit gid_map")
        groups = account.groups if spec.security.no_new_privs else dict.fromkeys((account.gid, *account.groups))
        steps.append(st.Groups(text=struct.pack(f"={len(groups)}I", *groups), blame="groups"))
    elif may_set_groups(machine, who):
        if spec.security.no_new_privs:
            steps.append(no_groups(spec))
        else:  # a setgid program leaves the first group, unless it is among the others too: and a file may refuse it (CVE-2022-36109)
            steps.append(st.Groups(text=struct.pack("=I", account.gid), blame="groups"))
    if not who.maps(account.uid):
        raise SpecError("user", spec.user, f"uid {account.uid} is not mapped in the container: widen uid_map, or give another user")
    if not who.maps_group(account.gid):
        raise SpecError("user", spec.user, f"gid {account.gid} is not mapped in the container: widen gid_map, or give another group")
    if who.new or spec.namespaces.user is not False or spec.user is not None:
        steps.append(st.User(a=account.uid, b=account.gid, blame="user"))
    return steps
