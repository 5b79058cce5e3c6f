"""One SQLite connection for a queue: statements from many tasks, committed together, off the loop where they block."""

from __future__ import annotations

import errno
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import anyio
import anyio.to_thread

from creche.errors import FileError
from creche.jobs import schema

T = TypeVar("T")

_SYNCHRONOUS = {"normal": "NORMAL", "full": "FULL"}


class _Work(Generic[T]):
    """One caller's statements, and what came of them."""

    def __init__(self, statements: Callable[[sqlite3.Connection], T]) -> None:
        self.statements = statements
        self.value: T
        self.error: Exception | None = None
        self.done = False
        self.wanted = True


class Store:
    """The queue's file (WAL mode), or with `path=None` its memory.

    What is asked while a commit is under way goes into the next one together: a commit costs the same for one job
    and for a hundred. When `do` has returned, it is in the file: a killed process loses nothing of it. A power cut may take
    what was committed last, and leaves a file that is whole, without these; with `synchronous="full"` it takes nothing
    (https://www.sqlite.org/pragma.html#pragma_synchronous).
    """

    def __init__(self, path: Path | None, synchronous: str) -> None:
        self.path = path
        self._synchronous = _SYNCHRONOUS[synchronous]
        self._conn: sqlite3.Connection | None = None
        self._lock: anyio.Lock | None = None
        self._limiter: anyio.CapacityLimiter | None = None
        self._pending: deque[_Work[Any]] = deque()
        # Task.cancel of asyncio may leave a thread at work, which goes on to its end: what is asked next waits for it here.
        self._turn = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether it was opened, and not yet closed."""
        return self._conn is not None

    async def open(self) -> None:
        """Open or create it. Raises FileError, also for a file that is no queue."""
        self._lock = anyio.Lock()
        self._limiter = anyio.CapacityLimiter(1)
        with anyio.CancelScope(shield=True):
            await self._off_the_loop(self._open)

    def _open(self) -> None:
        with self._turn:
            self._connect()

    def _connect(self) -> None:
        try:
            conn = sqlite3.connect(
                str(self.path) if self.path is not None else ":memory:",
                isolation_level=None,
                check_same_thread=False,
                timeout=10.0,
            )
        except sqlite3.Error as error:
            raise self._file_error(error) from error
        conn.row_factory = sqlite3.Row
        try:
            if self.path is not None:
                conn.execute("PRAGMA journal_mode = WAL")
                conn.execute(f"PRAGMA synchronous = {self._synchronous}")
            conn.execute("BEGIN IMMEDIATE")
            schema.create(conn)
            conn.execute("COMMIT")
        except (sqlite3.Error, ValueError) as error:
            conn.close()
            raise self._file_error(error) from error
        self._conn = conn

    async def do(self, statements: Callable[[sqlite3.Connection], T]) -> T:
        """Run `statements` in a transaction and commit it; raises what they raise (and undoes them), and FileError."""
        assert self._lock is not None
        work = _Work(statements)
        self._pending.append(work)
        try:
            async with self._lock:
                if not work.done:
                    with anyio.CancelScope(shield=True):
                        await self._off_the_loop(self._transact)
        except BaseException:
            work.wanted = False  # cancelled before anybody took it: nothing is done
            raise
        if work.error is not None:
            raise work.error
        return work.value

    async def _off_the_loop(self, call: Callable[..., Any], *args: Any) -> None:
        if self.path is None:
            call(*args)
        else:
            await anyio.to_thread.run_sync(call, *args, limiter=self._limiter)

    def _transact(self) -> None:
        with self._turn:
            batch = []
            while self._pending:
                if (work := self._pending.popleft()).wanted:
                    batch.append(work)
            if batch:
                self._commit(batch)
            for work in batch:
                work.done = True

    def _commit(self, batch: list[_Work[Any]]) -> None:
        """All of it in one transaction; each in a savepoint, so that one that fails undoes only itself."""
        conn = self._conn
        assert conn is not None
        try:
            conn.execute("BEGIN IMMEDIATE")
            for work in batch:
                conn.execute("SAVEPOINT one")
                try:
                    work.value = work.statements(conn)
                except sqlite3.Error:
                    raise
                except Exception as error:  # noqa: BLE001 - it is the caller's, and is given back
                    conn.execute("ROLLBACK TO one")
                    work.error = error
                conn.execute("RELEASE one")
            conn.execute("COMMIT")
        except sqlite3.Error as error:
            if conn.in_transaction:
                conn.execute("ROLLBACK")
            for work in batch:
                work.error = work.error or self._file_error(error)

    def _file_error(self, error: Exception) -> FileError:
        code = getattr(error, "sqlite_errorcode", None)
        number = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_BUSY: errno.EBUSY}.get(code or -1)
        return FileError(str(self.path or ":memory:"), number, str(error))

    async def close(self) -> None:
        """Close it; what was committed stays."""
        if self._limiter is not None:
            with anyio.CancelScope(shield=True):
                await self._off_the_loop(self._close)

    def _close(self) -> None:
        with self._turn:
            conn, self._conn = self._conn, None
            if conn is not None:
                conn.close()
