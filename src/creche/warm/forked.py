"""Forked: a container that a template forked, and the one command in it that was forked with it."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import anyio
import attrs

from .. import commands
from ..channel import Channel
from ..container import Container
from ..errors import CrecheError, SpawnError, UnsupportedError
from ..hostview import listing
from ..lifecycle import State
from ..machine import probe
from ..plan import steps as st
from ..plan.compile import Context, compile, steps_of_command
from ..plan.nesting import nested_spec
from ..plan.renewal import lets_keys
from ..plumbing import Plumbing
from ..process import Process, is_dead
from ..results import Reason, Result
from ..running import run_in
from ..spec.spec import Spec, words_of
from ..spec.strength import Strength
from ..wire import control
from ..wire.control import Reply
from ..wire.encode import encode_command, encode_setup
from ..wire.failure import error_of
from .template import CALL
from .warm import Birth, Template, init_program

__all__ = ["Forked"]

NUMBER = 2  # of the command, among the container's


class Forked(Container):
    """A Container, but that its first process is no child of ours, and that a command waits in it which was never executed."""

    def __init__(self, spec: Spec, template: Template) -> None:
        super().__init__(spec)
        self._template = template
        self._work: Channel | None = None
        self._told: Reply | None = None
        self._waits: Process | None = None

    async def _start(self) -> None:
        spec = self._compiled = self.spec
        self._began = time.monotonic()
        self._strength = Strength.FULL
        self._processes[1] = Process(self, 1, (), Plumbing(None))
        await self._template.ready()
        machine = self._machine = probe(landlock=spec.security.landlock is not None)
        cgroup_fds: list[int] = []
        if spec.limits:
            self._group = await commands.make_group(self.id, spec.limits)
            cgroup_fds = self._enter(NUMBER, None)
        base, count = self._template.base
        self._context = Context(
            view=listing(), base=base, count=count, caller=os.environ, command_cgroups=len(cgroup_fds), rlimits=commands.rlimits(), nested=True,
        )  # fmt: skip
        plan = compile(nested_spec(commands.without_missing(spec)), machine, self._context)
        self._plan = attrs.evolve(plan, who=self._template.plan.who)  # whose mounts are idmapped, and so the forks' are
        await anyio.lowlevel.checkpoint_if_cancelled()
        await self._be_born(plan.flags)
        assert self._channel is not None
        await self._channel.send(control.SETUP, 0, blob=encode_setup(plan.setup))
        await self._channel.until(lambda: self._ready or self._failure is not None)
        if self._failure is not None:
            raise error_of(self._failure[1], self.spec, plan, (), commands.why)
        await self._channel.send(control.RUN, NUMBER, flags=control.RUN_FORKED, number=self._birth.number)
        process = self._processes[NUMBER]
        await self._channel.until(lambda: process.started or process.failure is not None)
        if process.trouble is not None:
            raise process.trouble
        if not process.started:
            raise SpawnError("the forked command, or its init, died while its container started", step="fork", hint="was it killed from outside, or out of memory?")

    async def _be_born(self, flags: int) -> None:
        sockets = [*socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET), *socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)]
        self._channel, self._work = Channel(sockets[0], self._handle), Channel(sockets[2], self._hear)
        us = os.pidfd_open(os.getpid())
        try:
            self._birth: Birth = await self._template.fork(flags, [sockets[1].fileno(), us, init_program(), sockets[3].fileno()])
        finally:
            os.close(us)
            sockets[1].close()
            sockets[3].close()
        self._pid, self._pidfd = self._birth.pid, self._birth.pidfd
        self._next = NUMBER + 1
        self._waits = self._processes[NUMBER] = Process(self, NUMBER, (), Plumbing(None))

    def _hear(self, reply: Reply, fds: list[int], _: int) -> None:
        for fd in fds:
            os.close(fd)
        self._told = self._told or reply

    def _bury(self) -> bool:
        """It is the template's child, which buries it: its pidfd tells of its death (pidfd_open(2))."""
        if not self._reaped:
            if not is_dead(self._pidfd):
                return False
            self._reaped = True
            self._buried(-1, (0,) * 5)
        return True

    def _release(self) -> None:
        if self._work is not None:
            self._work.close()
        super()._release()

    async def reset(self) -> None:
        """Refused: its command was forked once."""
        raise UnsupportedError("a reset of a warm pool's container", 'take another one: reuse="never"')

    # ---- its command ----

    async def run_warm(
        self, command: Any, *, input: bytes | None = None, timeout: float | None = None, max_output: int | None = 16 << 20,
        on_overflow: str = "kill", check: bool = False, **fields: Any,
    ) -> Result:  # fmt: skip
        """Run what would be the interpreter's command line in the one that waits: ``["python3", "-c", …]``; a Result, as of `run`.

        Once a container: CrecheError the second time. Raises SpecError for another program, which `run` executes.
        """
        words = words_of(command)
        self._template.warm.check(words)
        return await run_in(self, self._tell, words, input, timeout, max_output, on_overflow, check, fields)

    async def call(self, function: Callable[..., Any] | str, *arguments: Any, max_result: int = 1 << 20, **options: Any) -> Any:
        """`Pool.call`, in this container."""
        from .calling import called, words_of_call

        return await called(self, words_of_call(function, arguments, max_result), max_result, options)

    @contextlib.asynccontextmanager
    async def open_warm(self, command: Any, **fields: Any) -> AsyncIterator[Process]:
        """As `open`, of what `run_warm` runs: for the time of the block, once."""
        words = words_of(command)
        self._template.warm.check(words)
        process = await self._tell(words, fields)
        try:
            yield process
        finally:
            await process.aclose()

    async def _tell(self, words: tuple[str, ...], fields: dict[str, Any], *, input: bytes | None = None, sources: Mapping[int, int] | None = None) -> Process:
        """The command that waits is confined as any other, and told what to do."""
        process, self._waits = self._waits, None
        if self._state is not State.RUNNING or self._plan is None or self._machine is None or self._work is None:
            raise CrecheError(f"the container can't run a command: {self._state.value}")
        if process is None:
            raise CrecheError("the container's warm interpreter has had its run: take another container of the pool")
        if fields.get("tty"):
            raise UnsupportedError("a terminal for a warm interpreter", "leave tty out, or open a command in the container")
        spec, added = commands.derive(self.spec, fields)
        plumbing = process._plumbing = Plumbing(spec, sources)
        process._command, process._began = words[:2] if words[0] == CALL else words, time.monotonic()
        try:
            if input is not None and plumbing.stdin is not None:
                plumbing.feed(input)
            cgroup_fds = list(self._subs[NUMBER].fds) if NUMBER in self._subs else []
            if spec.limits and fields.get("limits"):
                raise UnsupportedError("limits of a warm run's own: its cgroup is made before it is asked for", "give them to the pool's Spec")
            context = attrs.evolve(self._context, caller={**self._context.caller, **added}) if added else self._context
            account = commands.account(spec, self._machine, self._plan) or await commands.look_up(spec, self._plan, self._read)
            if self._plan.who.private:
                self._give(plumbing, self._plan, account.uid, account.gid)
            steps = steps_of_command(spec, words, self._machine, self._plan.who, account, context)
            if lets_keys(spec, self._machine):  # it was forked before its init had a keyring of its own
                steps = (st.Keyrings(blame="security.seccomp"), *steps)
            try:
                await self._work.send(control.RUN, NUMBER, blob=encode_command(steps), fds=[*plumbing.child, *cgroup_fds])
            except (BrokenPipeError, ConnectionResetError):
                await process.wait()
                raise CrecheError("the warm interpreter died while it waited for its run") from None
            plumbing.sent()
            await self._work.until(lambda: self._told is not None)
            self._entered(NUMBER)
            if self._told is None:
                await process.wait()
                if process._exit is not None and process._exit.reason is not Reason.EXITED:
                    return process  # killed while it was confined, for memory for one: that is its end
                raise SpawnError("the warm interpreter ended while it was confined", step="fork", hint="does its filter forbid write or close?")
            if self._told.failure is not None:
                raise error_of(self._told.failure, attrs.evolve(spec, command=words), self._plan, steps, commands.why)
        except BaseException:
            await process.aclose()
            raise
        return process
