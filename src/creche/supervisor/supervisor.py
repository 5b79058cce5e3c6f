"""Supervisor: keeps children running inside one `async with` block, and ends with all of them ended."""

from __future__ import annotations

import random as _random
import signal
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.abc
from attrs import evolve

from creche.errors import CrecheError, SpecError
from creche.shielded import finish
from creche.supervisor import states
from creche.supervisor.admission import Admission
from creche.supervisor.childspec import ChildSpec
from creche.supervisor.conductor import Conductor
from creche.supervisor.events import Bus, Reader, Reloaded
from creche.supervisor.order import arrange
from creche.supervisor.output import LinesReader
from creche.supervisor.reload import Reload
from creche.supervisor.restarts import Intensity
from creche.supervisor.sockets import Sockets
from creche.supervisor.states import AutoShutdown, State, Strategy
from creche.supervisor.view import Child


class Supervisor:
    """Holds children: starts them in order, restarts them as `strategy` says, stops them in reverse order.

    >>> async with Supervisor([ChildSpec("db", db), ChildSpec("web", web, count=4)], strategy="rest_for_one") as sup:
    ...     await sup.wait_ready()
    ...     await sup.wait()

    - `strategy`: "one_for_one", "one_for_all", "rest_for_one", or "simple_one_for_one" (one ChildSpec, of which
      `add()` makes a child each time).
    - `intensity`, `period`: more than `intensity` restarts within `period` seconds, and it gives up: it stops
      everything, the block is cancelled, and ends with `GaveUp`, an ExceptionGroup of the reasons. None: never.
    - `auto_shutdown`: "never", "any_significant" or "all_significant".
    - `admission`: bounds on what runs and starts at once. `sockets`: listening sockets by name, for `listen=`.
    - `signals`: signals (SIGTERM, …) on which it stops everything and `wait()` returns. None are taken by default.
    - `keep`: how many of the last lives of each child are kept. `events`: how many events a slow reader may lag.

    Entering the block does not wait for the children; leaving it stops them, and is bounded by their `shutdown`.
    Names are those of a ChildSpec (all its copies) or of one copy (``web.2``). Calls that are not awaited ask, and
    return at once.
    """

    def __init__(
        self,
        children: Iterable[ChildSpec] = (),
        *,
        strategy: str | Strategy = Strategy.ONE_FOR_ONE,
        intensity: int | None = 3,
        period: float = 5.0,
        auto_shutdown: str | AutoShutdown = AutoShutdown.NEVER,
        name: str = "supervisor",
        admission: Admission | None = None,
        sockets: Mapping[str, socket.socket] | None = None,
        signals: Sequence[signal.Signals] = (),
        keep: int = 10,
        events: int = 1000,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._children = tuple(children)
        self._strategy = _one_of(Strategy, "strategy", strategy)
        shutdown = _one_of(AutoShutdown, "auto_shutdown", auto_shutdown)
        self._intensity = Intensity(intensity, period)
        if self._strategy is Strategy.SIMPLE_ONE_FOR_ONE and len(self._children) != 1:
            raise SpecError(
                "children", len(self._children), "simple_one_for_one takes one ChildSpec as template"
            )
        arrange([(child.name, child.depends_on) for child in self._children])
        self._state = State(self._strategy, self._intensity, shutdown)
        self._options: dict[str, Any] = {
            "keep": keep,
            "random": random,
            "admission": admission or Admission(),
            "sockets": Sockets(dict(sockets or {})),
        }
        self._signals = tuple(signals)
        self._lag = events
        self._made: Conductor | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._body: anyio.CancelScope | None = None
        self._reloading: anyio.Lock | None = None
        self.name = name

    # -- the block ---------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._made is not None:
            raise CrecheError("a Supervisor is entered once: make another one")
        bus = Bus(self.name, self._lag)
        conductor = self._made = Conductor(self.name, self._state, bus, **self._options)
        self._reloading = anyio.Lock()
        if self._strategy is Strategy.SIMPLE_ONE_FOR_ONE:
            (template,) = self._children
            conductor.check(template)
            conductor.specs[template.name] = template
            conductor.post(states.Add((), conductor.arrange([(template.name, ())])))
        else:
            self.take_on(self._children)
        self._body = anyio.CancelScope()
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._body.__enter__()
        try:
            with anyio.CancelScope(shield=True):
                await self._tasks.start(conductor.run)
                self._tasks.start_soon(self._interrupt, conductor)
                if self._signals:
                    await self._tasks.start(self._hear, conductor)
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        conductor = self._conductor
        assert self._tasks is not None and self._body is not None
        conductor.post(states.Shutdown())
        await finish(conductor.finished.wait)
        ours = self._body.__exit__(kind, error, trace)
        self._tasks.cancel_scope.cancel()
        # The body's own exception goes its way unwrapped: the task group hears only of its own tasks.
        await self._tasks.__aexit__(None, None, None)
        if conductor.failure is not None and (ours or error is None or isinstance(error, Exception)):
            raise conductor.failure from (None if ours else error)
        return ours

    async def _interrupt(self, conductor: Conductor) -> None:
        """Giving up cancels the body: a program must not go on without its children, unaware."""
        await conductor.gave_up.wait()
        assert self._body is not None
        self._body.cancel()

    async def _hear(self, conductor: Conductor, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(*self._signals) as received:
            task_status.started()
            async for _ in received:
                self.terminate()

    @property
    def _conductor(self) -> Conductor:
        if self._made is None:
            raise CrecheError("use a Supervisor inside its block: async with Supervisor(…) as sup")
        return self._made

    def take_on(self, children: Sequence[ChildSpec]) -> None:
        """All of these children, or a SpecError and none."""
        conductor = self._conductor
        for child in children:
            if self._strategy is Strategy.SIMPLE_ONE_FOR_ONE:
                wish = "simple_one_for_one makes children of its template: add()"
                raise SpecError("child", child.name, wish)
            if busy := conductor.slots.keys() & child.copies():
                raise SpecError("child.name", min(busy), "that one is still there")
            conductor.check(child)
        groups = conductor.arrange([(child.name, child.depends_on) for child in children])
        taken: list[states.Child] = []
        for child, group in zip(children, groups, strict=True):
            conductor.specs[child.name] = child
            taken += conductor.enlist(group.id, child.copies(), child)
        conductor.post(states.Add(tuple(taken), groups))

    # -- what there is ---------------------------------------------------------------------------------------------

    @property
    def children(self) -> dict[str, Child]:
        """What there is to see of each child now, by name and in order."""
        return dict(self._conductor.views())

    def __getitem__(self, name: str) -> Child:
        view = self._conductor.view(name)
        if view is None:
            raise KeyError(name)
        return view

    def events(self, size: int | None = None) -> Reader:
        """The events from now on, as an async iterator; with `with`, it stops listening at the end of the block.

        It never holds the supervisor up: whoever lags more than `size` events behind loses the oldest, and is told
        by an EventsLost.
        """
        return self._conductor.bus.read(size)

    def output(self, *names: str, size: int = 1000) -> LinesReader:
        """The lines that these children (or all) print from now on, as an async iterator; with `with`, until its end.

        It never holds a child up: whoever lags more than `size` lines behind loses the oldest (`lost` counts them).
        """
        conductor = self._conductor
        self._names(names)
        reader = LinesReader(frozenset(names), size)
        conductor.readers.add(reader)
        if conductor.finished.is_set():
            reader.end()
        return reader

    # -- requests --------------------------------------------------------------------------------------------------

    async def wait(self) -> None:
        """Until everything was stopped: by `terminate`, a signal, or significant children that ended.

        When it gives up, the block is cancelled and raises `GaveUp`.
        """
        await self._conductor.finished.wait()

    async def wait_ready(self, *names: str) -> None:
        """Until these children (or all) are ready, or done. CrecheError when the supervisor ends before that."""
        conductor = self._conductor
        chosen = self._names(names) if names else None

        def settled() -> bool:
            names = conductor.state.children if chosen is None else chosen
            return conductor.idle and all(conductor.settled(name) for name in names)

        await conductor.until(settled)

    def terminate(self) -> None:
        """Ask it to stop everything, in reverse order; `wait` tells when that is done."""
        self._conductor.post(states.Shutdown())

    def kill(self) -> None:
        """Stop everything without grace."""
        self.terminate()
        for slot in self._conductor.slots.values():
            if slot.life is not None:
                slot.life.kill()

    def start(self, *names: str) -> None:
        """Want these children up, at once and with a clean record, also if they wait, are done or were stopped."""
        self._conductor.post(states.Up(self._names(names)))

    async def stop(self, *names: str) -> None:
        """Want these children down, and wait until they are; what depends on them is left as it is."""
        chosen = self._names(names)
        self._conductor.post(states.Down(chosen))
        await self._come_down(chosen)

    def restart(self, *names: str) -> None:
        """Stop these children and start them anew, in order; it does not count as a restart."""
        self._conductor.post(states.Again(self._names(names)))

    def add(self, child: ChildSpec | None = None) -> str:
        """Take on another child, behind all others; its name. Of simple_one_for_one: another copy of its template."""
        self._alive()
        if self._strategy is Strategy.SIMPLE_ONE_FOR_ONE and child is None:
            (template,) = self._children
            self._copies += 1
            return self._add_copies(template, (template.copy(self._copies),))[0]
        if child is None:
            raise SpecError("child", None, "give a ChildSpec")
        self.take_on([child])
        return child.name

    _copies = 0

    async def remove(self, *names: str) -> None:
        """Stop these children and forget them. What others depend on stays: SpecError."""
        await self._come_down(self.let_go(names))

    def let_go(self, names: Sequence[str]) -> tuple[str, ...]:
        """As `remove`, without waiting for it: the children that this concerns."""
        conductor = self._conductor
        chosen = self._names(names)
        groups = [group for group in conductor.groups.values() if group.name in names]
        ids = {group.id for group in groups}
        for other in conductor.groups.values():
            if other.id not in ids and not ids.isdisjoint(other.needs):
                raise SpecError("child", names, f"{other.name} depends on it: remove that first")
        for group in groups:
            del conductor.specs[group.name], conductor.groups[group.name]
            conductor.post(states.Remove(group=group.id))
        conductor.leaving.update(chosen)
        conductor.post(states.Remove(chosen))
        return chosen

    def scale(self, name: str, count: int) -> tuple[str, ...]:
        """Run `count` copies of a ChildSpec that has a count; the names of those that are to be.

        New ones get the lowest free numbers, and the highest numbers go first.
        """
        conductor = self._conductor
        self._alive()
        spec = conductor.specs.get(name)
        if spec is None:
            raise SpecError("name", name, self._known())
        if spec.count is None:
            raise SpecError("name", name, "it is a single child: give it a count")
        spec = evolve(spec, count=count)
        conductor.specs[name] = spec
        wanted = spec.copies()
        present = [name for name, slot in conductor.slots.items() if slot.spec.name == spec.name]
        self._add_copies(spec, tuple(copy for copy in wanted if copy not in present))
        if back := tuple(copy for copy in wanted if copy in conductor.leaving):
            conductor.leaving.difference_update(back)
            conductor.post(states.Up(back))
        gone = tuple(copy for copy in present if copy not in wanted)
        conductor.leaving.update(gone)
        conductor.post(states.Remove(gone))
        return wanted

    async def reload(self, children: Iterable[ChildSpec], *, at_once: int = 1) -> Reloaded:
        """Make the children be these: new ones are added, absent ones removed, changed ones replaced `at_once` at a time.

        Each changed child is stopped and started anew and has to become ready before the next ones are touched. If
        one does not, all that were replaced are put back as they were, new ones are removed, and the Reloaded says
        which `failed`; a reload that is cancelled asks for the same, and does not wait for it. What did not change is not touched (a ChildSpec with a callable is unchanged only if it is
        the same callable). Raises SpecError for what cannot change (dependencies, `count=None` to a number).
        """
        self._alive()
        assert self._reloading is not None
        async with self._reloading:
            return await Reload(self, self._conductor, tuple(children), at_once).run()

    # -- helpers -----------------------------------------------------------------------------------------------------

    def _alive(self) -> None:
        if self._conductor.finished.is_set() or self._conductor.state.ending:
            raise CrecheError(f"the supervisor {self.name!r} is ending")

    async def _come_down(self, names: tuple[str, ...]) -> None:
        conductor = self._conductor
        if not conductor.finished.is_set():
            await conductor.until(lambda: conductor.idle and conductor.came_down(names))

    def _add_copies(self, spec: ChildSpec, names: tuple[str, ...]) -> tuple[str, ...]:
        conductor = self._conductor
        conductor.post(states.Add(conductor.enlist(conductor.groups[spec.name].id, names, spec)))
        return names

    def _names(self, names: Iterable[str]) -> tuple[str, ...]:
        """Copies for the names of specs; unknown names are a SpecError."""
        chosen: dict[str, None] = {}
        for name in names:
            slots = self._conductor.slots
            found = (
                [name] if name in slots else [copy for copy, slot in slots.items() if slot.spec.name == name]
            )
            if not found and name not in self._conductor.specs:
                raise SpecError("name", name, self._known())
            chosen |= dict.fromkeys(found)
        return tuple(chosen)

    def _known(self) -> str:
        return f"the children are: {', '.join(self._conductor.specs) or 'none'}"


def _one_of(kind: Any, name: str, value: Any) -> Any:
    try:
        return kind(value)
    except ValueError:
        wish = "give " + ", ".join(repr(member.value) for member in kind)
        raise SpecError(f"supervisor.{name}", value, wish) from None
