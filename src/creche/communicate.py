"""Feeds one pipe and drains two at once, within a size, until the command has ended."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable

import anyio

from .streams import ReceiveStream, SendStream

__all__ = ["Collector", "feed"]


class Collector:
    """What one stream gave: all of it up to `limit` bytes, else its head and its tail, half of the limit each."""

    def __init__(self, stream: ReceiveStream | None, limit: int | None, overflow: Callable[[], None] | None) -> None:
        self._stream = stream
        self._limit = limit
        self._overflow = overflow
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._seen = 0
        self._done = anyio.Event()
        self.ending = False  #: the command is dead: take what is there, wait for nobody

    @property
    def truncated(self) -> bool:
        return self._limit is not None and self._seen > self._limit

    def _add(self, data: bytes) -> None:
        was_over = self.truncated
        self._seen += len(data)
        if self._limit is None or self._seen <= self._limit:
            self._head += data
            return
        if not was_over and self._overflow is not None:
            self._overflow()
        self._tail.append(data)
        self._tail_size += len(data)
        while self._tail and self._tail_size - len(self._tail[0]) >= self._limit:
            self._tail_size -= len(self._tail.popleft())

    def result(self) -> bytes:
        """The bytes kept; where some are missing (`truncated`), the head and then the tail."""
        if not self.truncated or self._limit is None:
            return bytes(self._head)
        kept = bytes(self._head) + b"".join(self._tail)
        front = self._limit // 2
        back = self._limit - front
        return kept[:front] + (kept[-back:] if back else b"")

    async def drain(self) -> None:
        """Read to the end, or until `ending` and nothing is there."""
        stream = self._stream
        try:
            while stream is not None:
                data = stream.receive_nowait(1 << 18)
                if data:
                    self._add(data)
                    if self._seen & 0xFF_FFFF < len(data):  # every 16 MiB: a fast writer must not hold the loop
                        await anyio.lowlevel.checkpoint()
                    continue
                if data == b"" or self.ending:
                    break
                await anyio.wait_readable(stream.fileno())
        except anyio.ClosedResourceError:
            if self.ending and stream is not None and stream.fileno() >= 0:  # woken to look once more
                while data := stream.receive_nowait(1 << 18):
                    self._add(data)
        finally:
            self._done.set()

    async def finish(self) -> None:
        """The command is dead: take what is there, whoever else holds the pipe open."""
        self.ending = True
        if self._stream is not None and not self._done.is_set() and self._stream.fileno() >= 0:
            anyio.notify_closing(self._stream.fileno())
            await self._done.wait()


async def feed(stream: SendStream, data: bytes) -> None:
    """Send it and close. A command that stops reading is not our error."""
    with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        await stream.send(data)
    await stream.aclose()
