"""Whether the kernel may still count a user namespace that this process uses no more, and when to try again."""

from __future__ import annotations

import time

__all__ = ["PAUSES", "ended", "still_counted"]

PAUSES = (0.0, 0.02, 0.1, 0.4, 1.0, 2.5)  #: seconds, one after the other: a user namespace is counted down some time after its last process, with its network namespace
_ended = float("-inf")


def ended() -> None:
    """A container of this process is gone."""
    global _ended
    _ended = time.monotonic()


def still_counted() -> bool:
    """Whether user namespaces that this process does not use any more may count against user.max_user_namespaces (namespaces(7))."""
    return time.monotonic() - _ended < 2 * sum(PAUSES)
