"""Policy against a plain model of a machine, under random failures, stops, reloads and clocks: OTP's invariants hold."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as some
from attrs import evolve
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from creche.supervisor.order import arrange
from creche.supervisor.policy import fallen, marks, step
from creche.supervisor.restarts import Backoff, Intensity, Restart
from creche.supervisor.states import (
    Actual,
    Add,
    Again,
    AutoShutdown,
    Child,
    Down,
    Ended,
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

NAMES = "abcdef"
PICK = some.integers(0, 50)


class World(RuleBasedStateMachine):
    """What really runs, kept by the rules alone; the policy is only told, and only believed after a check."""

    @initialize(
        strategy=some.sampled_from(Strategy),
        auto=some.sampled_from(AutoShutdown),
        most=some.one_of(some.none(), some.integers(0, 4)),
        restarts=some.lists(some.sampled_from(Restart), min_size=6, max_size=6),
        copies=some.lists(some.integers(1, 3), min_size=1, max_size=6),
        needs=some.lists(some.one_of(some.none(), some.sets(PICK, max_size=2)), min_size=6, max_size=6),
    )
    def begin(self, strategy, auto, most, restarts, copies, needs):
        entries = []
        for number, _ in enumerate(copies):
            chosen = needs[number]
            # Only earlier names: which later ones may be named is the business of the order's own tests.
            before = None if chosen is None else tuple({NAMES[n % number] for n in chosen} if number else ())
            entries.append((NAMES[number], before))
        groups = arrange(entries)
        self.now, self.dice, self.lives = 0.0, 0.0, {}
        self.count, self.gave_up, self.promised = 0, None, {}
        self.state = State(strategy=strategy, intensity=Intensity(most, 5.0), auto_shutdown=auto)
        children = [
            Child(
                f"{group.name}{copy}",
                group.id,
                restart=restarts[number],
                backoff=Backoff(first=1.0, jitter=0.5, healthy=3.0),
                significant=number == 0,
            )
            for number, group in enumerate(groups)
            for copy in range(copies[number])
        ]
        self.tell(Add(tuple(children), groups))

    # -- the rules ---------------------------------------------------------------------------------------------

    def pick(self, number, names):
        names = sorted(names)
        return names[number % len(names)]

    def in_state(self, *kinds):
        return [name for name, kind in self.lives.items() if kind in kinds]

    @precondition(lambda self: self.in_state("starting"))
    @rule(number=PICK)
    def becomes_ready(self, number):
        name = self.pick(number, self.in_state("starting"))
        self.lives[name] = "ready"
        self.tell(Ready(name))

    @precondition(lambda self: self.lives)
    @rule(number=PICK, clean=some.booleans())
    def dies(self, number, clean):
        name = self.pick(number, self.lives)
        before, was = self.state, self.state.children[name]
        told = self.lives.pop(name) == "stopping"
        self.tell(Ended(name, clean))
        after = self.state.children.get(name)
        asked = told or was.doomed or was.actual is Actual.STOPPING
        if asked:
            assert self.state.restarts == before.restarts, "what we asked for is no failure"
        elif was.trial and not (clean and was.restart is not Restart.PERMANENT):
            assert after.held, "a failed trial is held down"
        elif was.restart is Restart.TEMPORARY:
            assert after is None, "a temporary child does not come back"
        elif was.restart is Restart.TRANSIENT and clean:
            assert after is None or not after.pending, "a transient child that ended well does not come back"
        elif self.gave_up is None:
            assert after.pending or after.actual is Actual.STARTING, "everything else comes back"
            for other in fallen(before, name):
                fate = self.state.children.get(other)
                spared = fate is not None and (fate.held or fate.wanted is Wanted.DOWN)
                left = fate is not None and fate.actual is Actual.READY and not fate.bounce
                assert spared or not left, "and who falls with it is not left up"

    @rule(seconds=some.sampled_from([0.0, 0.3, 1.0, 4.0, 60.0]), dice=some.sampled_from([0.0, 0.4, 0.99]))
    def time_passes(self, seconds, dice):
        self.now += seconds
        self.dice = dice
        self.tell(Tick())

    @precondition(lambda self: self.state.children)
    @rule(numbers=some.lists(PICK, min_size=1, max_size=3), request=some.sampled_from("udrtx"))
    def somebody_asks(self, numbers, request):
        names = tuple({self.pick(number, self.state.children) for number in numbers})
        events = {
            "u": Up(names),
            "d": Down(names),
            "r": Again(names),
            "t": Again(names, trial=True),
            "x": Remove(names),
        }
        before = self.state.restarts
        for name in names:  # who asks for it now does not wait for its back-off
            self.promised.pop(name, None)
        self.tell(events[request])
        assert self.state.restarts == before, "a request is no restart"

    @precondition(lambda self: self.state.groups and not self.state.ending)
    @rule(number=PICK)
    def another_copy_is_added(self, number):
        self.count += 1
        group = self.pick(number, self.state.groups)
        self.tell(Add((Child(f"new{self.count}", group),)))

    @precondition(lambda self: not self.state.ending and len(self.state.children) < 4)
    @rule()
    def the_supervisor_is_stopped(self):
        self.tell(Shutdown())

    # -- the world, and what must hold in it -------------------------------------------------------------------

    def tell(self, event):
        old = self.state
        self.state, actions = step(old, event, self.now, lambda: self.dice)
        again = step(old, event, self.now, lambda: self.dice)
        assert again == (self.state, actions), "the same event in the same state does the same"
        for action in actions:
            self.do(action)

    def do(self, action):
        match action:
            case Start(name):
                self.may_start(name)
                self.lives[name] = "starting"
            case Stop(name):
                assert self.lives[name] in ("starting", "ready"), "only what runs is stopped, and once"
                for other in self.lives:
                    going = (
                        self.state.children[other].wanted is Wanted.DOWN or self.state.children[other].bounce
                    )
                    behind = self.group(other).follows(self.state.children[name].group)
                    assert not (going and behind), "what follows a child is down before it is told to stop"
                self.lives[name] = "stopping"
            case Wait(name, until):
                assert until > self.now and not self.state.ending
                self.promised[name] = until
            case Forget(name):
                assert name not in self.lives, "nothing that runs is forgotten"
            case TrialFailed(name):
                assert name not in self.lives
            case GiveUp(name):
                self.gave_up = name

    def group(self, name):
        return self.state.groups[self.state.children[name].group]

    def may_start(self, name):
        child = self.state.children[name]
        assert name not in self.lives, "no child is ever started twice"
        assert not self.state.ending, "nothing starts while all is being stopped"
        assert child.wanted is Wanted.UP
        assert self.promised.pop(name, 0.0) <= self.now, "none comes back before its back-off is over"
        for needed in self.group(name).needs:
            for other in self.state.children.values():
                if other.group == needed and other.wanted is Wanted.UP:
                    assert other.actual in (Actual.READY, Actual.DONE), "named dependencies are ready first"
        for other in self.state.children.values():
            if other.batch == child.batch and self.lives.get(other.name) in ("ready", "stopping"):
                assert not other.bounce, "a batch is all down before the first of it starts"

    @invariant()
    def policy_and_world_agree(self):
        running = {name: c.actual.value for name, c in self.state.children.items() if c.actual in RUNS}
        assert running == self.lives
        assert self.state.running == len(self.lives)

    @invariant()
    def what_is_counted_along_equals_a_count(self):
        children = self.state.children.values()
        assert dict(self.state.tally) == dict(Counter(mark for child in children for mark in marks(child)))
        assert set(self.state.pending) == {child.name for child in children if child.pending}
        assert set(self.state.doomed) == {child.name for child in children if child.doomed}

    @invariant()
    def never_more_restarts_in_a_period_than_the_intensity(self):
        most = self.state.intensity.restarts
        if most is not None and self.gave_up is None:
            assert len(self.state.restarts) <= most

    @invariant()
    def giving_up_is_never_silent(self):
        assert self.state.gave_up == self.gave_up
        assert self.gave_up is None or self.state.ending

    @invariant()
    def it_never_comes_to_a_stand(self):
        """Let what is starting become ready, what stops end, and time pass: everything gets where it is wanted."""
        state, now = self.state, self.now
        for _ in range(200):
            busy = [c for c in state.children.values() if c.actual in (Actual.STARTING, Actual.STOPPING)]
            if busy:
                event = Ready if busy[0].actual is Actual.STARTING else Ended
                state, _ = step(state, event(busy[0].name), now, lambda: 0.0)
            elif any(child.due for child in state.children.values()):
                now += 100.0
                state, _ = step(state, Tick(), now, lambda: 0.0)
            else:
                break
        held = any(
            child.held for child in state.children.values()
        )  # and whoever depends on it waits, rightly
        for child in state.children.values():
            settled = {Actual.READY, Actual.DONE} if child.wanted is Wanted.UP else {Actual.DOWN}
            assert held or child.actual in settled, f"{child.name} is stuck: {child}"
        assert not state.ending or state.ended


RUNS = (Actual.STARTING, Actual.READY, Actual.STOPPING)
World.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestPolicy = World.TestCase


def test_a_policy_that_forgets_to_count_is_found_out():
    """The control: the comparison above can fail."""
    world = World()
    world.state = evolve(State(), children={"a": Child("a", actual=Actual.READY)})
    world.lives = {}
    try:
        world.policy_and_world_agree()
    except AssertionError:
        return
    raise AssertionError("the model does not notice a child that runs without having been started")
