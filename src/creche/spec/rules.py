"""The rules between fields of a Spec: what each field alone allows, and two together cannot mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import SpecError
from .filesystem import HostView
from .identity import covers
from .tuning import sysctl_namespace

if TYPE_CHECKING:
    from .spec import Spec

__all__ = ["check_answered", "check_rules"]


def check_rules(spec: Spec) -> None:
    """Raises SpecError for the first rule that `spec` breaks; each names both fields."""
    for rule in (_command, _ids, _user, _names, _files, _knobs, _terminal, _privilege, _tracing, _listener):
        rule(spec)


def _command(spec: Spec) -> None:
    if spec.command is None and not spec.has_init:
        why = "init is False" if not spec.init else "namespaces.pid is not True, so there is no init of ours"
        raise SpecError("command", None, f"{why}, and nothing would keep the container alive: give a command")


def _ids(spec: Spec) -> None:
    for name, maps in (("uid_map", spec.uid_map), ("gid_map", spec.gid_map)):
        if maps is not None and spec.namespaces.user is not True:
            raise SpecError(
                name,
                maps,
                f"only a new user namespace can be mapped: give namespaces.user=True, or no {name}",
            )


def _user(spec: Spec) -> None:
    """Who is given as a number must be somebody inside; names are looked up later, in the container's root."""
    ref = spec.user_ref
    if (
        ref is not None
        and ref.uid is not None
        and spec.uid_map is not None
        and not covers(spec.uid_map, ref.uid)
    ):
        raise SpecError(
            "user",
            spec.user,
            f"uid_map does not map the uid {ref.uid}: widen uid_map, or choose one that it maps",
        )
    if spec.gid_map is None:
        return
    if ref is not None and ref.gid is not None and not covers(spec.gid_map, ref.gid):
        raise SpecError(
            "user",
            spec.user,
            f"gid_map does not map the gid {ref.gid}: widen gid_map, or choose one that it maps",
        )
    for index, group in enumerate(spec.groups or ()):
        if isinstance(group, int) and not covers(spec.gid_map, group):
            raise SpecError(
                f"groups[{index}]",
                group,
                "gid_map does not map it: widen gid_map, or choose one that it maps",
            )


def _names(spec: Spec) -> None:
    for name, value in (("hostname", spec.hostname), ("domainname", spec.domainname)):
        if value is not None and spec.namespaces.uts is not True:
            raise SpecError(
                name,
                value,
                "without a UTS namespace of its own it would rename others: give namespaces.uts=True",
            )


def _files(spec: Spec) -> None:
    if spec.namespaces.mount is True:
        return
    wish = "it takes a mount namespace of the container's own: give namespaces.mount=True"
    if spec.rootfs is not None:
        hint = (
            "" if not isinstance(spec.rootfs, HostView) else ", or rootfs=None for the file system as it is"
        )
        raise SpecError("rootfs", spec.rootfs, wish + hint)
    for name, value in (
        ("mounts", spec.mounts),
        ("devices", spec.devices),
        ("security.masked_paths", spec.security.masked_paths),
        ("security.readonly_paths", spec.security.readonly_paths),
    ):
        if value:
            raise SpecError(name, value, wish)


def _knobs(spec: Spec) -> None:
    for name in spec.sysctl:
        kind = sysctl_namespace(name)
        if kind is not None and getattr(spec.namespaces, kind) is not True:
            wish = f"without a namespace of its own it would change the caller's: give namespaces.{kind}=True"
            raise SpecError(f"sysctl[{name!r}]", spec.sysctl[name], wish)
    if spec.time_offsets and spec.namespaces.time is not True:
        raise SpecError(
            "time_offsets",
            spec.time_offsets,
            "only a new time namespace has offsets: give namespaces.time=True",
        )


def _terminal(spec: Spec) -> None:
    if spec.tty is None:
        return
    for name, value, taken in (
        ("stdout", spec.stdout, ("pipe",)),
        ("stderr", spec.stderr, ("pipe", "stdout")),
    ):
        if value not in taken:
            raise SpecError(name, value, f"with tty, the terminal is the {name}: leave {name} out, or tty")


def _privilege(spec: Spec) -> None:
    """Without a user namespace an id is the host's and a capability holds everywhere. Who *we* are is compile's to ask."""
    if spec.namespaces.user is not False or spec.security.privileged:
        return
    wish = "without a user namespace it is power over the host: give security.privileged=True, or namespaces.user=True"
    if spec.security.capabilities:
        raise SpecError("security.capabilities", spec.security.capabilities, wish)
    if spec.user_ref is not None and (spec.user_ref.uid == 0 or spec.user_ref.name == "root"):
        raise SpecError("user", spec.user, wish)


def _tracing(spec: Spec) -> None:
    """The one capability that opens an undumpable process of the same user namespace (ptrace(2), "access mode checking"): the init's
    socket, and each newborn command before it is confined. Tracing one's own children takes no capability."""
    if not spec.has_init or spec.security.privileged or "CAP_SYS_PTRACE" not in spec.security.capabilities:
        return
    wish = (
        "with it a guest takes the container's init, and by that every capability that this has, without a filter. Leave it out (a program that traces its own "
        "children needs none), or give init=False, where there is no init to take, or security.privileged=True if that is meant"
    )
    raise SpecError("security.capabilities", "CAP_SYS_PTRACE", wish)


def _listener(spec: Spec) -> None:
    security = spec.security
    if not spec.has_init and (security.seccomp_report or security.notifies):
        field = "security.seccomp_report" if security.seccomp_report else "security.seccomp"
        wish = "a filter's listener is handed over by the init: leave init and namespaces.pid True"
        raise SpecError(field, security.seccomp_report or "calls to be handed over", wish)


def check_answered(spec: Spec) -> None:
    """Raises SpecError for a Spec whose filter hands calls over, where nobody could answer them: they would wait for ever."""
    if spec.security.notifies:
        wish = "nobody could answer them here: hold the container yourself (async with Container(…)), and read its syscalls()"
        raise SpecError("security.seccomp", "calls to be handed over", wish)
