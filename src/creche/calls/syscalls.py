"""Calls of a container that wait for an answer from the loop, one at a time: `Container.syscalls`."""

from __future__ import annotations

import contextlib
import errno as e
import fcntl
import os
import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread

from ..errors import CrecheError, SpecError
from ..plan.seccomp.numbers import arch_name
from ..wire import notif
from ..wire.notif import Notification
from .listener import PATH_MAX, Listener

if TYPE_CHECKING:
    from ..process import Process

__all__ = ["Syscall", "Window"]

T = TypeVar("T")

OPEN = 128  #: calls that may be in users' hands, unanswered, at a time; the kernel keeps the others
READERS = 4  #: threads at a time that wait for the memory of one container's guests, which may never come


class Window:
    """How many calls of a container are in its users' hands."""

    def __init__(self) -> None:
        self.open = 0
        self.readers = anyio.CapacityLimiter(READERS)
        self._ended = False
        self._changed: anyio.Event | None = None

    def opened(self) -> None:
        self.open += 1

    def closed(self) -> None:
        self.open -= 1
        self._wake()

    def end(self) -> None:
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()

    async def room(self) -> None:
        """Wait until another call may be given out, or there are no more."""
        while self.open >= OPEN and not self._ended:
            self._changed = anyio.Event()
            await self._changed.wait()


class Syscall:
    """One system call of a container, whose caller waits for your answer.

    Answer it once, by `deny`, `complete`, `inject` or, as an observer, `proceed`; each tells whether the caller was
    there to hear it: a caller may be killed, or leave its call for a signal, at any time. One that you drop without
    an answer gets ENOSYS, with a ResourceWarning.

    **What you read of the caller's memory is an observation only.** Another thread of it, or whoever shares that
    memory, may change it at any moment: decide by what you have read, and do the thing yourself with what you have
    read (`inject`), but never let the kernel read it a second time after your decision (`proceed`).

    Attributes:
        name: such as ``openat``; ``i386:11`` for one that the tables don't know.
        number: the call's number on `arch`.
        arch: the processor that it was called as, such as ``x86_64``.
        args: the six registers that arguments come in, as unsigned 64-bit numbers. The kernel reads some as 32 bits.
        pid: of the calling thread, as the supervisor sees it. It may be another's as soon as the call is gone.
        address: of the instruction behind the call.
        process: the command whose filter it met: the main one, or that of an `open`, which the caller descends from.
    """

    def __init__(self, call: Notification, listener: Listener, process: Process, window: Window, observe: bool) -> None:
        self._call = call
        self._listener = listener
        self._window = window
        self._observe = observe
        self._answered = False
        window.opened()
        self.name = listener.name(call)
        self.number = call.number
        self.arch = arch_name(call.arch)
        self.args = call.args
        self.pid = call.pid
        self.address = call.address
        self.process = process

    def __repr__(self) -> str:
        return f"<Syscall {self.name} of {self.pid}{', answered' if self._answered else ''}>"

    @property
    def answered(self) -> bool:
        """Whether you have answered it."""
        return self._answered

    # ---- answers ----

    def _once(self) -> None:
        if self._answered:
            raise CrecheError(f"{self.name}: the call is answered already")
        self._answered = True
        self._window.closed()

    def deny(self, error: int = e.EPERM) -> bool:
        """The call is not made, and fails with this errno. Raises SpecError for a number that is no errno."""
        if not _is_whole(error) or error not in e.errorcode:
            raise SpecError("error", error, "give an errno, such as errno.EACCES")
        self._once()
        return self._listener.answer(self._call.id, errno=error)

    def complete(self, value: int = 0) -> bool:
        """The call is not made, and returns `value`, as if it had been: you have done what it asks for."""
        if not _is_whole(value) or not 0 <= value < 1 << 63:
            raise SpecError("value", value, "give a number from 0 to 2**63 - 1; an error is for deny()")
        self._once()
        return self._listener.answer(self._call.id, value=value)

    async def inject(self, fd: Any, *, cloexec: bool = False) -> bool:
        """The call is not made, and returns a new descriptor of its caller's: a copy of yours, which stays yours to close.

        Both in one step (SECCOMP_ADDFD_FLAG_SEND), so that no caller gets a descriptor without knowing of it. Returns
        False where the caller is gone or could not take it; it then has the errno, EMFILE for one. Waits until the
        caller has taken it, which may be held up by its limits; cancelled: it may get it or not.

        Raises SpecError for what is no open descriptor.
        """
        number = fd if isinstance(fd, int) else fd.fileno()
        try:
            copy = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)
        except (OSError, OverflowError, ValueError):
            raise SpecError("fd", fd, "give an open descriptor, or an object with a fileno()") from None
        try:
            self._once()
        except BaseException:
            os.close(copy)
            raise
        owned = [copy]  # whoever takes it out closes it: the thread, or we, where it never came to that
        try:
            return await self._apart(partial(_inject, self._listener, self._call.id, owned, cloexec))
        finally:
            with contextlib.suppress(IndexError):
                os.close(owned.pop())
                self._listener.answer(self._call.id, errno=e.ENOSYS)

    def proceed(self) -> bool:
        """Let the kernel make the call (SECCOMP_USER_NOTIF_FLAG_CONTINUE): for those who merely observe.

        The kernel reads the arguments again, and what they point to may have changed since you looked: whoever decides
        by a look and then lets a call proceed decides nothing (seccomp_unotify(2)). What the filter of a lower layer
        or the kernel refuses is still refused. Raises CrecheError where `syscalls(observe=True)` was not asked for.
        """
        if not self._observe:
            raise CrecheError(f"{self.name}: proceed() is for mere observers, who say so: box.syscalls(observe=True)")
        self._once()
        return self._listener.answer(self._call.id, flags=notif.CONTINUE)

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if getattr(self, "_answered", True):
            return
        self._once()
        if self._listener.answer(self._call.id, errno=e.ENOSYS):
            _warn(f"{self!r} was dropped without an answer: its caller gets ENOSYS", ResourceWarning, source=self)

    # ---- looks ----

    async def read(self, address: int, size: int) -> bytes:
        """What lies in the caller's memory now, `size` bytes; an observation only. Raises SyscallError."""
        if not _is_whole(address) or not 0 <= address < 1 << 64:
            raise SpecError("address", address, "give an address, such as one of `args`")
        if not _is_whole(size) or not 0 <= size <= 1 << 20:
            raise SpecError("size", size, "give 0 to 1048576 bytes")
        return await self._apart(partial(self._listener.read, self._call, address, size))

    async def text(self, index: int, *, most: int = PATH_MAX) -> bytes:
        """The string that argument `index` (from 0) points to, without its NUL; an observation only. Raises SyscallError."""
        return await self._apart(partial(self._listener.text, self._call, index, most))

    async def path(self) -> str | None:
        """The first path among its arguments, as the caller wrote it; None for a call that takes none.

        An observation only; relative to the caller's directory (or the descriptor beside it), in its mount namespace.
        Raises SyscallError.
        """
        return await self._apart(partial(self._listener.path, self._call))

    async def _apart(self, work: Callable[[], T]) -> T:
        """In a thread: a guest can make whoever reads its memory wait (userfaultfd(2)), and not run for long."""
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._window.readers)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _inject(listener: Listener, ident: int, owned: list[int], cloexec: bool) -> bool:
    try:
        fd = owned.pop()
    except IndexError:
        return False  # cancelled meanwhile
    try:
        return listener.inject(ident, fd, cloexec)
    finally:
        os.close(fd)
