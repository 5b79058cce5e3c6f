"""What to start, stop and give up: supervision as a pure function `step(state, event, now, random)`.

Theory of operation. Each child has two states that are never mixed: what is *wanted* (up or down) and what it
*is*. An event changes these fields; then one pass over the children that differ from what is wanted says which
may be started or stopped at this moment. The loop carries the actions out and reports back with further events,
so a request always gets in between two attempts, and nothing here waits, reads a clock or rolls dice.

A restart that concerns several children gives them a common *batch*: all of a batch are down before the first
is started, and within a batch the order of the list holds. Outside of it only named dependencies hold, so a
worker that fell does not wait for a neighbour that happens to be in its back-off.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from attrs import evolve

from creche.supervisor.order import leaving
from creche.supervisor.restarts import Health, Random, Restart, comes_back
from creche.supervisor.states import (
    RUNNING,
    Action,
    Actual,
    Add,
    Again,
    AutoShutdown,
    Child,
    Down,
    Ended,
    Event,
    Forget,
    GiveUp,
    Ready,
    Remove,
    Shutdown,
    Start,
    State,
    Stop,
    Strategy,
    Tick,
    TrialFailed,
    Up,
    Wait,
    Wanted,
)


def step(state: State, event: Event, now: float, random: Random) -> tuple[State, tuple[Action, ...]]:
    """The state after `event`, and what is to be done at `now` (seconds of any steady clock)."""
    draft = _Draft(state, now, random)
    draft.take(event)
    draft.reconcile()
    return draft.finish()


def fallen(state: State, name: str) -> tuple[str, ...]:
    """Who has to be restarted together with the child `name`, itself included, in no order."""
    if state.strategy is Strategy.ONE_FOR_ALL:
        return tuple(state.children)
    if state.strategy is Strategy.REST_FOR_ONE:
        group = state.children[name].group
        behind = {number for number, other in state.groups.items() if other.follows(group)}
        return tuple(
            other.name for other in state.children.values() if other.name == name or other.group in behind
        )
    return (name,)


def marks(child: Child) -> Iterator[tuple[str, int, int]]:
    """What a child is counted as, so that questions about many children need no walk over them."""
    if child.actual in RUNNING:
        yield "running", 0, 0
    if child.doomed or child.actual is Actual.STOPPING:
        yield "busy", child.group, 0  # holds back the stop of those it follows
        if child.bounce:
            yield "clearing", child.batch, 0  # holds back every start in its batch
    elif child.pending or child.actual is Actual.STARTING:
        yield "rising", child.batch, child.group  # holds back the starts behind it in its batch
    if child.wanted is Wanted.UP and child.actual is not Actual.READY and child.actual is not Actual.DONE:
        yield "unready", child.group, 0  # holds back those that name its group as a dependency
    yield "members", child.group, 0


class _Draft:
    """A state while it is being changed; `put` is the one place where a child is."""

    def __init__(self, state: State, now: float, random: Random) -> None:
        self.state = state
        self.now = now
        self.random = random
        self.children = dict(state.children)
        self.groups = dict(state.groups)
        self.tally = dict(state.tally)
        self.pending = dict(state.pending)
        self.doomed = dict(state.doomed)
        self.changed: dict[str, Any] = {}
        self.actions: list[Action] = []

    def finish(self) -> tuple[State, tuple[Action, ...]]:
        state = evolve(
            self.state,
            children=self.children,
            groups=self.groups,
            tally=self.tally,
            pending=self.pending,
            doomed=self.doomed,
            **self.changed,
        )
        return state, tuple(self.actions)

    def put(self, child: Child) -> None:
        self._count(self.children.get(child.name), -1)
        self.children[child.name] = child
        self._count(child, 1)
        self._list(self.pending, child.name, child.pending)
        self._list(self.doomed, child.name, child.doomed)

    def drop(self, child: Child) -> None:
        self._count(self.children.pop(child.name), -1)
        self._list(self.pending, child.name, False)
        self._list(self.doomed, child.name, False)
        self.actions.append(Forget(child.name))
        self._close(child.group)

    def _close(self, group: int) -> None:
        """A group that is leaving goes with its last child."""
        known = self.groups.get(group)
        if known is not None and known.leaving and not self.tally.get(("members", group, 0)):
            del self.groups[group]

    @staticmethod
    def _list(names: dict[str, None], name: str, listed: bool) -> None:
        if listed:
            names[name] = None
        else:
            names.pop(name, None)

    def _count(self, child: Child | None, by: int) -> None:
        for mark in marks(child) if child is not None else ():
            number = self.tally.get(mark, 0) + by
            if number:
                self.tally[mark] = number
            else:
                del self.tally[mark]

    # -- events --------------------------------------------------------------------------------------------

    def take(self, event: Event) -> None:
        match event:
            case Ready(name):
                self.ready(name)
            case Ended(name, clean):
                self.ended(name, clean)
            case Add(children, groups):
                self.add(children, groups)
            case Remove(names, group):
                self.remove(names, group)
            case Up(names):
                self.up(names)
            case Down(names):
                for child in self.known(names):
                    self.lower(child)
            case Again(names, trial):
                self.again(names, trial)
            case Shutdown():
                self.shut_down()
            case Tick():
                pass

    def known(self, names: Iterable[str]) -> list[Child]:
        """The children with these names that still exist: a request may be late, and is then void."""
        return [self.children[name] for name in names if name in self.children]

    def new_batch(self) -> int:
        batch: int = self.changed.get("batch", self.state.batch) + 1
        self.changed["batch"] = batch
        return batch

    @property
    def ending(self) -> bool:
        return bool(self.changed.get("ending", self.state.ending))

    def ready(self, name: str) -> None:
        child = self.children.get(name)
        if child is not None and child.actual is Actual.STARTING:
            health = Health(child.health.failures, self.now)
            self.put(evolve(child, actual=Actual.READY, trial=False, health=health))

    def add(self, children: tuple[Child, ...], groups: Iterable[Any]) -> None:
        if self.ending:
            self.actions.extend(Forget(child.name) for child in children)
            return
        self.groups.update({group.id: group for group in groups})
        batch = self.new_batch()
        for child in children:
            self.put(evolve(child, batch=batch))

    def remove(self, names: Iterable[str], group: int | None) -> None:
        if group is not None and group in self.groups:
            self.groups[group] = leaving(self.groups[group])
            names = [*names, *(child.name for child in self.children.values() if child.group == group)]
        for child in self.known(names):
            self.lower(evolve(child, forget=True))
        if group is not None:
            self._close(group)

    def up(self, names: Iterable[str]) -> None:
        if self.ending:
            return
        batch = self.new_batch()
        for child in self.known(names):
            raised = evolve(child, wanted=Wanted.UP, forget=False)
            self.put(raised if child.actual in RUNNING else _fresh(raised, batch))

    def lower(self, child: Child) -> None:
        child = evolve(child, wanted=Wanted.DOWN, bounce=False, trial=False, held=False, due=None)
        if child.actual in RUNNING:
            self.put(child)
        else:
            self.down(child)

    def down(self, child: Child) -> None:
        """It is not running: keep it or forget it."""
        if child.forget:
            self.drop(child)
        else:
            self.put(evolve(child, actual=Actual.DOWN, bounce=False))

    def again(self, names: Iterable[str], trial: bool | None) -> None:
        if self.ending:
            return
        batch = self.new_batch()
        for child in self.known(names):
            if child.forget:
                continue
            child = evolve(child, wanted=Wanted.UP, trial=child.trial if trial is None else trial)
            if child.actual in RUNNING:
                self.put(evolve(child, bounce=True, batch=batch, due=None))
            else:
                self.put(_fresh(child, batch))

    def shut_down(self) -> None:
        self.changed["ending"] = True
        for child in tuple(self.children.values()):
            self.lower(child)

    # -- the end of a child (do_restart, restart and add_restart of OTP's supervisor.erl) -----------------------

    def ended(self, name: str, clean: bool) -> None:
        child = self.children.get(name)
        if child is None or child.actual not in RUNNING:
            return
        if child.doomed or child.actual is Actual.STOPPING:
            # We had asked for it, or were about to: it is no failure of the child, however it ended.
            self.down(evolve(child, actual=Actual.DOWN, bounce=False))
        elif child.trial and (not clean or comes_back(child.restart, clean)):
            self.put(evolve(child, actual=Actual.DOWN, trial=False, held=True))
            self.actions.append(TrialFailed(name))
        elif comes_back(child.restart, clean):
            self.restart(child)
        else:
            self.leave(child, clean)

    def leave(self, child: Child, clean: bool) -> None:
        """It ended and does not come back."""
        simple = self.state.strategy is Strategy.SIMPLE_ONE_FOR_ONE
        if child.restart is Restart.TEMPORARY or simple:
            self.drop(child)
        else:
            self.put(evolve(child, actual=Actual.DONE, due=None))
        mode = self.state.auto_shutdown
        if not child.significant or mode is AutoShutdown.NEVER:
            return
        left = any(other.significant and other.actual is not Actual.DONE for other in self.children.values())
        if mode is AutoShutdown.ANY_SIGNIFICANT or not left:
            self.shut_down()

    def restart(self, child: Child) -> None:
        times, within = self.state.intensity.add(self.state.restarts, self.now)
        self.changed["restarts"] = times
        if not within:
            self.put(evolve(child, actual=Actual.DOWN))
            self.changed["gave_up"] = child.name
            self.actions.append(GiveUp(child.name))
            self.shut_down()
            return
        health = child.health.fell(child.backoff, self.now)
        delay = child.backoff.delay(health.failures, self.random)
        due = self.now + delay if delay > 0 else None
        # A child that never became ready still holds back those which start after it in its batch.
        alone = self.state.strategy in (Strategy.ONE_FOR_ONE, Strategy.SIMPLE_ONE_FOR_ONE)
        batch = child.batch if alone and child.actual is Actual.STARTING else self.new_batch()
        self.put(evolve(child, actual=Actual.DOWN, health=health, due=due, batch=batch))
        for other in self.known(fallen(self.state, child.name)):
            if other.name != child.name and other.wanted is Wanted.UP:
                self.fell_along(other, batch, due)
        if due is not None:
            self.actions.append(Wait(child.name, due, health.failures))

    def fell_along(self, child: Child, batch: int, due: float | None) -> None:
        """It did nothing wrong, but has to be stopped and started with the one that did."""
        if child.actual in RUNNING:
            child = evolve(child, bounce=True, batch=batch, due=due)
            temporary = child.restart is Restart.TEMPORARY
            self.put(evolve(child, wanted=Wanted.DOWN, forget=True) if temporary else child)
        elif not child.held:
            later = max((time for time in (child.due, due) if time is not None), default=None)
            self.put(evolve(child, actual=Actual.DOWN, batch=batch, due=later))

    # -- what may be done now --------------------------------------------------------------------------------

    def reconcile(self) -> None:
        if self.doomed:
            self.stop_what_may()
        if self.pending:
            self.start_what_may()

    def stop_what_may(self) -> None:
        """From right to left: a child is told to stop when nothing that follows it is still to go."""
        going = [self.groups[group] for mark, group, _ in self.tally if mark == "busy"]
        prefix = max(group.prefix for group in going)
        extra = frozenset[int]().union(*(group.extra for group in going))
        for child in sorted(self.known(self.doomed), key=lambda child: -child.group):
            if not (child.group < prefix or child.group in extra):
                self.put(evolve(child, actual=Actual.STOPPING))
                self.actions.append(Stop(child.name))

    def start_what_may(self) -> None:
        """From left to right: a child is started when what it follows is ready, and its batch is all down."""
        clearing = {batch for mark, batch, _ in self.tally if mark == "clearing"}
        lowest: dict[int, int] = {}
        for mark, batch, rising in self.tally:
            if mark == "rising":
                lowest[batch] = min(rising, lowest.get(batch, rising))
        for child in sorted(self.known(self.pending), key=lambda child: child.group):
            group = self.groups[child.group]
            waits = (
                (child.due is not None and child.due > self.now)
                or child.batch in clearing
                or (group.listed and group.prefix > lowest[child.batch])
                or any(self.tally.get(("unready", needed, 0)) for needed in group.needs)
            )
            if not waits:
                health = Health(child.health.failures)
                self.put(evolve(child, actual=Actual.STARTING, due=None, health=health))
                self.actions.append(Start(child.name))


def _fresh(child: Child, batch: int) -> Child:
    """A child at rest that shall start at once, with a clean record."""
    return evolve(child, actual=Actual.DOWN, held=False, due=None, batch=batch, health=Health())
