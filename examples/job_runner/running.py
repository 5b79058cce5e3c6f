"""Runs programs from a queue, so many at a time, each in a container of its own, and tells a listener of all that happens."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import anyio
import attrs
from finding import Program

from creche import CgroupError, Container, Exit, JobQueue, Limits, Reason, Result, Spec, UnsupportedError

__all__ = ["Bounds", "Listener", "run_all"]


@dataclass(frozen=True)
class Bounds:
    """What each program may use."""

    limits: Limits = field(default_factory=Limits)
    timeout: float | None = None  #: seconds, the start included
    output: int | None = None  #: bytes of both streams together


class Listener(Protocol):
    """Who is told. `wrote` is awaited: a slow listener slows the programs down, and nothing piles up.

    A job is told of by its key, a text. `found` comes first, `ended` or `refused` last; `before` is an end that an earlier
    run saw, and of which this one only reads.
    """

    def found(self, key: str, name: str) -> None: ...
    def started(self, key: str) -> None: ...
    async def wrote(self, key: str, stream: str, line: str) -> None: ...
    def ended(self, key: str, exit: Exit) -> None: ...
    def refused(self, key: str, error: str) -> None: ...
    def before(self, key: str, exit: Exit) -> None: ...


async def run_all(
    programs: list[Program], jobs: int, bounds: Bounds, listener: Listener, file: Path | None
) -> None:
    """Run them all, and what `file` holds from an earlier time. Cancelled, it returns when every container is dead.

    Raises UnsupportedError and CgroupError: what this machine can't do for one program it can do for none. Then, and when
    cancelled, what is not done stays in the file.
    """
    twins: Counter[str] = Counter()
    specs = [_spec(program, bounds.limits) for program in programs]
    keys = [_key(program.name, spec, bounds, twins) for program, spec in zip(programs, specs, strict=True)]
    for key, program in zip(keys, programs, strict=True):
        listener.found(key, program.name)
    running = _Running(listener, set(keys))
    async with JobQueue(file, workers=jobs, runner=running) as queue, anyio.create_task_group() as tasks:
        tasks.start_soon(running.until_impossible)
        for key, program, spec in zip(keys, programs, specs, strict=True):
            # The key is the job's identity too: one that the file has already is not taken a second time.
            await queue.submit(
                attrs.evolve(spec, name=key),
                timeout=bounds.timeout,
                max_output=bounds.output,
                once=key,
                tag={"key": key, "name": program.name},
            )
        async for result in queue.results(since=0):
            key = result.tag["key"]
            listener.found(key, result.tag["name"])
            if result.exit is None:
                listener.refused(key, result.error or result.outcome.value)
            elif key not in running.seen:
                listener.before(key, result.exit)
        tasks.cancel_scope.cancel()


def _spec(program: Program, limits: Limits) -> Spec:
    return Spec(program.command, mounts=[program.bind], cwd="/work", limits=limits, stdin="null")


def _key(name: str, spec: Spec, bounds: Bounds, twins: Counter[str]) -> str:
    """The same for the same program with the same bounds, but not for a second one of them in the same list."""
    what = json.dumps([name, spec.to_dict(), bounds.timeout, bounds.output], sort_keys=True)
    twins[what] += 1
    return "job-" + hashlib.sha256(f"{what} {twins[what]}".encode()).hexdigest()[:32]


class _Running:
    """What the queue calls to run a job: as `creche.run`, but what is printed goes to the listener and is not kept."""

    def __init__(self, listener: Listener, known: set[str]) -> None:
        self._listener = listener
        self._known = known
        self._impossible: UnsupportedError | CgroupError | None = None
        self._found = anyio.Event()
        self.seen: set[str] = set()  #: keys of the jobs that ended here

    async def until_impossible(self) -> None:
        """Raises what stands in the way of all of them, as soon as that is known."""
        await self._found.wait()
        assert self._impossible is not None
        raise self._impossible

    async def __call__(
        self, spec: Spec, *, input: bytes | None, timeout: float | None, max_output: int | None
    ) -> Result:
        key, command = spec.name, spec.command
        assert key is not None and command is not None
        if key not in self._known:  # an earlier run left it, and its name comes with its result
            self._listener.found(key, shlex.join(command))
        try:
            return Result(await self._run(key, spec, timeout, max_output))
        except (UnsupportedError, CgroupError) as error:
            self._impossible = error
            self._found.set()
            await (
                anyio.sleep_forever()
            )  # the queue is left now, and keeps the job: it is not the job's failure
            raise AssertionError from error

    async def _run(self, key: str, spec: Spec, timeout: float | None, most: int | None) -> Exit:
        box = Container(spec)
        why: Reason | None = None  # what we killed it for, if we did
        began, written = False, 0
        end = Exit(None, signal.SIGKILL, Reason.TIMEOUT)  # unless it begins

        async def relay(stream: str) -> None:
            nonlocal written, why
            pipe = box.stdout if stream == "out" else box.stderr
            assert pipe is not None
            async for line in pipe.lines("utf-8", max=4096):
                written += len(line) + 1
                if most is not None and written > most:
                    why = why or Reason.OUTPUT_LIMIT
                    box.kill()
                    return
                await self._listener.wrote(key, stream, str(line))

        try:
            with anyio.move_on_after(math.inf if timeout is None else timeout) as time:
                async with box:
                    began = True
                    self._listener.started(key)
                    async with anyio.create_task_group() as readers:
                        readers.start_soon(relay, "out")
                        readers.start_soon(relay, "err")
                        await box
                        # Its last words are in the pipes; but whoever is dead no longer keeps us waiting.
                        readers.cancel_scope.deadline = anyio.current_time() + 2
            if time.cancelled_caught:
                why = why or Reason.TIMEOUT
        finally:  # also when we are cancelled: the block has killed it, and its end can be told
            if began and box.exit is not None:
                end = box.exit if why is None else attrs.evolve(box.exit, reason=why)
            if began or why is not None:
                self.seen.add(key)
                self._listener.ended(key, end)
        return end
