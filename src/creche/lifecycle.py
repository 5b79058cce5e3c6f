"""A container's life as a table: (state, event) to (state, actions). Pure: the container carries the actions out."""

from __future__ import annotations

import enum

from .errors import CrecheError

__all__ = ["CLOSING", "TELLING", "Action", "Event", "State", "step"]

CLOSING = 30.0  # seconds in which what was killed must be dead
TELLING = 1.0  #: seconds in which an init must tell of a command that is dead


class State(enum.Enum):
    NEW = "it has not been started: use `async with`, or await it"
    STARTING = "it is starting"
    RUNNING = "it is running"
    ENDED = "it has ended"
    CLOSED = "it is closed: a container is used once"


class Event(enum.Enum):
    START = "start"
    STARTED = "started"
    FAILED = "failed"  # the start did
    GONE = "gone"  # its process 1 is dead and reaped
    CLOSE = "close"  # its block is left, or it was forgotten


class Action(enum.Enum):
    SPAWN = "spawn"
    KILL = "kill"  # everything in it, at once
    REAP = "reap"
    RELEASE = "release"  # descriptors, cgroup, folders


_TABLE: dict[tuple[State, Event], tuple[State, tuple[Action, ...]]] = {
    (State.NEW, Event.START): (State.STARTING, (Action.SPAWN,)),
    (State.NEW, Event.CLOSE): (State.CLOSED, ()),
    (State.STARTING, Event.STARTED): (State.RUNNING, ()),
    (State.STARTING, Event.FAILED): (State.CLOSED, (Action.KILL, Action.REAP, Action.RELEASE)),
    (State.STARTING, Event.CLOSE): (State.CLOSED, (Action.KILL, Action.REAP, Action.RELEASE)),
    (State.RUNNING, Event.GONE): (State.ENDED, ()),
    (State.RUNNING, Event.CLOSE): (State.CLOSED, (Action.KILL, Action.REAP, Action.RELEASE)),
    (State.ENDED, Event.GONE): (State.ENDED, ()),
    (State.ENDED, Event.CLOSE): (State.CLOSED, (Action.RELEASE,)),
    (State.CLOSED, Event.CLOSE): (State.CLOSED, ()),
    (State.CLOSED, Event.GONE): (State.CLOSED, ()),
}


def step(state: State, event: Event) -> tuple[State, tuple[Action, ...]]:
    """The next state and what is to be done. Raises CrecheError, with a sentence, for what can't be."""
    try:
        return _TABLE[state, event]
    except KeyError:
        raise CrecheError(f"the container can't {event.value} now: {state.value}") from None
