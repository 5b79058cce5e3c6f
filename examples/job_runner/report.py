"""The listener that people look at: what programs print, who is running, and the table at the end."""

from __future__ import annotations

import time
from collections import Counter

from screen import Screen
from text import clock, columns, printable, size

from creche import Exit, Reason

__all__ = ["Report"]

_COLOURS = (36, 35, 34, 33, 32)
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_NAME = 18  # columns of a name before what its program prints


class Report:
    """Keeps what is known of each program, and shows it."""

    def __init__(self, screen: Screen, *, quiet: bool = False) -> None:
        self._names: dict[str, str] = {}  # by key, in the order in which they were found
        self._numbers: dict[str, int] = {}
        self._screen = screen
        screen.below = self._below
        self._quiet = quiet
        self._began = time.monotonic()
        self._running: dict[str, float] = {}
        self._lines: Counter[str] = Counter()
        self._before: set[str] = set()
        self.ends: dict[str, Exit | str] = {}  #: how each ended, or why it did not start

    @property
    def all_well(self) -> bool:
        """Whether every one was run to a good end, now or earlier."""
        exits = [end for end in self.ends.values() if isinstance(end, Exit) and end.ok]
        return len(exits) == len(self._names)

    # ---- what it is told ----

    def found(self, key: str, name: str) -> None:
        """There is such a program, and that is what people call it."""
        self._names[key] = printable(name)
        self._numbers.setdefault(key, len(self._numbers))

    def started(self, key: str) -> None:
        """A program has begun."""
        self.ends.pop(key, None)  # what was lost is tried again
        self._running[key] = time.monotonic()
        if not self._screen.live:  # there it stands below
            self._screen.say(self._line(key, "started"))

    async def wrote(self, key: str, stream: str, line: str) -> None:
        """A program has printed a line. Nothing in it may act on the terminal."""
        self._lines[key] += 1
        if not self._quiet:
            text = printable(line)
            await self._screen.show(
                self._line(key, self._screen.paint(text, 31) if stream == "err" else text, "│")
            )

    def ended(self, key: str, exit: Exit) -> None:
        """A program is dead, and all that it had started."""
        self._running.pop(key, None)
        self.ends[key] = exit
        word = self._verdict(exit) + ("" if exit.ok else f": {self._status(exit)}")
        self._screen.say(
            self._line(key, self._screen.paint(f"{word} after {clock(exit.usage.wall)}", 2), "╵")
        )

    def refused(self, key: str, error: str) -> None:
        """A program could not be started."""
        self.ends[key] = error
        self._screen.say(self._line(key, self._screen.paint(printable(error), 31), "╵"))

    def before(self, key: str, exit: Exit) -> None:
        """A program was run to its end at an earlier time."""
        self.ends[key] = exit
        self._before.add(key)

    # ---- what it shows ----

    async def table(self) -> None:
        """How each of them ended, and the sum of it."""
        head = ["program", "reason", "status", "wall", "cpu", "memory peak"]
        rows = [head, *(self._row(key) for key in self._names)]
        lines = columns(rows, right={3, 4, 5})
        rule = "─" * max(len(line) for line in lines)
        for at, key in enumerate(self._names, 1):
            end = self.ends.get(key)
            colour = 2 if end is None else 32 if isinstance(end, Exit) and end.ok else 31
            lines[at] = self._screen.paint(lines[at], colour)
        self._screen.below = list
        self._screen.say("", lines[0], rule, *lines[1:], rule, self._sum())
        await self._screen.flush()

    def _row(self, key: str) -> list[str]:
        end = self.ends.get(key)
        if end is None:
            return [self._names[key], "not run", "", "", "", ""]
        if not isinstance(end, Exit):
            return [self._names[key], "not started", "", "", "", ""]
        used = end.usage
        figures = [clock(used.cpu) if used.memory_peak is not None else "-", size(used.memory_peak)]
        return [self._names[key], self._verdict(end), self._status(end), clock(used.wall), *figures]

    @staticmethod
    def _verdict(exit: Exit) -> str:
        return {Reason.OUTPUT_LIMIT: "output limit", Reason.OOM: "out of memory"}.get(
            exit.reason, exit.reason.value
        )

    @staticmethod
    def _status(exit: Exit) -> str:
        return f"signal {exit.signal}" if exit.signal is not None else f"status {exit.code}"

    def _sum(self) -> str:
        exits = [end for end in self.ends.values() if isinstance(end, Exit)]
        spent = clock(
            sum(
                end.usage.cpu
                for key, end in self.ends.items()
                if isinstance(end, Exit) and key not in self._before
            )
        )
        well = sum(exit.ok for exit in exits)
        parts = [f"{len(self._names)} programs", f"{well} ended well", f"{len(self.ends) - well} did not"]
        if missing := len(self._names) - len(self.ends):
            parts.append(f"{missing} not run")
        if self._before:
            parts.append(f"{len(self._before)} of them done before")
        return f"{', '.join(parts)}; {clock(time.monotonic() - self._began)}, {spent} of processor"

    def _line(self, key: str, text: str, mark: str = "╷") -> str:
        name = Screen.fit(self._names[key], _NAME)
        name += " " * (_NAME - len(name))
        return f"{self._screen.paint(name, _COLOURS[self._numbers[key] % len(_COLOURS)])} {mark} {text}"

    def _below(self) -> list[str]:
        now = time.monotonic()
        spin = _SPINNER[int(now * 10) % len(_SPINNER)]
        lines = [
            f"{self._screen.paint(spin, 33)} {Screen.fit(self._names[key], _NAME)}  {clock(now - since)}"
            f"  {self._lines[key]} lines"
            for key, since in self._running.items()
        ]
        done, total = len(self.ends), len(self._names)
        bar = 24 * done // max(1, total)
        lines.append(
            f"{self._screen.paint('━' * bar, 32)}{self._screen.paint('━' * (24 - bar), 2)} {done}/{total} ended, "
            f"{len(self._running)} running  {clock(now - self._began)}"
        )
        return lines
