"""Layers written down: a copy of an upper layer that is whole in itself, for an Overlay to lie on."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio

from ..errors import FileError
from ..files import TURN, Inside, aside, failing
from ..shielded import finish
from ..trees import DEEPEST
from ..wire import control
from .layers import Layer, Reader, is_whiteout

__all__ = ["Writer", "written"]

#: overlayfs's notes about its own two layers, which say nothing, or something false, about a third (overlayfs.rst).
_NOTES = ("origin", "impure", "nlink", "upper", "uuid", "opaque")
_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Writer:
    """Lays layers over each other in a directory of the host's that is nobody else's: the lowest first."""

    def __init__(self, root: int, prefix: str, disk: Callable[[int, bool], int], inner: Callable[[int, bool], int], inside: Inside, max_bytes: int | None, max_files: int) -> None:
        self._root = root
        self._reader = Reader(prefix, lambda found: (found.st_uid, found.st_gid), max_files)
        self._disk = disk  # a uid (gid: True) as it is to be on disk
        self._inner = inner  # and as the container's init calls it
        self._inside = inside
        self._bytes = max_bytes
        self._links: dict[tuple[int, int], str] = {}

    async def lay(self, layer: Layer) -> None:
        """One layer over what is there. Raises FileError."""
        self._links.clear()
        await self._folder("", layer, self._root, 1)
        await self._finish("/", layer, os.fstat(layer.fd), layer.fd, self._root, "", self._root)

    async def _folder(self, path: str, source: Layer, target: int, depth: int) -> None:
        if depth > DEEPEST:
            raise FileError(path, errno.ENAMETOOLONG, f"more than {DEEPEST} directories deep")
        for name in await self._reader.names(source, path):
            here = f"{path}/{name}"
            with failing(here):
                found = await source.look(name)
                if found is None:
                    continue  # gone meanwhile
                if stat.S_ISDIR(found.st_mode):
                    await self._subfolder(here, name, source, found, target, depth)
                else:
                    await self._take_away(name, target)
                    await self._name(here, name, source, found, target)
            await anyio.lowlevel.checkpoint()

    async def _subfolder(self, path: str, name: str, source: Layer, found: os.stat_result, target: int, depth: int) -> None:
        async with source.below(name) as below:
            opaque = await self._reader.opaque(below, path)
            there = _look(name, target)
            if there is not None and (opaque or not stat.S_ISDIR(there.st_mode)):
                await self._take_away(name, target)
                opaque, there = True, None  # it hides what is below, as what it takes the place of did
            if there is None:
                os.mkdir(name, 0o700, dir_fd=target)
            fd = os.open(name, _FOLDER, dir_fd=target)
            try:
                if opaque:
                    os.setxattr(fd, self._reader.prefix + "opaque", b"y")
                await self._folder(path, below, fd, depth + 1)
                await self._finish(path, source, found, below.fd, target, name, fd)
            finally:
                os.close(fd)

    async def _name(self, path: str, name: str, source: Layer, found: os.stat_result, target: int) -> None:
        kind = stat.S_IFMT(found.st_mode)
        key = found.st_dev, found.st_ino
        if kind == stat.S_IFREG and found.st_nlink > 1 and key in self._links:
            os.link(self._links[key][1:], name, src_dir_fd=self._root, dst_dir_fd=target, follow_symlinks=False)
        elif kind == stat.S_IFREG:
            self._links[key] = path
            await self._file(path, name, source, target)
        elif is_whiteout(found):
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=target)
        elif kind == stat.S_IFLNK:
            os.symlink(await source.link(name), name, dir_fd=target)
            await self._finish(path, source, found, -1, target, name, -1)
        else:
            os.mknod(name, found.st_mode & ~0o7777, found.st_rdev, dir_fd=target)
            await self._finish(path, source, found, -1, target, name, -1)

    async def _file(self, path: str, name: str, source: Layer, target: int) -> None:
        fd = await source.open(name, os.O_RDONLY | os.O_NONBLOCK)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise FileError(path, errno.EBUSY, "it changed while it was read")
            copy = os.open(name, _NEW, 0o600, dir_fd=target)
            try:
                await self._bytes_of(path, fd, copy, found.st_size)
                await self._finish(path, source, found, fd, target, name, copy)
            finally:
                os.close(copy)
        finally:
            os.close(fd)

    async def _bytes_of(self, path: str, source: int, target: int, size: int) -> None:
        """What is in it, and holes where it has holes: a sparse file costs what is in it alone."""
        at = 0
        while at < size:
            try:
                start = os.lseek(source, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break  # nothing but a hole
            end = min(os.lseek(source, start, os.SEEK_HOLE), size)
            if self._bytes is not None:
                self._bytes -= max(end - start, 0)
                if self._bytes < 0:
                    raise FileError(path, errno.EFBIG, "more than max_bytes")
            os.lseek(target, start, os.SEEK_SET)
            while start < end:
                count = await aside(min(TURN, end - start), lambda start=start, end=end: os.sendfile(target, source, start, min(TURN, end - start)))  # type: ignore[misc]
                if not count:
                    break
                start += count
            at = max(end, at + 1)
        os.ftruncate(target, size)

    async def _finish(self, path: str, layer: Layer, found: os.stat_result, source: int, base: int, name: str, target: int) -> None:
        """Attributes, times, owner and mode, in the order in which one does not undo the other."""
        if target >= 0:
            await self._attributes(path, layer, source, target)
        place: dict[str, Any] = {"follow_symlinks": False, "dir_fd": base}
        times = found.st_atime_ns, found.st_mtime_ns
        if target >= 0:
            os.utime(target, ns=times)
        else:
            os.utime(name, ns=times, **place)
        made = os.fstat(target) if target >= 0 else os.stat(name, **place)
        owner = self._disk(found.st_uid, False), self._disk(found.st_gid, True)
        mode = stat.S_IMODE(found.st_mode)
        foreign = owner != (made.st_uid, made.st_gid)
        if foreign and os.geteuid() != 0:  # another of the container's users: to give something to it is its init's power
            value = self._inner(found.st_uid, False) | self._inner(found.st_gid, True) << 32
            if target >= 0:
                await self._inside.do(control.FILE_OWNER, "", target, value)
                await self._inside.do(control.FILE_MODE, "", target, mode)
            else:
                await self._inside.do(control.FILE_OWNER, name, base, value)
            return
        if foreign:
            os.chown(target, *owner) if target >= 0 else os.chown(name, *owner, **place)
        if target >= 0:
            os.fchmod(target, mode)
        elif not stat.S_ISLNK(found.st_mode):
            os.chmod(name, mode, dir_fd=base)  # a FIFO, a socket or a device that we made this moment, in a directory of ours

    async def _attributes(self, path: str, layer: Layer, source: int, target: int) -> None:
        for name in os.listxattr(source):
            if name.startswith(self._reader.prefix):
                if name == self._reader.prefix + "metacopy":
                    raise FileError(path, errno.EOPNOTSUPP, "its bytes are not in its layer (overlayfs's metacopy)")
                if name.removeprefix(self._reader.prefix) in _NOTES:
                    continue
            if name.startswith(("security.selinux", "security.ima", "security.evm", "trusted.SGI")):
                continue  # the host's, and its to set
            value = await layer.attribute(source, name)
            os.setxattr(target, name, self._acl(value) if name in _ACLS else value)

    def _acl(self, value: bytes) -> bytes:
        """The same list with ids as they are to be on disk (linux/posix_acl_xattr.h)."""
        entries = [struct.unpack_from("<HHI", value, at) for at in range(4, len(value) - 7, 8)]
        named = {0x02: False, 0x08: True}
        return value[:4] + b"".join(struct.pack("<HHI", tag, perm, self._disk(id, named[tag]) if tag in named else id) for tag, perm, id in entries)

    async def _take_away(self, name: str, target: int) -> None:
        """What an earlier layer had of that name."""
        found = _look(name, target)
        if found is None:
            return
        if not stat.S_ISDIR(found.st_mode):
            os.unlink(name, dir_fd=target)
            return
        fd = os.open(name, _FOLDER, dir_fd=target)
        try:
            for entry in os.listdir(fd):
                await self._take_away(entry, fd)
                await anyio.lowlevel.checkpoint()
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=target)


def _look(name: str, target: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=target, follow_symlinks=False)
    except FileNotFoundError:
        return None


@contextlib.asynccontextmanager
async def written(path: str) -> Any:
    """A directory beside `path`, which takes its name when the block ends well, and is gone where it does not. Raises FileError."""
    parent, name = os.path.split(os.path.abspath(path))
    if not name or os.path.lexists(path):
        raise FileError(path, errno.EEXIST)
    with failing(path):
        folder = tempfile.mkdtemp(prefix=f".{name[:200]}.", dir=parent)
    try:
        with failing(path):
            fd = os.open(folder, _FOLDER)
        try:
            yield fd
        finally:
            os.close(fd)
        with failing(path):
            if os.path.lexists(path):
                raise FileError(path, errno.EEXIST)
            os.rename(folder, path)
    except BaseException:
        await finish(partial(_remove, folder))
        raise


async def _remove(folder: str) -> None:
    from .. import scratch

    await anyio.to_thread.run_sync(scratch.remove, folder)
    if os.path.lexists(folder):
        from ..remove import remove_tree  # what was given to the container's other users already

        await remove_tree(folder)
