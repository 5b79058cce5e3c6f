"""The control socket to an init: whoever waits reads it for everyone, and each message wakes all who wait."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Callable

import anyio

from ._native import ffi, lib
from .errors import CrecheError
from .intake import Intake
from .streams import rouse
from .wire import control
from .wire.control import REPLY_SIZE, Reply

__all__ = ["Channel", "belongs"]

def belongs(owner: int) -> None:
    """Raises CrecheError in a fork of the program that owns a container: all its descriptors are there too, but it is not the fork's to end or to talk to."""
    if os.getpid() != owner:
        raise CrecheError("the container belongs to the process that started it, and this is a fork of that: use it there")


_AT_ONCE = 256  # messages that are handled before others on the loop have their turn


class Channel:
    """One end of a SOCK_SEQPACKET pair. `handle` gets each message with its descriptors and its sender's claim of a pid.

    No task of its own: one of those who wait does the reading, and when it leaves, another takes over.
    """

    def __init__(self, ours: socket.socket, handle: Callable[[Reply, list[int], int], None]) -> None:
        self._socket = ours
        self._handle = handle
        self._room_for_news = ffi.new("struct creche_news *")
        self._reading = False
        self._waiting: dict[socket.socket | Intake | anyio.Event, Callable[[], bool]] = {}  # what each task waits on, and for what
        self._turn: anyio.Lock | None = None
        self.ended = False  #: the other end is gone, or has sent what no init of ours sends
        self.broken = False  #: the latter
        self._thread, self._pid = threading.get_ident(), os.getpid()
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # a pid that the kernel translates: unix(7)

    def fileno(self) -> int:
        """Its descriptor; -1 once it is closed."""
        return self._socket.fileno()

    def drain(self, most: int = _AT_ONCE) -> None:
        """Handle the messages that are there now, at most so many."""
        handled, fd, news = 0, self._socket.fileno(), self._room_for_news
        if fd < 0:  # closed by its own finalizer: of what is collected together, that may come before the container's
            self.ended = True
        if os.getpid() != self._pid:
            return  # a fork of the host program: what it took would be missing where it belongs
        while not self.ended and handled < most:
            size = lib.creche_receive(fd, news)
            if size == -errno.EAGAIN or size == -errno.EINTR:
                break
            if size == -errno.ECONNRESET:
                continue  # it left something unread; what it said before that is still to come, and then the end
            if size < 0:
                raise OSError(-size, os.strerror(-size))
            handled += 1
            fds = list(news.fds[0 : news.count]) if news.count else []
            # Descriptors that we have no numbers for are cut off (MSG_CTRUNC): the handler misses them.
            reply = control.decode(ffi.buffer(news.message)[:]) if size == REPLY_SIZE else None
            if reply is None:
                for item in fds:
                    os.close(item)
                self.ended = True
                self.broken = size > 0
                break
            self._handle(reply, fds, news.pid)
        if handled:
            for awaited, done in self._waiting.items():  # the one who reads included: what it waits for may have been read by another
                if self.ended or done():
                    self._stir(awaited)

    def wake(self) -> None:
        """Let everyone who waits look again, at the clock too."""
        for awaited in self._waiting:
            self._stir(awaited)

    def _stir(self, awaited: socket.socket | Intake | anyio.Event) -> None:
        if os.getpid() != self._pid:
            return  # a fork of the host program: trio's loop runs on in it, and takes what it is told out of the epoll that both have
        if isinstance(awaited, anyio.Event):
            with contextlib.suppress(RuntimeError):  # the loop on which somebody waited is closed
                awaited.set()
        elif isinstance(awaited, Intake):
            awaited.rouse()
        else:
            rouse(awaited)

    async def until(self, done: Callable[[], bool], alarm: Callable[[], float | None] = lambda: None, intake: Intake | None = None) -> None:
        """Wait until `done()`, the channel has ended, or the time (of time.monotonic) that `alarm()` gives has come; and take meanwhile what comes by `intake`."""
        self._at_home()
        reads = False
        try:
            while not done():
                self.drain()
                at = alarm()
                if done() or self.ended or (at is not None and time.monotonic() >= at):
                    return
                if not self._reading:
                    reads = self._reading = True
                if at is None:
                    await self._news(done, reads, intake)
                    continue
                with anyio.move_on_after(at - time.monotonic()):
                    await self._news(done, reads, intake)
        finally:
            self._reading = self._reading and not reads
            if not self._reading and self._waiting:  # another takes over; and where that one is just leaving as well, it comes here
                self._stir(next(iter(self._waiting)))

    def _at_home(self) -> None:
        """Raises CrecheError on another thread than the one that started it: who waits here is woken by tasks of one loop. And in a fork."""
        belongs(self._pid)
        if threading.get_ident() != self._thread:
            raise CrecheError("the container belongs to the loop of another thread, which started it: use it there (anyio.from_thread.run)")

    async def _news(self, done: Callable[[], bool], reads: bool, intake: Intake | None) -> None:
        fd = self._socket.fileno() if reads else -1
        if intake is not None:
            await self.take_in(intake, fd, done)
            return
        awaited = self._socket if reads else anyio.Event()
        self._waiting[awaited] = done
        try:
            if isinstance(awaited, anyio.Event):
                await awaited.wait()
            else:
                await anyio.wait_readable(fd)
        except anyio.ClosedResourceError:
            pass  # nudged, or closed: the caller looks
        finally:
            del self._waiting[awaited]

    async def take_in(self, intake: Intake, fd: int, done: Callable[[], bool] = lambda: False) -> None:
        """Wait for `fd`, or for `wake`, while `intake` takes what comes."""
        self._waiting[intake] = done
        try:
            await intake.wait(fd)
        finally:
            del self._waiting[intake]

    def post(self, kind: int, ident: int, *, number: int = 0, blob: bytes = b"", flags: int = 0, a: int = 0, b: int = 0, fds: list[int] | None = None) -> bool:
        """Send the init a request without waiting: whether there was room. Raises OSError, BrokenPipeError where it is gone."""
        belongs(self._pid)
        if self.ended:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        fds = fds or []
        result = lib.creche_send(self._socket.fileno(), kind, ident, flags, number, a, b, blob, len(blob), fds, len(fds))
        if result and result != -errno.EAGAIN:
            raise OSError(-result, os.strerror(-result))
        return bool(result == 0)

    async def send(self, kind: int, ident: int, *, number: int = 0, blob: bytes = b"", flags: int = 0, a: int = 0, b: int = 0, fds: list[int] | None = None) -> None:
        """As `post`, waiting while its socket is full. Cancelled: nothing was sent."""

        def sent() -> bool:
            return self.post(kind, ident, number=number, blob=blob, flags=flags, a=a, b=b, fds=fds)

        self._at_home()
        if sent():
            return
        if self._turn is None:
            self._turn = anyio.Lock()
        async with self._turn:  # one task alone may wait for a socket: anyio's BusyResourceError
            while not sent():
                await self._room()

    async def _room(self) -> None:
        """Wait until something may be sent; and read meanwhile, for the init may be waiting for us to do so."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.until, lambda: False)
            try:
                await anyio.wait_writable(self._socket)
            except anyio.ClosedResourceError:
                pass  # nudged, or closed
            tasks.cancel_scope.cancel()

    def close(self) -> None:
        """Close our end: the init ends with it."""
        self.ended = True
        self.wake()
        if self._turn is not None:
            self._stir(self._socket)
        self._socket.close()
