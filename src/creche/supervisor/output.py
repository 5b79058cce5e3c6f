"""What children print: always read, kept as a few last lines, and passed on to loggers, files and listeners."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Callable

import anyio
import anyio.abc
import anyio.lowlevel
from attrs import frozen

from creche.supervisor.childspec import Output
from creche.supervisor.logfile import LogFile, Start, Writer

_TURN = 1000  # lines after which others on the loop have their turn: a mebibyte of newlines is a million lines
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


class Printed:
    """All that one child prints, over all of its lives."""

    def __init__(
        self,
        child: str,
        output: Output,
        lost: Callable[[int, str], None],
        limiter: anyio.CapacityLimiter,
        start: Start,
    ) -> None:
        self.child = child
        self.tail: deque[bytes] = deque(maxlen=output.keep)
        self.listeners: list[Callable[[OutputLine], None]] = []
        self._output = output
        self._logger = logging.getLogger(output.log.format(name=child)) if output.log else None
        name = str(output.file).format(name=child) if output.file is not None else None
        file = LogFile(name, output.max_bytes, output.backups) if name is not None else None
        self._file = Writer(file, lost, limiter, start) if file is not None else None

    def begin(self) -> None:
        """A new life begins: its last lines are its own."""
        self.tail.clear()

    async def drain(self, name: str, stream: anyio.abc.ByteReceiveStream) -> None:
        """Read to the end, whatever becomes of it."""
        split = Splitter(self._output.line)
        try:
            while True:
                chunk = await stream.receive()
                if self._file is not None:
                    self._file.put(chunk)
                lines = split.feed(chunk)
                self._lines(name, lines[:_TURN])
                for at in range(_TURN, len(lines), _TURN):
                    await anyio.lowlevel.checkpoint()
                    self._lines(name, lines[at : at + _TURN])
        except _LOST:
            self._lines(name, split.end())

    async def written(self) -> None:
        """Until its file has all of it, or has lost it."""
        if self._file is not None:
            await self._file.written()

    def end(self) -> None:
        """It will print no more: what its file has lost meanwhile is told."""
        if self._file is not None:
            self._file.end()

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
