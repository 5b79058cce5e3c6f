"""Supervision as a rule book: each test is named by its rule and shows it on a table of a few children."""

from __future__ import annotations

import pytest
from attrs import evolve

from creche.errors import SpecError
from creche.supervisor.order import arrange
from creche.supervisor.policy import fallen, step
from creche.supervisor.restarts import Backoff, Intensity, Restart, comes_back
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
)

AT_ONCE = Backoff(first=0)


class Play:
    """A state with a clock one can set, fed event by event; children become ready when they are started."""

    def __init__(self, *entries, strategy=Strategy.ONE_FOR_ONE, copies=None, ready=True, **state):
        state.setdefault("intensity", Intensity(None))
        self.state = State(strategy=strategy, **state)
        self.now = 100.0
        self.log = []
        self.auto = ready
        pairs = [(entry, None) if isinstance(entry, str) else entry for entry in entries]
        groups = arrange(pairs)
        children = []
        for group in groups:
            count = (copies or {}).get(group.name, 1)
            names = [group.name] if count == 1 else [f"{group.name}.{n}" for n in range(1, count + 1)]
            children += [Child(name, group.id, backoff=AT_ONCE) for name in names]
        self.groups = groups
        self.children = tuple(children)

    def change(self, name, **changes):
        self.children = tuple(evolve(c, **changes) if c.name == name else c for c in self.children)
        return self

    def begin(self):
        self.feed(Add(self.children, self.groups))
        self.log.clear()
        return self

    def feed(self, event):
        """What was said, shortly: '+a' started, '-a' told to stop, and others by their class."""
        self.state, actions = step(self.state, event, self.now, lambda: 0.0)
        said = []
        for action in actions:
            match action:
                case Start(name):
                    said.append(f"+{name}")
                case Stop(name):
                    said.append(f"-{name}")
                case _:
                    said.append(action)
        self.log += said
        for word in said:
            if self.auto and isinstance(word, str) and word[0] == "+":
                said += self.feed(Ready(word[1:]))
        return said

    def end(self, name, clean=False):
        return self.feed(Ended(name, clean))

    def is_(self, name):
        return self.state.children[name].actual


# -- who comes back ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("restart", "clean", "expected"),
    [
        (Restart.PERMANENT, True, True),
        (Restart.PERMANENT, False, True),
        (Restart.TRANSIENT, True, False),
        (Restart.TRANSIENT, False, True),
        (Restart.TEMPORARY, True, False),
        (Restart.TEMPORARY, False, False),
    ],
)
def test_a_child_comes_back_as_its_restart_says(restart, clean, expected):
    """permanent: always; transient: unless it ended well; temporary: never."""
    assert comes_back(restart, clean) is expected


def test_a_transient_child_is_restarted_unless_it_ended_well():
    play = Play("a").change("a", restart=Restart.TRANSIENT).begin()
    assert play.end("a") == ["+a"]
    assert play.end("a", clean=True) == []
    assert play.is_("a") is Actual.DONE


def test_a_temporary_child_is_forgotten_when_it_ends():
    play = Play("a", "b").change("a", restart=Restart.TEMPORARY).begin()
    assert play.end("a") == [Forget("a")]
    assert list(play.state.children) == ["b"]


# -- the strategies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (Strategy.ONE_FOR_ONE, {"b"}),
        (Strategy.SIMPLE_ONE_FOR_ONE, {"b"}),
        (Strategy.REST_FOR_ONE, {"b", "c", "d"}),
        (Strategy.ONE_FOR_ALL, {"a", "b", "c", "d"}),
    ],
)
def test_the_strategy_says_who_falls_with_a_child(strategy, expected):
    play = Play("a", "b", "c", "d", strategy=strategy).begin()
    assert set(fallen(play.state, "b")) == expected


def test_one_for_one_restarts_only_the_child_that_fell():
    play = Play("a", "b", "c").begin()
    assert play.end("b") == ["+b"]


def test_one_for_all_stops_the_others_from_right_to_left_and_starts_all_from_left_to_right():
    play = Play("a", "b", "c", strategy=Strategy.ONE_FOR_ALL).begin()
    assert play.end("b") == ["-c"]
    assert play.end("c") == ["-a"]
    assert play.end("a") == ["+a", "+b", "+c"]


def test_rest_for_one_restarts_those_behind_and_leaves_those_before():
    play = Play("a", "b", "c", "d", strategy=Strategy.REST_FOR_ONE).begin()
    assert play.end("b") == ["-d"]
    assert play.end("d") == ["-c"]
    assert play.end("c") == ["+b", "+c", "+d"]
    assert play.is_("a") is Actual.READY


