"""A container's life as a table: what may follow what."""

from __future__ import annotations

import pytest

from creche import CrecheError
from creche.lifecycle import Action, Event, State, step

ENDING = (Action.KILL, Action.REAP, Action.RELEASE)

WALKS = [
    ([Event.START, Event.STARTED, Event.CLOSE], State.CLOSED, [Action.SPAWN, *ENDING]),
    ([Event.START, Event.STARTED, Event.GONE, Event.CLOSE], State.CLOSED, [Action.SPAWN, Action.RELEASE]),
    ([Event.START, Event.FAILED], State.CLOSED, [Action.SPAWN, *ENDING]),
    ([Event.START, Event.CLOSE], State.CLOSED, [Action.SPAWN, *ENDING]),
    ([Event.CLOSE], State.CLOSED, []),
    ([Event.START, Event.STARTED, Event.CLOSE, Event.CLOSE, Event.GONE], State.CLOSED, [Action.SPAWN, *ENDING]),
]


@pytest.mark.parametrize(("events", "end", "actions"), WALKS)
def test_walks(events, end, actions):
    state, done = State.NEW, []
    for event in events:
        state, more = step(state, event)
        done += more
    assert (state, done) == (end, actions)


@pytest.mark.parametrize("state", [State.STARTING, State.RUNNING, State.ENDED, State.CLOSED])
def test_nothing_is_started_twice(state):
    with pytest.raises(CrecheError, match=state.value):
        step(state, Event.START)


@pytest.mark.parametrize("state", State)
def test_every_state_can_be_closed(state):
    assert step(state, Event.CLOSE)[0] is State.CLOSED


def test_what_was_spawned_is_killed_and_reaped_on_every_way_to_the_end():
    """Over all walks of up to six events: closed without an end of its own means killed and reaped, and released once."""
    walks = [(State.NEW, ())]
    for _ in range(6):
        longer = []
        for state, done in walks:
            for event in Event:
                try:
                    after, more = step(state, event)
                except CrecheError:
                    continue
                longer.append((after, (*done, event, *more)))
        walks = longer
        for state, done in walks:
            if state is State.CLOSED and Action.SPAWN in done:
                assert done.count(Action.RELEASE) == 1
                assert Event.GONE in done or done.index(Action.KILL) < done.index(Action.REAP) < done.index(Action.RELEASE)
