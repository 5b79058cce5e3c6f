"""One life of one child: made, watched until it is ready and while it is well, stopped within bounds, and recorded."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress
from typing import Any, Protocol

import anyio
import anyio.abc

from creche.errors import SpecError
from creche.results import Exit, Reason
from creche.spec import Spec
from creche.supervisor import events
from creche.supervisor.childspec import Box, ChildSpec, Hook
from creche.supervisor.notify import Notices, NotifySocket
from creche.supervisor.output import OutputLine, Printed
from creche.supervisor.probes import Line, Notify
from creche.supervisor.probing import until_ready, until_unhealthy

KILL_TIMEOUT = 10.0
"""Seconds that a container may take to die of a kill before its wait is given up."""
DRAIN_TIMEOUT = 1.0
"""Seconds for what is still in the pipes after the end, and on its way to the disk."""


class Home(Protocol):
    """What a life needs of its supervisor."""

    random: Callable[[], float]
    spawning: anyio.Semaphore

    def publish(self, event: events.Event) -> None: ...
    def make_box(self, spec: Spec, child: ChildSpec) -> Box: ...
    def became_ready(self, name: str) -> None: ...
    async def admit(self, life: Life) -> None: ...
    def settle(self, life: Life) -> None: ...
    def release(self, life: Life) -> None: ...
    def recycle(self, name: str, why: str) -> None: ...
    def view(self, name: str) -> Any: ...


class StartTimeout(Exception):
    """It was not ready within its `start_timeout`."""


class Life:
    """From the start to the record. `stop` and `kill` may be called at any time, and only once matter."""

    def __init__(self, name: str, number: int, spec: ChildSpec, home: Home, printed: Printed) -> None:
        self.name = name
        self.number = number
        self.spec = spec
        self.box: Any = None
        self.notices = Notices()
        self.started = anyio.current_time()
        self.ready: float | None = None
        self.asked = False
        self._home = home
        self._printed = printed
        self._scope = anyio.CancelScope()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._grace: anyio.CancelScope | None = None
        self._noticed = anyio.Event()
        self._found = anyio.Event()
        self._over = False
        self._why = ""
        self._error: BaseException | None = None
        self._exit: Exit | None = None

    # -- asked from outside ----------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ask it to end: politely, then not; while it is being made, the making is called off."""
        if self.asked:
            return
        self.asked = True
        self._end()

    def _end(self) -> None:
        if self._tasks is None:
            self._scope.cancel()
        elif not self._over and self._grace is None:
            self._grace = anyio.CancelScope(deadline=anyio.current_time() + self.spec.shutdown)
            self._tasks.start_soon(self._stop_politely, self._grace)

    def kill(self) -> None:
        """Spare the politeness, also of a stop that is under way."""
        self.stop()
        if self._grace is not None:
            self._grace.cancel()

    # -- the life ----------------------------------------------------------------------------------------------

    async def run(self) -> events.Record:
        """All of it. It raises nothing, and a cancellation from outside does not reach it: `stop` does."""
        record: events.Record
        self._printed.begin()
        with anyio.CancelScope(shield=True):
            try:
                with self._scope:
                    await self._live()
            except Exception as error:  # noqa: BLE001 - a factory, a hook or the kernel may raise anything: it is recorded
                self._fail("its start failed" if self.box is None else "", error)
            if self._scope.cancelled_caught and not self.asked and self._error is None:
                self._fail("", StartTimeout(f"it could not be made within {self.spec.start_timeout:g} s"))
            self._home.release(self)
            record = self._record()
            await self._hook("exit", self.spec.hooks.exit)
        return record

    def _fail(self, why: str, error: BaseException) -> None:
        self._why = self._why or why
        self._error = self._error or error

    def _record(self) -> events.Record:
        clean = self._error is None and not self._why
        if clean and self._exit is not None:
            clean = self._exit.reason is Reason.EXITED and self._exit.code in self.spec.success
        elif self.box is None:
            clean = False
        return events.Record(
            child=self.name,
            life=self.number,
            started=self.started,
            ready=self.ready,
            ended=anyio.current_time(),
            exit=self._exit,
            error=self._error,
            clean=clean,
            why=self._why,
            lines=tuple(self._printed.tail),
            asked=self.asked,
        )

    async def _live(self) -> None:
        asked = self.started
        await self._home.admit(self)
        self.started = anyio.current_time()
        waited = self.started - asked
        self._home.publish(events.ChildStarting(child=self.name, life=self.number, waited=waited))
        if self.spec.start_timeout is not None:
            self._scope.deadline = self.started + self.spec.start_timeout
        if not await self._hook("spawn", self.spec.hooks.spawn):
            return
        socket = NotifySocket.make() if self.spec.notifies else None
        try:
            async with self._in_turn(await self._make(socket)) as entered:
                self.box = entered
                self._scope.deadline = float("inf")
                await self._look_after(socket)
        finally:
            if socket is not None:
                socket.close()

    @asynccontextmanager
    async def _in_turn(self, box: Box) -> AsyncIterator[Any]:
        """A container that is being spawned holds twice what it holds then: of a thousand, so many are at a time."""
        async with AsyncExitStack() as stack:
            async with self._home.spawning if isinstance(self.spec.spec, Spec) else nullcontext():
                entered = await stack.enter_async_context(box)
            yield entered

    async def _make(self, socket: NotifySocket | None) -> Box:
        made = self.spec.spec
        if isinstance(made, Spec):
            if socket is not None:
                watchdog = self.spec.liveness.watchdog if isinstance(self.spec.liveness, Notify) else None
                self.notices = Notices(watchdog=watchdog)
                made = socket.into(made, watchdog)
            return self._home.make_box(made, self.spec)
        box = made()
        if inspect.isawaitable(box):
            box = await box
        if not hasattr(box, "__aenter__") or not hasattr(box, "wait"):
            raise SpecError("child.spec", box, f"{self.name}: the callable has to give a Container")
        return box

    async def _look_after(self, socket: NotifySocket | None) -> None:
        box = self.box
        self._home.publish(events.ChildSpawned(child=self.name, pid=getattr(box, "pid", None)))
        if isinstance(self.spec.readiness, Line):  # before anything is read
            self._printed.listeners.append(self._look_for)
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            streams = {name: getattr(box, name, None) for name in ("stdout", "stderr")}
            drains = [
                self._drain(name, stream, tasks) for name, stream in streams.items() if stream is not None
            ]
            if socket is not None:
                tasks.start_soon(self._listen, socket)
            tasks.start_soon(self._get_ready)
            try:
                self._exit = await self._wait(box)
            finally:
                self._over = True
                with anyio.move_on_after(DRAIN_TIMEOUT, shield=True):
                    for done in drains:
                        await done.wait()
                    await self._printed.written()
                tasks.cancel_scope.cancel()
                if self._look_for in self._printed.listeners:
                    self._printed.listeners.remove(self._look_for)

    async def _wait(self, box: Box) -> Exit | None:
        try:
            return await box.wait()
        except Exception as error:  # noqa: BLE001 - recorded; a supervisor that gave up ends so
            self._fail("", error)
            return None

    def _drain(self, name: str, stream: Any, tasks: anyio.abc.TaskGroup) -> anyio.Event:
        done = anyio.Event()

        async def drain() -> None:
            try:
                await self._printed.drain(name, stream)
            except OSError as error:  # reading failed: tell, and let the child live
                self._home.publish(events.OutputLost(child=self.name, lost=0, error=str(error)))
            finally:
                done.set()

        tasks.start_soon(drain)
        return done

    # -- becoming ready, and staying well ----------------------------------------------------------------------

    async def _get_ready(self) -> None:
        timeout = self.spec.start_timeout
        deadline = float("inf") if timeout is None else self.started + timeout
        with anyio.CancelScope(deadline=deadline) as starting:
            async with anyio.create_task_group() as group:
                group.start_soon(self._put_off, starting)
                await until_ready(self.spec.readiness, self)
                group.cancel_scope.cancel()
        if self._over or self.asked or self._why:
            return
        if starting.cancelled_caught:
            self._unwell(f"it was not ready within {timeout:g} s")
            return
        if not await self._hook("ready", self.spec.hooks.ready):
            self._unwell("its ready hook failed")
            return
        self.ready = anyio.current_time()
        self._home.settle(self)
        self._home.publish(events.ChildReady(child=self.name, after=self.ready - self.started))
        self._home.became_ready(self.name)
        if self._tasks is not None and (recycle := self.spec.recycle) is not None:
            if recycle.age is not None or recycle.memory is not None:
                self._tasks.start_soon(self._grow_old)
            if recycle.requests is not None:
                self._tasks.start_soon(self._serve_out, recycle.sooner(recycle.requests, self._home.random()))
        if self.spec.liveness is not None:
            self._unwell(await until_unhealthy(self.spec.liveness, self))

    async def _put_off(self, scope: anyio.CancelScope) -> None:
        """EXTEND_TIMEOUT_USEC: the child may ask for more time, within bounds, but cannot shorten it."""
        latest = scope.deadline + self.spec.extend
        while True:
            await self.notice()
            if self.notices.extend is not None:
                scope.deadline = max(scope.deadline, min(self.notices.extend, latest))

    def _unwell(self, why: str) -> None:
        """It is not well: it is stopped, and has fallen, however it ends."""
        if self.asked or self._over or self._why:
            return
        self._why = why
        self._home.publish(events.ChildUnhealthy(child=self.name, why=why))
        self._end()

    async def _grow_old(self) -> None:
        recycle = self.spec.recycle
        assert recycle is not None and self.ready is not None
        rest = float("inf")
        if recycle.age is not None:
            rest = self.ready + recycle.sooner(recycle.age, self._home.random())
        while True:
            now = anyio.current_time()
            if now >= rest:
                self._home.recycle(self.name, f"it is {now - self.ready:.0f} s old")
                return
            await anyio.sleep(min(rest - now, recycle.every if recycle.memory is not None else rest - now))
            if recycle.memory is not None:
                with suppress(Exception):  # it may be ending this very moment, which others notice
                    held = (await self.box.stats()).memory.current
                    if held is not None and held > recycle.memory:
                        self._home.recycle(self.name, f"it holds {held} bytes of memory")
                        return

    async def _serve_out(self, most: float) -> None:
        while (self.notices.requests or 0) < most:
            await self.notice()
        self._home.recycle(self.name, f"it has served {self.notices.requests} requests")

    # -- what it says -------------------------------------------------------------------------------------------

    async def _listen(self, socket: NotifySocket) -> None:
        while True:
            message = await socket.receive()
            before = self.notices
            self.notices = before.heard(message, anyio.current_time())
            if self.notices.status != before.status:
                self._home.publish(events.ChildStatus(child=self.name, text=self.notices.status))
            noticed, self._noticed = self._noticed, anyio.Event()
            noticed.set()

    async def notice(self) -> None:
        """Until it says something on its notify socket."""
        await self._noticed.wait()

    async def line(self) -> None:
        """Until it has printed the line that its readiness waits for."""
        await self._found.wait()

    def _look_for(self, line: OutputLine) -> None:
        if isinstance(self.spec.readiness, Line) and self.spec.readiness.pattern.search(line.line):
            self._found.set()

    # -- its end ------------------------------------------------------------------------------------------------

    async def _stop_politely(self, grace: anyio.CancelScope) -> None:
        """Stop command or signal, grace, then all of it. The task group ends this when the child has ended."""
        self._home.publish(events.ChildStopping(child=self.name))
        if self.spec.shutdown > 0:
            with grace:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._put_off, grace)
                    await self._hook("stop", self.spec.hooks.stop)
                    await self._ask_to_end()
                    await anyio.sleep_forever()
            self._home.publish(events.ChildKilled(child=self.name))
        self.box.kill()
        await anyio.sleep(KILL_TIMEOUT)
        # Not even a kill ended it: leave the wait; leaving its block is bounded by itself.
        self._fail("it did not die of a kill", TimeoutError(f"no end within {KILL_TIMEOUT:g} s of the kill"))
        self._scope.cancel()

    async def _ask_to_end(self) -> None:
        try:
            if self.spec.stop_command is not None:
                await self.box.run(self.spec.stop_command)
            elif hasattr(self.box, "send_signal") and self._has_command():
                self.box.send_signal(self.spec.stop_signal)
            else:
                self.box.terminate()  # another supervisor, or a place without a main command
        except Exception as error:  # noqa: BLE001 - told; the grace runs, and then it is killed
            self._home.publish(events.HookFailed(child=self.name, hook="stop_command", error=error))

    def _has_command(self) -> bool:
        # Not terminate() where there is a choice: a Container's has a grace of its own, and ours is `shutdown`.
        spec = getattr(self.box, "spec", None)
        return not isinstance(spec, Spec) or spec.command is not None

    async def _hook(self, name: str, hook: Hook | None) -> bool:
        """Whether it went well, or there is none."""
        if hook is None:
            return True
        try:
            with anyio.fail_after(self.spec.hooks.timeout):
                await hook(self._home.view(self.name))
        except Exception as error:  # noqa: BLE001 - a hook is a stranger's
            self._home.publish(events.HookFailed(child=self.name, hook=name, error=error))
            if name in ("spawn", "ready"):
                self._fail("", error)
            return False
        return True
