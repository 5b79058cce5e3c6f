"""A terminal with lines that scroll and a few below that are drawn anew; a plain log where it is no terminal."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import anyio
import anyio.to_thread
from text import width

__all__ = ["Screen"]

_CLEAR_LINE, _UP, _WRAP_OFF, _WRAP_ON = "\x1b[2K", "\x1b[1A", "\x1b[?7l", "\x1b[?7h"
_MANY = 200  # lines that may wait


class Screen:
    """Gathers lines and writes them a few times a second, in a thread: a slow terminal never stops the loop.

    Whoever has more to say than fits waits for the writing, so a program that prints without end is slowed down to
    the speed at which somebody reads it, and nothing piles up here.
    """

    def __init__(self, fd: int = 1) -> None:
        self._fd = fd
        self.live = os.isatty(fd) and os.environ.get("TERM", "dumb") != "dumb"
        self.colours = self.live and "NO_COLOR" not in os.environ
        self.below: Callable[[], list[str]] = (
            list  #: what stands under the lines that scroll, asked at each writing
        )
        self._waiting: list[str] = []
        self._drawn = 0
        self._room = anyio.Event()

    def paint(self, text: str, colour: int) -> str:
        """`text` in one of the terminal's colours (30 to 37, or 1 and 2 for bold and faint)."""
        return f"\x1b[{colour}m{text}\x1b[0m" if self.colours else text

    def say(self, *lines: str) -> None:
        """Let a few `lines` scroll by, soon."""
        self._waiting += lines

    async def show(self, line: str) -> None:
        """The same for one of many lines: waits for its turn where there are more than can be shown."""
        while len(self._waiting) >= _MANY:
            await self._room.wait()
        self._waiting.append(line)

    async def run(self) -> None:
        """Write, a few times a second, until cancelled. Raises BrokenPipeError when nobody reads any more."""
        while True:
            await self.flush()
            await anyio.sleep(0.05)

    async def flush(self) -> None:
        """Write what waits, and draw anew what is below. The writing itself is not interrupted half-way."""
        lines, self._waiting = self._waiting, []
        self._room.set()
        self._room = anyio.Event()
        text = "".join(f"{line}\n" for line in lines)
        if self.live:
            below = self.below()[: max(1, shutil.get_terminal_size().lines - 2)]
            erase = "\r" + _CLEAR_LINE + (_UP + _CLEAR_LINE) * self._drawn
            # A line that wrapped would take two rows, and our count would be wrong: wrapping is off below.
            drawn = "".join(f"{line}\n" for line in below)
            text = erase + text + (_WRAP_OFF + drawn + _WRAP_ON if drawn else "")
            self._drawn = len(below)
        if text:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(_write, self._fd, text.encode("utf-8", "replace"))

    @staticmethod
    def fit(text: str, columns: int) -> str:
        """`text`, cut to so many columns."""
        while width(text) > columns:
            text = text[:-2] + "…" if len(text) > 1 else ""
        return text


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
