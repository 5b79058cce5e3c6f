"""The loop that feeds policy: it takes events one by one, carries out what policy asks, and reports back."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakSet

import anyio
import anyio.abc
from attrs import define, evolve

from creche.errors import CrecheError, ExitError
from creche.spec import Spec
from creche.supervisor import events, states
from creche.supervisor.admission import Admission, Ask
from creche.supervisor.childspec import Box, ChildSpec
from creche.supervisor.life import Life
from creche.supervisor.logfile import Task
from creche.supervisor.order import Group, arrange
from creche.supervisor.output import LinesReader, OutputLine, Printed
from creche.supervisor.policy import step
from creche.supervisor.sockets import Sockets
from creche.supervisor.states import Actual, State, Wanted
from creche.supervisor.view import Child, view_of

SPAWNING = 32
"""Containers that are spawned at a time. A few threads do it: more would only hold descriptors while they wait."""


class GaveUp(ExceptionGroup[Exception], CrecheError):
    """A supervisor gave up: the restart of `child` was one too many. The exceptions are those restarts' reasons.

    `history`: the Records of these lives, the last one last.
    """

    child: str = ""
    history: tuple[events.Record, ...] = ()

    def derive(self, excs: Any) -> GaveUp:  # type: ignore[override]
        """As `ExceptionGroup.derive`: what was split off still says whose it is."""
        group = GaveUp(self.message, excs)
        group.child, group.history = self.child, self.history
        return group


@define(eq=False)
class Slot:
    """What is kept of one child over all of its lives."""

    spec: ChildSpec
    printed: Printed
    records: deque[events.Record]
    life: Life | None = None
    lives: int = 0
    ask: Ask | None = None


class Conductor:
    """State, slots and mailbox of one supervisor. It is a Home to its lives."""

    def __init__(
        self,
        name: str,
        state: State,
        bus: events.Bus,
        *,
        keep: int,
        random: Callable[[], float],
        admission: Admission,
        sockets: Sockets,
    ) -> None:
        self.name = name
        self.state = state
        self.bus = bus
        self.random = random
        self.sockets = sockets
        self.slots: dict[str, Slot] = {}
        self.specs: dict[str, ChildSpec] = {}
        self.groups: dict[str, Group] = {}
        self.leaving: set[str] = set()
        """Children that were asked to be removed, and are not forgotten yet."""
        self.finished = anyio.Event()
        self.failure: GaveUp | None = None
        self.gave_up = anyio.Event()
        self.failed_trials: dict[str, events.Record | None] = {}
        self.readers: WeakSet[LinesReader] = WeakSet()
        self.spawning = anyio.Semaphore(SPAWNING)
        most = state.intensity.restarts
        self._falls: deque[events.Record] = deque(maxlen=max(1, 0 if most is None else most + 1))
        self._keep = keep
        self._admission = admission
        self._limiter: anyio.CapacityLimiter | None = None
        self._mail: deque[states.Event] = deque()
        self._wake = anyio.Event()
        self._changed = anyio.Event()
        self._timers: list[float] = []
        self._next_group = 0
        self._tasks: anyio.abc.TaskGroup | None = None

    # -- asked by the supervisor ---------------------------------------------------------------------------------

    def post(self, event: states.Event) -> None:
        """Put an event into the mailbox; it is taken in the order it came."""
        self._mail.append(event)
        self._wake.set()

    def check(self, spec: ChildSpec) -> None:
        """A SpecError where such a child could never be started here; to be asked before anything is made of it."""
        self.sockets.check(spec)
        self._admission.check(spec.name, memory_of(spec))

    def enlist(self, group: int, names: tuple[str, ...], spec: ChildSpec) -> tuple[states.Child, ...]:
        """Slots for new children of a spec, and what policy has to know of them."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(4)  # threads that write to log files
        for name in names:
            printed = Printed(name, spec.output, self._loser(name), self._limiter, self._start_task)
            printed.listeners.append(self._pass_on)
            self.slots[name] = Slot(spec, printed, deque(maxlen=self._keep))
        return tuple(
            states.Child(
                name, group, restart=spec.restart, backoff=spec.backoff, significant=spec.significant
            )
            for name in names
        )

    def arrange(self, entries: Sequence[tuple[str, tuple[str, ...] | None]]) -> tuple[Group, ...]:
        """Groups for new ChildSpecs, known from now on: requests do not wait for policy to hear of them."""
        groups = arrange(entries, self.groups.values(), self._next_group)
        self._next_group += len(groups)
        self.groups |= {group.name: group for group in groups}
        return groups

    @property
    def idle(self) -> bool:
        """Whether all that was asked has been taken."""
        return not self._mail

    async def until(self, done: Callable[[], bool]) -> None:
        """Until it holds; it is looked at again after each event."""
        while not done():
            if self.finished.is_set():
                raise CrecheError(f"the supervisor {self.name!r} has ended")
            await self._changed.wait()

    def _start_task(self, task: Task) -> None:
        assert self._tasks is not None
        self._tasks.start_soon(task)

    def _loser(self, name: str) -> Callable[[int, str], None]:
        return lambda lost, error: self.publish(events.OutputLost(child=name, lost=lost, error=error))

    def _pass_on(self, line: OutputLine) -> None:
        for reader in self.readers:
            reader.put(line)

    # -- the loop ------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Until everything was stopped for good. No cancellation from outside gets in here."""
        with anyio.CancelScope(shield=True):
            try:
                async with anyio.create_task_group() as self._tasks:
                    try:
                        self._take_all()
                        task_status.started()
                        while not self.state.ended:
                            await self._turn()
                        self._tasks.cancel_scope.cancel()  # whoever still waits for a disk
                    except BaseException:
                        for slot in self.slots.values():  # a bug of ours must not leave a child running
                            if slot.life is not None:
                                slot.life.kill()
                        raise
            finally:
                self._end()

    async def _turn(self) -> None:
        if not self._mail:
            self._wake = anyio.Event()
            due = self._timers[0] if self._timers else float("inf")
            with anyio.CancelScope(deadline=due):
                await self._wake.wait()
        self._take_all()

    def _take_all(self) -> None:
        now = anyio.current_time()
        while self._timers and self._timers[0] <= now:
            heapq.heappop(self._timers)
            self._mail.append(states.Tick())
        while self._mail:
            self._take(self._mail.popleft(), now)
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def _take(self, event: states.Event, now: float) -> None:
        before = self.state
        self.state, actions = step(before, event, now, self.random)
        if isinstance(event, states.Ended) and self.state.restarts != before.restarts:
            self._falls.append(self.slots[event.name].records[-1])
        for action in actions:
            self._do(action, now)

    def _do(self, action: states.Action, now: float) -> None:
        match action:
            case states.Start(name):
                self._start(name)
            case states.Stop(name):
                life = self.slots[name].life
                if life is not None:  # else it has just ended by itself, and that news is on its way
                    life.stop()
            case states.Wait(name, until, failures):
                heapq.heappush(self._timers, until)
                self.publish(events.ChildWaiting(child=name, seconds=until - now, failures=failures))
            case states.Forget(name):
                if (slot := self.slots.pop(name, None)) is not None:
                    slot.printed.end()
                self.leaving.discard(name)
                self.publish(events.ChildForgotten(child=name))
            case states.TrialFailed(name):
                self.failed_trials[name] = self.slots[name].records[-1]
            case states.GiveUp(name):
                self._give_up(name)

    def _start(self, name: str) -> None:
        slot = self.slots[name]
        slot.lives += 1
        slot.life = Life(name, slot.lives, slot.spec, self, slot.printed)
        assert self._tasks is not None
        self._tasks.start_soon(self._live, slot, slot.life)

    async def _live(self, slot: Slot, life: Life) -> None:
        record = await life.run()
        slot.life = None
        slot.records.append(record)
        self.publish(events.ChildEnded(child=life.name, record=record))
        self.post(states.Ended(life.name, record.clean))

    def _give_up(self, name: str) -> None:
        history = tuple(self._falls)
        most, period = self.state.intensity.restarts, self.state.intensity.period
        message = f"{self.name} gave up on {name}: more than {most} restarts within {period:g} s"
        self.failure = GaveUp(message, [reason_of(record) for record in history])
        self.failure.child, self.failure.history = name, history
        self.publish(events.SupervisorGaveUp(child=name, history=history))
        self.gave_up.set()

    def _end(self) -> None:
        self.finished.set()
        self._changed.set()
        for slot in self.slots.values():
            slot.printed.end()
        self.bus.close()
        for reader in self.readers:
            reader.end()

    # -- a home to lives --------------------------------------------------------------------------------------------

    def publish(self, event: events.Event) -> None:
        """Tell everybody."""
        self.bus.publish(event)

    def make_box(self, spec: Spec, child: ChildSpec) -> Box:
        """The container of a Spec, with the sockets that the child is given, and with nothing on its stdin."""
        from creche.container import Container

        if spec.stdin == "pipe" and spec.tty is None:
            spec = evolve(spec, stdin="null")
        spec, sources = self.sockets.into(spec, child)
        return Container(spec, sources=sources)

    def became_ready(self, name: str) -> None:
        """Report of a life."""
        self.post(states.Ready(name))

    def recycle(self, name: str, why: str) -> None:
        """Report of a life."""
        self.publish(events.ChildRecycled(child=name, why=why))
        self.post(states.Again((name,)))

    def view(self, name: str) -> Child | None:
        """What there is to know of a child; None when it is no more one of ours."""
        child, slot = self.state.children.get(name), self.slots.get(name)
        return None if child is None or slot is None else view_of(child, slot, anyio.current_time())

    def views(self) -> Mapping[str, Child]:
        """All of them, in the order of the list."""
        shown = {name: view for name in self.state.children if (view := self.view(name)) is not None}
        return dict(sorted(shown.items(), key=lambda item: self.state.children[item[0]].group))

    async def admit(self, life: Life) -> None:
        """Wait until there is room for it."""
        slot = self.slots[life.name]
        memory = self._admission.check(life.name, memory_of(life.spec))
        slot.ask = await self._admission.enter(life.spec.tenant, memory)

    def settle(self, life: Life) -> None:
        """It is ready: others may start."""
        if (slot := self.slots.get(life.name)) is not None and slot.ask is not None:
            self._admission.settle(slot.ask)

    def release(self, life: Life) -> None:
        """It is gone: there is room."""
        if (slot := self.slots.get(life.name)) is not None and slot.ask is not None:
            self._admission.leave(slot.ask)
            slot.ask = None

    def came_down(self, names: tuple[str, ...]) -> bool:
        """Whether each of these children is down, or gone, or wanted up again by somebody else meanwhile."""
        children = (self.state.children.get(name) for name in names)
        return not any(
            child is not None and child.wanted is Wanted.DOWN and child.actual in states.RUNNING
            for child in children
        )

    def settled(self, name: str) -> bool:
        """Whether a child is where it is wanted."""
        child = self.state.children.get(name)
        if child is None:
            return True
        if child.wanted is Wanted.DOWN or child.held:
            return child.actual not in states.RUNNING
        return child.actual in (Actual.READY, Actual.DONE) and not child.bounce


def memory_of(spec: ChildSpec) -> int | None:
    """The memory that a child's Spec declares, in bytes."""
    return spec.spec.limits.memory if isinstance(spec.spec, Spec) else None


def reason_of(record: events.Record) -> Exception:
    """A life's end as an exception, with a note that says whose it was."""
    error: BaseException | None = record.error
    if not isinstance(error, Exception):
        if record.exit is None:
            error = CrecheError(record.explain())
        else:
            error = ExitError(record.exit, stderr=b"\n".join(record.lines))
    error.add_note(f"{record.child}, life {record.life}: {record.explain()}")
    return error
