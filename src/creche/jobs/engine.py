"""The loop of a job queue: finished tries in, the next ones out, each turn in one transaction."""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

import anyio
import anyio.abc
from attrs import define, evolve, field, frozen

from creche.errors import FileError
from creche.jobs import schema
from creche.jobs.owners import Owner
from creche.jobs.payload import Folder, Payload, dump_result
from creche.jobs.policy import Again, Candidate, Room, Tried, choose, is_lost, judge
from creche.jobs.store import Store
from creche.jobs.values import Outcome
from creche.results import Result
from creche.spec import Spec

_log = logging.getLogger("creche.jobs")

AHEAD = 16
"""How many candidates of each key are known at a time."""
REST = 1.0
"""Seconds before what the store could not take is offered again."""

Runner = Callable[..., Awaitable[Result]]


class Host(Protocol):
    """What the engine needs of its queue."""

    room: Room
    memory: int | None
    keep: int | None
    random: Callable[[], float]
    clock: Callable[[], float]
    runner: Runner

    def per_key(self, key: str) -> int | None: ...
    def payload(self, row: sqlite3.Row) -> Payload: ...
    def changed(self, finished: list[int]) -> None: ...
    def forgotten(self, number: int) -> None: ...


@frozen
class Try:
    """One attempt that runs."""

    id: int
    attempt: int
    candidate: Candidate
    payload: Payload
    tried: Tried
    scope: anyio.CancelScope


@frozen
class Done:
    """One attempt that has ended: with a result, an error, a cancellation (`cancelled`), or by leaving (`left`)."""

    work: Try
    result: Result | None = None
    error: Exception | None = None
    cancelled: bool = False
    left: bool = False


