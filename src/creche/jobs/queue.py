"""JobQueue: commands that wait for their turn, in memory or in a file that survives its supervisor."""

from __future__ import annotations

import os
import random as _random
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.abc
from attrs import evolve, frozen

from creche.errors import CrecheError, SpecError
from creche.jobs import schema
from creche.jobs.engine import Engine, Runner
from creche.jobs.owners import Owner
from creche.jobs.payload import Folder, Payload, load_result, tag_of
from creche.jobs.policy import Room
from creche.jobs.store import Store
from creche.jobs.values import JobResult, JobState, Outcome, Progress, Retry
from creche.running import MAX_OUTPUT, check_options, run
from creche.shielded import finish
from creche.spec import Spec
from creche.spec.rules import check_answered
from creche.supervisor.restarts import seconds
from creche.units import size as bytes_of


def _finished_and_left(conn: sqlite3.Connection, since: int) -> tuple[list[sqlite3.Row], bool]:
    return schema.finished(conn, since, PAGE), schema.left(conn)


PAGE = 64  # finished jobs that are read at a time


@frozen
class Job:
    """A submitted job: its number, and whether it is new (not if its idempotency key was known)."""

    id: int
    new: bool
    _queue: JobQueue

    async def result(self) -> JobResult:
        """Wait until it is finished."""
        return await self._queue.result(self.id)

    async def cancel(self) -> bool:
        """As `JobQueue.cancel`."""
        return await self._queue.cancel(self.id)


