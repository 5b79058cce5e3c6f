"""Files in and out of a container: opened by its init inside its own root, read and written here."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Awaitable, Callable

import anyio

from .errors import FileError

__all__ = ["get", "put"]

Opener = Callable[[str, int, int], Awaitable[int]]
PART = 1 << 20


async def _regular(opener: Opener, path: str, flags: int, mode: int) -> int:
    try:
        fd = await opener(path, flags | os.O_CLOEXEC, mode)
    except OSError as error:
        raise FileError(path, error.errno or errno.EIO) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileError(path, errno.EINVAL)
    return fd


async def put(opener: Opener, path: str, content: bytes | str | os.PathLike[str], mode: int) -> None:
    """Write `content` (bytes, or a host's file) to `path` inside: made or emptied first; a last link is not followed."""
    fd = await _regular(opener, path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, mode)
    try:
        if os.fstat(fd).st_nlink > 1:
            raise FileError(path, errno.EMLINK)  # it may be somebody else's, under another name
        os.ftruncate(fd, 0)
        if isinstance(content, (bytes, bytearray, memoryview)):
            await _write(fd, memoryview(content))
        else:
            source = os.open(content, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not hold the loop
            try:
                if not stat.S_ISREG(os.fstat(source).st_mode):
                    raise FileError(os.fsdecode(content), errno.EINVAL)
                while part := os.read(source, PART):
                    await _write(fd, memoryview(part))
            finally:
                os.close(source)
        os.fchmod(fd, mode)
    except FileError:
        raise
    except OSError as error:
        raise FileError(path, error.errno or errno.EIO) from None
    finally:
        os.close(fd)


async def _write(fd: int, view: memoryview) -> None:
    while view:
        view = view[os.write(fd, view[:PART]) :]
        await anyio.lowlevel.checkpoint()


async def get(opener: Opener, path: str, max_bytes: int) -> bytes:
    """The bytes of a regular file inside; FileError with EFBIG where it is larger, or grows."""
    fd = await _regular(opener, path, os.O_RDONLY, 0)
    content = bytearray()
    try:
        while len(content) <= max_bytes:
            part = os.read(fd, min(PART, max_bytes + 1 - len(content)))
            if not part:
                return bytes(content)
            content += part
            await anyio.lowlevel.checkpoint()
    except OSError as error:
        raise FileError(path, error.errno or errno.EIO) from None
    finally:
        os.close(fd)
    raise FileError(path, errno.EFBIG)
