"""Spec: everything one container is asked to be, as one frozen value."""
# ruff: noqa: RUF009 - setting() makes a field of the class; the rule takes it for a shared default

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
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
    Mode,
    Schema,
    Table,
    Text,
    Whole,
    Word,
    built,
    setting,
    text,
)
from .filesystem import MOUNTS, ROOTFS, HostView, Mount, Rootfs
from .identity import GROUPS, ID_MAPS, USER, IdMap, UserRef, user_ref
from .limits import NO_LIMITS, Limits
from .namespaces import Namespaces
from .rules import check_rules
from .security import Security
from .stdio import PASS_FDS, STDERR, STDIN, STDOUT, TTY
from .strength import Strength
from .tuning import RLIMITS, SYSCTL, TIME_OFFSETS

if TYPE_CHECKING:
    from typing import Protocol

    from .filesystem import Path

    class HasFileno(Protocol):
        def fileno(self) -> int: ...

    Stdio = str | int | HasFileno | None

__all__ = ["DEFAULT_ENV", "Spec", "words_of"]

#: what ``env=None`` stands for: PATH, HOME and LANG, and no more
DEFAULT_ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/",
    "LANG": "C.UTF-8",
}
_ARGUMENT_MAX = 131_071  # MAX_ARG_STRLEN without the NUL: execve(2)


class _Command(Each):
    """An argv: a list, not empty, its first word not empty either."""

    def __init__(self) -> None:
        super().__init__(
            Text("give str, bytes or PathLike", _ARGUMENT_MAX), "words, the program first", least=1
        )

    def __call__(self, value: Any, path: str) -> tuple[str, ...]:
        if isinstance(value, (str, bytes)):
            raise self.refuse(
                value, path, "give a list: ['sh', '-c', …] if a shell is meant, else one item a word"
            )
        result = super().__call__(value, path)
        if not result[0]:
            raise self.refuse(value[0], f"{path}[0]", "give the program's name or path")
        return result


_COMMAND = _Command()


def words_of(command: Any) -> tuple[str, ...]:
    """A command as `Spec.command` takes it. Raises SpecError."""
    return _COMMAND(command, "command")


class _EnvName(Check):
    """The name of an environment variable."""

    wish = "give a name that is not empty and has no '=' and no NUL"

    def __call__(self, value: Any, path: str) -> str:
        name = text(value, path, self.wish)
        if not name or "=" in name:
            raise self.refuse(value, path)
        return name

    def schema(self) -> Schema:
        return {"type": "string", "pattern": "^[^=]+$"}


class _EnvValue(Text):
    """A variable's value; an error never repeats it, for it may be a secret."""

    def __call__(self, value: Any, path: str) -> str:
        if not isinstance(value, (str, bytes, os.PathLike)):
            raise self.refuse(type(value), path)
        try:
            return super().__call__(value, path)
        except SpecError as error:
            raise self.refuse("its value", path, error.wish) from None


class _Network(Check):
    """None: what a network namespace holds besides its loopback is for a later layer."""

    wish = "only None is possible yet; namespaces.network says whether there is a network of its own"

    def __call__(self, value: Any, path: str) -> None:
        if value is not None:
            raise self.refuse(value, path)

    def schema(self) -> Schema:
        return {"type": "null"}


class _Limits(A):
    """Limits; None is none of them."""

    def __call__(self, value: Any, path: str) -> Any:
        return NO_LIMITS if value is None else super().__call__(value, path)


_HOSTNAME = Maybe(
    Word(
        r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", "give letters, digits, '-', '_' and '.', 64 at most", 64
    )
)
_NAME = Maybe(
    Word(r"(?!\.{1,2}$)[A-Za-z0-9_.-]{1,64}", "give letters, digits, '_', '.' and '-', 64 at most", 64)
)
_DEVICES = Each(InnerPath(below="/dev"), "devices, such as ['/dev/fuse']", unique=True)
_ENV = Table(
    _EnvName(),
    _EnvValue("give str, bytes or PathLike", _ARGUMENT_MAX),
    'give a mapping, such as {"LANG": "C"}',
)


