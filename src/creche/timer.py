"""A call that the loop makes when a time has come, for what must happen then whether anybody waits or not."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

import anyio

__all__ = ["Timer"]


class Timer:
    """`call` after so many seconds, by the loop that runs here; none where none runs. The loop need not end for it, and ends it.

    anyio has no task without a task group, so each of the two loops is asked for its own.
    """

    def __init__(self, seconds: float, call: Callable[[], None]) -> None:
        self._thread = threading.get_ident()
        self._cancel: Callable[[], None] | None = None
        # trio first: as a guest of asyncio's loop it runs inside of it.
        if _in_trio():
            import trio

            scope = anyio.CancelScope()

            async def wait() -> None:
                with scope:
                    await anyio.sleep(seconds)
                    call()

            trio.lowlevel.spawn_system_task(wait)
            self._cancel = scope.cancel
        elif (asyncio := sys.modules.get("asyncio")) is not None and (loop := asyncio._get_running_loop()) is not None:
            self._cancel = loop.call_later(seconds, call).cancel

    def cancel(self) -> None:
        """It need not happen any more. From another thread (the collector's) it is left alone: neither loop can be told from there."""
        cancel, self._cancel = self._cancel, None
        if cancel is not None and threading.get_ident() == self._thread:
            cancel()


def _in_trio() -> bool:
    trio = sys.modules.get("trio")
    if trio is None:
        return False
    try:
        trio.lowlevel.current_trio_token()
    except RuntimeError:
        return False
    return True
