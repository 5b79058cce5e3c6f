"""The listeners of one container, read through one epoll, and the async iterators that give what they hear."""

from __future__ import annotations

import contextlib
import os
import select
import time
from typing import TYPE_CHECKING, Generic, Self, TypeVar

import anyio

from ..errors import CrecheError, SpecError
from ..lifecycle import State
from ..streams import rouse
from .syscalls import Syscall, Window
from .violations import Violation

if TYPE_CHECKING:
    from ..channel import Channel
    from ..container import Container
    from ..process import Process
    from .listener import Listener

__all__ = ["Calls", "Syscalls", "Violations"]

T = TypeVar("T")


class Calls:
    """The listeners of one container, and whoever reads them, in one epoll."""

    def __init__(self) -> None:
        self.window = Window()
        self.reading = False
        self.closed = False
        self._epoll = select.epoll()
        self._pid = os.getpid()
        self._listeners: dict[int, tuple[Listener, Process]] = {}
        self._others: set[int] = set()

    def add(self, listener: Listener, process: Process) -> None:
        self._listeners[listener.fileno()] = listener, process
        self._epoll.register(listener.fileno(), select.EPOLLIN)

    def watch(self, fd: int) -> None:
        """Wake the reader for this one as well, as long as it is open."""
        if fd not in self._others and fd >= 0:
            self._others.add(fd)
            self._epoll.register(fd, select.EPOLLIN)

    def forget(self, fd: int) -> None:
        if fd in self._others:
            self._others.discard(fd)
            self._epoll.unregister(fd)

    def next(self, observe: bool) -> Syscall | None:
        """A call that waits, of each command in turn; None where none does."""
        while not self.closed:
            ready = self._epoll.poll(0, maxevents=1)  # which then goes to the end of the kernel's own queue
            if not ready or ready[0][0] not in self._listeners:
                return None
            fd, events = ready[0]
            listener, process = self._listeners[fd]
            if not events & select.EPOLLIN:  # all who had the filter are gone
                self._epoll.unregister(fd)
                del self._listeners[fd]
                listener.close()
            elif (call := listener.receive()) is not None:
                return Syscall(call, listener, process, self.window, observe)
        return None

    async def readable(self) -> None:
        with contextlib.suppress(anyio.ClosedResourceError):
            await anyio.wait_readable(self._epoll)

    def nudge(self) -> None:
        """Let the reader look again: a descriptor that is closed leaves the epoll without a word, epoll(7)."""
        if self.reading and os.getpid() == self._pid:  # a fork of the host program has the epoll too
            rouse(self._epoll)

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.nudge()
        self.window.end()
        self._epoll.close()
        for listener, _ in self._listeners.values():
            listener.close()


class Source(Generic[T]):
    """An async iterator that ends with its container."""

    def __init__(self, box: Container) -> None:
        self._box = box

    def __aiter__(self) -> Self:
        return self

    def _take(self, calls: Calls) -> T | None:
        raise NotImplementedError

    async def __anext__(self) -> T:
        box = self._box
        if box._state in (State.NEW, State.STARTING):
            raise CrecheError(f"the container makes no calls: {box._state.value}")
        calls = box._gathered()
        if calls.reading:
            raise CrecheError("another task reads the container's calls: one at a time")
        calls.reading = True
        try:
            # Before a call is taken, so that a cancellation takes none along; and however fast they come, others on the loop have their turn.
            await anyio.lowlevel.checkpoint()
            while True:
                await calls.window.room()
                box._look()
                if (found := self._take(calls)) is not None:
                    return found
                if box._exit is not None or box._channel is None or calls.closed:
                    raise StopAsyncIteration
                if box._channel.ended:
                    await box.wait()
                    continue
                await self._news(calls, box._channel)
        finally:
            calls.reading = False

    async def _news(self, calls: Calls, channel: Channel) -> None:
        """Wait for a call, or a word of the init's; and keep time meanwhile, as all do who wait for the container."""
        main = self._box._processes[1]
        at = main._alarm_at
        calls.watch(channel.fileno())
        try:
            with anyio.move_on_after(None if at is None else max(0.0, at - time.monotonic())) as late:
                await calls.readable()
        finally:
            if not calls.closed:
                calls.forget(channel.fileno())
        if late.cancelled_caught:
            self._box._alarm(main)


class Syscalls(Source[Syscall]):
    """What `Container.syscalls` gives."""

    def __init__(self, box: Container, observe: bool) -> None:
        super().__init__(box)
        if not isinstance(observe, bool):
            raise SpecError("observe", observe, "give True or False")
        self._observe = observe

    def _take(self, calls: Calls) -> Syscall | None:
        return calls.next(self._observe)


class Violations(Source[Violation]):
    """What `Container.violations` gives."""

    def _take(self, calls: Calls) -> Violation | None:
        return self._box._reports.take() if self._box._reports is not None else None
