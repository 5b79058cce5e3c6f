"""What a container may not do, whoever it runs as: capabilities, system calls, paths and labels."""
# ruff: noqa: RUF009 - setting() makes a field of the class; the rule takes it for a shared default

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import frozen

from ..errors import SpecError
from ..values import Value
from .checks import (
    A,
    Check,
    Choice,
    Each,
    Flag,
    InnerPath,
    Maybe,
    Schema,
    Whole,
    Word,
    built,
    nearest,
    setting,
)

if TYPE_CHECKING:
    from .filesystem import Path

__all__ = ["CAPABILITIES", "Landlock", "SeccompRules", "Security"]

_NAMES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
    "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT "
    "SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE "
    "AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ "
    "PERFMON BPF CHECKPOINT_RESTORE"
)
CAPABILITIES = tuple(
    f"CAP_{name}" for name in _NAMES.split()
)  #: capabilities(7), in the order of their numbers


class _Capability(Check):
    """A capability's name, in any case, with or without CAP_."""

    wish = 'give a name of capabilities(7), such as "CAP_NET_BIND_SERVICE"'

    def __call__(self, value: Any, path: str) -> str:
        name = (
            f"CAP_{value.upper().removeprefix('CAP_')}"
            if isinstance(value, str) and value.isascii()
            else value
        )
        if name not in CAPABILITIES:
            raise self.refuse(value, path, self.wish + nearest(name, CAPABILITIES))
        return str(name)

    def schema(self) -> Schema:
        return {"type": "string", "pattern": "^([Cc][Aa][Pp]_)?[A-Za-z_]+$"}


_PATHS = Each(InnerPath(root=True), "absolute paths inside the container", unique=True)
_COVERED = Maybe(Each(InnerPath(), "absolute paths inside the container", unique=True))
_PORTS = Maybe(Each(Whole(0, 65535, "a port"), "ports", unique=True))


@built
@frozen(kw_only=True, init=False, eq=False, repr=False)
class Landlock(Value):
    """Rules of landlock(7): once there is one, what no rule allows is refused.

    `read`, `write` and `execute` are paths inside, each with all below it. `tcp_bind` and `tcp_connect` are ports:
    None leaves that right alone, an empty list takes it away. What this kernel's Landlock cannot do is an
    UnsupportedError, unless `best_effort`.

    With `scoped`, processes outside can't be signalled, nor their abstract sockets reached (Linux 6.12).
    """

    PLACE: ClassVar[str] = "security.landlock"

    read: tuple[str, ...] = setting(_PATHS, ())
    write: tuple[str, ...] = setting(_PATHS, ())
    execute: tuple[str, ...] = setting(_PATHS, ())
    tcp_bind: tuple[int, ...] | None = setting(_PORTS, None)
    tcp_connect: tuple[int, ...] | None = setting(_PORTS, None)
    scoped: bool = setting(Flag(), False)
    best_effort: bool = setting(Flag(), False)

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            read: Sequence[Path] = (),
            write: Sequence[Path] = (),
            execute: Sequence[Path] = (),
            tcp_bind: Sequence[int] | None = None,
            tcp_connect: Sequence[int] | None = None,
            scoped: bool = False,
            best_effort: bool = False,
        ) -> None: ...


_CALLS = Each(
    Word(r"[a-z0-9_]{1,64}", 'give the name of a system call, such as "ptrace"'), "system calls", unique=True
)


@built
@frozen(kw_only=True, init=False, eq=False, repr=False)
class SeccompRules(Value):
    """A built-in filter with a few system calls changed: `allow` adds to those of `base`, `deny` takes away.

    `notify` hands calls over: each waits for its answer from `Container.syscalls`.
    """

    PLACE: ClassVar[str] = "security.seccomp"

    allow: tuple[str, ...] = setting(_CALLS, ())
    deny: tuple[str, ...] = setting(_CALLS, ())
    notify: tuple[str, ...] = setting(_CALLS, ())
    base: str = setting(Choice("default", "strict"), "default")

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            allow: Sequence[str] = (),
            deny: Sequence[str] = (),
            notify: Sequence[str] = (),
            base: str = "default",
        ) -> None: ...

    def __attrs_post_init__(self) -> None:
        earlier: dict[str, str] = {}
        for part in ("allow", "deny", "notify"):
            for name in getattr(self, part):
                if name in earlier:
                    wish = f"security.seccomp.{earlier[name]} names it too; choose one"
                    raise SpecError(f"security.seccomp.{part}", name, wish)
                earlier[name] = part


