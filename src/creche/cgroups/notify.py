"""Waiting for a cgroup's events: one descriptor a loop to wait on, however many containers are watched.

Version 2 tells by inotify that an event file has changed. Version 1 knows only an eventfd for each memory cgroup,
and signals it when memory has run out, which is before the kill is counted; so whoever waits is woken again a
little later. Both kinds are gathered in one epoll. No task runs in the background: of all who wait, one waits for
the kernel and wakes the others, and when it goes, the next takes its place.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import RunVar

from . import files, inotify

if TYPE_CHECKING:
    from .group import Group

ECHOES = (0.002, 0.01, 0.05)
"""Seconds after a version 1 alarm at which its counters are worth another look."""

_current: RunVar[Notifier] = RunVar("creche cgroup notifier")


class Watch:
    """One waiter's view of one group. Made by `watch`; a context manager; for one task at a time."""

    def __init__(self, group: Group, notifier: Notifier) -> None:
        self.group = group
        self._notifier = notifier
        self.numbers: list[int] = []  # inotify watches
        self.alarm: int | None = None  # version 1's eventfd
        self.dirty = False
        self.closed = False
        self.wake: anyio.Event | None = None
        self.scope: anyio.CancelScope | None = None

    async def changed(self) -> None:
        """Return once something may have happened since the last return; the counters say what (`Group.events`).

        Raises anyio.ClosedResourceError once the watch is closed.
        """
        try:
            while not self.dirty and not self.closed:
                if self._notifier.leader is None:
                    await self._notifier.lead(self)
                else:
                    self.wake = anyio.Event()
                    await self.wake.wait()
            if not self.dirty:
                raise anyio.ClosedResourceError
            self.dirty = False
        finally:
            self.wake = None
            self._notifier.hand_over()

    def close(self) -> None:
        """Stop watching; whoever waits in `changed` is told."""
        if not self.closed:
            self.closed = True
            if self.wake is not None:
                self.wake.set()
            if self.scope is not None:
                self.scope.cancel()
            self._notifier.forget(self)

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def watch(group: Group) -> Watch:
    """Watch *group* on the running loop. Raises CgroupError where inotify's watches or instances are used up."""
    notifier = _current.get(None)
    if notifier is None or not notifier.watches or notifier.owner != os.getpid():
        notifier = Notifier()
        _current.set(notifier)
    made = Watch(group, notifier)
    try:
        notifier.add(made)
    except BaseException:
        made.close()
        raise
    return made


class Notifier:
    """What the watches of one loop share: an epoll, and in it an inotify and version 1's eventfds."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.watches: set[Watch] = set()
        self.leader: Watch | None = None
        self._inotify = inotify.create()
        try:
            self._epoll = select.epoll()
        except BaseException:
            os.close(self._inotify)
            raise
        self._epoll.register(self._inotify, select.EPOLLIN)
        self._of_number: dict[int, set[Watch]] = {}
        self._of_alarm: dict[int, Watch] = {}
        self._echoes: list[tuple[float, Watch]] = []

    def add(self, watch: Watch) -> None:
        """Begin to watch the event files of a group, and on version 1 its memory alarm. Raises CgroupError."""
        self.watches.add(watch)
        for path in watch.group.watched():
            number = inotify.add(self._inotify, path)
            watch.numbers.append(number)
            self._of_number.setdefault(number, set()).add(watch)
        memory = watch.group.home("memory")
        if memory is not None and memory.version == 1:
            watch.alarm = alarm(watch.group.folders[memory])
            self._of_alarm[watch.alarm] = watch
            self._epoll.register(watch.alarm, select.EPOLLIN)

    def forget(self, watch: Watch) -> None:
        """End a watch; the last one takes the shared descriptors with it."""
        self.watches.discard(watch)
        for number in watch.numbers:
            others = self._of_number.get(number, set())
            others.discard(watch)
            if not others:
                self._of_number.pop(number, None)
                inotify.remove(self._inotify, number)
        self._echoes = [(when, other) for when, other in self._echoes if other is not watch]
        if watch.alarm is not None:
            del self._of_alarm[watch.alarm]
            self._epoll.unregister(watch.alarm)
            os.close(watch.alarm)
        if not self.watches:
            anyio.notify_closing(self._epoll)
            self._epoll.close()
            os.close(self._inotify)

    async def lead(self, watch: Watch) -> None:
        """Wait for the kernel on behalf of all, once, and wake whom it concerns."""
        self.leader = watch
        try:
            with anyio.CancelScope() as watch.scope:
                if self._echoes:
                    watch.scope.deadline = anyio.current_time() + max(
                        0.0, self._echoes[0][0] - time.monotonic()
                    )
                with contextlib.suppress(
                    anyio.ClosedResourceError
                ):  # this watch was closed, and the last one
                    await anyio.wait_readable(self._epoll)
        finally:
            watch.scope = None
            self.leader = None
        if not watch.closed:
            self._dispatch()

    def hand_over(self) -> None:
        """Let the next in line wait for the kernel, if nobody does."""
        if self.leader is None:
            waiting = next((w for w in self.watches if w.wake is not None and not w.wake.is_set()), None)
            if waiting is not None and waiting.wake is not None:
                waiting.wake.set()

    def _dispatch(self) -> None:
        for fd, _ in self._epoll.poll(0):
            if fd == self._inotify:
                for number, mask in inotify.read(fd):
                    self._tell(self.watches if mask & inotify.OVERFLOW else self._of_number.get(number, ()))
                    if mask & inotify.IGNORED:
                        self._of_number.pop(number, None)
            else:
                os.eventfd_read(fd)
                now, watch = time.monotonic(), self._of_alarm[fd]
                self._tell((watch,))
                self._echoes = sorted(
                    [*self._echoes, *((now + after, watch) for after in ECHOES)], key=lambda echo: echo[0]
                )
        now = time.monotonic()
        self._tell(watch for when, watch in self._echoes if when <= now)
        self._echoes = [(when, watch) for when, watch in self._echoes if when > now]

    def _tell(self, watches: Iterable[Watch]) -> None:
        for watch in watches:
            watch.dirty = True
            if watch.wake is not None:
                watch.wake.set()


def alarm(folder: str) -> int:
    """An eventfd that is signalled when the version 1 memory cgroup *folder* runs out (memory.rst, "OOM Control")."""
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        path = f"{folder}/memory.oom_control"
        try:
            control = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise files.failure("cannot be watched", path, error) from error
        try:
            files.write(f"{folder}/cgroup.event_control", f"{fd} {control}")
        finally:
            os.close(control)
    except BaseException:
        os.close(fd)
        raise
    return fd
