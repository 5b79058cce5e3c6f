"""The listener that people look at: what programs print, who is running, and the table at the end."""

from __future__ import annotations

import time

from finding import Program
from screen import Screen
from text import clock, columns, printable, size

from creche import CrecheError, Exit, Reason

__all__ = ["Report"]

_COLOURS = (36, 35, 34, 33, 32)
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_NAME = 18  # columns of a name before what its program prints


class Report:
    """Keeps what is known of each program, and shows it."""

    def __init__(self, programs: list[Program], screen: Screen, *, quiet: bool = False) -> None:
        self._names = [printable(program.name) for program in programs]
        self._screen = screen
        screen.below = self._below
        self._quiet = quiet
        self._began = time.monotonic()
        self._running: dict[int, float] = {}
        self._lines = [0] * len(programs)
        self.ends: dict[int, Exit | CrecheError] = {}

    # ---- what it is told ----

    def started(self, number: int) -> None:
        """A program has begun."""
        self._running[number] = time.monotonic()
        if not self._screen.live:  # there it stands below
            self._screen.say(self._line(number, "started"))

    async def wrote(self, number: int, stream: str, line: str) -> None:
        """A program has printed a line. Nothing in it may act on the terminal."""
        self._lines[number] += 1
        if not self._quiet:
            text = printable(line)
            await self._screen.show(
                self._line(number, self._screen.paint(text, 31) if stream == "err" else text, "│")
            )

    def ended(self, number: int, exit: Exit) -> None:
        """A program is dead, and all that it had started."""
        self._running.pop(number, None)
        self.ends[number] = exit
        word = self._verdict(exit) + ("" if exit.ok else f": {self._status(exit)}")
        self._screen.say(
            self._line(number, self._screen.paint(f"{word} after {clock(exit.usage.wall)}", 2), "╵")
        )

    def refused(self, number: int, error: CrecheError) -> None:
        """A program could not be started."""
        self.ends[number] = error
        self._screen.say(self._line(number, self._screen.paint(printable(str(error)), 31), "╵"))

    # ---- what it shows ----

    async def table(self) -> None:
        """How each of them ended, and the sum of it."""
        head = ["program", "reason", "status", "wall", "cpu", "memory peak"]
        rows = [head, *(self._row(number) for number in range(len(self._names)))]
        lines = columns(rows, right={3, 4, 5})
        rule = "─" * max(len(line) for line in lines)
        for number in range(len(self._names)):
            end = self.ends.get(number)
            colour = 2 if end is None else 32 if isinstance(end, Exit) and end.ok else 31
            lines[number + 1] = self._screen.paint(lines[number + 1], colour)
        self._screen.below = list
        self._screen.say("", lines[0], rule, *lines[1:], rule, self._sum())
        await self._screen.flush()

    def _row(self, number: int) -> list[str]:
        end = self.ends.get(number)
        if end is None:
            return [self._names[number], "not run", "", "", "", ""]
        if not isinstance(end, Exit):
            return [self._names[number], "not started", "", "", "", ""]
        used = end.usage
        figures = [clock(used.cpu) if used.memory_peak is not None else "-", size(used.memory_peak)]
        return [self._names[number], self._verdict(end), self._status(end), clock(used.wall), *figures]

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
        well = sum(exit.ok for exit in exits)
        parts = [f"{len(self._names)} programs", f"{well} ended well", f"{len(self.ends) - well} did not"]
        if missing := len(self._names) - len(self.ends):
            parts.append(f"{missing} not run")
        spent = clock(sum(exit.usage.cpu for exit in exits))
        return f"{', '.join(parts)}; {clock(time.monotonic() - self._began)}, {spent} of processor"

    def _line(self, number: int, text: str, mark: str = "╷") -> str:
        name = Screen.fit(self._names[number], _NAME)
        name += " " * (_NAME - len(name))
        return f"{self._screen.paint(name, _COLOURS[number % len(_COLOURS)])} {mark} {text}"

    def _below(self) -> list[str]:
        now = time.monotonic()
        spin = _SPINNER[int(now * 10) % len(_SPINNER)]
        lines = [
            f"{self._screen.paint(spin, 33)} {Screen.fit(self._names[number], _NAME)}  {clock(now - since)}"
            f"  {self._lines[number]} lines"
            for number, since in sorted(self._running.items())
        ]
        done, total = len(self.ends), len(self._names)
        bar = 24 * done // max(1, total)
        lines.append(
            f"{self._screen.paint('━' * bar, 32)}{self._screen.paint('━' * (24 - bar), 2)} {done}/{total} ended, "
            f"{len(self._running)} running  {clock(now - self._began)}"
        )
        return lines
