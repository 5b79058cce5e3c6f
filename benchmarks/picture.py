"""Draws the medians as bars, in SVG, with nothing but text: a picture for the README."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

WIDTH, LABEL, ROW, TOP = 900, 330, 26, 64
COLOURS = {"creche": "#0b7a75", "other": "#b8c4c2", "floor": "#7b8ea3"}
FONT = "font-family='system-ui, -apple-system, Segoe UI, Roboto, sans-serif'"


def bars(title: str, subtitle: str, rows: Sequence[tuple[str, float, str]], unit: str) -> str:
    """An SVG with one horizontal bar for each (label, value, kind); a kind is a key of COLOURS."""
    most = max(value for _, value, _ in rows)
    space = WIDTH - LABEL - 110
    height = TOP + ROW * len(rows) + 16
    lines = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' width='{WIDTH}' height='{height}' {FONT}>",
        f"<title>{escape(title)}</title>",
        f"<rect width='{WIDTH}' height='{height}' rx='8' fill='#ffffff'/>",
        f"<text x='20' y='28' font-size='17' font-weight='600' fill='#1d2b2a'>{escape(title)}</text>",
        f"<text x='20' y='48' font-size='12' fill='#5b6b69'>{escape(subtitle)}</text>",
    ]
    for number, (label, value, kind) in enumerate(rows):
        y = TOP + number * ROW
        length = max(2.0, space * value / most)
        weight = "600" if kind == "creche" else "400"
        ink = "fill='#1d2b2a' font-size='13'"
        lines += [
            f"<text x='{LABEL - 10}' y='{y + 16}' {ink} font-weight='{weight}' text-anchor='end'>{escape(label)}</text>",
            f"<rect x='{LABEL}' y='{y + 3}' width='{length:.1f}' height='{ROW - 8}' rx='3' fill='{COLOURS[kind]}'/>",
            f"<text x='{LABEL + length + 8:.1f}' y='{y + 16}' {ink}>{value:.2f} {unit}</text>",
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"
