"""A container's figures as the cells of a table: what `creche stats` and `creche top` show; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from creche.units import format_size

__all__ = ["COLUMNS", "cells", "percent", "rate", "size", "table"]

Sample = Mapping[str, Any]  # one answer to "stats" on the control socket

COLUMNS = ("NAME", "CPU", "MEMORY", "PEAK", "LIMIT", "PIDS", "READ", "WRITTEN", "PRESSURE")
NOTHING = "-"


def percent(before: Sample | None, now: Sample) -> float | None:
    """Processor time between two samples of one container, in percent of one processor; None where it is not known.

    A container that was started anew meanwhile counts from its own beginning.
    """
    cpu = (now["stats"] or {}).get("cpu")
    if before is None or cpu is None or now["at"] <= before["at"]:
        return None
    earlier = (before["stats"] or {}).get("cpu") if before["pid"] == now["pid"] else None
    used = cpu["user"] + cpu["system"] - (earlier["user"] + earlier["system"] if earlier else 0.0)
    return float(max(used, 0.0) / (now["at"] - before["at"]) * 100)


def rate(value: float | None) -> str:
    """A share in percent, in six places at most."""
    return NOTHING if value is None else f"{value:.1f}%" if value < 1000 else f"{value:.0f}%"


def size(value: int | None) -> str:
    """Bytes in seven places at most: 64M, 1.5G."""
    if value is None:
        return NOTHING
    exact = format_size(value)
    return exact if len(exact) <= 5 else format_size(value + 1)  # which is rounded


def cells(before: Sample | None, now: Sample) -> list[str]:
    """One line of the table; "-" in it for what nothing counts."""
    stats = now["stats"] or {}
    memory, io, pressure = stats.get("memory") or {}, stats.get("io") or {}, stats.get("pressure") or {}
    pids = stats.get("pids")
    waits = "/".join(
        f"{pressure[kind]['some_avg10']:.0f}" for kind in ("cpu", "memory", "io") if kind in pressure
    )
    return [
        now["name"],
        rate(percent(before, now)),
        size(memory.get("current")),
        size(memory.get("peak")),
        size(memory.get("limit")),
        NOTHING if pids is None else str(pids),
        size(io.get("rbytes")),
        size(io.get("wbytes")),
        waits or NOTHING,
    ]


def table(rows: list[list[str]]) -> list[str]:
    """The lines of a table under its heads; numbers to the right."""
    whole = [list(COLUMNS), *rows]
    widths = [max(len(row[column]) for row in whole) for column in range(len(COLUMNS))]
    return [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in whole
    ]
