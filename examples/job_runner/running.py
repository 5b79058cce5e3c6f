"""Runs programs, so many at a time, each in a container of its own, and tells a listener of all that happens."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import anyio
import attrs
from finding import Program

from creche import CgroupError, Container, CrecheError, Exit, Limits, Reason, Spec, UnsupportedError

__all__ = ["Bounds", "Listener", "run_all"]


@dataclass(frozen=True)
class Bounds:
    """What each program may use."""

    limits: Limits = field(default_factory=Limits)
    timeout: float = math.inf  #: seconds, the start included
    output: float = math.inf  #: bytes of both streams together


class Listener(Protocol):
    """Who is told. `wrote` is awaited: a slow listener slows the programs down, and nothing piles up."""

    def started(self, number: int) -> None: ...
    async def wrote(self, number: int, stream: str, line: str) -> None: ...
    def ended(self, number: int, exit: Exit) -> None: ...
    def refused(self, number: int, error: CrecheError) -> None: ...


async def run_all(programs: list[Program], jobs: int, bounds: Bounds, listener: Listener) -> None:
    """Run them all. Cancelled, it returns when every container is dead, and the listener has heard of each.

    Raises UnsupportedError and CgroupError: what this machine can't do for one program it can do for none.
    """
    waiting = iter(enumerate(programs))
    async with anyio.create_task_group() as tasks:
        for _ in range(min(jobs, len(programs))):
            tasks.start_soon(_work, waiting, bounds, listener)


async def _work(waiting: Iterable[tuple[int, Program]], bounds: Bounds, listener: Listener) -> None:
    for number, program in waiting:
        try:
            await _run(number, program, bounds, listener)
        except (UnsupportedError, CgroupError):
            raise
        except CrecheError as error:
            listener.refused(number, error)


async def _run(number: int, program: Program, bounds: Bounds, listener: Listener) -> None:
    spec = Spec(program.command, mounts=[program.bind], cwd="/work", limits=bounds.limits, stdin="null")
    box = Container(spec)
    why: Reason | None = None  # what we killed it for, if we did
    began, written = False, 0

    async def relay(stream: str) -> None:
        nonlocal written, why
        pipe = box.stdout if stream == "out" else box.stderr
        assert pipe is not None
        async for line in pipe.lines("utf-8", max=4096):
            written += len(line) + 1
            if written > bounds.output:
                why = why or Reason.OUTPUT_LIMIT
                box.kill()
                return
            await listener.wrote(number, stream, str(line))

    try:
        with anyio.move_on_after(bounds.timeout) as time:
            async with box:
                began = True
                listener.started(number)
                async with anyio.create_task_group() as readers:
                    readers.start_soon(relay, "out")
                    readers.start_soon(relay, "err")
                    await box
                    # Its last words are in the pipes; but whoever is dead no longer keeps us waiting.
                    readers.cancel_scope.deadline = anyio.current_time() + 2
        if time.cancelled_caught:
            why = why or Reason.TIMEOUT
            if not began:
                listener.ended(number, Exit(None, signal.SIGKILL, Reason.TIMEOUT))
    finally:  # also when we are cancelled: the block has killed it, and its end can be told
        if began and box.exit is not None:
            exit = box.exit if why is None else attrs.evolve(box.exit, reason=why)
            listener.ended(number, exit)
