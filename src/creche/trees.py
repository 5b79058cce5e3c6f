"""Whole directories in and out of a container: walked by descriptor on both sides, so that no link and no rename leads astray."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Awaitable
from typing import NamedTuple

import anyio

from .errors import FileError
from .files import FOLDER, Inside, failing, host_file, make, transfer
from .wire import control

__all__ = ["get_tree", "listdir", "put_tree", "remove", "remove_folder"]

DEEPEST = 100  # directories below each other, each of which costs two descriptors meanwhile
SCAN = 256  # names that are read before others on the loop have their turn
BATCH = 4096  # names that are removed before the directory is read again: however many a guest made
STALE = 8  # how often a directory that somebody fills again is emptied before we give up


class Name(NamedTuple):
    """One entry of a directory, as the directory itself says."""

    name: str
    kind: str  #: d, f, l or ?


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        return "l" if entry.is_symlink() else "d" if entry.is_dir(follow_symlinks=False) else "f" if entry.is_file(follow_symlinks=False) else "?"
    except OSError:
        return "?"  # gone, on a file system that does not tell kinds


async def names(fd: int, path: str, most: int) -> list[Name]:
    """What is in a directory, as far as `most` and one more."""
    found = []
    with failing(path), os.scandir(fd) as entries:
        for entry in entries:
            if entry.name in ("", ".", "..") or "/" in entry.name:
                raise FileError(path, errno.EBADMSG)
            found.append(Name(entry.name, _kind(entry)))
            if len(found) > most:
                break
            if len(found) % SCAN == 0:
                await anyio.lowlevel.checkpoint()
    return found


async def bounded(fd: int, path: str, most: int) -> list[Name]:
    """What is in a directory; FileError with EFBIG where that is more than `most`."""
    found = await names(fd, path, most)
    if len(found) > most:
        raise FileError(path, errno.EFBIG, "more than max_files")
    return found


async def listdir(inside: Inside, path: str, max_files: int) -> list[str]:
    """The names in a directory inside."""
    with failing(path):
        fd = await inside.open(path, FOLDER)
    try:
        return [entry.name for entry in await bounded(fd, path, max_files)]
    finally:
        os.close(fd)


def _deep(depth: int, path: str) -> None:
    if depth > DEEPEST:
        raise FileError(path, errno.ENAMETOOLONG, f"more than {DEEPEST} directories deep")


# ---- in ----


async def put_tree(inside: Inside, path: str, source: str, parents: bool) -> None:
    """Copy a directory of the host to `path` inside, made where it is not there."""
    with failing(source):
        host = os.open(source, FOLDER)
    try:
        base, name = await inside.parent(path, parents)
        try:
            with failing(path):
                target = await inside.folder(name, base, _mode(os.fstat(host)))
        finally:
            os.close(base)
        try:
            await _put_all(inside, path, source, target, host, 1)
        finally:
            os.close(target)
    finally:
        os.close(host)


def _mode(status: os.stat_result) -> int:
    return stat.S_IMODE(status.st_mode) & 0o1777


async def _put_all(inside: Inside, path: str, source: str, target: int, host: int, depth: int) -> None:
    _deep(depth, source)
    for name, kind in await names(host, source, sys.maxsize):
        here, there = os.path.join(source, name), os.path.join(path, name)
        if kind == "d":
            with failing(here):
                below = os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=host)
            try:
                with failing(there):
                    made = await inside.folder(name, target, _mode(os.fstat(below)))
                try:
                    await _put_all(inside, there, here, made, below, depth + 1)
                finally:
                    os.close(made)
            finally:
                os.close(below)
        elif kind == "l":
            with failing(here):
                text = os.readlink(name, dir_fd=host)
            with failing(there):
                await _put_link(inside, name, target, text)
        else:
            with failing(here):
                fd = host_file(here, host)
            try:
                with failing(there):
                    out = await make(inside, there, name, target, _mode(os.fstat(fd)) & 0o777)
                    try:
                        await transfer(fd, out)
                    finally:
                        os.close(out)
            finally:
                os.close(fd)


async def _put_link(inside: Inside, name: str, base: int, text: str) -> None:
    try:
        await inside.do(control.FILE_SYMLINK, name, base, more=text)
    except FileExistsError:
        await inside.do(control.FILE_UNLINK, name, base)
        await inside.do(control.FILE_SYMLINK, name, base, more=text)


# ---- out ----


class _Out:
    """A copy on its way out: what it may still take, and what it left out."""

    def __init__(self, inside: Inside, max_bytes: int, max_files: int) -> None:
        self.inside, self.bytes, self.files = inside, max_bytes, max_files
        self.left_out: list[str] = []

    async def file(self, fd: int, path: str, host: int) -> None:
        if os.fstat(fd).st_size > self.bytes:
            raise FileError(path, errno.EFBIG, "more than max_bytes")
        with failing(path):
            self.bytes -= await transfer(fd, host, self.bytes)
        if self.bytes < 0:
            raise FileError(path, errno.EFBIG, "more than max_bytes")

    async def folder(self, fd: int, path: str, host: int, to: str, below: str, depth: int) -> None:
        _deep(depth, path)
        found = await bounded(fd, path, self.files)
        self.files -= len(found)
        for name, kind in found:
            here, there, short = os.path.join(path, name), os.path.join(to, name), os.path.join(below, name)
            inner = await self._open(name, fd, here) if kind in "df" else None
            if inner is None:
                self.left_out.append(short)
                continue
            try:
                status = os.fstat(inner)
                if stat.S_ISREG(status.st_mode):
                    with failing(there):
                        out = os.open(name, MADE, _safe(status), dir_fd=host)
                    try:
                        await self.file(inner, here, out)
                    finally:
                        os.close(out)
                elif stat.S_ISDIR(status.st_mode):
                    with failing(there):
                        os.mkdir(name, 0o700, dir_fd=host)
                        out = os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=host)
                    try:
                        await self.folder(inner, here, out, there, short, depth + 1)
                        with failing(there):
                            os.fchmod(out, _safe(status) | 0o100)
                    finally:
                        os.close(out)
                else:
                    self.left_out.append(short)
            finally:
                os.close(inner)

    async def _open(self, name: str, base: int, path: str) -> int | None:
        """A descriptor, or None where it is a link, a socket or gone by now."""
        try:
            return await self.inside.open(name, os.O_RDONLY | os.O_NOFOLLOW, base=base)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO, errno.ENOENT):
                return None
            raise FileError(path, error.errno or errno.EIO) from None


MADE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def _safe(status: os.stat_result) -> int:
    """A mode for the host: the caller may read and write, nobody else may write, no setuid."""
    return stat.S_IMODE(status.st_mode) & 0o755 | 0o600


async def _closing(fd: int, work: Awaitable[None]) -> None:
    try:
        await work
    finally:
        os.close(fd)


async def get_tree(inside: Inside, path: str, to: str, max_bytes: int, max_files: int) -> list[str]:
    """Copy a file or a directory inside to the host; what was left out."""
    copy = _Out(inside, max_bytes, max_files)
    with failing(path):
        fd = await inside.open(path, os.O_RDONLY)
    try:
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode):
            if status.st_size > max_bytes:
                raise FileError(path, errno.EFBIG, "more than max_bytes")
            with failing(to):
                host = os.open(to, MADE, _safe(status))
            await _closing(host, copy.file(fd, path, host))
        elif stat.S_ISDIR(status.st_mode):
            with failing(to):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(to, 0o755)
                host = os.open(to, FOLDER)
            await _closing(host, copy.folder(fd, path, host, to, "", 1))
        else:
            raise FileError(path, errno.EINVAL, "neither a file nor a directory")
    finally:
        os.close(fd)
    return copy.left_out


# ---- away ----


async def remove(inside: Inside, path: str, recursive: bool) -> None:
    """Remove what `path` names, a last link itself."""
    base, name = await inside.parent(path)
    try:
        with failing(path):
            try:
                await inside.do(control.FILE_UNLINK, name, base)
            except IsADirectoryError:
                if not recursive:
                    raise FileError(path, errno.EISDIR, "give recursive=True for a directory") from None
                await remove_folder(inside, path, name, base)
    finally:
        os.close(base)


async def remove_folder(inside: Inside, path: str, name: str, base: int, depth: int = 1) -> None:
    """Remove a directory of that name in `base`, and all below it. Raises FileError, OSError."""
    _deep(depth, path)
    for _ in range(STALE):
        fd = await inside.open(name, FOLDER | os.O_NOFOLLOW, base=base)
        try:
            await _empty(inside, path, fd, depth)
        finally:
            os.close(fd)
        try:
            return await inside.do(control.FILE_RMDIR, name, base)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
    raise FileError(path, errno.ENOTEMPTY)


async def _empty(inside: Inside, path: str, fd: int, depth: int) -> None:
    while found := await names(fd, path, BATCH):
        for name, _ in found:
            below = os.path.join(path, name)
            with failing(below), contextlib.suppress(FileNotFoundError):
                try:
                    await inside.do(control.FILE_UNLINK, name, fd)
                except IsADirectoryError:
                    await remove_folder(inside, below, name, fd, depth + 1)
