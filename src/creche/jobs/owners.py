"""Who holds which jobs: a lease in the queue's file, and a lock that goes with the process that holds it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import sqlite3
from pathlib import Path

from attrs import define, field


def _is_at(path: Path, fd: int) -> bool:
    """Whether this name still is that of this open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


@define
class Owner:
    """One queue object that runs jobs. Other ones on the same file see by its lock at once that it died.

    The lock is a `flock` on a file of its own: the kernel gives it up with the process, however that ends. A lease
    that ran out counts as well, for an owner which still holds its lock but has stopped; should such a one go on, its
    jobs are no more its own (`schema.held`).
    """

    folder: Path | None
    lease: float
    id: str = field(factory=lambda: secrets.token_hex(8))
    _fd: int = field(default=-1, init=False)

    def lock(self) -> None:
        """Take the lock. Nothing for a queue in memory."""
        if self.folder is not None:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            path = self.folder / self.id
            while self._fd < 0:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                fcntl.flock(fd, fcntl.LOCK_EX)
                if _is_at(path, fd):
                    self._fd = fd
                else:  # another one swept it up before it was locked
                    os.close(fd)

    def renew(self, conn: sqlite3.Connection, now: float) -> None:
        """For another `lease` seconds."""
        conn.execute("INSERT OR REPLACE INTO owners VALUES (?, ?)", (self.id, now + self.lease))

    def dead(self, conn: sqlite3.Connection, now: float) -> list[str]:
        """The owners that are no more, or let their lease run out."""
        rows = conn.execute("SELECT id, until FROM owners WHERE id != ?", (self.id,)).fetchall()
        if self.folder is not None:
            # One that was killed between its lock and its lease left a file and no row.
            for name in (
                {path.name for path in self.folder.iterdir()} - {row["id"] for row in rows} - {self.id}
            ):
                self._is_free(name)
        return [row["id"] for row in rows if row["until"] < now or self._is_free(row["id"])]

    def _is_free(self, other: str) -> bool:
        if self.folder is None:
            return True
        path = self.folder / other
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            path.unlink(missing_ok=True)
            return True
        finally:
            os.close(fd)

    def unlock(self) -> None:
        """Give the lock up, and its file."""
        if self._fd >= 0:
            assert self.folder is not None
            with contextlib.suppress(FileNotFoundError):
                (self.folder / self.id).unlink()
            os.close(self._fd)
            self._fd = -1