class JobQueue:
    """Runs jobs, each in a container of its own, as many at a time as there is room for.

    >>> async with JobQueue("jobs.db", workers=2) as queue:
    ...     await queue.submit(["make", "-C", "/src"], limits=Limits(memory="1G"), retry=Retry(attempts=3))
    ...     async for result in queue.results():
    ...         print(result.id, result.outcome, result.exit)

    - `path`: the file (SQLite) that keeps jobs and results; None keeps them in memory. With a file, what was
      submitted survives a `kill -9` of this process at any moment: each job is run at least once, and a try that
      died with its supervisor is counted in `JobResult.lost`. Several processes may share a file.
    - `workers`: jobs at a time; the processors there are by default. `memory` (bytes or "2G") and `cpus`: what all
      running jobs may declare together, by their limits or at `submit`.
    - `per_key`: how many jobs of each key run at once, as one number or a mapping.
    - `retry`: for jobs that give none. `inline`: output beyond so many bytes lies in files beside the queue's.
    - `keep`: how many finished jobs are kept, the latest; None keeps all.
    - `lease`: seconds after which a process that shares the file and does nothing any more loses its jobs.
    - `synchronous`: "normal" holds against the death of processes; "full" against power cuts as well, for an fsync(2)
      each time something is written down.
    - `runner`: what runs a job, `creche.run` by default.

    Leaving the block ends what runs; with a file it goes back into the queue. `join()` before that waits for all.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        workers: int | None = None,
        memory: int | str | None = None,
        cpus: float | None = None,
        per_key: int | Mapping[str, int] | None = None,
        retry: Retry | None = None,
        runner: Runner = run,
        inline: int = 64 * 1024,
        keep: int | None = None,
        lease: float = 30.0,
        synchronous: str = "normal",
        random: Callable[[], float] = _random.random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if workers is None:
            workers = len(os.sched_getaffinity(0))
        if isinstance(workers, bool) or workers < 1:
            raise SpecError("queue.workers", workers, "give a number of at least 1")
        if synchronous not in ("normal", "full"):
            raise SpecError("queue.synchronous", synchronous, "give 'normal' or 'full'")
        seconds("queue", "lease", lease, least=0.1)
        self.path = Path(path) if path is not None else None
        self.memory = None if memory is None else bytes_of(memory, "queue.memory")
        self.room = Room(jobs=workers, memory=self.memory, cpus=cpus)
        self.random = random
        self.clock = clock
        self.runner = runner
        self._per_key = per_key
        self._retry = retry or Retry()
        self.keep = keep
        beside = (lambda end: self.path.with_name(self.path.name + end)) if self.path else (lambda end: None)
        self._folder = Folder(beside(".out"), inline, synced=synchronous == "full")
        self._owner = Owner(beside(".owners"), lease)
        self._store = Store(self.path, synchronous)
        self._objects: dict[int, Payload] = {}
        self._waiting: dict[int, anyio.Event] = {}
        self._used = False
        self._open = False
        self._began = 0

    # -- the block -------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._used:
            raise CrecheError("a JobQueue is entered once: make another one")
        self._used = True
        try:
            await self._store.open()
            self._owner.lock()
            self._began = await self._store.do(self._begin)
            self._changed = anyio.Event()
            self._engine = Engine(self, self._store, self._owner, self._folder, self._began)
            self._tasks = anyio.create_task_group()
            await self._tasks.__aenter__()
            with anyio.CancelScope(shield=True):
                await self._tasks.start(self._engine.run)
        except BaseException:
            self._owner.unlock()
            await finish(self._store.close)
            raise
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        self._tasks.cancel_scope.cancel()
        try:
            # The body's own exception goes its way unwrapped: the task group hears only of its own tasks.
            await self._tasks.__aexit__(None, None, None)
        finally:
            try:
                await finish(self._leave)
            finally:
                self._owner.unlock()
                self.changed(tuple(self._waiting))

    async def _leave(self) -> None:
        if self._store.is_open:
            await self._store.do(
                lambda conn: conn.execute("DELETE FROM owners WHERE id = ?", (self._owner.id,))
            )
        await self._store.close()

    def _begin(self, conn: sqlite3.Connection) -> int:
        self._owner.renew(conn, self.clock())
        return schema.last(conn)

    def _alive(self) -> None:
        if not self._open:
            raise CrecheError("use a JobQueue inside its block: async with JobQueue(…) as queue")

    # -- submitting --------------------------------------------------------------------------------------------------

    async def submit(
        self,
        command: Sequence[str] | Spec,
        *,
        input: bytes | None = None,
        timeout: float | None = None,
        max_output: int | None = MAX_OUTPUT,
        priority: int = 0,
        key: str = "",
        after: Iterable[Job | int] = (),
        once: str | None = None,
        memory: int | str | None = None,
        cpus: float | None = None,
        retry: Retry | None = None,
        tag: Any = None,
        **spec_fields: Any,
    ) -> Job:
        """Put a job into the queue; when this returns, it is kept.

        - `command`, `input`, `timeout`, `max_output` and the fields of a Spec: as for `creche.run`.
        - `priority`: higher goes first. `key`: whose it is; keys share fairly, and have limits (`per_key`).
        - `after`: jobs that have to end well before it starts; if one does not, it is cancelled.
        - `once`: an idempotency key. A job with this key that is known already is returned instead, and not run again.
        - `memory`, `cpus`: what it counts for where the queue has bounds; its limits by default, and one processor.
        - `tag`: anything (JSON, with a file) that comes back in its JobResult.

        Raises SpecError for nonsense and for what never fits, FileError where it cannot be written.
        """
        self._alive()
        spec = evolve(command, **spec_fields) if isinstance(command, Spec) else Spec(command, **spec_fields)
        check_answered(spec)
        check_options(input, timeout, max_output)
        if spec.command is None:
            raise SpecError("command", None, "a job needs one")
        payload = Payload(
            spec=spec,
            input=input,
            timeout=timeout,
            max_output=max_output,
            retry=retry or self._retry,
            tag=tag,
        )
        size = None if memory is None else bytes_of(memory, "memory")
        job = {
            "once": once,
            "key": key,
            "priority": priority,
            "memory": size if size is not None else spec.limits.memory,
            "cpus": cpus if cpus is not None else (spec.limits.cpus or 1.0),
            "payload": payload.dump() if self.path is not None else "",
        }
        self._check_fit(job)
        before = [other.id if isinstance(other, Job) else other for other in after]
        try:
            number, new, _ = await self._store.do(lambda conn: self._submit(conn, job, before, payload))
        except LookupError as error:
            raise SpecError("after", error.args[0], "there is no such job") from None
        finally:
            self._engine.news(key)  # also if we are cancelled, since it may just have been written down
        return Job(number, new, self)

    def _submit(
        self, conn: sqlite3.Connection, job: dict[str, Any], after: list[int], payload: Payload
    ) -> tuple[int, bool, str | None]:
        told = schema.submit(conn, job, after, self.clock())
        if self.path is None and told[1]:
            self._objects[told[0]] = payload
        return told

    def _check_fit(self, job: dict[str, Any]) -> None:
        if self.room.memory is not None:
            if job["memory"] is None:
                raise SpecError(
                    "memory", None, "the queue's memory is bounded: give limits.memory, or memory="
                )
            if job["memory"] > self.room.memory:
                raise SpecError("memory", job["memory"], f"the queue has {self.room.memory}: it never fits")
        if self.room.cpus is not None and job["cpus"] > self.room.cpus:
            raise SpecError("cpus", job["cpus"], f"the queue has {self.room.cpus}: it never fits")

    async def map(
        self, commands: Iterable[Sequence[str] | Spec], *, window: int = 1000, **fields: Any
    ) -> AsyncIterator[JobResult]:
        """Submit each of `commands` with these fields, and give their results in the same order.

        At most `window` of them are submitted and not yet given, so that `commands` may be endless.
        """
        jobs: deque[Job] = deque()
        for command in commands:
            jobs.append(await self.submit(command, **fields))
            if len(jobs) >= window:
                yield await jobs.popleft().result()
        while jobs:
            yield await jobs.popleft().result()

    # -- what became of them ------------------------------------------------------------------------------------------

    async def results(self, *, since: int | None = None, forever: bool = False) -> AsyncIterator[JobResult]:
        """The results in the order in which jobs finish: those since the queue was opened, or after the `since`th.

        `since` is a `JobResult.seq`: keep the last one that you have dealt with, and you miss none over a restart.
        It ends when nothing is left to do, or with `forever=True` when the queue is left.
        """
        self._alive()
        at = self._began if since is None else since
        while True:
            changed = self._changed
            # Both in one look: what finishes between two would be missed.
            rows, left = await self._read(partial(_finished_and_left, since=at))
            for row in rows:
                at = row["seq"]
                yield self._result(row)
            if not self._open:
                return
            if not rows:
                if not left and not forever:
                    return
                await changed.wait()

    async def result(self, number: int) -> JobResult:
        """Wait until a job is finished. CrecheError where there is none with this number, or the queue is left first."""
        while True:
            self._alive()
            # Known before it is looked up, or what finishes in between would be missed.
            news = self._waiting.setdefault(number, anyio.Event())
            row = await self._read(
                lambda conn: conn.execute("SELECT * FROM jobs WHERE id = ?", (number,)).fetchone()
            )
            if row is None or row["state"] == JobState.FINISHED:
                self._waiting.pop(number, news)
                news.set()  # for others who wait for the same one
            if row is None:
                raise CrecheError(f"there is no job {number} (finished ones may have been forgotten)")
            if row["state"] == JobState.FINISHED:
                return self._result(row)
            await news.wait()

    async def cancel(self, number: int) -> bool:
        """Cancel a job: out of the queue, or ended if it runs here. False where it is finished, or runs elsewhere."""
        self._alive()
        state = await self._store.do(lambda conn: schema.cancel(conn, number, self.clock()))
        if state is None:
            raise CrecheError(f"there is no job {number}")
        if state is JobState.RUNNING:
            return self._engine.cancel(number)
        self._engine.news()
        return state is not JobState.FINISHED

    async def progress(self) -> Progress:
        """How far it has come."""
        self._alive()
        states, ended = await self._read(schema.counts)
        outcomes = {outcome: ended[outcome.value] for outcome in Outcome if ended.get(outcome.value)}
        return Progress(
            blocked=states.get(JobState.BLOCKED, 0),
            queued=states.get(JobState.QUEUED, 0),
            running=states.get(JobState.RUNNING, 0),
            delayed=states.get(JobState.DELAYED, 0),
            finished=sum(outcomes.values()),
            outcomes=outcomes,
        )

    async def join(self) -> None:
        """Wait until nothing is left to do."""
        while True:
            changed = self._changed
            self._alive()
            if not await self._read(schema.left):
                return
            await changed.wait()

    async def forget(self, upto: int) -> int:
        """Delete the results up to the `upto`th (a `JobResult.seq`), with their files; how many there were."""
        gone = await self._store.do(lambda conn: self._engine.forget(conn, upto))
        return gone

    async def _read(self, statements: Callable[[sqlite3.Connection], Any]) -> Any:
        return await self._store.do(statements)

    def _result(self, row: sqlite3.Row) -> JobResult:
        payload = self._objects.get(row["id"])
        return load_result(row, self._folder, payload.tag if payload is not None else tag_of(row["payload"]))

    # -- a host to the engine ------------------------------------------------------------------------------------------

    def per_key(self, key: str) -> int | None:
        """How many jobs of a key may run at once."""
        return self._per_key.get(key) if isinstance(self._per_key, Mapping) else self._per_key

    def payload(self, row: sqlite3.Row) -> Payload:
        """A job's payload."""
        return self._objects[row["id"]] if self.path is None else Payload.load(row["payload"])

    def forgotten(self, number: int) -> None:
        """A job is kept no more."""
        self._objects.pop(number, None)

    def changed(self, finished: Iterable[int] = ()) -> None:
        """Whoever waits for these jobs, or for any, looks again."""
        for number in finished:
            if (event := self._waiting.pop(number, None)) is not None:
                event.set()
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
