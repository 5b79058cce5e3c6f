"""An overlay's upper layers, read by descriptor: what differs in them from the layers below."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Set
from contextlib import asynccontextmanager, contextmanager
from typing import Literal

from attrs import frozen

from ..errors import FileError
from ..files import FOLDER, Inside, failing
from ..trees import DEEPEST, names

__all__ = ["Change", "Layer", "Reader"]

Kind = Literal["file", "directory", "link", "fifo", "socket", "device"]
_KINDS: dict[int, Kind] = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket"}
_PIN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@frozen
class Change:
    """One difference: `path` was "added", "changed" or "deleted"; `type` is what it is, or was: file, directory, link, fifo, socket, device.

    A directory that is new is told with all that is in it, one that is gone by its own path alone. A file that was written to is
    changed, whatever its bytes are now; a directory is where its mode or owner is another.
    """

    path: str
    kind: Literal["added", "changed", "deleted"]
    type: Kind


@frozen
class Layer:
    """A directory of a layer's, open to be read."""

    fd: int
    inside: Inside | None = None  #: of the container that it is of: by whose init it is opened where we may not do so

    async def open(self, name: str, flags: int) -> int:
        """One name in it, no link. Raises OSError."""
        try:
            return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        except PermissionError:
            if self.inside is None:
                raise
            return await self.inside.open(name, flags | os.O_NOFOLLOW, base=self.fd)

    async def look(self, name: str) -> os.stat_result | None:
        """What a name is; None where there is none. Raises OSError."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except PermissionError:
            if self.inside is None:
                raise
        try:
            pin = await self.inside.open(name, _PIN, base=self.fd)
        except FileNotFoundError:
            return None
        try:
            return os.fstat(pin)
        finally:
            os.close(pin)

    async def link(self, name: str) -> str:
        """What a link says. Raises OSError."""
        pin = await self.open(name, _PIN)
        try:
            return os.readlink("", dir_fd=pin)
        finally:
            os.close(pin)

    async def attribute(self, fd: int, name: str) -> bytes:
        """An extended attribute of what is open. Raises OSError."""
        try:
            return os.getxattr(fd, name)
        except PermissionError:
            if self.inside is None:
                raise
            return await self.inside.attribute(fd, name)

    @asynccontextmanager
    async def below(self, name: str) -> AsyncIterator[Layer]:
        """A directory in it."""
        fd = await self.open(name, FOLDER)
        try:
            yield Layer(fd, self.inside)
        finally:
            os.close(fd)


def is_whiteout(found: os.stat_result) -> bool:
    """Whether it stands for something that is gone (overlayfs.rst)."""
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def kind_of(found: os.stat_result) -> Kind:
    return _KINDS.get(stat.S_IFMT(found.st_mode), "device")


@contextmanager
def closing(layers: list[Layer]) -> Iterator[list[Layer]]:
    """The layers, closed in the end."""
    try:
        yield layers
    finally:
        for layer in layers:
            os.close(layer.fd)


class Reader:
    """Compares an upper layer with those below it."""

    def __init__(self, prefix: str, owner: Callable[[os.stat_result], tuple[int, int]], max_files: int, places: Set[str] = frozenset()) -> None:
        self.prefix = prefix  #: of overlayfs's attributes: user.overlay. in a user namespace, else trusted.overlay.
        self._owner = owner  # as the lower layers have it
        self._places = places  # directories and files that are there to mount something on
        self._left = max_files
        self._found: list[Change] = []

    async def opaque(self, layer: Layer, path: str) -> bool:
        """Whether it hides what is below it."""
        with failing(path):
            try:
                return await layer.attribute(layer.fd, self.prefix + "opaque") == b"y"
            except OSError as error:
                if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
                    return False
                raise

    async def names(self, layer: Layer, path: str) -> list[str]:
        found = await names(layer.fd, path or "/", self._left)
        if len(found) > self._left:
            raise FileError(path or "/", errno.EFBIG, "more than max_files")
        self._left -= len(found)
        return sorted(entry.name for entry in found)

    def _attributes(self, layer: Layer, found: os.stat_result) -> tuple[int, int, int]:
        """Mode and owner, in the ids that layers on disk have."""
        return stat.S_IMODE(found.st_mode), *(self._owner(found) if layer.inside is not None else (found.st_uid, found.st_gid))

    async def lower(self, lowers: list[Layer], name: str, path: str) -> tuple[os.stat_result | None, tuple[int, int, int], list[Layer]]:
        """What the layers below show of a name, the topmost first; where that is a directory, those it is made of, to be closed."""
        first: os.stat_result | None = None
        attributes = (0, 0, 0)
        merged: list[Layer] = []
        try:
            with failing(path):
                for layer in lowers:
                    found = await layer.look(name)
                    if found is None:
                        continue
                    if is_whiteout(found) or (first is not None and not stat.S_ISDIR(found.st_mode)):
                        break
                    if first is None:
                        first, attributes = found, self._attributes(layer, found)
                    if not stat.S_ISDIR(found.st_mode):
                        break
                    merged.append(Layer(await layer.open(name, FOLDER), layer.inside))
                    if await self.opaque(merged[-1], path):
                        break
        except BaseException:
            with closing(merged):
                raise
        return first, attributes, merged

    async def compare(self, upper: Layer, lowers: list[Layer]) -> list[Change]:
        """All changes, in the order of their paths. Raises FileError."""
        await self._folder("", upper, lowers, 1)
        return sorted(self._found, key=lambda change: change.path.split("/"))

    async def _folder(self, path: str, upper: Layer, lowers: list[Layer], depth: int) -> None:
        if depth > DEEPEST:
            raise FileError(path, errno.ENAMETOOLONG, f"more than {DEEPEST} directories deep")
        here = await self.names(upper, path)
        for name in here:
            await self._name(f"{path}/{name}", name, upper, lowers, depth)
        if lowers and await self.opaque(upper, path or "/"):
            await self._hidden(path, set(here), lowers)

    async def _name(self, path: str, name: str, upper: Layer, lowers: list[Layer], depth: int) -> None:
        with failing(path):
            now = await upper.look(name)
        if now is None:
            return  # gone meanwhile
        before, attributes, merged = await self.lower(lowers, name, path)
        with closing(merged):
            if is_whiteout(now):
                if before is not None:
                    self._found.append(Change(path, "deleted", kind_of(before)))
                return
            folders = before is not None and stat.S_ISDIR(before.st_mode) and stat.S_ISDIR(now.st_mode)
            if path in self._places and (before is None or folders):
                pass
            elif before is None:
                self._found.append(Change(path, "added", kind_of(now)))
            elif not folders or attributes != self._attributes(upper, now):
                self._found.append(Change(path, "changed", kind_of(now)))
            if stat.S_ISDIR(now.st_mode):
                with failing(path):
                    fd = await upper.open(name, FOLDER)
                with closing([Layer(fd, upper.inside)]) as (below,):
                    await self._folder(path, below, merged if folders else [], depth + 1)

    async def _hidden(self, path: str, here: set[str], lowers: list[Layer]) -> None:
        """What an opaque directory has no more."""
        seen = set(here)
        for layer in lowers:
            for name in await self.names(layer, path):
                if name in seen:
                    continue
                seen.add(name)
                before, _, merged = await self.lower(lowers, name, f"{path}/{name}")
                with closing(merged):
                    if before is not None:
                        self._found.append(Change(f"{path}/{name}", "deleted", kind_of(before)))
