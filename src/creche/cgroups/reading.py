"""The figures of a container from its directories alone, so that who did not make them can read them too."""

from __future__ import annotations

from collections.abc import Mapping

from . import files, v1, v2
from .hierarchy import Hierarchy
from .values import CpuFigures, MemoryFigures, Stats

Folders = Mapping[Hierarchy, str]  # the box's directory in each hierarchy


def unified(folders: Folders) -> str | None:
    """The box's directory in version 2's hierarchy, if it has one."""
    return next((box for hierarchy, box in folders.items() if hierarchy.version == 2), None)


def home(folders: Folders, controller: str) -> Hierarchy | None:
    """The hierarchy among them that holds *controller* (version 2's name), or None."""
    return next((hierarchy for hierarchy in folders if hierarchy.offers(controller)), None)


def folder(folders: Folders, controller: str) -> str | None:
    """The box's directory where *controller* is at work, or None."""
    hierarchy = home(folders, controller)
    return None if hierarchy is None else folders[hierarchy]


def pids(box: str) -> tuple[int, ...]:
    """The processes in a directory and below it."""
    return tuple(pid for path in files.below(box) for pid in files.pids(path))


def cpu(folders: Folders) -> CpuFigures | None:
    """Processor time of everything that ran in it; None where nothing counts it."""
    box = unified(folders)
    if box is None:
        return v1.cpu(folder(folders, "cpuacct"), folder(folders, "cpu"))
    figures, throttle = v2.cpu(box), home(folders, "cpu")
    if figures is None or throttle is None or throttle.version == 2:
        return figures
    held = v1.cpu(None, folders[throttle])
    assert held is not None
    return CpuFigures(figures.user, figures.system, held.throttled, held.periods, held.periods_throttled)


def stats(folders: Folders) -> Stats:
    """All figures of this moment; what no controller counts here is None."""
    io, counted, box = home(folders, "io"), folder(folders, "pids"), unified(folders)
    now, most = v2.pids(counted) if counted else (len(pids(next(iter(folders.values())))), None)
    return Stats(
        cpu=cpu(folders),
        memory=_memory(folders),
        io=(v1.io if io.version == 1 else v2.io)(folders[io]) if io else None,
        pids=now,
        pids_peak=most,
        pressure=v2.pressure(box) if box else {},
    )


def _memory(folders: Folders) -> MemoryFigures | None:
    hierarchy = home(folders, "memory")
    if hierarchy is None:
        return None
    return (v1.memory if hierarchy.version == 1 else v2.memory)(folders[hierarchy])
