"""Control groups by a few verbs: find a place, make a group with limits, put commands in it, watch, kill, remove."""

from .choose import VARIABLE, find_place, find_place_async, reset
from .group import Group, Sub
from .hierarchy import Hierarchy
from .living import Living, living
from .notify import Watch, watch
from .place import Place
from .values import BoxEvent, CpuFigures, Events, IoFigures, MemoryFigures, Pressure, ProcessFigures, Stats

__all__ = [
    "VARIABLE",
    "BoxEvent",
    "CpuFigures",
    "Events",
    "Group",
    "Hierarchy",
    "IoFigures",
    "Living",
    "MemoryFigures",
    "Place",
    "Pressure",
    "ProcessFigures",
    "Stats",
    "Sub",
    "Watch",
    "find_place",
    "find_place_async",
    "living",
    "reset",
    "watch",
]
