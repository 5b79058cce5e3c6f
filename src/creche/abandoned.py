"""Containers whose loop was closed under their tasks: nobody there can end them any more, so the next start does."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

if TYPE_CHECKING:
    from .container import Container

__all__ = ["begins"]

_lock = threading.Lock()
_boxes: WeakKeyDictionary[Any, WeakSet[Container]] = WeakKeyDictionary()


def begins(box: Container) -> None:
    """A container starts on the loop that runs here, if that is asyncio's (trio ends its tasks before a run does); those of closed loops come to their end.

    The collector does not find those: what waits for a descriptor is kept by the loop that it waits on, and the loop by it.
    """
    asyncio = sys.modules.get("asyncio")
    loop = None if asyncio is None else asyncio._get_running_loop()
    left: list[Container] = []
    with _lock:
        if loop is not None:
            boxes = _boxes.get(loop)
            if boxes is None:
                boxes = _boxes[loop] = WeakSet()
            boxes.add(box)
        for other in list(_boxes):
            if other.is_closed():
                left += _boxes.pop(other)
    for old in left:
        old._forsake("its loop, which was closed", "was left by a loop that was closed under its tasks: it is killed; end a loop as asyncio.run does")
