"""The figures of one process, from /proc."""

from __future__ import annotations

import os

from .values import ProcessFigures

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def process(pid: int) -> ProcessFigures | None:
    """Name, processor seconds and resident bytes of *pid*, or None once it is gone (proc_pid_stat(5))."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    words = rest.split()
    return ProcessFigures(pid, name, int(words[11]) / _TICK, int(words[12]) / _TICK, int(words[21]) * _PAGE)