def test_rest_for_one_follows_named_dependencies_and_not_the_list():
    play = Play(("a", ()), ("b", ()), ("c", ("a",)), strategy=Strategy.REST_FOR_ONE).begin()
    assert set(fallen(play.state, "a")) == {"a", "c"}
    assert set(fallen(play.state, "b")) == {"b"}


def test_a_temporary_child_that_falls_along_does_not_come_back():
    play = Play("a", "b", strategy=Strategy.ONE_FOR_ALL).change("b", restart=Restart.TEMPORARY).begin()
    assert play.end("a") == ["-b"]
    assert play.end("b") == [Forget("b"), "+a"]


def test_a_child_that_was_done_is_run_again_with_the_others():
    """As in OTP: one_for_all and rest_for_one start every child of theirs anew."""
    play = (
        Play("setup", "web", strategy=Strategy.ONE_FOR_ALL).change("setup", restart=Restart.TRANSIENT).begin()
    )
    play.end("setup", clean=True)
    assert play.end("web") == ["+setup", "+web"]


def test_a_child_that_was_asked_down_stays_down_when_others_fall():
    play = Play("a", "b", strategy=Strategy.ONE_FOR_ALL).begin()
    assert play.feed(Down(("b",))) == ["-b"]
    play.end("b")
    assert play.end("a") == ["+a"]


def test_a_simple_child_that_ended_well_is_forgotten():
    play = Play("a", strategy=Strategy.SIMPLE_ONE_FOR_ONE).change("a", restart=Restart.TRANSIENT).begin()
    assert play.end("a", clean=True) == [Forget("a")]


def test_a_child_that_dies_while_it_is_being_stopped_is_no_second_failure():
    play = Play("a", "b", strategy=Strategy.ONE_FOR_ALL, intensity=Intensity(1, 5)).begin()
    assert play.end("a") == ["-b"]
    assert play.end("b") == ["+a", "+b"]
    assert len(play.state.restarts) == 1


def test_a_child_that_dies_just_before_it_is_told_to_stop_is_no_second_failure():
    play = Play("a", "b", "c", strategy=Strategy.ONE_FOR_ALL, intensity=Intensity(1, 5)).begin()
    assert play.end("b") == ["-c"]
    assert play.end("a") == []
    assert play.end("c") == ["+a", "+b", "+c"]
    assert len(play.state.restarts) == 1


# -- order -----------------------------------------------------------------------------------------------------------


def test_children_start_from_left_to_right_each_when_the_one_before_is_ready():
    play = Play("a", "b", "c", ready=False)
    assert play.feed(Add(play.children, play.groups)) == ["+a"]
    assert play.feed(Ready("a")) == ["+b"]
    assert play.feed(Ready("b")) == ["+c"]


def test_copies_of_one_child_start_together():
    play = Play("db", "web", copies={"web": 3}, ready=False)
    assert play.feed(Add(play.children, play.groups)) == ["+db"]
    assert play.feed(Ready("db")) == ["+web.1", "+web.2", "+web.3"]


def test_children_that_name_their_dependencies_start_as_soon_as_these_are_ready():
    play = Play(("a", ()), ("b", ("d",)), ("c", ("a",)), ("d", ()), ready=False)
    assert play.feed(Add(play.children, play.groups)) == ["+a", "+d"]
    assert play.feed(Ready("d")) == ["+b"]
    assert play.feed(Ready("a")) == ["+c"]


def test_everything_stops_from_right_to_left_each_when_the_one_behind_is_down():
    play = Play("a", "b", "c").begin()
    assert play.feed(Shutdown()) == ["-c"]
    assert play.end("c") == ["-b"]
    assert play.end("b", clean=True) == ["-a"]
    assert not play.state.ended
    assert play.end("a") == []
    assert play.state.ended


def test_children_without_an_order_between_them_stop_together():
    play = Play("db", "web", copies={"web": 3}).begin()
    assert play.feed(Shutdown()) == ["-web.1", "-web.2", "-web.3"]
    play.end("web.2"), play.end("web.1")
    assert play.end("web.3") == ["-db"]


def test_stopping_keeps_the_order_over_a_gap():
    """c follows b follows a; b is down already, and c still stops before a."""
    play = Play(("a", ()), ("b", ("a",)), ("c", ("b",))).begin()
    assert play.feed(Down(("b",))) == ["-b"]
    play.end("b")
    assert play.feed(Shutdown()) == ["-c"]
    assert play.end("c") == ["-a"]


def test_a_child_waits_for_a_dependency_that_is_down_when_it_is_restarted():
    play = Play(("db", ()), ("web", ("db",)), ready=False)
    play.feed(Add(play.children, play.groups))
    play.feed(Ready("db"))
    assert play.end("db") == ["+db"]
    assert play.end("web") == []
    assert play.feed(Ready("db")) == ["+web"]


