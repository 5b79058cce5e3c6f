"""What a container sees as its file system: where its root comes from, and what is mounted into it."""

from __future__ import annotations

import os
from collections.abc import Sequence
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
    HostPath,
    InnerPath,
    Maybe,
    Mode,
    Schema,
    Text,
    Whole,
    built,
    setting,
)
from .identity import ID_MAPS, IdMap
from .limits import Size

__all__ = [
    "MOUNTS",
    "ROOTFS",
    "Bind",
    "DevPts",
    "Directory",
    "File",
    "HostView",
    "Mount",
    "Mqueue",
    "Overlay",
    "Proc",
    "Rootfs",
    "Symlink",
    "Sysfs",
    "Tmpfs",
]

FILE_MAX = 8 << 20  #: bytes of a File's content: it travels in the Plan
_LOWERS_MAX = 500  # OVL_MAX_STACK in the kernel's fs/overlayfs

_SOURCE = HostPath()
_TARGET = InnerPath()
_FLAG = Flag()

if TYPE_CHECKING:
    Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]
    Bytes = int | str


@frozen(eq=False, repr=False)
class HostView(Value):
    """The host's programs and libraries, read-only, and nothing personal.

    /usr and its links, /opt and a list of files of /etc; a fresh /tmp, /dev and /proc; no /home, /root, /run, /var.
    """

    PLACE: ClassVar[str] = "HostView"


@built
@frozen(init=False, eq=False, repr=False)
class Directory(Value):
    """A directory of the host as the root. A relative path counts from the working directory at the start."""

    PLACE: ClassVar[str] = "Directory"

    path: str = setting(_SOURCE)
    readonly: bool = setting(_FLAG, False)

    if TYPE_CHECKING:

        def __init__(self, path: Path, readonly: bool = False) -> None: ...


@built
@frozen(init=False, eq=False, repr=False)
class Overlay(Value):
    """Directories of the host laid over each other (overlayfs): as the root, or as a mount with a `target`.

    `lower` is read only, its first directory on top, as in overlayfs's lowerdir. What is written goes into `upper`,
    with `work` an empty directory beside it on the same file system; without them, into a tmpfs that is thrown away.

    With `history` each command's writes are a layer of their own, to look at and to go back to (`Container.history`); for a
    root without `upper`. Then /tmp is part of it, and no mount of its own.
    """

    PLACE: ClassVar[str] = "Overlay"

    lower: tuple[str, ...] = setting(
        Each(_SOURCE, "directories, the topmost first", least=1, most=_LOWERS_MAX, unique=True)
    )
    upper: str | None = setting(Maybe(_SOURCE), None)
    work: str | None = setting(Maybe(_SOURCE), None)
    target: str | None = setting(Maybe(_TARGET), None)
    readonly: bool = setting(_FLAG, False)
    history: bool = setting(_FLAG, False)

    if TYPE_CHECKING:

        def __init__(
            self,
            lower: Sequence[Path],
            upper: Path | None = None,
            work: Path | None = None,
            target: Path | None = None,
            readonly: bool = False,
            history: bool = False,
        ) -> None: ...

    def __attrs_post_init__(self) -> None:
        if self.history and (self.upper is not None or self.target is not None or self.readonly):
            raise SpecError("Overlay.history", True, "it is for a root whose writes are thrown away: leave upper, target and readonly out")
        if self.upper is None and self.work is None:
            return
        if self.work is None:
            raise SpecError(
                "Overlay.work", None, "upper needs it: give an empty directory on upper's file system"
            )
        if self.upper is None:
            raise SpecError("Overlay.upper", None, "work is of no use alone: give upper too, or neither")
        # overlayfs.rst: an upper or work directory inside another layer is undefined behaviour
        layers = [(f"Overlay.lower[{index}]", path) for index, path in enumerate(self.lower)]
        for field, path, others in (
            ("Overlay.work", self.work, [("Overlay.upper", self.upper), *layers]),
            ("Overlay.upper", self.upper, layers),
        ):
            for name, other in others:
                if _within(path, other) or _within(other, path):
                    raise SpecError(field, path, f"it and {name} ({other!r}) must not lie in one another")


def _within(path: str, other: str) -> bool:
    inner, outer = os.path.normpath(path), os.path.normpath(other)
    return inner == outer or inner.startswith(outer.rstrip("/") + "/")


