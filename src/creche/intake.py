"""What one command writes, taken by whoever waits for its end: its pipes and what is waited for in one epoll, and so no task for any of them."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable, Iterable

import anyio

from .streams import CHUNK, rouse

__all__ = ["Intake"]

_FDS = 16  # that are looked at in one turn


class Intake:
    """An epoll of its own, for one task at a time. `takers`: for each descriptor what takes from it, and says how many bytes that were; -1 at its end.

    Nothing is taken but in the task that waits, so what a taker raises is raised where it belongs. Each takes a share at a time: others on the
    loop have their turn, however fast the writer is. Raises OSError where there is no descriptor for it.
    """

    def __init__(self, takers: Iterable[tuple[int, Callable[[], int]]]) -> None:
        self._epoll = select.epoll()  # close-on-exec
        self._takers: dict[int, Callable[[], int]] = {}
        self._beside = -1  # in the epoll too
        self._fast = self._turn = self._roused = False
        try:
            for fd, take in takers:
                self._epoll.register(fd, select.EPOLLIN)
                self._takers[fd] = take
        except BaseException:
            self._epoll.close()
            raise

    async def wait(self, fd: int = -1) -> None:
        """Wait for `fd`, or to be roused, and take meanwhile what comes. Cancelled: what was taken is kept, and nothing is lost."""
        if fd != self._beside:
            self._put_beside(fd)
        self._roused = False
        while not self._roused:
            if self._turn:  # a wait costs more than a turn of the loop, in which a fast writer fills the pipe again
                self._turn = False
                await anyio.lowlevel.checkpoint()
            else:
                try:
                    await anyio.wait_readable(self._epoll)
                except anyio.ClosedResourceError:
                    return
            for ready, _ in self._epoll.poll(0, _FDS):
                self._take(ready)

    def _take(self, ready: int) -> None:
        take = self._takers.get(ready)
        if take is None:  # what is waited for
            self._roused = True
            return
        count = take()
        self._fast = self._fast or count >= CHUNK
        self._turn = self._turn or (self._fast and count > 0)
        if count < 0:
            del self._takers[ready]
            with contextlib.suppress(OSError):  # closed, so it has left by itself: epoll(7)
                self._epoll.unregister(ready)

    def rouse(self) -> None:
        """Let the one who waits look again, at once or after the turn of the loop that it awaits."""
        self._roused = True
        rouse(self._epoll)

    def _put_beside(self, fd: int) -> None:
        before, self._beside = self._beside, -1
        if before >= 0:
            with contextlib.suppress(OSError):
                self._epoll.unregister(before)
        if fd >= 0:
            self._epoll.register(fd, select.EPOLLIN)
            self._beside = fd

    def close(self) -> None:
        """Nobody waits any more. A fork of the program shares the epoll, and is not told: nothing is taken out of it here."""
        self._epoll.close()
