"""Work that is carried to its end whatever cancels the task, asyncio's own cancellation included; that goes on afterwards."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

__all__ = ["finish"]


async def finish(work: Callable[[], Awaitable[None]]) -> None:
    """Await `work()`, again where a cancellation interrupts it: it must go on from where it was. Raises what it raises, and then the cancellation.

    A shielded scope keeps anyio's cancellations out, and trio has no others. But `asyncio.timeout`, `asyncio.TaskGroup`, `asyncio.wait_for` and Ctrl-C
    in `asyncio.run` call Task.cancel, which knows no scopes: it interrupts whatever the task awaits, once for each call.
    """
    cancelled: BaseException | None = None
    with anyio.CancelScope(shield=True):
        while True:
            try:
                await work()
                break
            except anyio.get_cancelled_exc_class() as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled
