"""When it is worth its price to make what HostViews share: while one start follows another."""

from __future__ import annotations

import time

from ._native import lib

__all__ = ["failed", "mounts", "worth"]

SOON = 4.0  #: seconds; less than a spawner waits for work before it lets go of what is shared (native/pool.c: IDLE_MS)
PAUSE = 60.0  #: seconds until it is tried again where it could not be made
_last = _not_before = -PAUSE


def worth() -> bool:
    """Whether a start came shortly before this one: one alone would pay for all of it, and be the only one to use it."""
    global _last
    now = time.monotonic()
    before, _last = _last, now
    return now - before < SOON and now >= _not_before


def mounts() -> int:
    """A number that stays the same while the host's mounts do; 0 where nobody looks."""
    return int(lib.creche_mounts())


def failed() -> None:
    """It can't be made: for want of a second user namespace, say. What a container does not share it makes itself, or it says why not."""
    global _not_before
    lib.creche_views_drop()
    _not_before = time.monotonic() + PAUSE
