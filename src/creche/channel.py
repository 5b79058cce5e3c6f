"""The control socket to an init: whoever waits reads it for everyone, and each message wakes all who wait."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable

import anyio

from ._native import ffi, lib
from .wire import control
from .wire.control import REPLY_SIZE, Reply

__all__ = ["Channel"]

_CREDENTIALS = struct.Struct("=3i")
_ROOM = socket.CMSG_SPACE(8 * 4) + socket.CMSG_SPACE(_CREDENTIALS.size)
_CLOEXEC = 0x4000_0000  # MSG_CMSG_CLOEXEC, recvmsg(2)


class Channel:
    """One end of a SOCK_SEQPACKET pair. `handle` gets each message with its descriptors and its sender's claim of a pid.

    No task of its own: one of those who wait does the reading, and when it leaves, another takes over.
    """

    def __init__(self, ours: socket.socket, handle: Callable[[Reply, list[int], int], None]) -> None:
        self._socket = ours
        self._handle = handle
        self._reading = False
        self._changed: anyio.Event | None = None
        self.ended = False  #: the other end is gone, or has sent what no init of ours sends
        self.broken = False
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # a pid that the kernel translates: unix(7)

    def drain(self) -> None:
        """Handle every message that is there now."""
        handled = False
        while not self.ended:
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(REPLY_SIZE + 1, _ROOM, _CLOEXEC)
            except BlockingIOError:
                break
            except ConnectionResetError:
                continue  # it left something unread; what it said before that is still to come, and then the end
            handled = True
            fds: list[int] = []
            pid = 0
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds += struct.unpack(f"={len(content) // 4}i", content[: len(content) // 4 * 4])
                elif level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                    pid = _CREDENTIALS.unpack(content[: _CREDENTIALS.size])[0]
            reply = control.decode(data)
            if reply is None or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                for fd in fds:
                    os.close(fd)
                self.ended = True
                self.broken = bool(data)
                break
            self._handle(reply, fds, pid)
        if handled:
            self.wake()

    def wake(self) -> None:
        """Let everyone who waits look again."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def until(self, done: Callable[[], bool], alarm: Callable[[], float | None] = lambda: None) -> None:
        """Wait until `done()`, the channel has ended, or the time (of time.monotonic) that `alarm()` gives has come."""
        while True:
            self.drain()
            at = alarm()
            if done() or self.ended or (at is not None and time.monotonic() >= at):
                return
            with anyio.move_on_after(None if at is None else at - time.monotonic()):
                await self._news()

    async def _news(self) -> None:
        if self._reading:
            if self._changed is None:
                self._changed = anyio.Event()
            await self._changed.wait()
            return
        self._reading = True
        try:
            await anyio.wait_readable(self._socket)
        except anyio.ClosedResourceError:
            pass  # nudged, or closed: the caller looks
        finally:
            self._reading = False
            self.wake()

    def nudge(self) -> None:
        """Let everyone who waits look again, the one who reads included: an alarm was set."""
        if self._reading:
            anyio.notify_closing(self._socket)
        self.wake()

    async def send(self, kind: int, ident: int, *, flags: int = 0, number: int = 0, a: int = 0, b: int = 0, blob: bytes = b"", fds: list[int] | None = None) -> None:
        """Send the init a request, waiting while its socket is full. Raises BrokenPipeError where it is gone."""
        request = ffi.new("struct creche_request *")
        request.type, request.id, request.flags, request.number, request.a, request.b = kind, ident, flags, number, a, b
        fds = fds or []
        while True:
            result = lib.creche_send(self._socket.fileno(), request, blob, len(blob), fds, len(fds))
            if result == 0:
                return
            if -result not in (11,):  # EAGAIN
                raise OSError(-result, os.strerror(-result))
            self.drain()  # the init may be waiting for us to read
            await anyio.wait_writable(self._socket)

    def close(self) -> None:
        """Close our end: the init ends with it."""
        self.ended = True
        if self._socket.fileno() >= 0:
            try:
                anyio.notify_closing(self._socket)
            except (RuntimeError, anyio.NoEventLoopError):
                pass
            self._socket.close()
        self.wake()
