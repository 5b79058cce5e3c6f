"""What a filter refused, told while it happens: a thread that answers each such call and keeps the last of them."""

from __future__ import annotations

import contextlib
import errno as e
import os
import select
import signal as _signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from ..errors import SyscallError
from ..plan.seccomp.numbers import arch_name
from ..plan.seccomp.rules import Kind
from ..wire.notif import Notification
from .listener import Listener

if TYPE_CHECKING:
    from ..process import Process

__all__ = ["Reports", "Violation"]

KEPT = 256  #: violations that wait to be read, the newest; a path is 4096 bytes at most
ENDING = 1.0  # seconds in which the thread must have heard of its end


@frozen
class Violation:
    """One system call that a container's filter refused, or killed for; see `Container.violations`."""

    name: str  #: such as ``ptrace``; ``i386:11`` for one that the tables don't know
    answer: str  #: what the caller got: an errno's name, such as ``EPERM``, or ``killed``
    number: int  #: the call's number on `arch`
    arch: str  #: the processor that it was called as
    args: tuple[int, ...]  #: the six registers that arguments come in
    path: str | None  #: the first path among them, as it was before the answer; None: there is none to be read
    address: int  #: of the instruction behind the call
    pid: int  #: of the calling thread, as the supervisor sees it; it may be another's by now
    command: tuple[str, ...]  #: the argv of the command whose filter it met, which the caller descends from
    dropped: int = 0  #: violations before this one that nobody read in time, and that are lost


class Reports:
    """The listeners of one container, and a thread of its own that answers as the filter would have, at once.

    A thread, since whoever holds the container may be busy elsewhere for as long as it likes, and a refused call must
    not wait for that. It never takes more than half of a processor: a guest that lives on violations waits longer.
    """

    def __init__(self, kill_all: Callable[[], None]) -> None:
        """`kill_all` kills the container, where a process of it can't be killed by itself."""
        self._kill_all = kill_all
        self._kept: deque[Violation] = deque()
        self._lock = threading.Lock()
        self._dropped = 0
        self._guest = 0  # whose violations are kept: each reset has the next one
        self._listeners: dict[int, tuple[Listener, weakref.ref[Process], tuple[str, ...], int]] = {}
        self._epoll = select.epoll()
        self.news = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  #: readable where there is something to take
        self._end = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._end, select.EPOLLIN)
        self._thread: threading.Thread | None = None

    def add(self, listener: Listener, process: Process, command: tuple[str, ...]) -> None:
        """Answer what comes on another listener."""
        with self._lock:
            self._listeners[listener.fileno()] = listener, weakref.ref(process), command, self._guest
            self._epoll.register(listener.fileno(), select.EPOLLIN)
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="creche-violations", daemon=True)
            self._thread.start()

    def take(self) -> Violation | None:
        """The violation that has waited longest, or None."""
        with self._lock:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.news)
            if not self._kept:
                return None
            first, lost, self._dropped = self._kept.popleft(), self._dropped, 0
            if self._kept:
                os.eventfd_write(self.news, 1)
        return evolve(first, dropped=lost)

    def forget(self) -> None:
        """Keep nothing of the commands that there were: also not what the thread is about to tell of one."""
        with self._lock:
            self._guest += 1
            self._kept.clear()
            self._dropped = 0
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.news)

    def close(self, ours: bool = True) -> None:
        """End the thread, which closes all; `ours` is False in a fork of the host program, which has no such thread."""
        if self._thread is None or not ours:
            self._close()
            return
        os.eventfd_write(self._end, 1)
        if threading.current_thread() is not self._thread:  # the garbage collector may run there
            self._thread.join(ENDING)  # longer only where it hangs in a guest's memory

    def _close(self) -> None:
        for listener, *_ in self._listeners.values():
            listener.close()
        self._epoll.close()
        os.close(self.news)
        os.close(self._end)

    # ---- the thread ----

    def _serve(self) -> None:
        while True:
            ready = self._epoll.poll(maxevents=8)
            began = time.monotonic()
            for fd, events in ready:
                if fd == self._end:
                    self._close()
                    return
                self._look(fd, events)
            time.sleep(min(time.monotonic() - began, 0.01))

    def _look(self, fd: int, events: int) -> None:
        listener, process, command, guest = self._listeners[fd]
        try:
            if events & select.EPOLLIN:
                if (call := listener.receive()) is not None:
                    self._judge(call, listener, process, command, guest)
                return
        except Exception:  # noqa: BLE001 - whatever it is: a listener that nobody serves must go, and then the kernel refuses
            pass
        # All who had the filter are gone.
        with self._lock:
            self._epoll.unregister(fd)
            del self._listeners[fd]
        listener.close()

    def _judge(self, call: Notification, listener: Listener, process: weakref.ref[Process], command: tuple[str, ...], guest: int) -> None:
        action = listener.filter.answer(call.number, call.args, call.arch)
        answer = e.errorcode.get(action.data, f"errno {action.data}") if action.kind is Kind.ERRNO else "killed"
        name, path = listener.name(call), None
        with contextlib.suppress(SyscallError):
            path = listener.path(call)
        # Before the answer, as the caller waits until then: so what killed a container is told before its end.
        self._keep(Violation(name, answer, call.number, arch_name(call.arch), call.args, path, call.address, call.pid, command), guest)
        if action.kind is Kind.ERRNO:
            listener.answer(call.id, errno=action.data)
        else:
            self._kill(call, listener, process(), name)

    def _keep(self, violation: Violation, guest: int) -> None:
        with self._lock:
            if guest != self._guest:
                return  # a former one's
            if len(self._kept) >= KEPT:
                self._kept.popleft()
                self._dropped += 1
            self._kept.append(violation)
            os.eventfd_write(self.news, 1)

    def _kill(self, call: Notification, listener: Listener, process: Process | None, name: str) -> None:
        """SIGKILL for the caller's process. Its call is never answered, so it is never made."""
        try:
            leader = _leader(call.pid)
            pidfd = os.pidfd_open(leader)
            try:
                if not listener.waits(call.id):
                    return  # dead already, and the number may be another's
                if process is not None and process.pid == leader:
                    process._refuse(name)
                _signal.pidfd_send_signal(pidfd, _signal.SIGKILL)
            finally:
                os.close(pidfd)
        except OSError:
            if listener.waits(call.id):
                self._kill_all()


def _leader(thread: int) -> int:
    """The process of a thread: proc_pid_status(5)."""
    with open(f"/proc/{thread}/status", "rb") as file:
        for line in file:
            if line.startswith(b"Tgid:"):
                return int(line.split()[1])
    return thread
