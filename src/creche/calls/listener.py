"""A filter's listener: takes the calls that wait there, answers them, and looks into their callers' memory; knows no loop."""

from __future__ import annotations

import contextlib
import errno as e
import fcntl
import os
import threading

from .._native import ffi, lib
from ..errors import SyscallError
from ..plan.seccomp import Filter
from ..plan.seccomp.arguments import path_argument
from ..plan.seccomp.numbers import arch_name, call_name
from ..wire import notif
from ..wire.notif import Notification

__all__ = ["PATH_MAX", "Listener"]

PATH_MAX = 4096  # bytes: limits.h
_PAGE = 4096
_WRAP = 1 << 64


class Listener:
    """One command's listener. All of it may be called from any thread; what may wait for the guest says so.

    No answer is lost on the guest for good: once the descriptor is closed, calls that wait and calls to come get
    ENOSYS (seccomp_unotify(2)).
    """

    def __init__(self, fd: int, filter: Filter) -> None:
        self.filter = filter
        self._fd = fd
        self._owner = os.getpid()
        # Between an ioctl and the close that gives its number to somebody else; the garbage collector answers dropped calls wherever it runs.
        self._lock = threading.RLock()

    def fileno(self) -> int:
        """The descriptor; -1 once it is closed."""
        return self._fd

    def close(self) -> None:
        """Close it."""
        with self._lock if self._ours() else contextlib.nullcontext():
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _ours(self) -> bool:
        """Whether this is no fork of the host program, which drops its copies of our calls, and may have copied the lock while it was held."""
        return os.getpid() == self._owner

    def _told(self, request: int, record: bytes | bytearray) -> bool:
        """Whether the kernel took it: it does not where the call is gone."""
        if not self._ours():
            return False
        with self._lock:
            if self._fd < 0:
                return False
            while True:
                try:
                    fcntl.ioctl(self._fd, request, record)
                except InterruptedError:
                    continue
                except OSError as error:
                    if error.errno in (e.ENOENT, e.EINPROGRESS):  # gone; or interrupted before it was taken
                        return False
                    raise
                return True

    def receive(self) -> Notification | None:
        """The call that waits longest, where poll(2) has said that one does; None where it is gone again."""
        record = bytearray(notif.CALL_SIZE)
        return notif.decode(record) if self._told(notif.RECV, record) else None

    def waits(self, ident: int) -> bool:
        """Whether the call waits still, so that its caller's number is the caller's."""
        return self._told(notif.ID_VALID, notif.ident(ident))

    def answer(self, ident: int, *, value: int = 0, errno: int = 0, flags: int = 0) -> bool:
        """Answer a call: whether it was there to hear it."""
        return self._told(notif.SEND, notif.answer(ident, value=value, errno=errno, flags=flags))

    def inject(self, ident: int, fd: int, cloexec: bool) -> bool:
        """Answer with a copy of a descriptor, in one step; waits until the caller has taken it, for which it must run.

        What its table or a security module refuses, the caller gets as the errno.
        """
        if not self._ours():
            return False
        with self._lock:
            if self._fd < 0:
                return False
            ours = fcntl.fcntl(self._fd, fcntl.F_DUPFD_CLOEXEC, 3)  # no lock is held over what may wait
        try:
            fcntl.ioctl(ours, notif.ADDFD, notif.addfd(ident, fd, os.O_CLOEXEC if cloexec else 0))
        except OSError as error:
            if error.errno not in (e.ENOENT, e.EINPROGRESS):
                self.answer(ident, errno=error.errno or e.EPERM)
            return False
        finally:
            os.close(ours)
        return True

    def name(self, call: Notification) -> str:
        """The call's name; ``i386:11`` for one that the tables do not know."""
        return call_name(call.number, arch_name(call.arch))

    def read(self, call: Notification, address: int, size: int, *, until: bytes | None = None) -> bytes:
        """What lies in the caller's memory now (up to `until`); it may wait for whoever serves that memory (userfaultfd(2)).

        Raises SyscallError: EFAULT, EACCES, or ENOENT where the caller is gone.
        """
        data, failed = bytearray(), 0
        buffer = ffi.new("char[]", _PAGE)
        while len(data) < size and not failed:  # from page to page: what lies behind the last one that is there need not be
            count = lib.creche_peek(call.pid, address, buffer, min(size - len(data), _PAGE - address % _PAGE))
            if count <= 0:
                failed = -count or e.EFAULT
                break
            part = ffi.buffer(buffer, count)[:]
            data += part
            address = (address + count) % _WRAP
            if until is not None and until in part:
                break
        # A call that waits still has waited all the time: so its caller's number was nobody else's meanwhile.
        if not self.waits(call.id):
            failed = e.ENOENT
        if failed:
            raise SyscallError(self.name(call), {e.EPERM: e.EACCES, e.ESRCH: e.ENOENT, e.ENOSYS: e.EACCES}.get(failed, failed))
        return bytes(data)

    def text(self, call: Notification, index: int, most: int = PATH_MAX) -> bytes:
        """The string that an argument points to, without its NUL; as `read`, and ENAMETOOLONG where none ends it."""
        data = self.read(call, call.args[index], most, until=b"\0")
        text, end, _ = data.partition(b"\0")
        if not end:
            raise SyscallError(self.name(call), e.ENAMETOOLONG)
        return text

    def path(self, call: Notification) -> str | None:
        """The first path among its arguments, as `text`; None for a call that takes none."""
        index = path_argument(self.name(call))
        return None if index is None else os.fsdecode(self.text(call, index))
