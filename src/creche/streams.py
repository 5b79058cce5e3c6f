"""Pipes and terminals as anyio byte streams, with lines(); one waiter and one descriptor each."""

from __future__ import annotations

import codecs
import errno
import fcntl
import os
import select
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

import anyio
import anyio.abc

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

__all__ = ["ReceiveStream", "SendStream", "rouse"]

CHUNK = 65_536  # bytes of one read: a pipe's default capacity, pipe(7)
WIDE = 1 << 20  # the capacity asked for once a reader sees that the writer is faster
SHARE = 1 << 20  # bytes after which others on the loop have their turn: less than a millisecond
LINE = 512  # as so many bytes counts a line, for the time that it takes
F_SETPIPE_SZ = 1031


Line = TypeVar("Line", bytes, str)


def rouse(descriptor: FileDescriptorLike) -> None:
    """Let whoever waits for a descriptor have ClosedResourceError, before it is closed or to look again. Where no loop runs (any more), nobody waits."""
    try:
        anyio.notify_closing(descriptor)
    except (RuntimeError, ImportError, anyio.NoEventLoopError):
        pass  # a closed loop; Python is ending; none in this thread


class _Descriptor:
    """Owns one descriptor; closing wakes whoever waits for it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._waiting = 0  # which process does
        os.set_blocking(fd, False)

    def fileno(self) -> int:
        """The descriptor's number, or -1 once closed."""
        return self._fd

    def close(self) -> None:
        """Close at once; a waiting task gets ClosedResourceError. May be called again."""
        self.nudge()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def nudge(self) -> None:
        """Wake who waits for it, with ClosedResourceError."""
        if self._waiting and self._waiting == os.getpid():  # a fork of the host program closes what its parent waits for still
            rouse(self._fd)

    async def _wait(self, ready: Callable[[int], Awaitable[None]]) -> None:
        """Wait for it to be readable or writable; one task at a time. Raises ClosedResourceError, BusyResourceError."""
        if self._waiting:
            raise anyio.BusyResourceError("waiting for")
        fd = self._open()
        self._waiting = os.getpid()
        try:
            await ready(fd)
        finally:
            self._waiting = 0

    def _open(self) -> int:
        if self._fd < 0:
            raise anyio.ClosedResourceError
        return self._fd