def test_a_child_that_is_done_satisfies_those_that_depend_on_it():
    play = Play(("migrate", ()), ("web", ("migrate",)), ready=False).change(
        "migrate", restart=Restart.TRANSIENT
    )
    play.feed(Add(play.children, play.groups))
    assert play.end("migrate", clean=True) == ["+web"]


def test_a_failed_start_counts_as_a_restart_and_those_behind_keep_waiting():
    play = Play("a", "b", ready=False, intensity=Intensity(2, 5))
    play.feed(Add(play.children, play.groups))
    assert play.end("a") == ["+a"]
    assert play.end("a") == ["+a"]
    assert len(play.state.restarts) == 2
    assert play.feed(Ready("a")) == ["+b"]


@pytest.mark.parametrize(
    ("entries", "word"),
    [
        ([("a", None), ("a", None)], "name of its own"),
        ([("a", ("b",))], "another child"),
        ([("a", ("b",)), ("b", ("c",)), ("c", ("a",))], "circle"),
        ([("a", ("a",))], "circle"),
        ([("a", ("b",)), ("b", None)], "waits for all before it"),
        ([("a", ("c",)), ("b", None), ("c", ("b",))], "waits for all before it"),
    ],
)
def test_an_order_that_cannot_be_is_refused(entries, word):
    with pytest.raises(SpecError, match=word):
        arrange(entries)


# -- how often, how soon ----------------------------------------------------------------------------------------------


def test_one_restart_more_than_the_intensity_within_the_period_gives_up():
    play = Play("a", "b", intensity=Intensity(2, 5)).begin()
    for _ in range(2):
        assert play.end("a") == ["+a"]
        play.now += 2
    assert play.end("a") == [GiveUp("a"), "-b"]
    assert play.state.gave_up == "a"
    play.end("b")
    assert play.state.ended


def test_restarts_older_than_the_period_do_not_count():
    play = Play("a", intensity=Intensity(2, 5)).begin()
    for _ in range(20):
        assert play.end("a") == ["+a"]
        play.now += 2.6
    assert len(play.state.restarts) <= 2


def test_a_restart_exactly_one_period_ago_still_counts():
    assert Intensity(1, 5).add((10.0,), 15.0) == ((10.0, 15.0), False)
    assert Intensity(1, 5).add((10.0,), 15.1) == ((15.1,), True)


def test_an_intensity_of_nought_gives_up_at_the_first_failure():
    assert Intensity(0, 5).add((), 1.0) == ((1.0,), False)


def test_an_intensity_of_none_never_gives_up_and_remembers_nothing():
    assert Intensity(None).add((), 1.0) == ((), True)


def test_a_request_to_restart_does_not_count():
    play = Play("a", intensity=Intensity(0, 5)).begin()
    assert play.feed(Again(("a",))) == ["-a"]
    assert play.end("a") == ["+a"]
    assert play.state.restarts == ()


def test_the_first_failure_costs_nothing_and_each_further_one_more_up_to_the_most():
    backoff = Backoff(first=1, factor=2, most=5, jitter=0)
    assert [round(backoff.delay(n, lambda: 0.5), 6) for n in (1, 2, 3, 4, 5, 6, 10_000)] == [
        0,
        1,
        2,
        4,
        5,
        5,
        5,
    ]


def test_jitter_takes_a_random_share_away():
    backoff = Backoff(first=10, jitter=0.5)
    assert backoff.delay(2, lambda: 0.0) == pytest.approx(10)
    assert backoff.delay(2, lambda: 0.5) == pytest.approx(7.5)


def test_a_child_that_keeps_failing_waits_longer_each_time_until_it_was_healthy():
    play = Play("a").change("a", backoff=Backoff(first=1, jitter=0, healthy=10)).begin()
    assert play.end("a") == ["+a"]
    assert play.end("a") == [Wait("a", 101.0, 2)]
    assert play.feed(Tick()) == []
    play.now = 101.0
    assert play.feed(Tick()) == ["+a"]
    assert play.end("a") == [Wait("a", 103.0, 3)]
    play.now = 103.0
    assert play.feed(Tick()) == ["+a"]
    play.now += 10
    assert play.end("a") == ["+a"], "ten seconds of health, and its failures are forgotten"


def test_a_start_that_takes_long_is_no_healthy_time():
    play = Play("a", ready=False).change("a", backoff=Backoff(first=1, jitter=0, healthy=10))
    play.feed(Add(play.children, play.groups))
    play.end("a")
    play.now += 60
    assert play.end("a") == [Wait("a", 161.0, 2)]


