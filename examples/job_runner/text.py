"""Text of strangers made fit for a terminal, and columns that line up."""

from __future__ import annotations

import unicodedata

__all__ = ["clock", "columns", "printable", "size", "width"]


def printable(text: str) -> str:
    """`text` with every control character (and mark of direction, and lone surrogate) written out as an escape.

    A guest that prints escape sequences could else retitle the window, fill the clipboard, or draw a false table.
    """
    return "".join(char if char.isprintable() else _escape(char) for char in text.expandtabs(4))


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def width(text: str) -> int:
    """Columns that `text` takes: East Asian wide characters two, marks over others none."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def columns(rows: list[list[str]], right: set[int]) -> list[str]:
    """Rows as lines, each column as wide as its widest cell; those in `right` are flush right."""
    widths = [max(width(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = []
        for at, cell in enumerate(row):
            gap = " " * (widths[at] - width(cell))
            cells.append(gap + cell if at in right else cell + gap)
        lines.append("  ".join(cells).rstrip())
    return lines


def clock(seconds: float) -> str:
    """0.42 s, 12.3 s, 2:05 min."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02} min"


def size(count: int | None) -> str:
    """8.1 MiB; a dash where nobody measured."""
    return "-" if count is None else f"{count / (1 << 20):.1f} MiB"
