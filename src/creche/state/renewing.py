"""A container made as it was at its start: everything killed, what was written thrown away, its namespaces made anew."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import anyio
import attrs

from .. import commands
from ..errors import CrecheError
from ..lifecycle import CLOSING, State
from ..plan import steps as st
from ..plan.compile import Context, Plan, compile_reset
from ..results import Reason
from ..shielded import finish
from ..spec.spec import Spec
from ..wire import control
from ..wire.encode import encode_setup
from ..wire.failure import error_of

if TYPE_CHECKING:
    from ..cgroups.group import Group
    from ..cgroups.notify import Watch
    from ..cgroups.values import Events
    from ..channel import Channel
    from ..machine import Machine
    from ..process import Process
    from ..wire.control import Failure

__all__ = ["RESETTING", "Renewing"]

RESETTING = 10.0  # seconds in which what is killed must be dead and all of it made anew


class Renewing:
    """The half of Container that brings it back to its start."""

    if TYPE_CHECKING:
        id: str
        spec: Spec
        _state: State
        _main: Process | None
        _processes: dict[int, Process]
        _channel: Channel | None
        _plan: Plan | None
        _machine: Machine | None
        _context: Context
        _compiled: Spec
        _group: Group | None
        _watches: list[Watch]
        _last_events: Events | None
        _failure: tuple[int, Failure] | None
        _ready: bool
        _scratch: str | None
        _resetting: bool
        _sending: int
        _uids: set[int]

        def _forget_history(self) -> None: ...
        def _forget_violations(self) -> None: ...
        def _alone(self) -> None: ...
        def _watch_spending(self) -> None: ...
        def _unwatch_spending(self) -> None: ...
        async def _send(self, kind: int, ident: int, *, blob: bytes = b"") -> None: ...
        def _kill(self, reason: Reason, by: str = "") -> None: ...
        async def _gone(self) -> None: ...

    async def reset(self) -> None:
        """Make it as it was at its start, for less than a new container costs: nothing of its former guests remains.

        Every process in it is killed, also those of `open` blocks (Reason.KILLED). Its file systems are made anew: what was written
        to /tmp, /dev/shm, a Tmpfs or an Overlay without `upper` is gone. So are SysV and POSIX ipc, the network namespace with its
        sockets and counters, the host name and terminals; its cgroup is a new one with the Spec's limits. The id, the user
        namespace with its ids, the PID namespace and process 1 stay: the age and the processor time of process 1 are all that
        tells a guest that it is not the first.

        Once begun it is finished, also where the task is cancelled meanwhile (by asyncio's own Task.cancel: the container ends); within 10 seconds.

        Raises UnsupportedError, before anything is done, where something would stay: files of yours that guests write to (a Bind,
        a Directory, an `upper`), namespaces that are shared, guests that can change mounts. CrecheError for a container with a main
        command, whose end is the container's, or one that is not running. SpawnError or CrecheError where it fails; then the
        container has ended.

        >>> async with Container(Spec()) as box:
        ...     await box.run(["touch", "/tmp/mine"])
        ...     await box.reset()
        ...     assert await box.listdir("/tmp") == []
        """
        if self._state is not State.RUNNING or self._channel is None or self._plan is None or self._machine is None:
            raise CrecheError(f"the container can't be reset: {self._state.value}")
        if self._main is not None:
            raise CrecheError("the container can't be reset: the end of its main command is its own; give a Spec without a command")
        if self._resetting:
            raise CrecheError("the container can't be reset: it is being reset already")
        self._alone()
        steps = compile_reset(self._compiled, self._machine, self._plan.who, self._context, self._uids)
        async with self._whole():
            if self._scratch is not None:
                from .. import scratch  # only before Linux 6.6

                scratch.renew(self._scratch)
            await self._again(encode_setup(steps), steps)
            if self._group is not None:
                await self._renew_group(self._group)
        self._forget_history()
        self._forget_violations()

    @contextlib.asynccontextmanager
    async def _whole(self) -> AsyncIterator[None]:
        """What is begun in it is finished, also where the task is cancelled; where it fails, the container has ended."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        self._resetting = True
        try:
            with anyio.CancelScope(shield=True):
                try:
                    yield
                except BaseException:
                    await finish(self._give_up)
                    raise
        finally:
            self._resetting = False

    async def _again(self, blob: bytes, steps: tuple[st.Step, ...]) -> None:
        """Have the init kill everything, and carry out these Steps."""
        channel = self._channel
        assert channel is not None and self._plan is not None
        for process in self._processes.values():
            if process._exit is None and process._killing is None and not process.is_over() and process._ident != 1:  # which stands for the container
                process._killing, process._killed_by = Reason.KILLED, "reset()"
        if self._group is not None:
            with contextlib.suppress(CrecheError):
                if self._group.frozen:
                    self._group.thaw()  # in version 1 what is frozen dies only then: freezer-subsystem.rst
        self._ready = False
        with anyio.move_on_after(RESETTING):
            await channel.until(lambda: not self._sending)  # a command on its way there is killed with the others, not started later
            await self._send(control.RESET, 0, blob=blob)
            await channel.until(lambda: self._ready or self._failure is not None)
        if self._failure is not None:
            raise error_of(self._failure[1], self.spec, attrs.evolve(self._plan, setup=steps), (), commands.why)
        if not self._ready:
            late = "" if channel.ended else f": something in it was not dead after {RESETTING:.0f} seconds"
            raise CrecheError(f"the container ended while it was reset{late}")

    async def _renew_group(self, group: Group) -> None:
        """A new cgroup in place of the old one: so its counters begin at nothing, and its limits are those of the Spec."""
        with contextlib.suppress(CrecheError):
            self._last_events = group.events()
        self._unwatch_spending()
        self._group = None
        try:
            for watch in list(self._watches):
                watch.close()
            await group.aremove()
        except BaseException:
            self._group = group
            raise
        self._group = await commands.make_group(self.id, self.spec.limits)
        self._watch_spending()

    async def _give_up(self) -> None:
        """A container that is half of one guest and half of the next is nobody's."""
        self._kill(Reason.KILLED, "a reset that failed")
        with anyio.move_on_after(CLOSING):
            await self._gone()
