"""Container: a place that processes live in, held by an event loop; the lifecycle's actions carried out."""

from __future__ import annotations

import contextlib
import os
import signal as _signal
import sys
import time
import warnings
from collections.abc import Callable, Generator, Mapping
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Self

import anyio

from . import abandoned, claims, commands, givenback, ranges
from .calls.listening import Listening
from .channel import Channel
from .communicate import alone
from .errors import CrecheError, SpecError
from .lifecycle import CLOSING, TELLING, Action, Event, State, step
from .limited import Limited
from .machine import Machine
from .place import Place
from .plan.compile import Context, Plan
from .process import Process, is_dead, seconds
from .results import Detail, Exit, Reason
from .shielded import finish
from .spawn import RUNNING, Job, reap, strike
from .spec.spec import Spec
from .starting import Starting
from .state.branching import Branching
from .state.grouping import Groups
from .state.keeping import Keeping
from .state.renewing import Renewing
from .state.undoing import Undoing
from .streams import ReceiveStream, SendStream, rouse
from .wire import control
from .wire.control import Failure, Reply

if TYPE_CHECKING:
    from .cgroups.group import Group, Sub
    from .cgroups.notify import Watch
    from .cgroups.values import Events
    from .state.branching import Origin

__all__ = ["Container"]

_ids = count(1)
_NO_CONTEXT = Context()


