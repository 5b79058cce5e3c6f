"""How a container starts: what is checked, reserved and made in which order, before its first command runs."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import anyio
import attrs

from . import claims, commands, givenback, ranges, sharing
from .channel import Channel, belongs
from .errors import CrecheError, SpawnError, SpecError
from .hostview import listing
from .kernelfs import kernel_trees
from .lifecycle import State
from .machine import Machine, probe
from .plan.compile import Context, Plan, compile, likely, needs_scratch
from .plan.ids import outside, wants_range
from .plan.pieces import UPPER_SIZE
from .plan.strength import no_namespaces, weaken
from .plumbing import Plumbing
from .process import Process
from .spawn import Job, exhausted
from .spec.filesystem import Overlay
from .spec.strength import Strength
from .wire.control import Failure, Reply
from .wire.failure import error_of

if TYPE_CHECKING:
    from .cgroups.group import Group, Sub
    from .container import Container
    from .spec.limits import Limits
    from .spec.spec import Spec
    from .state.branching import Origin

__all__ = ["Starting"]

_REFUSED = (errno.EPERM, errno.EACCES, errno.ENOSYS)
_refusals: dict[int, str] = {}


async def _refusal() -> str:
    """What a container of namespaces came to here: tried once a process, by one without a command, since what a filter or a security
    module thinks of mounts can't be read from anything. Empty where one can be made.
    """
    from .container import Container
    from .spec.spec import Spec

    if os.getpid() not in _refusals:
        try:
            async with Container(Spec()):
                _refusals[os.getpid()] = ""
        except SpawnError as error:
            if error.errno not in _REFUSED:
                raise
            _refusals[os.getpid()] = error.message or str(error)
    return _refusals[os.getpid()]


class Starting:
    """The part of Container that brings it to life. What it makes is the Container's to undo."""

    if TYPE_CHECKING:
        spec: Spec
        id: str
        _owner: int
        _state: State
        _main: Process | None
        _processes: dict[int, Process]
        _job: Job | None
        _channel: Channel | None
        _plan: Plan | None
        _machine: Machine | None
        _context: Context
        _compiled: Spec
        _range: ranges.Reserved | None
        _strength: Strength | None
        _scratch: str | None
        _claims: list[int]
        _sources: Mapping[int, int] | None
        _group: Group | None
        _subs: dict[int, Sub]
        _origin: Origin | None
        _pid: int
        _pidfd: int
        _failure: tuple[int, Failure] | None
        _ready: bool
        _began: float

        def _handle(self, reply: Reply, fds: list[int], pid: int) -> None: ...
        async def _execute(self, process: Process, spec: Spec, plumbing: Plumbing, cgroup_fds: list[int], context: Context, *, main: bool, program: bool = False) -> None: ...

    _input: bytes | None = None  # what the main command finds in its stdin
    _for_forks: tuple[tuple[str, bool], ...] = ()  # what a template has for its forks (plan.nesting)
    _brief = False  # the main command may have ended before anybody looks
    _orders: tuple[Callable[[], None], ...] = ()  # signals that it was given while it started

    @property
    def strength(self) -> Strength:
        """The rung of the ladder that it stands on: FULL, unless `Spec.min_strength` allowed less and less was needed."""
        if self._strength is None:
            raise CrecheError("the container has no strength before its start")
        return self._strength

    def _later(self, order: Callable[[], None]) -> bool:
        """Whether it is starting (CrecheError in a fork of its program): then a signal is an order that it gets once it runs, for until then there is nobody to get it."""
        belongs(self._owner)
        if self._state is State.STARTING:
            self._orders += (order,)
            return True
        return False

    def _obey(self) -> None:
        """It runs: it gets what it was told meanwhile."""
        for order in self._orders:
            order()

    async def _start(self) -> None:
        spec = self.spec
        self._began = time.monotonic()
        plumbing = Plumbing(spec, self._sources, idle=spec.command is None)  # first: a closed descriptor must be seen before one of ours takes its number
        main = Process(cast("Container", self), 1, spec.command or (), plumbing)
        if spec.command is not None:
            self._main = main
        self._processes[1] = main
        weaker = spec.min_strength != Strength.FULL
        machine = self._machine = probe(landlock=spec.security.landlock is not None or weaker, clone3=weaker)
        if spec.min_strength == Strength.LANDLOCK and not no_namespaces(machine):
            machine = self._machine = attrs.evolve(machine, refusal=await _refusal())
        spec, self._strength = weaken(spec, machine, listing()) if weaker else (spec, Strength.FULL)
        self.spec = spec  # what is really run
        lookup = spec.command is not None and commands.needs_lookup(spec)
        cgroup_fds: list[int] = []
        if spec.limits:
            self._group = await commands.make_group(self.id, spec.limits)
            cgroup_fds = self._enter(1, None)
        if (same := likely(spec, machine)) is not None:
            self._job = Job(same)  # what the kernel does for it takes longer than what we do from here to its Plan
        self._claims = claims.claim(spec)
        origin = self._origin
        if wants_range(spec, machine) and origin is None:
            self._range = ranges.reserve(machine)
        if uppers := needs_scratch(spec, machine):
            from . import scratch  # only before Linux 6.6

            self._scratch = scratch.make(uppers)
        self._context = Context(
            view=listing(), base=self._range.base if self._range else None, count=self._range.count if self._range else 0,
            scratch=self._scratch, caller=os.environ, command_cgroups=len(cgroup_fds), rlimits=commands.rlimits(),
            held=self._range is not None, shared=not self._for_forks and sharing.worth(), kernels=kernel_trees(spec, sharing.mounts()), below=origin.below if origin else None,
            room=origin.room if origin else UPPER_SIZE, for_forks=self._for_forks,
        )  # fmt: skip
        self._compiled = commands.without_missing(spec)
        if self._input is not None and plumbing.stdin is not None:
            plumbing.feed(self._input)
        command: tuple[Any, ...] = ()
        for pause in (0.0, *givenback.PAUSES):
            if pause:
                await anyio.sleep(pause)
            command = await self._attempt(spec, machine, plumbing, cgroup_fds)
            if self._job is not None and self._job.unshared:
                sharing.failed()
                givenback.ended()  # of the two user namespaces that it took for this, one is given back
                self._context = attrs.evolve(self._context, shared=False)
            elif self._job is None or not self._job.one_too_many or not givenback.still_counted():
                break
        if command:
            plumbing.sent()
        self._settle(command)
        if lookup:
            assert self._main is not None
            await self._execute(self._main, spec, plumbing, cgroup_fds, self._context, main=True)
        self._entered(1)

    async def _attempt(self, spec: Spec, machine: Machine, plumbing: Plumbing, cgroup_fds: list[int]) -> tuple[Any, ...]:
        """Have it made, and wait until it runs or never will: the Steps of its command."""
        if self._channel is not None:  # of the attempt before
            self._drop_job()
            self._channel.close()
            self._channel = None  # or whoever ends us would wait for that one's end
        main, origin = self._processes[1], self._origin
        plan = self._plan = compile(self._compiled, machine, self._context)
        main.listens = plan.listens
        main.brief = self._brief and bool(plan.command) and spec.has_init and spec.tty is None and not main.listens and not plumbing.unsent
        if plan.command and plan.who.private:
            account = commands.account(spec, machine, plan)
            if account is not None:
                self._give(plumbing, plan, account.uid, account.gid)
        await anyio.lowlevel.checkpoint_if_cancelled()
        if self._job is not None and not self._job.fits(plan):
            self._drop_job()
            givenback.ended()
        if self._job is None:
            self._job = Job(plan)
        self._job.go(
            plan, setup_fds=[*([self._range.fd] if self._range else []), *([] if origin is None else [origin.tree])], parent_fds=[],
            command_fds=[*plumbing.child, *cgroup_fds], tty=spec.tty, brief=main.brief,
        )  # fmt: skip
        self._channel = Channel(self._job.socket, self._handle)
        await self._channel.until(self._begun)
        return plan.command

    def _begun(self) -> bool:
        if self._failure is not None:
            return True
        if not self.spec.has_init:
            return self._job is not None and self._job.executing and self._channel is not None and self._channel.ended
        return self._ready and (self._main is None or self._main.started or not (self._plan and self._plan.command))

    def _settle(self, command: tuple[Any, ...]) -> None:
        """The start has come to its end, well or not: take over the child, or raise what it failed of."""
        assert self._job is not None and self._channel is not None and self._plan is not None
        failure = self._failure[1] if self._failure else self._job.failure
        if self._main is not None and self._main.trouble is not None:
            raise self._main.trouble
        if failure is None and not self._begun():
            if self._channel.broken:
                raise SpawnError("the container's first process sent what no init of ours sends", step="init")
            raise SpawnError("the container's first process died while it started", step="init", hint="was it killed from outside, or out of memory?")
        if failure is not None:
            raise error_of(failure, self.spec, self._plan, command, commands.why)
        self._pid, self._pidfd = self._job.take()
        self._drop_job()
        if not self.spec.has_init and self._main is not None:
            try:
                self._main._on_started([os.dup(self._pidfd)], self._pid)
            except OSError as error:
                raise exhausted(error.errno or 0) from None
        if self._range is not None and self.spec.has_init and not (isinstance(self.spec.rootfs, Overlay) and self.spec.rootfs.history):
            self._range.close()  # the init holds the lock from here on; without one it is ours to hold, and so it is for branches

    def _drop_job(self) -> None:
        if self._job is not None:
            self._job.free()
            if self._channel is None:  # which would have its socket
                self._job.socket.close()
            self._job = None

    def _give(self, plumbing: Plumbing, plan: Plan, uid: int, gid: int) -> None:
        owner, group = outside(plan.who.uid_map, uid), outside(plan.who.gid_map, gid)
        if owner is not None and group is not None:
            plumbing.give(owner, group)

    def _enter(self, ident: int, limits: Limits | None) -> list[int]:
        """The descriptors by which a new command enters its cgroup."""
        if self._group is None:
            if limits:
                raise SpecError("limits", limits, "a command has limits of its own in a container with limits: give the Spec some")
            return []
        if limits is not None and limits.cpu_time is not None:  # what a command leaves behind would run on, and uncounted
            raise SpecError("limits.cpu_time", limits.cpu_time, "it is counted for a whole container: give it to its Spec, and a command a timeout")
        sub = self._subs[ident] = self._group.command(str(ident), limits)
        return list(sub.fds)

    def _entered(self, ident: int) -> None:
        """The command runs, or none ever will: nothing enters by its descriptors any more."""
        if (sub := self._subs.get(ident)) is not None:
            sub.close()