class Seccomp(Check):
    """A built-in filter's name, an OCI or Docker profile as a dict, SeccompRules, or None for no filter."""

    wish = 'give "default", "strict", an OCI profile as a dict, SeccompRules, or None for no filter'
    NAMES = ("default", "strict")

    def __call__(self, value: Any, path: str) -> str | dict[str, Any] | SeccompRules | None:
        if value is None or isinstance(value, SeccompRules):
            return value
        if isinstance(value, Mapping):
            from .profile import checked_profile  # many checks, which only a profile needs

            return checked_profile(value, path)
        if not isinstance(value, str) or value not in self.NAMES:
            raise self.refuse(value, path, self.wish + nearest(value, self.NAMES))
        return str(value)

    def schema(self) -> Schema:
        from .profile import PROFILE_SCHEMA

        named = {"enum": [*self.NAMES, None]}
        return {"anyOf": [named, {"$ref": "#/$defs/SeccompRules"}, PROFILE_SCHEMA]}


_LABEL = r"[^\x00-\x20\x7f][^\x00-\x1f\x7f]*"


@built
@frozen(kw_only=True, init=False, eq=False, repr=False)
class Security(Value):
    """What a container may do. The defaults hold for strangers' code.

    `capabilities` is one list for all sets (no_new_privs keeps a program from gaining others). `masked_paths` and
    `readonly_paths` replace the defaults, which None stands for; paths that are absent are passed over. `apparmor` and
    `selinux` are labels taken at exec. `privileged` lets the container hold real power over the host: its root, or
    capabilities outside a user namespace. Without a list, root inside then has every capability, and another user none:
    nothing is inheritable.

    `seccomp_report` has what the filter refuses told by `Container.violations`, each refused call at the price of a
    round through the supervisor.
    """

    PLACE: ClassVar[str] = "security"

    capabilities: tuple[str, ...] = setting(Each(_Capability(), "capabilities", unique=True), ())
    seccomp: str | dict[str, Any] | SeccompRules | None = setting(Seccomp(), "default")
    seccomp_report: bool = setting(Flag(), False)
    no_new_privs: bool = setting(Flag(), True)
    masked_paths: tuple[str, ...] | None = setting(_COVERED, None)
    readonly_paths: tuple[str, ...] | None = setting(_COVERED, None)
    landlock: Landlock | None = setting(Maybe(A(Landlock)), None)
    apparmor: str | None = setting(
        Maybe(Word(_LABEL, "give the name of a loaded AppArmor profile", 4095)), None
    )
    selinux: str | None = setting(Maybe(Word(_LABEL, "give an SELinux label", 4095)), None)
    privileged: bool = setting(Flag(), False)

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            capabilities: Sequence[str] = (),
            seccomp: str | Mapping[str, Any] | SeccompRules | None = "default",
            seccomp_report: bool = False,
            no_new_privs: bool = True,
            masked_paths: Sequence[Path] | None = None,
            readonly_paths: Sequence[Path] | None = None,
            landlock: Landlock | None = None,
            apparmor: str | None = None,
            selinux: str | None = None,
            privileged: bool = False,
        ) -> None: ...

    def __attrs_post_init__(self) -> None:
        if not self.seccomp_report:
            return
        if self.seccomp is None:
            raise SpecError("security.seccomp_report", True, "seccomp=None refuses nothing that could be told")
        if self.notifies:
            wish = "the profile hands calls to Container.syscalls, and a filter has one listener: choose one"
            raise SpecError("security.seccomp_report", True, wish)

    @property
    def notifies(self) -> bool:
        """Whether the filter hands calls over, to `Container.syscalls`: somebody has to answer them."""
        if isinstance(self.seccomp, SeccompRules):
            return bool(self.seccomp.notify)
        if not isinstance(self.seccomp, dict):
            return False
        actions = [self.seccomp["defaultAction"], *(rule["action"] for rule in self.seccomp.get("syscalls", ()))]
        return "SCMP_ACT_NOTIFY" in actions