@built
@frozen(init=False, eq=False, repr=False)
class Bind(Value):
    """A file or directory of the host, with all that is mounted below it, seen at `target`.

    `readonly`, `nosuid`, `nodev` and `noexec` hold for everything below, too. `idmap` None lets creche decide: under
    root with a private range of ids a writable bind is idmapped; True demands it, False forbids it. `uid_map` and
    `gid_map` give a mapping of its own: ``IdMap(inside, outside, count)`` shows files of the ids from `outside` as those of
    the container's ids from `inside`, and what these write lies as the others'. With `optional`, a source that does not
    exist is passed over.

    An idmapped mount takes root's power over the file system: an ordinary user's is an UnsupportedError.
    """

    PLACE: ClassVar[str] = "Bind"

    source: str = setting(_SOURCE)
    target: str = setting(_TARGET)
    readonly: bool = setting(_FLAG, False)
    nosuid: bool = setting(_FLAG, True)
    nodev: bool = setting(_FLAG, True)
    noexec: bool = setting(_FLAG, False)
    uid_map: tuple[IdMap, ...] | None = setting(ID_MAPS, None)
    gid_map: tuple[IdMap, ...] | None = setting(ID_MAPS, None)
    idmap: bool | None = setting(Maybe(_FLAG), None)
    optional: bool = setting(_FLAG, False)

    if TYPE_CHECKING:

        def __init__(
            self,
            source: Path,
            target: Path,
            readonly: bool = False,
            nosuid: bool = True,
            nodev: bool = True,
            noexec: bool = False,
            uid_map: Sequence[IdMap] | None = None,
            gid_map: Sequence[IdMap] | None = None,
            idmap: bool | None = None,
            optional: bool = False,
        ) -> None: ...

    def __attrs_post_init__(self) -> None:
        if (self.uid_map is None) is not (self.gid_map is None):
            missing = "gid_map" if self.gid_map is None else "uid_map"
            raise SpecError(
                f"Bind.{missing}", None, "an idmapped mount maps both: give uid_map and gid_map, or neither"
            )
        if self.idmap is False and self.uid_map is not None:
            raise SpecError(
                "Bind.idmap", False, "uid_map and gid_map ask for an idmapped mount: leave them or idmap out"
            )


@built
@frozen(init=False, eq=False, repr=False)
class Tmpfs(Value):
    """A file system in memory. `size` is in bytes, or text such as "64M"; None is 64 MiB. `inodes` bounds its files.

    With `copy_up`, what the root has at `target` is copied in first.
    """

    PLACE: ClassVar[str] = "Tmpfs"

    target: str = setting(_TARGET)
    size: int | None = setting(Maybe(Size(4096, 'give bytes of at least a page, such as "64M"')), None)
    inodes: int | None = setting(Maybe(Whole(1, 2**31 - 1, "a number of files")), None)
    mode: int = setting(Mode(0o1777), 0o755)
    readonly: bool = setting(_FLAG, False)
    nosuid: bool = setting(_FLAG, True)
    nodev: bool = setting(_FLAG, True)
    noexec: bool = setting(_FLAG, False)
    copy_up: bool = setting(_FLAG, False)

    if TYPE_CHECKING:

        def __init__(
            self,
            target: Path,
            size: Bytes | None = None,
            inodes: int | None = None,
            mode: int | str = 0o755,
            readonly: bool = False,
            nosuid: bool = True,
            nodev: bool = True,
            noexec: bool = False,
            copy_up: bool = False,
        ) -> None: ...


class Content(Check):
    """Bytes of a file; text is written as UTF-8."""

    wish = f"give bytes or str, at most {FILE_MAX >> 20} MiB of them"

    def __call__(self, value: Any, path: str) -> bytes:
        if isinstance(value, str):
            try:
                value = value.encode()
            except UnicodeEncodeError:
                raise self.refuse(value, path, "it is no text that UTF-8 can hold; give bytes") from None
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise self.refuse(value, path)
        result = bytes(value)
        if len(result) > FILE_MAX:
            raise self.refuse(f"{len(result)} bytes", path)
        return result

    def schema(self) -> Schema:
        base64 = {"type": "string", "contentEncoding": "base64", "pattern": "^[A-Za-z0-9+/]*={0,2}$"}
        coded = {
            "type": "object",
            "properties": {"base64": base64},
            "required": ["base64"],
            "additionalProperties": False,
        }
        return {"anyOf": [{"type": "string"}, coded]}