class ReceiveStream(_Descriptor, anyio.abc.ByteReceiveStream):
    """What a command writes: an `anyio.abc.ByteReceiveStream` that ends with EndOfStream.

    What was read stays read: a cancelled `receive` loses nothing, the bytes are in the pipe or in the stream.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._kept = bytearray()  # read, and not yet given out by lines()
        self._searched = 0  # bytes of them that hold no newline
        self._ended = False
        self._widened = False
        self._poll = select.poll()
        self._since = 0  # bytes since others on the loop had their turn
        self._size = CHUNK

    def _read(self, fd: int, size: int) -> bytes | None:
        """What is there now, ``b""`` at the end, None where there is nothing yet."""
        try:
            data = os.read(fd, size)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.EIO:  # a terminal's last end was closed: ioctl_tty(2)
                return b""
            raise
        if len(data) == CHUNK and not self._widened:
            self._widened = True
            self._poll.register(fd, select.POLLIN)
            try:
                fcntl.fcntl(fd, F_SETPIPE_SZ, WIDE)
                self._size = WIDE // 4
            except OSError:
                pass  # a terminal, or the user's share of pipe memory is used up: smaller reads then
        return data

    async def readable(self) -> None:
        """Wait until there is something, or the end. Raises ClosedResourceError, BusyResourceError.

        A wait on a descriptor costs more than a turn of the loop. So where the writer is fast it first gets such a turn,
        in which it fills the pipe; with luck there is nothing left to wait for.
        """
        if self._widened:
            await anyio.lowlevel.checkpoint()
            if self._poll.poll(0):
                return
        await self._wait(anyio.wait_readable)

    def receive_nowait(self, max_bytes: int = CHUNK) -> bytes | None:
        """What is there now, at most `max_bytes`; ``b""`` at the end of the stream, None where there is nothing yet."""
        if self._kept:
            data = bytes(self._kept[:max_bytes])
            del self._kept[:max_bytes]
            self._searched = 0
            return data
        if self._ended:
            return b""
        data = self._read(self._open(), max_bytes)  # type: ignore[assignment]
        if data == b"":
            self._ended = True
        elif data is not None:
            self._since += len(data)
        return data

    async def _turn(self) -> None:
        """Be cancelled before anything is read, never after; and let others run, however fast the writer is."""
        if self._since < SHARE:
            await anyio.lowlevel.checkpoint_if_cancelled()
        else:
            self._since = 0
            await anyio.lowlevel.checkpoint()

    async def receive(self, max_bytes: int = CHUNK) -> bytes:
        """At least one byte and at most `max_bytes`. Raises EndOfStream, ClosedResourceError, BusyResourceError."""
        await self._turn()
        while True:
            data = self.receive_nowait(max(max_bytes, self._size) if max_bytes == CHUNK else max_bytes)
            if data == b"":
                raise anyio.EndOfStream
            if data is not None:
                return data
            await self.readable()
            self._since = 0

    @overload
    def lines(self, encoding: None = None, max: int = ...) -> Lines[bytes]: ...
    @overload
    def lines(self, encoding: str, max: int = ...) -> Lines[str]: ...
    def lines(self, encoding: str | None = None, max: int = CHUNK) -> Lines[Any]:
        """Lines without their newline, as bytes or decoded; one longer than `max` bytes comes in pieces, of whole characters where it is decoded.

        Undecodable bytes become U+FFFD. Ends with the stream; the last line need not end with a newline. Leaving the
        loop early keeps what was read: the next reader gets it. Raises ValueError, and LookupError for an encoding that there is not.
        """
        if type(max) is not int or max < 1:
            raise ValueError(f"max must be a number of bytes, at least 1, and not {max!r}")
        if encoding is not None:
            codecs.lookup(encoding)
        return Lines(self, encoding, max)

    def _line(self, max: int) -> tuple[bytes, bool] | None:
        """The next line of what has been read, and whether a newline ended it; None where that holds no whole one."""
        at = self._kept.find(b"\n", self._searched, max + 1)
        if at < 0 and len(self._kept) <= max and not (self._ended and self._kept):
            self._searched = len(self._kept)
            return None
        end = at if at >= 0 else min(max, len(self._kept))
        line = bytes(self._kept[:end])
        del self._kept[: end + (at >= 0)]
        self._searched = 0
        return line, at >= 0

    async def _more(self) -> None:
        """Read on, waiting for what there is not yet."""
        await self._turn()
        data = self._read(self._open(), self._size)
        if data is None:
            await self.readable()
            self._since = 0
        elif data == b"":
            self._ended = True
        else:
            self._kept += data
            self._since += len(data)

    async def aclose(self) -> None:
        """Close the reading end: a writer gets SIGPIPE."""
        self.close()


class Lines(Generic[Line]):
    """An iterator over a stream's lines. A class and no generator, which trio would want to be closed by hand."""

    def __init__(self, stream: ReceiveStream, encoding: str | None, max: int) -> None:
        self._stream, self._encoding, self._max = stream, encoding, max

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Line:
        stream = self._stream
        stream._since += LINE
        if stream._since >= SHARE:
            await stream._turn()  # before a line is taken, so that none is lost to a cancellation
        while (found := stream._line(self._max)) is None:
            if stream._ended:
                raise StopAsyncIteration
            await stream._more()
        line, ended = found
        if self._encoding is None:
            return line  # type: ignore[return-value]  # here Line is bytes
        if not ended and not stream._ended:  # a piece: of a character that it ends within, the rest is yet to come
            decoder = codecs.getincrementaldecoder(self._encoding)("replace")
            if text := decoder.decode(line):
                stream._kept[:0] = decoder.getstate()[0]
                return text  # type: ignore[return-value]  # and here str
        return line.decode(self._encoding, "replace")  # type: ignore[return-value]


class SendStream(_Descriptor, anyio.abc.ByteSendStream):
    """What a command reads: an `anyio.abc.ByteSendStream`; `aclose` is its end of file."""

    def fill(self, item: bytes) -> memoryview:
        """Send what the pipe takes now: what is left. For a pipe whose other end is open here, too."""
        view = memoryview(item).cast("B")
        while view:
            try:
                view = view[os.write(self._open(), view) :]
            except BlockingIOError:
                break
        return view

    async def send(self, item: bytes | memoryview) -> None:
        """Send all of `item`, waiting for the reader. Raises BrokenResourceError where nobody reads any more."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        view = memoryview(item).cast("B")
        since = 0
        while view:
            try:
                count = os.write(self._open(), view[:SHARE])
                view = view[count:]
                since += count
                if since >= SHARE:
                    since = 0
                    await anyio.lowlevel.checkpoint()
            except BlockingIOError:
                await self._wait(anyio.wait_writable)
            except BrokenPipeError:
                raise anyio.BrokenResourceError from None
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                raise anyio.BrokenResourceError from None

    async def aclose(self) -> None:
        """Close the writing end: the reader sees the end of file."""
        self.close()