@built
@frozen(init=False, eq=False, repr=False)
class Spec(Value):
    """What you want: a command, what it sees, who it is, what it may use and do. Pure data, checked when built.

    >>> Spec(["make", "-j2"], cwd="/src", mounts=[Bind("/home/me/src", "/src")], limits=Limits(memory="1G"))

    After construction each field has one type (``env`` is a dict of str, ``command`` a tuple of str, …).
    ``attrs.evolve(spec, hostname="box")`` makes another one, checked again. Raises SpecError, naming the field.
    The fields, with units and defaults: ``docs/spec.md``.
    """

    PLACE: ClassVar[str] = ""

    command: tuple[str, ...] | None = setting(Maybe(_COMMAND), None)
    env: dict[str, str] | None = setting(Maybe(_ENV), None, kw_only=True)
    inherit_env: tuple[str, ...] = setting(
        Each(_EnvName(), "names of variables", unique=True), (), kw_only=True
    )
    cwd: str | None = setting(Maybe(InnerPath(root=True)), None, kw_only=True)
    user: str | int | None = setting(USER, None, kw_only=True)
    groups: tuple[str | int, ...] | None = setting(GROUPS, None, kw_only=True)
    hostname: str | None = setting(_HOSTNAME, None, kw_only=True)
    domainname: str | None = setting(_HOSTNAME, None, kw_only=True)
    namespaces: Namespaces = setting(A(Namespaces), Namespaces(), kw_only=True)
    uid_map: tuple[IdMap, ...] | None = setting(ID_MAPS, None, kw_only=True)
    gid_map: tuple[IdMap, ...] | None = setting(ID_MAPS, None, kw_only=True)
    rootfs: Rootfs = setting(ROOTFS, HostView(), kw_only=True)
    mounts: tuple[Mount, ...] = setting(MOUNTS, (), kw_only=True)
    devices: tuple[str, ...] = setting(_DEVICES, (), kw_only=True)
    limits: Limits = setting(_Limits(Limits), NO_LIMITS, kw_only=True)
    security: Security = setting(A(Security), Security(), kw_only=True)
    network: None = setting(_Network(), None, kw_only=True)
    rlimits: dict[str, tuple[int, int]] = setting(RLIMITS, attrs.Factory(dict), kw_only=True)
    umask: int | None = setting(Maybe(Mode(0o777)), None, kw_only=True)
    nice: int | None = setting(Maybe(Whole(-20, 19)), None, kw_only=True)
    oom_score_adj: int | None = setting(Maybe(Whole(-1000, 1000)), None, kw_only=True)
    sysctl: dict[str, str] = setting(SYSCTL, attrs.Factory(dict), kw_only=True)
    time_offsets: dict[str, float] = setting(TIME_OFFSETS, attrs.Factory(dict), kw_only=True)
    init: bool = setting(Flag(), True, kw_only=True)
    tty: tuple[int, int] | None = setting(TTY, None, kw_only=True)
    stdin: Any = setting(STDIN, "pipe", kw_only=True)
    stdout: Any = setting(STDOUT, "pipe", kw_only=True)
    stderr: Any = setting(STDERR, "pipe", kw_only=True)
    pass_fds: tuple[int, ...] = setting(PASS_FDS, (), kw_only=True)
    name: str | None = setting(_NAME, None, kw_only=True)
    min_strength: str = setting(Choice(*(rung.value for rung in Strength)), "full", kw_only=True)

    if TYPE_CHECKING:

        def __init__(
            self,
            command: Sequence[Path] | None = None,
            *,
            env: Mapping[str, Path] | Mapping[bytes, Path] | None = None,
            inherit_env: Sequence[str] = (),
            cwd: Path | None = None,
            user: str | int | None = None,
            groups: Sequence[str | int] | None = None,
            hostname: str | None = None,
            domainname: str | None = None,
            namespaces: Namespaces = ...,
            uid_map: Sequence[IdMap] | None = None,
            gid_map: Sequence[IdMap] | None = None,
            rootfs: Rootfs = ...,
            mounts: Sequence[Mount] = (),
            devices: Sequence[Path] = (),
            limits: Limits | None = None,
            security: Security = ...,
            network: None = None,
            rlimits: Mapping[str, int | str | tuple[int | str, int | str]] = ...,
            umask: int | str | None = None,
            nice: int | None = None,
            oom_score_adj: int | None = None,
            sysctl: Mapping[str, str | int] = ...,
            time_offsets: Mapping[str, float | str] = ...,
            init: bool = True,
            tty: bool | tuple[int, int] | None = None,
            stdin: Stdio = "pipe",
            stdout: Stdio = "pipe",
            stderr: Stdio = "pipe",
            pass_fds: Sequence[int] = (),
            name: str | None = None,
            min_strength: Strength | str = "full",
        ) -> None: ...

    def __attrs_post_init__(self) -> None:
        check_rules(self)

    @property
    def user_ref(self) -> UserRef | None:
        """`user` taken apart into numbers and names; None where no user was given."""
        return user_ref(self.user)

    @property
    def has_init(self) -> bool:
        """Whether process 1 is an init of ours: `init`, and only in a PID namespace of the container's own."""
        return self.init and self.namespaces.pid is True

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Spec:
        """The Spec in a TOML or JSON file, by its suffix. Raises SpecError (with full paths) and OSError."""
        from .load import from_file

        return from_file(path)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Spec:
        """The Spec of such a dict as `to_dict` gives, or TOML or JSON hold. Raises SpecError with full paths.

        >>> Spec.from_dict({"command": ["true"], "mounts": [{"type": "tmpfs", "target": "/tmp"}]})
        """
        from .load import from_dict

        return from_dict(fields)

    def to_dict(self) -> dict[str, Any]:
        """What differs from the defaults, in types that JSON has; `from_dict` makes an equal Spec of it.

        Raises SpecError where that cannot be: an object with fileno() has no written form.
        """
        from .load import to_dict

        return to_dict(self)
