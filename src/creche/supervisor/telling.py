"""A child as JSON tells it: what it is, and what its container uses."""

from __future__ import annotations

import time
from typing import Any

import anyio
import anyio.lowlevel
from attrs import asdict

from creche.errors import CrecheError
from creche.supervisor.view import Child


def row(view: Child, now: float) -> dict[str, Any]:
    """What it is; times are seconds ago."""
    last = view.records[-1] if view.records else None
    return {
        "name": view.name,
        "wanted": view.wanted,
        "state": view.state,
        "pid": view.pid,
        "restarts": view.restarts,
        "up": now - view.started if view.started is not None else None,
        "due": view.due - now if view.due is not None else None,
        "status": view.status,
        "reloading": view.reloading,
        "main_pid": view.main_pid,
        "last": last.explain() if last is not None else None,
    }


async def sample(view: Child) -> dict[str, Any]:
    """What it is and uses, and its last line. `at` is of a clock that only differences of mean something.

    `stats` is None where no cgroup counts: no container runs, or its Spec has no limits.
    """
    stats = None
    if hasattr(view.container, "stats"):
        try:
            stats = asdict(await view.container.stats())
        except CrecheError:
            pass  # it has no limits, or has ended meanwhile
    at = time.monotonic()
    await anyio.lowlevel.checkpoint()  # a thousand of them are some 0.3 s, in which others have their turn
    line = view.lines[-1].decode("utf-8", "replace") if view.lines else None
    return {**row(view, anyio.current_time()), "at": at, "stats": stats, "line": line}
