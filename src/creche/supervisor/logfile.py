"""Files that children's output goes to: appended to, rotated, and written in threads that hold nobody up."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

PENDING = 2**20
"""Bytes of one child's output that may wait for the disk before they are dropped."""

Task = Callable[[], Coroutine[Any, Any, None]]
Start = Callable[[Task], None]
"""Starts a task that may outlive whoever asks for it."""


class LogFile:
    """A file that is appended to and rotated; the calls block, and are made in a thread."""

    def __init__(self, path: str | Path, most: int, backups: int) -> None:
        self.path = Path(path)
        self._most = most
        self._backups = backups
        self.taken = 0
        """How many bytes the last `write` took, also where it failed: a disk that gets full takes some."""

    def write(self, data: bytes) -> None:
        """Append, after a rotation if the file would grow beyond its size. Opened anew each time, so that a file
        which somebody else moved away is begun again, and a thousand quiet children hold no descriptor."""
        self.taken = 0
        # O_NONBLOCK is for a FIFO that nobody reads, which one would wait for ever to open (fifo(7)).
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(self.path, flags, 0o640)
        try:
            size = os.fstat(fd).st_size
            if size and size + len(data) > self._most:
                self._rotate()
                os.close(fd)
                fd = -1
                fd = os.open(self.path, flags, 0o640)
            view = memoryview(data)
            while self.taken < len(data):
                self.taken += os.write(fd, view[self.taken :])
        finally:
            if fd >= 0:
                os.close(fd)

    def _rotate(self) -> None:
        if not self._backups:
            self.path.unlink(missing_ok=True)
            return
        for number in range(self._backups - 1, 0, -1):
            older = Path(f"{self.path}.{number}")
            if older.exists():
                older.replace(f"{self.path}.{number + 1}")
        self.path.replace(f"{self.path}.1")


class Writer:
    """Takes what one child prints and hands it to the disk, as quickly as the disk takes it.

    A write that hangs (a server of files that is gone) holds up neither the child nor its end: what does not fit into
    `PENDING` bytes meanwhile is lost. `start` starts the task that writes, which ends when all is written; one that is
    cancelled leaves its thread behind.

    `lost` is told of each trouble twice at most: at once, since a disk that hangs may leave no later moment, and when
    all is written again (or at `end`) of what it has cost since. A word for each line that a full disk does not take
    would be as many words as lines, and push all other events out of their readers' buffers.
    """

    def __init__(
        self, file: LogFile, lost: Callable[[int, str], None], limiter: anyio.CapacityLimiter, start: Start
    ) -> None:
        self._file = file
        self._lost = lost
        self._limiter = limiter
        self._start = start
        self._pending: list[bytes] = []
        self._waiting = 0
        self._troubles: dict[str, int] = {}  # what is wrong, and the bytes that it has cost since it was told
        self._well = True  # nothing was lost since the last write began
        self._written: anyio.Event | None = None

    def put(self, data: bytes) -> None:
        """Take what has to be written; it never waits."""
        if self._waiting + len(data) <= PENDING:
            self._pending.append(data)
            self._waiting += len(data)
        else:
            self._lose(len(data), "the disk is too slow")
        if self._written is None:
            self._written = anyio.Event()
            self._start(self._write)

    async def written(self) -> None:
        """Until all that was taken has been written, or lost."""
        if self._written is not None:
            await self._written.wait()

    def end(self) -> None:
        """Tell what the troubles have cost: they are over, or nobody is left who could tell it later."""
        for why, size in self._troubles.items():
            if size:
                self._lost(size, f"{self._file.path}: {why}")
        self._troubles.clear()

    async def _write(self) -> None:
        size = 0
        try:
            while self._pending:
                data = b"".join(self._pending)
                self._pending.clear()
                self._waiting, size = 0, len(data)
                self._well = True
                try:
                    await anyio.to_thread.run_sync(
                        self._file.write, data, abandon_on_cancel=True, limiter=self._limiter
                    )
                except OSError as error:
                    self._lose(size - self._file.taken, error.strerror or str(error))
                size = 0
                if self._well:
                    self.end()
        finally:
            if size + self._waiting:
                self.end()
                self._lose(size + self._waiting, "the disk had not taken it when the supervisor ended")
            written, self._written = self._written, None
            assert written is not None
            written.set()

    def _lose(self, size: int, why: str) -> None:
        self._well = False
        if why in self._troubles:
            self._troubles[why] += size
        else:
            self._troubles[why] = 0
            self._lost(size, f"{self._file.path}: {why}")
