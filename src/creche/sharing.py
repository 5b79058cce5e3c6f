"""When it is worth its price to make what HostViews share: while one start follows another."""

from __future__ import annotations

import time

__all__ = ["worth"]

SOON = 4.0  #: seconds; less than a spawner waits for work before it lets go of what is shared (native/pool.c: IDLE_MS)
_last = -SOON


def worth() -> bool:
    """Whether a start came shortly before this one: one alone would pay for all of it, and be the only one to use it."""
    global _last
    now = time.monotonic()
    before, _last = _last, now
    return now - before < SOON
