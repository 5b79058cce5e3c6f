"""What `creche top` shows and what its keys mean: a value that is told news and pressed, and gives lines; no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from attrs import define, field

from creche.units import format_seconds

from .figures import percent, rate, size
from .reaching import safe

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["Board", "Wish", "keys"]

_KEYS = {
    b"\x1b[A": "up", b"\x1bOA": "up", b"k": "up", b"\x1b[B": "down", b"\x1bOB": "down", b"j": "down",
    b"\x1b[5~": "page up", b"\x1b[6~": "page down", b"r": "restart", b"s": "stop", b"l": "logs", b"\r": "logs", b"\n": "logs",
    b"q": "back", b"\x1b": "back",
}  # fmt: skip
_COLOURS = {
    "ready": "green",
    "starting": "cyan",
    "admission": "cyan",
    "stopping": "yellow",
    "waiting": "yellow",
    "held": "red",
}


class Wish(NamedTuple):
    """What a key asks of the supervisor, or "quit"."""

    do: str
    name: str = ""


class _Column(NamedTuple):
    title: str
    width: int
    left: int  # how many columns of the table may go before this one does, on a narrow terminal


_TABLE = (
    _Column("NAME", 14, 9), _Column("STATE", 9, 8), _Column("CPU", 6, 7), _Column("MEMORY", 7, 6), _Column("LIMIT", 6, 2),
    _Column("PIDS", 5, 1), _Column("RESTARTS", 8, 5), _Column("UP", 10, 3),
)  # fmt: skip


def keys(typed: bytes) -> list[str]:
    """The keys in what a terminal sent; those that mean nothing here are left out."""
    found = []
    while typed:
        key = next((key for key in sorted(_KEYS, key=len, reverse=True) if typed.startswith(key)), None)
        if key is not None:
            found.append(_KEYS[key])
        typed = typed[len(key) if key else 1 :]
    return found


@define
class Board:
    """The workers of one project as a person sees them, one of them chosen; or the output of that one."""

    project: str
    now: dict[str, Mapping[str, Any]] = field(factory=dict)
    before: dict[str, Mapping[str, Any]] = field(factory=dict)
    chosen: str = ""
    log: list[str] = field(factory=list)  # the last lines of the chosen one
    reading: bool = False  # whether these fill the screen
    back: int = 0  # how many of the last lines are scrolled past
    said: str = ""

    def tell(self, told: list[dict[str, Any]]) -> None:
        """News of all workers."""
        self.before, self.now = self.now, {one["name"]: one for one in told}
        if self.chosen not in self.now:
            self.chosen, self.log = next(iter(self.now), ""), []

    def press(self, key: str, height: int) -> Wish | None:
        """A key of `keys`; what it asks for, if it asks for something."""
        names = list(self.now)
        page = max(height - 6, 1)
        step = {"up": -1, "down": 1, "page up": -page, "page down": page}.get(key)
        self.said = ""
        if step is not None and self.reading:
            self.back = min(max(self.back - step, 0), max(len(self.log) - 1, 0))
        elif step is not None and names:
            self.chosen = names[min(max(names.index(self.chosen) + step, 0), len(names) - 1)]
            self.log = []
        elif key == "back" and not self.reading:
            return Wish("quit")
        elif key in ("back", "logs"):
            self.reading, self.back = not self.reading and self.chosen != "", 0
        elif self.chosen and key in ("restart", "stop"):
            verb = "start" if key == "stop" and self.now[self.chosen]["wanted"] == "down" else key
            self.said = f"asked to {verb} {self.chosen}"
            return Wish(verb, self.chosen)
        return None

    def lines(self, width: int, height: int) -> list[Text]:
        """The screen: never more lines, nor wider ones, than the terminal has."""
        if self.reading:
            head = [_line(f"{self.project}: the last lines of {safe(self.chosen)}", width, "bold")]
            end = len(self.log) - self.back
            body = [_line(safe(line), width) for line in self.log[max(end - height + 2, 0) : end]]
        else:
            head = [_line(self._summary(), width, "bold"), _line(self._row(_TITLES, width), width, "reverse")]
            body = self._workers(width, height - len(head) - 1)
        body += [_line("", width)] * (height - len(head) - len(body) - 1)
        foot = _line("   ".join(filter(None, (self.said, self._help()))), width, "dim")
        return [*head, *body, foot][-height:]

    def _help(self) -> str:
        if self.reading:
            return "↑↓ scroll  q back"
        down = self.chosen and self.now[self.chosen]["wanted"] == "down"
        return f"↑↓ choose  r restart  s {'start' if down else 'stop'}  l logs  q quit"

    def _summary(self) -> str:
        ready = sum(one["state"] == "ready" for one in self.now.values())
        shares = [percent(self.before.get(name), one) for name, one in self.now.items()]
        held = [((one["stats"] or {}).get("memory") or {}).get("current") for one in self.now.values()]
        told = [f"{self.project}: {ready} of {len(self.now)} ready"]
        if any(share is not None for share in shares):
            told.append(f"cpu {rate(sum(share or 0 for share in shares))}")
        if any(value is not None for value in held):
            told.append(f"memory {size(sum(value or 0 for value in held))}")
        told.append(f"{sum(one['restarts'] for one in self.now.values())} restarts")
        return "   ".join(told)

    def _workers(self, width: int, height: int) -> list[Text]:
        """The rows round the chosen one, and below them its last lines where there is room."""
        most = max(height // 2, 1)  # of the rows: the rest is for what the chosen one printed
        names = list(self.now)
        at = names.index(self.chosen) if self.chosen else 0
        first = min(max(at - most // 2, 0), max(len(names) - most, 0))
        shown = []
        for name in names[first : first + most]:
            colour = _COLOURS.get(self.now[name]["state"], "")
            style = f"{colour} reverse" if name == self.chosen else colour
            shown.append(_line(self._row(self._cells(name), width), width, style))
        if self.chosen and height - len(shown) > 1:
            about = " ".join(filter(None, (safe(self.chosen), self._about())))
            shown.append(_line(f"── {about} {'─' * width}", width, "dim"))
            shown += [_line(safe(line), width) for line in self.log[len(shown) - height :]]
        return shown

    def _about(self) -> str:
        one = self.now[self.chosen]
        return safe(one["status"] or one["last"] or "")

    def _cells(self, name: str) -> dict[str, str]:
        one = self.now[name]
        memory = (one["stats"] or {}).get("memory") or {}
        pids = (one["stats"] or {}).get("pids")
        return {
            "NAME": safe(name),
            "STATE": one["state"] if one["wanted"] == "up" or one["state"] != "ready" else "stopping",
            "CPU": rate(percent(self.before.get(name), one)),
            "MEMORY": size(memory.get("current")),
            "LIMIT": size(memory.get("limit")),
            "PIDS": "-" if pids is None else str(pids),
            "RESTARTS": str(one["restarts"]),
            "UP": format_seconds(one["up"]) if one["up"] is not None else "",
            "OUTPUT": safe(one["line"] or ""),
        }

    @staticmethod
    def _row(cells: Mapping[str, str], width: int) -> str:
        """The cells side by side; on a narrow terminal the least needed columns are left out, one by one."""
        from rich.cells import cell_len, set_cell_size

        kept = list(_TABLE)
        while len(kept) > 1 and sum(column.width + 1 for column in kept) > width:
            kept.remove(min(kept, key=lambda column: column.left))
        parts = []
        for column in kept:
            text = cells[column.title]
            if column.title in ("NAME", "STATE"):
                parts.append(set_cell_size(text, column.width))
            else:
                parts.append(" " * (column.width - cell_len(text)) + text)
        row = " ".join(parts)
        return f"{row}  {cells['OUTPUT']}" if width - cell_len(row) > 10 else row


_TITLES = {column.title: column.title for column in _TABLE} | {"OUTPUT": "OUTPUT"}


def _line(text: str, width: int, style: str = "") -> Text:
    """One line of the screen, of exactly this many cells."""
    from rich.cells import set_cell_size
    from rich.text import Text

    return Text(set_cell_size(text, width), style=style, no_wrap=True, overflow="crop", end="")
