"""The half of Container that hears of system calls: those that wait for an answer, and those that were refused."""

from __future__ import annotations

import contextlib
import os
import select
import time
import weakref
from typing import TYPE_CHECKING, Generic, Self, TypeVar, cast

import anyio

from .errors import CrecheError, SpecError
from .lifecycle import State
from .limited import earlier
from .listener import Listener
from .plan.command import filter_of
from .syscalls import Syscall, Window
from .violations import Reports, Violation

if TYPE_CHECKING:
    from .channel import Channel
    from .container import Container
    from .machine import Machine
    from .process import Process
    from .results import Exit
    from .spec.spec import Spec

__all__ = ["Listening"]

T = TypeVar("T")


class Listening:
    """`Container.syscalls` and `Container.violations`; each needs a filter that has a listener (`Security`)."""

    if TYPE_CHECKING:
        spec: Spec
        _state: State
        _exit: Exit | None
        _owner: int
        _channel: Channel | None
        _machine: Machine | None
        _processes: dict[int, Process]

        def _strike(self) -> None: ...

    _calls: _Calls | None = None
    _reports: Reports | None = None

    def syscalls(self, *, observe: bool = False) -> _Syscalls:
        """The calls that its filter hands over, each waiting for your answer: an async iterator of `Syscall`.

        They are those of ``SeccompRules(notify=[…])`` and of SCMP_ACT_NOTIFY in a profile, made by any process of any
        command in the container. Until you take one, and answer it, its caller stands still; so it does where nobody
        iterates. The iterator ends with the container. Several calls may be in your hands at a time (128 at most; the
        kernel keeps the others), so a slow answer need not hold up the rest. It is for one task at a time.

        `observe`: whether calls may `Syscall.proceed`.

        Raises CrecheError for a filter that hands no calls over.

        >>> async for call in box.syscalls():
        ...     call.deny(errno.EACCES)
        """
        if not self.spec.security.notifies:
            raise CrecheError("the container's filter hands no calls over: give Security(seccomp=SeccompRules(notify=[…])), or a profile with SCMP_ACT_NOTIFY")
        return _Syscalls(cast("Container", self), observe)

    def violations(self) -> _Violations:
        """What its filter refuses, as it happens: an async iterator of `Violation`, for ``Security(seccomp_report=True)``.

        The callers have their answers already; nothing waits for you. What is not read is kept, 256 of them, the
        newest; `Violation.dropped` counts those that are lost. The iterator ends with the container, and is for one
        task at a time.

        Raises CrecheError where the filter does not report.
        """
        if not self.spec.security.seccomp_report:
            raise CrecheError("the container's filter does not report: give Security(seccomp_report=True)")
        return _Violations(cast("Container", self))

    def _listen(self, process: Process, command: tuple[str, ...], fd: int) -> None:
        """Take over the listener of a command that was executed."""
        assert self._machine is not None
        compiled = filter_of(self.spec, self._machine)
        assert compiled is not None
        listener = Listener(fd, compiled)
        if not self.spec.security.seccomp_report:
            self._gathered().add(listener, process)
            return
        if self._reports is None:
            itself = weakref.ref(self)  # its thread must not keep a forgotten container

            def kill_all() -> None:
                if (box := itself()) is not None:
                    box._strike()

            self._reports = Reports(kill_all)
            self._gathered().watch(self._reports.news)
        self._reports.add(listener, process, command)

    def _gathered(self) -> _Calls:
        if self._calls is None:
            self._calls = _Calls()
        return self._calls

    def _deaf(self) -> None:
        """Close all listeners: whoever waits still is dead, or gets ENOSYS."""
        ours = os.getpid() == self._owner
        if self._calls is not None:
            self._calls.close()
        reports, self._reports = self._reports, None
        if reports is not None:
            reports.close(ours)


class _Calls:
    """The listeners of one container, and whoever reads them, in one epoll."""

    def __init__(self) -> None:
        self.window = Window()
        self.reading = False
        self.closed = False
        self._epoll = select.epoll()
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

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        if self.reading:
            with contextlib.suppress(RuntimeError, ImportError, anyio.NoEventLoopError):
                anyio.notify_closing(self._epoll)
        self.window.end()
        self._epoll.close()
        for listener, _ in self._listeners.values():
            listener.close()


class _Source(Generic[T]):
    """An async iterator that ends with its container."""

    def __init__(self, box: Container) -> None:
        self._box = box

    def __aiter__(self) -> Self:
        return self

    def _take(self, calls: _Calls) -> T | None:
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

    async def _news(self, calls: _Calls, channel: Channel) -> None:
        """Wait for a call, or a word of the init's; and keep time meanwhile, as all do who wait for the container."""
        main = self._box._processes[1]
        at = earlier(main._alarm_at, self._box._cpu_alarm())
        calls.watch(channel.fileno())
        try:
            with anyio.move_on_after(None if at is None else max(0.0, at - time.monotonic())) as late:
                await calls.readable()
        finally:
            if not calls.closed:
                calls.forget(channel.fileno())
        if late.cancelled_caught:
            self._box._alarm(main)


class _Syscalls(_Source[Syscall]):
    """What `Container.syscalls` gives."""

    def __init__(self, box: Container, observe: bool) -> None:
        super().__init__(box)
        if not isinstance(observe, bool):
            raise SpecError("observe", observe, "give True or False")
        self._observe = observe

    def _take(self, calls: _Calls) -> Syscall | None:
        return calls.next(self._observe)


class _Violations(_Source[Violation]):
    """What `Container.violations` gives."""

    def _take(self, calls: _Calls) -> Violation | None:
        return self._box._reports.take() if self._box._reports is not None else None
