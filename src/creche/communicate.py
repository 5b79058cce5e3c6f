"""Feeds one pipe and drains two at once, within a size, until the command has ended."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio

from .spec.rules import check_answered
from .streams import ReceiveStream, SendStream

if TYPE_CHECKING:
    from .container import Container
    from .results import Exit

__all__ = ["Collector", "alone", "drop", "feed"]

PART = 1 << 18  # bytes of one read
PARTS = 4  # reads before others on the loop have their turn: less than a millisecond


class Collector:
    """What one stream gave: all of it up to `limit` bytes, else its head and its tail, half of the limit each.

    Holds little more than the limit, in however small pieces a guest writes.
    """

    def __init__(self, stream: ReceiveStream | None, limit: int | None, overflow: Callable[[], None] | None) -> None:
        self._stream = stream
        self._limit = limit
        self._overflow = overflow
        self._front = None if limit is None else limit // 2  # bytes of the head
        self._head = bytearray()
        self._tail = bytearray()
        self._seen = 0

    @property
    def truncated(self) -> bool:
        """Whether more came than is kept."""
        return self._limit is not None and self._seen > self._limit

    def add(self, data: bytes) -> None:
        """Keep what is to be kept of it; where that makes it too much, say so once."""
        was_over = self.truncated
        self._seen += len(data)
        if self._limit is None or self._front is None:
            self._head += data
            return
        room = self._front - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        back = self._limit - self._front
        if len(self._tail) > back + PART:
            del self._tail[: len(self._tail) - back]
        if self.truncated and not was_over and self._overflow is not None:
            self._overflow()

    def result(self) -> bytes:
        """The bytes kept; where some are missing (`truncated`), the head and then the tail."""
        if self._limit is None or self._front is None:
            return bytes(self._head)
        back = self._limit - self._front
        return bytes(self._head) + (bytes(self._tail[-back:]) if back else b"")

    @property
    def stream(self) -> ReceiveStream | None:
        """What it collects from; None where that is no pipe of ours."""
        return self._stream

    def receive(self) -> int:
        """Take what is there now, or a good part of it: how many bytes, or -1 where no more will come."""
        stream, before = self._stream, self._seen
        if stream is None or stream.fileno() < 0:
            return -1
        for _ in range(PARTS):
            data = stream.receive_nowait(PART)
            if not data:
                return -1 if data is not None else self._seen - before
            self.add(data)
        return self._seen - before

    def take(self) -> None:
        """The command is dead: take what is there, and no more."""
        if self._stream is None or self._stream.fileno() < 0:
            return
        left = _held(self._stream)
        while left > 0 and (data := self._stream.receive_nowait(min(PART, left))):
            self.add(data)
            left -= len(data)


def _held(stream: ReceiveStream) -> int:
    """As many bytes at most are what a dead command wrote: whoever else holds the pipe may write for ever."""
    try:
        return fcntl.fcntl(stream.fileno(), fcntl.F_GETPIPE_SZ)
    except OSError:
        return PART  # a terminal, which holds far less


async def feed(stream: SendStream, data: bytes | memoryview, *, terminal: bool = False) -> None:
    """Send it and then the end of the file. A command that stops reading is not our error."""
    with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        await stream.send(data)
        if terminal:  # its end of file is a character at the start of a line: termios(3), VEOF
            await stream.send(b"\x04" if not data or data[-1:] == b"\n" else b"\x04\x04")
    await stream.aclose()


async def drop(stream: ReceiveStream) -> None:
    """Read and forget, so that a writer never waits for a reader."""
    with contextlib.suppress(anyio.EndOfStream, anyio.ClosedResourceError):
        while True:
            await stream.receive()


async def alone(box: Container) -> Exit:
    """Start it, wait, clean up; what it writes is read and dropped, so that it never waits for a reader."""
    check_answered(box.spec)
    async with box, anyio.create_task_group() as tasks:
        if box.stdin is not None:
            box.stdin.close()
        for stream in (box.stdout, box.stderr):
            if stream is not None:
                tasks.start_soon(drop, stream)
        result = await box.wait()
        tasks.cancel_scope.cancel()
    return result