@built
@frozen(init=False, eq=False, repr=False)
class File(Value):
    """A file that exists in the container alone: its content is in the Spec, as bytes or as text (UTF-8)."""

    PLACE: ClassVar[str] = "File"

    target: str = setting(_TARGET)
    content: bytes = setting(Content())
    mode: int = setting(Mode(0o777), 0o644)
    readonly: bool = setting(_FLAG, True)

    if TYPE_CHECKING:

        def __init__(
            self,
            target: Path,
            content: bytes | bytearray | memoryview | str,
            mode: int | str = 0o644,
            readonly: bool = True,
        ) -> None: ...


@built
@frozen(init=False, eq=False, repr=False)
class Symlink(Value):
    """A symbolic link made at `target` that says `source`, which need not exist and is never followed by us."""

    PLACE: ClassVar[str] = "Symlink"

    source: str = setting(Text("give what the link says, as str, bytes or PathLike", least=1))
    target: str = setting(_TARGET)

    if TYPE_CHECKING:

        def __init__(self, source: Path, target: Path) -> None: ...


class _HidePid(Choice):
    """proc's hidepid by name, or by the old number (proc(5))."""

    NUMBERS: ClassVar[dict[int, str]] = {0: "off", 1: "noaccess", 2: "invisible", 4: "ptraceable"}

    def __init__(self) -> None:
        super().__init__(*self.NUMBERS.values())

    def __call__(self, value: Any, path: str) -> str:
        if isinstance(value, int) and not isinstance(value, bool):
            value = self.NUMBERS.get(value, value)
        return super().__call__(value, path)

    def schema(self) -> Schema:
        return {"enum": [*self.words, *self.NUMBERS]}


@built
@frozen(init=False, eq=False, repr=False)
class Proc(Value):
    """The proc of the container's PID namespace; `hidepid` and ``subset="pid"`` as in proc(5)."""

    PLACE: ClassVar[str] = "Proc"

    target: str = setting(_TARGET, "/proc")
    hidepid: str | None = setting(Maybe(_HidePid()), None)
    subset: str | None = setting(Maybe(Choice("pid")), None)

    if TYPE_CHECKING:

        def __init__(
            self, target: Path = "/proc", hidepid: str | int | None = None, subset: str | None = None
        ) -> None: ...


@built
@frozen(init=False, eq=False, repr=False)
class Sysfs(Value):
    """sysfs, read-only, as the container's network namespace shows it."""

    PLACE: ClassVar[str] = "Sysfs"

    target: str = setting(_TARGET, "/sys")

    if TYPE_CHECKING:

        def __init__(self, target: Path = "/sys") -> None: ...


@built
@frozen(init=False, eq=False, repr=False)
class DevPts(Value):
    """A devpts of the container's own, for its terminals."""

    PLACE: ClassVar[str] = "DevPts"

    target: str = setting(_TARGET, "/dev/pts")

    if TYPE_CHECKING:

        def __init__(self, target: Path = "/dev/pts") -> None: ...


@built
@frozen(init=False, eq=False, repr=False)
class Mqueue(Value):
    """The POSIX message queues of the container's IPC namespace."""

    PLACE: ClassVar[str] = "Mqueue"

    target: str = setting(_TARGET, "/dev/mqueue")

    if TYPE_CHECKING:

        def __init__(self, target: Path = "/dev/mqueue") -> None: ...


Rootfs = HostView | Directory | Overlay | None
Mount = Bind | Tmpfs | Overlay | File | Symlink | Proc | Sysfs | DevPts | Mqueue


class _Root(A):
    def __call__(self, value: Any, path: str) -> Any:
        if isinstance(value, Overlay) and value.target is not None:
            raise self.refuse(value.target, f"{path}.target", 'the rootfs is at "/": leave target out')
        return super().__call__(value, path)


class _Mount(A):
    def __call__(self, value: Any, path: str) -> Any:
        if isinstance(value, Overlay) and value.target is None:
            raise self.refuse(
                None, f"{path}.target", "among the mounts an Overlay needs one: give an absolute path"
            )
        return super().__call__(value, path)


ROOTFS = Maybe(_Root(HostView, Directory, Overlay))
MOUNTS = Each(
    _Mount(Bind, Tmpfs, Overlay, File, Symlink, Proc, Sysfs, DevPts, Mqueue),
    "mounts, such as [Bind('/srv/app', '/app')]",
)