@define
class Engine:
    """Runs jobs while its `run` does."""

    host: Host
    store: Store
    owner: Owner
    folder: Folder
    seen: int
    """The number of the last finished job that was told."""
    tries: dict[int, Try] = field(factory=dict, init=False)
    _running: Counter[str] = field(factory=Counter, init=False)
    _cancelled: set[int] = field(factory=set, init=False)
    _done: list[Done] = field(factory=list, init=False)
    _queued: dict[str, list[Candidate]] = field(factory=dict, init=False)
    _stale: set[str] = field(factory=set, init=False)
    _unread: set[str] = field(factory=set, init=False)
    _look_again: float = field(default=0.0, init=False)
    _due: float | None = field(default=None, init=False)
    _served: dict[str, int] = field(factory=dict, init=False)
    _turns: int = field(default=0, init=False)
    _finished: tuple[list[int], int] = field(default=([], 0), init=False)
    _wake: anyio.Event = field(factory=anyio.Event, init=False)

    def news(self, *keys: str) -> None:
        """There is something new in these keys' queues."""
        self._stale.update(keys)
        self._wake.set()

    def cancel(self, number: int) -> bool:
        """Cancel a job that runs here; False where it does not."""
        work = self.tries.get(number)
        if work is not None:
            self._cancelled.add(number)
            work.scope.cancel()
        return work is not None

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Until it is cancelled: then what runs is ended, and goes back into the queue."""
        try:
            async with anyio.create_task_group() as tasks:
                task_status.started()
                while True:
                    await self._turn(tasks)
                    await self._rest()
        finally:
            with anyio.CancelScope(shield=True):
                await self._commit_what_is_left()

    async def _rest(self) -> None:
        now = self.host.clock()
        due = min(self._look_again, self._due if self._due is not None else self._look_again)
        with anyio.move_on_after(max(due - now, 0.0)):
            await self._wake.wait()

    async def _turn(self, tasks: anyio.abc.TaskGroup) -> None:
        self._wake = anyio.Event()
        done, self._done = self._done, []
        stale, self._stale = self._stale, set()
        room = self.host.room
        for work in self.tries.values():
            room = room.less(work.candidate)
        for ended in done:
            room = room.less(ended.work.candidate, -1)
        if any(ended.left for ended in done):
            room = evolve(room, jobs=0)  # we are being left, and may just not have noticed yet
        try:
            with anyio.CancelScope(shield=True):
                claimed = await self.store.do(partial(self._statements, done=done, stale=stale, room=room))
        except FileError as error:
            # A full disk, say. What ended stays here, its room taken, until it can be written down.
            _log.error("the queue could not be written, and is tried again in %g s: %s", REST, error)
            self._done = done + self._done
            self._queued.clear()
            self._look_again = 0.0
            await anyio.sleep(REST)
            return
        for ended in done:
            del self.tries[ended.work.id]
            self._running[ended.work.candidate.key] -= 1
            self._cancelled.discard(ended.work.id)
        for candidate, row in claimed:
            payload, unreadable = self._payload(row)
            tried = Tried(row["failed"] + 1, row["lost"] + 1, row["memory"])
            work = Try(row["id"], row["attempt"], candidate, payload, tried, anyio.CancelScope())
            self.tries[work.id] = work
            self._running[candidate.key] += 1
            if unreadable is None:
                tasks.start_soon(self._try, work)
            else:
                self._done.append(Done(work, error=unreadable))
                self._wake.set()
        self._tell()

    def _tell(self) -> None:
        """What has been committed is told; what was undone never gets here."""
        finished, self.seen = self._finished
        self.host.changed(finished)

    def _payload(self, row: sqlite3.Row) -> tuple[Payload, Exception | None]:
        """A job's payload; where it can't be read (another version of creche wrote it), why not."""
        try:
            return self.host.payload(row), None
        except Exception as error:  # noqa: BLE001 - whatever is in the file must not stop the other jobs
            return Payload(spec=Spec(["false"])), error

    async def _try(self, work: Try) -> None:
        payload = work.payload
        result: Result | None = None
        error: Exception | None = None
        ended = False
        try:
            with work.scope:
                spec = payload.spec
                if work.tried.memory is not None and work.tried.memory != spec.limits.memory:
                    spec = evolve(spec, limits=evolve(spec.limits, memory=work.tried.memory))
                try:
                    result = await self.host.runner(
                        spec, input=payload.input, timeout=payload.timeout, max_output=payload.max_output
                    )
                except Exception as raised:  # noqa: BLE001 - whatever a runner raises is the job's outcome
                    error = raised
                ended = True
        finally:
            # Either it ended (the scope catches its own cancellation), or all of us are leaving.
            asked = work.id in self._cancelled and not ended
            self._done.append(Done(work, result, error, cancelled=asked, left=not ended and not asked))
            self._wake.set()

    async def _commit_what_is_left(self) -> None:
        if self._done:
            done, self._done = self._done, []
            nothing = evolve(self.host.room, jobs=0)
            try:
                await self.store.do(partial(self._statements, done=done, stale=set(), room=nothing))
                self._tell()
            except FileError as error:
                _log.error("what ran when the queue was left could not be written: %s", error)
        for work in self.tries.values():
            self._running[work.candidate.key] -= 1
        self.tries.clear()

    # -- in the store's thread, inside a transaction -----------------------------------------------------------------

    def _statements(
        self, conn: sqlite3.Connection, *, done: list[Done], stale: set[str], room: Room
    ) -> list[tuple[Candidate, Any]]:
        now = self.host.clock()
        stale, self._unread = stale | self._unread, set()
        for ended in done:
            stale |= self._write_down(conn, ended, now)
        woken, self._due = schema.wake(conn, now)
        stale |= woken
        if now >= self._look_again:
            stale |= self._look_around(conn, now)
        for key in stale:
            self._queued.pop(key, None)
        self._finished = (schema.finished_ids(conn, self.seen), schema.last(conn))
        if done and self.host.keep is not None:
            self.forget(conn, schema.last(conn) - self.host.keep)
        if room.jobs <= 0:
            self._unread = stale
            return []
        running = self._running - Counter(ended.work.candidate.key for ended in done)
        return self._claim(conn, stale, room, running, now)

    def forget(self, conn: sqlite3.Connection, upto: int) -> int:
        """Delete the results up to the `upto`th, with their files; how many there were."""
        gone = schema.forget(conn, upto)
        for number, attempt in gone:
            self.folder.sweep(number, attempt)
            self.host.forgotten(number)
        return len(gone)

    def _look_around(self, conn: sqlite3.Connection, now: float) -> set[str]:
        """From time to time: our lease, the jobs of the dead, and what other processes have submitted."""
        self.owner.renew(conn, now)
        stale: set[str] = set()
        for dead in self.owner.dead(conn, now):
            for row in schema.recover(conn, dead):
                self.folder.sweep(row["id"], row["attempt"])
                stale.add(row["key"])
                if row["lost"] > self._payload(row)[0].retry.lost:
                    why = dump_result(None, "its supervisor died while it ran, more often than allowed")
                    stale |= schema.end(conn, row["id"], Outcome.LOST, {"result": why}, now)
        self._look_again = now + self.owner.lease / 3
        present = set(schema.keys(conn))
        self._served = {
            key: turn for key, turn in self._served.items() if key in present or self._running[key]
        }
        return stale | present

    def _claim(
        self, conn: sqlite3.Connection, stale: set[str], room: Room, running: Counter[str], now: float
    ) -> list[tuple[Candidate, Any]]:
        claimed: list[tuple[Candidate, Any]] = []
        while True:
            for key in stale:
                if jobs := schema.queued(conn, key, max(AHEAD, room.jobs)):
                    self._queued[key] = jobs
            stale = set()
            chosen = choose(self._queued, room, running, self.host.per_key, self._served)
            for job in chosen:
                row = schema.claim(conn, job.id, self.owner.id, now)
                left = self._queued[job.key]
                left.remove(job)
                if not left:
                    del self._queued[job.key]
                    stale.add(job.key)  # there may be more of it than we know
                self._turns += 1
                self._served[job.key] = self._turns
                if row is not None:
                    claimed.append((job, row))
                    running[job.key] += 1
                    room = room.less(job)
            if not chosen or not stale or room.jobs <= 0:
                self._unread = stale
                return claimed

    def _write_down(self, conn: sqlite3.Connection, ended: Done, now: float) -> set[str]:
        work, result, error = ended.work, ended.result, ended.error
        if not schema.held(conn, work.id, work.attempt, self.owner.id):
            return set()  # our lease ran out meanwhile: another attempt has begun, and its word counts
        if ended.left:
            return {schema.release(conn, work.id)}
        if ended.cancelled:
            return schema.end(
                conn, work.id, Outcome.CANCELLED, {"result": dump_result(None, "it was cancelled")}, now
            )
        exit = result.exit if result is not None else None
        tried = work.tried
        lost = is_lost(exit, error)
        tried = Tried(tried.failed - lost, tried.lost - (not lost), tried.memory)
        verdict = judge(exit, error, tried, work.payload.retry, self.host.memory, self.host.random)
        if isinstance(verdict, Again):
            schema.again(conn, work.id, now + verdict.delay, verdict.memory, verdict.lost)
            return set()
        said = f"{type(error).__name__}: {error}" if error is not None else None
        kept: dict[str, Any] = {"result": dump_result(result, said)}
        if result is not None:
            for name in ("stdout", "stderr"):
                kept[name] = self.folder.keep(work.id, work.attempt, name, getattr(result, name))
        return schema.end(conn, work.id, verdict.outcome, kept, now)