class Container(Starting, Place, Keeping, Undoing, Branching, Renewing, Limited, Listening):
    """What a Spec describes, alive: an async context manager, and something that can be awaited.

    ``async with Container(spec) as box`` starts it and gives it when its main command has been executed; leaving the
    block kills what still runs in it, waits for its death and leaves nothing behind, whatever happens meanwhile.
    Inside, ``await box`` waits for the end. Without a block, ``await Container(spec)`` does it all.

    Raises SpecError and UnsupportedError for what this machine and user can't do, SpawnError for what the kernel
    refuses, CgroupError for limits that can't be set.
    """

    def __init__(self, spec: Spec, *, sources: Mapping[int, int] | None = None) -> None:
        """`sources`: which descriptor of ours a number of `Spec.pass_fds` stands for, where it is another one here."""
        if not isinstance(spec, Spec):
            raise SpecError("spec", spec, "give a Spec, such as Spec(['true'])")
        self.spec = spec
        self.id = f"{spec.name or 'box'}-{os.getpid()}-{next(_ids)}"
        self._sources = sources
        self._state = State.NEW
        self._main: Process | None = None
        self._processes: dict[int, Process] = {}
        self._next = 2
        self._job: Job | None = None
        self._channel: Channel | None = None
        self._plan: Plan | None = None
        self._machine: Machine | None = None
        self._strength = None
        self._context = _NO_CONTEXT
        self._range: ranges.Reserved | None = None
        self._scratch: str | None = None
        self._origin: Origin | None = None
        self._groups = Groups()
        self._claims: list[int] = []
        self._group: Group | None = None
        self._subs: dict[int, Sub] = {}
        self._pid, self._pidfd = 0, -1
        self._failure: tuple[int, Failure] | None = None
        self._answers: dict[int, tuple[int, list[int]]] = {}
        self._ready = self._reaped = self._resetting = False
        self._sending = 0  # commands on their way to the init
        self._uids: set[int] = set()  # that commands had
        self._began = 0.0
        self._exit: Exit | None = None
        self._reap_lock: anyio.Lock | None = None
        self._asked: set[int] = set()
        self._owner = os.getpid()
        self._watches: list[Watch] = []
        self._last_events: Events | None = None

    # ---- what it is ----

    @property
    def pid(self) -> int:
        """As the host sees it: the main command's; the init's where there is none."""
        return self._main.pid if self._main is not None else self._pid

    @property
    def init_pid(self) -> int | None:
        """The init's, as the host sees it; None without one (`Spec.init`)."""
        return self._pid if self.spec.has_init and self._pid else None

    @property
    def pidfd(self) -> int:
        """A descriptor of that process (pidfd_open(2)); -1 before the start and after the end."""
        return self._main.pidfd if self._main is not None else self._pidfd

    @property
    def exit(self) -> Exit | None:
        """How it ended; None while it lives."""
        self._look()
        if self._exit is None and self._pidfd >= 0:
            self._bury()
        return self._exit

    @property
    def returncode(self) -> int | None:
        """As `Exit.returncode`; None while it lives."""
        return None if self.exit is None else self.exit.returncode

    @property
    def stdin(self) -> SendStream | None:
        """The main command's standard input; None where that is no pipe."""
        return self._main.stdin if self._main is not None else None

    @property
    def stdout(self) -> ReceiveStream | None:
        """The main command's output (its terminal's with `tty`); None where that is no pipe."""
        return self._main.stdout if self._main is not None else None

    @property
    def stderr(self) -> ReceiveStream | None:
        """The main command's errors; None where that is no pipe."""
        return self._main.stderr if self._main is not None else None

    def __repr__(self) -> str:
        return f"<Container {self.id} {self._state.name.lower()}>"

    # ---- its life ----

    def _move(self, event: Event) -> tuple[Action, ...]:
        self._state, actions = step(self._state, event)
        return actions

    async def __aenter__(self) -> Self:
        self._move(Event.START)
        abandoned.begins(self)
        try:
            await self._start()
            self._watch_spending()
        except BaseException:
            try:
                await finish(partial(self._end, self._move(Event.FAILED)))
            finally:
                self._exit = None  # it never ran
            raise
        self._move(Event.STARTED)
        self._obey()
        return self

    async def __aexit__(self, *_: object) -> None:
        actions = self._move(Event.CLOSE)
        foreign = os.getpid() != self._owner  # a fork of the host program leaves a block that is not its own
        if foreign or (actions == (Action.RELEASE,) and self._group is None and self._scratch is None):
            self._release()  # as mostly, where it was waited for: nothing is left to wait for
            return
        await finish(partial(self._end, actions))

    def __await__(self) -> Generator[Any, Any, Exit]:
        return (self.wait() if self._state is not State.NEW else alone(self)).__await__()

    # ---- messages ----

    def _handle(self, reply: Reply, fds: list[int], pid: int) -> None:
        process = self._processes.get(reply.id)
        if reply.type == control.READY:
            self._ready = True
        elif reply.type in (control.FAILED, control.START_FAILED):
            if reply.type == control.FAILED or process is self._main:
                assert reply.failure is not None
                self._failure = (reply.id, reply.failure)
            if process is not None:
                process.failure = reply.failure
        elif reply.type == control.STARTED and process is not None and not process.started:
            self._ready = True
            process._on_started(fds, pid)
        elif reply.type == control.EXITED and process is not None and (process.started or process.brief):
            self._ready = True
            process._on_exited(reply, self._kills_of(reply.id))
            self._leave(reply.id)
        elif reply.type == control.OPENED and reply.id in self._asked:
            self._asked.remove(reply.id)
            self._answers[reply.id] = (reply.status, fds)
            return
        for fd in fds:
            os.close(fd)

    def _leave(self, ident: int) -> None:
        sub = self._subs.pop(ident, None)
        if sub is not None:
            sub.close()
            if ident != 1 and self._group is not None:
                with contextlib.suppress(CrecheError):
                    sub.remove(0)

    def _look(self) -> None:
        """Take in what the init has said already, without waiting."""
        if self._channel is not None and not self._channel.ended:
            self._channel.drain()

    async def _until(self, done: Callable[[], bool], process: Process) -> None:
        """Wait for something that the init will say, and look at the clock when `process` must be."""
        if self._channel is None:
            raise CrecheError(f"the container can't be waited for: {self._state.value}")
        while True:
            await self._channel.until(done, lambda: process._alarm_at, process.intake)
            if done() or self._channel.ended:
                return
            self._alarm(process)

    def _alarm(self, process: Process) -> None:
        """A time has come: a grace is over, or the init should have told of a death."""
        if process._grace_ends is not None and time.monotonic() >= process._grace_ends:
            process._past_grace()
        process._unheard()

    # ---- ending ----

    async def wait(self) -> Exit:
        """Wait until everything in the container is dead and reaped. May be cancelled, and called again."""
        if self._exit is None and self._state in (State.NEW, State.STARTING, State.CLOSED):
            raise CrecheError(f"the container can't be waited for: {self._state.value}")
        if self._exit is None:
            if self._main is not None and self.spec.has_init:
                main = self._main
                await self._until(lambda: main._exit is not None, main)
            elif self._channel is not None and self.spec.has_init:
                await self._until(lambda: False, self._processes[1])
            await self._gone()
        assert self._exit is not None
        return self._exit

    async def _gone(self) -> None:
        """Wait for the first process's death, and reap it: with it, all in its PID namespace is dead."""
        if self._reap_lock is None:
            self._reap_lock = anyio.Lock(fast_acquire=True)  # alone, it costs no turn of the loop
        async with self._reap_lock:
            if self._channel is not None and self._channel.broken:
                self._strike()  # what sends such things is not to be waited for
            while not self._bury():
                await self._readable()

    def _bury(self) -> bool:
        """Reap the first process if it is dead: whether it is."""
        if not self._reaped:
            try:
                found = reap(self._pidfd)
            except ChildProcessError:
                found = (-1, (0,) * 5)  # the host program's waitpid(-1) took it; the dead are dead all the same
            if found is None:
                return False
            self._reaped = True
            givenback.ended()
            self._buried(*found)
        return True

    async def _readable(self) -> None:
        at, intake, channel = self._processes[1]._alarm_at, self._processes[1].intake, self._channel
        readable = anyio.wait_readable  # with an init, what is written past the main command's death is nobody's
        if intake is not None and channel is not None and not self.spec.has_init:
            readable = partial(channel.take_in, intake)
        with contextlib.suppress(anyio.ClosedResourceError):  # nudged: a grace was set
            if at is None:
                await readable(self._pidfd)
                return
            with anyio.move_on_after(max(0.0, at - time.monotonic())) as late:
                await readable(self._pidfd)
            if late.cancelled_caught:
                self._alarm(self._processes[1])

    def _buried(self, status: int, used: tuple[int, ...]) -> None:
        """All is dead: the last messages are in the socket, and the commands that sent none died with the init."""
        self._look()
        self._blame_spending()
        alone = not self.spec.has_init and status >= 0
        usage = commands.usage_of(used, time.monotonic() - self._began, alone)
        for process in self._processes.values():
            if process._exit is None and (process.started or alone or (process.brief and process._killing)):
                process._ended(status if alone else None, usage if alone else process.last_seen(usage), self._oom_kills())
        for ident in list(self._subs):
            self._leave(ident)
        if self._group is not None and self._watches:
            with contextlib.suppress(CrecheError):
                self._last_events = self._group.events()
        for watch in list(self._watches):
            watch.close()
        main = self._main
        if main is not None and main._exit is not None:
            self._exit = self._measured(main._exit)
        else:
            place = self._processes[1]
            reason = place._killing or Reason.LOST
            detail: Detail = {"duration": usage.wall, "limit_value": place.limit_value}
            self._exit = self._measured(Exit(None, int(_signal.SIGKILL), reason, usage, limit=place.limit, detail=detail))
        if self._state is State.RUNNING:
            self._move(Event.GONE)
        if self._channel is not None:
            self._channel.close()
        if self._calls is not None:
            self._calls.nudge()

    def _measured(self, exit: Exit) -> Exit:
        """With the cgroup's figures where there is one: they count everything that was ever in it."""
        if self._group is None:
            return exit
        return commands.measured(exit, self._group)

    async def _end(self, actions: tuple[Action, ...]) -> None:
        """Carry them out. Where it is interrupted, a second call goes on."""
        if Action.KILL in actions:
            if self._job is not None:  # still starting, wherever that is
                self._job.cancel()
                if self._channel is None:
                    self._channel = Channel(self._job.socket, self._handle)
                await self._channel.until(lambda: False)
                if self._job.state == RUNNING:
                    self._pid, self._pidfd = self._job.take()
                self._drop_job()
            if self._main is not None and self._main.is_over():
                with anyio.move_on_after(TELLING):
                    await self._until(lambda: False, self._main)
            self._kill(Reason.KILLED, "the end of its block")
            self._strike()
        if Action.REAP in actions and self._pidfd >= 0:
            for process in self._processes.values():
                process._forgo_grace()
            with anyio.move_on_after(CLOSING):
                await self._gone()
        hangs = self._pidfd >= 0 and not self._reaped
        self._release()
        if self._scratch is not None and os.path.lexists(self._scratch):
            from .remove import remove_tree  # what the container's other users left

            await remove_tree(self._scratch)
        if self._group is not None:
            await self._group.aremove()
            self._group = None
        if hangs:
            raise CrecheError(f"the container was killed, but is not dead after {CLOSING} seconds: a process of it (pid {self._pid}) hangs in the kernel")

    def _release(self) -> None:
        """Everything that is ours here, none of which can block."""
        self._drop_job()
        for process in self._processes.values():
            process._close()
        self._wake()
        self._unwatch_spending()
        self._deaf()
        if self._channel is not None:
            self._channel.close()
        for ident in list(self._subs):
            self._subs.pop(ident).close()
        for _, fds in self._answers.values():
            for fd in fds:
                os.close(fd)
        self._answers.clear()
        fd, self._pidfd = self._pidfd, -1
        if fd >= 0:
            os.close(fd)
        if self._range is not None:
            self._range.close()
        claims.release(self._claims, ours=os.getpid() == self._owner)
        if self._scratch is not None and os.getpid() == self._owner:
            from . import scratch  # only before Linux 6.6

            scratch.remove(self._scratch)

    def __del__(self, _warn: Any = warnings.warn) -> None:
        self._forsake("the garbage collector", "was never closed: it is killed; use `async with`", _warn)

    def _forsake(self, by: str, what: str, _warn: Any = warnings.warn) -> None:
        """Nobody will leave its block any more."""
        if getattr(self, "_state", State.NEW) in (State.NEW, State.CLOSED):
            return
        if os.getpid() != self._owner:
            self._release()
            return
        if sys.is_finalizing():  # nobody asks any more, and even `open` is gone; what is left of a cgroup is swept by the next start
            self._strike()
            return
        told = repr(self)
        self._kill(Reason.KILLED, by)
        if self._pidfd >= 0 and not self._reaped:
            is_dead(self._pidfd, CLOSING)
            self._bury()
        self._release()
        if self._group is not None:
            group, self._group = self._group, None
            with contextlib.suppress(CrecheError):
                group.remove()
        self._move(Event.CLOSE)
        _warn(f"{told} {what}", ResourceWarning, source=self)

    def kill(self) -> None:
        """Kill everything in it, now; while it starts, as soon as it runs. Nothing where it has ended."""
        if not self._later(self.kill):
            self._kill(Reason.KILLED, "kill()")

    def _kill(self, reason: Reason, by: str = "", limit: str | None = None, value: float | None = None) -> None:
        self._look()
        for process in self._processes.values():
            if process._exit is None and process._killing is None and not process.is_over():
                process.look(self._group is None)
                process._doom(reason, by)
                process.limit, process.limit_value = limit, value
            process._expect_word(reason)
        if self._main is None or not self._main.is_over():
            self._strike()

    def _strike(self) -> None:
        """SIGKILL for its first process, and so for all."""
        if self._pidfd >= 0 and not self._reaped and os.getpid() == self._owner:
            strike(self._pidfd, self._group)

    def terminate(self, grace: float = 10.0) -> None:
        """Send the main command SIGTERM; after `grace` seconds everything is killed, by the loop, whether anybody waits or not. Without a main command: `kill`."""
        if self._main is None:
            self.kill()
        elif not self._later(partial(self.terminate, seconds(grace))):
            self._main.terminate(grace)

    def _wake(self) -> None:
        """Whoever waits looks again: at the clock, or at what has changed."""
        if self._channel is not None:
            self._channel.wake()
        if self._pidfd >= 0 and os.getpid() == self._owner:
            rouse(self._pidfd)