def test_those_who_fell_along_wait_for_the_back_off_too():
    play = (
        Play("a", "b", strategy=Strategy.ONE_FOR_ALL).change("b", backoff=Backoff(first=1, jitter=0)).begin()
    )
    play.end("b"), play.end("a")
    assert play.end("b") == [Wait("b", 101.0, 2), "-a"]
    assert play.end("a") == []
    play.now = 101.0
    assert play.feed(Tick()) == ["+a", "+b"]


def test_a_child_in_its_back_off_does_not_hold_up_another_that_fell():
    play = Play("a", "b").change("a", backoff=Backoff(first=60, jitter=0)).begin()
    play.end("a"), play.end("a")
    assert play.end("b") == ["+b"]


def test_a_stop_request_gets_in_between_two_attempts():
    play = Play("a").change("a", backoff=Backoff(first=60, jitter=0)).begin()
    play.end("a"), play.end("a")
    assert play.feed(Down(("a",))) == []
    play.now += 100
    assert play.feed(Tick()) == []
    assert play.is_("a") is Actual.DOWN


def test_a_request_to_start_does_not_wait_for_the_back_off():
    play = Play("a").change("a", backoff=Backoff(first=60, jitter=0)).begin()
    play.end("a"), play.end("a")
    assert play.feed(Up(("a",))) == ["+a"]


# -- requests ------------------------------------------------------------------------------------------------------------


def test_a_child_asked_up_while_it_stops_starts_when_it_is_down():
    play = Play("a").begin()
    assert play.feed(Down(("a",))) == ["-a"]
    assert play.feed(Up(("a",))) == []
    assert play.end("a") == ["+a"]


def test_a_removed_child_is_stopped_and_then_forgotten():
    play = Play("a", "b").begin()
    assert play.feed(Remove(("a",))) == ["-a"]
    assert play.end("a") == [Forget("a")]


def test_a_group_goes_with_its_last_child():
    play = Play("a", "web", copies={"web": 2}).begin()
    group = play.state.children["web.1"].group
    assert play.feed(Remove(group=group)) == ["-web.1", "-web.2"]
    play.end("web.1")
    assert group in play.state.groups
    play.end("web.2")
    assert group not in play.state.groups


def test_restarting_several_on_request_keeps_their_order():
    play = Play("a", "b", "c").begin()
    assert play.feed(Again(("a", "c"))) == ["-c"]
    assert play.end("c") == ["-a"]
    assert play.end("a") == ["+a", "+c"]


def test_a_child_on_probation_that_does_not_become_ready_is_held_down_and_does_not_count():
    play = Play("a", intensity=Intensity(0, 5), ready=False)
    play.feed(Add(play.children, play.groups))
    play.feed(Ready("a"))
    assert play.feed(Again(("a",), trial=True)) == ["-a"]
    assert play.end("a") == ["+a"]
    assert play.end("a") == [TrialFailed("a")]
    assert play.feed(Tick()) == []
    assert play.feed(Again(("a",))) == ["+a"]


def test_a_request_in_between_does_not_end_probation():
    play = Play("a", ready=False)
    play.feed(Add(play.children, play.groups))
    play.feed(Ready("a"))
    play.feed(Again(("a",), trial=True))
    assert play.feed(Again(("a",))) == []
    assert play.end("a") == ["+a"]
    assert play.end("a") == [TrialFailed("a")]


def test_probation_ends_with_being_ready():
    play = Play("a", intensity=Intensity(0, 5)).begin()
    play.feed(Again(("a",), trial=True))
    assert play.end("a") == ["+a"]
    assert GiveUp("a") in play.end("a")


def test_nothing_starts_any_more_once_all_is_being_stopped():
    play = Play("a", "b").begin()
    play.feed(Shutdown())
    assert play.feed(Up(("a",))) == []
    assert play.feed(Again(("a",))) == []
    late = Child("late", 0)
    assert play.feed(Add((late,))) == [Forget("late")]


def test_late_news_of_an_unknown_child_are_void():
    play = Play("a").begin()
    for event in (Ready("x"), Ended("x"), Up(("x",)), Down(("x",)), Again(("x",)), Remove(("x",))):
        assert play.feed(event) == []


# -- the end of significant children ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "ends_after"),
    [(AutoShutdown.NEVER, None), (AutoShutdown.ANY_SIGNIFICANT, 1), (AutoShutdown.ALL_SIGNIFICANT, 2)],
)
def test_significant_children_that_end_for_good_end_the_supervisor(mode, ends_after):
    play = Play("a", "b", "c", auto_shutdown=mode)
    for name in ("a", "b"):
        play.change(name, restart=Restart.TRANSIENT, significant=True)
    play.begin()
    for number, name in enumerate("ab", 1):
        play.end(name, clean=True)
        assert play.state.ending is (ends_after is not None and number >= ends_after)
