"""limits.cpu_time, for which the kernel has no control: one thread looks at the figures of all containers that have it."""

from __future__ import annotations

import contextlib
import heapq
import os
import threading
import time
from itertools import count
from typing import TYPE_CHECKING

from .errors import CrecheError
from .spawn import strike

if TYPE_CHECKING:
    from .cgroups.group import Group

__all__ = ["Spending"]

LEAST = 0.002  # seconds between two looks at a container
MOST = 3600.0  # a longer wait gains nothing, and threading has none of any length
IDLE = 0.05  # at most so many, where it stands still with less left than that: what goes past a limit is bounded by it
_order = count()


class Spending:
    """The processor time of one container, watched until `close`: when it is used up, its first process is killed, and all with it.

    By a thread, since it must end whoever runs on while nobody waits for it, or while the loop is busy. It knows the cgroup and the
    pidfd, not the container, so that it keeps none alive; what it has done is to be seen in `spent`.
    """

    def __init__(self, group: Group, pidfd: int) -> None:
        self._group = group
        self._pidfd = pidfd
        self._clock = _clock()
        self._seen = -1.0
        self._pause = LEAST
        self.spent: float | None = None  #: the limit in force when it was killed for it
        self.closed = False
        self.at = 0.0  # of time.monotonic: the next look
        self._clock.add(self)

    def again(self) -> None:
        """Look at once: the limit has changed."""
        self._clock.add(self)

    def close(self) -> None:
        """Watch it no longer. Its pidfd is not used from here on."""
        self._clock.forget(self)

    def look(self) -> float | None:
        """Seconds until it must be looked at again; None where it has spent all, or has no such limit any more."""
        limit = self._group.limits.cpu_time
        if limit is None:
            return None
        try:
            usage = self._group.cpu_usage()
        except CrecheError:
            return IDLE  # no descriptor left to read it by, for one
        used = 0.0 if usage is None else usage.total  # None: the cgroup was removed, and so is empty
        if used >= limit:
            self.spent = limit
            return None
        idle, self._seen = used == self._seen, used
        # All processors may be at work on it, so that nothing can be used up before this time.
        self._pause = min(max((limit - used) / (os.cpu_count() or 1), LEAST, min(2 * self._pause, IDLE) if idle else 0.0), MOST)
        return self._pause

    def strike(self) -> None:
        """Kill all of it; called while the pidfd can't be closed."""
        with contextlib.suppress(OSError):
            strike(self._pidfd, self._group)


class _Clock:
    """The thread, which is there while anything is to be watched, and what it watches, by the time of the next look."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._changed = threading.Condition()
        self._next: list[tuple[float, int, Spending]] = []
        self._thread: threading.Thread | None = None

    def add(self, spending: Spending) -> None:
        with self._changed:
            if self._thread is None:
                thread = threading.Thread(target=self._serve, name="creche-cpu-time", daemon=True)
                try:
                    thread.start()  # it begins with the lock, which is ours
                except RuntimeError as error:
                    raise CrecheError(f"limits.cpu_time: no thread can be had that looks at it ({error}): raise this process's limit of threads") from None
                self._thread = thread
            self._put(spending, time.monotonic())
            self._changed.notify()

    def forget(self, spending: Spending) -> None:
        if self.owner != os.getpid():
            return  # a fork of the host program: there is no such thread here, and its lock may be held for ever
        with self._changed:
            spending.closed = True
            self._next = [entry for entry in self._next if entry[2] is not spending]
            heapq.heapify(self._next)
            self._changed.notify()

    def _put(self, spending: Spending, at: float) -> None:
        spending.at = at
        heapq.heappush(self._next, (at, next(_order), spending))

    def _serve(self) -> None:
        while (spending := self._due()) is not None:
            began = spending.at
            pause = spending.look()
            with self._changed:
                if spending.closed:
                    continue
                if spending.spent is not None:
                    spending.strike()
                elif pause is not None and spending.at == began:  # else its limit has changed meanwhile
                    self._put(spending, time.monotonic() + pause)

    def _due(self) -> Spending | None:
        """Wait until one is to be looked at; None, and the end of the thread, where none is left."""
        with self._changed:
            while self._next:
                at, _, spending = self._next[0]
                if at > (now := time.monotonic()):
                    self._changed.wait(at - now)
                    continue
                heapq.heappop(self._next)
                if at == spending.at:
                    return spending
            self._thread = None
            return None


_clocks: list[_Clock] = []


def _clock() -> _Clock:
    if not _clocks or _clocks[0].owner != os.getpid():
        _clocks[:] = [_Clock()]
    return _clocks[0]
