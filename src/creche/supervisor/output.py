"""What children print: always read, kept as a few last lines, and passed on to loggers, files and listeners."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread
from attrs import frozen

from creche.supervisor.childspec import Output

_PENDING = 2**20  # bytes of output that may wait for the disk before they are dropped
_LOST = (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError)


@frozen
class OutputLine:
    """One line (or a piece of a longer one, or the last without an end), without its newline."""

    child: str
    stream: str
    line: bytes


class Splitter:
    """Bytes in, lines out; a longer line comes in pieces, so that nothing grows without bound."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > self._most:
            whole = len(self._rest) - len(self._rest) % self._most
            lines += [self._rest[:whole]]
            self._rest = self._rest[whole:]
        if all(len(line) <= self._most for line in lines):
            return lines
        return [
            line[at : at + self._most] for line in lines for at in range(0, max(len(line), 1), self._most)
        ]

    def end(self) -> list[bytes]:
        rest, self._rest = self._rest, b""
        return [rest] if rest else []


class LinesReader(AsyncIterator[OutputLine]):
    """A listener to the lines of some children. One that is too slow loses the oldest: `lost` counts them."""

    def __init__(self, names: frozenset[str], size: int) -> None:
        self.lost = 0
        self._names = names
        self._closed = False
        self._lines: deque[OutputLine] = deque(maxlen=size)
        self._news = anyio.Event()
        self._ended = False

    def put(self, line: OutputLine) -> None:
        """Take a line, if it is of a child that was asked for, by its own name or its ChildSpec's."""
        if self._closed or not (not self._names or {line.child, line.child.partition(".")[0]} & self._names):
            return
        self.lost += len(self._lines) == self._lines.maxlen
        self._lines.append(line)
        self._news.set()

    def end(self) -> None:
        """There will be no more."""
        self._ended = True
        self._news.set()

    async def __anext__(self) -> OutputLine:
        while not self._lines:
            if self._ended:
                raise StopAsyncIteration
            self._news = anyio.Event()
            await self._news.wait()
        return self._lines.popleft()

    def __enter__(self) -> LinesReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True


class LogFile:
    """A file that is appended to and rotated; the calls block, and are made in a thread."""

    def __init__(self, path: str | Path, most: int, backups: int) -> None:
        self.path = Path(path)
        self._most = most
        self._backups = backups

    def write(self, data: bytes) -> None:
        """Append, after a rotation if the file would grow beyond its size. Opened anew each time, so that a file
        which somebody else moved away is begun again, and a thousand quiet children hold no descriptor."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self.path, flags, 0o640)
        try:
            size = os.fstat(fd).st_size
            if size and size + len(data) > self._most:
                self._rotate()
                os.close(fd)
                fd = -1
                fd = os.open(self.path, flags, 0o640)
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
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


class Printed:
    """All that one child prints, over all of its lives."""

    def __init__(
        self, child: str, output: Output, lost: Callable[[int, str], None], limiter: anyio.CapacityLimiter
    ) -> None:
        self.child = child
        self.tail: deque[bytes] = deque(maxlen=output.keep)
        self.listeners: list[Callable[[OutputLine], None]] = []
        self._output = output
        self._lost = lost
        self._limiter = limiter
        self._logger = logging.getLogger(output.log.format(name=child)) if output.log else None
        name = str(output.file).format(name=child) if output.file is not None else None
        self._file = LogFile(name, output.max_bytes, output.backups) if name is not None else None
        self._pending: list[bytes] = []
        self._waiting = 0
        self._dropped = 0
        self._writing = False

    def begin(self) -> None:
        """A new life begins: its last lines are its own."""
        self.tail.clear()

    async def drain(self, name: str, stream: anyio.abc.ByteReceiveStream) -> None:
        """Read to the end, whatever becomes of it."""
        split = Splitter(self._output.line)
        try:
            while True:
                chunk = await stream.receive()
                self._lines(name, split.feed(chunk))
                if self._file is not None:
                    await self._keep(chunk)
        except _LOST:
            self._lines(name, split.end())

    def _lines(self, name: str, lines: list[bytes]) -> None:
        self.tail.extend(lines)
        if self._logger is not None and self._logger.isEnabledFor(logging.INFO):
            for line in lines:
                text = line.decode("utf-8", "backslashreplace")
                shown = "".join(
                    char if char.isprintable() or char == "\t" else repr(char)[1:-1] for char in text
                )
                self._logger.info("%s", shown, extra={"creche_child": self.child, "creche_stream": name})
        if self.listeners:
            for line in lines:
                for listener in tuple(self.listeners):
                    listener(OutputLine(self.child, name, line))

    async def _keep(self, chunk: bytes) -> None:
        """Hand a chunk to the disk. One drain writes at a time, for both streams; the other goes on reading."""
        if self._waiting + len(chunk) > _PENDING:
            self._dropped += len(chunk)
        else:
            self._pending.append(chunk)
            self._waiting += len(chunk)
        if self._writing or self._file is None:
            return
        self._writing = True
        try:
            while self._pending:
                data = b"".join(self._pending)
                self._pending.clear()
                self._waiting = 0
                try:
                    await anyio.to_thread.run_sync(self._file.write, data, limiter=self._limiter)
                except OSError as error:
                    self._lost(len(data), f"{self._file.path}: {error.strerror}")
        finally:
            self._writing = False
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._lost(dropped, f"{self._file.path}: the disk is too slow")
