"""Files in and out of a container: opened by its init inside its own root, read and written here."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol, TypeVar

import anyio
import anyio.abc
import anyio.to_thread

from .errors import FileError, SpecError
from .wire import control

__all__ = ["FileReader", "FileWriter", "Inside", "get", "make", "opened", "put", "transfer"]

Content = bytes | str | os.PathLike[str]
T = TypeVar("T")
SMALL = 64 << 10  # bytes that are moved on the loop: less than a thread's wake costs
TURN = 8 << 20  # bytes that a thread moves before it looks whether it was cancelled
PART = 256 << 10
WHOLE = 1 << 30
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
STANDING = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC  # a place to make things in, whoever may read it
MODES = {"wb": os.O_TRUNC, "ab": os.O_APPEND, "xb": os.O_EXCL}


class _Ask(Protocol):
    async def __call__(self, path: str, flags: int = 0, mode: int = 0, *, verb: int = ..., base: int = ..., more: str | None = ..., to: int = ...) -> int: ...


class Inside:
    """The files of a container as its init sees them; what it answers with an errno is a FileError of the whole path."""

    def __init__(self, ask: _Ask, owner: tuple[int, int] | None = None) -> None:
        self._ask = ask
        self.owner = owner  #: whose what is made here shall be, in ids of the inside; None: the init's

    async def open(self, path: str, flags: int, mode: int = 0, *, base: int = -1) -> int:
        """A descriptor: of a path below the root, or of one name in the directory `base`. Raises OSError."""
        return await self._ask(path, flags | os.O_CLOEXEC, mode, base=base)

    async def do(self, verb: int, name: str, base: int, value: int = 0, more: str | None = None) -> None:
        """MKDIR, UNLINK and their like. Raises OSError."""
        await self._ask(name, 0, value, verb=verb, base=base, more=more)

    async def attribute(self, fd: int, name: str) -> bytes:
        """An extended attribute that only the init may read. Raises OSError."""
        with open(os.memfd_create("creche-attribute", os.MFD_CLOEXEC), "rb") as value:
            await self._ask(name, verb=control.FILE_XATTR, base=fd, to=value.fileno())
            value.seek(0)
            return value.read()

    async def give(self, fd: int) -> None:
        """Make what was just made the user's."""
        if self.owner is not None:
            await self.do(control.FILE_OWNER, "", fd, self.owner[0] | self.owner[1] << 32)

    async def parent(self, path: str, make: bool = False) -> tuple[int, str]:
        """The directory that holds `path`, open, and the name in it; with `make`, directories that are missing are made."""
        head, name = os.path.split(path.rstrip("/"))
        if name in ("", ".", ".."):
            raise FileError(path, errno.EINVAL, "give a name below a directory")
        with failing(head or "/"):
            try:
                return await self.open(head or "/", STANDING), name
            except FileNotFoundError:
                if not make:
                    raise
        above, last = await self.parent(head, True)
        try:
            with failing(head):
                return await self.folder(last, above, 0o755), name
        finally:
            os.close(above)

    async def folder(self, name: str, base: int, mode: int) -> int:
        """A directory made below another, or found there: open, to make more in it. Raises OSError."""
        made = True
        try:
            await self.do(control.FILE_MKDIR, name, base, mode)
        except FileExistsError:
            made = False
        fd = await self.open(name, STANDING | os.O_NOFOLLOW, base=base)
        try:
            if made:
                await self.give(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd


@contextlib.contextmanager
def failing(path: str) -> Any:
    """What fails in it is a FileError about `path`."""
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        raise FileError(path, error.errno or errno.EIO) from None


async def aside(size: int, work: Callable[[], T]) -> T:
    """Do what may block for `size` bytes' time: at once where that is short, else in a thread; others have their turn."""
    if size > SMALL:
        return await anyio.to_thread.run_sync(work)
    await anyio.lowlevel.checkpoint()
    return work()


def _move(source: int, target: int, most: int) -> int:
    done = 0
    while done < most and (part := os.read(source, min(PART, most - done))):
        _write(target, part)
        done += len(part)
    return done


def _write(target: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


async def transfer(source: int, target: int, most: int | None = None) -> int:
    """Copy from one descriptor to the other to the end; how much. With `most`: that and one byte more, at the most."""
    done = 0
    while True:
        left = TURN if most is None else min(TURN, most + 1 - done)
        size = max(os.fstat(source).st_size - done, 0)
        if size <= SMALL:
            left = min(left, SMALL)
        count = await aside(size, lambda left=left: _move(source, target, left))  # type: ignore[misc]
        done += count
        if count < left or (most is not None and done > most):
            return done


def regular(fd: int, path: str) -> None:
    """Close what is no regular file, and say so."""
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        if stat.S_ISDIR(mode):
            raise FileError(path, errno.EISDIR, "a directory: get(path, to=...) copies it")
        raise FileError(path, errno.EINVAL, "not a regular file")


async def make(inside: Inside, path: str, name: str, base: int, mode: int, how: int = os.O_TRUNC) -> int:
    """A file to write, made or, where it is there, emptied: a last link is not followed, no second name written through."""
    flags = os.O_WRONLY | os.O_NOFOLLOW | how & os.O_APPEND
    for _ in range(8):
        try:
            fd = await inside.open(name, flags | os.O_CREAT | os.O_EXCL, mode, base=base)
        except FileExistsError:
            if how & os.O_EXCL:
                raise
        else:
            await _closing(fd, inside.give(fd))
            return fd
        try:
            fd = await inside.open(name, flags, base=base)
        except FileNotFoundError:
            continue  # removed this moment
        regular(fd, path)
        await _closing(fd, _reuse(inside, path, fd, mode, how))
        return fd
    raise FileError(path, errno.EBUSY)


async def _reuse(inside: Inside, path: str, fd: int, mode: int, how: int) -> None:
    if os.fstat(fd).st_nlink > 1:
        raise FileError(path, errno.EMLINK)  # it may be somebody else's, under another name
    if not how & os.O_APPEND:
        await aside(os.fstat(fd).st_size, lambda: os.ftruncate(fd, 0))  # which frees its pages, one by one
        await inside.do(control.FILE_MODE, "", fd, mode)


async def _closing(fd: int, work: Any) -> None:
    try:
        await work
    except BaseException:
        os.close(fd)
        raise


def host_file(path: str, base: int | None = None) -> int:
    """A regular file of the host's, to read, or the one of its name in `base`, no link; a FIFO must not hold the loop."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    fd = os.open(path, flags) if base is None else os.open(os.path.basename(path), flags | os.O_NOFOLLOW, dir_fd=base)
    regular(fd, path)
    return fd


async def put(inside: Inside, path: str, content: Content, mode: int, parents: bool) -> None:
    """Write `content` (bytes, or a host's file) to `path` inside."""
    source = -1
    if not isinstance(content, (bytes, bytearray, memoryview)):
        with failing(os.fsdecode(content)):
            source = host_file(os.fsdecode(content))
    try:
        base, name = await inside.parent(path, parents)
        try:
            with failing(path):
                fd = await make(inside, path, name, base, mode)
        finally:
            os.close(base)
        try:
            with failing(path):
                if source >= 0:
                    await transfer(source, fd)
                else:
                    view = memoryview(content).cast("B")  # type: ignore[arg-type]
                    for at in range(0, len(view), TURN):
                        part = view[at : at + TURN]
                        await aside(len(part), lambda part=part: _write(fd, part))  # type: ignore[misc]
        finally:
            os.close(fd)
    finally:
        if source >= 0:
            os.close(source)


async def get(inside: Inside, path: str, max_bytes: int) -> bytes:
    """The bytes of a regular file inside; FileError with EFBIG where it is larger, or grows."""
    with failing(path):
        fd = await inside.open(path, os.O_RDONLY)
        regular(fd, path)
        parts: list[bytes] = []
        done = 0
        try:
            while done <= max_bytes and (size := os.fstat(fd).st_size) <= max_bytes:
                # All of it by one read, where it can be: nothing that is large is copied, which would keep the loop waiting.
                most = min(max(size - done + 1, SMALL), max_bytes + 1 - done, WHOLE)
                part = await aside(most, lambda most=most: os.read(fd, most))  # type: ignore[misc]
                if not part:
                    return parts[0] if len(parts) == 1 else await aside(done, lambda: b"".join(parts))
                parts.append(part)
                done += len(part)
        finally:
            os.close(fd)
    raise FileError(path, errno.EFBIG, f"more than max_bytes={max_bytes}")


class _Open:
    """One file inside, open. It stays open when the container has ended."""

    def __init__(self, fd: int, path: str) -> None:
        self._fd, self._path, self._busy, self._over = fd, path, False, False

    def fileno(self) -> int:
        """The descriptor's number; -1 once closed."""
        return -1 if self._over else self._fd

    async def _aside(self, size: int, work: Callable[[int], T]) -> T:
        """As `aside`, one at a time; a file that is closed meanwhile is so once no thread is at it."""
        if self._over:
            raise anyio.ClosedResourceError
        if self._busy:
            raise anyio.BusyResourceError("working on")
        self._busy = True
        try:
            with failing(self._path):
                return await aside(size, lambda: work(self._fd))
        finally:
            self._busy = False
            if self._over:
                os.close(self._fd)

    async def aclose(self) -> None:
        """Close it. May be called again."""
        over, self._over = self._over, True
        if not over and not self._busy:
            os.close(self._fd)


class FileReader(_Open, anyio.abc.ByteReceiveStream):
    """A file inside, as an `anyio.abc.ByteReceiveStream`: `async for part in file`."""

    def __init__(self, fd: int, path: str, max_bytes: int | None) -> None:
        super().__init__(fd, path)
        self._left = max_bytes

    async def receive(self, max_bytes: int = SMALL) -> bytes:
        """At least one byte, at most `max_bytes`. Raises EndOfStream, FileError (EFBIG beyond the bound), ClosedResourceError."""
        most = min(max(max_bytes, 1), TURN if self._left is None else min(TURN, self._left + 1))
        data = await self._aside(most, lambda fd: os.read(fd, most))
        if not data:
            raise anyio.EndOfStream
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                self._left = 0
                raise FileError(self._path, errno.EFBIG, "more than max_bytes")
        return data


class FileWriter(_Open, anyio.abc.ByteSendStream):
    """A file inside, as an `anyio.abc.ByteSendStream`."""

    async def send(self, item: bytes) -> None:
        """Write all of it. Raises FileError, ClosedResourceError."""
        view = memoryview(item).cast("B")
        for at in range(0, len(view), TURN):
            part = view[at : at + TURN]
            await self._aside(len(part), lambda fd, part=part: _write(fd, part))  # type: ignore[misc]


@contextlib.asynccontextmanager
async def opened(inside: Inside, path: str, how: str, mode: int, max_bytes: int | None) -> AsyncIterator[Any]:
    """The file as a stream of bytes, closed at the end of the block."""
    file: FileReader | FileWriter
    if how == "rb":
        with failing(path):
            fd = await inside.open(path, os.O_RDONLY)
            regular(fd, path)
        file = FileReader(fd, path, max_bytes)
    elif how in MODES:
        base, name = await inside.parent(path)
        try:
            with failing(path):
                file = FileWriter(await make(inside, path, name, base, mode, MODES[how]), path)
        finally:
            os.close(base)
    else:
        raise SpecError("mode", how, f"give rb, {', '.join(MODES)}: bytes alone, in one direction")
    try:
        yield file
    finally:
        await file.aclose()
