"""Pool: containers made ahead of time and handed out, so that a run costs a command and not a start."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal, Self

import anyio
import anyio.abc
from attrs import evolve, frozen

from .container import Container
from .errors import CrecheError, SpecError
from .lifecycle import State
from .machine import probe
from .plan.nesting import check_forkable
from .plan.renewal import check_renewable
from .results import Result
from .shielded import finish
from .spec.checks import Whole
from .spec.spec import Spec
from .units import seconds
from .warm.calling import words_of_call
from .warm.forked import Forked
from .warm.warm import ForkServer, PythonWarm, Template

__all__ = ["Pool", "PoolStatistics"]

_RETRY = (0.05, 0.2, 1.0, 5.0)  # seconds before the next try to make one, while making fails


@frozen(kw_only=True)
class PoolStatistics:
    """The figures of a pool at one moment."""

    ready: int  #: containers that wait to be handed out
    starting: int  #: being made, or reset
    leased: int
    waiting: int  #: tasks that wait for one
    made: int  #: since the pool was entered
    reset: int  #: handed back and made ready again
    failed: int  #: starts that failed, or that `check` refused
    expired: int  #: thrown away for their age, found dead, or broken by their guest
    served: int  #: times that one was handed out
    refused: int  #: tasks turned away, since `backlog` others waited
    waited: float  #: seconds that the tasks served so far have waited, together
    longest_wait: float  #: seconds that one of them has waited


class Pool:
    """Keeps `size` containers ready, and no guest finds anything of another's.

    ``async with pool.acquire() as box`` gives a Container that is a place (no main command); ``await pool.run(command)`` does
    that for one command. With ``reuse="never"`` leaving the block ends it, and another is made in the background. With
    ``reuse="reset"`` it is `Container.reset` in the background, for less, and handed out again: the same object, so keep no
    hold of it beyond the block. At most `maximum` are alive at a time, ready and handed out together; who comes when none is left
    waits, first come first served. One that is older than `ttl` seconds is replaced, since what it sees of the host may have changed.

    Where nobody has come for `idle` seconds, no more than `minimum` (by default `size`) are kept ready; who comes then has the whole
    `size` made again. While `maximum` are in use, as many tasks as `backlog` may wait (None: no bound); who comes then gets a CrecheError
    at once.

    `check` is awaited with each container before it is ready, after its start and after each reset, and every `check_interval`
    seconds while it is: where it gives False or raises, that one is thrown away. Those that have died are found then, too, also
    without a `check`. A start that fails is raised to the task that waits longest, and tried again after a while.

    With `warm` each container is forked from a template that has Python and its imports loaded and never runs a guest's code: `run` and
    `call` then pay for neither. The command that was forked is confined as any other; a container has one, and ends with its block.

    Raises SpecError, and UnsupportedError for ``reuse="reset"`` with a Spec of which something would stay, for `warm` with one that
    can't be forked.

    >>> async with Pool(Spec(limits=Limits(memory="256M")), size=4) as pool:
    ...     result = await pool.run(["python3", "-c", "print(6*7)"], timeout=5)
    """

    def __init__(
        self, spec: Spec, size: int = 4, *, reuse: Literal["never", "reset"] = "never", maximum: int | None = None, ttl: float | None = None,
        check: Callable[[Container], Awaitable[bool]] | None = None, check_interval: float = 30.0, minimum: int | None = None,
        idle: float = 60.0, backlog: int | None = None, warm: ForkServer | PythonWarm | None = None,
    ) -> None:  # fmt: skip
        if not isinstance(spec, Spec):
            raise SpecError("spec", spec, "give a Spec without a command")
        if spec.command is not None:
            raise SpecError("spec.command", spec.command, "a pool's containers are places: give the command to run()")
        if reuse not in ("never", "reset"):
            raise SpecError("reuse", reuse, 'give "never" (each container is used once) or "reset"')
        if reuse == "reset":
            check_renewable(spec)
        self.spec = spec if spec.tty is None else evolve(spec, tty=None)
        self.reuse = reuse
        self._template: Template | None = None
        if warm is not None:
            if not isinstance(warm, (ForkServer, PythonWarm)):
                raise SpecError("warm", warm, 'give a PythonWarm, such as PythonWarm(imports=["json"])')
            if reuse != "never":
                raise SpecError("reuse", reuse, 'what a template forked is used once: give "never"')
            check_forkable(spec, probe())
            self._template = Template(self.spec, warm)
        self.size = Whole(1, 100_000, "a number of containers")(size, "size")
        self.maximum = Whole(self.size, 1_000_000, "a number that is not below size")(maximum, "maximum") if maximum is not None else max(64, 4 * self.size)
        self.ttl = None if ttl is None else seconds(ttl, "ttl")
        self.minimum = self.size if minimum is None else Whole(0, self.size, "a number that is not above size")(minimum, "minimum")
        self.idle = seconds(idle, "idle")
        self.backlog = None if backlog is None else Whole(0, 1_000_000, "a number of tasks, or None for no bound")(backlog, "backlog")
        self.check_interval = seconds(check_interval, "check_interval")
        if not self.check_interval:
            raise SpecError("check_interval", check_interval, "give seconds above zero")
        self._check = check
        self._born: dict[Container, float] = {}
        self._looked: dict[Container, float] = {}
        self._ready: deque[Container] = deque()
        self._waiters: deque[_Waiter] = deque()
        self._starting = self._leased = self._made = self._reset = self._failed = self._expired = 0
        self._failures = 0  # in a row
        self._served = self._refused = 0
        self._waited = self._longest = 0.0
        self._asked = 0.0  # when somebody came last, by time.monotonic
        self._tasks: anyio.abc.TaskGroup | None = None
        self._state = State.NEW
        self._news: anyio.Event | None = None

    # ---- its life ----

    async def __aenter__(self) -> Self:
        if self._state is not State.NEW:
            raise CrecheError(f"the pool can't be entered: {self._state.value}")
        self._state = State.RUNNING
        self._asked = time.monotonic()
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self._keep)
        return self

    async def __aexit__(self, *error: Any) -> bool | None:
        assert self._tasks is not None
        self._state = State.CLOSED
        for waiter in self._waiters:
            waiter.give(CrecheError("the pool was closed"))
        self._waiters.clear()
        self._tasks.cancel_scope.cancel()
        try:
            return await self._tasks.__aexit__(*error)
        finally:
            await finish(self._throw_all)

    async def _throw_all(self) -> None:
        while self._ready:
            await self._throw(self._ready.popleft())
        if self._template is not None:
            await self._template.aclose()

    async def _keep(self) -> None:
        """Start what is missing; replace what is too old, let go of what nobody wants, look at what waits."""
        assert self._tasks is not None
        while True:
            for box in [box for box in self._ready if self._is_old(box)]:
                await self._retire(box)
            while len(self._ready) > self._wanted() and self._is_idle():
                await self._retire(self._ready[0])
            for box in [box for box in self._ready if time.monotonic() >= self._looked[box] + self.check_interval]:
                self._ready.remove(box)
                self._starting += 1
                self._tasks.start_soon(self._once_more, box, False)
            coming = len(self._ready) + self._starting
            alive = coming + self._leased
            if self.reuse == "reset":  # those that are out come back
                missing = max(self._wanted() - alive, len(self._waiters) - self._starting)
            else:
                missing = self._wanted() + len(self._waiters) - coming
            for _ in range(min(missing, self.maximum - alive)):
                self._starting += 1
                self._tasks.start_soon(self._start)
            self._news = anyio.Event()
            alarm = self._alarm()
            with anyio.move_on_after(None if alarm is None else max(0.01, alarm - time.monotonic())):
                await self._news.wait()

    def _is_idle(self) -> bool:
        return time.monotonic() >= self._asked + self.idle

    def _wanted(self) -> int:
        return self.minimum if self._is_idle() else self.size

    def _alarm(self) -> float | None:
        """When something is due that no event tells of; None where nothing is."""
        moments = [self._looked[box] + self.check_interval for box in self._ready]
        if self.ttl is not None:
            moments += [self._born[box] + self.ttl for box in self._ready]
        if len(self._ready) > self.minimum:
            moments.append(self._asked + self.idle)
        return min(moments, default=None)

    async def _retire(self, box: Container) -> None:
        if box in self._ready:  # it may be handed out while another ends
            self._ready.remove(box)
            self._expired += 1
            await self._throw(box)

    def _look(self) -> None:
        if self._news is not None:
            self._news.set()

    async def _start(self) -> None:
        try:
            if self._failures:
                await anyio.sleep(_RETRY[min(self._failures, len(_RETRY)) - 1])
            box = await (Container(self.spec) if self._template is None else Forked(self.spec, self._template)).__aenter__()
            self._born[box] = self._looked[box] = time.monotonic()
            await self._checked(box)
        except (CrecheError, OSError) as error:
            self._failed += 1
            self._failures += 1
            if self._waiters:
                self._waiters.popleft().give(error)
        else:
            self._made += 1
            self._failures = 0
            if self._state is State.RUNNING:
                self._offer(box)
            else:
                await self._throw(box)
        finally:
            self._starting -= 1
            self._look()

    async def _checked(self, box: Container) -> None:
        """Have the user's check look at it; it is thrown away where that refuses, or is cancelled."""
        if self._check is None:
            return
        try:
            if not await self._check(box):
                raise CrecheError("the pool's check refused a container")
        except BaseException as error:
            await self._throw(box)
            if isinstance(error, Exception) and not isinstance(error, CrecheError):
                raise CrecheError(f"the pool's check failed: {error!r}") from error
            raise

    async def _once_more(self, box: Container, was_leased: bool) -> None:
        """Look at one that waits, or make one that was handed back as it was at its start: it goes to the others, or away.

        Away where it is dead, or its guest has made a reset impossible; and of those handed back, what is old or too many.
        """
        try:
            if was_leased:
                await box.reset()
            elif box.exit is not None:
                raise CrecheError("it died while it waited")
            await self._checked(box)
        except BaseException as error:
            self._expired += 1
            await self._throw(box)
            if not isinstance(error, (CrecheError, OSError)):
                raise
        else:
            self._reset += was_leased
            surplus = was_leased and (self._is_old(box) or (not self._waiters and len(self._ready) >= self.size))
            if self._state is State.RUNNING and not surplus:
                self._offer(box)
            else:
                await self._throw(box)
        finally:
            self._starting -= 1
            self._look()

    def _is_old(self, box: Container) -> bool:
        return self.ttl is not None and time.monotonic() - self._born[box] > self.ttl

    def _offer(self, box: Container) -> None:
        if self._waiters:
            self._leased += 1  # from here on, though the task that gets it has not run yet
            self._waiters.popleft().give(box)
        else:
            self._looked[box] = time.monotonic()
            self._ready.append(box)

    async def _throw(self, box: Container) -> None:
        self._looked.pop(box, None)
        if self._born.pop(box, None) is not None:
            with anyio.CancelScope(shield=True):
                await box.__aexit__()

    # ---- what users call ----

    @contextlib.asynccontextmanager
    async def acquire(self) -> AsyncIterator[Container]:
        """A container of the pool, for the time of the block; what the start of one raises, where that fails."""
        box = await self._take()
        try:
            yield box
        finally:
            self._leased -= 1
            if self.reuse == "reset" and self._state is State.RUNNING and box.exit is None:
                assert self._tasks is not None
                self._starting += 1
                self._tasks.start_soon(self._once_more, box, True)
            else:
                self._look()  # its successor is made while it ends
                await self._throw(box)

    async def _take(self) -> Container:
        if self._state is not State.RUNNING:
            raise CrecheError(f"the pool has no containers: {'use it in its block' if self._state is State.NEW else self._state.value}")
        await anyio.lowlevel.checkpoint_if_cancelled()
        self._asked = time.monotonic()
        if not self._ready and self.backlog is not None and len(self._waiters) - (self.maximum - self._leased) >= self.backlog:
            self._refused += 1
            raise CrecheError(f"the pool is full: {self._leased} containers are in use and {len(self._waiters)} tasks wait; come later, or raise maximum or backlog")
        box = await self._next(self._waiters.append)
        while box.exit is not None:  # killed from outside while it was ready, or on its way here
            self._leased -= 1
            self._expired += 1
            await self._throw(box)
            box = await self._next(self._waiters.appendleft)  # it keeps its turn
        self._served += 1
        return box

    async def _next(self, queue: Callable[[_Waiter], None]) -> Container:
        """One that is leased from then on. Raises what its start did, and CrecheError in a pool that was closed."""
        self._look()
        if self._state is not State.RUNNING:
            raise CrecheError("the pool was closed")
        if self._ready:
            self._leased += 1
            return self._ready.popleft()
        waiter = _Waiter()
        queue(waiter)
        try:
            await waiter.event.wait()
        except BaseException:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            elif isinstance(waiter.got, Container):  # it came at the moment of the cancellation
                self._leased -= 1
                if self._state is State.RUNNING:
                    self._offer(waiter.got)
                else:
                    await self._throw(waiter.got)
            raise
        took = time.monotonic() - waiter.since
        self._waited += took
        self._longest = max(self._longest, took)
        if not isinstance(waiter.got, Container):
            raise waiter.got
        return waiter.got

    async def run(self, command: Any, **options: Any) -> Result:
        """Run one command in a container of the pool: `Container.run` with the same options.

        In a warm pool it is the template's interpreter that runs it, forked: ``["python3", "-c", …]``, ``["python3", "file.py"]``,
        ``["python3", "-m", "module"]``.
        """
        async with self.acquire() as box:
            return await (box.run_warm if isinstance(box, Forked) else box.run)(command, **options)

    async def call(self, function: Callable[..., Any] | str, *arguments: Any, max_result: int = 1 << 20, **options: Any) -> Any:
        """Call a Python function in a fork of a warm pool's template, and give what it returns.

        The function is not trusted: its source is sent (one that def made, without a closure), or it is "module:name" of one that is
        there inside. Arguments and result travel as JSON; a result has `max_result` bytes at most. `options` are those of
        `run`: timeout, max_output, env, cwd, ….

        Raises SpecError for what can't be sent, CallError for what it raises (or returns, where that is no JSON), and ExitError
        where it died or was killed, for memory or by `timeout`: its `exit` says which.

        >>> async with Pool(Spec(), warm=PythonWarm(imports=["json"])) as pool:
        ...     await pool.call(double, 21, timeout=5)
        """
        if self._template is None or not isinstance(self._template.warm, PythonWarm):
            raise CrecheError("the pool has no interpreter to call a function: give it warm=PythonWarm(…)")
        words_of_call(function, arguments, max_result)  # before a container is taken
        async with self.acquire() as box:
            assert isinstance(box, Forked)
            return await box.call(function, *arguments, max_result=max_result, **options)

    def statistics(self) -> PoolStatistics:
        """Its figures now."""
        return PoolStatistics(
            ready=len(self._ready), starting=self._starting, leased=self._leased, waiting=len(self._waiters), made=self._made,
            reset=self._reset, failed=self._failed, expired=self._expired, served=self._served,
            refused=self._refused, waited=self._waited, longest_wait=self._longest,
        )  # fmt: skip


class _Waiter:
    """A task that waits for a container, and what it is given."""

    def __init__(self) -> None:
        self.event = anyio.Event()
        self.since = time.monotonic()
        self.got: Container | BaseException = CrecheError("nothing was given")

    def give(self, what: Container | BaseException) -> None:
        self.got = what
        self.event.set()
